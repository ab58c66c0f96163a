"""One watch over the machine's network for all tunnels of the process.

Theory of operation
-------------------

Whatever happens to interfaces, addresses or routes, the answer is the same: have every tunnel look
at the routes that matter to it, and decide (`tunnel.network_follower`). So the watch only needs to
know *when* to look. On Linux a thread waits for the kernel's messages (`tunnel.network_netlink`);
one change makes many of them, so it lets a moment pass before it looks. Where there is no netlink,
the process's timers look every two seconds.

The thread runs from the first tunnel to the last, and gives back its descriptors when it ends. The
watch holds tunnels weakly: one that was dropped without a `disconnect` is missed at the latest half
a minute later. A forked child begins without tunnels and without a thread; the parent does not
notice.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from loguru import logger

from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import ResourceExhaustedError
from tunnel.network_netlink import NetlinkEvents
from tunnel.network_routes import FindRoute, RouteTable, find_route
from tunnel.timers import SYSTEM_TIMERS, TimerHandle, Timers

_SETTLE = 0.1  # seconds from the first message of a change to the look at it
_POLL = 2.0  # seconds between two looks where the system sends no messages
_CENSUS = 30.0  # seconds after which the thread sees whether there are tunnels left


class Follower(Protocol):
    """Somebody who wants to look at the network when it has changed."""

    def look(self, table: RouteTable) -> None:
        """Look. Must not block."""
        ...


class Events(Protocol):
    """Tells when the network has changed; see `NetlinkEvents`."""

    def wait(self, timeout: float) -> bool:
        """Wait for a change, which makes it return True, a `wake`, or the end of the time."""
        ...

    def settle(self, seconds: float) -> None:
        """Let so many seconds pass, unless woken."""
        ...

    def wake(self) -> None:
        """End a wait. From any thread."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class NetworkWatch:
    """Has followers look at the network whenever it has changed. Safe to use from any thread.

    Args:
        open_events: Opens the system's source of news; raises `OSError` if it has none.
        timers: Where a poll waits instead.
        find: Finds routes.
    """

    def __init__(
        self,
        open_events: Callable[[], Events] = NetlinkEvents,
        timers: Timers = SYSTEM_TIMERS,
        find: FindRoute = find_route,
    ) -> None:
        self._open_events = open_events
        self._timers = timers
        self._find = find
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._followers: WeakSet[Follower] = WeakSet()
        self._events: Events | None = None  # the thread's, as long as there is one
        self._timer: TimerHandle | None = None  # of the poll
        self._polls = 0  # the number of the latest timer; a look by an older one comes too late

    def forget(self) -> None:
        """Begin anew, in a child process after a fork: tunnels and thread are the parent's."""
        events = self._events
        self._forget()
        if events is not None:
            events.close()

    @property
    def table(self) -> RouteTable:
        """For one look at the network as it is now."""
        return RouteTable(self._find)

    def add(self, follower: Follower) -> None:
        """Have somebody look at each change from now on. It is held weakly."""
        with self._lock:
            self._followers.add(follower)
            is_watching = self._events is not None or self._timer is not None
            started = is_watching or self._start_thread() or self._start_poll()
        if not started:
            logger.warning("the network is not watched: no thread can be started for that")

    def remove(self, follower: Follower) -> None:
        """Let somebody look no longer; a look that is under way may still finish."""
        with self._lock:
            self._followers.discard(follower)
            if self._followers:
                return
            if self._events is not None:
                self._events.wake()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _start_thread(self) -> bool:
        """Needs the lock."""
        try:
            events = self._open_events()
        except OSError:  # not this system, a sandbox, or no descriptor left
            return False
        thread = threading.Thread(
            target=self._run, args=(events,), name="tunnel-network", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            events.close()
            return False
        self._events = events
        return True

    def _run(self, events: Events) -> None:
        try:
            while self._is_wanted(events):
                if events.wait(_CENSUS):
                    events.settle(_SETTLE)
                    self._look()
        except OSError as error:
            logger.warning("the network is polled from now on: {}", error)
            with self._lock:
                self._events = None
                if self._followers:
                    self._start_poll()
        finally:
            events.close()

    def _is_wanted(self, events: Events) -> bool:
        """Whether the thread is to go on. That it ends is decided under the lock."""
        with self._lock:
            if self._followers:
                return True
            self._events = None
            return False

    def _start_poll(self) -> bool:
        """Needs the lock."""
        self._polls = number = self._polls + 1
        try:
            when = time.monotonic() + _POLL
            self._timer = self._timers.call_at(when, lambda: self._poll(number))
        except ResourceExhaustedError:
            self._timer = None
        return self._timer is not None

    def _poll(self, number: int) -> None:
        with self._lock:
            if number != self._polls:
                return
            self._timer = None
            if not self._followers or not self._start_poll():
                return
        self._look()

    def _look(self) -> None:
        table = self.table
        with self._lock:
            followers = tuple(self._followers)
        for follower in followers:
            try:
                follower.look(table)
            except Exception:
                logger.exception("a tunnel could not look at the network")


SYSTEM_WATCH = NetworkWatch()


def forget_on_fork() -> None:
    """Have forked children forget what their parent watches.

    Called once, at import. Where the system cannot fork there is nothing to do.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=SYSTEM_WATCH.forget)


forget_on_fork()


def watch_of(clock: Clock) -> NetworkWatch | None:
    """The watch that goes with a clock: only real time has a network that changes."""
    return SYSTEM_WATCH if clock is SYSTEM_CLOCK else None
