from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from tunnel import dial as dial_module
from tunnel.addresses import TunnelUrl
from tunnel.dial import Deadline, Dial, DialInterrupted, HandshakeSocket
from tunnel.errors import (
    AuthenticationFailedError,
    ConnectTimeoutError,
    ProtocolError,
    ServerUnavailableError,
)
from tunnel.stream import Readiness, Stream
from tunnel.waker import Waker

LONG = 20.0
"""Seconds that something may take which is certain to happen."""

SHORT = 0.6
"""Seconds after which a dial is to give up."""

pytestmark = pytest.mark.usefixtures("no_leaks")


class Interruption:
    """What calls a dial off, as a tunnel does it."""

    def __init__(self) -> None:
        self.waker = Waker()
        self.wanted = False

    def __call__(self) -> bool:
        return self.wanted

    def now(self) -> None:
        self.wanted = True
        self.waker.wake()


@pytest.fixture
def interruption() -> Iterator[Interruption]:
    interruption = Interruption()
    yield interruption
    interruption.waker.close()


@pytest.fixture
def dial(interruption: Interruption) -> Dial:
    return Dial(LONG, interruption.waker, interruption)


@pytest.fixture
def hasty(interruption: Interruption) -> Dial:
    """A dial that gives up soon."""
    return Dial(SHORT, interruption.waker, interruption)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(LONG)
        yield sock


@pytest.fixture
def full_listener() -> Iterator[socket.socket]:
    """One whose queue is full: Linux then ignores further attempts to connect."""
    if sys.platform != "linux":
        pytest.skip("how a full queue behaves is known of Linux alone")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(sock.getsockname())
        yield sock
        for client in waiting:
            client.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def url_of(sock: socket.socket, scheme: str = "ws", host: str = "127.0.0.1") -> TunnelUrl:
    return TunnelUrl.parse(f"{scheme}://{host}:{sock.getsockname()[1]}/")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def address(port: int) -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[Any, ...]) -> None:
    monkeypatch.setattr(dial_module, "_resolve", lambda *arguments: list(addresses))


class FrozenTime:
    """In place of the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> FrozenTime:
    frozen = FrozenTime()
    monkeypatch.setattr(dial_module, "time", frozen)
    return frozen


# The deadline


def test_a_deadline_counts_down_and_names_the_step(frozen: FrozenTime) -> None:
    """What remains is always more than 0; after that it raises, with the step in the text."""
    deadline = Deadline(2.5)
    frozen.now += 2.0
    assert deadline.remaining() == 0.5
    deadline.step = "TLS handshake"
    frozen.now += 0.5
    with pytest.raises(
        ConnectTimeoutError, match=r"no connection within 2\.5 s: .* during the TLS handshake"
    ):
        deadline.remaining()


# TCP


def test_a_dial_connects(dial: Dial, listener: socket.socket) -> None:
    """The stream is connected, does not block, and delays no small frames."""
    stream = dial.open_stream(url_of(listener), None)
    peer, _ = listener.accept()
    assert not stream.is_tls
    assert stream.socket.gettimeout() == 0
    assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert stream.send(b"x") == 1
    assert peer.recv(10) == b"x"
    peer.close()
    stream.close()


def test_a_refusal_is_an_error_at_once(dial: Dial) -> None:
    """Nobody listens: the system's error, and no descriptor is left."""
    with pytest.raises(ConnectionRefusedError):
        dial.open_stream(TunnelUrl.parse(f"ws://127.0.0.1:{closed_port()}/"), None)


def test_the_next_address_is_tried(
    dial: Dial, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with several addresses is reached if one of them is."""
    resolving_to(monkeypatch, address(closed_port()), address(listener.getsockname()[1]))
    dial.open_stream(url_of(listener, host="name.test"), None).close()


def test_the_first_addresss_error_is_reported(
    dial: Dial, monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    """If none is reached, the error of the first one is raised: the one that counts."""
    unreachable = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("255.255.255.255", 1))
    resolving_to(monkeypatch, address(closed_port()), unreachable)
    with pytest.raises(ConnectionRefusedError):
        dial.open_stream(url_of(listener, host="name.test"), None)


def test_a_name_without_addresses_is_an_error(
    dial: Dial, monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    """An empty answer of the resolver raises, too."""
    resolving_to(monkeypatch)
    with pytest.raises(OSError, match="no address") as caught:
        dial.open_stream(url_of(listener, host="name.test"), None)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_an_address_that_hangs_leaves_time_for_the_next(
    interruption: Interruption,
    full_listener: socket.socket,
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each address gets its share of the time that is left."""
    ports = full_listener.getsockname()[1], listener.getsockname()[1]
    resolving_to(monkeypatch, *map(address, ports))
    dial = Dial(1.0, interruption.waker, interruption)
    start = time.monotonic()
    dial.open_stream(url_of(listener, host="name.test"), None).close()
    assert time.monotonic() - start > 0.4


def test_wake_ups_do_not_lengthen_an_addresss_share(
    interruption: Interruption, frozen: FrozenTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that is woken for nothing goes on with the rest of its time."""
    timeouts: list[float] = []

    def woken(sock: socket.socket, waker: Waker, **options: Any) -> Readiness:
        timeouts.append(options["timeout"])
        frozen.now += 0.4
        return Readiness(False, False, len(timeouts) < 3, False)

    monkeypatch.setattr(dial_module, "wait_for", woken)
    dial = Dial(10.0, interruption.waker, interruption)
    with socket.socket() as sock:
        assert not any(dial.wait(sock, read=False, write=True, limit=1.0))
    assert timeouts == pytest.approx([1.0, 0.6, 0.2])


def test_a_server_that_does_not_answer_costs_the_time_out(
    hasty: Dial, full_listener: socket.socket
) -> None:
    """TCP that hangs ends at the deadline, and the error names the step."""
    with pytest.raises(ConnectTimeoutError, match="TCP connect"):
        hasty.open_stream(url_of(full_listener), None)


def interrupt_soon(interruption: Interruption) -> tuple[threading.Timer, list[float]]:
    moment: list[float] = []

    def interrupt() -> None:
        moment.append(time.monotonic())
        interruption.now()

    timer = threading.Timer(0.05, interrupt)
    timer.start()
    return timer, moment


def assert_interrupted(interruption: Interruption, call: Callable[[], object]) -> None:
    """The call ends at once: on a machine that is very busy, long before its time-out."""
    timer, moment = interrupt_soon(interruption)
    with pytest.raises(DialInterrupted):
        call()
    assert time.monotonic() - moment[0] < 1.0
    timer.join()


def test_a_hanging_connect_is_interrupted(
    dial: Dial, interruption: Interruption, full_listener: socket.socket
) -> None:
    """Another thread ends a dial in TCP at once."""
    assert_interrupted(interruption, lambda: dial.open_stream(url_of(full_listener), None))


def test_a_wake_up_for_nothing_does_not_end_a_dial(
    hasty: Dial, interruption: Interruption, full_listener: socket.socket
) -> None:
    """A dial that still has its purpose goes on waiting."""
    timer = threading.Timer(0.02, interruption.waker.wake)
    timer.start()
    with pytest.raises(ConnectTimeoutError):
        hasty.open_stream(url_of(full_listener), None)
    timer.join()


def test_an_interruption_before_the_dial_is_obeyed(
    dial: Dial, interruption: Interruption, full_listener: socket.socket
) -> None:
    """What was wanted before the first wait ends it, too."""
    interruption.now()
    with pytest.raises(DialInterrupted):
        dial.open_stream(url_of(full_listener), None)


# The name look-up


class HangingResolver:
    """Looks names up for as long as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = threading.Event()
        self.answer = threading.Event()
        self.result: list[tuple[Any, ...]] | Exception = []
        monkeypatch.setattr(dial_module, "_resolve", self)

    def __call__(self, host: str, port: int, flags: int = 0) -> list[tuple[Any, ...]]:
        self.asked.set()
        assert self.answer.wait(LONG)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def finish(self) -> None:
        self.answer.set()
        for thread in threading.enumerate():
            if thread.name == "tunnel-resolver":
                thread.join(LONG)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingResolver]:
    resolver = HangingResolver(monkeypatch)
    yield resolver
    resolver.finish()


NAME = TunnelUrl.parse("ws://name.test/")


def test_a_name_is_looked_up(dial: Dial, listener: socket.socket) -> None:
    """`localhost` leads to the server, through the system's resolver."""
    dial.open_stream(url_of(listener, host="localhost"), None).close()


def test_an_ip_address_is_not_looked_up(
    dial: Dial, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers need no resolver and no thread."""
    monkeypatch.setattr(dial, "_look_up_name", None)
    dial.open_stream(url_of(listener), None).close()
    monkeypatch.setattr(threading.Thread, "start", None)
    with pytest.raises(OSError, match=r"."):
        dial.open_stream(TunnelUrl.parse(f"ws://[::1]:{closed_port()}/"), None)


def test_a_name_that_is_not_found_raises_the_resolvers_error(
    dial: Dial, resolver: HangingResolver
) -> None:
    """The error of the look-up arrives from its thread."""
    resolver.result = socket.gaierror(socket.EAI_NONAME, "no such name")
    resolver.answer.set()
    with pytest.raises(socket.gaierror, match="no such name"):
        dial.open_stream(NAME, None)


def test_a_hanging_look_up_costs_the_time_out(hasty: Dial, resolver: HangingResolver) -> None:
    """A resolver that does not answer is left behind at the deadline."""
    with pytest.raises(ConnectTimeoutError, match="name look-up"):
        hasty.open_stream(NAME, None)
    assert resolver.asked.is_set()


def test_a_hanging_look_up_is_interrupted(
    dial: Dial, interruption: Interruption, resolver: HangingResolver
) -> None:
    """Another thread ends a dial in the resolver at once, which nothing can interrupt itself."""
    assert_interrupted(interruption, lambda: dial.open_stream(NAME, None))


def test_an_answer_that_comes_while_a_wake_up_is_obeyed_is_not_missed(
    interruption: Interruption, resolver: HangingResolver
) -> None:
    """The answer's own wake-up may be cleared together with another: it is looked for again."""

    def look() -> bool:
        resolver.finish()
        return False

    resolver.result = ConnectionError("the answer")
    dial = Dial(LONG, interruption.waker, look)
    with pytest.raises(ConnectionError, match="the answer"):
        dial.open_stream(NAME, None)


# TLS


@pytest.fixture
def tls_server(listener: socket.socket, authority: trustme.CA) -> Iterator[socket.socket]:
    """Accepts one TLS connection, if the client likes its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)

    def serve() -> None:
        peer, _ = listener.accept()
        peer.settimeout(LONG)
        try:
            with context.wrap_socket(peer, server_side=True) as wrapped:
                wrapped.sendall(wrapped.recv(100))
        except OSError:
            peer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener
    thread.join(LONG)


def test_a_dial_over_tls(
    dial: Dial, tls_server: socket.socket, client_context: ssl.SSLContext
) -> None:
    """wss: the certificate is verified for the host, and bytes go through."""
    stream = dial.open_stream(url_of(tls_server, "wss"), client_context)
    assert stream.is_tls
    assert stream.send(b"hello") == 5
    while (answer := stream.receive(10)) is None:
        dial.wait(stream.socket, read=True, write=False)
    assert answer == b"hello"
    stream.close()


def test_an_unknown_certificate_is_refused(dial: Dial, tls_server: socket.socket) -> None:
    """Without a context the system's certificates count, and the socket is closed."""
    with pytest.raises(ssl.SSLCertVerificationError):
        dial.open_stream(url_of(tls_server, "wss"), None)


def test_the_default_context_is_made_once_and_verifies() -> None:
    """All tunnels share one: TLS 1.2 or later, host name and certificate checked."""
    context = dial_module._default_ssl_context()
    assert context is dial_module._default_ssl_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_silent_handshake_costs_the_time_out(
    hasty: Dial, listener: socket.socket, client_context: ssl.SSLContext
) -> None:
    """A server that accepts and says nothing: the deadline, and the step."""
    with pytest.raises(ConnectTimeoutError, match="TLS handshake"):
        hasty.open_stream(url_of(listener, "wss"), client_context)


def test_a_hanging_handshake_is_interrupted(
    dial: Dial,
    interruption: Interruption,
    listener: socket.socket,
    client_context: ssl.SSLContext,
) -> None:
    """Another thread ends a dial in TLS at once."""
    assert_interrupted(
        interruption, lambda: dial.open_stream(url_of(listener, "wss"), client_context)
    )


def test_a_handshake_waits_for_room_too(dial: Dial, listener: socket.socket) -> None:
    """Where OpenSSL wants to write, the dial waits until it can."""
    wanted = [ssl.SSLWantWriteError(), None]

    class Wrapped(socket.socket):
        def do_handshake(self) -> None:
            if error := wanted.pop(0):
                raise error

    def wrap(sock: socket.socket, **options: Any) -> socket.socket:
        return Wrapped(sock.family, sock.type, sock.proto, sock.detach())

    context: Any = SimpleNamespace(wrap_socket=wrap)
    dial.open_stream(url_of(listener, "wss"), context).close()
    assert wanted == []


# The upgrade


Shake = tuple[HandshakeSocket, socket.socket]


def shaking(dial: Dial, waker: Waker, limit: int = 1000) -> tuple[HandshakeSocket, Stream, Any]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(LONG)
    stream = Stream(ours, waker)
    return HandshakeSocket(stream, dial, "/a;b=1?c", limit), stream, theirs


@pytest.fixture
def handshake(dial: Dial, interruption: Interruption) -> Iterator[Shake]:
    sock, stream, peer = shaking(dial, interruption.waker)
    yield sock, peer
    stream.close()
    peer.close()


@pytest.fixture
def hasty_handshake(hasty: Dial, interruption: Interruption) -> Iterator[Shake]:
    sock, stream, peer = shaking(hasty, interruption.waker)
    yield sock, peer
    stream.close()
    peer.close()


def test_what_was_read_beyond_the_headers_is_the_rest(handshake: Shake) -> None:
    """The library reads byte by byte; the bytes behind its last one are not lost."""
    sock, peer = handshake
    peer.sendall(b"HTTP/1.1 101 Hi\r\n\r\nframes")
    head = b"".join(sock.recv(1) for _ in range(19))
    assert head == b"HTTP/1.1 101 Hi\r\n\r\n"
    assert sock.rest == b"frames"


def test_an_answer_that_comes_in_parts_is_waited_for(handshake: Shake) -> None:
    """`recv` returns what is there, waits for the first byte, and ends with the stream."""
    sock, peer = handshake
    peer.sendall(b"ab")
    assert sock.recv(1) == b"a"
    timer = threading.Timer(0.02, lambda: (peer.sendall(b"c"), peer.close()))
    timer.start()
    assert sock.recv(5) == b"b"
    assert sock.recv(5) == b"c"
    assert sock.recv(5) == b""
    timer.join()


def test_an_answer_without_end_is_refused(handshake: Shake) -> None:
    """No more than the limit is read."""
    sock, peer = handshake
    peer.sendall(b"x" * 1100)
    assert b"".join(sock.recv(1) for _ in range(1000)) == b"x" * 1000
    with pytest.raises(ProtocolError, match="does not come to an end"):
        sock.recv(1)


def test_the_request_is_put_right_on_its_way(handshake: Shake) -> None:
    """The path keeps its parameters, and header values are Latin-1 (RFC 7230, 3.2.4)."""
    sock, peer = handshake
    request = "GET /a HTTP/1.1\r\nX-Name: Jürgen\r\n\r\n".encode()
    assert sock.send(request) == len(request)
    assert peer.recv(1000) == b"GET /a;b=1?c HTTP/1.1\r\nX-Name: J\xfcrgen\r\n\r\n"


def test_a_long_request_waits_for_room(handshake: Shake) -> None:
    """All of the request is written, though the kernel takes it in parts."""
    sock, peer = handshake
    request = b"GET / HTTP/1.1\r\n" + b"X" * 2_000_000
    received = bytearray()

    def read() -> None:
        while len(received) < 2_000_000:
            received.extend(peer.recv(65536))

    thread = threading.Thread(target=read)
    thread.start()
    sock.send(request)
    thread.join(LONG)
    assert bytes(received) == b"GET /a;b=1?c HTTP/1.1\r\n" + b"X" * 2_000_000


def test_a_request_that_nobody_reads_costs_the_time_out(hasty_handshake: Shake) -> None:
    """Writing stands under the deadline, too."""
    sock, _ = hasty_handshake
    with pytest.raises(ConnectTimeoutError, match="WebSocket upgrade"):
        sock.send(b"GET / HTTP/1.1\r\n" + b"X" * 20_000_000)


def test_a_silent_upgrade_costs_the_time_out(hasty_handshake: Shake) -> None:
    """A server that does not answer: the deadline, and the step."""
    sock, _ = hasty_handshake
    with pytest.raises(ConnectTimeoutError, match="WebSocket upgrade"):
        sock.recv(1)


def test_a_hanging_upgrade_is_interrupted(handshake: Shake, interruption: Interruption) -> None:
    """Another thread ends a dial in the upgrade at once."""
    assert_interrupted(interruption, lambda: handshake[0].recv(1))


def test_dripping_headers_cost_the_time_out(frozen: FrozenTime, interruption: Interruption) -> None:
    """A server that sends a byte now and then does not hold the dial beyond its deadline."""
    dial = Dial(10.0, interruption.waker, interruption)
    sock, stream, peer = shaking(dial, interruption.waker)
    for second in range(10):
        frozen.now = 100.0 + second
        assert 0 < sock.gettimeout() <= 10.0
        peer.send(b"x")
        assert sock.recv(1) == b"x"
    frozen.now += 1.0
    peer.send(b"x")
    with pytest.raises(ConnectTimeoutError):
        sock.gettimeout()
    stream.close()
    peer.close()


@pytest.mark.requirement("6.8")
@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 99\r\n\r\n", 7.0),
        (b"HTTP/1.1 401 No\nContent-Length:1\n \t\n", None),
    ],
)
def test_the_body_of_a_refusal_is_not_read(
    handshake: Shake, head: bytes, error: float | None
) -> None:
    """Whoever reads on gets the error of the status, whether the body comes or not."""
    sock, peer = handshake
    peer.sendall(head)
    assert b"".join(sock.recv(1) for _ in range(len(head))) == head
    expected = AuthenticationFailedError if error is None else ServerUnavailableError
    with pytest.raises(expected) as caught:
        sock.recv(99)
    assert caught.value.retry_after == error


def test_closing_is_left_to_the_transport(handshake: Shake) -> None:
    """The library's `close` of what failed leaves the stream alone."""
    sock, peer = handshake
    sock.close()
    assert sock.send(b"GET / HTTP/1.1\r\n")
    assert peer.recv(100)


def test_the_system_error_of_a_late_refusal_is_kept(
    dial: Dial, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that shows at once or after a wait is raised with its number and text."""
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *a: errno.ENETUNREACH, raising=False)
    with pytest.raises(OSError, match=os.strerror(errno.ENETUNREACH)):
        dial.open_stream(url_of(listener), None)
