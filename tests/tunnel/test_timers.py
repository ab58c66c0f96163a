from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from loguru import logger

from tunnel.clock import SYSTEM_CLOCK
from tunnel.errors import ResourceExhaustedError
from tunnel.testing import FakeClock
from tunnel.timers import SYSTEM_TIMERS, SystemTimers, forget_on_fork, timers_of

LONG = 10.0
"""Seconds that something may take which is certain to happen."""

FAR = 3600.0

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def timers() -> SystemTimers:
    return SystemTimers()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


def soon(seconds: float = 0.0) -> float:
    return time.monotonic() + seconds


def timer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tunnel-timers"]


def join_timers() -> None:
    for thread in timer_threads():
        thread.join(LONG)
    assert not timer_threads()


@pytest.mark.requirement("6.1")
def test_callbacks_run_in_the_order_of_their_times_on_one_thread(timers: SystemTimers) -> None:
    """However they were put in, callbacks run by time; those of one time in order of the calls."""
    order: list[tuple[str, int]] = []
    start = soon(0.02)
    for name, delay in (("c", 0.01), ("a", 0.0), ("b", 0.0), ("d", 0.02)):
        timers.call_at(start + delay, lambda n=name: order.append((n, threading.get_ident())))
    assert len(timer_threads()) == 1
    join_timers()
    assert [name for name, _ in order] == ["a", "b", "c", "d"]
    assert len({thread for _, thread in order}) == 1


def test_no_callback_runs_early(timers: SystemTimers) -> None:
    """A callback finds the clock at its time or later."""
    called: list[float] = []
    due = soon(0.05)
    timers.call_at(due, lambda: called.append(time.monotonic()))
    join_timers()
    assert called[0] >= due


def test_an_earlier_timer_overtakes_one_that_is_waited_for(timers: SystemTimers) -> None:
    """The thread waits for the next timer, also if that comes later than a more distant one."""
    called = threading.Event()
    far = timers.call_at(soon(FAR), lambda: None)
    timers.call_at(soon(), called.set)
    assert called.wait(LONG)
    far.cancel()
    join_timers()


def test_a_later_timer_is_waited_for_too(timers: SystemTimers) -> None:
    """A timer behind the next one needs no wake-up, and is not forgotten."""
    first, second = threading.Event(), threading.Event()
    timers.call_at(soon(0.01), first.set)
    timers.call_at(soon(0.02), second.set)
    assert first.wait(LONG)
    assert second.wait(LONG)


def test_the_thread_ends_with_the_last_timer_and_a_new_one_starts(timers: SystemTimers) -> None:
    """No timers, no thread; the next timer gets a new one."""
    for _ in range(2):
        called = threading.Event()
        timers.call_at(soon(), called.set)
        assert called.wait(LONG)
        join_timers()


def test_a_callback_may_set_the_next_timer(timers: SystemTimers) -> None:
    """A callback that calls `call_at` goes on in the same thread."""
    threads: list[int] = []
    done = threading.Event()

    def again() -> None:
        threads.append(threading.get_ident())
        if len(threads) == 3:
            done.set()
        else:
            timers.call_at(soon(), again)

    timers.call_at(soon(), again)
    assert done.wait(LONG)
    assert len(set(threads)) == 1
    join_timers()


class Tunnel:
    def beat(self) -> None:
        raise AssertionError("it was cancelled")


def test_a_cancelled_timer_is_forgotten_at_once(timers: SystemTimers) -> None:
    """A cancelled callback does not run, and what it refers to is free; others stay."""
    tunnel = Tunnel()
    reference = weakref.ref(tunnel)
    called = threading.Event()
    handle = timers.call_at(soon(FAR), tunnel.beat)
    timers.call_at(soon(0.02), called.set)
    handle.cancel()
    del tunnel, handle
    gc.collect()
    assert reference() is None
    assert called.wait(LONG)


def test_cancelled_timers_do_not_pile_up(timers: SystemTimers) -> None:
    """However many are cancelled while others wait, most of what is kept is for those."""
    called = threading.Event()
    late = [timers.call_at(soon(FAR), lambda: None) for _ in range(10)]
    for _ in range(10_000):
        timers.call_at(soon(FAR / 2), lambda: None).cancel()
    assert len(timers._heap) < 200
    timers.call_at(soon(), called.set)
    assert called.wait(LONG)
    for timer in late:
        timer.cancel()
    join_timers()


def test_a_timer_behind_a_cancelled_one_is_called(timers: SystemTimers) -> None:
    """What is cancelled holds up nobody, though the thread waits for its time."""
    called = threading.Event()
    first = timers.call_at(soon(0.01), lambda: None)
    timers.call_at(soon(0.02), called.set)
    first.cancel()
    first.cancel()
    assert called.wait(LONG)
    join_timers()


def test_cancelling_a_timer_that_was_called_does_nothing(timers: SystemTimers) -> None:
    """Nor does it end the thread, which has others to wait for."""
    first, second = threading.Event(), threading.Event()
    handle = timers.call_at(soon(), first.set)
    timers.call_at(soon(0.05), second.set)
    assert first.wait(LONG)
    handle.cancel()
    assert second.wait(LONG)
    join_timers()


def test_cancelling_the_last_timer_ends_the_thread(timers: SystemTimers) -> None:
    """The thread does not wait for a timer that is none any more."""
    timers.call_at(soon(FAR), lambda: None).cancel()
    join_timers()


def test_a_thread_that_has_miscounted_ends(timers: SystemTimers) -> None:
    """Ctrl-C may have kept a timer from its place that was counted: there is none to wait for."""

    def miscount() -> None:
        timers._live += 1

    timers.call_at(soon(), miscount)
    join_timers()


def test_cancelling_twice_or_too_late_does_nothing(timers: SystemTimers) -> None:
    """`cancel` after the callback, or after another `cancel`, disturbs no other timer."""
    called, other = threading.Event(), threading.Event()
    handle = timers.call_at(soon(), called.set)
    assert called.wait(LONG)
    later = timers.call_at(soon(0.02), other.set)
    handle.cancel()
    handle.cancel()
    assert other.wait(LONG)
    later.cancel()


def test_a_callback_that_has_run_is_not_kept(timers: SystemTimers) -> None:
    """While the thread waits for the next timer it holds nothing of the last."""

    class Owner:
        def __init__(self) -> None:
            self.called = threading.Event()

        def call(self) -> None:
            self.called.set()

    owner = Owner()
    called, reference = owner.called, weakref.ref(owner)
    next_one = threading.Event()
    timers.call_at(soon(), owner.call)
    timers.call_at(soon(0.02), next_one.set)
    far = timers.call_at(soon(FAR), lambda: None)
    del owner
    assert called.wait(LONG)
    assert next_one.wait(LONG)  # so the thread has let go of the one before
    assert reference() is None
    far.cancel()


def test_a_callback_that_raises_harms_no_other(timers: SystemTimers, logged: list[str]) -> None:
    """What a callback raises is logged, and the next one runs."""
    called = threading.Event()

    def fail() -> None:
        raise LookupError("a bug")

    start = soon(0.01)
    timers.call_at(start, fail)
    timers.call_at(start, called.set)
    assert called.wait(LONG)
    join_timers()
    assert "a timer's callback failed" in logged[0]
    assert "LookupError" in logged[0]


def test_a_callback_that_ends_the_thread_does_not_end_the_timers(timers: SystemTimers) -> None:
    """SystemExit in a callback of one tunnel does not stop the heartbeats of all others."""
    called = threading.Event()
    start = soon(0.01)
    timers.call_at(start, sys.exit)
    timers.call_at(start, called.set)
    assert called.wait(LONG)
    join_timers()


def test_a_thread_that_cannot_be_started_leaves_no_timer_behind(
    timers: SystemTimers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller gets the error and no handle, so the callback never runs."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    never, called = threading.Event(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ResourceExhaustedError, match="cannot be started") as caught:
            timers.call_at(soon(), never.set)
        assert "can't start" in str(caught.value.__cause__)
    timers.call_at(soon(0.01), called.set)
    assert called.wait(LONG)
    join_timers()
    assert not never.is_set()


def test_who_holds_the_thread_can_set_timers_without_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread outlives the last timer as long as it is held, and ends after that."""
    owner = object()
    SYSTEM_TIMERS.hold(owner)
    SYSTEM_TIMERS.hold(owner)
    called = threading.Event()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            called.clear()
            SYSTEM_TIMERS.call_at(soon(), called.set)
            assert called.wait(LONG)
    assert len(timer_threads()) == 1
    SYSTEM_TIMERS.release(owner)
    join_timers()
    SYSTEM_TIMERS.release(owner)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_timers_of_its_own() -> None:
    """A child neither runs its parent's timers, who would write to its sockets, nor loses its own.

    In a process of its own, which forks while the lock is held, as it may be by the thread.
    """
    script = textwrap.dedent(
        """
        import os, sys, threading, time
        from tunnel.timers import SYSTEM_TIMERS
        parent = os.getpid()
        inherited = threading.Event()
        SYSTEM_TIMERS.call_at(time.monotonic() + 0.2, inherited.set)
        with SYSTEM_TIMERS._changed:
            child = os.fork()
        if child == 0:
            own = threading.Event()
            SYSTEM_TIMERS.call_at(time.monotonic() + 0.3, own.set)
            ok = own.wait(10) and not inherited.is_set()
            os._exit(0 if ok else 1)
        _, status = os.waitpid(child, 0)
        assert inherited.wait(10)
        sys.exit(os.waitstatus_to_exitcode(status))
        """
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script], timeout=40, check=False
    )
    assert result.returncode == 0


def test_where_nothing_forks_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without `fork` there is nothing to do, and no error."""
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    forget_on_fork()


def test_a_clock_with_timers_of_its_own_keeps_them() -> None:
    """A fake clock runs its timers in virtual time; the system's has the process's thread."""
    clock = FakeClock()
    assert timers_of(clock) is clock
    assert timers_of(SYSTEM_CLOCK) is SYSTEM_TIMERS
