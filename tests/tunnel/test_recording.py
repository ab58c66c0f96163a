from __future__ import annotations

from pathlib import Path

import pytest

from tunnel import TunnelConfig, TunnelConnectionState, TunnelService
from tunnel import recording as recording_module
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


def test_the_clock_is_that_of_the_service(service: TunnelService, clock: FakeClock) -> None:
    """Nobody has to name it again: events and samples have one time."""
    with Recording(service, 0.5) as recording:
        service.connect("ws://anywhere.example/")
        drive(service, lambda: clock.monotonic() >= 5.0, timeout=60)
    history = recording.history()
    assert history.period is not None
    assert history.period[1] - history.period[0] == pytest.approx(5.0, abs=1.0)
    assert len(history.samples) >= 10


@pytest.mark.parametrize("rounds", [24, 26])
def test_a_recording_says_whether_something_was_forgotten_before_it(
    service: TunnelService, rounds: int
) -> None:
    """A tunnel remembers its last 100 changes, also if the oldest of them is a first dial."""
    for _ in range(rounds):
        service.connect("ws://anywhere.example/")
        drive(service, lambda: service.state is _S.CONNECTED, timeout=60)
        service.disconnect()
    with Recording(service) as recording:
        history = recording.history()
    assert history.is_cut is (rounds > 24)
    assert History.from_json(history.to_json()).is_cut is history.is_cut


def test_a_recording_says_that_it_is_full(
    service: TunnelService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first of its own steps is dropped, it does not begin with the beginning."""
    monkeypatch.setattr(recording_module, "_KEPT", 4)
    with Recording(service) as recording:
        for _ in range(2):
            assert not recording.history().is_cut
            service.connect("ws://anywhere.example/")
            drive(service, lambda: service.state is _S.CONNECTED, timeout=60)
            service.disconnect()
        assert recording.history().steps[0].trigger == "connect"
        assert recording.history().is_cut
