"""Answers to the upgrade of every kind: which error each one is, and what is tried again, when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
import websocket._handshake
from peers import DEADLINE, Collector, Peer, RawServer

from tunnel import (
    AuthenticationFailedError,
    ConnectionEventType,
    ConnectionLostError,
    ConnectTimeoutError,
    HandshakeRejectedError,
    InvalidCredentialsError,
    NetworkError,
    ProtocolError,
    ProtocolVersionError,
    TokenExpiredError,
    TunnelConnectionState,
    TunnelError,
    TunnelErrorCategory,
    TunnelService,
)

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState
C = TunnelErrorCategory
EXPIRED = {"WWW-Authenticate": 'Bearer error="invalid_token", error_description="token expired"'}
INVALID = {"WWW-Authenticate": 'Bearer error="invalid_token", error_description="bad signature"'}


def serve(*answers: Callable[[Peer], object]) -> RawServer:
    """A server that answers connections in turn, the last way for all that follow."""
    turns = iter(answers)
    last = answers[-1]

    def script(peer: Peer) -> None:
        next(turns, last)(peer)

    return RawServer(script)


def refuse(status: str, headers: dict[str, str] | None = None) -> Callable[[Peer], object]:
    """Read the request, refuse it, and wait for the client to go."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.respond(status, {"Content-Length": "0", **(headers or {})})
        peer.wait_until_gone()

    return script


def accept(peer: Peer) -> None:
    """Accept, and echo."""
    peer.upgrade()
    peer.echo()


def raw(data: bytes, *, then: Callable[[Peer], object] = Peer.wait_until_gone) -> object:
    """Read the request, and answer it so."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.sock.sendall(data)
        then(peer)

    return script


def error_of(service: TunnelService, server: RawServer, **options: object) -> TunnelError:
    """What a single attempt to connect fails with."""
    with pytest.raises(TunnelError) as caught:
        service.connect(server.url, timeout=DEADLINE, **options)
    return caught.value


# Statuses


@pytest.mark.fault("status-2xx", "status-4xx", "status-426", "status-401")
@pytest.mark.requirement("2.2", "2.9", "6.8")
@pytest.mark.parametrize(
    ("status", "headers", "cls", "code", "category"),
    [
        pytest.param(*row, id=row[0])
        for row in [
            ("200 OK", {}, HandshakeRejectedError, "TUNNEL_024", C.PROTOCOL),
            ("204 No Content", {}, HandshakeRejectedError, "TUNNEL_024", C.PROTOCOL),
            ("400 Bad Request", {}, HandshakeRejectedError, "TUNNEL_024", C.PROTOCOL),
            ("404 Not Found", {}, HandshakeRejectedError, "TUNNEL_024", C.PROTOCOL),
            (
                "426 Upgrade Required",
                {"Sec-WebSocket-Version": "8, 7"},
                ProtocolVersionError,
                "TUNNEL_016",
                C.PROTOCOL,
            ),
            ("401 No", {}, AuthenticationFailedError, "TUNNEL_002", C.AUTHENTICATION),
            ("403 No", {}, AuthenticationFailedError, "TUNNEL_002", C.AUTHENTICATION),
            ("407 No", {}, AuthenticationFailedError, "TUNNEL_002", C.AUTHENTICATION),
            (
                "401 Bad",
                INVALID,
                InvalidCredentialsError,
                "TUNNEL_013",
                C.AUTHENTICATION,
            ),
        ]
    ],
)
def test_refusals_for_good(
    make_service: MakeService,
    status: str,
    headers: dict[str, str],
    cls: type[TunnelError],
    code: str,
    category: TunnelErrorCategory,
) -> None:
    """These are not retried: one dial, and the state `error`."""
    with serve(refuse(status, headers)) as server:
        service = make_service()
        error = error_of(service, server, auth_token=lambda: "secret-token")
        assert type(error) is cls
        assert (error.code, error.category, error.is_retryable) == (code, category, False)
        assert error.status == int(status[:3])
        assert service.state is S.ERROR
        assert server.accepted == 1


@pytest.mark.fault("status-5xx")
@pytest.mark.parametrize("status", ["408", "425", "429", "500", "502", "503", "504"])
def test_refusals_that_pass(make_service: MakeService, status: str) -> None:
    """These are retried until the server accepts."""
    with serve(refuse(f"{status} Busy"), refuse(f"{status} Busy"), accept) as server:
        service = make_service()
        service.connect(server.url, timeout=DEADLINE)
        assert server.accepted == 3
        service.disconnect()


@pytest.mark.fault("redirect")
def test_a_redirect_is_not_followed(make_service: MakeService) -> None:
    """The token is not carried elsewhere: nobody comes to the other server."""
    with serve(accept) as other:
        location = {"Location": other.url.replace("127.0.0.1", "localhost")}
        with serve(refuse("301 Moved Permanently", location)) as server:
            error = error_of(make_service(), server, auth_token="secret-token")
            assert type(error) is HandshakeRejectedError
            assert not error.is_retryable
            assert server.accepted == 1
        assert other.accepted == 0


# Answers that are none


@pytest.mark.fault("not-http")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 101 Fine\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46\n",
        b"\r\n\r\n",
        b"HTTP/1.1 101 Fine\r\nno colon\r\n",
    ],
)
def test_an_answer_that_is_none(make_service: MakeService, answer: bytes) -> None:
    """What is not an answer by HTTP/1.1 is a violation of the protocol, and not retried."""
    with serve(raw(answer + b"\r\n")) as server:
        error = error_of(make_service(), server)
        assert type(error) is ProtocolError
        assert (error.code, error.is_retryable, error.close_code) == ("TUNNEL_009", False, None)
        assert server.accepted == 1


def upgrade_with(**changes: str | None) -> Callable[[Peer], object]:
    """Accept with other headers; None leaves one out."""

    def script(peer: Peer) -> None:
        real = peer.respond

        def respond(status: str, fields: dict[str, str]) -> None:
            altered = {**fields, **{k.replace("_", "-"): v for k, v in changes.items()}}
            real(status, {k: v(fields[k]) if callable(v) else v for k, v in altered.items() if v})

        peer.respond = respond  # type: ignore[method-assign]
        peer.upgrade()
        peer.wait_until_gone()

    return script


@pytest.mark.fault("accept-key", "no-upgrade", "not-offered")
@pytest.mark.parametrize(
    ("changes", "subprotocols"),
    [
        pytest.param(changes, offered, id=name)
        for name, changes, offered in [
            ("missing", {"Sec_WebSocket_Accept": None}, ()),
            ("wrong", {"Sec_WebSocket_Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}, ()),
            ("other case", {"Sec_WebSocket_Accept": str.swapcase}, ()),
            (
                "twice",
                {"Sec_WebSocket_Accept": lambda v: f"{v}\r\nSec-WebSocket-Accept: {v}"},
                (),
            ),
            ("no Upgrade", {"Upgrade": None}, ()),
            ("another Upgrade", {"Upgrade": "h2c"}, ()),
            ("no Connection", {"Connection": None}, ()),
            ("another Connection", {"Connection": "close"}, ()),
            ("subprotocol", {"Sec_WebSocket_Protocol": "chat"}, ()),
            ("other subprotocol", {"Sec_WebSocket_Protocol": "b"}, ("a",)),
            ("in other letters", {"Sec_WebSocket_Protocol": "A"}, ("a",)),
            ("extension", {"Sec_WebSocket_Extensions": "permessage-deflate"}, ()),
        ]
    ],
)
def test_an_upgrade_that_is_not_valid(
    make_service: MakeService, changes: dict[str, object], subprotocols: tuple[str, ...]
) -> None:
    """RFC 6455, section 4.1, to the letter: else the connection fails, and is not retried."""
    with serve(upgrade_with(**changes)) as server:
        error = error_of(make_service(), server, subprotocols=subprotocols)
        assert type(error) is ProtocolError
        assert not error.is_retryable
        assert server.accepted == 1


# Answers that do not come, or not whole


@pytest.mark.fault("answer-cut")
@pytest.mark.parametrize("begun", [None, b"", b"HTTP/1.1 10", b"HTTP/1.1 101 Fine\r\nUpgrade:"])
def test_a_connection_that_ends_within_the_answer(
    make_service: MakeService, begun: bytes | None
) -> None:
    """It is a loss, and retried; also if not even the request was read."""

    def end(peer: Peer) -> None:
        if begun is not None:
            peer.read_request()
            peer.sock.sendall(begun)

    with serve(end) as server:
        error = error_of(make_service(enable_auto_reconnect=False), server)
        assert isinstance(error, ConnectionLostError)
        assert error.is_retryable
    with serve(end, end, accept) as server:
        service = make_service()
        service.connect(server.url, timeout=DEADLINE)
        assert server.accepted == 3
        service.disconnect()


def drip(data: bytes) -> Callable[[Peer], None]:
    """Send a byte now and then, until the client has gone."""
    gone = threading.Event()

    def script(peer: Peer) -> None:
        for at in range(len(data)):
            peer.sock.sendall(data[at : at + 1])
            gone.wait(0.02)
        peer.wait_until_gone()

    return script


@pytest.mark.fault("answer-drips")
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Fine\r\n" * 100])
def test_an_answer_that_drips(make_service: MakeService, answer: bytes) -> None:
    """Bytes now and then, or none, do not hold a dial beyond `connect_timeout`."""
    with serve(drip(answer)) as server:
        service = make_service(connect_timeout=0.3, enable_auto_reconnect=False)
        began = time.perf_counter()
        error = error_of(service, server)
        assert time.perf_counter() - began < 2.0
        assert type(error) is ConnectTimeoutError
        assert "upgrade" in error.message


@pytest.mark.fault("endless-headers")
@pytest.mark.parametrize("piece", [b"X-Header: value\r\n" * 100, b"x" * 4096])
def test_headers_that_never_end(make_service: MakeService, piece: bytes) -> None:
    """Endless headers, or one endless line, are refused at `max_header_size`."""
    sent = Collector()

    def endless(peer: Peer) -> None:
        peer.read_request()
        peer.sock.sendall(b"HTTP/1.1 101 Fine\r\n")
        while True:
            peer.sock.sendall(piece)
            sent(len(piece))

    with serve(endless) as server:
        error = error_of(make_service(), server)
        assert type(error) is ProtocolError
        assert not error.is_retryable
        assert "does not come to an end" in error.message
        assert server.accepted == 1


def endless_body(peer: Peer) -> None:
    """A body that goes on until the client has gone."""
    while True:
        peer.sock.sendall(b"x" * 10_000)


@pytest.mark.fault("endless-body")
@pytest.mark.parametrize("then", [endless_body, drip(b"x" * 10_000)], ids=["endless", "drips"])
@pytest.mark.parametrize("length", ["Content-Length: 99999999999", "Transfer-Encoding: chunked"])
def test_the_body_of_a_refusal_costs_nothing(
    make_service: MakeService, then: Callable[[Peer], object], length: str
) -> None:
    """The status and the headers say all: the body is not waited for, nor read."""
    head = f"HTTP/1.1 404 Not Found\r\n{length}\r\n\r\n".encode()
    with serve(raw(head, then=then)) as server:
        began = time.perf_counter()
        assert type(error_of(make_service(), server)) is HandshakeRejectedError
        assert time.perf_counter() - began < 2.0


@pytest.mark.fault("early-answer")
@pytest.mark.parametrize(
    ("status", "cls"),
    [("400 Bad Request", HandshakeRejectedError), ("101 Switching Protocols", ProtocolError)],
)
def test_an_answer_before_the_request(
    make_service: MakeService, status: str, cls: type[TunnelError]
) -> None:
    """A refusal counts even if the request was not read; acceptance cannot know the key."""

    def early(peer: Peer) -> None:
        fields = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": "x"}
        peer.respond(status, fields)
        peer.wait_until_gone()

    with serve(early) as server:
        assert type(error_of(make_service(), server)) is cls


@pytest.mark.fault("frames-with-answer")
def test_frames_in_the_same_segment_as_the_answer(make_service: MakeService) -> None:
    """Messages that come with the answer are delivered."""
    received = Collector()

    def script(peer: Peer) -> None:
        sock, real = peer.sock, peer.sock.sendall

        class Joined:
            def __getattr__(self, name: str) -> object:
                return getattr(sock, name)

            def sendall(self, data: bytes) -> None:
                real(data + b"\x81\x02hi\x81\x05th")

        peer.sock = Joined()  # type: ignore[assignment]
        peer.upgrade()
        peer.sock = sock
        sock.sendall(b"ere")
        peer.echo()

    with serve(script) as server:
        service = make_service(on_message=received)
        service.connect(server.url, timeout=DEADLINE)
        assert received.wait(2)
        assert received.items == ["hi", "there"]
        service.disconnect()


# Cookies


@pytest.mark.fault("cookies")
def test_cookies_stay_where_they_are() -> None:
    """What one server sets, another tunnel does not send; nor what the library has in its jar."""
    jar = websocket._handshake.CookieJar
    before = dict(jar.jar)
    jar.set("jar=1; Domain=127.0.0.1")
    seen = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade({"Set-Cookie": "server=1; Domain=127.0.0.1"})
        seen(peer.headers.get("cookie"))
        peer.echo()

    try:
        filled = {domain: str(cookie) for domain, cookie in jar.jar.items()}
        with serve(script) as server:
            for headers in ({}, {"Cookie": "own=1"}):
                with TunnelService() as service:
                    service.connect(server.url, timeout=DEADLINE, headers=headers)
                    service.disconnect()
        assert seen.items == [None, "own=1"]
        assert {domain: str(cookie) for domain, cookie in jar.jar.items()} == filled
    finally:
        jar.jar.clear()
        jar.jar.update(before)


# Retry-After, and the backoff


class Delays(Collector):
    """The delays before the attempts that a service announces."""

    def __call__(self, event: object) -> None:
        if event.type is ConnectionEventType.RECONNECTING and "delay" in event.metadata:
            super().__call__(event.metadata["delay"])


def date(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.fault("retry-after")
@pytest.mark.requirement("1.5")
@pytest.mark.parametrize(
    ("status", "header", "least", "most"),
    [
        ("503", "100", 100, 110),
        ("429", "100", 100, 110),
        ("503", "future", 90, 110),
        ("429", "0", 0, 1),
        ("503", "past", 0, 1),
        ("503", "-100", 0, 1),
        ("503", "soon", 0, 1),
        ("503", "1e9", 0, 1),
        ("429", "99999999999999999999", 86_400, 95_040),
        ("503", "Fri, 31 Dec 9999 23:59:59 GMT", 86_400, 95_040),
    ],
)
def test_a_server_that_asks_to_wait(
    make_service: MakeService, status: str, header: str, least: float, most: float
) -> None:
    """Nobody comes earlier than asked, later by the jitter; a day is the most; the wait ends."""
    value = {"future": date(100), "past": date(-100)}.get(header, header)
    busy, delays = refuse(f"{status} Busy", {"Retry-After": value}), Delays()
    with serve(busy, busy, accept) as server:
        service = make_service(jitter=0.1)
        service.subscribe(delays)
        service.connect(server.url, wait=False)
        assert delays.wait(1)
        assert least <= delays.items[0] <= most
        if least:
            assert server.accepted == 1
            assert service.state is S.RECONNECTING
            began = time.perf_counter()
            service.disconnect(timeout=DEADLINE)
            assert time.perf_counter() - began < 2.0
        else:
            assert service.wait_for(S.CONNECTED, timeout=DEADLINE)
            service.disconnect()


@pytest.mark.fault("retry-after")
def test_a_short_wait_is_really_waited(make_service: MakeService) -> None:
    """The next connection comes when the second is over, not before."""
    times = Collector()

    def noting(script: Callable[[Peer], object]) -> Callable[[Peer], object]:
        return lambda peer: (times(time.perf_counter()), script(peer))

    busy = refuse("503 Busy", {"Retry-After": "1"})
    with serve(noting(busy), noting(accept)) as server:
        service = make_service()
        service.connect(server.url, timeout=DEADLINE)
        service.disconnect()
    assert 1.0 <= times.items[1] - times.items[0] < 3.0


@pytest.mark.fault("accepts-and-closes")
def test_who_accepts_and_closes_is_not_hammered(make_service: MakeService) -> None:
    """Delays grow over connections that do not last for `stable_after`."""
    delays = Delays()

    def fickle(peer: Peer) -> None:
        peer.upgrade()
        peer.close(1001)
        peer.receive_close()

    with serve(fickle) as server:
        service = make_service(reconnect_base_delay=0.01, reconnect_max_delay=0.1)
        service.subscribe(delays)
        service.connect(server.url, wait=False)
        assert delays.wait(6)
        assert delays.items[:6] == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.1, 0.1])
        service.disconnect(graceful=False)


# Tokens


class Gate:
    """A server that lets one token in, and notes all that it is shown."""

    def __init__(self, valid: str, challenge: dict[str, str] = EXPIRED) -> None:
        self.seen = Collector()
        self._valid, self._challenge = valid, challenge

    def __call__(self, peer: Peer) -> None:
        peer.read_request()
        token = peer.headers.get("authorization", "").removeprefix("Bearer ")
        self.seen(token)
        if token == self._valid:
            peer.read_request = lambda: None  # type: ignore[method-assign]
            peer.upgrade()
            peer.echo()
        else:
            peer.respond("401 Unauthorized", self._challenge)
            peer.wait_until_gone()


@pytest.mark.fault("token-expired")
@pytest.mark.requirement("2.9")
def test_an_expired_token_is_renewed_once(make_service: MakeService) -> None:
    """A callable is asked for another token at once, within the same attempt."""
    tokens = iter(["old", "new"])
    gate, delays = Gate("new"), Delays()
    with serve(gate) as server:
        service = make_service(reconnect_base_delay=60.0, reconnect_max_delay=60.0)
        service.subscribe(delays)
        service.connect(server.url, lambda: next(tokens), timeout=DEADLINE)
        assert gate.seen.items == ["old", "new"]
        assert delays.items == []
        service.disconnect()


@pytest.mark.fault("token-expired")
def test_an_expired_token_is_renewed_in_a_reconnection(make_service: MakeService) -> None:
    """The same when a lost connection is restored."""
    tokens = iter(["first", "old", "new"])
    first, gate = Gate("first"), Gate("new")

    def drop(peer: Peer) -> None:
        peer.upgrade()

    with serve(drop, gate) as server:
        service = make_service()
        service.connect(server.url, lambda: next(tokens), timeout=DEADLINE)
        assert gate.seen.wait(2)
        assert service.wait_for(S.CONNECTED, timeout=DEADLINE)
        assert gate.seen.items == ["old", "new"]
        service.disconnect()
    assert first.seen.items == []


class TokenServiceDown(Exception):
    """Of an application."""


def failing(error: Exception) -> Callable[[], str]:
    answers = iter(["old"])

    def token() -> str:
        for answer in answers:
            return answer
        raise error

    return token


@pytest.mark.fault("token-refused")
@pytest.mark.parametrize(
    ("token", "challenge", "cls", "seen", "retryable"),
    [
        ("old", EXPIRED, TokenExpiredError, ["old"], False),
        (lambda: "old", EXPIRED, TokenExpiredError, ["old"], False),
        (iter("abcdef").__next__, EXPIRED, TokenExpiredError, ["a", "b"], False),
        (iter("abcdef").__next__, INVALID, InvalidCredentialsError, ["a"], False),
        (iter("abcdef").__next__, {}, AuthenticationFailedError, ["a"], False),
        (failing(TokenServiceDown()), EXPIRED, AuthenticationFailedError, ["old"], False),
        (failing(OSError("down")), EXPIRED, NetworkError, ["old"], True),
    ],
    ids=["string", "same again", "expired again", "invalid", "unknown", "raises", "no network"],
)
def test_a_token_that_cannot_be_renewed(
    make_service: MakeService,
    token: str | Callable[[], str],
    challenge: dict[str, str],
    cls: type[TunnelError],
    seen: list[str],
    retryable: bool,
) -> None:
    """A second refusal is final, and there is no second try of a token that was refused."""
    gate = Gate("new", challenge)
    with serve(gate) as server:
        service = make_service(enable_auto_reconnect=False)
        error = error_of(service, server, auth_token=token)
        assert isinstance(error, cls)
        assert error.is_retryable is retryable
        assert gate.seen.items == seen
