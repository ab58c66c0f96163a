"""A client of the gateway for tests: websockets' asyncio client around the session's pure core."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import struct
from collections import deque
from collections.abc import Callable, Mapping

import websockets
from peers import DEADLINE
from websockets.asyncio.client import ClientConnection

from tunnel.session import Item, Session
from tunnel.session_frames import (
    ASK_FRAME,
    Answer,
    FrameKind,
    Limits,
    Opened,
    Parcel,
    encode,
    read_answer,
)

LIMITS = Limits(1000, 2**22, 2**24)


class TunnelClient:
    """One session with a gateway, over as many links as it takes. For one event loop.

    Attributes:
        received: Messages and answers, in order.
        answers: Payloads of RESPONSE frames as (status, headers, body), by id.
        ended: Set when the link is gone.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        limits: Limits = LIMITS,
        keep: tuple[int, int] = (1000, 2**22),
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url
        self.headers: dict[str, str] = {}
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"
        self.ssl_context = ssl_context
        self.limits, self.keep = limits, keep
        self.session = self.new_session()
        self.outgoing: deque[Item] = deque()
        self.received: list[Item] = []
        self.takes = True  # whether what is received counts as taken at once
        self.reads = True
        self.close_code: int | None = None
        self.close_reason = ""
        self.ws: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()

    def new_session(self) -> Session:
        return Session(self.limits, keep=self.keep, accepts=(FrameKind.RESPONSE,))

    async def __aenter__(self) -> TunnelClient:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def answers(self) -> dict[int, tuple[int, list[list[str]], bytes]]:
        parcels = [item for item in self.received if isinstance(item, Parcel)]
        return dict(_response(parcel) for parcel in parcels)

    async def dial(self) -> ClientConnection:
        """A link on which nothing was said yet."""
        options = {} if self.ssl_context is None else {"ssl": self.ssl_context}
        ws = await websockets.connect(
            self.url,
            additional_headers={"Tunnel-Resume": "1", **self.headers},
            compression=None,
            max_size=None,
            ping_interval=None,
            **options,
        )
        assert ws.response is not None
        assert ws.response.headers["Tunnel-Resume"] == "1"
        return ws

    async def connect(self) -> Answer:
        """Open a session, or resume it. Returns the first answer."""
        self._move_to_this_loop()
        ws = self.ws = await self.dial()
        await ws.send(encode(self.session.greeting()))
        answer = first = read_answer(await ws.recv())
        if not self.session.answered(answer):
            self.session = self.new_session()
            await ws.send(encode(self.session.greeting()))
            answer = read_answer(await ws.recv())
            assert isinstance(answer, Opened)
            self.session.answered(answer)
        self.close_code = None
        self._reader = asyncio.create_task(self._read(ws))
        self.flush()
        return first

    def send(self, *items: Item) -> None:
        """Send, now or when there is room or a link."""
        self.outgoing.extend(items)
        self.flush()

    def request(
        self,
        number: int,
        path: str = "/",
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Send a request."""
        header = {"method": method, "path": path, "headers": list((headers or {}).items())}
        self.send(Parcel(FrameKind.REQUEST, payload(number, header, body)))

    def cancel(self, number: int) -> None:
        """Want the answer no more."""
        self.send(Parcel(FrameKind.CANCEL, struct.pack(">Q", number)))

    def flush(self) -> None:
        """Write what can be written."""
        if self.ws is None or self.ws.protocol.state.name != "OPEN":
            return
        session = self.session
        frames: list[bytes] = []
        if session.is_acknowledgement_due or session.has_untold:
            frames.append(session.acknowledgement())
        while session.has_replay:
            frames += session.replay(1000, 2**24)
        while self.outgoing and session.has_room_for(len(self.outgoing[0])):
            frames += session.send([self.outgoing.popleft()])
        for frame in frames:
            self.ws.protocol.send_binary(frame)
        self.ws.send_data()

    async def ask(self) -> None:
        """Ask for an acknowledgement."""
        assert self.ws is not None
        await self.ws.send(ASK_FRAME)

    async def until(self, condition: Callable[[], object], timeout: float = DEADLINE) -> None:
        """Wait until a condition holds; looked at whenever something has come."""
        self._move_to_this_loop()

        async def wait() -> None:
            while not condition():
                self._changed.clear()
                await self._changed.wait()

        await asyncio.wait_for(wait(), timeout)

    async def until_received(self, count: int) -> list[Item]:
        """Wait until so many messages and answers have come."""
        await self.until(lambda: len(self.received) >= count)
        return self.received

    async def until_closed(self) -> None:
        """Wait until the link is gone."""
        await self.until(lambda: self.close_code is not None)

    async def cut(self) -> None:
        """Break the link with RST; the session stays."""
        assert self.ws is not None
        self.ws.transport.abort()
        await self._gone()

    async def close(self) -> None:
        """Close the link; nothing happens if it is gone."""
        if self.ws is not None:
            await self.ws.close()
            await self._gone()

    def _move_to_this_loop(self) -> None:
        """A client may outlive an event loop."""
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()

    async def _gone(self) -> None:
        if self._reader is not None:
            await self._reader
        if self.ws is not None:
            self.ws.transport.abort()  # Python 3.10 takes one with TLS for open until it is told
        self.ws = self._reader = None

    async def _read(self, ws: ClientConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                frame = await ws.recv()
                if isinstance(frame, str):
                    self.received.append(frame)
                else:
                    items = self.session.receive((frame,))
                    assert self.session.violation is None, self.session.violation
                    self.received += items
                    messages = [item for item in items if not isinstance(item, Parcel)]
                    if self.takes:
                        self.session.take(len(messages))
                self.flush()
                self._changed.set()
        self.close_code = ws.protocol.close_code
        self.close_reason = ws.protocol.close_reason or ""
        self.session.detach()
        self._changed.set()


def payload(number: int, header: object, body: bytes) -> bytes:
    """The payload of a REQUEST."""
    encoded = json.dumps(header).encode()
    return struct.pack(">QI", number, len(encoded)) + encoded + body


def _response(parcel: Parcel) -> tuple[int, tuple[int, list[list[str]], bytes]]:
    number, length = struct.unpack_from(">QI", parcel)
    header = json.loads(parcel[12 : 12 + length])
    return number, (header["status"], header["headers"], bytes(parcel[12 + length :]))
