"""Events and futures that Ctrl-C cannot break.

`KeyboardInterrupt` comes between any two instructions of the main thread. ``with lock:`` stands
that, since taking a lock of Python's own and entering the block are one step. The classes of
`threading` and `concurrent.futures` that are written in Python do not: interrupted inside
`Condition.__enter__`, a thread has the lock and will never give it back, and whoever sets the event
or completes the future waits for ever. The window is small, but a tunnel that is set and waited for
thousands of times a second meets it.

What the main thread may use, and another thread as well, is therefore one of these.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import PENDING
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    _Lock = threading.Condition  # which has the same methods, and may have subclasses
else:
    from _thread import RLock as _Lock

_T = TypeVar("_T")


class Event(threading.Event):
    """An event without a lock: as `threading.Event`, and safe to interrupt at any point."""

    def __init__(self) -> None:
        self._flag = False  # the base class shows it in its repr
        self._waiters: set[Any] = set()  # locks; each is held until its thread is to be woken

    def is_set(self) -> bool:
        """Whether it is."""
        return self._flag

    def set(self) -> None:
        """Set it, and wake all who wait."""
        self._flag = True
        try:
            self._wake()
        except BaseException:
            self._wake()  # they are woken all the same
            raise

    def clear(self) -> None:
        """Set it back; whoever was woken goes on."""
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, `timeout` seconds at most. Returns whether it was."""
        if self._flag:
            return True
        waiter = threading.Lock()
        waiter.acquire()
        try:
            self._waiters.add(waiter)
            if self._flag:  # looked at once more: who has set it before has not seen us
                return True
            return self._flag or waiter.acquire(True, -1 if timeout is None else max(0.0, timeout))
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in tuple(self._waiters):
            with suppress(RuntimeError):  # another thread has released it already
                waiter.release()


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. For the main thread, too: Ctrl-C comes out of it as what it is.

    Interrupted while it waits for the new thread, `Thread.start` may give back a lock that it does
    not have, and raise a RuntimeError in place of the interruption.

    Raises:
        RuntimeError: The thread cannot be started.
    """
    try:
        thread.start()
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise


class Condition:
    """Who waits until something holds that is looked at under a lock.

    As `threading.Condition`, but nobody waits with a lock to be taken back, which an interruption
    could come before; and it takes a tenth of the memory while nobody waits.

    Args:
        lock: What guards the things that are waited for.
    """

    __slots__ = ("_lock", "_waiters")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._waiters: list[Event] = []

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> bool:
        """Wait until something holds, `timeout` seconds at most. Returns whether it does.

        The predicate is called with the lock, which the caller must not have.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        changed, is_over = Event(), False
        try:
            self._waiters.append(changed)
            while True:
                changed.clear()  # before the look: what changes after it is not missed
                with self._lock:
                    if predicate():
                        return True
                if is_over:
                    return False
                remaining = None if deadline is None else deadline - time.monotonic()
                # Not by the clock alone, which a test may have frozen.
                is_over = not changed.wait(remaining)
        finally:
            with suppress(ValueError):  # it was interrupted before it stood there
                self._waiters.remove(changed)

    def notify_all(self) -> None:
        """Have all who wait look again. With the lock or without, after the change."""
        for changed in tuple(self._waiters):
            changed.set()


class _OutcomeLock(_Lock):
    """The lock of a future, and the waiting for its change, in one object.

    What ``with`` calls is so the lock's own, which takes it in one step. The rest is as in
    `threading.Condition`, which keeps its lock beside it.
    """

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: deque[Any] = deque()

    wait = threading.Condition.wait
    notify = threading.Condition.notify

    def notify_all(self) -> None:
        """Wake all who wait; mostly that is nobody."""
        if self._waiters:
            self.notify(len(self._waiters))


class Outcome(Future[_T], Generic[_T]):
    """A future that stays usable when one of its methods is interrupted."""

    def __init__(self) -> None:
        # What the base class would set, which would make a condition of its own in vain.
        self._condition = _OutcomeLock()
        self._state = PENDING
        self._result = self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Future[_T]], object]] = []
