"""One thread with a mailbox: the frame in which a tunnel lives.

The thread starts with the first request and ends when there is neither a request nor work left, so
a tunnel that rests costs no thread. On a clock that is not the system's there is no thread at all:
a test calls `step` itself (see `tunnel.testing.drive`).

If code of the application, called through `call`, takes long, the thread is *superseded*: another
one does the work from then on, and the old one ends when it gets out of the call. While calls are
made, a timer looks now and then whether it is still the same one; quick calls never notice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Protocol

import tunnel.classify  # noqa: F401  (now: it could not be loaded without a free descriptor)
from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import ResourceExhaustedError
from tunnel.interruptible import start_thread
from tunnel.requests import Request
from tunnel.timers import SYSTEM_TIMERS, TimerHandle, timers_of
from tunnel.turnstile import give
from tunnel.waker import Waker

PATIENCE = 0.25
"""Seconds after which the thread of a slow callback is superseded, at the earliest.

At the latest after twice as long. Peers give a pong more time than that.
"""


class Work(Protocol):
    """What a worker's thread does."""

    def obey(self, request: Request) -> None:
        """Do what was asked. Must not block."""
        ...

    def act(self) -> bool:
        """Do some work, until it is done or the waker is set; False if there is none.

        What it does by `Worker.call` must be the last that it does: another thread may have taken
        the rest over.
        """
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
        within: Makes what each thread of the work runs in; without a thread, each step.

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
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._work = work
        self._within = within
        self._on_start = on_start
        self._clock = clock
        self._threaded = clock is SYSTEM_CLOCK
        self._waker = waker
        # Guards the thread's beginning and its last look for mail, and which thread it is.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._slow: list[threading.Thread] = []  # those before it, as long as they live
        self._runners: list[int] = []  # the threads that are in `step`
        # Of the present thread: an item while it is in a call. Who takes it out decides what
        # becomes of the thread: itself, then all is well; or the one that is to supersede it.
        self._in_call: list[None] = []
        self._calls = 0  # so far
        self._seen = 0  # of them, when the timer last looked
        self._timer: TimerHandle | None = None  # looks at the calls
        self.mailbox: list[Request] = []  # a deque is 0.7 KiB, and this is short
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
        """Whether the caller is within `step`, that is, in a callback of the application's.

        Also if its thread is superseded; and on the timers' thread, where some callbacks are called
        as well: everything that might be waited for needs that.
        """
        ident = threading.get_ident()
        return ident in self._runners or ident == SYSTEM_TIMERS.ident

    @property
    def is_superseded(self) -> bool:
        """Whether the caller's thread has come out of a call, and another works in its place."""
        return bool(self._slow) and threading.current_thread() is not self._thread

    @property
    def is_threaded(self) -> bool:
        """Whether the work is done by a thread of its own, not by whoever calls `step`."""
        return self._threaded

    def join(self, timeout: float | None) -> None:
        """Wait for the end of the thread, `timeout` seconds at most. From any thread but it."""
        if not self._threaded:
            self.drive(lambda: not self.is_running, timeout)
            return
        with self._lock:  # one that is just being started cannot be joined yet
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def join_superseded(self, timeout: float) -> None:
        """Wait for the calls that have taken long, other than the caller's own.

        Args:
            timeout: Seconds to wait at most.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            slow = tuple(self._slow)
        for thread in slow:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def call(self, function: Callable[[], object]) -> None:
        """Call code of the application, which may take long. For the work, on its thread.

        Afterwards `is_superseded` may be true, and then there is nothing left to do here.
        """
        if not self._threaded:
            function()
            return
        give()
        in_call = self._in_call
        in_call.append(None)
        self._calls += 1
        if self._timer is None:
            self._watch()
        try:
            function()
        finally:
            try:
                in_call.pop()
            except IndexError:
                with self._lock:  # the new thread may be about to say so
                    assert self.is_superseded

    def _watch(self) -> None:
        """Have it looked after whether the call takes long."""
        self._seen = self._calls
        # Without a thread for the timers this call goes on unwatched; the next one tries again.
        with suppress(ResourceExhaustedError):
            when = self._clock.monotonic() + PATIENCE
            self._timer = timers_of(self._clock).call_at(when, self._look)

    def _look(self) -> None:
        """Supersede a thread that is in the same call as at the last look. A timer's callback."""
        seen = self._seen
        self._timer = None  # who begins a call after this sees to a timer, and notes what is seen
        in_call, calls = self._in_call, self._calls
        if calls == seen:
            if not in_call:
                return
            self._supersede(in_call)
        if self._timer is None:
            self._watch()

    def _supersede(self, in_call: list[None]) -> None:
        slow = self._thread
        assert slow is not None

        def take_over() -> None:
            with self._lock:
                try:
                    in_call.pop()
                except IndexError:  # the call is over after all
                    return
                self._slow.append(slow)
                self._in_call = []
                self._thread = threading.current_thread()
            self._run()

        # Without a thread nothing changes; the next look tries again.
        with suppress(RuntimeError):
            threading.Thread(target=take_over, name="tunnel", daemon=True).start()

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
        if self._threaded:
            return self._step()
        with self._within():
            return self._step()

    def _step(self) -> bool:
        runner = threading.get_ident()
        self._runners.append(runner)
        try:
            self._waker.clear()
            while self.mailbox:
                self._work.obey(self.mailbox.pop(0))
            if self._work.act():
                return not self.is_superseded
        finally:
            self._runners.remove(runner)
        return not self._stop()

    def _start(self) -> None:
        """Begin. Needs the lock, which the thread has to get before it can end."""
        try:
            self.is_running = True
            if self._on_start is not None:
                self._on_start()
            if self._threaded:
                SYSTEM_TIMERS.hold(self)  # no timer of ours shall fail for want of a thread
                self._start_thread()
        except BaseException as error:  # also Ctrl-C: half a start would never end
            self.mailbox.clear()
            self._end()
            if isinstance(error, RuntimeError):
                message = "the tunnel's thread cannot be started"
                raise ResourceExhaustedError(message) from error
            raise

    def _start_thread(self) -> None:
        before = self._thread
        self._thread = thread = threading.Thread(target=self._run, name="tunnel", daemon=True)
        try:
            start_thread(thread)
        except BaseException:
            self._thread = before
            raise

    def _run(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # its start was interrupted, and does not count
        try:
            with self._within():
                while self._step():
                    pass
        finally:
            give()
            with self._lock:
                if (thread := threading.current_thread()) in self._slow:
                    self._slow.remove(thread)

    def _stop(self) -> bool:
        with self._lock:
            if self.mailbox:
                return False
            self._end()
        return True

    def _end(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._work.rest()
        SYSTEM_TIMERS.release(self)
        self.is_running = False
