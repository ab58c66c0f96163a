"""The tunnel as the testsuite's client, on the cases where order counts, without the testsuite."""

from __future__ import annotations

import base64
import hashlib
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # here are no packages

from clients import tunnel_client

from tunnel.frames import Close, FrameDecoder, Incoming

pytestmark = pytest.mark.usefixtures("no_leaks")

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@contextmanager
def server_that_says(frames: bytes, heard: list[Incoming]) -> Iterator[str]:
    """A server that sends these frames with its upgrade, in one write, and hears a close frame."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def serve() -> None:
        sock, _ = listener.accept()
        with sock, listener:
            sock.settimeout(10)
            request = sock.recv(65536)
            key = request.lower().split(b"sec-websocket-key: ")[1]
            key = request[len(request) - len(key) :].split(b"\r\n")[0]
            accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest())
            sock.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + frames
            )
            decoder = FrameDecoder(expect_masked=True)
            while not decoder.finished and (chunk := sock.recv(65536)):
                heard.extend(decoder.feed(chunk))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join(10)


@pytest.mark.fault("any-byte-stream")
@pytest.mark.parametrize(
    ("behind", "code"),
    [("a10161", 1002), ("8101ff", 1007), ("880203e8", 1000), ("8800", 1005)],
    ids=["reserved bit", "not UTF-8", "close", "close without code"],
)
def test_what_came_before_is_answered_first(behind: str, code: int) -> None:
    """A message before the peer's mistake, or its close frame, is answered before we close."""
    heard: list[Incoming] = []
    with server_that_says(bytes.fromhex("810161" + "820162" + behind), heard) as url:
        tunnel_client(url)
    assert heard[:2] == ["a", b"b"]
    assert [item.code for item in heard[2:] if isinstance(item, Close)] == [code]
