from __future__ import annotations

import importlib
import math
import sys

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tunnel.metrics_collector import MetricsCollector
from tunnel.prometheus import TunnelCollector, render
from tunnel.testing import FakeClock

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


def test_without_the_extra_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Importing the module without prometheus-client names the extra."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "tunnel.prometheus")
    with pytest.raises(ImportError, match=r"pip install 'resilient-tunnel\[metrics\]'"):
        importlib.import_module("tunnel.prometheus")
