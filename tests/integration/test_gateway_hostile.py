"""Clients that mean harm to a gateway: they lose their own connection, and nobody else anything."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator

import pytest
from gateway_client import TunnelClient, payload
from peers import BINARY, CLOSE, PING, TEXT

from tunnel.gateway import GatewayThread
from tunnel.secrets import Secret
from tunnel.session_frames import FrameKind, Limits, Open, Opened, Resume, encode, read_answer

pytestmark = pytest.mark.fault("hostile-clients")
LIMITS = Limits(100, 2**20, 2**20)


def masked(opcode: int, data: bytes, *, first: int = 0x80) -> bytes:
    """A client's frame (RFC 6455, section 5.2), masked with zeros."""
    size = len(data)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 65536:
        length = b"\xfe" + struct.pack(">H", size)
    else:
        length = b"\xff" + struct.pack(">Q", size)
    return bytes((first | opcode,)) + length + bytes(4) + data


class RawClient:
    """A client's end of a connection, byte by byte."""

    def __init__(self, gateway: GatewayThread) -> None:
        self.sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=5)
        self._buffer = b""

    def upgrade(self, *headers: str) -> None:
        """Ask for a session, unless other headers are given."""
        lines = [
            "GET / HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *(headers or ("Tunnel-Resume: 1",)),
        ]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head

    def open(self) -> Opened:
        """Open a session."""
        self.upgrade()
        self.send(BINARY, encode(Open(LIMITS)))
        answer = read_answer(self.receive()[1])
        assert isinstance(answer, Opened)
        return answer

    def send(self, opcode: int, data: bytes) -> None:
        self.sock.sendall(masked(opcode, data))

    def receive(self) -> tuple[int, bytes]:
        """Read a frame."""
        first, size = self._take(2)
        if size == 126:
            (size,) = struct.unpack(">H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._take(8))
        return first & 0x0F, self._take(size)

    def close_code(self) -> int:
        """Read up to the close frame."""
        while True:
            opcode, data = self.receive()
            if opcode == CLOSE:
                return int(struct.unpack(">H", data[:2])[0])

    def is_gone(self) -> bool:
        """Whether the gateway ends the connection, within the deadline."""
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(65536):
                pass
        return True

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _fill(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the gateway has closed the connection")
        self._buffer += data


@pytest.fixture
def gateway() -> Iterator[GatewayThread]:
    with GatewayThread(open_timeout=0.3, max_message_size=2**20) as gateway:
        yield gateway
        asyncio.run(serves(gateway))


@pytest.fixture
def client(gateway: GatewayThread) -> Iterator[RawClient]:
    client = RawClient(gateway)
    yield client
    client.sock.close()


async def serves(gateway: GatewayThread) -> None:
    """An honest client is served."""
    async with TunnelClient(gateway.url) as client:
        client.send("hello")
        assert await client.until_received(1) == ["hello"]


# The WebSocket


@pytest.mark.parametrize(
    ("offence", "code"),
    [
        (b"\x82\x01x", 1002),  # not masked
        (masked(BINARY, b"", first=0xC0), 1002),
        (masked(0x3, b""), 1002),
        (masked(PING, bytes(126)), 1002),
        (masked(PING, b"", first=0), 1002),
        (masked(TEXT, b"\xff"), 1007),
        (masked(0, b"x"), 1002),
        (masked(CLOSE, b"\x03"), 1002),
        (masked(CLOSE, b"\x03\xed"), 1002),
        (b"\x82\xff" + struct.pack(">Q", 2**62) + bytes(4), 1009),
        (b"\x82\xff" + struct.pack(">Q", 2**21) + bytes(4), 1009),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_offences_against_the_protocol(
    gateway: GatewayThread, client: RawClient, offence: bytes, code: int, plain: bool
) -> None:
    """They end the connection with the code that RFC 6455 has for them."""
    if plain:
        client.upgrade("X-Plain: 1")
    else:
        client.open()
    client.sock.sendall(offence)
    assert client.close_code() == code
    assert client.is_gone()


@pytest.mark.parametrize("plain", [False, True])
def test_a_flood_of_pings(gateway: GatewayThread, client: RawClient, plain: bool) -> None:
    """Who pings and does not read the answers loses the connection before they fill memory."""
    if plain:
        client.upgrade("X-Plain: 1")
    else:
        client.open()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    pings = masked(PING, bytes(125)) * 4000
    with contextlib.suppress(ConnectionError):
        for _ in range(40):
            client.sock.sendall(pings)
        pytest.fail("the gateway goes on answering")


# The opening


def test_a_message_of_endless_fragments(
    gateway: GatewayThread, client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty ones, too, are counted, whether or not websockets does that: 1009."""
    monkeypatch.setattr("websockets.asyncio.messages.MAX_FRAGMENTS", 10**9, raising=False)
    client.upgrade("X-Plain: 1")
    client.sock.sendall(masked(TEXT, b"", first=0) + masked(0, b"", first=0) * 20_000)
    assert client.close_code() == 1009
    asyncio.run(serves(gateway))


def test_a_request_that_is_not_finished(gateway: GatewayThread, client: RawClient) -> None:
    """A handshake that drips, or stands still, is ended by `open_timeout`."""
    began = time.perf_counter()
    client.sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n")
    assert client.is_gone()
    assert time.perf_counter() - began < 3.0


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 1_000_000,
        b"\x00" * 100_000,
    ],
)
def test_a_request_without_end(
    gateway: GatewayThread, client: RawClient, request_bytes: bytes
) -> None:
    """Headers are limited in number and length."""
    with contextlib.suppress(ConnectionError):
        client.sock.sendall(request_bytes)
    assert client.is_gone()


def test_many_connections_that_say_nothing(gateway: GatewayThread) -> None:
    """Sockets that say nothing, or open no session, are closed in time, and others are served."""
    clients = [RawClient(gateway) for _ in range(100)]
    for client in clients[::2]:
        client.upgrade()
    asyncio.run(serves(gateway))
    assert all(client.is_gone() for client in clients)
    for client in clients:
        client.sock.close()
    assert gateway.statistics()["sessions"] == 1  # the honest client's


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_of_tls_that_never_ends(server_tls: ssl.SSLContext, begun: bytes) -> None:
    """It is a part of the opening, and has no more time than that."""
    with GatewayThread(open_timeout=0.3, ssl_context=server_tls) as gateway:
        client = RawClient(gateway)
        client.sock.sendall(begun)
        assert client.is_gone()
        client.sock.close()


def test_a_session_that_is_never_opened(gateway: GatewayThread, client: RawClient) -> None:
    """Without OPEN the connection is closed with 1002 in time; pings do not prolong it."""
    client.upgrade()
    client.send(PING, b"")
    assert client.close_code() == 1002
    assert gateway.statistics()["sessions"] == 0


def test_more_sessions_than_there_may_be() -> None:
    """One user's share is one user's: the next session is refused with 1013."""
    with GatewayThread(max_sessions_per_user=5, max_sessions=100) as gateway:
        clients = [RawClient(gateway) for _ in range(6)]
        for client in clients[:5]:
            client.open()
        clients[5].upgrade()
        clients[5].send(BINARY, encode(Open(LIMITS)))
        assert clients[5].close_code() == 1013
        assert gateway.statistics()["sessions"] == 5
        for client in clients:
            client.sock.close()


# Sessions


@pytest.mark.parametrize(
    "frame",
    [
        bytes([FrameKind.ACK]) + struct.pack(">I", 1),
        bytes([FrameKind.ACK]) + struct.pack(">I", 2**31 - 1),
        bytes([FrameKind.ACK]),
        bytes([FrameKind.RESPONSE]) + struct.pack(">I", 1) + bytes(12),
        bytes([FrameKind.TEXT]) + struct.pack(">I", 7) + b"a gap before it",
        bytes([FrameKind.TEXT]) + struct.pack(">I", 1) + b"\xff",
        bytes([FrameKind.OPENED]),
        encode(Open(LIMITS)),
        b"\x7f",
        b"",
    ],
)
def test_offences_against_the_session(
    gateway: GatewayThread, client: RawClient, frame: bytes
) -> None:
    """They end the session and the connection with 1002."""
    client.open()
    client.send(BINARY, frame)
    assert client.close_code() == 1002
    assert gateway.statistics()["sessions"] == 0


def test_the_session_of_another(gateway: GatewayThread, client: RawClient) -> None:
    """Who knows its id but not its token is told that there is none, and the session lives on."""

    async def scenario() -> None:
        async with TunnelClient(gateway.url) as victim:
            victim.send("one")
            await victim.until_received(1)
            identity = victim.session.ticket.id
            await asyncio.to_thread(steal, identity)
            victim.send("two")
            await victim.until_received(2)

    def steal(identity: bytes) -> None:
        client.upgrade()
        client.send(BINARY, encode(Resume(identity, Secret("00" * 32), 0)))
        assert client.receive()[1][0] == FrameKind.GONE
        client.send(BINARY, encode(Resume(identity, Secret("11" * 32), 0)))
        assert client.close_code() == 1002

    asyncio.run(scenario())


def test_the_session_of_another_user() -> None:
    """With its token too, another user does not get it."""

    def who(token: str | None, headers: object) -> str:
        return token or "nobody"

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url, token="alice") as alice:
            alice.send("one")
            await alice.until_received(1)
            thief = TunnelClient(gateway.url, token="mallory")
            ws = await thief.dial()
            ticket = alice.session.ticket
            await ws.send(encode(Resume(ticket.id, ticket.token, 1)))
            answer = await ws.recv()
            await ws.close()
            assert answer[0] == FrameKind.GONE

    with GatewayThread(authenticate=who) as gateway:
        asyncio.run(scenario(gateway))


def test_a_flood_of_requests(client: RawClient, gateway: GatewayThread) -> None:
    """More than the window is an offence; so the flood of one client is bounded by it."""
    client.open()
    request = payload(1, {"method": "GET", "path": "/", "headers": []}, bytes(500))
    flood = b"".join(
        masked(BINARY, struct.pack(">BI", FrameKind.REQUEST, number) + request)
        for number in range(1, 12_000)
    )
    with contextlib.suppress(ConnectionError):
        client.sock.sendall(flood)
    assert client.is_gone()
