from __future__ import annotations

import gc
from typing import Any

import pytest

from tunnel import TunnelService
from tunnel.forks import disown
from tunnel.metric_sources import MetricSources
from tunnel.metrics_collector import MetricsCollector
from tunnel.testing import FakeClock, ScriptedTransport


def service() -> TunnelService:
    clock = FakeClock()
    return TunnelService(clock=clock, new_transport=ScriptedTransport(clock))


def test_what_was_added_and_what_was_given_is_there() -> None:
    """Both ways of naming a tunnel may be used together; a given mapping is looked at anew."""
    given: dict[str, TunnelService | MetricsCollector] = {}
    sources = MetricSources(given)
    one, two = service(), MetricsCollector()
    sources.add("one", one)
    assert sources.present() == {"one": one}
    given["two"] = two
    assert sources.present() == {"one": one, "two": two}
    sources.remove("one")
    sources.remove("one")
    assert sources.present() == {"two": two}


@pytest.mark.parametrize(
    ("given", "error"),
    [({"a": object()}, TypeError), ({"": MetricsCollector()}, ValueError), ({1: None}, TypeError)],
)
def test_what_was_given_is_looked_at_as_well(given: Any, error: type[Exception]) -> None:
    """What is no tunnel is named as such, in place of a failure deep within."""
    with pytest.raises(error, match=r"(?i)tunnel"):
        MetricSources(given).present()


def test_a_tunnel_that_is_gone_is_not_there() -> None:
    """What nobody holds any more disappears, and its name can be used again, also after use."""
    sources = MetricSources()
    gone = service()
    sources.add("a", gone)
    gone.connect("ws://a.example/")
    gone.disconnect()
    del gone
    gc.collect()
    assert sources.present() == {}
    successor = MetricsCollector()
    sources.add("a", successor)
    assert sources.present() == {"a": successor}


def test_a_name_is_of_one_tunnel() -> None:
    """Another tunnel of a taken name is refused, and nothing changes; the same one is not."""
    first, given = MetricsCollector(), MetricsCollector()
    sources = MetricSources({"given": given})
    sources.add("a", first)
    sources.add("a", first)
    for name in ("a", "given"):
        with pytest.raises(ValueError, match=f"of the name '{name}' already; remove it first"):
            sources.add(name, MetricsCollector())
    assert sources.present() == {"given": given, "a": first}


def test_wrong_arguments_are_named() -> None:
    """A name that is none, and what has no metrics, is refused in a sentence."""
    sources = MetricSources()
    with pytest.raises(TypeError, match="a tunnel's name is a str, not 5"):
        sources.add(5, MetricsCollector())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="MetricsCollector has metrics, not a dict"):
        sources.add("a", {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a name"):
        sources.add("", MetricsCollector())


def test_a_forked_child_shows_nothing_of_its_parent() -> None:
    """Tunnels that belong to the parent are left out, and those that the child makes are there."""
    sources = MetricSources()
    inherited, own = service(), MetricsCollector()
    sources.add("inherited", inherited)
    disown(inherited)
    sources.add("own", own)
    assert sources.present() == {"own": own}
