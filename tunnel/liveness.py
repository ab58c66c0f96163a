"""Is the peer of a link still there? What is asked of it, and what its silence means.

A heartbeat asks at an interval; a *probe* asks because somebody wants to know; a *challenge* is a
probe that has to be answered within a moment. Whatever may be wrong comes as a suspicion, by the
timers' thread. It is judged by the tunnel's thread, which knows what is still unread.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable

from tunnel.clock import Clock
from tunnel.config import TunnelConfig
from tunnel.errors import HeartbeatTimeoutError
from tunnel.interruptible import Event
from tunnel.log_context import LogContext
from tunnel.metrics_collector import MetricsCollector
from tunnel.timers import TimerHandle, timers_of
from tunnel.websocket_heartbeat import TEXT_PING, Pingable, PingMode, WebSocketHeartbeat

_CHALLENGE = 2.0  # seconds for a sign of life after the network has changed (requirement 1.8)


class Probe:
    """A ping that somebody waits for.

    Args:
        sent_at: When it goes out, on the clock's `monotonic()`.

    Attributes:
        sent_at: The same.
        done: Set when the answer is there, or will never be.
        answered: Whether it is there.
    """

    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.done: threading.Event = Event()
        self.answered = False

    def finish(self, answered: bool) -> None:
        """Tell whoever waits."""
        self.answered = answered
        self.done.set()


class Liveness:
    """The watch over one link. `probe` is for any thread, all else for the tunnel's.

    Args:
        connection: Sends the pings.
        ping_mode: How a peer's sign of life is asked for.
        clock: The source of time.
        metrics: Counts round trips, and pings that were lost.
        on_suspicion: Called on the timers' thread when `judge` should be asked.

    Attributes:
        heartbeat: What `start` has started; None before, and if heartbeats are off.
    """

    __slots__ = (
        "_challenges",
        "_clock",
        "_connection",
        "_is_over",
        "_lost_pings",
        "_metrics",
        "_on_suspicion",
        "_probes",
        "_text_mode",
        "heartbeat",
    )

    def __init__(
        self,
        connection: Pingable,
        ping_mode: PingMode,
        clock: Clock,
        metrics: MetricsCollector,
        on_suspicion: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._text_mode = ping_mode == "text"
        self._clock = clock
        self._metrics = metrics
        self._on_suspicion = on_suspicion
        self._lost_pings = 0  # as far as they were counted
        self._challenges: list[tuple[Probe, TimerHandle]] = []
        self._probes: dict[bytes, Probe] = {}
        self._is_over = False  # set before the probes are looked through
        self.heartbeat: WebSocketHeartbeat | None = None

    def start(self, config: TunnelConfig, log_context: LogContext | None) -> None:
        """Begin to ping, if heartbeats are on. Once.

        Args:
            config: How often to ping, and how long a silence may be.
            log_context: What the heartbeat's log lines carry; None: nothing.
        """
        if config.ping_interval is None:
            return
        self.heartbeat = WebSocketHeartbeat(
            self._connection,
            ping_interval=config.ping_interval,
            pong_timeout=config.pong_timeout,
            mode=config.ping_mode,
            on_connection_lost=self._on_suspicion,
            clock=self._clock,
            log_context=log_context,
        )
        self.heartbeat.start()

    def stop(self) -> None:
        """The link is over: watch no more. `abandon_probes` is to follow."""
        self._is_over = True
        if self.heartbeat is not None:
            self.heartbeat.stop()
        for _, timer in self._challenges:
            timer.cancel()

    def abandon_probes(self) -> None:
        """Tell those who wait for an answer that there will be none."""
        for probe in tuple(self._probes.values()):
            probe.finish(False)

    def probe(self) -> Probe:
        """Send a ping whose answer finishes the probe. Never waits."""
        payload, probe = os.urandom(8), Probe(self._clock.monotonic())
        self._probes[payload] = probe
        if self._is_over:
            probe.finish(False)
        if self._text_mode:
            self._connection.send(TEXT_PING)
        else:
            self._connection.ping(payload)
        return probe

    def challenge(self) -> None:
        """Ask for a sign of life within a moment, not within a whole pong time-out."""
        probe = self.probe()
        if self.heartbeat is not None:
            when = self._clock.monotonic() + _CHALLENGE
            timer = timers_of(self._clock).call_at(when, self._on_suspicion)
            self._challenges.append((probe, timer))

    def note_pong(self, payload: bytes | None) -> None:
        """A pong came: see `Heartbeat.pong`."""
        sent_at = -math.inf  # when the ping went out that is answered, if it is known
        if self.heartbeat is not None:
            round_trip = self.heartbeat.on_pong(payload)
            if round_trip is not None:
                self._metrics.record_latency(round_trip)
                sent_at = self._clock.monotonic() - round_trip
            self._count_lost_pings(self.heartbeat.missed_pongs)
        for key in self._answered_probes(payload, sent_at):
            self._probes.pop(key).finish(True)

    def judge(self, has_unread: Callable[[], bool]) -> HeartbeatTimeoutError | None:
        """Nothing was heard of the peer for too long, it seems; but bytes may prove that wrong.

        Those that wait unread; and those that were read since, while the suspicion was on its way.

        Args:
            has_unread: Whether bytes wait; asked only if that matters.

        Returns:
            Why the link is lost; None: it is not, and a full time-out begins anew.
        """
        if self.heartbeat is None:
            return None
        now, silence = self._clock.monotonic(), self.heartbeat.silence
        is_silent = self.heartbeat.is_silent
        for challenge in tuple(self._challenges):
            probe = challenge[0]
            if now - probe.sent_at >= 0.99 * _CHALLENGE:  # less, since points in time are rounded
                self._challenges.remove(challenge)
                # Any byte since then is an answer.
                is_silent |= not probe.answered and now - silence <= probe.sent_at
        if not is_silent or has_unread():
            self.heartbeat.start()
            return None
        self._count_lost_pings(self.heartbeat.missed_pongs)
        return HeartbeatTimeoutError(f"no sign of life for {self.heartbeat.silence:.1f} s")

    def _answered_probes(self, payload: bytes | None, sent_at: float) -> list[bytes]:
        """The probes that a pong answers: a peer may answer only the latest of several pings.

        See RFC 6455, section 5.5.3. The latest may also be one of the heartbeat's.
        """
        probes = list(self._probes)  # oldest first; other threads may add some
        if payload is None:  # in text mode nobody knows which
            return probes
        if payload in probes:
            return probes[: probes.index(payload) + 1]
        return [key for key in probes if self._probes[key].sent_at < sent_at]

    def _count_lost_pings(self, missed: int) -> None:
        for _ in range(missed - self._lost_pings):
            self._metrics.record_ping_lost()
        self._lost_pings = max(missed, self._lost_pings)
