"""One WebSocket of the gateway: websockets' connection, with a way to write much at once.

websockets reads, answers pings and does the handshakes. What it writes goes through a coroutine and
a system call for each message; here many messages are joined into one write, at once if the
transport has room. It has not: the one who writes is called back when it has. The frames of
messages are so short a matter (a server masks nothing, and extensions are not offered) that they
are made here.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import DATA_OPCODES, CloseCode, Frame
from websockets.protocol import Event, State

from tunnel.gateway.liveness import Liveness
from tunnel.session_frames import EncodedText

BUFFER_SIZE = 128 * 1024
"""Bytes that wait in a transport before nothing more is written to it."""

_SHORT, _MEDIUM, _LONG = struct.Struct(">BB"), struct.Struct(">BBH"), struct.Struct(">BBQ")

MAX_FRAGMENTS = 4096
"""Frames of one message. Empty ones cost a client six bytes, and us some hundred."""


class GatewayConnection(ServerConnection):
    """A client's connection. For the event loop's thread.

    Args:
        *args: As for websockets' connection, which is made by its server.
        liveness: Its signs of life.
        on_made: Called when it is there, before anything was said.
        on_lost: Called when it is gone.
        **options: As for websockets' connection.

    Attributes:
        user: Who has authenticated.
        liveness: Its signs of life.
        on_writable: Called when it can be written to again.
        is_held: We do not read what it sends, so its silence means nothing.
        written: Bytes that were written to it.
    """

    def __init__(
        self,
        *args: Any,
        liveness: Liveness,
        on_made: Callable[[GatewayConnection], None],
        on_lost: Callable[[GatewayConnection], None],
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._on_made = on_made
        self._on_lost = on_lost
        self.user = ""
        self.liveness = liveness
        self.on_writable: Callable[[], None] | None = None
        self.is_held = False
        self.written = 0
        self._is_congested = False
        self._unread_answers = 0  # bytes of answers to pings since then
        self._fragments = 0  # of a message that is not whole yet
        self._closing: asyncio.Task[None] | None = None

    @property
    def peer(self) -> str:
        """Where the client is, for logs."""
        address = self.remote_address
        return f"{address[0]}:{address[1]}" if address else "unknown"

    @property
    def is_open(self) -> bool:
        """Whether the opening handshake is done, and the closing one not begun."""
        return self.protocol.state is State.OPEN

    @property
    def is_writable(self) -> bool:
        """Whether it takes more now."""
        return self.is_open and not self._is_congested and not self.transport.is_closing()

    def write(self, messages: Iterable[str | bytes]) -> None:
        """Write messages: text, encoded by now or not, or binary.

        Only while `is_writable`; else they may be lost.
        """
        if not self.is_open:
            return  # whoever reads from it is about to notice
        self._send([*self.protocol.data_to_send(), *map(_frame, messages)])

    def send_ping(self) -> None:
        """Ask for a sign of life."""
        if self.is_open:
            self.protocol.send_ping(b"")
            self._send(self.protocol.data_to_send())

    @property
    def pending(self) -> int:
        """Bytes that the network has not taken yet."""
        return self.transport.get_write_buffer_size()

    def start_closing(self, code: int, reason: str) -> None:
        """Close it, without waiting for the client."""
        self._closing = self.loop.create_task(self.close(code, short(reason)))

    async def finish(self, code: int, reason: str) -> None:
        """Close it, and drop what the client still sends until it answers.

        Unread frames would pause reading, so that its answer was never seen; and bytes that are
        unread when a connection is closed make the system reset it, which can take the close frame
        away from the client.
        """
        self.start_closing(code, reason)
        with suppress(ConnectionClosed):
            while True:
                await self.recv()

    def abort(self) -> None:
        """Close it at once, without a word."""
        self.transport.abort()

    def _send(self, chunks: list[bytes]) -> None:
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.written += len(data)
        self.transport.write(data)

    # What websockets calls

    def process_event(self, event: Event) -> None:
        """A request or a frame has come. Not all versions of websockets count the frames."""
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self._fragments = 0 if event.fin else self._fragments + 1
            if self._fragments > MAX_FRAGMENTS:
                if self._closing is None:
                    self.start_closing(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
                return
        super().process_event(event)

    # What asyncio calls (asyncio.Protocol)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there; nothing was said yet."""
        super().connection_made(transport)
        self._on_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self.transport.abort()  # Python 3.10 takes one with TLS for open until it is told
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self.liveness.heard(self.loop.time())
        before = self.pending
        super().data_received(data)
        if self._is_congested:
            # websockets answers every ping at once: who pings and reads nothing would fill memory.
            self._unread_answers += max(0, self.pending - before)
            if self._unread_answers > BUFFER_SIZE:
                self.abort()

    def pause_writing(self) -> None:
        """The transport has enough."""
        super().pause_writing()
        self._is_congested = True

    def resume_writing(self) -> None:
        """The transport takes more again."""
        super().resume_writing()
        self._is_congested = False
        self._unread_answers = 0
        if self.on_writable is not None:
            self.on_writable()


def _frame(message: str | bytes) -> bytes:
    """The frame of a message (RFC 6455, section 5.2)."""
    if isinstance(message, str):
        first, payload = 0x81, message.encode()
    else:
        first, payload = 0x81 if isinstance(message, EncodedText) else 0x82, message
    size = len(payload)
    if size < 126:
        return _SHORT.pack(first, size) + payload
    if size < 65536:
        return _MEDIUM.pack(first, 126, size) + payload
    return _LONG.pack(first, 127, size) + payload


def short(reason: str) -> str:
    """A reason that fits into a close frame (RFC 6455, section 5.5)."""
    return reason.encode()[:123].decode(errors="ignore")
