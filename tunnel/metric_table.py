"""What can be told of a tunnel in numbers: one table for all that export metrics.

`METRICS` has a row for each metric. `tunnel.prometheus` and `tunnel.opentelemetry` translate it,
and the table in the documentation is compared with it. A number is read when somebody asks for it:
nothing here is called while messages flow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from tunnel.circuit_breaker import CircuitState
from tunnel.lifecycle import TunnelConnectionState
from tunnel.metrics_collector import (
    ConnectionQuality,
    MetricsCollector,
    TunnelHealthMetrics,
    TunnelMetrics,
)
from tunnel.service import TunnelService

Source: TypeAlias = TunnelService | MetricsCollector
"""Whose metrics are shown. A collector by itself knows less than the service that it is of."""


class NotKnownError(Exception):
    """A collector by itself does not know that; its service would."""


class Reading:
    """The numbers of one tunnel at one moment; each group is taken when it is first asked for.

    Args:
        source: The tunnel. Other threads may use it meanwhile.
    """

    def __init__(self, source: Source) -> None:
        self._service = source if isinstance(source, TunnelService) else None
        self._collector = source.metrics if isinstance(source, TunnelService) else source

    @cached_property
    def counted(self) -> TunnelMetrics:
        """What was counted."""
        return self._collector.snapshot()

    @cached_property
    def health(self) -> TunnelHealthMetrics:
        """How good the connection is."""
        return self._collector.health()

    @cached_property
    def statistics(self) -> Mapping[str, Any]:
        """What the service knows besides.

        Raises:
            NotKnownError: There is only a collector.
        """
        return self.service.statistics()

    @property
    def service(self) -> TunnelService:
        """The service.

        Raises:
            NotKnownError: There is only a collector.
        """
        if self._service is None:
            raise NotKnownError
        return self._service


class Kind(Enum):
    """What a metric is. The value is what the documentation calls it."""

    COUNTER = "counter"  # only grows
    GAUGE = "gauge"
    STATES = "gauge for each state"  # 1 for the present one, 0 for the others
    SUMMARY = "summary"
    INFO = "info"  # 1; the facts are in the labels


@dataclass(frozen=True)
class Summary:
    """Quantiles over a window (None: nothing measured yet), and the sum and number of all."""

    quantiles: Mapping[str, float | None]
    total: float
    count: int


Value: TypeAlias = float | Mapping[str, float] | Mapping[str, str] | Summary | None
"""A number; one for each value of the label; the facts of an `INFO`; a summary; None: not known."""


class Metric(NamedTuple):
    """One row of the table.

    Args:
        name: Without prefix, unit and the suffix of its kind.
        unit: ``seconds`` or ``ratio``; or what is counted, for OpenTelemetry, in braces.
        kind: What it is.
        text: A sentence that says what it says.
        read: Takes the value out of a reading; `NotKnownError`: this source does not have it.
        label: What tells its values apart, beside the tunnel's name; of an `INFO`, its facts.
    """

    name: str
    unit: str
    kind: Kind
    text: str
    read: Callable[[Reading], Value]
    label: str = ""


def _counted(field: str) -> Callable[[Reading], Value]:
    return lambda reading: _number(getattr(reading.counted, field))


def _health(field: str) -> Callable[[Reading], Value]:
    return lambda reading: _number(getattr(reading.health, field))


def _known(name: str) -> Callable[[Reading], Value]:
    return lambda reading: _number(reading.statistics[name])


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _one_of(states: type[Enum], present: str) -> Mapping[str, float]:
    return {state.value: float(state.value == present) for state in states}


def _state(reading: Reading) -> Mapping[str, float]:
    return _one_of(TunnelConnectionState, reading.statistics["connection_state"])


def _circuit(reading: Reading) -> Mapping[str, float]:
    return _one_of(CircuitState, reading.statistics["circuit_state"])


def _quality(reading: Reading) -> Mapping[str, float]:
    return _one_of(ConnectionQuality, reading.health.quality.value)


def _capacity(reading: Reading) -> float:
    return float(reading.service.config.max_queue_size)


def _activity(reading: Reading) -> float | None:
    connection = reading.service.tracker.connection
    moment = connection.last_activity_at if connection is not None else None
    return None if moment is None else moment.timestamp()


def _connection(reading: Reading) -> Mapping[str, str]:
    connection = reading.service.tracker.connection
    if connection is None:
        return {"connection_id": "", "server": ""}
    url = urlsplit(connection.server_url)
    # No path: it may name what is nobody's business.
    server = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    return {"connection_id": connection.id, "server": server}


def _errors(reading: Reading) -> Mapping[str, float]:
    return {code: float(count) for code, count in reading.counted.error_counts.items()}


def _requests(reading: Reading) -> Mapping[str, float]:
    counted = reading.counted
    return {
        "success": float(counted.successful_requests),
        "failure": float(counted.failed_requests),
    }


def _duration(reading: Reading) -> Summary:
    counted = reading.counted
    quantiles = {"0.95": counted.p95_latency, "0.99": counted.p99_latency}
    return Summary(quantiles, counted.total_latency, counted.total_requests)


_COUNTER, _GAUGE, _STATES = Kind.COUNTER, Kind.GAUGE, Kind.STATES

METRICS: tuple[Metric, ...] = (
    # The connection
    Metric("state", "", _STATES, "1 for the state of the connection.", _state, "state"),
    Metric("connected", "", _GAUGE, "1 with a connection, 0 without.", _health("is_connected")),
    Metric(
        "uptime",
        "seconds",
        _GAUGE,
        "Age of the present connection; 0 without one.",
        _counted("uptime"),
    ),
    Metric("connected", "seconds", _COUNTER, "Time with a connection.", _counted("total_uptime")),
    Metric(
        "last_activity_timestamp",
        "seconds",
        _GAUGE,
        "When the peer was last heard, as Unix time.",
        _activity,
    ),
    Metric(
        "connection",
        "",
        Kind.INFO,
        "The present, or last, connection: its id in the logs, and the server without path.",
        _connection,
        "connection_id, server",
    ),
    Metric("errors", "{error}", _COUNTER, "Errors by code.", _errors, "code"),
    # Recovery
    Metric(
        "reconnections",
        "{reconnection}",
        _COUNTER,
        "Recoveries that succeeded.",
        _counted("reconnection_count"),
    ),
    Metric(
        "reconnection_attempts",
        "{attempt}",
        _COUNTER,
        "Attempts to reconnect.",
        _counted("reconnection_attempts"),
    ),
    Metric(
        "reconnection_delay",
        "seconds",
        _COUNTER,
        "Time waited before attempts.",
        _counted("reconnection_delay"),
    ),
    Metric(
        "recovery_attempts",
        "{attempt}",
        _GAUGE,
        "Attempts of the recovery under way, or of one that gave up; 0 once connected.",
        _known("reconnect_attempts"),
    ),
    # Its quality
    Metric(
        "connection_quality",
        "",
        _STATES,
        "1 for the grade that the connection has.",
        _quality,
        "quality",
    ),
    Metric(
        "round_trip",
        "seconds",
        _GAUGE,
        "Mean round trip of the last heartbeats.",
        _health("latency"),
    ),
    Metric(
        "ping_loss",
        "ratio",
        _GAUGE,
        "Part of the last heartbeats that was not answered.",
        _health("packet_loss"),
    ),
    # Messages
    Metric(
        "messages_sent",
        "{message}",
        _COUNTER,
        "Messages written to the link.",
        _counted("messages_sent"),
    ),
    Metric(
        "messages_received",
        "{message}",
        _COUNTER,
        "Messages read from the link.",
        _counted("messages_received"),
    ),
    Metric(
        "messages_expired",
        "{message}",
        _COUNTER,
        "Messages that expired in the queue.",
        _known("expired_requests"),
    ),
    Metric(
        "messages_unacknowledged",
        "{message}",
        _GAUGE,
        "Messages that a resuming peer has not acknowledged.",
        _known("unacknowledged"),
    ),
    Metric(
        "messages_replayed",
        "{message}",
        _COUNTER,
        "Messages written again after a resume.",
        _known("replayed"),
    ),
    Metric(
        "duplicates_dropped",
        "{message}",
        _COUNTER,
        "Messages that a resuming peer sent again, and that were here already.",
        _known("duplicates_dropped"),
    ),
    Metric(
        "messages_waiting",
        "{message}",
        _GAUGE,
        "Messages read and not yet taken from messages().",
        _known("messages_waiting"),
    ),
    Metric("queue_size", "{message}", _GAUGE, "Messages in the queue.", _counted("queue_size")),
    Metric(
        "queue_capacity", "{message}", _GAUGE, "Messages that the queue has room for.", _capacity
    ),
    # Requests
    Metric("requests", "{request}", _COUNTER, "Requests that have ended.", _requests, "outcome"),
    Metric(
        "requests_outstanding",
        "{request}",
        _GAUGE,
        "Requests that have not ended.",
        _known("outstanding_requests"),
    ),
    Metric(
        "request_success",
        "ratio",
        _GAUGE,
        "Part of the requests that was answered; 1 before the first.",
        _counted("success_rate"),
    ),
    Metric(
        "request_duration",
        "seconds",
        Kind.SUMMARY,
        "How long requests took; quantiles over the last 1,024.",
        _duration,
        "quantile",
    ),
    Metric(
        "circuit_state",
        "",
        _STATES,
        "1 for the state of the circuit breaker of requests.",
        _circuit,
        "state",
    ),
)
"""All metrics, in the order in which they are shown."""


def readings(sources: Mapping[str, Source]) -> dict[str, Reading]:
    """A reading of each tunnel, by its name."""
    return {name: Reading(source) for name, source in sources.items()}


def values(metric: Metric, taken: Mapping[str, Reading]) -> list[tuple[str, Value]]:
    """One metric of some tunnels: name and value of each of those that have it."""
    found: list[tuple[str, Value]] = []
    for name, reading in taken.items():
        try:
            found.append((name, metric.read(reading)))
        except NotKnownError:
            continue
    return found
