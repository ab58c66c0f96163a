from __future__ import annotations

import base64
import hashlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import pytest
import trustme
import websocket

from tunnel.addresses import TunnelUrl
from tunnel.dial import DialInterrupted
from tunnel.errors import (
    AuthenticationFailedError,
    ConnectRefusedError,
    ConnectTimeoutError,
    HandshakeRejectedError,
    ProtocolError,
    ServerUnavailableError,
    TunnelError,
)
from tunnel.transport import DialRequest, WebSocketTransport
from tunnel.waker import Waker

LONG = 20.0
"""Seconds that something may take which is certain to happen."""

MAX_HEADER_SIZE = 64 * 1024
"""Bytes that the headers of an answer may have, unless configured."""

TOKEN = "the-token-that-nobody-may-see"

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

pytestmark = pytest.mark.usefixtures("no_leaks")

Answer = Callable[[bytes, socket.socket], object]


class Server:
    """Accepts one connection, reads the request, answers as told, and keeps the connection."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LONG)
        self.port: int = self._listener.getsockname()[1]
        self.request = b""
        self.peer: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        try:
            self.peer, _ = self._listener.accept()
            self.peer.settimeout(LONG)
            if self._context is not None:
                self.peer = self._context.wrap_socket(self.peer, server_side=True)
            while b"\r\n\r\n" not in self.request:
                data = self.peer.recv(65536)
                if not data:
                    return
                self.request += data
            self._answer(self.request, self.peer)
        except OSError:
            pass  # the client has gone

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        self._thread.join(LONG)
        if self.peer is not None:
            self.peer.close()

    def url(self, scheme: str = "ws") -> TunnelUrl:
        host = "127.0.0.1" if scheme == "ws" else "localhost"
        return TunnelUrl.parse(f"{scheme}://{host}:{self.port}/path;a=1?q=2")


def accepting(request: bytes, *headers: str) -> bytes:
    """The answer of a server that agrees."""
    key = re.search(rb"(?mi)^Sec-WebSocket-Key: (\S+)", request)
    assert key is not None
    accept = base64.b64encode(hashlib.sha1(key[1] + MAGIC).digest()).decode()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def accept(*headers: str, then: bytes = b"") -> Answer:
    return lambda request, peer: peer.sendall(accepting(request, *headers) + then)


def say(data: bytes) -> Answer:
    return lambda request, peer: peer.sendall(data)


def say_and_hang_up(data: bytes) -> Answer:
    return lambda request, peer: (peer.sendall(data), peer.close())


@pytest.fixture
def transport() -> Iterator[WebSocketTransport]:
    transport = WebSocketTransport(Waker())
    yield transport
    transport.close()
    transport.waker.close()


def open_at(
    transport: WebSocketTransport,
    server: Server,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    subprotocols: tuple[str, ...] = (),
    timeout: float = LONG,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    request = DialRequest(server.url(), headers, subprotocols, None, timeout)
    transport.open(request, interrupted)


def read(transport: WebSocketTransport, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = transport.receive(count - len(data))
        assert chunk != b""
        if chunk is None:
            assert transport.wait(read=True, write=False, timeout=LONG).readable
        else:
            data += chunk
    return data


# The upgrade succeeds


@pytest.mark.requirement("1.1")
def test_bytes_go_both_ways_after_the_upgrade(transport: WebSocketTransport) -> None:
    """After `open` the transport is the connection: it sends, receives, waits and is aborted."""
    with Server(accept("X-Answer: yes")) as server:
        open_at(transport, server)
        assert transport.response_headers["x-answer"] == "yes"
        assert transport.subprotocol is None
        assert transport.receive(10) is None
        assert not transport.has_unread()
        assert transport.wait_writable(LONG)
        assert transport.send(b"hello") == 5
        peer = server.peer
        assert peer is not None
        assert peer.recv(10) == b"hello"
        peer.sendall(b"there")
        assert transport.wait(read=True, write=False, timeout=LONG).readable
        assert transport.has_unread()
        assert transport.receive(5) == b"there"
        transport.abort()
        assert transport.receive(10) == b""
        assert peer.recv(10) == b""


def test_the_request_is_as_it_should_be(transport: WebSocketTransport) -> None:
    """Path, host, key, version, our headers and subprotocols; no origin (RFC 6455, 4.1)."""
    with Server(accept("Sec-WebSocket-Protocol: b")) as server:
        open_at(
            transport,
            server,
            headers=(("Authorization", f"Bearer {TOKEN}"), ("X-Name", "Jürgen")),
            subprotocols=("a", "b"),
        )
        lines = server.request.decode("latin-1").split("\r\n")
        assert lines[0] == "GET /path;a=1?q=2 HTTP/1.1"
        assert f"Host: 127.0.0.1:{server.port}" in lines
        assert "Sec-WebSocket-Version: 13" in lines
        assert f"Authorization: Bearer {TOKEN}" in lines
        assert "X-Name: Jürgen" in lines
        assert "Sec-WebSocket-Protocol: a,b" in lines
        assert not any(line.lower().startswith("origin") for line in lines)
        assert not any(line.lower().startswith("sec-websocket-ext") for line in lines)


def test_frames_that_came_with_the_answer_are_not_lost(transport: WebSocketTransport) -> None:
    """What was read beyond the headers is received first, never more than was asked for."""
    with Server(accept(then=b"first frames")) as server:
        open_at(transport, server)
        assert transport.has_unread()
        assert transport.receive(5) == b"first"
        assert transport.has_unread()
        assert read(transport, 7) == b" frames"
        assert not transport.has_unread()
        assert transport.receive(10) is None


def test_a_subprotocol_is_named_as_it_was_offered(transport: WebSocketTransport) -> None:
    """The library reports it in lower case."""
    with Server(accept("Sec-WebSocket-Protocol: Chat.V2")) as server:
        open_at(transport, server, subprotocols=("chat.v1", "Chat.V2"))
        assert transport.subprotocol == "Chat.V2"


def test_over_tls(transport: WebSocketTransport) -> None:
    """With a certificate that the given context trusts, wss works like ws."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with Server(accept(then=b"secret"), context) as server:
        transport.open(
            DialRequest(server.url("wss"), ssl_context=trusting, timeout=LONG), lambda: False
        )
        assert read(transport, 6) == b"secret"
        assert transport.send(b"x") == 1


# It fails


def test_nobody_listens(transport: WebSocketTransport) -> None:
    """The system's error is translated."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    request = DialRequest(TunnelUrl.parse(f"ws://127.0.0.1:{port}/"))
    with pytest.raises(ConnectRefusedError):
        transport.open(request, lambda: False)


@pytest.mark.requirement("6.8")
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", AuthenticationFailedError),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", HandshakeRejectedError),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://else.test/\r\n\r\n", HandshakeRejectedError),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", HandshakeRejectedError),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\nnever whole", ServerUnavailableError),
        (
            b"HTTP/1.1 503 Busy\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000000,
            ServerUnavailableError,
        ),
    ],
)
def test_a_refusal_is_told_by_its_status(
    transport: WebSocketTransport, answer: bytes, error: type[TunnelError]
) -> None:
    """Whatever body follows, and whether it does: the status decides, also about retrying."""
    with Server(say(answer)) as server:
        with pytest.raises(error) as caught:
            open_at(transport, server, headers=(("Authorization", f"Bearer {TOKEN}"),))
        assert caught.value.is_retryable == (error is ServerUnavailableError)


def test_a_redirect_is_named_but_not_followed(transport: WebSocketTransport) -> None:
    """Following it would carry the token elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = b"HTTP/1.1 301 Moved\r\nLocation: ws://127.0.0.1:%d/\r\n\r\n" % port
        with Server(say(answer)) as server, pytest.raises(HandshakeRejectedError, match="redirect"):
            open_at(transport, server)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody came
            other.accept()


@pytest.mark.parametrize(
    "headers",
    [
        ("Sec-WebSocket-Extensions: permessage-deflate",),
        ("Sec-WebSocket-Protocol: chat",),
    ],
)
def test_what_was_not_offered_must_not_be_chosen(
    transport: WebSocketTransport, headers: tuple[str, ...]
) -> None:
    """An extension or a subprotocol out of nowhere fails the upgrade (RFC 6455, 4.1)."""
    with Server(accept(*headers)) as server:
        with pytest.raises(ProtocolError, match="not offered"):
            open_at(transport, server)
        assert server.peer is not None
        assert server.peer.recv(10) == b""  # closed, not only forgotten


@pytest.mark.parametrize(
    "answer",
    [
        say(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
        say(b"HTTP/1.1 101 Switching Protocols\r\n\xff\r\n\r\n"),
        say_and_hang_up(b"HTTP/1.1 101 Swi"),
        say_and_hang_up(b""),
        accept("Sec-WebSocket-Protocol: other"),
    ],
)
def test_an_answer_that_is_none_is_an_error(transport: WebSocketTransport, answer: Answer) -> None:
    """Whatever the library finds wrong arrives as a `TunnelError`."""
    with Server(answer) as server, pytest.raises(TunnelError):
        open_at(transport, server, subprotocols=("mine",))


def test_an_answer_without_end_is_refused(transport: WebSocketTransport) -> None:
    """Endless headers end at the limit."""

    def flood(request: bytes, peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
        for _ in range(2 * MAX_HEADER_SIZE // 1000):
            peer.sendall(b"X: " + b"x" * 1000 + b"\r\n")

    with Server(flood) as server, pytest.raises(ProtocolError, match="come to an end"):
        open_at(transport, server)


def test_dripping_headers_are_cut_off_by_the_time_out(transport: WebSocketTransport) -> None:
    """A byte now and then does not keep a dial alive."""
    gone = threading.Event()

    def drip(request: bytes, peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
        while not gone.wait(0.01):
            peer.sendall(b"x")

    with Server(drip) as server:
        start = time.monotonic()
        with pytest.raises(ConnectTimeoutError, match="WebSocket upgrade"):
            open_at(transport, server, timeout=0.3)
        assert time.monotonic() - start < LONG / 2
        gone.set()


def test_a_hanging_upgrade_is_interrupted(transport: WebSocketTransport) -> None:
    """Another thread ends `open`; the connection is closed."""
    interrupted = threading.Event()

    def hang(request: bytes, peer: socket.socket) -> None:
        interrupted.set()
        transport.waker.wake()

    with Server(hang) as server:
        with pytest.raises(DialInterrupted):
            open_at(transport, server, interrupted=interrupted.is_set)
        assert server.peer is not None
        assert server.peer.recv(10) == b""


def test_ctrl_c_in_a_dial_closes_the_connection(transport: WebSocketTransport) -> None:
    """What is no `Exception` is passed on as it is, and nothing is left open."""

    def interrupted() -> bool:
        if asked.is_set():
            raise KeyboardInterrupt
        return False

    asked = threading.Event()
    with Server(lambda request, peer: (asked.set(), transport.waker.wake())) as server:
        with pytest.raises(KeyboardInterrupt):
            open_at(transport, server, interrupted=interrupted)
        assert server.peer is not None
        assert server.peer.recv(10) == b""


@pytest.mark.parametrize(
    "answer",
    [
        say(b"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\n"),
        say(b"HTTP/1.1 401 No\r\n\r\n"),
        say(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"),
        say(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        say(b"X" * 2 * MAX_HEADER_SIZE),
        say_and_hang_up(b""),
        lambda request, peer: None,
    ],
)
def test_no_traceback_holds_the_token(transport: WebSocketTransport, answer: Answer) -> None:
    """Loguru prints the values in tracebacks: no frame of the library's may be among them."""
    with Server(answer) as server, pytest.raises(TunnelError) as caught:
        open_at(transport, server, headers=(("Authorization", f"Bearer {TOKEN}"),), timeout=0.5)
    error: BaseException | None = caught.value
    seen = 0
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            assert "websocket" not in traceback.tb_frame.f_code.co_filename
            assert TOKEN not in "".join(
                repr(value)
                for name, value in traceback.tb_frame.f_locals.items()
                if name not in ("headers", "caught")  # this test's own
            )
            traceback = traceback.tb_next
            seen += 1
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert seen
    assert TOKEN not in repr(DialRequest(server.url(), (("Authorization", TOKEN),)))


# Before and after


def test_a_transport_that_was_not_opened_says_so(transport: WebSocketTransport) -> None:
    """Using it is an error; ending it is not."""
    for call in (
        lambda: transport.receive(1),
        lambda: transport.send(b"x"),
        transport.has_unread,
        lambda: transport.wait(read=True, write=False, timeout=0),
        lambda: transport.wait_writable(0),
    ):
        with pytest.raises(ProtocolError, match="not been opened"):
            call()
    assert transport.response_headers == {}
    assert transport.subprotocol is None
    transport.abort()
    transport.close()


# A connection that the library opened


def dialled_by_the_library(server: Server, **options: object) -> websocket.WebSocket:
    connection = websocket.WebSocket()
    connection.connect(f"ws://127.0.0.1:{server.port}/", timeout=LONG, **options)
    return connection


def test_a_connection_of_the_library_is_taken_over(transport: WebSocketTransport) -> None:
    """Its socket, headers and subprotocol are ours then, and the old object is of no use."""
    with Server(accept("Sec-WebSocket-Protocol: chat", "X-A: b", then=b"\x81\x02hi")) as server:
        connection = dialled_by_the_library(server, subprotocols=["chat"])
        transport.adopt(connection)
        assert not connection.connected
        assert transport.response_headers["x-a"] == "b"
        assert transport.subprotocol == "chat"
        assert read(transport, 4) == b"\x81\x02hi"
        assert transport.send(b"x") == 1


def test_only_a_connected_one_is_taken_over(transport: WebSocketTransport) -> None:
    """What was never connected, or is closed, is refused."""
    with pytest.raises(ValueError, match="not connected"):
        transport.adopt(websocket.WebSocket())
    with Server(accept()) as server:
        connection = dialled_by_the_library(server)
        connection.shutdown()
        with pytest.raises(ValueError, match="not connected"):
            transport.adopt(connection)


@pytest.mark.parametrize("start", [b"\x81", b"\x81\x05", b"\x81\x05hel", b"\x01\x02he\x80\x03l"])
def test_none_is_taken_over_in_the_middle_of_a_message(
    transport: WebSocketTransport, start: bytes
) -> None:
    """Bytes that the library has read and keeps would be missing: refused."""
    with Server(accept(then=start)) as server:
        connection = dialled_by_the_library(server)
        connection.settimeout(0.05)
        with pytest.raises(websocket.WebSocketTimeoutException):
            connection.recv()
        with pytest.raises(ValueError, match="in the middle of a message"):
            transport.adopt(connection)
        connection.shutdown()
