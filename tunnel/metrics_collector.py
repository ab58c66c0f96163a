"""What a tunnel has done and how well it does it, counted cheaply and in bounded memory.

What is measured
----------------

*Requests*: totals since the start; average and percentiles over the last 1,024 of them, failed ones
included, because a time-out is a long wait too. *Heartbeat*: the last 100 pings, whichever
connection they belonged to, so that a link which keeps dying shows it; the round trip is the mean
of the last ten that were answered, the loss the part of the 100 that were not. *Errors*: by code,
64 different ones; whatever else comes is counted as "other".

What was never measured is None, not zero. The exception is the success rate, which is 1.0 until a
request fails: nothing has gone wrong yet.

Threads
-------

All methods may be called from any thread, but two only from one thread at a time:
`record_messages_sent` and `record_messages_received` are on the hot path and take no lock. Their
callers see to that anyway: whoever writes holds the writer's role, and one thread reads.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tunnel.clock import SYSTEM_CLOCK, Clock

_REQUEST_WINDOW = 1024
_PING_WINDOW = 100
_ROUND_TRIP_WINDOW = 10
_MAX_ERROR_TYPES = 64
_LOST = math.inf  # the round trip of a ping that was not answered


class ConnectionQuality(str, Enum):
    """How good a connection feels (requirement 3.5); `unknown` before anything was measured."""

    EXCELLENT = "excellent"
    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    UNKNOWN = "unknown"


# Requirement 3.5: both must be below the bounds; the first row that fits counts.
_BOUNDS = (
    (ConnectionQuality.EXCELLENT, 0.050, 0.01),
    (ConnectionQuality.GOOD, 0.100, 0.03),
    (ConnectionQuality.FAIR, 0.200, 0.05),
)


def connection_quality(latency: float | None, loss: float | None) -> ConnectionQuality:
    """Judge a connection by requirement 3.5.

    Args:
        latency: Round trip in seconds; None: no ping was answered.
        loss: The part of the pings that were not answered, 0 to 1; None: no ping is known of.

    Returns:
        The best grade whose bounds both values are below; `UNKNOWN` without any ping, `POOR` if
        there were some and none was answered.
    """
    if loss is None:
        return ConnectionQuality.UNKNOWN
    if latency is None:
        return ConnectionQuality.POOR
    for grade, latency_bound, loss_bound in _BOUNDS:
        if latency < latency_bound and loss < loss_bound:
            return grade
    return ConnectionQuality.POOR


@dataclass(frozen=True)
class TunnelMetrics:
    """The numbers of requirement 3.3 at one moment. Durations are seconds.

    Args:
        total_requests: Requests that have ended, one way or the other.
        successful_requests: Those that were answered.
        failed_requests: Those that were not.
        success_rate: The part that was answered, 0 to 1; 1.0 as long as there were none.
        average_latency: Mean over the window; None without requests, as for the percentiles.
        p95_latency: What 95 % of the window's requests did not exceed (nearest rank).
        p99_latency: The same for 99 %.
        total_latency: All requests' latencies added up since the start.
        reconnection_count: Recoveries that succeeded.
        reconnection_attempts: Attempts to reconnect, those that failed included.
        reconnection_delay: Time spent in waiting before attempts, added up.
        most_attempts: Attempts that the longest recovery took, or has taken so far.
        uptime: How long the present connection has lasted; 0.0 without one.
        total_uptime: How long there has been a connection, added up.
        error_counts: Failed requests and other errors by code.
        queue_size: What is queued.
        messages_sent: Messages of the application that were written, each once; no requests.
        messages_received: Messages read from it.
    """

    total_requests: int
    successful_requests: int
    failed_requests: int
    success_rate: float
    average_latency: float | None
    p95_latency: float | None
    p99_latency: float | None
    total_latency: float
    reconnection_count: int
    reconnection_attempts: int
    reconnection_delay: float
    most_attempts: int
    uptime: float
    total_uptime: float
    error_counts: Mapping[str, int]
    queue_size: int
    messages_sent: int
    messages_received: int

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON, by the same names."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TunnelHealthMetrics:
    """How the connection is at one moment (requirement 3.5).

    Args:
        quality: The grade.
        is_connected: Whether there is a connection.
        latency: Mean round trip of the last answered pings in seconds; None without any.
        packet_loss: The part of the last pings that were not answered, 0 to 1; None without any.
        uptime: Seconds that the present connection has lasted; 0.0 without one.
        reconnect_count: Recoveries that succeeded.
        queue_size: What is queued.
    """

    quality: ConnectionQuality
    is_connected: bool
    latency: float | None
    packet_loss: float | None
    uptime: float
    reconnect_count: int
    queue_size: int

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON, by the same names."""
        return {**dataclasses.asdict(self), "quality": self.quality.value}


class MetricsCollector:
    """Counts what happens to a tunnel; see the module's text for what and from which threads.

    Args:
        clock: Measures the uptime; the system's if not given.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = SYSTEM_CLOCK if clock is None else clock
        # The lock guards all that follows but the last three, which are stored without it.
        self._lock = threading.Lock()
        self._requests = _Window(_REQUEST_WINDOW)
        self._pings = _Window(_PING_WINDOW)
        self._total_latency = 0.0
        self._succeeded = 0
        self._failed = 0
        self._errors: dict[str, int] = {}
        self._reconnections = 0
        self._attempts = 0
        self._delay = 0.0
        self._most_attempts = 0
        self._connected_at: float | None = None
        self._earlier_uptime = 0.0
        self._queue_size = 0
        self._sent = 0
        self._received = 0

    def record_request(self, latency: float, success: bool, error_type: str | None = None) -> None:
        """Count a request that has ended.

        Args:
            latency: Seconds from the call to its end.
            success: Whether it was answered.
            error_type: Why not: an error code, for instance; without one it counts as "unknown".

        Raises:
            ValueError: `latency` is negative or not finite.
        """
        latency = _duration("latency", latency)
        with self._lock:
            self._requests.add(latency)
            self._total_latency += latency
            if success:
                self._succeeded += 1
            else:
                self._failed += 1
                self._count_error(error_type or "unknown")

    def record_error(self, error_type: str) -> None:
        """Count an error that is not that of a request, such as a lost connection, by its code."""
        with self._lock:
            self._count_error(error_type)

    def record_reconnection(self, attempt: int, success: bool, delay: float) -> None:
        """Count an attempt to reconnect.

        Args:
            attempt: Its number within the recovery, from 1.
            success: Whether it brought the connection back.
            delay: Seconds that were waited before it.

        Raises:
            ValueError: `attempt` is less than 1, or `delay` negative or not finite.
        """
        if attempt < 1:
            raise ValueError(f"attempt must be at least 1, not {attempt}")
        delay = _duration("delay", delay)
        with self._lock:
            self._attempts += 1
            self._delay += delay
            self._most_attempts = max(self._most_attempts, attempt)
            if success:
                self._reconnections += 1

    def record_connected(self) -> None:
        """A connection has begun, first or not; one that was there counts as ended."""
        with self._lock:
            now = self._clock.monotonic()
            self._earlier_uptime += self._uptime(now)
            self._connected_at = now

    def record_disconnected(self) -> None:
        """The connection has ended; nothing happens if there was none."""
        with self._lock:
            self._earlier_uptime += self._uptime(self._clock.monotonic())
            self._connected_at = None

    def record_queue_size(self, size: int) -> None:
        """Note how many messages are queued now. Takes no lock: the last one to say so counts."""
        self._queue_size = size

    def record_latency(self, seconds: float) -> None:
        """Note that a ping of the heartbeat was answered.

        Args:
            seconds: Its round trip.

        Raises:
            ValueError: `seconds` is negative or not finite.
        """
        seconds = _duration("seconds", seconds)
        with self._lock:
            self._pings.add(seconds)

    def record_ping_lost(self) -> None:
        """Note that a ping of the heartbeat was not answered."""
        with self._lock:
            self._pings.add(_LOST)

    def record_messages_sent(self, count: int) -> None:
        """Count messages written to the link. One thread at a time; takes no lock."""
        self._sent += count

    def record_messages_received(self, count: int) -> None:
        """Count messages read from the link. One thread at a time; takes no lock."""
        self._received += count

    def snapshot(self) -> TunnelMetrics:
        """All numbers as they are now."""
        with self._lock:
            latencies = self._requests.values()
            total = self._succeeded + self._failed
            uptime = self._uptime(self._clock.monotonic())
            counted = TunnelMetrics(
                total_requests=total,
                successful_requests=self._succeeded,
                failed_requests=self._failed,
                success_rate=self._succeeded / total if total else 1.0,
                average_latency=None,
                p95_latency=None,
                p99_latency=None,
                total_latency=self._total_latency,
                reconnection_count=self._reconnections,
                reconnection_attempts=self._attempts,
                reconnection_delay=self._delay,
                most_attempts=self._most_attempts,
                uptime=uptime,
                total_uptime=self._earlier_uptime + uptime,
                error_counts=dict(self._errors),
                queue_size=self._queue_size,
                messages_sent=self._sent,
                messages_received=self._received,
            )
        if not latencies:
            return counted
        latencies.sort()  # a tenth of a millisecond, so not under the lock
        return dataclasses.replace(
            counted,
            average_latency=_mean(latencies),
            p95_latency=_percentile(latencies, 95),
            p99_latency=_percentile(latencies, 99),
        )

    def health(self) -> TunnelHealthMetrics:
        """How the connection is now."""
        with self._lock:
            pings = self._pings.values()
            connected = self._connected_at is not None
            uptime = self._uptime(self._clock.monotonic())
            reconnections, queue_size = self._reconnections, self._queue_size
        answered = [ping for ping in pings if ping != _LOST][-_ROUND_TRIP_WINDOW:]
        latency = _mean(answered) if answered else None
        loss = pings.count(_LOST) / len(pings) if pings else None
        return TunnelHealthMetrics(
            quality=connection_quality(latency, loss),
            is_connected=connected,
            latency=latency,
            packet_loss=loss,
            uptime=uptime,
            reconnect_count=reconnections,
            queue_size=queue_size,
        )

    # The lock is held by the callers of these.

    def _uptime(self, now: float) -> float:
        return 0.0 if self._connected_at is None else now - self._connected_at

    def _count_error(self, error_type: str) -> None:
        if error_type not in self._errors and len(self._errors) >= _MAX_ERROR_TYPES:
            error_type = "other"
        self._errors[error_type] = self._errors.get(error_type, 0) + 1


class _Window:
    """The last so many values. Takes 8 bytes for each that it holds, none before."""

    __slots__ = ("_next", "_size", "_values")

    def __init__(self, size: int) -> None:
        self._size = size
        self._values = array("d")
        self._next = 0  # where the oldest value is, once the window is full

    def add(self, value: float) -> None:
        if len(self._values) < self._size:
            self._values.append(value)
        else:
            self._values[self._next] = value
            self._next = (self._next + 1) % self._size

    def values(self) -> list[float]:
        """A copy, oldest first."""
        return [*self._values[self._next :], *self._values[: self._next]]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The nearest rank: the smallest value that `percent` % of all do not exceed."""
    return ordered[-(-percent * len(ordered) // 100) - 1]


def _duration(name: str, seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} must be a number of seconds from 0, not {seconds}")
    return seconds
