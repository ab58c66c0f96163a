"""The least of the server's side of RFC 6455 that a raw socket needs to be measured against."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
from collections.abc import Callable

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def upgrade(client: socket.socket, headers: bytes = b"") -> str:
    """Answer the handshake, with further headers; returns the path that was asked for."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):  # a client says nothing more before the answer
        data = client.recv(4096)
        if not data:
            raise ConnectionResetError("it left within the handshake")
        request += data
    key = re.search(rb"\r\nsec-websocket-key: *([^\r ]+)", request, re.IGNORECASE)
    if key is None:
        raise ConnectionAbortedError("no handshake of a WebSocket")
    accept = base64.b64encode(hashlib.sha1(key[1] + _GUID).digest())
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n" + headers + b"\r\n"
    )
    return request.split(b" ", 2)[1].decode("ascii")


def read_frame(read: Callable[[int], bytes]) -> tuple[int, bytes] | None:
    """The opcode and payload of a client's frame; None at the end of the stream."""
    start = read(2)
    if len(start) < 2:
        return None
    length = start[1] & 0x7F
    if length == 126:
        length = int.from_bytes(read(2), "big")
    elif length == 127:
        length = int.from_bytes(read(8), "big")
    key, payload = read(4), read(length)
    keys = (key * (length // 4 + 1))[:length]
    return start[0] & 0x0F, bytes(a ^ b for a, b in zip(payload, keys, strict=True))


def frame(opcode: int, payload: bytes) -> bytes:
    """An unmasked frame, as servers send them."""
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, size])
    elif size < 2**16:
        head = bytes([0x80 | opcode, 126]) + struct.pack(">H", size)
    else:
        head = bytes([0x80 | opcode, 127]) + struct.pack(">Q", size)
    return head + payload
