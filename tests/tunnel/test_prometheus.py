from __future__ import annotations

import importlib
import math
import re
import sys
import threading

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from tunnel import TunnelConfig, TunnelConnectionState, TunnelService
from tunnel.metric_table import METRICS, Kind
from tunnel.metrics_collector import MetricsCollector
from tunnel.prometheus import TunnelCollector, exposed_name, render
from tunnel.testing import FakeClock, ScriptedTransport, drive

SECRET = "geheim4711"

pytestmark = pytest.mark.requirement("3.4")


def parsed(page: str) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, in alphabetical order of the labels."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_a_page_shows_all_numbers() -> None:
    """Each number of both snapshots is there, by a conventional name, and a parser agrees."""
    clock = FakeClock()
    metrics = MetricsCollector(clock=clock)
    metrics.record_connected()
    clock.advance(5.0)
    metrics.record_disconnected()
    metrics.record_connected()
    clock.advance(2.0)
    metrics.record_reconnection(1, False, 2.0)
    metrics.record_reconnection(2, True, 4.0)
    metrics.record_request(0.5, True)
    metrics.record_request(1.5, False, "TUNNEL_007")
    metrics.record_messages_sent(64)
    metrics.record_messages_received(63)
    metrics.record_queue_size(3)
    metrics.record_latency(0.06)
    assert parsed(render({"a": metrics})) == {
        ("tunnel_messages_sent_total", "a"): 64,
        ("tunnel_messages_received_total", "a"): 63,
        ("tunnel_reconnections_total", "a"): 1,
        ("tunnel_reconnection_attempts_total", "a"): 2,
        ("tunnel_reconnection_delay_seconds_total", "a"): 6,
        ("tunnel_connected_seconds_total", "a"): 7,
        ("tunnel_queue_size", "a"): 3,
        ("tunnel_uptime_seconds", "a"): 2,
        ("tunnel_request_success_ratio", "a"): 0.5,
        ("tunnel_connected", "a"): 1,
        ("tunnel_round_trip_seconds", "a"): 0.06,
        ("tunnel_ping_loss_ratio", "a"): 0,
        ("tunnel_connection_quality", "excellent", "a"): 0,
        ("tunnel_connection_quality", "good", "a"): 1,
        ("tunnel_connection_quality", "fair", "a"): 0,
        ("tunnel_connection_quality", "poor", "a"): 0,
        ("tunnel_connection_quality", "unknown", "a"): 0,
        ("tunnel_errors_total", "TUNNEL_007", "a"): 1,
        ("tunnel_requests_total", "success", "a"): 1,
        ("tunnel_requests_total", "failure", "a"): 1,
        ("tunnel_request_duration_seconds", "0.95", "a"): 1.5,
        ("tunnel_request_duration_seconds", "0.99", "a"): 1.5,
        ("tunnel_request_duration_seconds_count", "a"): 2,
        ("tunnel_request_duration_seconds_sum", "a"): 2,
    }


def test_types_and_help_are_given() -> None:
    """Counters, gauges and the summary are declared as what they are, each once."""
    page = render({"a": MetricsCollector(), "b": MetricsCollector()})
    assert page.count("# TYPE tunnel_messages_sent_total counter\n") == 1
    assert page.count("# TYPE tunnel_queue_size gauge\n") == 1
    assert page.count("# TYPE tunnel_request_duration_seconds summary\n") == 1
    assert page.count("# HELP ") == page.count("# TYPE ")


def test_several_tunnels_are_told_apart_by_their_label() -> None:
    """Each tunnel has its samples, whatever its name is made of."""
    busy, odd = MetricsCollector(), 'quo"ted\\ \n name'
    busy.record_messages_sent(1)
    samples = parsed(render({"busy": busy, odd: MetricsCollector()}))
    assert samples["tunnel_messages_sent_total", "busy"] == 1
    assert samples["tunnel_messages_sent_total", odd] == 0


def test_what_is_not_known_is_not_a_number() -> None:
    """Before anything was measured, latencies and loss are NaN, and the quality is unknown."""
    samples = parsed(render({"new": MetricsCollector()}))
    for name in ("tunnel_round_trip_seconds", "tunnel_ping_loss_ratio"):
        assert math.isnan(samples[name, "new"])
    assert math.isnan(samples["tunnel_request_duration_seconds", "0.99", "new"])
    assert samples["tunnel_connection_quality", "unknown", "new"] == 1


def test_no_tunnel_gives_a_page_without_samples() -> None:
    """A process whose tunnels are all gone can still be scraped."""
    assert parsed(render({})) == {}


def test_a_registry_looks_at_each_scrape() -> None:
    """A registered collector shows the present numbers, and tunnels that came later."""
    tunnels: dict[str, MetricsCollector] = {}
    registry = CollectorRegistry(auto_describe=True)
    registry.register(TunnelCollector(tunnels))
    tunnels["late"] = metrics = MetricsCollector()
    for count in (1, 2):
        metrics.record_messages_sent(1)
        shown = registry.get_sample_value("tunnel_messages_sent_total", {"tunnel": "late"})
        assert shown == count


def driven(**options: object) -> tuple[TunnelService, ScriptedTransport]:
    """A service in virtual time, and its network."""
    clock = FakeClock()
    network = ScriptedTransport(clock)
    config = TunnelConfig(jitter=0, max_queue_size=7)
    return TunnelService(config, clock=clock, new_transport=network, **options), network


def test_a_service_shows_more_than_its_metrics() -> None:
    """State, circuit, queue and what a session does are shown of a service, as they are now."""
    service, network = driven()
    service.send("queued")
    samples = parsed(render({"a": service}))
    assert samples["tunnel_queue_size", "a"] == 1
    assert samples["tunnel_queue_capacity", "a"] == 7
    assert samples["tunnel_connection_info", "", "", "a"] == 1
    assert math.isnan(samples["tunnel_last_activity_timestamp_seconds", "a"])
    assert samples["tunnel_state", "disconnected", "a"] == 1
    service.connect(f"wss://me:{SECRET}@a.example:99/{SECRET}?token={SECRET}")
    network.send("waits")
    drive(service, timeout=1.0)
    page = render({"a": service})
    samples = parsed(page)
    id = service.tracker.connection.id
    assert samples["tunnel_connection_info", id, "wss://a.example:99", "a"] == 1
    assert samples["tunnel_queue_size", "a"] == 0
    assert samples["tunnel_last_activity_timestamp_seconds", "a"] == service._clock.time() - 1.0
    assert {key[1]: value for key, value in samples.items() if key[0] == "tunnel_state"} == {
        state.value: float(state is TunnelConnectionState.CONNECTED)
        for state in TunnelConnectionState
    }
    assert samples["tunnel_circuit_state", "closed", "a"] == 1
    assert samples["tunnel_circuit_state", "open", "a"] == 0
    for name in ("recovery_attempts", "messages_unacknowledged", "requests_outstanding"):
        assert samples[f"tunnel_{name}", "a"] == 0
    for name in ("messages_expired", "messages_replayed", "duplicates_dropped"):
        assert samples[f"tunnel_{name}_total", "a"] == 0
    assert samples["tunnel_messages_waiting", "a"] == 1
    assert SECRET not in page
    service.disconnect()


def test_attempts_are_shown_while_they_are_made() -> None:
    """During a recovery the state and the number of the attempt are there to be seen."""
    service, network = driven()
    service.connect("ws://a.example/")
    network.refuse()
    network.cut()
    seen: list[tuple[float, float]] = []

    def look() -> None:
        samples = parsed(render({"a": service}))
        state = samples["tunnel_state", "reconnecting", "a"]
        seen.append((state, samples["tunnel_recovery_attempts", "a"]))
        network.accept()

    service._clock.call_at(service._clock.monotonic() + 3.0, look)
    drive(service, lambda: service.state is TunnelConnectionState.CONNECTED and seen, timeout=60)
    assert seen == [(1.0, 2.0)]
    service.disconnect()


def test_openmetrics_is_valid_too() -> None:
    """A scraper that asks for OpenMetrics gets a page that the strict parser takes."""
    service, _ = driven()
    service.connect("ws://a.example/")
    registry = CollectorRegistry()
    TunnelCollector({"a": service, "b": MetricsCollector()}, registry=registry)
    page = openmetrics.generate_latest(registry).decode()
    families = {f.name: f.type for f in openmetrics_parser.text_string_to_metric_families(page)}
    assert families["tunnel_messages_sent"] == "counter"
    assert families["tunnel_connection"] == "info"
    assert families["tunnel_state"] == "gauge"
    assert families["tunnel_request_duration_seconds"] == "summary"
    assert len(families) == len(METRICS)
    service.disconnect()


def test_names_are_conventional() -> None:
    """Names are of the usual letters, with base units and `_total` at their ends, each once."""
    names = [exposed_name(metric) for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric, name in zip(METRICS, names, strict=True):
        assert re.fullmatch(r"tunnel_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert not re.search("milli|micro|minutes|percent|count", name)
        assert metric.text[0].isupper() or metric.text[0] == "1"
        assert metric.text.endswith(".")


def test_a_registry_of_ones_own_or_a_given_one() -> None:
    """A collector registers where it is told to, once; in no registry unless it is told to."""
    registry = CollectorRegistry()
    collector = TunnelCollector(registry=registry)
    metrics = MetricsCollector()
    collector.add("a", metrics)
    assert registry.get_sample_value("tunnel_connected", {"tunnel": "a"}) == 0
    assert REGISTRY.get_sample_value("tunnel_connected", {"tunnel": "a"}) is None
    with pytest.raises(ValueError, match="tunnel_state"):
        TunnelCollector(registry=registry)


def test_a_scrape_does_not_disturb_and_is_not_disturbed() -> None:
    """Tunnels come and go in other threads while the page is rendered, without an error."""
    collector = TunnelCollector()
    registry = CollectorRegistry()
    registry.register(collector)
    is_over = threading.Event()
    failures: list[BaseException] = []

    def come_and_go(name: str) -> None:
        try:
            while not is_over.is_set():
                metrics = MetricsCollector()
                collector.add(name, metrics)
                metrics.record_error("TUNNEL_001")
                collector.remove(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=come_and_go, args=(f"t{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            generate_latest(registry)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_without_the_extra_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Importing the module without prometheus-client names the extra."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "tunnel.prometheus")
    with pytest.raises(ImportError, match=r"pip install 'resilient-tunnel\[metrics\]'"):
        importlib.import_module("tunnel.prometheus")
