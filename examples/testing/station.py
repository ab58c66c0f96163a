"""A weather station: it reports readings to a collector, and shows on a lamp whether it can.

The example of "Test your application": `test_outages.py` tests it without a network and without
waiting, `test_sockets.py` on real sockets.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from statemachine import Record
from tunnel import (
    QueueFullError,
    SessionLostError,
    TunnelConfig,
    TunnelConnectionState,
    TunnelService,
)

CONFIG = TunnelConfig(max_queue_size=10, max_reconnect_attempts=3, reconnect_base_delay=2.0)


class Station:
    """Reports readings, also those of the time without a connection.

    Args:
        url: The collector's.
        show: Called with what the lamp is to show: "online", "offline" or "broken".
        config: Settings of the tunnel.
        **tunnel_options: What else a `TunnelService` takes; tests give a clock and a network.

    Attributes:
        skipped: Readings that were not accepted, as the queue was full.
        doubtful: Readings that may or may not have arrived.
    """

    def __init__(
        self,
        url: str,
        show: Callable[[str], object],
        *,
        config: TunnelConfig = CONFIG,
        **tunnel_options: Any,
    ) -> None:
        self._url = url
        self._show = show
        self.skipped: list[float] = []
        self.doubtful: list[float] = []
        self.tunnel = TunnelService(
            config,
            on_state_change=self._on_state_change,
            on_session_lost=self._on_session_lost,
            **tunnel_options,
        )

    def start(self) -> None:
        """Connect, and from now on stay connected."""
        self.tunnel.connect(self._url, timeout=10.0)

    def stop(self) -> None:
        """Say goodbye, once all readings have arrived."""
        self.tunnel.disconnect(timeout=5.0)

    def report(self, celsius: float) -> None:
        """Report a reading, now or when there is a connection."""
        try:
            self.tunnel.send(json.dumps({"celsius": celsius}))
        except QueueFullError:
            self.skipped.append(celsius)

    def ask_for_average(self) -> float:
        """Ask the collector for the average of all readings; waits for the answer."""
        return float(self.tunnel.request("average", path="/average", timeout=60.0).payload)

    def _on_state_change(self, record: Record) -> None:
        if record.dest == TunnelConnectionState.CONNECTED.value:
            self._show("online")
        elif record.dest == TunnelConnectionState.ERROR.value:
            self._show("broken")
        elif record.source == TunnelConnectionState.CONNECTED.value:
            self._show("offline")

    def _on_session_lost(self, error: SessionLostError) -> None:
        self.doubtful += [json.loads(message)["celsius"] for message in error.unacknowledged]
