from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import weakref
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tunnel import TunnelConfig, TunnelConnectionState, TunnelService
from tunnel.errors import ConnectRefusedError, MaxReconnectAttemptsExceededError
from tunnel.metric_table import METRICS
from tunnel.metrics_collector import MetricsCollector
from tunnel.opentelemetry import TunnelTelemetry, instrument_name
from tunnel.testing import FakeClock, ScriptedTransport, drive

S = TunnelConnectionState


class World:
    """A tunnel in virtual time, and what is told of it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.network = ScriptedTransport(self.clock)
        config = TunnelConfig(jitter=0, **settings)
        self.service = TunnelService(config, clock=self.clock, new_transport=self.network)
        self.reader = InMemoryMetricReader()
        self.exporter = InMemorySpanExporter()
        tracing = TracerProvider()
        tracing.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = TunnelTelemetry(
            meter_provider=MeterProvider([self.reader]), tracer_provider=tracing
        )
        self.telemetry.add("backup", self.service)

    def until(self, state: S) -> None:
        assert drive(self.service, lambda: self.service.state is state, timeout=1000)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def points(self) -> dict[str, dict[frozenset[tuple[str, Any]], float]]:
        """Each instrument's values by their attributes, but for the tunnel's name."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: {
                frozenset(set(point.attributes.items()) - {("tunnel", "backup")}): point.value
                for point in metric.data.data_points
            }
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


ALONE: frozenset[tuple[str, Any]] = frozenset()


def test_metrics_are_those_of_the_table() -> None:
    """Each row is an instrument with the numbers of this moment; the unknown has no value."""
    world = World()
    world.service.connect("wss://a.example/secret/path")
    world.network.send("hello")
    drive(world.service, timeout=5.0)
    points = world.points()
    assert points["tunnel.messages_received"] == {ALONE: 1}
    assert points["tunnel.uptime"] == points["tunnel.connected_time"] == {ALONE: 5.0}
    assert points["tunnel.connected"] == {ALONE: 1}
    assert points["tunnel.state"][frozenset({("state", "connected")})] == 1
    assert points["tunnel.state"][frozenset({("state", "error")})] == 0
    assert points["tunnel.requests"][frozenset({("outcome", "success")})] == 0
    assert points["tunnel.request_duration_sum"] == {ALONE: 0}
    assert "tunnel.round_trip" not in points
    assert "tunnel.request_duration" not in points
    (facts,) = points["tunnel.connection_info"]
    assert dict(facts)["server"] == "wss://a.example"
    world.service.metrics.record_request(0.5, True)
    duration = world.points()["tunnel.request_duration"]
    assert duration[frozenset({("quantile", "0.99")})] == 0.5
    names = [instrument_name(metric) for metric in METRICS]
    assert len(set(names)) == len(names)
    assert set(points) <= {*names, "tunnel.request_duration_sum"}
    world.service.disconnect()


def test_a_connect_is_a_span() -> None:
    """It lasts from the call to the connection, and says what was connected to, and its ids."""
    world = World()
    world.service.connect("wss://me:secret@a.example:99/secret?token=secret")
    (span,) = world.spans
    connection = world.service.tracker.connection
    assert connection is not None
    assert (span.name, span.kind, span.parent) == ("tunnel.connect", SpanKind.CLIENT, None)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "tunnel": "backup",
        "tunnel.connection_id": connection.id,
        "tunnel.dial_id": f"{connection.id}-1",
        "server.address": "a.example",
        "server.port": 99,
    }
    assert [event.name for event in span.events] == ["connected"]
    world.service.disconnect()
    assert len(world.spans) == 1


def test_a_recovery_is_a_span_with_its_attempts() -> None:
    """It lasts from the loss to the connection that is back; each attempt is an event in it."""
    world = World()
    world.service.connect("ws://a.example/")
    drive(world.service, timeout=10.0)
    lost_at = world.clock.time()
    world.network.refuse()
    world.network.cut()
    world.clock.call_at(world.clock.monotonic() + 3.0, world.network.accept)
    world.clock.call_at(
        world.clock.monotonic() + 1.0, lambda: world.service.handle_network_change(False)
    )
    world.clock.call_at(
        world.clock.monotonic() + 20.0, lambda: world.service.handle_network_change(True)
    )
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    _, span = world.spans
    assert span.name == "tunnel.recover"
    assert span.start_time == round(lost_at * 1e9)
    assert span.end_time == round(world.clock.time() * 1e9)
    happened = [event.name for event in span.events]
    assert (happened[0], happened[-1]) == ("attempt", "reconnected")
    assert "network_changed" in happened
    first = dict(span.events[0].attributes or {})
    assert (first["attempt"], first["max_attempts"], first["delay"]) == (1, 10, 2.0)
    attributes = dict(span.attributes or {})
    assert attributes["tunnel.loss"] == "the connection ended without a close frame"
    assert attributes["server.port"] == 80
    world.service.disconnect()


def test_failures_are_failed_spans() -> None:
    """A dial that fails ends its span with the error's code, and so do attempts in vain."""
    world = World(max_reconnect_attempts=2)
    world.network.refuse()
    with pytest.raises(MaxReconnectAttemptsExceededError):
        world.service.connect("ws://a.example/")
    connect, recover = world.spans
    assert (connect.name, recover.name) == ("tunnel.connect", "tunnel.recover")
    errors = (ConnectRefusedError, MaxReconnectAttemptsExceededError)
    for span, error in zip(world.spans, errors, strict=True):
        assert span.status.status_code is StatusCode.ERROR
        assert dict(span.attributes or {})["error.type"] == error.code
    assert recover.start_time == connect.end_time


def test_a_recovery_that_is_called_off_is_no_failure() -> None:
    """Who disconnects while the tunnel recovers ends the span, and nothing has failed."""
    world = World()
    world.service.connect("ws://a.example/")
    world.network.refuse()
    world.network.cut()
    world.clock.call_at(world.clock.monotonic() + 1.0, lambda: world.service.disconnect(timeout=0))
    world.until(S.RECONNECTING)
    world.until(S.DISCONNECTED)
    span = world.spans[-1]
    assert span.name == "tunnel.recover"
    assert span.status.status_code is StatusCode.UNSET
    assert span.events[-1].name == "disconnected"


def test_an_error_that_is_only_recorded_ends_nothing() -> None:
    """What a program records while the tunnel recovers is an event in the span."""
    world = World()
    world.service.connect("ws://a.example/")
    world.network.refuse()
    world.network.cut()
    world.clock.call_at(
        world.clock.monotonic() + 1.0,
        lambda: world.service.tracker.record_error(OSError("noted")),
    )
    world.clock.call_at(world.clock.monotonic() + 1.5, world.network.accept)
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    _, span = world.spans
    assert [event.name for event in span.events] == ["attempt", "error", "reconnected"]
    world.service.disconnect()


def test_a_tunnel_can_be_removed() -> None:
    """Then neither numbers nor spans are told; a span under way ends."""
    world = World()
    world.service.connect("ws://a.example/")
    world.network.refuse()
    world.network.cut()
    world.clock.call_at(world.clock.monotonic() + 1.0, lambda: world.telemetry.remove("backup"))
    world.clock.call_at(world.clock.monotonic() + 1.5, world.network.accept)
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    assert [span.name for span in world.spans] == ["tunnel.connect", "tunnel.recover"]
    assert world.points() == {}
    world.telemetry.remove("backup")
    world.telemetry.add("backup", world.service)
    world.telemetry.add("backup", world.service)
    world.network.cut()
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    assert len(world.spans) == 3
    world.service.disconnect()


def test_a_tunnel_that_is_gone_is_told_of_no_more() -> None:
    """Telemetry keeps no tunnel alive, and its name can be used again."""
    world = World()
    world.service.connect("ws://a.example/")
    world.service.disconnect()
    gone = weakref.ref(world.service)
    del world.service
    gc.collect()
    assert gone() is None
    assert world.points() == {}
    clock = FakeClock()
    successor = TunnelService(clock=clock, new_transport=ScriptedTransport(clock))
    world.telemetry.add("backup", successor)
    successor.connect("ws://b.example/")
    assert dict(world.spans[-1].attributes or {})["server.address"] == "b.example"
    successor.disconnect()


def test_wrong_arguments_are_named() -> None:
    """What has no spans, and a name that is taken, are refused in a sentence."""
    world = World()
    with pytest.raises(TypeError, match="only a TunnelService has spans, not a MetricsCollector"):
        world.telemetry.add("b", MetricsCollector())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'backup' already"):
        world.telemetry.add("backup", TunnelService(clock=world.clock))


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the module without the API names the extra."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "tunnel.opentelemetry")
    with pytest.raises(ImportError, match=r"pip install 'resilient-tunnel\[otel\]'"):
        importlib.import_module("tunnel.opentelemetry")


def test_nothing_is_imported_unless_asked_for() -> None:
    """Importing and using `tunnel` loads neither OpenTelemetry nor prometheus-client."""
    program = (
        "import sys, tunnel; tunnel.TunnelService().statistics(); "
        "print([m for m in sys.modules if m.split('.')[0] in ('opentelemetry', 'prometheus_client')"
        " or m.startswith('tunnel.metric_')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
