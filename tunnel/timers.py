"""Short callbacks at their time, for all tunnels of a process in one thread.

The heartbeats of a thousand tunnels need a thousand points in time and one thread that waits for
the next of them. It runs from the first timer to the last.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol, cast

from loguru import logger

from tunnel.clock import Clock


class TimerHandle(Protocol):
    """One callback that is due some time."""

    def cancel(self) -> None:
        """It will not run any more; one that is running may still finish."""
        ...


class Timers(Protocol):
    """Where callbacks wait for their time."""

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        """Call once `monotonic()` is at `when`. The callback must not block."""
        ...


class SystemTimers:
    """The process's one thread for timers. Safe to use from any thread."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.forget()

    def forget(self) -> None:
        """Begin anew, without timers and without a thread: for a child process after a fork.

        The timers are the parent's, whose sockets the child shares and must not write to; the
        thread is not there, and may have held the lock.
        """
        self._changed = threading.Condition(threading.Lock())  # guards all below
        self._heap: list[tuple[float, int, _SystemTimer]] = []
        self._thread: threading.Thread | None = None

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        """See `Timers.call_at`."""
        timer = _SystemTimer(self, callback)
        with self._changed:
            # One that could not be started, or that a callback ended by SystemExit, is not alive.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="tunnel-timers", daemon=True)
                self._thread.start()
            heapq.heappush(self._heap, (when, next(self._numbers), timer))
            if self._heap[0][2] is timer:
                self._changed.notify()
        return timer

    def discard(self, timer: _SystemTimer) -> None:
        """Forget a cancelled timer at once: its callback may keep a whole tunnel alive."""
        with self._changed:
            remaining = [entry for entry in self._heap if entry[2] is not timer]
            if len(remaining) < len(self._heap):
                self._heap = remaining
                heapq.heapify(self._heap)
                self._changed.notify()

    def _run(self) -> None:
        while (callback := self._next_due()) is not None:
            try:
                callback()
            except Exception:
                logger.exception("a timer's callback failed")
            del callback  # else it would be kept alive until the next one is due

    def _next_due(self) -> Callable[[], None] | None:
        """Wait for the next callback; None once there are no timers left."""
        with self._changed:
            while self._heap:
                remaining = self._heap[0][0] - time.monotonic()
                if remaining <= 0:
                    return heapq.heappop(self._heap)[2].callback
                self._changed.wait(min(remaining, threading.TIMEOUT_MAX))
            self._thread = None
            return None


class _SystemTimer:
    __slots__ = ("_timers", "callback")

    def __init__(self, timers: SystemTimers, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.callback = callback

    def cancel(self) -> None:
        self._timers.discard(self)


SYSTEM_TIMERS = SystemTimers()


def forget_on_fork() -> None:
    """Have forked children forget the timers of their parent.

    Called once, at import. Where the system cannot fork there is nothing to do.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=SYSTEM_TIMERS.forget)


forget_on_fork()


def timers_of(clock: Clock) -> Timers:
    """The timers that go with `clock`: its own, if it has some (a fake clock), or the system's."""
    if hasattr(clock, "call_at"):
        return cast(Timers, clock)
    return SYSTEM_TIMERS
