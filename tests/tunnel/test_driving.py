from __future__ import annotations

import pytest

import tunnel.testing
from tunnel import HeartbeatWebSocket, TunnelService
from tunnel.addresses import TunnelUrl
from tunnel.testing import FakeClock, ScriptedTransport, drive
from tunnel.transport import DialRequest
from tunnel.waker import Waker


@pytest.fixture
def service(tunnel_clock: FakeClock, tunnel_network: ScriptedTransport) -> TunnelService:
    service = TunnelService(clock=tunnel_clock, new_transport=tunnel_network)
    service.connect("ws://peer.test/")
    return service


def test_until_a_condition_holds(
    service: TunnelService, tunnel_clock: FakeClock, tunnel_network: ScriptedTransport
) -> None:
    """The tunnel runs, and time passes, until the condition holds."""
    tunnel_clock.call_at(100.0, lambda: tunnel_network.send("x"))
    assert drive(service, lambda: service.statistics()["messages_received"] == 1)
    assert tunnel_clock.monotonic() == 100.0


def test_a_condition_that_holds_already(service: TunnelService, tunnel_clock: FakeClock) -> None:
    """Then nothing runs, and no time passes."""
    assert drive(service, lambda: True, timeout=5)
    assert tunnel_clock.monotonic() == 0.0


def test_until_the_time_is_up(service: TunnelService, tunnel_clock: FakeClock) -> None:
    """A condition that never holds ends with the time-out, exactly."""
    assert not drive(service, lambda: False, timeout=1000.0)
    assert tunnel_clock.monotonic() == 1000.0
    assert not drive(service, lambda: False, timeout=0)
    assert tunnel_clock.monotonic() == 1000.0


def test_for_some_time(service: TunnelService, tunnel_clock: FakeClock) -> None:
    """Without a condition it runs for the time that is given."""
    drive(service, timeout=95.0)
    assert tunnel_clock.monotonic() == 95.0
    assert service.statistics()["connection_state"] == "connected"


def test_a_single_watched_connection(
    tunnel_clock: FakeClock, tunnel_network: ScriptedTransport
) -> None:
    """It drives a `HeartbeatWebSocket` just the same."""
    transport = tunnel_network(Waker())
    transport.open(DialRequest(TunnelUrl.parse("ws://peer.test/")), lambda: False)
    connection = HeartbeatWebSocket(transport, clock=tunnel_clock)
    connection.start()
    assert drive(connection, lambda: connection.get_heartbeat_stats()["pongs_received"] == 3)
    assert tunnel_clock.monotonic() == 90.0
    connection.close()


def test_a_tunnel_at_rest(tunnel_clock: FakeClock, tunnel_network: ScriptedTransport) -> None:
    """Time passes also for a tunnel that does nothing."""
    service = TunnelService(clock=tunnel_clock, new_transport=tunnel_network)
    drive(service, timeout=10.0)
    assert tunnel_clock.monotonic() == 10.0
    with pytest.raises(RuntimeError, match="never end"):
        drive(service, lambda: False)


def test_neither_condition_nor_time_out(service: TunnelService) -> None:
    """To run for ever is nobody's wish."""
    with pytest.raises(ValueError, match="a condition, a time-out, or both"):
        drive(service)


def test_a_tunnel_with_a_thread() -> None:
    """A tunnel on the system's clock runs by itself; that is said, and how to change it."""
    with pytest.raises(ValueError, match=r"clock=FakeClock\(\)"):
        drive(TunnelService(), timeout=1)


def test_the_kit() -> None:
    """The names that are promised."""
    assert tunnel.testing.__all__ == [
        "DOWN",
        "UP",
        "Direction",
        "Ending",
        "FakeClock",
        "FakeTimer",
        "FaultProxy",
        "ScriptedGateway",
        "ScriptedTransport",
        "StartGateway",
        "StartProxy",
        "Strike",
        "drive",
    ]
