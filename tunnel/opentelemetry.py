"""A tunnel's metrics and spans through the API of OpenTelemetry.

Needs the extra `otel`, which has the API; what is done with the data is the affair of the SDK that
the program sets up. Nothing of this is imported unless the program imports this module::

    telemetry = TunnelTelemetry()        # the global providers, or those that are given
    telemetry.add("backup", service)

*Metrics* are those of `tunnel.metric_table`, as observable instruments: they are read when the SDK
collects them. *Spans* are made of events, each by itself without a parent: ``tunnel.connect`` lasts
from a `connect` to the connection or its failure, ``tunnel.recover`` from a loss to the connection
that is back or given up, with an event in it for each attempt.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import cast
from urllib.parse import urlsplit

from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.lifecycle import TunnelConnectionState
from tunnel.metric_sources import MetricSources
from tunnel.metric_table import METRICS, Kind, Metric, Summary, Value, readings, values
from tunnel.service import TunnelService

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
except ImportError as error:
    raise ImportError(
        "tunnel.opentelemetry needs opentelemetry-api: pip install 'resilient-tunnel[otel]'"
    ) from error

__all__ = ["TunnelTelemetry"]

_E = ConnectionEventType
_EPOCH = datetime.fromtimestamp(0, timezone.utc)
_UNITS = {"seconds": "s", "ratio": "1", "": "1"}
# By unit, Prometheus tells apart what here would have the same name.
_OWN_NAMES = {("connected", Kind.COUNTER): "connected_time"}
_ENDS = {_E.CONNECTED, _E.RECONNECTED, _E.DISCONNECTED, _E.ERROR}
_WORKING = (TunnelConnectionState.CONNECTING, TunnelConnectionState.RECONNECTING)


class TunnelTelemetry:
    """Metrics and spans of some tunnels. Safe to use from any thread.

    Tunnels are held weakly: one that is gone is told of no more.

    Args:
        meter_provider: Whose instruments are used; None: the global one.
        tracer_provider: Whose spans are used; None: the global one.
    """

    def __init__(
        self,
        *,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._sources = MetricSources()
        self._tracer = trace.get_tracer("tunnel", tracer_provider=tracer_provider)
        self._lock = threading.Lock()  # guards the one below
        # Held by the services, and weakly here: they lead back to them.
        self._spans: dict[str, weakref.ref[_Spans]] = {}
        meter = metrics.get_meter("tunnel", meter_provider=meter_provider)
        for metric in METRICS:
            _make_instruments(meter, metric, self._sources)

    def add(self, name: str, service: TunnelService) -> None:
        """Tell of a tunnel from now on, until it is removed or nobody holds it any more.

        Args:
            name: What it is called; unlike that of any other. It is the attribute ``tunnel``.
            service: The tunnel.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: The name is empty, or another tunnel has it.
        """
        if not isinstance(service, TunnelService):
            raise TypeError(f"only a TunnelService has spans, not a {type(service).__name__}")
        with self._lock:
            self._sources.add(name, service)
            present = self._present(name)
            if present is None or not present.is_of(service):
                self._spans[name] = weakref.ref(_Spans(name, self._tracer, service))

    def remove(self, name: str) -> None:
        """Tell of a tunnel no more; nothing happens if there is none of that name."""
        with self._lock:
            self._sources.remove(name)
            spans = self._present(name)
            self._spans.pop(name, None)
        if spans is not None:
            spans.stop()

    def _present(self, name: str) -> _Spans | None:
        reference = self._spans.get(name)
        return None if reference is None else reference()


# Metrics


def instrument_name(metric: Metric) -> str:
    """The name by which OpenTelemetry knows a metric."""
    if metric.kind is Kind.INFO:
        return f"tunnel.{metric.name}_info"
    return f"tunnel.{_OWN_NAMES.get((metric.name, metric.kind), metric.name)}"


def _make_instruments(meter: Meter, metric: Metric, sources: MetricSources) -> None:
    name, unit = instrument_name(metric), _UNITS.get(metric.unit, metric.unit)
    observe = functools.partial(_observe, metric, sources)
    if metric.kind is Kind.COUNTER:
        meter.create_observable_counter(name, [observe], unit, metric.text)
        return
    meter.create_observable_gauge(name, [observe], unit, metric.text)
    if metric.kind is Kind.SUMMARY:
        add_up = functools.partial(_add_up, metric, sources)
        text = f"{metric.text.partition(';')[0]}, added up."
        meter.create_observable_counter(f"{name}_sum", [add_up], unit, text)


def _observe(
    metric: Metric, sources: MetricSources, options: CallbackOptions
) -> Iterator[Observation]:
    for name, value in values(metric, readings(sources.present())):
        for labels, number in _numbers(metric, value):
            if number is not None:
                yield Observation(number, {"tunnel": name, **labels})


def _add_up(
    metric: Metric, sources: MetricSources, options: CallbackOptions
) -> Iterator[Observation]:
    for name, value in values(metric, readings(sources.present())):
        yield Observation(cast(Summary, value).total, {"tunnel": name})


def _numbers(metric: Metric, value: Value) -> Iterable[tuple[Mapping[str, str], float | None]]:
    """Each number of a value, and the labels that tell it from the others."""
    if isinstance(value, Summary):
        return [({metric.label: quantile}, number) for quantile, number in value.quantiles.items()]
    if metric.kind is Kind.INFO:
        return [(cast("Mapping[str, str]", value), 1.0)]
    if isinstance(value, Mapping):
        numbers = cast("Mapping[str, float]", value)
        return [({metric.label: kind}, number) for kind, number in numbers.items()]
    return [({}, value)]


# Spans


class _Spans:
    """Makes spans of one tunnel's events, which come one at a time.

    Args:
        name: The tunnel's.
        tracer: Makes them.
        service: The tunnel; it holds this, and not the other way round.
    """

    def __init__(self, name: str, tracer: Tracer, service: TunnelService) -> None:
        self._name = name
        self._tracer = tracer
        self._service = weakref.ref(service)
        self._lock = threading.Lock()  # guards the two below
        self._span: Span | None = None
        self._loss: ConnectionEvent | None = None  # where a recovery that follows begins
        self._unsubscribe = service.subscribe(self.note)

    def is_of(self, service: TunnelService) -> bool:
        """Whether it is this tunnel whose spans are made here."""
        return self._service() is service

    def stop(self) -> None:
        """Make no more; one that is under way ends now. From any thread."""
        self._unsubscribe()
        with self._lock:
            if self._span is not None:
                self._span.end()
                self._span = None

    def note(self, event: ConnectionEvent) -> None:
        """An event: a span begins or ends, or something has happened within it."""
        with self._lock:
            if event.type is _E.CONNECTING:
                self._loss = None
                self._begin("tunnel.connect", event)
            elif event.type is _E.RECONNECTING:
                self._note_attempt(event)
            elif event.type in _ENDS and not self._is_only_recorded(event):
                self._end(event)
            elif self._span is not None:
                self._span.add_event(event.type.value, {"message": event.message}, _time(event))

    def _is_only_recorded(self, event: ConnectionEvent) -> bool:
        """Whether an error did not end the work on a connection."""
        service = self._service()
        return event.type is _E.ERROR and service is not None and service.state in _WORKING

    def _begin(self, name: str, event: ConnectionEvent) -> Span:
        if self._span is not None:  # it was not told how that ended
            self._span.end(_time(event))
        self._span = span = self._tracer.start_span(
            name,
            context=Context(),  # whatever happens to be under way on this thread is no cause
            kind=SpanKind.CLIENT,
            attributes=self._attributes(event),
            start_time=_time(event),
        )
        return span

    def _attributes(self, event: ConnectionEvent) -> dict[str, str | int]:
        attributes: dict[str, str | int] = {"tunnel": self._name}
        if event.connection_id is not None:
            attributes["tunnel.connection_id"] = event.connection_id
        service = self._service()
        connection = service.tracker.connection if service is not None else None
        if connection is not None:
            url = urlsplit(connection.server_url)
            attributes["server.address"] = url.hostname or ""
            attributes["server.port"] = url.port or (443 if url.scheme == "wss" else 80)
        return attributes

    def _note_attempt(self, event: ConnectionEvent) -> None:
        span = self._span
        if span is None:
            loss = self._loss or event
            span = self._begin("tunnel.recover", loss)
            span.set_attribute("tunnel.loss", loss.message)
        facts = {name: value for name, value in event.metadata.items() if value is not None}
        if facts.get("attempt"):
            span.add_event("attempt", facts, _time(event))

    def _end(self, event: ConnectionEvent) -> None:
        self._loss = event if event.type is _E.DISCONNECTED else None
        span, self._span = self._span, None
        if span is None:
            return
        if event.dial_id is not None:
            span.set_attribute("tunnel.dial_id", event.dial_id)
        error = event.metadata.get("error")
        if error is not None:
            span.set_attribute("error.type", error["code"])
            span.set_status(Status(StatusCode.ERROR, event.message))
        else:
            span.add_event(event.type.value, {"message": event.message}, _time(event))
        span.end(_time(event))


def _time(event: ConnectionEvent) -> int:
    """Nanoseconds since 1970."""
    return (event.timestamp - _EPOCH) // timedelta(microseconds=1) * 1000
