"""A tunnel's metrics in the text format of Prometheus (requirement 3.4).

Needs the extra `metrics`. One tunnel or many: each has a name, which becomes the label `tunnel`::

    text = render({"backup": service.metrics})

    collector = TunnelCollector({"backup": service.metrics})     # to be served with other metrics
    prometheus_client.REGISTRY.register(collector)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tunnel.metrics_collector import (
    ConnectionQuality,
    MetricsCollector,
    TunnelHealthMetrics,
    TunnelMetrics,
)

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        Metric,
        Sample,
        SummaryMetricFamily,
    )
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "tunnel.prometheus needs prometheus-client: pip install 'resilient-tunnel[metrics]'"
    ) from error

# Name (a counter's is shown with "_total" behind it), help, and the field of the snapshot.
_COUNTERS = (
    ("messages_sent", "Messages written to the link.", "messages_sent"),
    ("messages_received", "Messages read from the link.", "messages_received"),
    ("reconnections", "Recoveries that succeeded.", "reconnection_count"),
    ("reconnection_attempts", "Attempts to reconnect.", "reconnection_attempts"),
    ("reconnection_delay_seconds", "Time waited before attempts.", "reconnection_delay"),
    ("connected_seconds", "Time with a connection.", "total_uptime"),
)
_GAUGES = (
    ("queue_size", "Messages in the queue.", "queue_size"),
    ("uptime_seconds", "Age of the present connection; 0 without one.", "uptime"),
    ("request_success_ratio", "Part of the requests that were answered.", "success_rate"),
)
_HEALTH_GAUGES = (
    ("connected", "1 with a connection, 0 without.", "is_connected"),
    ("round_trip_seconds", "Mean round trip of the last heartbeats.", "latency"),
    ("ping_loss_ratio", "Part of the last heartbeats not answered.", "packet_loss"),
)


class TunnelCollector(Collector):
    """A custom collector, for `prometheus_client.CollectorRegistry.register`.

    May be scraped from any thread.

    Args:
        collectors: Name of each tunnel and its metrics. It is looked at anew for each scrape, so
            that tunnels may be added and removed.
    """

    def __init__(self, collectors: Mapping[str, MetricsCollector]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        """Take a snapshot of every tunnel and yield it, one metric after the other."""
        collectors = dict(self._collectors)
        metrics = {name: collector.snapshot() for name, collector in collectors.items()}
        health = {name: collector.health() for name, collector in collectors.items()}
        yield from _fields(CounterMetricFamily, _COUNTERS, metrics)
        yield from _fields(GaugeMetricFamily, _GAUGES, metrics)
        yield from _fields(GaugeMetricFamily, _HEALTH_GAUGES, health)
        yield _quality(health)
        yield _errors(metrics)
        yield from _requests(metrics)


def render(collectors: Mapping[str, MetricsCollector]) -> str:
    """The metrics of some tunnels as a page that Prometheus can scrape.

    Args:
        collectors: Name of each tunnel and its metrics.

    Returns:
        Text format 0.0.4, to be served as ``prometheus_client.CONTENT_TYPE_LATEST``.
    """
    registry = CollectorRegistry()
    registry.register(TunnelCollector(collectors))
    return generate_latest(registry).decode()


def _fields(
    family: type[CounterMetricFamily | GaugeMetricFamily],
    table: tuple[tuple[str, str, str], ...],
    snapshots: Mapping[str, TunnelMetrics] | Mapping[str, TunnelHealthMetrics],
) -> Iterator[Metric]:
    for metric, text, field in table:
        metrics = family(f"tunnel_{metric}", text, labels=["tunnel"])
        for name, snapshot in snapshots.items():
            metrics.add_metric([name], _number(getattr(snapshot, field)))
        yield metrics


def _quality(health: Mapping[str, TunnelHealthMetrics]) -> Metric:
    family = GaugeMetricFamily(
        "tunnel_connection_quality",
        "1 for the grade that the connection has, 0 for the others.",
        labels=["tunnel", "quality"],
    )
    for name, snapshot in health.items():
        for grade in ConnectionQuality:
            family.add_metric([name, grade.value], float(snapshot.quality is grade))
    return family


def _errors(metrics: Mapping[str, TunnelMetrics]) -> Metric:
    family = CounterMetricFamily("tunnel_errors", "Errors by code.", labels=["tunnel", "code"])
    for name, snapshot in metrics.items():
        for code, count in snapshot.error_counts.items():
            family.add_metric([name, code], count)
    return family


def _requests(metrics: Mapping[str, TunnelMetrics]) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(
        "tunnel_requests", "Requests that have ended.", labels=["tunnel", "outcome"]
    )
    duration = "tunnel_request_duration_seconds"
    summary = SummaryMetricFamily(duration, "How long requests took.", labels=["tunnel"])
    for name, snapshot in metrics.items():
        outcomes.add_metric([name, "success"], snapshot.successful_requests)
        outcomes.add_metric([name, "failure"], snapshot.failed_requests)
        for quantile, value in (("0.95", snapshot.p95_latency), ("0.99", snapshot.p99_latency)):
            labels = {"tunnel": name, "quantile": quantile}
            summary.samples.append(Sample(duration, labels, _number(value)))
        summary.add_metric([name], snapshot.total_requests, snapshot.total_latency)
    yield outcomes
    yield summary


def _number(value: float | None) -> float:
    """As Prometheus has it: what is not known is not a number."""
    return math.nan if value is None else float(value)
