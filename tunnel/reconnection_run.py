"""One run of attempts to reconnect: what is asked of it by other threads, and how it goes on.

A run knows nothing of tenacity, which asks it the questions that it answers (how long to wait,
whether to stop, whether to try again); `tunnel.reconnection_manager` introduces them to each other.

A wait is one on the clock for an event, which every wish of another thread sets: so it ends at
once, never by polling. Wishes (cancel, hurry, pause) are noted under the run's lock, and looked at
under it before each wait, so that none is lost between two looks. That a run is over is decided
under it, too; whoever wishes something later is told that it is too late.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple

from tunnel.backoff import Backoff
from tunnel.clock import Clock
from tunnel.errors import TunnelError
from tunnel.interruptible import Event
from tunnel.log_line import LineLog
from tunnel.turnstile import give, take


@dataclass(frozen=True)
class ReconnectionAttempt:
    """An attempt that is about to be waited for (requirement 1.5).

    Attributes:
        attempt: Its number, from 1.
        max_attempts: How many there may be; None: no end.
        delay: The seconds until it is made, unless something interferes; 0.0: at once.
        reason: Why it is needed: what ended the link, or the attempt before.
    """

    attempt: int
    max_attempts: int | None
    delay: float
    reason: str


class RunSettings(NamedTuple):
    """What all runs of a manager share."""

    backoff: Backoff
    max_attempts: int | None
    clock: Clock
    rng: random.Random
    log: LineLog

    def draw(self) -> float:
        """What chance says: from `-jitter` to `+jitter`."""
        return self.rng.uniform(-self.backoff.jitter, self.backoff.jitter)

    def timestamp(self) -> str:
        """The time for a line in the log."""
        return self.now().isoformat(timespec="milliseconds")

    def now(self) -> datetime:
        """The time, as UTC."""
        return datetime.fromtimestamp(self.clock.time(), timezone.utc)


class Progress:
    """How far it has come. Written by the run's thread only, read by any."""

    def __init__(self) -> None:
        self.attempt = 0  # the number of the one that is made or waited for
        self.attempts = 0  # in all runs, as the rest
        self.failures = 0
        self.total_delay = 0.0
        self.last_attempt_time: datetime | None = None
        self.last_error: TunnelError | None = None


class RunCancelled(Exception):
    """Ends a run that was cancelled."""


class AttemptFailed(Exception):
    """An attempt failed; `error` says why. Whatever else ends a run is not tried again."""

    def __init__(self, error: TunnelError) -> None:
        super().__init__(error)
        self.error = error


class ReconnectionRun:
    """One call of `ReconnectionManager.attempt_reconnection`.

    The wishes may come from any thread; everything else is for the thread that runs.

    Args:
        settings: What all runs share.
        progress: Where the run notes how far it is.
        connect: Makes one attempt.
        reason: Why a reconnection is needed.
        error: What ended the link, if that is known; it may ask for patience.
        before_wait: Told of each attempt before it is waited for.
    """

    def __init__(
        self,
        settings: RunSettings,
        progress: Progress,
        connect: Callable[[], object],
        reason: str | None,
        error: TunnelError | None,
        before_wait: Callable[[ReconnectionAttempt], object] | None,
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._connect = connect
        self._before_wait = before_wait
        self._reason = reason or (error.message if error else "the connection was lost")
        self._patience = error.retry_after if error else None  # seconds the other end asked for
        self._made = 0  # attempts, since the last time that they were counted anew
        self.exponent = 0  # what the delays of earlier runs had grown to
        self._lock = threading.Lock()  # guards all below
        self._cancelled = self._hurried = self._paused = False
        self._over = False  # no wish can change the outcome any more
        self._wake = Event()  # set with every wish

    @property
    def reached(self) -> int:
        """The exponent that the delays have grown to."""
        return self.exponent + self._made

    # Wishes

    def cancel(self) -> bool:
        """Make no more attempts. Returns whether that is in time."""
        with self._lock:
            self._cancelled = True
            return self._noted()

    def hurry(self) -> bool:
        """Make the next attempt at once, and count anew. Returns whether that is in time."""
        with self._lock:
            self._hurried, self._paused = True, False
            return self._noted()

    def pause(self, paused: bool) -> bool:
        """Stop the countdown, or let it go on. Returns whether that is in time."""
        with self._lock:
            self._paused = paused
            if paused:
                self._hurried = False  # the later wish counts
            return self._noted()

    def _noted(self) -> bool:
        self._wake.set()
        return not self._over

    # Questions

    def next_delay(self) -> float:
        """How long to wait before the next attempt."""
        backoff, draw = self._settings.backoff, self._settings.draw()
        with self._lock:
            if self._hurried:
                self._count_anew()
                return 0.0
        delay = backoff.delay(self.reached + 1, draw)
        if self._patience is None:
            return delay
        # No earlier than asked; the spread that keeps a herd apart goes upwards only.
        return max(delay, self._patience * (1 + (backoff.jitter + draw) / 2))

    def is_over(self) -> bool:
        """Whether the permitted attempts are used up and nobody wishes to begin anew.

        Raises:
            RunCancelled: That makes no difference any more.
        """
        maximum = self._settings.max_attempts
        with self._lock:
            self._check_cancelled()
            self._over = not self._hurried and maximum is not None and self._made >= maximum
            return self._over

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise RunCancelled

    def _count_anew(self) -> None:
        self._hurried = False
        self._made = self.exponent = 0
        self._reason = "told to try again at once"

    # Deeds

    def announce(self, delay: float) -> None:
        """Say that the next attempt is about to be waited for."""
        maximum = self._settings.max_attempts
        attempt = ReconnectionAttempt(self._made + 1, maximum, delay, self._reason)
        self._progress.attempt = attempt.attempt
        self._settings.log(
            "{} next reconnection attempt in {:.1f} s: {}",
            self._settings.timestamp(),
            delay,
            self._reason,
        )
        if self._before_wait is not None:
            self._before_wait(attempt)

    def count_down(self, seconds: float) -> None:
        """Wait, unless and until somebody wishes otherwise.

        Raises:
            RunCancelled: Somebody cancelled the run.
        """
        left = float(seconds)
        while True:
            with self._lock:
                self._wake.clear()
                self._check_cancelled()
                anew = self._hurried and (self._made > 0 or left > 0)
                if anew:
                    self._count_anew()
                self._hurried = False
                paused = self._paused
            if anew:
                left = 0.0
                self.announce(left)  # whoever is told may wish something else: look again
            elif paused:
                self._wait(None)
            elif left > 0:
                left -= self._wait(min(left, threading.TIMEOUT_MAX))
            else:
                return

    def _wait(self, seconds: float | None) -> float:
        """Wait for a wish, or for so long. Returns how long it took."""
        clock = self._settings.clock
        started = clock.monotonic()
        had_turn = give()
        woken = clock.wait(self._wake, seconds)
        if had_turn:
            take(lambda: self._cancelled)
        waited = clock.monotonic() - started
        if not woken and seconds is not None:
            waited = max(waited, seconds)  # a test may have frozen the time, not the wait
        self._progress.total_delay += waited
        return waited

    def attempt(self) -> None:
        """Make an attempt.

        Raises:
            AttemptFailed: It failed.
            RunCancelled: It failed, and nothing more is wanted.
        """
        progress, settings = self._progress, self._settings
        self._made += 1
        progress.attempts += 1
        progress.last_attempt_time = settings.now()
        settings.log(
            "{} reconnection attempt {}: {}", settings.timestamp(), self._numbered(), self._reason
        )
        try:
            self._connect()
        except Exception as exc:
            error = TunnelError.from_exception(exc, now=settings.clock.time())
            self._reason, self._patience = error.message, error.retry_after
            progress.failures += 1
            progress.last_error = error
            with self._lock:
                cancelled = self._cancelled
            raise (RunCancelled() if cancelled else AttemptFailed(error)) from exc

    def _numbered(self) -> str:
        maximum = self._settings.max_attempts
        return f"{self._made}" if maximum is None else f"{self._made} of {maximum}"
