from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loguru import logger

from tunnel import network_watch
from tunnel.clock import SYSTEM_CLOCK
from tunnel.errors import ResourceExhaustedError
from tunnel.network_netlink import NetlinkEvents
from tunnel.network_outlook import Route
from tunnel.network_routes import RouteTable
from tunnel.network_watch import SYSTEM_WATCH, NetworkWatch, forget_on_fork, watch_of
from tunnel.testing import FakeClock
from tunnel.timers import SystemTimers

pytestmark = pytest.mark.usefixtures("no_leaks")

LONG = 10.0
"""Seconds that something may take which is certain to happen."""


class Events:
    """A source of news that a test plays."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._news = 0
        self._is_woken = False
        self.failure: OSError | None = None
        self.waits = 0
        self.settled: list[float] = []
        self.is_closed = False

    def change(self) -> None:
        with self._changed:
            self._news += 1
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        with self._changed:
            self.waits += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._news or self._is_woken, timeout)
            if self.failure is not None:
                raise self.failure
            has_changed, self._news, self._is_woken = self._news > 0, 0, False
            return has_changed

    def settle(self, seconds: float) -> None:
        self.settled.append(seconds)

    def wake(self) -> None:
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def close(self) -> None:
        self.is_closed = True

    def wait_for_waits(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.waits >= number, LONG)


class Looker:
    """Somebody who looks at the network, and counts that."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self._then = then
        self.tables: list[RouteTable] = []
        self.looked = threading.Semaphore(0)

    def look(self, table: RouteTable) -> None:
        self.tables.append(table)
        self.looked.release()
        self._then()

    def wait(self) -> None:
        assert self.looked.acquire(timeout=LONG)


def no_events() -> Any:
    raise OSError(errno.EAFNOSUPPORT, "no netlink here")


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def watch(events: Events) -> NetworkWatch:
    return NetworkWatch(lambda: events, SystemTimers(), lambda address: None)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tunnel-network"]


def join() -> None:
    for thread in threads():
        thread.join(LONG)
    assert not threads()


# With news from the system


def test_everybody_looks_when_something_has_changed(watch: NetworkWatch, events: Events) -> None:
    """Each change is looked at once things have settled; all look at the same table."""
    lookers = [Looker(), Looker()]
    for looker in lookers:
        watch.add(looker)
    events.wait_for_waits(1)
    assert not lookers[0].tables
    events.change()
    for looker in lookers:
        looker.wait()
    assert events.settled == [0.1]
    assert lookers[0].tables[0] is lookers[1].tables[0]
    events.change()
    for looker in lookers:
        looker.wait()
        assert len(looker.tables) == 2
        watch.remove(looker)
    join()


def test_one_thread_from_the_first_to_the_last(watch: NetworkWatch, events: Events) -> None:
    """Any number of tunnels cost one thread, and none when they are gone; as often as you like."""
    for _ in range(3):
        lookers = [Looker() for _ in range(50)]
        for looker in lookers:
            watch.add(looker)
            watch.add(looker)
        assert len(threads()) == 1
        for looker in lookers[1:]:
            watch.remove(looker)
        assert len(threads()) == 1
        watch.remove(lookers[0])
        watch.remove(lookers[0])
        join()
        assert events.is_closed


def test_nobody_is_asked_who_has_left(watch: NetworkWatch, events: Events) -> None:
    """After `remove` there is no look."""
    left, stays = Looker(), Looker()
    watch.add(left)
    watch.add(stays)
    watch.remove(left)
    events.change()
    stays.wait()
    assert not left.tables
    watch.remove(stays)
    join()


def test_one_who_fails_does_not_harm_the_others(
    watch: NetworkWatch, events: Events, logged: list[str]
) -> None:
    """What a look raises is logged, and the watch goes on."""

    def fail() -> None:
        raise RuntimeError("a bug")

    lookers = [Looker(fail) for _ in range(3)]
    for looker in lookers:
        watch.add(looker)
    for _ in range(2):
        events.change()
        for looker in lookers:
            looker.wait()
    for looker in lookers:
        watch.remove(looker)
    join()
    assert sum("could not look at the network" in line for line in logged) == 6


def test_tunnels_are_held_weakly(
    watch: NetworkWatch, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is dropped without a word is missed, and the thread ends with the last."""
    monkeypatch.setattr(network_watch, "_CENSUS", 0.01)
    watch.add(Looker())
    gc.collect()
    join()
    assert events.is_closed


def test_a_table_for_one_look() -> None:
    """Whoever asks on their own looks with the same eyes."""
    watch = NetworkWatch(no_events, SystemTimers(), lambda address: Route(f"to {address}"))
    assert watch.table.look_up(["a"]) == {"a": Route("to a")}


# Without


def test_where_there_are_no_news_it_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timers look now and then, as long as there is somebody; no thread of its own is there."""
    monkeypatch.setattr(network_watch, "_POLL", 0.01)
    watch = NetworkWatch(no_events, SystemTimers())
    lookers = [Looker(), Looker()]
    for looker in lookers:
        watch.add(looker)
    for _ in range(3):
        for looker in lookers:
            looker.wait()
    assert not threads()
    for looker in lookers:
        watch.remove(looker)


class Timers:
    """Timers that a test runs by hand."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []
        self.times: list[float] = []
        self.cancelled = 0
        self.has_thread = True

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        if not self.has_thread:
            raise ResourceExhaustedError("the thread for timers cannot be started")
        self.times.append(when)
        self.due.append(callback)
        return self

    def cancel(self) -> None:
        self.cancelled += 1


def test_a_poll_each_two_seconds() -> None:
    """That leaves enough of the five in which a tunnel has to be back."""
    timers = Timers()
    watch = NetworkWatch(no_events, timers)
    looker = Looker()
    before = time.monotonic()
    watch.add(looker)
    assert before + 2.0 <= timers.times[0] <= time.monotonic() + 2.0
    timers.due[0]()
    assert len(looker.tables) == 1
    assert len(timers.due) == 2


def test_a_poll_that_comes_too_late() -> None:
    """A timer that ran when it was cancelled does not look, nor begin a second series."""
    timers = Timers()
    watch = NetworkWatch(no_events, timers)
    first, second = Looker(), Looker()
    watch.add(first)
    watch.remove(first)
    assert timers.cancelled == 1
    timers.due[0]()
    assert len(timers.due) == 1
    watch.add(second)
    timers.due[0]()
    assert len(timers.due) == 2
    assert not second.tables
    timers.due[1]()
    assert len(second.tables) == 1
    assert len(timers.due) == 3


def test_no_thread_can_be_started(
    watch: NetworkWatch, events: Events, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """Then the timers poll; and if they have no thread either, tunnels do without a watch."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    timers = Timers()
    watch = NetworkWatch(lambda: events, timers)
    looker = Looker()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        watch.add(looker)
        assert events.is_closed
        assert len(timers.due) == 1
        assert not logged
        watch.remove(looker)
        timers.has_thread = False
        watch.add(looker)
        assert "the network is not watched" in logged[0]
        watch.remove(looker)
    watch.add(looker)  # the next tunnel has better luck
    assert len(threads()) == 1
    watch.remove(looker)
    join()


@pytest.mark.parametrize("is_anybody_left", [True, False])
def test_the_news_end(events: Events, logged: list[str], is_anybody_left: bool) -> None:
    """A source that breaks is replaced by the poll."""
    timers = Timers()
    watch = NetworkWatch(lambda: events, timers)
    looker = Looker()
    watch.add(looker)
    events.wait_for_waits(1)
    events.failure = OSError(errno.EIO, "broken")
    if is_anybody_left:
        events.wake()
    else:
        watch.remove(looker)
    join()
    assert events.is_closed
    assert "the network is polled from now on" in logged[0]
    assert len(timers.due) == is_anybody_left
    if is_anybody_left:
        timers.due[0]()
        assert len(looker.tables) == 1
        assert len(timers.due) == 2
        watch.remove(looker)


# In a process


def test_only_real_time_has_a_network() -> None:
    """On a fake clock nothing is watched."""
    assert watch_of(SYSTEM_CLOCK) is SYSTEM_WATCH
    assert watch_of(FakeClock()) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="netlink is Linux's")
def test_the_real_source_of_news() -> None:
    """With the kernel's messages it starts, waits and ends, and gives back its descriptors."""
    watch = NetworkWatch(NetlinkEvents, SystemTimers())
    looker = Looker()
    for _ in range(3):
        watch.add(looker)
        assert len(threads()) == 1
        watch.remove(looker)
        join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_leaves_the_watch_to_the_parent(events: Events) -> None:
    """The child begins anew, without the parent's descriptors; the parent hears its news still."""
    code = textwrap.dedent(
        """
        import os, sys, threading
        from tunnel.network_watch import SYSTEM_WATCH as watch

        class Looker:
            looked = threading.Event()
            def look(self, table):
                self.looked.set()

        def descriptors():
            return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

        before, looker = descriptors(), Looker()
        watch.add(looker)
        with watch._lock:  # as if another thread were just using it
            child = os.fork()
        if not child:
            assert descriptors() == before, descriptors()
            assert threading.active_count() == 1
            watch.remove(looker)
            other = Looker()
            watch.add(other)
            watch.remove(other)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        watch._look()
        assert looker.looked.wait(10)
        watch.remove(looker)
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(10)
        assert descriptors() == before
        """
    )
    options = ["-W", "ignore::DeprecationWarning"]  # of Python 3.12: a fork with threads
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_what_is_forgotten_in_a_child(
    watch: NetworkWatch, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tunnels and source of news, if there were some; a system that cannot fork is left alone."""
    watch.forget()
    looker = Looker()
    watch.add(looker)
    watch.forget()
    assert events.is_closed
    events.wake()
    join()
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    forget_on_fork()
