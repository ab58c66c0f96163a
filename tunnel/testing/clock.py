"""A clock that is moved by hand, so that a test of hours takes milliseconds."""

from __future__ import annotations

import bisect
import math
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1)  # naive, as freezegun's times are
_START = 1_767_225_600.0  # 2026-01-01 00:00:00 UTC, what `time()` says on a new clock
_MICROSECOND = timedelta(microseconds=1)


class FakeTimer:
    """A callback that a `FakeClock` will run when its time has come; see `FakeClock.call_at`."""

    __slots__ = ("_callback", "_clock", "_key")

    def __init__(
        self, clock: FakeClock, key: tuple[float, int], callback: Callable[[], object]
    ) -> None:
        self._clock = clock
        self._key = key
        self._callback = callback

    @property
    def when(self) -> float:
        """The time at which it is due, on the clock's `monotonic()`."""
        return self._key[0]

    def cancel(self) -> None:
        """Take it back. Nothing happens if it has run or was taken back before."""
        self._clock._discard(self._key)


class FakeClock:
    """Virtual time: it stands still until `advance` or `wait` moves it, and nobody really waits.

    It is a `tunnel.clock.Clock`, to be given to every part that takes a `clock`. A new clock's
    `monotonic()` is 0.0 and its `time()` the first second of 2026, always the same.

    Callbacks registered by `call_at` play the rest of the world. They run inside `advance` and
    `wait`, in the calling thread, in the order of their times, with `monotonic()` equal to their
    time; those for the same time in the order in which they were registered. They may register and
    cancel further timers and set events, but not move the clock. What a callback raises reaches the
    caller of `advance` or `wait`, with the clock at the callback's time and later timers untouched.

    Inside ``freezegun.freeze_time`` the clock reads the frozen time and moves it along (`tick`), so
    that code which asks `datetime.now()` agrees with code that asks the clock. A clock that is made
    there has ``clock.monotonic() == time.monotonic()``. However the frozen time is moved, also
    backwards, `monotonic()` never goes backwards; nor does it jump when a freeze begins or ends.

    Meant for one thread; others may set events, read the time, and register timers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below but _moving and _in_callback
        self._timers: list[FakeTimer] = []  # in the order in which they are due
        self._registered = 0
        self._freeze: object = None  # the freeze that was last looked at
        self._frozen_at = 0  # its time then, in microseconds since the epoch
        self._monotonic = 0.0
        self._wall_offset = _START  # time() - monotonic() outside any freeze
        frozen = _current_freeze()
        if frozen is not None:
            self._freeze, self._frozen_at = frozen, _microseconds(frozen)
            self._monotonic = self._frozen_at / 1e6
            self._wall_offset = 0.0
        self._moving = threading.RLock()  # held by whoever moves the clock, through the callbacks
        self._in_callback = False  # guarded by _moving

    def monotonic(self) -> float:
        """Seconds of virtual time; never goes backwards."""
        with self._lock:
            self._follow()
            return self._monotonic

    def time(self) -> float:
        """Seconds since the Unix epoch, as virtual as `monotonic()`."""
        with self._lock:
            if self._follow() is not None:
                return self._frozen_at / 1e6
            return self._wall_offset + self._monotonic

    def advance(self, seconds: float) -> None:
        """Move the time on and run what becomes due.

        Args:
            seconds: How far; 0 runs what is due already.

        Raises:
            ValueError: `seconds` is negative or not finite.
            RuntimeError: Called from a callback of this clock.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a clock advances by 0 or more seconds, not {seconds!r}")
        self._run(self.monotonic() + seconds, None)

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Let virtual time pass until `event` is set or the timeout is over.

        Args:
            event: What is waited for. If it is set already, no time passes.
            timeout: Seconds of virtual time; 0 or less moves nothing. None: as long as it takes.

        Returns:
            Whether the event is set. If a callback sets it, the time is that callback's.

        Raises:
            RuntimeError: There is no timeout, and no timer is left that could set the event, so
                that the wait would never end. Or: called from a callback of this clock.
            ValueError: The timeout is infinite or not a number.
        """
        if timeout is None:
            deadline = math.inf
        elif math.isfinite(timeout):
            now = self.monotonic()
            # Time that is waited for passes, even if it is too little to make a difference.
            deadline = max(now + timeout, math.nextafter(now, math.inf)) if timeout > 0 else now
        else:
            raise ValueError(f"a timeout is a finite number of seconds or None, not {timeout!r}")
        if self._run(deadline, event):
            return True
        if timeout is None:
            raise RuntimeError(
                "this wait would never end: it has no timeout, and no timer of the fake clock is "
                "left that could set the event"
            )
        return False

    def call_at(self, when: float, callback: Callable[[], object]) -> FakeTimer:
        """Have `callback` called when `monotonic()` is `when`, or at once when that is past.

        "At once" means in the next `advance` or `wait`; this call itself runs nothing.

        Returns:
            A handle whose `cancel()` takes the callback back.

        Raises:
            ValueError: `when` is not finite.
        """
        if not math.isfinite(when):
            raise ValueError(f"a timer is due at a finite time, not {when!r}")
        with self._lock:
            self._registered += 1
            timer = FakeTimer(self, (when, self._registered), callback)
            bisect.insort(self._timers, timer, key=_key)
        return timer

    def _discard(self, key: tuple[float, int]) -> None:
        with self._lock:
            place = bisect.bisect_left(self._timers, key, key=_key)
            if place < len(self._timers) and self._timers[place]._key == key:
                del self._timers[place]

    def _run(self, deadline: float, event: threading.Event | None) -> bool:
        """Run timers in order until `event` is set or `deadline` is reached."""
        with self._moving:  # two threads that move the clock take turns
            if self._in_callback:
                raise RuntimeError("a callback of the fake clock cannot move it or wait on it")
            while event is None or not event.is_set():
                timer = self._next(deadline)
                if timer is None:
                    return False
                self._in_callback = True
                try:
                    timer._callback()
                finally:
                    self._in_callback = False
            return True

    def _next(self, deadline: float) -> FakeTimer | None:
        """Move to the next timer that is due by `deadline` and hand it out; else to `deadline`."""
        with self._lock:
            if self._timers and self._timers[0].when <= deadline:
                timer = self._timers.pop(0)
                self._move_to(timer.when)
                return timer
            if deadline < math.inf:
                self._move_to(deadline)
            return None

    def _follow(self) -> Any:
        """Take over what a freeze has done since the last look. Needs the lock.

        Returns:
            The freeze that is in force, or None.
        """
        freeze = _current_freeze()
        if freeze is not None:
            now = _microseconds(freeze)
            if freeze is self._freeze:
                self._monotonic += max(0, now - self._frozen_at) / 1e6
            self._frozen_at = now
        self._freeze = freeze
        return freeze

    def _move_to(self, when: float) -> None:
        """Move the time to `when` if that is later. Needs the lock."""
        freeze = self._follow()
        if when <= self._monotonic:
            return
        if freeze is not None:
            # To the nearest microsecond, which is all that a datetime can hold.
            step = timedelta(seconds=when - self._monotonic)
            freeze.move_to(_EPOCH + self._frozen_at * _MICROSECOND + step)
            self._frozen_at = _microseconds(freeze)
        self._monotonic = when


def _key(timer: FakeTimer) -> tuple[float, int]:
    return timer._key


def _current_freeze() -> Any:
    """The innermost ``freeze_time`` in force, or None. Does not import freezegun."""
    api = sys.modules.get("freezegun.api")
    return api.freeze_factories[-1] if api is not None and api.freeze_factories else None


def _microseconds(freeze: Any) -> int:
    """The frozen time, which freezegun keeps as a naive UTC datetime, since the epoch."""
    return int((freeze() - _EPOCH) // _MICROSECOND)
