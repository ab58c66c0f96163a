"""A tunnel's metrics for Prometheus (requirement 3.4).

Needs the extra `metrics`. One tunnel or many: each has a name, which becomes the label `tunnel`::

    from prometheus_client import REGISTRY

    collector = TunnelCollector(registry=REGISTRY)      # or a registry of your own
    collector.add("backup", service)

    page = render({"backup": service})                  # without any registry

Numbers are taken when they are scraped. `tunnel.metric_table` has the table of all metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast

from tunnel.metric_sources import MetricSources
from tunnel.metric_table import METRICS, Kind, Metric, Source, Summary, Value, readings, values

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client import Metric as Family
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        InfoMetricFamily,
        Sample,
        SummaryMetricFamily,
    )
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "tunnel.prometheus needs prometheus-client: pip install 'resilient-tunnel[metrics]'"
    ) from error

__all__ = ["TunnelCollector", "render"]


class TunnelCollector(MetricSources, Collector):
    """A custom collector: shows the tunnels that it was given, and those that were added.

    May be scraped from any thread. A tunnel that was added is held weakly; when the program has let
    go of it, its series end.

    Args:
        given: Tunnels by name. It is looked at anew for each scrape, so that tunnels may be added
            and removed there, too.
        registry: Where to register, such as ``prometheus_client.REGISTRY``; None: nowhere.

    Raises:
        ValueError: The registry has such a collector already.
    """

    def __init__(
        self,
        given: Mapping[str, Source] | None = None,
        *,
        registry: CollectorRegistry | None = None,
    ) -> None:
        super().__init__(given)
        if registry is not None:
            registry.register(self)

    def describe(self) -> Iterator[Family]:
        """Each metric without values, for a registry to know their names."""
        for metric in METRICS:
            yield _family(metric)

    def collect(self) -> Iterator[Family]:
        """Take a snapshot of every tunnel and yield it, one metric after the other."""
        taken = readings(self.present())
        for metric in METRICS:
            family = _family(metric)
            for name, value in values(metric, taken):
                _add(family, metric, name, value)
            yield family


def render(tunnels: Mapping[str, Source]) -> str:
    """The metrics of some tunnels as a page that Prometheus can scrape.

    Args:
        tunnels: Name of each tunnel, and the service, or its metrics: those do not know all.

    Returns:
        Text format 0.0.4, to be served as ``text/plain; version=0.0.4; charset=utf-8``.
    """
    registry = CollectorRegistry()
    registry.register(TunnelCollector(tunnels))
    return generate_latest(registry).decode()


def exposed_name(metric: Metric) -> str:
    """The name by which Prometheus knows a metric; of a summary, that of its quantiles."""
    suffix = {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(metric.kind, "")
    return _name(metric) + suffix


def _name(metric: Metric) -> str:
    """Without the suffix that the client adds."""
    unit = f"_{metric.unit}" if metric.unit in ("seconds", "ratio") else ""
    return f"tunnel_{metric.name}{unit}"


def _family(metric: Metric) -> Family:
    name, text = _name(metric), metric.text
    if metric.kind is Kind.COUNTER:
        return CounterMetricFamily(name, text)
    if metric.kind is Kind.SUMMARY:
        return SummaryMetricFamily(name, text)
    if metric.kind is Kind.INFO:
        return InfoMetricFamily(name, text)
    return GaugeMetricFamily(name, text)


def _add(family: Family, metric: Metric, name: str, value: Value) -> None:
    """Add the samples of one tunnel."""
    labels, shown = {"tunnel": name}, exposed_name(metric)
    if isinstance(value, Summary):
        for quantile, seconds in value.quantiles.items():
            family.samples.append(
                Sample(shown, {**labels, metric.label: quantile}, _number(seconds))
            )
        family.samples.append(Sample(f"{shown}_count", labels, value.count))
        family.samples.append(Sample(f"{shown}_sum", labels, value.total))
    elif metric.kind is Kind.INFO:
        facts = cast("Mapping[str, str]", value)
        family.samples.append(Sample(shown, {**labels, **facts}, 1.0))
    elif isinstance(value, Mapping):
        for kind, number in cast("Mapping[str, float]", value).items():
            family.samples.append(Sample(shown, {**labels, metric.label: kind}, number))
    else:
        family.samples.append(Sample(shown, labels, _number(value)))


def _number(value: float | None) -> float:
    """As Prometheus has it: what is not known is not a number."""
    return math.nan if value is None else value
