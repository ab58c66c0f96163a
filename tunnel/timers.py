"""Short callbacks at their time, for all tunnels of a process in one thread.

The heartbeats of a thousand tunnels need a thousand points in time and one thread that waits for
the next of them. It runs from the first timer to the last, and while somebody holds it (`hold`):
what has begun must not fail later for want of a thread.
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
from tunnel.errors import ResourceExhaustedError
from tunnel.interruptible import start_thread

_FEW = 64  # cancelled timers are not worth being taken out


class TimerHandle(Protocol):
    """One callback that is due some time."""

    def cancel(self) -> None:
        """It will not run any more; one that is running may still finish."""
        ...


class Timers(Protocol):
    """Where callbacks wait for their time."""

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        """Call once `monotonic()` is at `when`. The callback must not block.

        Raises:
            ResourceExhaustedError: There was no timer yet, and no thread can be started.
        """
        ...


class SystemTimers:
    """The process's one thread for timers. Safe to use from any thread.

    Attributes:
        ident: The thread's identifier, as `threading.get_ident` knows it; None: it does not run.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.forget()

    def forget(self) -> None:
        """Begin anew, without timers and without a thread: for a child process after a fork.

        The timers are the parent's, whose sockets the child shares and must not write to; the
        thread is not there, and may have held the lock.
        """
        self._lock = threading.Lock()  # guards all below
        self._changed = threading.Condition(self._lock)
        self._heap: list[tuple[float, int, _SystemTimer]] = []  # cancelled ones among them
        # Of those in the heap, how many are not; or more, where Ctrl-C came in between, until they
        # are counted again. With less the thread might end too soon.
        self._live = 0
        self._owners: set[object] = set()  # who hold the thread
        self._thread: threading.Thread | None = None
        self.ident: int | None = None

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        """See `Timers.call_at`."""
        timer = _SystemTimer(self, callback)
        with self._lock:
            # One that could not be started is not alive.
            if self._thread is None or not self._thread.is_alive():
                self._start()
            self._live += 1
            heapq.heappush(self._heap, (when, next(self._numbers), timer))
            if self._heap[0][2] is timer:
                self._changed.notify()
        return timer

    def hold(self, owner: object) -> None:
        """Keep the thread running until `release`, so that `call_at` cannot fail meanwhile.

        Args:
            owner: Who wants that; to hold twice is the same as once.

        Raises:
            ResourceExhaustedError: It is not running, and cannot be started.
        """
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._start()
            self._owners.add(owner)

    def release(self, owner: object) -> None:
        """Let the thread end when there are no timers; harmless without a `hold`."""
        with self._lock:
            self._owners.discard(owner)
            self._end_if_idle()

    def discard(self, timer: _SystemTimer) -> None:
        """Forget a cancelled timer's callback at once: it may keep a whole tunnel alive.

        The timer itself stays in the heap until it is due or most of them are such: to look for one
        among thousands, for each of thousands, would take longer than all else. The thread is not
        woken either, at the cost of one more wake-up later. So a link that takes the place of
        another one wakes nobody: its first beat is due after that of the old one.
        """
        with self._lock:
            # Let go of after the lock: what is freed with it may cancel another timer.
            callback, timer.callback = timer.callback, None
            if callback is None:  # it has been called, or is cancelled already
                return
            self._live -= 1
            if len(self._heap) > 2 * self._live + _FEW:
                self._heap = [entry for entry in self._heap if entry[2].callback is not None]
                heapq.heapify(self._heap)
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        """Wake the thread if there is nothing to wait for. Needs the lock."""
        if not self._owners and self._live <= _FEW:
            self._live = sum(timer.callback is not None for _, _, timer in self._heap)
            if not self._live:
                self._changed.notify()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tunnel-timers", daemon=True)
        try:
            start_thread(self._thread)
        except RuntimeError as error:
            raise ResourceExhaustedError("the thread for timers cannot be started") from error

    def _run(self) -> None:
        while (callback := self._next_due()) is not None:
            try:
                callback()
            except BaseException:  # also `sys.exit`: the thread is not only for this callback
                logger.exception("a timer's callback failed")
            del callback  # else it would be kept alive until the next one is due

    def _next_due(self) -> Callable[[], None] | None:
        """Wait for the next callback; None once there are no timers left, and nobody holds us.

        Or if another thread is the one: the start of this one was interrupted.
        """
        thread = threading.current_thread()
        with self._lock:
            if self._thread is thread:
                self.ident = thread.ident
            while self._thread is thread and (self._live or self._owners):
                if not self._heap:
                    self._live = 0  # for certain: it may have been too many
                    if self._owners:
                        self._changed.wait()
                    continue
                remaining = self._heap[0][0] - time.monotonic()
                if remaining > 0:
                    self._changed.wait(min(remaining, threading.TIMEOUT_MAX))
                    continue
                timer = heapq.heappop(self._heap)[2]
                callback, timer.callback = timer.callback, None
                if callback is not None:
                    self._live -= 1
                    return callback
            if self._thread is thread:
                self._thread = self.ident = None
                self._heap.clear()
            return None


class _SystemTimer:
    __slots__ = ("_timers", "callback")

    def __init__(self, timers: SystemTimers, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.callback: Callable[[], None] | None = callback  # None: called, or cancelled

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
