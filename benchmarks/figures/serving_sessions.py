"""A server of sessions on a raw socket, for the throughput of tunnels that resume.

The gateway cannot be the other end there: it is slower than the tunnel, and would be what is
measured. This one speaks `docs/wire-protocol.rst` as far as a benchmark needs it: it opens
sessions, and resumes none.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

from benchmarks.figures.serving_frames import BINARY, PING, PONG, frame, read_frame
from tunnel.secrets import Secret
from tunnel.session_frames import (
    ASK_FRAME,
    HEADER,
    OVERHEAD,
    VERSION,
    FrameKind,
    Limits,
    Open,
    Opened,
    encode,
    numbered_header,
    read_greeting,
    read_numbered_header,
)

HEADERS = f"{HEADER}: {VERSION}\r\n".encode()
"""What the answer to the upgrade has besides."""

_LIMITS = Limits(10_000, 4 * 2**20, 16 * 2**20)  # those of a gateway
_ACKNOWLEDGE_EVERY = 256  # frames, as a session does
_SHORTEST = 2 + 4 + len(ASK_FRAME)  # bytes of a client's frame
_PATIENCE = 30.0  # seconds


class Blast:
    """Sends numbered frames, never more than the client holds; reads acknowledgements besides."""

    def __init__(self, client: socket.socket, window: int) -> None:
        self._client = client
        self._window = window
        self._changed = threading.Condition()
        self._acknowledged = 0  # guarded by `_changed`

    def run(self, frames: list[tuple[int, bytes]]) -> None:
        """Send all of them; the number with each batch is that of its last frame."""
        for last, batch in frames:
            with self._changed:
                while last - self._acknowledged > self._window:
                    if not self._changed.wait(_PATIENCE):
                        return  # the client acknowledges nothing
            try:
                self._client.sendall(batch)
            except OSError:  # it has left
                return

    def note(self, number: int) -> None:
        """The client has all up to this number."""
        with self._changed:
            self._acknowledged = max(self._acknowledged, number)
            self._changed.notify()


def batches(size: int, count: int) -> list[tuple[int, bytes]]:
    """The first `count` numbered frames of a session, prebuilt, as `Blast.run` takes them."""
    payload, found = b"x" * size, []
    for first in range(1, count + 1, _ACKNOWLEDGE_EVERY):
        numbers = range(first, min(first + _ACKNOWLEDGE_EVERY, count + 1))
        headers = (numbered_header(FrameKind.BINARY, number) for number in numbers)
        found.append((numbers[-1], b"".join(frame(BINARY, h + payload) for h in headers)))
    return found


def keep(client: socket.socket, path: str, size: int, frames: list[tuple[int, bytes]]) -> None:
    """Speak the server's side of a session, as far as a benchmark needs it.

    With ``?blast`` the client's first message starts the frames; else its messages, all of `size`
    bytes, are counted and acknowledged.
    """
    with client.makefile("rb") as stream:
        greeting = read_frame(stream.read)
        if greeting is None:
            return
        wish = read_greeting(greeting[1])
        assert isinstance(wish, Open)
        opened = Opened(os.urandom(16), Secret(os.urandom(32).hex()), 60, _LIMITS)
        client.sendall(frame(BINARY, encode(opened)))
        if "blast" in path:
            room = min(wish.limits.messages, wish.limits.bytes // max(1, size))
            _blast(client, stream.read, Blast(client, room), frames)
            return
        # Nothing is read ahead by now: the client waits for the answer before it goes on.
    _count(client, size)


def _blast(
    client: socket.socket,
    read: Callable[[int], bytes],
    blast: Blast,
    frames: list[tuple[int, bytes]],
) -> None:
    while (received := read_frame(read)) is not None:
        opcode, payload = received
        if opcode == PING:
            client.sendall(frame(PONG, payload))
        elif len(payload) < OVERHEAD:  # it asks for the acknowledgement, which it has
            continue
        elif payload[0] == FrameKind.ACK:
            blast.note(read_numbered_header(payload)[1])
        elif payload[0] in (FrameKind.TEXT, FrameKind.BINARY):
            client.sendall(frame(BINARY, numbered_header(FrameKind.ACK, 1)))
            threading.Thread(target=blast.run, args=(frames,), daemon=True).start()


def _count(client: socket.socket, size: int) -> None:
    """Acknowledge messages of one size; they are told from other frames by their length alone."""
    expected, number, told, rest = size + OVERHEAD, 0, 0, b""
    while data := client.recv(2**20):
        data, at, is_asked = rest + data, 0, False
        while len(data) - at >= _SHORTEST:
            length, start = data[at + 1] & 0x7F, at + 6
            if length == 126:
                length, start = data[at + 2] << 8 | data[at + 3], at + 8
            if start + length > len(data):
                break
            number += length == expected
            is_asked |= length == len(ASK_FRAME)
            at = start + length
        rest = data[at:]
        if is_asked or number - told >= _ACKNOWLEDGE_EVERY:
            client.sendall(frame(BINARY, numbered_header(FrameKind.ACK, number)))
            told = number
