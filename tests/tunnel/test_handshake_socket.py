"""The socket that websocket-client gets for the upgrade: what it writes, shows and refuses."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tunnel.dial import Dial
from tunnel.errors import (
    AuthenticationFailedError,
    ConnectionLostError,
    ConnectTimeoutError,
    ProtocolError,
    ServerUnavailableError,
    TunnelError,
)
from tunnel.handshake_socket import HandshakeSocket
from tunnel.stream import Stream
from tunnel.waker import Waker

LONG = 20.0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
REQUEST = f"GET /a HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode()
LIMIT = 1000

pytestmark = pytest.mark.usefixtures("no_leaks")


class Bench:
    """A handshake socket, and the server's end."""

    def __init__(self, timeout: float = LONG, limit: int = LIMIT) -> None:
        self.waker = Waker()
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(LONG)
        self.stream = Stream(ours, self.waker)
        self.sock = HandshakeSocket(
            self.stream,
            Dial(timeout, self.waker, lambda: False),
            "/a;b=1?c",
            limit,
            headers=(("X-Name", "Jürgen"), ("Cookie", "own=1")),
            subprotocols=("Chat", "other"),
        )

    def answer(self, data: bytes) -> bytes:
        """Send the request, have it answered so, and read what the library is shown."""
        self.sock.send(REQUEST)
        self.peer.sendall(data)
        shown = b""
        while not shown.endswith(b"\r\n\r\n"):
            shown += self.sock.recv(1)
        return shown

    def refusal(self, data: bytes) -> TunnelError:
        with pytest.raises(TunnelError) as caught:
            self.answer(data)
        return caught.value

    def close(self) -> None:
        self.stream.close()
        self.peer.close()
        self.waker.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def hasty() -> Iterator[Bench]:
    bench = Bench(timeout=0.05)
    yield bench
    bench.close()


def switching(*headers: str, accept: str = f"Sec-WebSocket-Accept: {ACCEPT}") -> bytes:
    lines = ["HTTP/1.1 101 Fine", "Upgrade: websocket", "Connection: Upgrade", accept, *headers]
    return "\r\n".join([*(line for line in lines if line), "", ""]).encode("latin-1")


# The request


def test_the_request_is_put_right_on_its_way(bench: Bench) -> None:
    """Resource and headers are ours, Latin-1, and of the library's no cookie goes out."""
    request = REQUEST[:-2] + b"Cookie: stolen=1\r\ncookie: stolen=2\r\n\r\n"
    assert bench.sock.send(request) == len(request)
    lines = bench.peer.recv(10_000).split(b"\r\n")
    assert lines == [
        b"GET /a;b=1?c HTTP/1.1",
        b"Host: h",
        f"Sec-WebSocket-Key: {KEY}".encode(),
        b"X-Name: J\xfcrgen",
        b"Cookie: own=1",
        b"",
        b"",
    ]


def test_a_long_request_waits_for_room(bench: Bench) -> None:
    """All of the request is written, though the kernel takes it in parts."""
    received = bytearray()

    def read() -> None:
        while not received.endswith(b"\r\n\r\n"):
            received.extend(bench.peer.recv(65536))

    thread = threading.Thread(target=read)
    thread.start()
    bench.sock.send(REQUEST[:-2] + b"X: " + b"y" * 2_000_000 + b"\r\n\r\n")
    thread.join(LONG)
    assert b"y" * 2_000_000 in received


def test_a_request_that_nobody_reads_costs_the_time_out(hasty: Bench) -> None:
    """Writing stands under the deadline, too."""
    with pytest.raises(ConnectTimeoutError, match="WebSocket upgrade"):
        hasty.sock.send(REQUEST[:-2] + b"X: " + b"y" * 20_000_000 + b"\r\n\r\n")


def test_a_server_that_has_hung_up_may_have_answered(bench: Bench) -> None:
    """That the request cannot be written is no news: the answer before the end says why."""
    bench.peer.sendall(b"HTTP/1.1 503 Busy\r\n\r\n")
    bench.peer.close()
    bench.sock.send(REQUEST)
    with pytest.raises((ServerUnavailableError, ConnectionError)):
        bench.sock.recv(1)


# The answer


def test_the_library_is_shown_what_it_judges(bench: Bench) -> None:
    """No Set-Cookie, no other header, and none of the bytes behind the headers."""
    answer = switching("Set-Cookie: a=b; Domain=h", "X-Latin: \xfc", "Sec-WebSocket-Protocol: Chat")
    shown = bench.answer(answer + b"\x81\x02hi").decode()
    assert shown.split("\r\n") == [
        "HTTP/1.1 101 Switching Protocols",
        "upgrade: websocket",
        "connection: Upgrade",
        f"sec-websocket-accept: {ACCEPT}",
        "sec-websocket-protocol: Chat",
        "",
        "",
    ]
    assert bench.sock.rest == b"\x81\x02hi"
    assert bench.sock.headers["set-cookie"] == "a=b; Domain=h"
    assert bench.sock.headers["x-latin"] == "ü"


def test_an_answer_that_comes_byte_by_byte(bench: Bench) -> None:
    """However the answer is cut, it is the same."""
    answer = switching("X-A: 1", "x-a: 2") + b"rest"
    bench.sock.send(REQUEST)
    bench.peer.sendall(answer[:1])
    sent = threading.Event()

    def drip() -> None:
        for at in range(1, len(answer)):
            bench.peer.sendall(answer[at : at + 1])
        sent.set()

    thread = threading.Thread(target=drip)
    thread.start()
    assert bench.sock.recv(4) == b"HTTP"
    thread.join(LONG)
    assert sent.is_set()
    assert bench.sock.headers["x-a"] == "1, 2"
    assert b"rest".startswith(bench.sock.rest)


@pytest.mark.parametrize(
    ("folded", "value"),
    [
        (b"X-A: one\r\n two", "one two"),
        (b"X-A: one \r\n\t \ttwo \r\n three", "one two three"),
        (b"X-A:\r\n two", "two"),
        (b"X-A: one\r\n Sec-WebSocket-Accept: x", "one Sec-WebSocket-Accept: x"),
        (b"X-A: one\r\n Sec-WebSocket-Extensions: x", "one Sec-WebSocket-Extensions: x"),
        (b"X-A: one\r\n \t\r\nX-B: y", "one"),
        (b"X-A: one\r\n\xa0: y", "one"),
        (b"X-A: one\rSec-WebSocket-Accept: x", "one Sec-WebSocket-Accept: x"),
        (b"X-A: one\0two", "one two"),
        (b"X-A: \xa0one\x85", "\xa0one\x85"),
    ],
)
def test_a_header_ends_where_its_line_does(bench: Bench, folded: bytes, value: str) -> None:
    """It may be folded, and a lone CR, NUL or Latin-1 blank in it ends nothing (RFC 9112, 5.2)."""
    answer = switching().removesuffix(b"\r\n") + folded + b"\r\n\r\n"
    assert bench.answer(answer + b"\x81\x02hi")
    assert bench.sock.headers["x-a"] == value
    assert bench.sock.rest == b"\x81\x02hi"


def test_interim_answers_are_skipped(bench: Bench) -> None:
    """Answers such as 100 and 103 may come first, and mean nothing (RFC 9110, section 15.2)."""
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
    assert bench.answer(early + switching())
    assert "link" not in bench.sock.headers


@pytest.mark.parametrize(
    "accept",
    [
        "",
        f"Sec-WebSocket-Accept: {ACCEPT.lower()}",
        f"Sec-WebSocket-Accept: {ACCEPT.swapcase()}",
        f"Sec-WebSocket-Accept: {ACCEPT}=",
        f"Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Accept: {ACCEPT}",
        f"Sec-WebSocket-Accept: {ACCEPT}\r\nsec-websocket-accept: other",
        f"Sec-WebSocket-Accept: other\r\nsec-websocket-accept: {ACCEPT}",
        f"Sec-WebSocket-Accept: {ACCEPT}, {ACCEPT}",
        "Sec-WebSocket-Accept:",
        f"Sec-WebSocket-Accept : {ACCEPT}",
    ],
)
def test_the_accept_key_is_compared_exactly(bench: Bench, accept: str) -> None:
    """It is there once, and exactly the one that the key asks for (RFC 6455, section 4.1)."""
    error = bench.refusal(switching(accept=accept))
    assert type(error) is ProtocolError
    assert not error.is_retryable
    assert "Sec-WebSocket-Accept" in error.message


def test_the_accept_key_is_that_of_the_rfc() -> None:
    """The example of section 1.3 is what is used above."""
    digest = hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    assert base64.b64encode(digest).decode() == ACCEPT


@pytest.mark.parametrize(
    "header",
    [
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Sec-WebSocket-Protocol: third",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Protocol: Chat\r\nSec-WebSocket-Protocol: other",
    ],
)
def test_what_was_not_offered_must_not_be_chosen(bench: Bench, header: str) -> None:
    """Neither an extension nor a subprotocol, nor two of them, nor one in other letters."""
    error = bench.refusal(switching(header))
    assert type(error) is ProtocolError
    assert "not offered" in error.message


@pytest.mark.parametrize(
    "answer",
    [
        b"\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 \r\n\r\n",
        b"HTTP/1.1 1_01 Fine\r\n\r\n",
        b"HTTP/1.1 +101 Fine\r\n\r\n",
        b"HTTP/1.1 1010 Fine\r\n\r\n",
        b"HTTP/1.1 042 Fine\r\n\r\n",
        b"HTTP/1.1  101 Fine\r\n\r\n",
        b"http/1.1 101 Fine\r\n\r\n",
        b"HTTP/1.1 \xb9\xb0\xb9 Fine\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\n",
        b"HTTP/1.1 101 Fine\r\nUpgrade websocket\r\n\r\n",
        b"HTTP/1.1 101 Fine\r\n Upgrade: websocket\r\n\r\n",
        b" HTTP/1.1 101 Fine\r\n\r\n",
        switching().replace(b"HTTP/1.1", b"HTTP/1.0"),
        switching().replace(b"HTTP/1.1", b"HTTP/2.0"),
    ],
)
def test_what_is_no_answer(bench: Bench, answer: bytes) -> None:
    """A status line, headers with colons, and 101 by HTTP/1.1 alone; else nobody tries again."""
    error = bench.refusal(answer)
    assert type(error) is ProtocolError
    assert error.close_code is None
    assert not error.is_retryable
    assert "Fine" not in error.message


@pytest.mark.requirement("6.8")
@pytest.mark.parametrize(
    ("head", "error", "retry_after"),
    [
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 99", ServerUnavailableError, 7.0),
        (b"HTTP/1.0 401 No\r\nContent-Length:1", AuthenticationFailedError, None),
        (b"HTTP/1.1 500", ServerUnavailableError, None),
    ],
)
def test_the_body_of_a_refusal_is_not_read(
    bench: Bench, head: bytes, error: type[TunnelError], retry_after: float | None
) -> None:
    """The status decides as soon as the headers are there, whatever body would follow."""
    refusal = bench.refusal(head + b"\r\n\r\n")
    assert type(refusal) is error
    assert refusal.retry_after == retry_after


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n"])
def test_lines_may_end_without_a_return(bench: Bench, end: bytes) -> None:
    """A lone line feed ends a line too (RFC 9112, section 2.2)."""
    assert isinstance(bench.refusal(b"HTTP/1.1 503 Busy\nRetry-After: 7" + end), TunnelError)


@pytest.mark.parametrize(
    "flood",
    [
        b"x" * 20_000,
        b"HTTP/1.1 101 Fine\r\n" + b"X: y\r\n" * 4000,
        b"HTTP/1.1 101 Fine\r\nX: " + b"y" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 101 Fine\r\nX: " + b"y" * LIMIT + b"\r\n\r\n",
    ],
)
def test_an_answer_without_end_is_refused(bench: Bench, flood: bytes) -> None:
    """Neither one line nor all of them may exceed the limit; little more than that is read."""
    error = bench.refusal(flood)
    assert type(error) is ProtocolError
    assert "does not come to an end" in error.message
    assert len(bench.sock.rest) <= LIMIT + 4096


def test_the_limit_is_the_size_of_the_headers(bench: Bench) -> None:
    """Headers of exactly the limit will do, whatever comes behind them."""
    padding = LIMIT - len(switching("X: "))
    assert bench.answer(switching("X: " + "y" * padding) + bytes(3000))
    tight = Bench(limit=LIMIT - 1)
    assert "not come to an end" in tight.refusal(switching("X: " + "y" * padding)).message
    tight.close()


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 10", b"HTTP/1.1 101 Fine\r\nUpgr"])
def test_an_end_within_the_answer_is_a_loss(bench: Bench, begun: bytes) -> None:
    """The connection may end before the answer does; then it may be tried again."""
    bench.sock.send(REQUEST)
    bench.peer.sendall(begun)
    bench.peer.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLostError) as caught:
        bench.sock.recv(1)
    assert caught.value.is_retryable


def test_a_silent_upgrade_costs_the_time_out(hasty: Bench) -> None:
    """A server that does not answer: the deadline, and the step."""
    with pytest.raises(ConnectTimeoutError, match="WebSocket upgrade"):
        hasty.sock.recv(1)


def test_bytes_that_are_there_cost_time_too() -> None:
    """A server that never lets us wait does not get beyond the deadline either."""
    bench = Bench(timeout=1e-6)
    bench.peer.sendall(switching())
    with pytest.raises(ConnectTimeoutError, match="WebSocket upgrade"):
        bench.sock.recv(1)
    bench.close()


def test_closing_is_left_to_the_transport(bench: Bench) -> None:
    """The library's `close` of what failed leaves the stream alone; it is told of a time-out."""
    bench.sock.close()
    assert 0 < bench.sock.gettimeout() <= LONG
    assert bench.sock.send(REQUEST)
    assert bench.peer.recv(100)
