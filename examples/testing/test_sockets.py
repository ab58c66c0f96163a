"""The station during outages on real sockets, threads and all; nothing leaves this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
from station import Station

from tunnel import TunnelConfig
from tunnel.gateway import GatewaySession, TunnelRequest
from tunnel.testing import FaultProxy, StartGateway, StartProxy

# Real time passes here, so what a user waits seconds for takes milliseconds.
QUICK = TunnelConfig(
    reconnect_base_delay=0.01,
    reconnect_max_delay=0.05,
    max_reconnect_attempts=None,
    ping_interval=0.1,
    pong_timeout=0.5,
)


class Collector:
    """Takes readings in the gateway's threads, and answers a request when it may."""

    def __init__(self) -> None:
        self.readings: list[float] = []
        self.may_answer = threading.Event()
        self._changed = threading.Condition()

    def __call__(self, session: GatewaySession, item: str | bytes | TunnelRequest) -> str | None:
        """Handle a message, or a request."""
        if isinstance(item, TunnelRequest):
            self.may_answer.wait(20.0)
            return "20.25"
        with self._changed:
            self.readings.append(json.loads(item)["celsius"])
            self._changed.notify_all()
        return None

    def wait(self, count: int) -> bool:
        """Wait until there are so many readings."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.readings) >= count, 20.0)


class Lamp:
    """Shows something, and lets a test wait until it shows something else."""

    def __init__(self) -> None:
        self._shown = ""
        self._changed = threading.Condition()

    def show(self, what: str) -> None:
        """Show this; called in the tunnel's thread."""
        with self._changed:
            self._shown = what
            self._changed.notify_all()

    def wait(self, what: str) -> bool:
        """Wait until it shows this."""
        with self._changed:
            return self._changed.wait_for(lambda: self._shown == what, 20.0)


@pytest.fixture
def collector() -> Collector:
    """What stands behind the gateway."""
    return Collector()


@pytest.fixture
def proxy(
    collector: Collector, tunnel_gateway: StartGateway, tunnel_proxy: StartProxy
) -> FaultProxy:
    """The network between the station and the collector."""
    return tunnel_proxy(tunnel_gateway(collector).url)


@pytest.fixture
def lamp() -> Lamp:
    """The station's lamp."""
    return Lamp()


@pytest.fixture
def station(proxy: FaultProxy, lamp: Lamp) -> Iterator[Station]:
    """A station that is connected through the proxy."""
    station = Station(proxy.url, lamp.show, config=QUICK)
    station.start()
    yield station
    station.stop()


# Outages


def test_a_silent_network(station: Station, proxy: FaultProxy, lamp: Lamp) -> None:
    """A link on which nothing comes any more is noticed, though nobody has closed it."""
    assert lamp.wait("online")
    with proxy.silent():
        assert lamp.wait("offline")
    assert lamp.wait("online")


def test_a_collector_that_is_down(
    station: Station, proxy: FaultProxy, lamp: Lamp, collector: Collector
) -> None:
    """Readings wait while nobody listens, and arrive afterwards."""
    with proxy.refusing():
        proxy.reset()
        assert lamp.wait("offline")
        station.report(20.5)
    assert collector.wait(1)


# Faults at a byte, and by chance


def test_cut_in_the_midst_of_a_message(
    station: Station, proxy: FaultProxy, collector: Collector
) -> None:
    """A message that was cut in two arrives whole, and once."""
    strike = proxy.cut("up", after=10)  # of the 27 bytes of its frame
    station.report(20.5)
    assert strike.wait()
    station.report(20.6)
    assert collector.wait(2)
    assert collector.readings == [20.5, 20.6]


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_network(seed: int, proxy: FaultProxy, lamp: Lamp, collector: Collector) -> None:
    """On a network that cuts connection after connection every reading arrives, once, in order."""
    with proxy.cutting_after((400, 1500), "up", seed=seed):
        station = Station(proxy.url, lamp.show, config=QUICK.replace(max_queue_size=200))
        station.start()
        for celsius in range(100):
            station.report(celsius)
        assert collector.wait(100)
    station.stop()
    assert collector.readings == list(range(100))
    assert proxy.cuts > 0


# A request in flight


def test_a_request_in_flight(station: Station, proxy: FaultProxy, collector: Collector) -> None:
    """A request survives the loss of the connection; its answer comes over the next one."""
    answer = station.tunnel.submit("average", path="/average", timeout=20.0)
    assert station.tunnel.flush(timeout=20.0)  # the collector has it
    proxy.reset()
    collector.may_answer.set()
    assert answer.result(20.0).payload == b"20.25"
