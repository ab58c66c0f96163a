"""Attempts to reconnect: when, how many, and when to stop (requirements 1.1, 1.8 to 1.10).

tenacity drives the attempts, and asks a `ReconnectionRun` how: how long to wait, whether to stop,
whether to try again. It asks to wait or to stop in either order, depending on its version. A run is
cancelled by a `sleep` that raises; one that merely returns early would burn the attempts left.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Any

import tenacity

from tunnel.backoff import Backoff, check_number
from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import TunnelError
from tunnel.log_line import LineLog
from tunnel.reconnection_run import (
    AttemptFailed,
    Progress,
    ReconnectionAttempt,
    ReconnectionRun,
    RunCancelled,
    RunSettings,
)

# For all managers, from any thread and in forked children: the system's has no state, neither to
# guard nor to repeat, nor 2.5 KiB of it for each tunnel.
_CHANCE = random.SystemRandom()

__all__ = ["Backoff", "ReconnectionAttempt", "ReconnectionManager", "ReconnectionOutcome"]


class ReconnectionOutcome(str, Enum):
    """How a run of attempts ended."""

    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    EXHAUSTED = "exhausted"  # the last permitted attempt failed
    NOT_RETRYABLE = "not_retryable"  # an attempt failed in a way that trying again does not mend


class ReconnectionManager:
    """Tries to connect, with growing delays, until it succeeds or there is no use in trying.

    One run at a time; everything but `attempt_reconnection` may be called from any thread, during a
    run or not, and returns at once.

    A success resets the count of attempts. The exponent of the delay is reset only if the link then
    held for `stable_after` seconds: a server that accepts and hangs up is not hammered.

    Args:
        max_attempts: How many attempts a run has; None: it never gives up.
        base_delay: As for `Backoff`.
        max_delay: As for `Backoff`.
        jitter: As for `Backoff`.
        stable_after: How many seconds a link has to hold, for the next run to begin with
            `base_delay` again.
        on_log: Called with each line that is logged, in the thread that logs.
        clock: Where time comes from; None: the system's clock.
        rng: Where chance comes from; None: the system, as for all managers.

    Raises:
        TypeError: An argument is of the wrong type; the text names it.
        ValueError: An argument is out of its bounds; the text names it.
    """

    def __init__(
        self,
        max_attempts: int | None = 10,
        base_delay: float = 2.0,
        max_delay: float = 60.0,
        jitter: float = 0.3,
        *,
        stable_after: float = 30.0,
        on_log: Callable[[str], object] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        _check_attempts(max_attempts)
        check_number("stable_after", stable_after)
        self._settings = RunSettings(
            Backoff(base_delay, max_delay, jitter),
            max_attempts,
            SYSTEM_CLOCK if clock is None else clock,
            _CHANCE if rng is None else rng,
            LineLog(on_log),
        )
        self._stable_after = stable_after
        self._progress = Progress()  # written by the run's thread
        self._lock = threading.Lock()  # guards all below
        self._run: ReconnectionRun | None = None  # the one under way
        self._outcome: ReconnectionOutcome | None = None
        self._succeeded_at: float | None = None  # on the monotonic clock, if the last run did, ...
        self._exponent = 0  # ... and with which exponent
        self._runs = 0
        self._outcomes = dict.fromkeys(ReconnectionOutcome, 0)

    # What is known

    @property
    def max_attempts(self) -> int | None:
        """How many attempts a run has; None: no end."""
        return self._settings.max_attempts

    @property
    def current_attempt(self) -> int:
        """The number of the attempt that is made or waited for; 0 before the first one.

        After a run that failed it is the number of its last attempt, after a success 0.
        """
        return self._progress.attempt

    @property
    def last_attempt_time(self) -> datetime | None:
        """When the last attempt was made (UTC)."""
        return self._progress.last_attempt_time

    @property
    def last_error(self) -> TunnelError | None:
        """Why the last attempt failed; None after a success."""
        return self._progress.last_error

    @property
    def outcome(self) -> ReconnectionOutcome | None:
        """How the last run ended; None before that, during a run, and if an interrupt ended it."""
        return self._outcome

    def statistics(self) -> dict[str, Any]:
        """Return what happened so far, ready for JSON.

        The keys: `runs`, `attempts` and `failures` (of attempts), the number of runs by outcome
        (`succeeded`, `cancelled`, `exhausted`, `not_retryable`), `total_delay` (seconds waited),
        `current_attempt`, `max_attempts`, `last_attempt_time` (ISO 8601), `last_error` (a code).
        """
        now = self._progress
        with self._lock:
            outcomes = {outcome.value: number for outcome, number in self._outcomes.items()}
            runs = self._runs
        return {
            "runs": runs,
            **outcomes,
            "attempts": now.attempts,
            "failures": now.failures,
            "total_delay": now.total_delay,
            "current_attempt": now.attempt,
            "max_attempts": self.max_attempts,
            "last_attempt_time": now.last_attempt_time and now.last_attempt_time.isoformat(),
            "last_error": now.last_error and now.last_error.code,
        }

    def delay_for(self, attempt: int) -> float:
        """Draw a delay: the seconds to wait before an attempt.

        Args:
            attempt: Its number, from 1.

        Raises:
            ValueError: It is less than 1.
        """
        return self._settings.backoff.delay(attempt, self._settings.draw())

    # What is done

    def attempt_reconnection(
        self,
        connect: Callable[[], object],
        *,
        reason: str | None = None,
        error: TunnelError | None = None,
        before_wait: Callable[[ReconnectionAttempt], object] | None = None,
    ) -> bool:
        """Wait, call `connect`, and do so again until it succeeds, in the calling thread.

        After a failure that is not retryable nothing more is tried; after one that asks for
        patience (`TunnelError.retry_after`) the next wait is no shorter than that.

        Args:
            connect: Makes one attempt; it fails by raising. What it returns is ignored.
            reason: Why a reconnection is needed, for the log. Default: the message of `error`.
            error: What ended the link, if that is known; it may ask for patience, too.
            before_wait: Told of each attempt before it is waited for. It may call `cancel`, `pause`
                and `retry_now`, which then hold for this very wait.

        Returns:
            True: `connect` succeeded. False: cancelled, exhausted or not retryable; see `outcome`.

        Raises:
            RuntimeError: A run is under way already.
            BaseException: What `before_wait` raises, and what `connect` raises beyond `Exception`
                (`KeyboardInterrupt`), ends the run and is passed on.
        """
        run = ReconnectionRun(self._settings, self._progress, connect, reason, error, before_wait)
        outcome = None
        self._begin(run)
        try:
            outcome = _drive(run)
        finally:
            self._end(run, outcome)
        self._settings.log("{} reconnection: {}", self._settings.timestamp(), outcome.value)
        return outcome is ReconnectionOutcome.SUCCEEDED

    def cancel(self) -> bool:
        """End the run under way: a wait ends at once, an attempt is the last one.

        An attempt that succeeds all the same is a success.

        Returns:
            Whether there was a run to cancel.
        """
        run = self._run
        return run is not None and run.cancel()

    def retry_now(self) -> bool:
        """End the wait under way, even a paused one, and make an attempt at once.

        If one is being made and fails, the next follows at once. The attempts and the exponent are
        counted anew: this is for news, such as that the network is back (requirement 1.8).

        Returns:
            Whether there was a run to hurry. False also if its last attempt has just failed.
        """
        run = self._run
        return run is not None and run.hurry()

    def pause(self) -> bool:
        """Stop the countdown, as when there is no network to try; what is left of it stays.

        Returns:
            Whether there was a run to pause.
        """
        run = self._run
        return run is not None and run.pause(True)

    def unpause(self) -> bool:
        """Let the countdown go on with what was left of it.

        Returns:
            Whether there was a run.
        """
        run = self._run
        return run is not None and run.pause(False)

    def _begin(self, run: ReconnectionRun) -> None:
        now = self._settings.clock.monotonic()
        with self._lock:
            if self._run is not None:
                raise RuntimeError("a reconnection is under way already; one at a time")
            if self._succeeded_at is not None and now - self._succeeded_at < self._stable_after:
                run.exponent = self._exponent
            self._run = run
            self._outcome = self._succeeded_at = None
            self._runs += 1

    def _end(self, run: ReconnectionRun, outcome: ReconnectionOutcome | None) -> None:
        if outcome is ReconnectionOutcome.SUCCEEDED:
            self._progress.attempt, self._progress.last_error = 0, None
        now = self._settings.clock.monotonic()
        with self._lock:
            self._run = None
            self._outcome = outcome
            if outcome is not None:
                self._outcomes[outcome] += 1
            if outcome is ReconnectionOutcome.SUCCEEDED:
                self._succeeded_at, self._exponent = now, run.reached


def _drive(run: ReconnectionRun) -> ReconnectionOutcome:
    retrying = tenacity.Retrying(
        retry=_is_retryable,
        wait=lambda state: run.next_delay(),
        stop=lambda state: run.is_over(),
        before_sleep=lambda state: run.announce(_upcoming(state)),
        sleep=run.count_down,
        reraise=True,
    )
    try:
        delay = run.next_delay()  # tenacity would begin with an attempt
        run.announce(delay)
        run.count_down(delay)
        retrying(run.attempt)
    except RunCancelled:
        return ReconnectionOutcome.CANCELLED
    except AttemptFailed as failed:
        if failed.error.is_retryable:
            return ReconnectionOutcome.EXHAUSTED
        return ReconnectionOutcome.NOT_RETRYABLE
    return ReconnectionOutcome.SUCCEEDED


def _is_retryable(state: tenacity.RetryCallState) -> bool:
    exc = state.outcome.exception() if state.outcome is not None else None
    return isinstance(exc, AttemptFailed) and exc.error.is_retryable


def _upcoming(state: tenacity.RetryCallState) -> float:
    return state.next_action.sleep if state.next_action is not None else 0.0


def _check_attempts(max_attempts: int | None) -> None:
    if max_attempts is None:
        return
    if isinstance(max_attempts, bool) or not isinstance(max_attempts, int):
        raise TypeError(f"max_attempts is an integer or None, not {max_attempts!r}")
    if max_attempts < 1:
        raise ValueError(f"max_attempts is at least 1, or None, not {max_attempts}")
