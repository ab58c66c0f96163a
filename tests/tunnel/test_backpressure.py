from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from loguru import logger

from tunnel.backpressure import Backpressure, BackpressureSignal
from tunnel.request_queue import RequestQueue
from tunnel.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> RequestQueue:
    return RequestQueue(5, clock=clock)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


@pytest.mark.requirement("5.3")
def test_a_signal_comes_at_80_percent_and_when_it_clears() -> None:
    """Subscribers hear once when 8 of 10 are held, and once when it is less again."""
    queue = RequestQueue(10)
    signals: list[BackpressureSignal] = []
    queue.subscribe(signals.append)
    queue.enqueue_many(range(7))
    assert signals == []
    queue.enqueue(8)
    queue.enqueue(9)
    assert signals == [BackpressureSignal(0.8, True, "the queue holds 8 of 10 items: slow down")]
    queue.dequeue()
    queue.take()
    assert len(signals) == 1
    queue.confirm()
    assert signals[1:] == [
        BackpressureSignal(0.7, False, "the queue holds 7 of 10 items: there is room again")
    ]
    queue.clear()
    assert len(signals) == 2


@pytest.mark.requirement("5.3")
@pytest.mark.parametrize(
    ("max_size", "first"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 5), (7, 6), (100, 80)]
)
def test_the_first_size_that_is_80_percent_or_more_counts(max_size: int, first: int) -> None:
    """Where 80 % is no whole number, the next one above it is the threshold."""
    queue = RequestQueue(max_size)
    sizes: list[int] = []
    queue.subscribe(lambda signal: sizes.append(queue.size))
    for number in range(max_size):
        queue.enqueue(number)
    assert sizes == [first]


def test_expiry_resize_and_adoption_signal_too(queue: RequestQueue, clock: FakeClock) -> None:
    """Whatever moves the fill over the threshold is told."""
    told: list[bool] = []
    queue.subscribe(lambda signal: told.append(signal.should_throttle))
    queue.enqueue_many(range(3))
    queue.adopt("half", expires_in=1.0)
    queue.restore()
    clock.advance(1.0)
    assert queue.size == 3
    queue.resize(3)
    queue.resize(4)
    queue.resize(5)
    assert told == [True, False, True, False]


def test_the_end_of_a_subscription_ends_that_one_only(queue: RequestQueue) -> None:
    """A callback subscribed twice is called twice, and once after one was ended, even twice."""
    signals: list[BackpressureSignal] = []
    queue.subscribe(signals.append)
    unsubscribe = queue.subscribe(signals.append)
    queue.enqueue_many(range(5))
    assert len(signals) == 2
    unsubscribe()
    unsubscribe()
    queue.clear()
    assert len(signals) == 3


def test_what_a_subscriber_raises_is_logged_and_harms_nothing(
    queue: RequestQueue, logged: list[str]
) -> None:
    """The call that made the difference succeeds, and the other subscribers are told."""
    signals: list[BackpressureSignal] = []

    def fail(signal: BackpressureSignal) -> None:
        raise RuntimeError("no {braces} trouble")

    queue.subscribe(fail)
    queue.subscribe(signals.append)
    queue.enqueue_many(range(5))
    assert len(signals) == 1
    assert len(logged) == 1
    assert logged[0].startswith("ERROR a subscriber of the request queue failed")


def test_an_exit_from_a_callback_does_not_end_the_signals(queue: RequestQueue) -> None:
    """A KeyboardInterrupt goes through, and the next signal is delivered."""
    told: list[bool] = []

    def interrupted(signal: BackpressureSignal) -> None:
        told.append(signal.should_throttle)
        if signal.should_throttle:
            raise KeyboardInterrupt

    queue.subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.enqueue_many(range(5))
    queue.clear()
    assert told == [True, False]


def test_an_interrupt_between_two_steps_does_not_silence_the_signals() -> None:
    """It costs the signal that was about to be delivered; the next ones come."""

    class Lock:
        interrupts = 1

        def __enter__(self) -> None: ...

        def __exit__(self, *args: object) -> None:
            if self.interrupts:
                self.interrupts = 0
                raise KeyboardInterrupt

    signals = Backpressure(threading.Lock(), 5)
    told: list[bool] = []
    signals.subscribe(lambda signal: told.append(signal.should_throttle))
    signals.turn(5)
    signals._lock = Lock()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        signals.deliver()
    signals.turn(0)
    signals.deliver()
    assert told == [False]


def test_a_callback_may_use_the_queue_and_signals_stay_in_order(queue: RequestQueue) -> None:
    """What a callback causes is told after all have been told what caused it."""
    told: list[tuple[str, bool]] = []

    def relieve(signal: BackpressureSignal) -> None:
        told.append(("first", signal.should_throttle))
        if signal.should_throttle:
            queue.clear()

    queue.subscribe(relieve)
    queue.subscribe(lambda signal: told.append(("second", signal.should_throttle)))
    queue.enqueue_many(range(5))
    assert told == [("first", True), ("second", True), ("first", False), ("second", False)]


def test_a_busy_callback_gets_the_next_signal_later_in_its_own_thread(queue: RequestQueue) -> None:
    """A thread that finds another delivering leaves its signal there and goes on."""
    inside, leave = threading.Event(), threading.Event()
    told: list[tuple[bool, threading.Thread]] = []

    def slow(signal: BackpressureSignal) -> None:
        inside.set()
        assert leave.wait(30)
        told.append((signal.should_throttle, threading.current_thread()))

    queue.subscribe(slow)
    thread = threading.Thread(target=queue.enqueue_many, args=(range(5),))
    thread.start()
    assert inside.wait(30)
    assert len(queue.clear()) == 5
    assert told == []
    leave.set()
    thread.join(30)
    assert told == [(True, thread), (False, thread)]
