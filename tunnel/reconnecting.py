"""Bringing a lost connection back: the recovery, and when its next attempt is due.

The backoff says how long to wait; but the application, the network and the server may want the next
attempt at once, or not yet. A recovery is one long step of the tunnel's thread, so their wishes
have to reach it from other threads, in the midst of it (`Reconnecting.hear`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tunnel.clock import Clock
from tunnel.config import TunnelConfig
from tunnel.connection_recovery import ConnectionRecovery
from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.dial import DialInterrupted
from tunnel.errors import TunnelError
from tunnel.metrics_collector import MetricsCollector
from tunnel.network_follower import ObservedChange
from tunnel.reconnection_manager import ReconnectionAttempt, ReconnectionManager
from tunnel.request_queue import RequestQueue
from tunnel.requests import CancelConnect, Close, NetworkChange, Reconnect, Request


class Reconnecting:
    """Brings lost connections back. Unless it says otherwise, a method is for the tunnel's thread.

    Args:
        config: How often, and after which delays.
        tracker: Fires the recovery's triggers.
        queue: Is only counted; who is connected sees to it.
        metrics: Counts attempts.
        clock: The source of time.
        rng: The source of jitter; None: the system's.
        dial: Makes one attempt; it has failed if it raises.
        ping: Finds out within some seconds whether a connection works.
        interrupted: Asked before each wait and dial, when the mail is to be read that has come
            since; whether the next attempt is not wanted any more.

    Attributes:
        recovery: What recovers. For asking from any thread.
        is_urgent: Whether the next dial is wanted at once.
    """

    __slots__ = (
        "_attempt",
        "_clock",
        "_config",
        "_dial",
        "_interrupted",
        "_is_asked_to_wait",
        "_is_offline",
        "_manager",
        "_metrics",
        "_ping",
        "_queue",
        "_rng",
        "_tracker",
        "is_urgent",
        "recovery",
    )

    def __init__(
        self,
        config: TunnelConfig,
        *,
        tracker: ConnectionStateTracker,
        queue: RequestQueue,
        metrics: MetricsCollector,
        clock: Clock,
        rng: Random | None,
        dial: Callable[[], object],
        ping: Callable[[float], bool],
        interrupted: Callable[[], bool],
    ) -> None:
        self._tracker = tracker
        self._queue = queue
        self._metrics = metrics
        self._clock = clock
        self._rng = rng
        self._dial = dial
        self._ping = ping
        self._interrupted = interrupted
        self._attempt: ReconnectionAttempt | None = None
        self._is_offline = False  # the application has said so; see `hear`
        self._is_asked_to_wait = False  # by the server, when the last dial failed
        self.is_urgent = False
        self._use(config)

    # The recovery

    def begin(self, config: TunnelConfig) -> None:
        """A connection is to come back, by these settings."""
        if config is not self._config:
            self._use(config)

    def _use(self, config: TunnelConfig) -> None:
        self._config = config
        self._manager = ReconnectionManager(
            config.max_reconnect_attempts,
            config.reconnect_base_delay,
            config.reconnect_max_delay,
            config.jitter,
            stable_after=config.stable_after,
            clock=self._clock,
            rng=self._rng,
        )
        self.recovery = ConnectionRecovery(
            self._manager,
            self._tracker,
            self._connect,
            self._queue,
            ping=self._ping,
            before_wait=self._before_wait,
        )

    def run(self, error: TunnelError | None) -> None:
        """Recover, until that has succeeded or is given up.

        Args:
            error: What ended the last link, or the last attempt at one.
        """
        if error is None or self.is_urgent:
            self.recovery.attempt_recovery()
        else:
            self.recovery.attempt_recovery(error.message, error)

    def _before_wait(self, attempt: ReconnectionAttempt) -> None:
        self._attempt = attempt
        self._interrupted()
        if self.is_urgent:
            self._manager.retry_now()
        elif self._is_offline:
            self._manager.pause()

    def _connect(self) -> None:
        if self._interrupted():
            raise DialInterrupted("called off before it began")
        attempt = self._attempt
        assert attempt is not None
        success = False
        try:
            self._dial()
            success = True
        finally:
            self._metrics.record_reconnection(attempt.attempt, success, attempt.delay)

    # When the next attempt is due

    def hear(self, request: Request) -> None:
        """Tell a recovery that is under way what was asked for. From any thread.

        One at a time: whoever calls holds a lock, which guards what is known of the network, too.
        """
        if isinstance(request, (Close, CancelConnect)):
            self._manager.cancel()
        elif isinstance(request, Reconnect):
            self._manager.retry_now()
        elif isinstance(request, NetworkChange):
            if not isinstance(request, ObservedChange):
                self._is_offline = not request.is_connected
            if self.is_return(request):
                self._manager.retry_now()
            elif self._is_offline:
                self._manager.pause()

    def is_return(self, change: NetworkChange) -> bool:
        """Whether it is time for an attempt, since there is a network again.

        What is seen counts less than what the application says, and what the server has asked for.
        """
        if isinstance(change, ObservedChange) and (self._is_offline or self._is_asked_to_wait):
            return False
        return change.is_connected

    def note(self, change: NetworkChange) -> bool:
        """The network has changed in the midst of a dial, or before a wait.

        Returns:
            Whether a dial under way has lost its purpose.
        """
        is_return = self.is_return(change)
        if is_return or not isinstance(change, ObservedChange):
            self.is_urgent = is_return
        return is_return and not (isinstance(change, ObservedChange) and change.is_reminder)

    def note_dial(self) -> None:
        """A dial begins: it is the one that was wanted, and what the server has asked is over."""
        self.is_urgent = self._is_asked_to_wait = False

    def note_failure(self, error: TunnelError | None) -> None:
        """A dial has failed, or a link has ended; with this error the server may ask for time."""
        self._is_asked_to_wait = error is not None and error.retry_after is not None
