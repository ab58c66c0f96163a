"""Processes that are stopped for longer than the pong time-out, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from gateways import GatewayProcess
from peers import Collector
from programs.running import LONG, command

from tunnel import TunnelConfig, TunnelConnectionState, TunnelService
from tunnel.gateway import GatewayThread

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")

STOPPED = 1.2  # seconds; the pong time-out is 0.5 s


def pause() -> None:
    """Let time pass, which is what this is about."""
    threading.Event().wait(STOPPED)


@pytest.mark.fault("client-suspended")
@pytest.mark.timeout(90)
def test_a_client_that_was_stopped_goes_on() -> None:
    """Twice stopped and continued, it has lost nothing and sent nothing twice."""
    heard = Collector()
    with (
        GatewayThread(lambda session, message: heard(message)) as gateway,
        subprocess.Popen(
            command("counting.py", gateway.url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as program,
    ):
        assert program.stdout is not None
        assert program.stdout.readline() == "connected\n"
        for _ in range(2):
            os.kill(program.pid, signal.SIGSTOP)
            pause()
            os.kill(program.pid, signal.SIGCONT)
            assert heard.wait(len(heard.items) + 20)
        said, _ = program.communicate(timeout=LONG)
    assert program.returncode == 0
    assert heard.items == [f"{number}" for number in range(int(said.split()[0]))]


@pytest.mark.fault("server-suspended")
@pytest.mark.timeout(90)
def test_a_server_that_was_stopped_is_noticed_and_found_again(tmp_path: Path) -> None:
    """The loss is noticed by its silence; all that was accepted meanwhile arrives, once."""
    recording = tmp_path / "recording"
    gateway = GatewayProcess(
        "--handler", "recording:record", environment={"RECORDING": str(recording)}
    )
    errors: list[str] = []
    with gateway:
        config = {"ping_interval": 0.2, "pong_timeout": 0.5, "reconnect_base_delay": 0.05}
        service = TunnelService(
            TunnelConfig(max_reconnect_attempts=None, connect_timeout=2.0, **config),
            on_message=lambda message: None,
        )
        service.subscribe(lambda event: errors.append(event.message))
        with service:
            service.connect(gateway.url, timeout=LONG)
            for number in range(50):
                service.send(f"{number}", timeout=None)
            process = gateway._process
            assert process is not None
            process.send_signal(signal.SIGSTOP)
            assert service.wait_for(TunnelConnectionState.RECONNECTING, timeout=3)
            for number in range(50, 100):
                service.send(f"{number}", timeout=None)
            process.send_signal(signal.SIGCONT)
            assert service.wait_for(TunnelConnectionState.CONNECTED, timeout=LONG)
            assert service.flush(LONG)
    assert recording.read_text().split() == [f"{number}" for number in range(100)]
