"""Draw the example pictures of docs/observing.rst: one run on a fake clock, always the same.

Usage: python docs/draw_examples.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random

from tunnel import TunnelConfig, TunnelConnectionState, TunnelService
from tunnel.history import History
from tunnel.pictures import draw_diagram, draw_timeline
from tunnel.recording import Recording
from tunnel.testing import FakeClock, ScriptedTransport, drive

FOLDER = Path(__file__).parent / "pictures"
_CONFIG = TunnelConfig(
    ping_interval=2.0, pong_timeout=5.0, reconnect_base_delay=1.0, max_reconnect_attempts=6
)
_ATTEMPTS = 3  # that fail, in the second outage


def run() -> History:
    """A tunnel that falls silent once, and whose server is down for a while after that."""
    clock = FakeClock()
    network = ScriptedTransport(clock)
    network.latency = 0.012
    service = TunnelService(_CONFIG, clock=clock, new_transport=network, rng=Random(1))

    def send() -> None:
        if service.state is TunnelConnectionState.RECONNECTING:
            service.send_many(f"message {n}" for n in range(8))
            if service.tracker.reconnect_attempts > _ATTEMPTS:
                network.accept()

    service.subscribe(lambda event: send())
    with Recording(service) as recording:
        service.connect("wss://prices.example.com/feed")
        drive(service, lambda: clock.monotonic() > 18, timeout=60)
        network.latency = 0.045
        drive(service, lambda: clock.monotonic() > 25, timeout=60)
        network.fall_silent()
        _until(service, TunnelConnectionState.RECONNECTING)
        _until(service, TunnelConnectionState.CONNECTED)
        network.latency = 0.020
        drive(service, lambda: clock.monotonic() > 48, timeout=60)
        network.refuse()
        network.cut()
        _until(service, TunnelConnectionState.RECONNECTING)
        _until(service, TunnelConnectionState.CONNECTED)
        drive(service, lambda: clock.monotonic() > 110, timeout=60)
        history = recording.history()
    service.disconnect()
    return history


def pictures() -> Mapping[str, str]:
    """The files, and what is in them."""
    history = run()
    return {"run-timeline.svg": draw_timeline(history), "run-diagram.svg": draw_diagram(history)}


def _until(service: TunnelService, state: TunnelConnectionState) -> None:
    drive(service, lambda: service.state is state, timeout=100)


if __name__ == "__main__":
    for name, picture in pictures().items():
        (FOLDER / name).write_text(picture, encoding="utf-8", newline="\n")
