"""Callbacks one after the other, also when another thread has become the tunnel's."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from loguru import logger

from tunnel.callback_lane import CallbackLane, LaneDelivery
from tunnel.delivery import CallbackDelivery
from tunnel.outbox import Message

DEADLINE = 20.0


class Bench:
    """A delivery through a lane, and what has become of it."""

    def __init__(self, high_water: int = 1000) -> None:
        self.received: list[Message] = []
        self.rooms = 0
        self.lane = CallbackLane()
        self.callbacks = CallbackDelivery(self.receive)
        self.delivery = LaneDelivery(self.callbacks, self.lane, high_water, self.note_room)

    def receive(self, message: Message) -> None:
        self.received.append(message)

    def note_room(self) -> None:
        self.rooms += 1

    def deliver(self, *messages: Message) -> None:
        self.delivery.deliver(list(messages), sum(map(len, messages)))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_calls_in_order() -> None:
    """What was added is called when the lane is run, and only once."""
    lane, called = CallbackLane(), []
    assert not lane.is_ready
    lane.add(lambda: called.append(1))
    lane.add(lambda: called.append(2))
    assert lane.is_ready
    assert called == []
    lane.run()
    lane.run()
    assert called == [1, 2]
    assert not lane.is_ready


def test_something_is_done_before_each_call() -> None:
    """By the thread that makes it, and for each anew: much may have changed since the last."""
    called: list[str] = []
    lane = CallbackLane(lambda: called.append("renewed"))
    lane.add(lambda: called.append("one"))
    lane.add(lambda: called.append("two"))
    lane.run()
    assert called == ["renewed", "one", "renewed", "two"]


def test_calls_what_is_added_by_a_call() -> None:
    """A call that adds another does not have to be run again."""
    lane, called = CallbackLane(), []
    lane.add(lambda: lane.add(lambda: called.append(1)))
    lane.run()
    assert called == [1]


def test_one_at_a_time() -> None:
    """While a thread is in a call, it makes those that are added, and nobody else does."""
    lane, called = CallbackLane(), []
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        inside.set()
        assert go_on.wait(DEADLINE)
        called.append(("slow", threading.get_ident()))

    lane.add(slow)
    thread = threading.Thread(target=lane.run)
    thread.start()
    assert inside.wait(DEADLINE)
    lane.add(lambda: called.append(("next", threading.get_ident())))
    assert not lane.is_ready
    lane.run()
    assert called == []
    go_on.set()
    thread.join(DEADLINE)
    assert called == [("slow", thread.ident), ("next", thread.ident)]
    lane.add(lambda: called.append(("last", threading.get_ident())))
    lane.run()
    assert called[-1] == ("last", threading.get_ident())


def test_is_idle_when_all_have_returned() -> None:
    """Not while one waits, nor while the last one is called."""
    lane, seen = CallbackLane(), []
    assert lane.is_idle
    lane.add(lambda: seen.append(lane.is_idle))
    assert not lane.is_idle
    lane.run()
    assert seen == [False]
    assert lane.is_idle


def test_what_a_callback_raises_is_raised() -> None:
    """It ends the run; those behind it are called by the next one."""
    lane, called = CallbackLane(), []

    def leave() -> None:
        raise SystemExit

    lane.add(leave)
    lane.add(lambda: called.append(1))
    with pytest.raises(SystemExit):
        lane.run()
    assert lane.is_ready
    lane.run()
    assert called == [1]


def test_delivers_when_the_lane_is_run(bench: Bench) -> None:
    """Until then messages are delivered, but not taken."""
    bench.deliver("a", "b")
    bench.deliver("c")
    assert (bench.delivery.delivered, bench.delivery.taken) == (3, 0)
    assert bench.delivery.has_callbacks
    assert bench.received == []
    bench.lane.run()
    assert bench.received == ["a", "b", "c"]
    assert (bench.delivery.delivered, bench.delivery.taken) == (3, 3)
    assert not bench.delivery.has_callbacks
    assert bench.delivery.tell_after(1) is False


def test_what_waits_fills_it(bench: Bench) -> None:
    """From the high-water mark on it is full; what a callback has in its hands does not count."""
    full: list[bool] = []
    bench.receive = lambda message: full.append(bench.delivery.is_full)  # type: ignore[method-assign]
    bench.callbacks._on_message = bench.receive
    bench.deliver("x" * 2000)
    assert bench.delivery.is_full
    bench.lane.run()
    assert full == [False]
    assert not bench.delivery.is_full


def test_empty_messages_fill_it_too() -> None:
    """Each costs a little memory."""
    bench = Bench(high_water=640)
    bench.deliver(*[""] * 9)
    assert not bench.delivery.is_full
    bench.deliver("")
    assert bench.delivery.is_full


def test_a_pause_ends_at_half() -> None:
    """Whoever makes the calls says so once half of it is free again; without a pause never."""
    bench = Bench(high_water=1000)
    seen: list[int] = []
    bench.callbacks._on_message = lambda message: seen.append(bench.rooms)
    for _ in range(5):
        bench.deliver("x" * 136)  # 200 with what it costs
    assert bench.delivery.is_full
    bench.lane.run()
    assert seen == [0, 0, 1, 1, 1]
    assert not bench.delivery.is_full
    bench.deliver("y")
    bench.lane.run()
    assert bench.rooms == 1


def test_room_that_is_made_during_the_look() -> None:
    """It has told nobody, so the look sees it."""
    bench = Bench(high_water=100)

    class Lane(LaneDelivery):
        @property
        def _wants_room(self) -> bool:
            return False

        @_wants_room.setter
        def _wants_room(self, value: bool) -> None:
            if value:
                bench.lane.run()

    delivery = Lane(bench.callbacks, bench.lane, 100, bench.note_room)
    delivery.deliver(["x" * 100], 100)
    assert delivery.is_full is False
    assert bench.rooms == 0


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What is logged."""
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lambda message: lines.append(message.record["message"]))
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


def test_a_pause_is_warned_of_once(bench: Bench, log: list[str]) -> None:
    """The first pause says how much waits for the callback."""
    bench.deliver("x" * 500, "y" * 500)
    bench.delivery.note_pause()
    bench.delivery.note_pause()
    assert log == ["on_message is slow, and 2 messages wait for it: reading pauses"]
