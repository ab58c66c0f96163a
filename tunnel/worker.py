"""One thread with a mailbox: the frame in which a tunnel lives.

The thread starts with the first request and ends when there is neither a request nor work left, so
a tunnel that rests costs no thread. On a clock that is not the system's there is no thread at all:
a test calls `step` itself (see `tunnel.testing.drive`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import ResourceExhaustedError
from tunnel.requests import Request
from tunnel.timers import timers_of
from tunnel.waker import Waker


class Work(Protocol):
    """What a worker's thread does."""

    def obey(self, request: Request) -> None:
        """Do what was asked. Must not block."""
        ...

    def act(self) -> bool:
        """Do some work, until it is done or the waker is set; False if there is none."""
        ...

    def rest(self) -> None:
        """There is nothing left to do: the thread ends. Must not block, nor post."""
        ...


class Worker:
    """Runs a `Work` and hands it what others post.

    Args:
        work: What to do.
        clock: On any but the system's no thread is started.
        waker: Ends the waits of the work.
        on_start: Called whenever the thread is about to begin. It and `Work.rest` are called in
            turns, and with the worker's lock held, so that a thread which begins when another
            ends cannot overtake it.

    Attributes:
        mailbox: What was posted and not obeyed yet; the work may look ahead while it acts.
        is_running: Whether there is a thread, or on another clock, something to `step`.
    """

    def __init__(
        self,
        work: Work,
        clock: Clock,
        waker: Waker,
        on_start: Callable[[], object] | None = None,
    ) -> None:
        self._work = work
        self._on_start = on_start
        self._clock = clock
        self._threaded = clock is SYSTEM_CLOCK
        self._waker = waker
        self._lock = threading.Lock()  # guards the thread's beginning and its last look for mail
        self._thread: threading.Thread | None = None
        self._runner: int | None = None  # the thread that is in `step`
        self.mailbox: deque[Request] = deque()
        self.is_running = False

    def post(self, request: Request) -> None:
        """Have a request obeyed; starts the thread if there is none. From any thread.

        Raises:
            ResourceExhaustedError: No thread can be started; the request is forgotten.
        """
        with self._lock:
            self.mailbox.append(request)
            if not self.is_running:
                self._start()
        self._waker.wake()

    def start(self) -> None:
        """Begin to act, though nothing was posted; nothing happens if the thread is running.

        Raises:
            ResourceExhaustedError: No thread can be started.
        """
        with self._lock:
            if not self.is_running:
                self._start()

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller is within `step`, that is, in a callback of the application's."""
        return self._runner == threading.get_ident()

    @property
    def is_threaded(self) -> bool:
        """Whether the work is done by a thread of its own, not by whoever calls `step`."""
        return self._threaded

    def join(self, timeout: float | None) -> None:
        """Wait for the end of the thread, `timeout` seconds at most. From any thread but it."""
        if not self._threaded:
            self.drive(lambda: not self.is_running, timeout)
            return
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Wait until the work sets `event`; without a thread, do the work here meanwhile.

        Returns:
            Whether it is set; False once `timeout` seconds have passed.
        """
        if self._threaded:
            return self._clock.wait(event, timeout)
        return self.drive(event.is_set, timeout)

    def drive(self, until: Callable[[], bool], timeout: float | None) -> bool:
        """Do the work in this thread until a condition holds, on a clock that is not the system's.

        The condition is looked at after each thing that the work does, and before it waits. A
        recovery is one thing, with all its waits; neither condition nor time-out interrupt it.

        Returns:
            Whether the condition holds; False once `timeout` seconds have passed.

        Raises:
            RuntimeError: By the clock, if without a time-out nothing would ever happen.
        """
        if timeout is None:
            return self._drive(until, None)
        deadline = self._clock.monotonic() + timeout
        timer = timers_of(self._clock).call_at(deadline, self._waker.wake)
        try:
            return self._drive(until, deadline)
        finally:
            timer.cancel()

    def _drive(self, until: Callable[[], bool], deadline: float | None) -> bool:
        while not until():
            remaining = None if deadline is None else deadline - self._clock.monotonic()
            if remaining is not None and remaining <= 0:
                return False
            if not self.is_running:
                self._waker.clear()
                self._clock.wait(self._waker.event, remaining)
            elif self._step_has_waited() and not until():
                self.step()
        return True

    def _step_has_waited(self) -> bool:
        """Do what can be done at this very time. Returns whether that was all."""
        waits: list[bool] = []

        def end() -> None:
            waits.append(True)
            self._waker.wake()

        timer = timers_of(self._clock).call_at(self._clock.monotonic(), end)
        try:
            self.step()
        finally:
            timer.cancel()
        return bool(waits)

    def step(self) -> bool:
        """Obey what was posted, then act. For the thread itself, and for tests without one.

        Returns:
            Whether there is more to do.
        """
        outer, self._runner = self._runner, threading.get_ident()
        try:
            self._waker.clear()
            while self.mailbox:
                self._work.obey(self.mailbox.popleft())
            if self._work.act():
                return True
        finally:
            self._runner = outer
        return not self._stop()

    def _start(self) -> None:
        """Begin. Needs the lock, which the thread has to get before it can end."""
        self.is_running = True
        if self._on_start is not None:
            self._on_start()
        if not self._threaded:
            return
        thread = threading.Thread(target=self._run, name="tunnel", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self.mailbox.clear()
            self._end()
            raise ResourceExhaustedError("the tunnel's thread cannot be started") from error
        self._thread = thread

    def _run(self) -> None:
        while self.step():
            pass

    def _stop(self) -> bool:
        with self._lock:
            if self.mailbox:
                return False
            self._end()
        return True

    def _end(self) -> None:
        self._work.rest()
        self.is_running = False
