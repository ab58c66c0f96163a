"""From the loss of a link to a link that works again: the whole way, step by step.

1. A loss is reported (`handle_disconnection`): the state becomes `disconnected`, error and event
   are recorded.
2. If automatic reconnection is on, the state becomes `reconnecting`, and the reconnection manager
   makes attempts. Each is recorded as an event (attempt n of m, in so many seconds).
3. When one succeeds, the state becomes `connected`, the attempts are counted anew, and the queue
   is flushed: its items are sent in order, each confirmed after it was sent.
4. When they are used up or no use, the state becomes `error`, and the event that says so notifies
   the user. When the recovery is cancelled, the state becomes `disconnected`.

A recovery runs in the thread that asks for it; no thread is made here. Another thread that asks
meanwhile waits for its end and shares the result. In the recovering thread itself (from `connect`,
`send` or a subscriber) a call is re-entrant: it is recorded and returns False at once.

A `send` that fails during the flush is a loss like any other: what was taken goes back to the front
of the queue, and the recovery goes on from step 1 (the exponent of the delay continues, because the
link did not hold). A link that comes up but takes nothing counts as a failed attempt, so that a
message which can never be sent does not keep it going for ever; and after an error that is not
retryable the state becomes `error` at once. The message stays in the queue in every case.

A `connect` that changes the state itself, as by `update_state`, is not second-guessed: if the state
is `connected` already, nothing more is fired; if the attempt fails after that, it is taken back.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

from loguru import logger

from statemachine import InvalidTransition
from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.errors import MaxReconnectAttemptsExceededError, TunnelError
from tunnel.events import ConnectionEventType
from tunnel.lifecycle import TunnelConnectionState, TunnelTrigger
from tunnel.log_line import LineLog
from tunnel.queue_flush import FlushableQueue, flush
from tunnel.reconnection_manager import (
    ReconnectionAttempt,
    ReconnectionManager,
    ReconnectionOutcome,
)

_S = TunnelConnectionState
_T = TunnelTrigger
_LOSSES = (_T.LOST.value, _T.DIAL_FAILED.value)


class _UnderWay:
    """A recovery, as long as it lasts. Guarded by the lock of `ConnectionRecovery`."""

    def __init__(self, thread: int, hurried: bool) -> None:
        self.thread = thread
        self.hurried = hurried
        self.cancelled = False
        self.loss: tuple[str, TunnelError | None] | None = None  # told while the queue was flushed
        self.succeeded = False  # to be read after `done`
        self.done = threading.Event()


class ConnectionRecovery:
    """Brings a lost connection back. All methods may be called from any thread.

    Args:
        reconnection_manager: Decides when to try, and when to stop.
        state_tracker: Knows the state, and records what happens.
        connect: Makes one attempt; it fails by raising.
        request_queue: What is flushed after a recovery.
        send: Sends one item of the queue; it fails by raising. None: the owner flushes.
        ping: Given a time-out in seconds, says whether the peer answers.
        before_wait: Told of each attempt before it is waited for, in the recovering thread.
        on_log: Called with each line that is logged.
    """

    def __init__(
        self,
        reconnection_manager: ReconnectionManager,
        state_tracker: ConnectionStateTracker,
        connect: Callable[[], object],
        request_queue: FlushableQueue | None = None,
        *,
        send: Callable[[Any], object] | None = None,
        ping: Callable[[float], bool] | None = None,
        before_wait: Callable[[ReconnectionAttempt], object] | None = None,
        on_log: Callable[[str], object] | None = None,
    ) -> None:
        self._manager = reconnection_manager
        self._tracker = state_tracker
        self._connect = connect
        self._queue = request_queue
        self._send = send
        self._ping = ping
        self._before_wait = before_wait
        self._log = LineLog(on_log)
        self._lock = threading.Lock()  # guards all below, and the wishes to the manager
        self._under_way: _UnderWay | None = None
        self._offline = False  # whether the last that was heard of the network is that it is gone

    # What is asked

    @property
    def is_recovering(self) -> bool:
        """Whether a recovery is under way."""
        return self._under_way is not None

    def get_recovery_stats(self) -> dict[str, Any]:
        """Return how things stand, ready for JSON."""
        last = self._manager.last_attempt_time
        return {
            "is_recovering": self.is_recovering,
            "reconnect_attempts": self._tracker.reconnect_attempts,
            "current_attempt": self._manager.current_attempt,
            "max_attempts": self._manager.max_attempts,
            "last_attempt_time": last and last.isoformat(),
            "connection_state": self._tracker.state.value,
            "queued_requests": 0 if self._queue is None else self._queue.size,
        }

    def test_connection(self, timeout: float = 5.0) -> bool:
        """Find out by a ping whether the link works, and record the result as a health check.

        Args:
            timeout: How many seconds the answer may take.

        Returns:
            Whether the peer answered in time. False without a ping while not connected.

        Raises:
            RuntimeError: The recovery was made without `ping`.
        """
        if self._ping is None:
            raise RuntimeError("a connection can only be tested if ConnectionRecovery has a ping=")
        if self._tracker.state is not _S.CONNECTED:
            healthy, message = False, f"not tested: {self._tracker.state.value}"
        else:
            try:
                healthy, message = bool(self._ping(timeout)), None
            except Exception as exc:
                healthy, message = False, TunnelError.from_exception(exc).message
        self._tracker.record_health_check(healthy, message)
        return healthy

    # What has happened

    def handle_disconnection(
        self, reason: str, error: Exception | None = None, auto_reconnect: bool = True
    ) -> bool:
        """Take note that the link is lost, and recover from it.

        Report each loss once. There is no recovery if `auto_reconnect` or the tracker's is false,
        if the application was closing the connection, if the connection was given up before, or if
        the error is one that trying again does not mend; that leads to the state `error`.

        Args:
            reason: What happened, for people.
            error: The error behind it, if there is one.
            auto_reconnect: Whether to recover.

        Returns:
            Whether the link is up again.
        """
        cause = None if error is None else TunnelError.from_exception(error)
        self._log("disconnected: {}", reason)
        with self._lock:
            under_way = self._under_way
            if under_way is not None and auto_reconnect and self._tracker.state is _S.CONNECTED:
                under_way.loss = (reason, cause)
        before = self._tracker.state
        recoverable = self._note_loss(reason, cause)
        if under_way is not None and under_way.thread == threading.get_ident():
            return False
        if not auto_reconnect or not recoverable or before in (_S.CLOSING, _S.ERROR):
            return False
        return self._recover(False, reason, cause)

    def attempt_recovery(
        self, reason: str = "a recovery was asked for", error: TunnelError | None = None
    ) -> bool:
        """Recover now, whether or not automatic reconnection is on, or was given up.

        A link that is up is given up first. While the application is closing it, nothing is done.

        Args:
            reason: Why, for people: it is logged with the first attempt (requirement 1.10).
            error: What ended the link, if that is known; it may ask for patience.

        Returns:
            Whether the link is up again. A re-entrant call records an error and returns False.
        """
        with self._lock:
            under_way = self._under_way
            if under_way is None:
                self._offline = False  # whoever asks by hand may know better
        if under_way is not None and under_way.thread == threading.get_ident():
            self._tracker.record(
                ConnectionEventType.ERROR, "a recovery was asked for from within itself"
            )
            return False
        return self._recover(True, reason, error)

    def handle_network_change(self, is_connected: bool, network_type: str | None = None) -> bool:
        """Take note that the network is gone or back.

        Gone: the countdown of a recovery under way stops. Back: a recovery under way makes its next
        attempt at once, counted anew; if the connection was lost or the attempts were used up, and
        automatic reconnection is on, a recovery begins with an attempt at once (requirement 1.8).

        Args:
            is_connected: Whether there is a network.
            network_type: What kind, such as "wifi".

        Returns:
            Whether the link is up. A recovery that begins here runs in the calling thread; one that
            is under way is only hurried, and not waited for.
        """
        text = "the network is back" if is_connected else "the network is gone"
        with self._lock:
            self._offline = not is_connected
            under_way = self._under_way
            if under_way is not None:
                under_way.hurried = is_connected
                self._pass_on_wishes(under_way)
        self._log("{}", text)
        self._tracker.record(
            ConnectionEventType.NETWORK_CHANGED,
            text,
            {"is_connected": bool(is_connected), "network_type": network_type},
        )
        if is_connected and under_way is None and self._is_lost():
            return self._recover(False, text, None, hurried=True)
        return self._tracker.state is _S.CONNECTED

    def cancel_recovery(self) -> bool:
        """End the recovery under way: a wait at once, an attempt when it has failed.

        Returns:
            Whether there was one.
        """
        with self._lock:
            if self._under_way is None:
                return False
            self._under_way.cancelled = True
            self._manager.cancel()
            return True

    # The recovery

    def _recover(
        self, manual: bool, reason: str, error: TunnelError | None, hurried: bool = False
    ) -> bool:
        """Recover, or share the recovery that is under way in another thread."""
        mine = _UnderWay(threading.get_ident(), hurried=hurried)
        with self._lock:
            under_way = self._under_way
            if under_way is None:
                self._under_way = mine
        if under_way is not None:
            under_way.done.wait()
            return under_way.succeeded
        try:
            self._run(mine, manual, reason, error)
        except BaseException:  # an interrupt: nobody works on the connection any more
            self._fire(_T.CANCEL, message="the recovery was interrupted")
            raise
        finally:
            with self._lock:
                if self._under_way is mine:
                    self._under_way = None
            mine.done.set()
        return mine.succeeded

    def _run(self, mine: _UnderWay, manual: bool, reason: str, error: TunnelError | None) -> None:
        fruitless = 0  # links in a row that took nothing of the queue
        while not mine.cancelled and self._begin(manual, reason, error):
            self._log("recovering: {}", reason)
            if not self._manager.attempt_reconnection(
                self._connect,
                reason=reason,
                error=error,
                before_wait=lambda attempt: self._on_attempt(mine, attempt),
            ):
                if not self._give_up(mine):
                    return
                reason, error = "the network is back", None
                continue
            self._fire(_T.OPENED)
            sent, failure = self._flush()
            fruitless = 0 if sent or failure is None else fruitless + 1
            if failure is not None:
                self._note_failed_flush(mine, failure, fruitless)
            loss = self._settle(mine)
            if loss is None:
                return
            (reason, error), manual = loss, False

    def _settle(self, mine: _UnderWay) -> tuple[str, TunnelError | None] | None:
        """Decide, after a flush, whether the recovery is over.

        Returns:
            Why it is not: the loss to recover from; else None.
        """
        with self._lock:
            mine.succeeded = self._tracker.state is _S.CONNECTED
            if mine.loss is None or self._tracker.state is not _S.DISCONNECTED:
                self._under_way = None  # what is lost from now on is the next recovery's
                return None
            loss, mine.loss = mine.loss, None
            return loss

    def _begin(self, manual: bool, reason: str, error: TunnelError | None) -> bool:
        """Go to `reconnecting`. Returns whether that is where the state is then."""
        state = self._tracker.state
        if state is _S.CONNECTED:
            self._fire(_T.LOST, message=reason, error=error)
        elif state is _S.CONNECTING:
            self._fire(_T.DIAL_FAILED, message=reason, error=error)
        if self._tracker.state in (_S.DISCONNECTED, _S.ERROR):
            self._fire(_T.RECOVER, manual=manual, quiet=True, message=reason)
        return self._tracker.state is _S.RECONNECTING

    def _is_still_wanted(self) -> bool:
        """Take back what a failed `connect` did to the state.

        Returns:
            Whether the state is `reconnecting`; if not, somebody has called the recovery off.
        """
        if self._tracker.state is _S.CONNECTED:
            self._fire(_T.LOST, message="the attempt failed after all")
        if self._tracker.state is _S.DISCONNECTED and self._last_trigger() in _LOSSES:
            self._fire(_T.RECOVER, manual=True, quiet=True)
        return self._tracker.state is _S.RECONNECTING

    def _on_attempt(self, mine: _UnderWay, attempt: ReconnectionAttempt) -> None:
        """Count and record an attempt before it is waited for (requirement 1.5)."""
        if mine.cancelled or not self._is_still_wanted():
            self._manager.cancel()
            return
        if attempt.attempt == 1:
            self._tracker.reset_reconnect_attempts()
        self._tracker.increment_reconnect_attempts()
        of = "" if attempt.max_attempts is None else f" of {attempt.max_attempts}"
        self._tracker.record(
            ConnectionEventType.RECONNECTING,
            f"attempt {attempt.attempt}{of} in {attempt.delay:.1f} s: {attempt.reason}",
            {
                "attempt": attempt.attempt,
                "max_attempts": attempt.max_attempts,
                "delay": attempt.delay,
                "reason": attempt.reason,
            },
        )
        with self._lock:
            mine.loss = None  # of a link that is forgotten by now
            self._pass_on_wishes(mine)
        if self._before_wait is not None:
            try:
                self._before_wait(attempt)
            except Exception:
                logger.exception("before_wait raised; the recovery goes on")

    def _pass_on_wishes(self, under_way: _UnderWay) -> None:
        """Tell the manager, which forgets with each run what it was told before. Needs the lock."""
        if self._offline:
            self._manager.pause()
        elif under_way.hurried:
            under_way.hurried = not self._manager.retry_now()

    def _give_up(self, mine: _UnderWay) -> bool:
        """Leave `reconnecting` after attempts in vain.

        Returns:
            Whether to begin again, because the network came back in the last moment.
        """
        outcome, error = self._manager.outcome, self._manager.last_error
        if self._is_still_wanted():
            if outcome is ReconnectionOutcome.CANCELLED:
                self._fire(_T.CANCEL, message="the recovery was cancelled")
            elif outcome is ReconnectionOutcome.EXHAUSTED:
                self._fire(_T.EXHAUSTED, error=_exhausted(self._manager.current_attempt, error))
            else:
                self._fire(_T.FAIL, error=error)
        with self._lock:
            again = mine.hurried and outcome is ReconnectionOutcome.EXHAUSTED
            if not again:
                self._under_way = None
            return again

    def _flush(self) -> tuple[int, TunnelError | None]:
        """Send what is queued. Returns how many items went out, and what ended it early."""
        if self._queue is None or self._send is None:
            return 0, None
        sent, failure = flush(self._queue, self._send, lambda: self._tracker.state is _S.CONNECTED)
        self._log("flushed: {} sent, {} left", sent, self._queue.size)
        return sent, failure

    def _note_failed_flush(self, mine: _UnderWay, error: TunnelError, fruitless: int) -> None:
        reason = "the queue could not be flushed"
        limit = self._manager.max_attempts
        if error.is_retryable and (limit is None or fruitless < limit):
            self._note_loss(reason, error)
            with self._lock:
                mine.loss = (reason, error)
            return
        if error.is_retryable:
            error = _exhausted(fruitless, error)
        if self._tracker.state is _S.CONNECTED or self._is_still_wanted():
            self._fire(_T.FAIL, message=reason, error=error)

    def _note_loss(self, reason: str, error: TunnelError | None) -> bool:
        """Leave `connected`, or where else a link was. Returns whether trying again may help."""
        state = self._tracker.state
        is_final = error is not None and not error.is_retryable
        if is_final and state in (_S.CONNECTED, _S.CONNECTING):
            if self._fire(_T.FAIL, message=reason, error=error):
                return False
        elif state in (_S.CONNECTED, _S.CLOSING):
            self._fire(_T.LOST, message=reason, error=error)
        elif state is _S.CONNECTING:
            self._fire(_T.DIAL_FAILED, message=reason, error=error)
        if error is not None:
            self._tracker.record_error(error)
        return not is_final

    def _is_lost(self) -> bool:
        """Whether there is no link although nobody wished that."""
        history = self._tracker.machine.history
        if not history:
            return False
        if self._tracker.state is _S.ERROR:
            return isinstance(history[-1].data.get("error"), MaxReconnectAttemptsExceededError)
        return (
            self._tracker.state is _S.DISCONNECTED
            and history[-1].trigger in _LOSSES
            and history[-1].source != _S.CLOSING
        )

    def _last_trigger(self) -> str | None:
        history = self._tracker.machine.history
        return history[-1].trigger if history else None

    def _fire(self, trigger: TunnelTrigger, **data: Any) -> bool:
        """Fire unless somebody else has moved the state meanwhile. Returns whether it changed."""
        try:
            return self._tracker.fire(trigger, **data)
        except InvalidTransition as exc:
            logger.debug("not fired: {}", exc)
            return False


def _exhausted(attempts: int, error: TunnelError | None) -> MaxReconnectAttemptsExceededError:
    # A copy, which has no traceback: histories keep this error for long.
    return MaxReconnectAttemptsExceededError(attempts=attempts, last_error=copy.copy(error))
