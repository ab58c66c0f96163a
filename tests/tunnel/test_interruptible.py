from __future__ import annotations

import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial

import pytest

from tests.ctrl_c import BLOCKS, was_interrupted_at
from tunnel.interruptible import Condition, Event, Outcome, start_thread

LONG = 10.0
"""Seconds that something may take which is certain to happen."""


def test_an_event_is_set_until_it_is_cleared() -> None:
    """It behaves as one of `threading`, also in its time-outs and its repr."""
    event = Event()
    assert isinstance(event, threading.Event)
    assert not event.is_set()
    assert not event.wait(0)
    assert not event.wait(0.01)
    assert not event.wait(-1)
    event.set()
    event.set()
    assert event.is_set()
    assert event.wait()
    if sys.version_info >= (3, 11):  # before, the base class did not show it either
        assert "set" in repr(event)
    event.clear()
    assert not event.wait(0.0)


def test_all_who_wait_are_woken() -> None:
    """Each thread that waits goes on, whether it waits with a time-out or without."""
    event = Event()
    woken: list[bool] = []
    threads = [
        threading.Thread(target=lambda t=timeout: woken.append(event.wait(t)))
        for timeout in (None, LONG, None)
    ]
    for thread in threads:
        thread.start()
    event.set()
    for thread in threads:
        thread.join(LONG)
    assert woken == [True, True, True]


def test_who_was_woken_goes_on_though_it_is_cleared_at_once() -> None:
    """A wake-up is not lost because the event is set back before the thread has run."""
    event, results = Event(), []
    for _ in range(200):
        thread = threading.Thread(target=lambda: results.append(event.wait(LONG)))
        thread.start()
        while not event._waiters:
            pass
        event.set()
        event.clear()
        thread.join(LONG)
    assert results == [True] * 200


def test_an_interruption_while_others_are_woken_wakes_them_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C inside `set` is raised, and nobody waits for ever because of it."""
    event = Event()
    wake = event._wake
    interruptions = [KeyboardInterrupt()]

    def interrupted() -> None:
        if interruptions:
            raise interruptions.pop()
        wake()

    monkeypatch.setattr(event, "_wake", interrupted)
    thread = threading.Thread(target=event.wait)
    thread.start()
    while not event._waiters:
        pass
    with pytest.raises(KeyboardInterrupt):
        event.set()
    thread.join(LONG)
    assert not thread.is_alive()


def test_two_who_set_it_at_once_do_not_disturb_each_other() -> None:
    """Waking a thread that another one has just woken is no error."""
    event = Event()
    lock = threading.Lock()  # as of a thread that was woken already
    event._waiters.add(lock)
    event.set()
    assert event.is_set()


def test_an_event_set_between_two_looks_is_seen() -> None:
    """Who sets it before the waiting thread is registered is noticed by that."""
    event = Event()

    class Meddling(set):
        def add(self, item: object) -> None:
            super().add(item)
            event._flag = True  # by another thread, which has seen nobody waiting

    event._waiters = Meddling()
    assert event.wait(LONG)


def test_an_outcome_is_a_future() -> None:
    """Results, time-outs, cancelling and callbacks are those of `concurrent.futures`."""
    outcome: Outcome[int] = Outcome()
    heard: list[int] = []
    outcome.add_done_callback(lambda done: heard.append(done.result()))
    threading.Timer(0.01, outcome.set_result, (3,)).start()
    assert outcome.result(LONG) == 3
    assert not outcome.cancel()
    assert heard == [3]
    other: Outcome[int] = Outcome()
    assert other.cancel()
    assert other.cancelled()


def test_the_lock_of_an_outcome_is_taken_in_one_step() -> None:
    """What ``with`` calls is a lock's own method, between which and the block nothing comes."""
    condition, lock = type(Outcome()._condition), type(threading.RLock())
    assert condition.__enter__ is lock.__enter__
    assert condition.__exit__ is lock.__exit__


def test_an_outcome_has_what_a_future_has() -> None:
    """It sets what the base class would, which it does not ask to do so."""
    outcome, future = vars(Outcome()), vars(Future())
    del outcome["_condition"], future["_condition"]
    assert outcome == future


def test_all_who_wait_for_an_outcome_are_woken() -> None:
    """Any number of threads has the result, whether it came before they waited or after."""
    outcome: Outcome[int] = Outcome()
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(outcome.result, LONG) for _ in range(8)]
        while len(outcome._condition._waiters) < 8:
            pass
        outcome.set_result(3)
        assert [result.result(LONG) for result in results] == [3] * 8
    assert outcome.result(0) == 3


def test_an_outcome_that_does_not_come_is_waited_for_in_vain() -> None:
    """After the time-out nobody is registered as waiting for it."""
    outcome: Outcome[int] = Outcome()
    with pytest.raises(FutureTimeoutError):
        outcome.result(0.001)
    assert not outcome._condition._waiters


@pytest.mark.parametrize("timeout", [None, LONG])
def test_a_condition_wakes_all_who_wait(timeout: float | None) -> None:
    """What they wait for is looked at with the lock, and then they go on."""
    lock = threading.Lock()
    condition = Condition(lock)
    ready = False
    looks: list[bool] = []

    def is_ready() -> bool:
        looks.append(lock.locked())
        return ready

    def wait() -> None:
        assert condition.wait_for(is_ready, timeout)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(condition._waiters) < 3:
        pass
    with lock:
        ready = True
        condition.notify_all()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert set(looks) == {True}
    assert not lock.locked()
    assert condition._waiters == []


def test_a_condition_says_whether_it_came_true_in_time() -> None:
    """A wait whose time is up leaves nothing behind."""
    condition = Condition(threading.Lock())
    assert not condition.wait_for(lambda: False, -1)
    assert not condition.wait_for(lambda: False, 0)
    assert not condition.wait_for(lambda: False, 0.01)
    assert condition.wait_for(lambda: True, 0)
    assert condition._waiters == []
    condition.notify_all()


def test_a_change_just_before_the_wait_is_not_missed() -> None:
    """Who has looked, and is about to wait, looks again after a change."""
    condition = Condition(threading.Lock())
    looks: list[int] = []

    def third() -> bool:
        looks.append(1)
        condition.notify_all()  # it comes after the look has begun
        return len(looks) == 3

    assert condition.wait_for(third)
    assert len(looks) == 3


def test_a_condition_whose_wait_is_interrupted_at_any_line() -> None:
    """Ctrl-C is raised with the lock free, and nobody is left in the list."""
    number = 0
    was_interrupted = True
    while was_interrupted:
        number += 1
        lock = threading.Lock()
        condition = Condition(lock)
        looks: list[int] = []

        def second(condition: Condition = condition, looks: list[int] = looks) -> bool:
            looks.append(1)
            condition.notify_all()
            return len(looks) == 2

        # Nor where the end begins: there is no call in between, after which it could come.
        was_interrupted = was_interrupted_at(
            number,
            partial(condition.wait_for, second, LONG),
            Condition.wait_for,
            beside=(*BLOCKS, "return", "self._waiters.remove"),
        )
        assert not lock.locked()
        assert condition._waiters == []
    assert number > 10


def test_ctrl_c_while_a_thread_starts_comes_out_as_such() -> None:
    """Not as the RuntimeError that the standard library makes of it, unlike one of its own."""

    class Interrupted(threading.Thread):
        def start(self) -> None:
            try:
                raise KeyboardInterrupt
            finally:
                threading.Lock().release()

    with pytest.raises(KeyboardInterrupt):
        start_thread(Interrupted())
    done = threading.Thread(target=bool)
    start_thread(done)
    done.join(LONG)
    with pytest.raises(RuntimeError, match="once"):
        start_thread(done)
