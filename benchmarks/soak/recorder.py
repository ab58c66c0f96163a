"""The handler of the soak's gateways: notes what it gets in a file, and sends it back.

A line for each: ``m`` for messages or ``r`` for requests, lane, number, session. Each is one
`write`, so what is in the file has been handled, also if the process is killed in the next moment.
"""

from __future__ import annotations

import functools
import os

from benchmarks.soak.messages import numbered
from tunnel.gateway import GatewaySession
from tunnel.request_frames import TunnelRequest

FILE_VARIABLE = "SOAK_NOTES"
"""The environment variable that names the file."""


def record(session: GatewaySession, item: str | bytes | TunnelRequest) -> str | bytes:
    """Note a message or a request, and send its content back."""
    kind, content = ("r", item.payload) if isinstance(item, TunnelRequest) else ("m", item)
    lane, number = numbered(content)
    os.write(_file(), f"{kind} {lane} {number} {session.id}\n".encode())
    return content


@functools.lru_cache(maxsize=1)
def _file() -> int:
    return os.open(os.environ[FILE_VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
