"""A real tunnel while `freezegun` holds the time still: it may not hang, nor fail."""

from __future__ import annotations

import time
from collections.abc import Callable

import freezegun
import pytest
from peers import DEADLINE, Collector, ServerProcess

from tunnel import TunnelConnectionState, TunnelService
from tunnel.testing import FaultProxy

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState
_real = time.perf_counter


@pytest.mark.parametrize("ping_interval", [None, 30.0])
def test_connect_and_disconnect_under_frozen_time(
    echo_server: ServerProcess, make_service: MakeService, ping_interval: float | None
) -> None:
    """While time is frozen a tunnel connects, echoes, tests itself and disconnects at once."""
    received = Collector()
    began = _real()
    with freezegun.freeze_time("2024-02-29T12:00:00Z"):
        service = make_service(on_message=received, ping_interval=ping_interval)
        service.connect(echo_server.url, timeout=5.0)
        service.send("frozen")
        assert received.wait(1)
        assert service.test_connection(timeout=5.0)
        report = service.disconnect(timeout=5.0)
    assert report.unsent == ()
    assert service.state is S.DISCONNECTED
    assert service.tracker.machine.history[-1].trigger == "closed"
    assert _real() - began < 3.0


def test_frozen_in_mid_life(echo_server: ServerProcess, make_service: MakeService) -> None:
    """Time that is frozen and let go while the tunnel is connected does not end the link."""
    received = Collector()
    service = make_service(on_message=received, ping_interval=0.05, pong_timeout=DEADLINE)
    service.connect(echo_server.url, timeout=DEADLINE)
    with freezegun.freeze_time("2024-02-29T12:00:00Z") as frozen:
        service.send("frozen")
        assert received.wait(1)
        frozen.tick(3600)
        service.send("later")
        assert received.wait(2)
    service.send("free")
    assert received.wait(3)
    assert not service.wait_for(S.DISCONNECTED, timeout=0.3)
    began = _real()
    service.disconnect(timeout=5.0)
    assert _real() - began < 3.0


def test_disconnect_on_a_dead_link_under_frozen_time(
    proxy: FaultProxy, make_service: MakeService
) -> None:
    """While time is frozen `disconnect` keeps its time-out on a silent link."""
    service = make_service()
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    with proxy.silent(), freezegun.freeze_time("2024-02-29T12:00:00Z"):
        began = _real()
        service.disconnect(timeout=0.3)
        assert _real() - began < 0.3 + 1.0 + 0.3
    assert service.wait_for(S.DISCONNECTED, timeout=DEADLINE)


def test_loss_under_frozen_time(proxy: FaultProxy, make_service: MakeService) -> None:
    """While time is frozen a lost link comes back, too: waits are real."""
    service = make_service()
    with freezegun.freeze_time("2024-02-29T12:00:00Z"):
        service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=5.0)
        proxy.reset()
        assert service.wait_for(S.RECONNECTING, timeout=DEADLINE)
        assert service.wait_for(S.CONNECTED, timeout=DEADLINE)
        service.disconnect(timeout=2.0)
