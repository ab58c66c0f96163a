"""The station during outages: no network, no threads, no waiting."""

from __future__ import annotations

import pytest
from station import Station

from tunnel import RequestTimeoutError, TunnelConnectionState
from tunnel.testing import FakeClock, ScriptedGateway, ScriptedTransport, drive

# The fixtures


@pytest.fixture
def lamp() -> list[str]:
    """All that the lamp has shown."""
    return []


@pytest.fixture
def collector(tunnel_network: ScriptedTransport) -> ScriptedGateway:
    """The peer: it takes readings and requests, and resumes sessions, as a gateway does."""
    return ScriptedGateway(tunnel_network)


@pytest.fixture
def station(
    collector: ScriptedGateway,
    tunnel_clock: FakeClock,
    tunnel_network: ScriptedTransport,
    lamp: list[str],
) -> Station:
    """A station in virtual time, connected to the collector."""
    station = Station(
        "ws://collector.example/",
        lamp.append,
        clock=tunnel_clock,
        new_transport=tunnel_network,
    )
    station.start()
    return station


# State changes


def test_the_lamp_shows_an_outage(
    station: Station, tunnel_clock: FakeClock, tunnel_network: ScriptedTransport, lamp: list[str]
) -> None:
    """When the cable is cut the lamp says so within 45 seconds, and when it is mended, too."""
    tunnel_network.fall_silent()
    assert drive(station.tunnel, lambda: lamp[-1] == "offline", timeout=60.0)
    assert tunnel_clock.monotonic() == 45.0
    assert drive(station.tunnel, lambda: lamp[-1] == "online", timeout=60.0)
    assert lamp == ["online", "offline", "online"]


# The queue


def test_readings_of_an_outage_arrive(
    collector: ScriptedGateway,
    station: Station,
    tunnel_clock: FakeClock,
    tunnel_network: ScriptedTransport,
    lamp: list[str],
) -> None:
    """What is reported while the collector is away arrives when it is back, in order."""
    station.report(20.5)
    tunnel_network.refuse()
    tunnel_network.cut()
    assert drive(station.tunnel, lambda: lamp[-1] == "offline", timeout=60.0)
    station.report(20.6)
    station.report(20.7)
    tunnel_clock.call_at(5.0, tunnel_network.accept)
    assert drive(station.tunnel, lambda: len(collector.received) == 3, timeout=60.0)
    assert tunnel_clock.monotonic() > 5.0
    assert collector.received == ['{"celsius": 20.5}', '{"celsius": 20.6}', '{"celsius": 20.7}']


def test_a_full_queue(station: Station, tunnel_network: ScriptedTransport, lamp: list[str]) -> None:
    """In a long outage ten readings are kept; the station remembers which it had to skip."""
    tunnel_network.refuse()
    tunnel_network.cut()
    assert drive(station.tunnel, lambda: lamp[-1] == "offline", timeout=60.0)
    for celsius in range(12):
        station.report(celsius)
    assert station.skipped == [10, 11]


# Retries


def test_the_collector_stays_away(
    station: Station, tunnel_clock: FakeClock, tunnel_network: ScriptedTransport, lamp: list[str]
) -> None:
    """After three attempts, each after a longer wait, the lamp says that it is broken."""
    delays: list[float] = []
    station.tunnel.subscribe(lambda event: delays.append(event.metadata.get("delay", 0.0)))
    tunnel_network.refuse()
    tunnel_network.cut()
    assert drive(station.tunnel, lambda: lamp[-1] == "broken", timeout=3600.0)
    assert station.tunnel.state is TunnelConnectionState.ERROR
    assert len(tunnel_network.dials) == 1 + 3  # the first one had succeeded
    waits = [delay for delay in delays if delay]
    assert len(waits) == 3
    assert waits == sorted(waits)
    assert tunnel_clock.monotonic() == pytest.approx(sum(waits))


# Sessions


def test_a_session_is_resumed(
    collector: ScriptedGateway, station: Station, tunnel_network: ScriptedTransport
) -> None:
    """What the collector had not confirmed before a loss arrives all the same, and once."""
    collector.acknowledges = False
    station.report(20.5)
    tunnel_network.cut()
    station.report(20.6)
    collector.acknowledges = True
    assert drive(station.tunnel, lambda: len(collector.received) == 2, timeout=60.0)
    assert collector.received == ['{"celsius": 20.5}', '{"celsius": 20.6}']
    assert (collector.sessions_opened, collector.resumptions) == (1, 1)
    assert station.doubtful == []


def test_a_session_is_lost(
    collector: ScriptedGateway, station: Station, tunnel_network: ScriptedTransport, lamp: list[str]
) -> None:
    """A collector that was killed knows the session no more: the station notes what is doubtful."""
    collector.acknowledges = False
    station.report(20.5)
    tunnel_network.cut()
    collector.forget()
    assert drive(station.tunnel, lambda: lamp[-1] == "offline", timeout=60.0)
    station.report(20.6)  # it has not left yet, so it is sent in the new session
    assert drive(station.tunnel, lambda: len(collector.received) == 2, timeout=60.0)
    assert collector.sessions_opened == 2
    assert collector.received[-1] == '{"celsius": 20.6}'
    assert station.doubtful == [20.5]


# Requests


def test_a_request_in_flight(
    collector: ScriptedGateway,
    station: Station,
    tunnel_clock: FakeClock,
    tunnel_network: ScriptedTransport,
) -> None:
    """A request survives the loss of the connection; its answer comes over the next one."""
    tunnel_clock.call_at(1.0, tunnel_network.cut)
    tunnel_clock.call_at(30.0, lambda: collector.respond(collector.requests[0], "20.25"))
    assert station.ask_for_average() == 20.25
    assert tunnel_clock.monotonic() == 30.0
    assert collector.resumptions == 1
    assert len(collector.requests) == 1  # it was not asked twice


def test_a_request_that_is_not_answered(station: Station, tunnel_clock: FakeClock) -> None:
    """After a minute, of virtual time, the station stops waiting for the answer."""
    with pytest.raises(RequestTimeoutError):
        station.ask_for_average()
    assert tunnel_clock.monotonic() == 60.0
