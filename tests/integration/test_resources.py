"""What the system refuses: threads and descriptors."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest
from peers import DEADLINE, ServerProcess
from programs.running import run

from tunnel import ResourceExhaustedError, TunnelConnectionState, TunnelService

MakeService = Callable[..., TunnelService]


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No thread can be started, until that is undone."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return monkeypatch


@pytest.mark.fault("no-more-threads")
def test_connect_without_threads(
    echo_server: ServerProcess, make_service: MakeService, no_threads: pytest.MonkeyPatch
) -> None:
    """`connect` says what is missing, the tunnel is where it was, and a later call works."""
    service = make_service()
    for _ in range(2):
        with pytest.raises(ResourceExhaustedError):
            service.connect(echo_server.url)
        assert service.state is TunnelConnectionState.DISCONNECTED
    no_threads.undo()
    service.connect(echo_server.url, timeout=DEADLINE)
    service.send("x")
    assert next(service.messages()) == "x"


@pytest.mark.fault("no-more-threads")
def test_a_live_tunnel_needs_no_further_threads(
    echo_server: ServerProcess, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, heartbeats and tests of the connection do without any."""
    service = make_service(ping_interval=None)
    service.connect(echo_server.url, timeout=DEADLINE)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        service.update_config(service.config.replace(ping_interval=0.5, pong_timeout=1.0))
        for number in range(2):
            assert service.reconnect(timeout=DEADLINE)
            service.handle_network_change(True)
            assert service.test_connection(DEADLINE)
            service.send(f"{number}")
            assert next(service.messages()) == f"{number}"


@pytest.mark.fault("no-more-descriptors")
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on descriptors")
@pytest.mark.parametrize("when", ["first", "later"])
def test_a_dial_without_descriptors_is_tried_again(echo_server: ServerProcess, when: str) -> None:
    """It fails with TUNNEL_034, also the very first, and succeeds once there is a descriptor."""
    result = run("starved.py", echo_server.url, when)
    assert result.stderr == ""
    assert result.stdout.strip() == "TUNNEL_034"
