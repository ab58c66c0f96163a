from __future__ import annotations

from pathlib import Path

import pytest

from tunnel import TunnelConfig, TunnelConnectionState, TunnelService
from tunnel.history import History
from tunnel.recording import Recording
from tunnel.testing import FakeClock, ScriptedTransport, drive

_S = TunnelConnectionState


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def network(clock: FakeClock) -> ScriptedTransport:
    return ScriptedTransport(clock)


@pytest.fixture
def service(clock: FakeClock, network: ScriptedTransport) -> TunnelService:
    config = TunnelConfig(ping_interval=5.0, pong_timeout=8.0)
    return TunnelService(config, clock=clock, new_transport=network)


def test_a_run_is_recorded_with_samples(
    service: TunnelService, network: ScriptedTransport, clock: FakeClock, tmp_path: Path
) -> None:
    """Steps, events, queue and round trips are there, at even intervals, and can be saved."""
    with Recording(service, 0.5, clock=clock) as recording:
        service.connect("ws://anywhere.example/")
        drive(service, lambda: clock.monotonic() >= 12.0, timeout=60)
        network.fall_silent()
        drive(service, lambda: service.state is _S.RECONNECTING, timeout=60)
        service.send("meanwhile")
        drive(service, lambda: service.state is _S.CONNECTED, timeout=60)
    history = recording.history()
    assert [step.trigger for step in history.steps] == [
        "connect",
        "opened",
        "lost",
        "recover",
        "opened",
    ]
    assert history.tracker.events == service.tracker.events
    times = [sample.time for sample in history.samples]
    assert times == sorted(times)
    assert len(times) >= 2 * clock.monotonic()
    assert any(sample.queued for sample in history.samples)
    assert any(sample.round_trip is not None for sample in history.samples)
    recording.save(tmp_path / "run.json")
    assert History.from_json((tmp_path / "run.json").read_text()) == history


def test_what_was_before_belongs_to_it(service: TunnelService, clock: FakeClock) -> None:
    """A recording begins with what the tunnel remembers, and ends when it is stopped."""
    service.connect("ws://anywhere.example/")
    recording = Recording(service, clock=clock)
    recording.stop()
    service.disconnect()
    clock.advance(5.0)
    history = recording.history()
    assert [step.dest for step in history.steps] == ["connecting", "connected"]
    assert len(history.samples) == 1
    recording.stop()


@pytest.mark.parametrize("interval", [0, -1.0, float("nan")])
def test_an_interval_is_positive(service: TunnelService, interval: float) -> None:
    """What is no interval is refused at once."""
    with pytest.raises(ValueError, match="interval must be more than 0"):
        Recording(service, interval)
