"""The least of a Socket.IO server that its client needs to be measured against.

Socket.IO speaks Engine.IO, version 4, over a WebSocket: texts that begin with a digit for the kind
of the packet, and for packets of Socket.IO with another one. After the upgrade the server opens the
session (``0``), the client joins the default namespace (``40``), and the server agrees. An event is
``42`` and a JSON array of its name and its arguments.
"""

from __future__ import annotations

import json
import socket

from benchmarks.figures.serving_frames import TEXT, frame, read_frame

EVENT = "m"
"""The name of all events. No shorter one is possible."""

_PATH = "/socket.io/"
_NEVER = 600_000  # milliseconds until a ping: none disturbs a measurement
_OPEN = {
    "sid": "measured",
    "upgrades": [],
    "pingInterval": _NEVER,
    "pingTimeout": _NEVER,
    "maxPayload": 2**24,
}
_START = b"42"


def is_socketio(path: str) -> bool:
    """Whether a client that asks for this path speaks Socket.IO."""
    return path.startswith(_PATH)


def event(argument: str) -> bytes:
    """An event, as client and server write it."""
    return _START + json.dumps([EVENT, argument], separators=(",", ":")).encode()


def is_event(payload: bytes) -> bool:
    """Whether a client's message is one, and not something that the protocol itself says."""
    return payload.startswith(_START)


def greet(client: socket.socket) -> None:
    """Open a session, right after the upgrade, and let the client join the default namespace."""
    client.sendall(frame(TEXT, b"0" + json.dumps(_OPEN).encode()))
    joining = read_frame(lambda size: client.recv(size, socket.MSG_WAITALL) if size else b"")
    if joining is None or not joining[1].startswith(b"40"):
        raise ConnectionAbortedError("it does not join the default namespace")
    client.sendall(frame(TEXT, b'40{"sid":"measured"}'))
