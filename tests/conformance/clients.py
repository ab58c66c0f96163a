"""The peers that the testsuite looks at: each echoes what one connection brings, to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import websocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tunnel import TunnelConfig, TunnelConnectionState, TunnelService

LARGEST = 16 * 2**20
"""Bytes of the largest message in the testsuite (cases 9)."""

LONGEST = 120.0
"""Seconds that a case may take; the testsuite's own limits are shorter."""

_CONFIG = TunnelConfig(
    resume="off",
    enable_auto_reconnect=False,
    ping_interval=None,
    max_message_size=LARGEST,
    log_level="CRITICAL",
)
_OVER = (TunnelConnectionState.DISCONNECTED, TunnelConnectionState.ERROR)


def tunnel_client(url: str) -> None:
    """A whole tunnel, as an application uses it."""
    with TunnelService(_CONFIG, on_message=lambda message: service.send(message)) as service:
        service.connect(url)
        if not service.wait_for(*_OVER, timeout=LONGEST):
            raise TimeoutError(f"{url}: still connected after {LONGEST:.0f} s")


def websocket_client(url: str) -> None:
    """The library below the tunnel, in a plain loop."""
    link = websocket.create_connection(url, timeout=LONGEST)
    try:
        while True:
            opcode, data = link.recv_data()
            if opcode not in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
                break
            link.send(data, opcode)
    except (OSError, ValueError, websocket.WebSocketException):
        pass  # what the peer deserved
    finally:
        link.shutdown()


def websockets_client(url: str) -> None:
    """The threads of `websockets`, in a plain loop."""
    with (
        contextlib.suppress(ConnectionClosed),
        connect(url, max_size=LARGEST, compression=None, ping_interval=None) as link,
    ):
        for message in link:
            link.send(message)


CLIENTS: dict[str, Callable[[str], None]] = {
    "tunnel": tunnel_client,
    "websocket-client": websocket_client,
    "websockets": websockets_client,
}
"""By the names that the report shows them under."""
