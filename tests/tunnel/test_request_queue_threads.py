"""Many threads on one queue: nothing is lost, doubled or reordered, and nobody sleeps for ever."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest

from tunnel.errors import QueueFullError
from tunnel.request_queue import BackpressureSignal, RequestPriority, RequestQueue

PRODUCERS = 4
EACH = 60
TOTAL = PRODUCERS * EACH
LONG = 30  # seconds; nothing here takes as long unless it hangs


@contextmanager
def running(*work: Callable[[], object]) -> Iterator[None]:
    """Run each in a thread of its own; on leaving, wait for all and raise what they raised."""
    with ThreadPoolExecutor(len(work)) as pool:
        futures = [pool.submit(task) for task in work]
        yield
        for future in futures:
            future.result(LONG)


def producer(
    queue: RequestQueue, name: int, announce: Callable[[], object]
) -> Callable[[], object]:
    def produce() -> None:
        for number in range(EACH):
            while True:
                try:
                    queue.enqueue((name, number))
                    break
                except QueueFullError:
                    assert queue.wait_for_room(LONG)
            announce()

    return produce


@pytest.mark.requirement("5.4")
def test_one_consumer_that_often_fails_gets_everything_once_and_in_order() -> None:
    """With takes, confirmations and restores at random, each producer's items arrive in order."""
    queue = RequestQueue(8)
    more = threading.Event()
    rng = random.Random(1)
    arrived: list[tuple[int, int]] = []

    def consume() -> None:
        while len(arrived) < TOTAL:
            more.clear()
            items = queue.take_many(rng.randint(1, 6))
            if not items:
                assert more.wait(LONG)
                continue
            done = rng.randint(0, len(items))
            queue.confirm(done)
            arrived.extend(items[:done])
            queue.restore()

    with running(consume, *(producer(queue, name, more.set) for name in range(PRODUCERS))):
        pass
    assert queue.size == 0
    for name in range(PRODUCERS):
        assert [item for item in arrived if item[0] == name] == [(name, n) for n in range(EACH)]


def test_several_consumers_share_everything() -> None:
    """What many threads put in and many others take out is the same, each item once."""
    queue = RequestQueue(4)
    ready = threading.Semaphore(0)
    shares: list[list[tuple[int, int]]] = [[] for _ in range(PRODUCERS)]

    def consumer(share: list[tuple[int, int]]) -> Callable[[], None]:
        def consume() -> None:
            for _ in range(EACH):
                assert ready.acquire(timeout=LONG)
                share.append(queue.dequeue())

        return consume

    producers = [producer(queue, name, ready.release) for name in range(PRODUCERS)]
    with running(*producers, *map(consumer, shares)):
        pass
    assert sorted(item for share in shares for item in share) == [
        (name, number) for name in range(PRODUCERS) for number in range(EACH)
    ]
    assert queue.size == 0


def test_signals_alternate_whatever_the_threads_do() -> None:
    """Subscribers never hear the same twice in a row, and last what holds."""
    queue = RequestQueue(5)
    signals: list[BackpressureSignal] = []
    queue.subscribe(signals.append)

    def churn() -> None:
        for number in range(EACH):
            queue.enqueue_many([number, number, number], RequestPriority.HIGH)
            queue.clear()

    with running(*[churn] * PRODUCERS):
        pass
    assert len(signals) % 2 == 0
    assert [signal.should_throttle for signal in signals] == [True, False] * (len(signals) // 2)


def test_an_interruption_reaches_every_waiter() -> None:
    """All threads that wait without room give up at once when the link is lost."""
    queue = RequestQueue(1)
    queue.enqueue("x")
    waiting = threading.Barrier(PRODUCERS + 1)
    lost = threading.Event()
    met = threading.local()

    def unless() -> bool:
        if not getattr(met, "others", False):
            met.others = True
            waiting.wait(LONG)
        return lost.is_set()

    answers: list[bool] = []

    def wait() -> None:
        answers.append(queue.wait_for_room(None, unless=unless))

    with running(*[wait] * PRODUCERS):
        waiting.wait(LONG)
        lost.set()
        queue.interrupt()
    assert answers == [False] * PRODUCERS


def test_room_for_all_reaches_every_waiter() -> None:
    """Threads that are woken one after the other all go on, though nothing else happens."""
    queue = RequestQueue(PRODUCERS)
    queue.enqueue_many(range(PRODUCERS))
    waiting = threading.Barrier(PRODUCERS + 1)
    met = threading.local()

    def unless() -> bool:
        if not getattr(met, "others", False):
            met.others = True
            waiting.wait(LONG)
        return False

    answers: list[bool] = []
    waits = (queue.wait_for_room, partial(queue.wait_to_send, queue))
    tasks = [
        lambda wait=wait: answers.append(wait(None, unless=unless))  # type: ignore[misc]
        for wait in waits * (PRODUCERS // 2)
    ]
    with running(*tasks):
        waiting.wait(LONG)
        queue.clear()
    assert answers == [True] * PRODUCERS
    assert queue.due_sender is None
