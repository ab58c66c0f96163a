from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from tunnel import dial as dial_module
from tunnel.addresses import TunnelUrl
from tunnel.dial import Deadline, Dial, DialInterrupted
from tunnel.dial_options import DialOptions
from tunnel.errors import CertificateError, ConnectTimeoutError, ProxyError
from tunnel.proxy import Proxy
from tunnel.stream import Stream
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


def test_the_system_error_of_a_late_refusal_is_kept(
    dial: Dial, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that shows at once or after a wait is raised with its number and text."""
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *a: errno.ENETUNREACH, raising=False)
    with pytest.raises(OSError, match=os.strerror(errno.ENETUNREACH)):
        dial.open_stream(url_of(listener), None)


def test_a_name_without_addresses_is_an_error(
    dial: Dial, monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    """An empty answer of the resolver raises, too."""
    resolving_to(monkeypatch)
    with pytest.raises(OSError, match="no address") as caught:
        dial.open_stream(url_of(listener, host="name.test"), None)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_an_address_that_hangs_costs_a_moment(
    dial: Dial,
    full_listener: socket.socket,
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next address is tried beside it, 250 ms later (RFC 8305), and wins."""
    ports = full_listener.getsockname()[1], listener.getsockname()[1]
    resolving_to(monkeypatch, *map(address, ports))
    start = time.monotonic()
    stream = dial.open_stream(url_of(listener, host="name.test"), None)
    assert 0.2 < time.monotonic() - start < LONG / 2
    assert stream.socket.getpeername() == listener.getsockname()
    stream.close()


def test_wake_ups_do_not_lengthen_the_delay_between_two_addresses(
    interruption: Interruption, frozen: FrozenTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that is woken for nothing goes on with the rest of its time; then the next starts."""
    waits: list[tuple[int, float]] = []

    def woken(
        socks: Collection[socket.socket], waker: Waker, timeout: float
    ) -> tuple[list[socket.socket], bool]:
        waits.append((len(socks), timeout))
        frozen.now += 0.1 if len(waits) < 3 else 0.0  # the last one is by the poll's clock alone
        return [], len(waits) < 3

    monkeypatch.setattr(dial_module, "wait_for_any", woken)
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *a: errno.EINPROGRESS, raising=False)
    resolving_to(monkeypatch, address(1), address(2))
    dial = Dial(10.0, interruption.waker, interruption)
    with pytest.raises(ConnectTimeoutError, match="TCP connect"):
        dial.open_stream(NAME, None)
    assert [count for count, _ in waits] == [1, 1, 1, 2]
    assert [timeout for _, timeout in waits] == pytest.approx([0.25, 0.15, 0.05, 9.8])


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


def test_a_name_is_looked_up_without_a_thread(
    dial: Dial, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If none can be started, the thread that dials asks the resolver itself."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    dial.open_stream(url_of(listener, host="localhost"), None).close()


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


@pytest.mark.parametrize(
    ("host", "issued"), [("localhost.", "localhost"), ("[fe80::1%25eth0]", "fe80::1")]
)
def test_the_certificate_is_for_the_bare_name(
    dial: Dial,
    listener: socket.socket,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    issued: str,
) -> None:
    """Without the dot of an absolute name (RFC 6066, section 3), or the zone of an address."""
    resolving_to(monkeypatch, address(listener.getsockname()[1]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(issued).configure_cert(context)
    names: list[str | None] = []
    context.sni_callback = lambda sock, name, _: names.append(name)  # type: ignore[assignment]

    def serve() -> None:
        peer, _ = listener.accept()
        peer.settimeout(LONG)
        # A client that closes with the tickets of the session unread resets the connection.
        wrapped = context.wrap_socket(peer, server_side=True)
        with wrapped, contextlib.suppress(ConnectionResetError):
            wrapped.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    stream = dial.open_stream(url_of(listener, "wss", host), client_context)
    stream.close()
    thread.join(LONG)
    assert names == [None if ":" in issued else issued]


def test_an_unknown_certificate_is_refused(dial: Dial, tls_server: socket.socket) -> None:
    """Without a context the system's certificates count, and the socket is closed."""
    with pytest.raises(ssl.SSLCertVerificationError):
        dial.open_stream(url_of(tls_server, "wss"), None)


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

        def version(self) -> str:
            return "TLSv1.3"

    def wrap(sock: socket.socket, **options: Any) -> socket.socket:
        return Wrapped(sock.family, sock.type, sock.proto, sock.detach())

    context: Any = SimpleNamespace(wrap_socket=wrap)
    dial.open_stream(url_of(listener, "wss"), context).close()
    assert wanted == []


# Unix sockets

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


@pytest.fixture
def unix_listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "server"))
        sock.listen(0)
        sock.settimeout(LONG)
        yield sock


@unix
def test_a_unix_socket_is_connected_to(dial: Dial, unix_listener: socket.socket) -> None:
    """In place of the URL's host, which is not looked up."""
    options = DialOptions(unix_socket=unix_listener.getsockname())
    stream = dial.open_stream(TunnelUrl.parse("ws://nowhere.invalid/"), None, options)
    assert stream.socket.getpeername() == unix_listener.getsockname()
    assert stream.socket.gettimeout() == 0
    stream.close()


@unix
def test_a_unix_socket_that_is_not_there(dial: Dial, tmp_path: Path) -> None:
    """The system's error, and no descriptor is left."""
    options = DialOptions(unix_socket=str(tmp_path / "server"))
    with pytest.raises(FileNotFoundError):
        dial.open_stream(NAME, None, options)


@unix
@pytest.mark.skipif(sys.platform != "linux", reason="others refuse when a backlog is full")
def test_a_full_backlog_is_waited_for(
    dial: Dial, interruption: Interruption, unix_listener: socket.socket
) -> None:
    """It is tried again until there is room, or until it is called off."""
    options = DialOptions(unix_socket=unix_listener.getsockname())
    waiting = dial.open_stream(NAME, None, options)
    timer = threading.Timer(0.05, lambda: unix_listener.accept()[0].close())
    timer.start()
    dial.open_stream(NAME, None, options).close()
    timer.join()
    assert_interrupted(interruption, lambda: dial.open_stream(NAME, None, options))
    waiting.close()


# Proxies


@pytest.fixture
def proxied(listener: socket.socket) -> Iterator[tuple[DialOptions, list[bytes]]]:
    """The way through a SOCKS5 proxy that says what stands in the list."""
    answers: list[bytes] = []

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(LONG)
            for answer in answers:
                peer.recv(100)
                peer.sendall(answer)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(100):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    yield DialOptions(Proxy.parse(f"socks5://127.0.0.1:{port}")), answers
    thread.join(LONG)


OPENED = b"\5\0\0\1\0\0\0\0\0\0"


def test_a_proxy_is_passed(dial: Dial, proxied: tuple[DialOptions, list[bytes]]) -> None:
    """The stream begins with the first byte after the proxy's answer."""
    options, answers = proxied
    answers += [b"\5\0", OPENED + b"hello"]
    stream = dial.open_stream(TunnelUrl.parse("ws://127.0.0.1:9/"), None, options)
    assert dial.receive(stream, 100) == b"hello"
    stream.close()


def test_a_proxy_that_refuses_is_an_error(
    dial: Dial, proxied: tuple[DialOptions, list[bytes]]
) -> None:
    """And its socket is closed."""
    options, answers = proxied
    answers += [b"\5\0", b"\5\2\0\1"]
    with pytest.raises(ProxyError, match="not allowed"):
        dial.open_stream(TunnelUrl.parse("ws://127.0.0.1:9/"), None, options)


def test_a_proxy_that_cannot_be_reached_is_an_error(dial: Dial) -> None:
    """It is not taken for the server's."""
    options = DialOptions(Proxy.parse(f"http://127.0.0.1:{closed_port()}"))
    with pytest.raises(ProxyError, match="connection to the proxy") as caught:
        dial.open_stream(NAME, None, options)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_a_pin_that_does_not_fit_closes_the_connection(
    dial: Dial, tls_server: socket.socket, client_context: ssl.SSLContext
) -> None:
    """After the handshake, and before a word is said."""
    options = DialOptions(pins=(32 * b"x",))
    with pytest.raises(CertificateError, match="pinned"):
        dial.open_stream(url_of(tls_server, "wss"), client_context, options)


# TLS through TLS is in test_nested_tls.py and tests/integration/test_proxies.py.


def test_all_of_a_long_message_is_written(hasty: Dial, interruption: Interruption) -> None:
    """`send` waits for room, under the deadline."""
    ours, theirs = socket.socketpair()
    received = bytearray()

    def read() -> None:
        while data := theirs.recv(65536):
            received.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    stream = Stream(ours, interruption.waker)
    hasty.send(stream, 2_000_000 * b"x")
    stream.close()
    thread.join(LONG)
    theirs.close()
    assert bytes(received) == 2_000_000 * b"x"
