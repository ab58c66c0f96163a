"""When the peer of a session is told what was taken: at once if due, and soon if not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tunnel.acknowledger import DELAY, Acknowledger
from tunnel.delivery import CallbackDelivery, Delivery, Inbox
from tunnel.metrics_collector import MetricsCollector
from tunnel.outbox import Message
from tunnel.request_queue import RequestQueue
from tunnel.secrets import Secret
from tunnel.session import Session
from tunnel.session_channel import SessionChannel
from tunnel.session_frames import ASK_FRAME, FrameKind, Limits, Open, Parcel
from tunnel.testing import FakeClock

WINDOW = Limits(40, 2**20, 2**20)

LONG = 20.0
"""Seconds that something may take which is certain to happen."""


class CountingClock(FakeClock):
    """Counts the timers that are set."""

    timers = 0

    def call_at(self, when: float, callback: Callable[[], object]):  # type: ignore[no-untyped-def]
        self.timers += 1
        return super().call_at(when, callback)


class Bench:
    """An acknowledger between a delivery and the other end of the session."""

    def __init__(self, delivery: Delivery | None = None, limits: Limits = WINDOW) -> None:
        self.clock = CountingClock()
        self.wakes = 0
        self.inbox = Inbox(2**20, self.wake)
        self.delivery = delivery or self.inbox
        self.channel = SessionChannel(
            RequestQueue(), MetricsCollector(), on_answer=lambda _: None, on_settled=lambda: None
        )
        session = Session(limits, keep=(100, 2**20), accepts=(FrameKind.RESPONSE,))
        self.peer = Session(limits, keep=(10_000, 2**24))
        self.channel.carry(session, self.delivery.delivered)
        greeting = session.greeting()
        assert isinstance(greeting, Open)
        session.answered(self.peer.open(greeting, b"i" * 16, Secret("5e" * 32), 600))
        self.frames = 0
        self.acknowledger = Acknowledger(self.channel, self.delivery, self.write, self.clock)

    def wake(self) -> None:
        self.wakes += 1

    def write(self, frame: bytes) -> None:
        self.frames += 1
        self.peer.receive([frame])
        assert self.peer.violation is None

    def arrive(self, *messages: Message) -> None:
        """What a link does with what it has read."""
        items = self.channel.receive(self.peer.send(messages))
        if items:
            self.acknowledger.expect()
            self.delivery.deliver(items, sum(map(len, items)))
        self.acknowledger.look()

    @property
    def unacknowledged(self) -> int:
        return self.peer.unacknowledged

    def take(self, count: int, iterator: Iterator[Message] | None = None) -> Iterator[Message]:
        """Have a consumer take so many messages, and be at the last of them."""
        iterator = iterator or iter(self.inbox)
        for _ in range(count):
            next(iterator)
        return iterator


# At once, if due


def test_a_quarter_of_the_window_is_acknowledged_at_once() -> None:
    """By count: as soon as it was taken, without waiting for anything."""
    bench = Bench(CallbackDelivery(lambda _: None))
    bench.arrive(*["x"] * 9)
    assert bench.unacknowledged == 9
    bench.arrive("x")
    assert (bench.unacknowledged, bench.frames) == (0, 1)


def test_a_quarter_of_the_bytes_is_acknowledged_at_once() -> None:
    """By bytes: a few large messages are as much as many small ones."""
    bench = Bench(CallbackDelivery(lambda _: None), Limits(1000, 4000, 2**20))
    bench.arrive(b"x" * 999)
    assert bench.unacknowledged == 1
    bench.arrive(b"x")
    assert bench.unacknowledged == 0


def test_whoever_asks_is_answered_at_once() -> None:
    """Asked, it acknowledges what was taken, and the rest of what was asked for when it is."""
    bench = Bench()
    bench.arrive("a", "b", "c")
    consumer = bench.take(2)
    bench.channel.receive([ASK_FRAME])
    bench.acknowledger.look()
    assert bench.unacknowledged == 2
    bench.take(1, consumer)
    bench.acknowledger.look()
    assert bench.unacknowledged == 1


# Soon, if not


def test_the_rest_is_acknowledged_within_a_second() -> None:
    """What is not due is acknowledged before long; then nothing is left to be done."""
    bench = Bench(CallbackDelivery(lambda _: None))
    bench.arrive("a")
    assert bench.unacknowledged == 1
    bench.clock.advance(DELAY)
    assert bench.unacknowledged == 0
    timers = bench.clock.timers
    bench.clock.advance(100.0)
    assert (bench.frames, bench.clock.timers) == (1, timers)


def test_an_answer_alone_is_acknowledged_too() -> None:
    """Nothing is delivered, and yet something has arrived."""
    bench = Bench()
    bench.arrive(Parcel(FrameKind.RESPONSE, b"yes"))
    assert bench.unacknowledged == 1
    bench.clock.advance(1.0)
    assert bench.unacknowledged == 0


def test_one_timer_at_a_time() -> None:
    """However much arrives within the delay, there is one timer for it."""
    bench = Bench(CallbackDelivery(lambda _: None))
    for _ in range(9):
        bench.arrive("x")
    assert bench.clock.timers == 1


@pytest.mark.parametrize("pause", [0.5, 1.0, 30.0])
def test_slow_callbacks_are_acknowledged_one_by_one(pause: float) -> None:
    """While a batch is being delivered, each message is acknowledged when its callback is done."""
    unacknowledged: list[int] = []

    def on_message(message: Message) -> None:
        bench.clock.advance(pause)
        unacknowledged.append(bench.unacknowledged)

    bench = Bench(CallbackDelivery(on_message))
    bench.arrive("a", "b", "c")
    assert unacknowledged == [3, 2, 1]
    bench.clock.advance(1.0)
    assert bench.unacknowledged == 0


# From the inbox


def test_what_is_in_hand_is_not_acknowledged() -> None:
    """A consumer has finished with a message when it asks for the next, and not before."""
    bench = Bench()
    bench.arrive("a", "b")
    consumer = bench.take(1)
    bench.clock.advance(10.0)
    assert bench.unacknowledged == 2
    bench.take(1, consumer)
    bench.clock.advance(1.0)
    assert bench.unacknowledged == 1
    del consumer  # it breaks off: so it is done with that one
    bench.clock.advance(1.0)
    assert bench.unacknowledged == 0


def test_whoever_takes_enough_wakes_the_tunnels_thread() -> None:
    """The tunnel's thread need not watch: it is woken when an acknowledgement is due."""
    bench = Bench()
    bench.arrive(*["x"] * 40)
    consumer = bench.take(10)  # of which the tenth is in hand
    assert bench.wakes == 0
    for number in range(1, 4):
        bench.take(1, consumer)
        assert bench.wakes == number
        bench.acknowledger.look()
        assert bench.unacknowledged == 40 - 10 * number
        bench.take(9, consumer)
        assert bench.wakes == number


def test_the_last_of_a_window_wakes_it_when_the_next_is_asked_for() -> None:
    """A window of one message: nobody takes a further one, but somebody waits for it."""
    bench = Bench(limits=Limits(1, 2**20, 2**20))
    bench.arrive("a")
    messages = iter(bench.inbox)
    assert next(messages) == "a"
    bench.acknowledger.look()
    woken = threading.Event()
    bench.inbox._on_room = woken.set
    thread = threading.Thread(target=lambda: next(messages, None))
    thread.start()
    assert woken.wait(LONG)
    bench.acknowledger.look()
    assert bench.unacknowledged == 0
    bench.inbox.close()
    thread.join(LONG)


def test_an_inbox_that_nobody_reads_costs_nothing() -> None:
    """Messages that only lie there need no timer; their first taker wakes the tunnel's thread."""
    bench = Bench()
    bench.arrive("a", "b", "c")
    bench.clock.advance(1.0)
    timers = bench.clock.timers
    bench.clock.advance(3600.0)
    assert bench.clock.timers == timers
    assert bench.wakes == 0
    consumer = bench.take(1)
    assert bench.wakes == 1
    bench.acknowledger.look()
    bench.take(1, consumer)
    bench.clock.advance(1.0)
    assert bench.unacknowledged == 2


def test_taken_while_it_looks() -> None:
    """What is taken between the look and the setting of the mark is acknowledged all the same."""
    bench = Bench()
    bench.arrive(*["x"] * 40)
    consumer = iter(bench.inbox)
    tell_after = bench.inbox.tell_after

    def take_before(count: int) -> bool:
        bench.take(40, consumer)
        bench.inbox.tell_after = tell_after  # type: ignore[method-assign]
        return tell_after(count)

    bench.inbox.tell_after = take_before  # type: ignore[method-assign]
    bench.acknowledger.look()
    assert bench.unacknowledged == 1


# The end


def test_nothing_is_acknowledged_on_a_link_that_is_over() -> None:
    """It would be lost, and the session would count it as told; the next link tells it."""
    bench = Bench(CallbackDelivery(lambda _: None))
    bench.arrive("a")
    bench.acknowledger.stop()
    bench.clock.advance(10.0)
    bench.acknowledger.look()
    bench.acknowledger.tell()
    bench.acknowledger.expect()
    bench.acknowledger._expire()  # it was due just when the link ended
    assert (bench.frames, bench.clock.timers) == (0, 1)
    session = bench.channel.session
    assert session is not None
    assert session.has_untold


def test_before_the_end_all_is_told() -> None:
    """Whether due or not."""
    bench = Bench(CallbackDelivery(lambda _: None))
    bench.acknowledger.tell()
    assert bench.frames == 0
    bench.arrive("a")
    bench.acknowledger.tell()
    assert bench.unacknowledged == 0


def test_stopping_what_has_nothing_to_do() -> None:
    """A link on which nothing has arrived ends as quietly."""
    bench = Bench()
    bench.acknowledger.look()
    bench.acknowledger.stop()
    assert (bench.frames, bench.clock.timers) == (0, 0)


# Threads


@pytest.mark.parametrize("consumers", [1, 4])
def test_consumers_in_threads(consumers: int) -> None:
    """A window opens as fast as it is taken, with few wake-ups, and never for what is in hand."""
    limits = Limits(64, 2**20, 2**20)
    bench = Bench(limits=limits)
    total = 20_000
    woken = threading.Event()
    bench.inbox._on_room = woken.set
    done = [0] * consumers

    def consume(index: int) -> None:
        for _ in bench.inbox:
            done[index] += 1

    threads = [threading.Thread(target=consume, args=(i,)) for i in range(consumers)]
    for thread in threads:
        thread.start()
    sent = looks = 0
    while bench.peer.acknowledged < total:
        # Counted first: what is acknowledged must have been done, but for those being counted.
        acknowledged = bench.peer.acknowledged
        assert acknowledged <= sum(done) + consumers
        woken.clear()
        bench.acknowledger.look()
        looks += 1
        room = min(bench.peer.room()[0], total - sent)
        if room > 0:
            bench.arrive(*["x"] * room)
            sent += room
        elif not woken.wait(0.02):
            bench.clock.advance(DELAY)  # the timer, which is not there in real time
    bench.inbox.close()
    for thread in threads:
        thread.join(LONG)
    assert sum(done) == total
    assert looks < total / 4  # it is not busy
