from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

from tunnel.nested_tls import NestedTlsSocket, nesting_context
from tunnel.stream import Stream
from tunnel.waker import Waker

LONG = 20.0
pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Peer:
    """Proxy and server in one: TLS in TLS, by memory, so that nothing here waits for itself."""

    def __init__(self, sock: socket.socket, authority: trustme.CA, name: str) -> None:
        self.sock = sock
        sock.setblocking(False)
        self.layers = []
        for host in ("proxy.test", name):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(host).configure_cert(context)
            bios = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.layers.append((context.wrap_bio(*bios, server_side=True), *bios))
        self.received = b""

    def step(self, depth: int) -> None:
        """Do whatever can be done now."""
        outer, incoming, outgoing = self.layers[0]
        with contextlib.suppress(BlockingIOError):
            incoming.write(self.sock.recv(1 << 20))
        with contextlib.suppress(ssl.SSLWantReadError):
            outer.do_handshake()
            if depth:
                self._step_inner(outer)
        data = outgoing.read()
        while data:
            data = data[self.sock.send(data) :]

    def _step_inner(self, outer: ssl.SSLObject) -> None:
        inner, incoming, outgoing = self.layers[1]
        with contextlib.suppress(ssl.SSLWantReadError):
            while True:
                incoming.write(outer.read(1 << 20))
        with contextlib.suppress(ssl.SSLWantReadError):
            inner.do_handshake()
            while True:
                self.received += inner.read(1 << 20)
        outer.write(outgoing.read() or b"") if outgoing.pending else None

    def say(self, data: bytes) -> None:
        """Send to the client."""
        self.layers[1][0].write(data)
        self.layers[0][0].write(self.layers[1][2].read())
        self.sock.sendall(self.layers[0][2].read())


Pair = tuple[NestedTlsSocket, Peer]


def persist(call: Callable[[], Any], peer: Peer, depth: int = 1) -> Any:
    """Repeat a call as a dial or a writer does, until it need not wait."""
    while True:
        try:
            return call()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            peer.step(depth)


@pytest.fixture
def pair(authority: trustme.CA, trusting: ssl.SSLContext) -> Iterator[Pair]:
    """Both handshakes are done."""
    with connected(authority, trusting) as (sock, peer):
        sock.nest(trusting, "server.test")
        persist(sock.do_handshake, peer)
        peer.step(1)
        yield sock, peer


@contextlib.contextmanager
def connected(
    authority: trustme.CA, trusting: ssl.SSLContext, name: str = "server.test"
) -> Iterator[Pair]:
    """Only the one with the proxy is done."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    trusting.sslsocket_class = NestedTlsSocket
    sock = trusting.wrap_socket(ours, server_hostname="proxy.test", do_handshake_on_connect=False)
    assert isinstance(sock, NestedTlsSocket)
    peer = Peer(theirs, authority, name)
    persist(sock.do_handshake, peer, depth=0)
    yield sock, peer
    sock.close()
    theirs.close()


def test_before_it_is_nested_it_is_any_tls_socket(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """It speaks with the proxy."""
    with connected(authority, trusting) as (sock, peer):
        assert sock.version() == "TLSv1.3"
        assert sock.getpeercert()["subjectAltName"] == (("DNS", "proxy.test"),)
        assert sock.pending() == 0
        assert sock.send(b"CONNECT") == 7
        peer.step(0)
        assert peer.layers[0][0].read() == b"CONNECT"
        peer.layers[0][0].write(b"200")
        peer.step(0)
        assert sock.recv(10) == b"200"


def test_after_that_everything_is_about_the_server(pair: Pair) -> None:
    """Version, certificate and bytes are those of the inner TLS."""
    sock, peer = pair
    assert sock.version() == "TLSv1.3"
    assert sock.getpeercert()["subjectAltName"] == (("DNS", "server.test"),)
    assert sock.getpeercert(True) != b""
    assert persist(lambda: sock.send(b"hello"), peer) == 5
    peer.step(1)
    assert peer.received == b"hello"
    with pytest.raises(ssl.SSLWantReadError):
        sock.recv(10)
    peer.say(b"bytes for several reads")
    assert sock.recv(5) == b"bytes"
    assert sock.pending() == len(" for several reads")
    waker = Waker()
    assert Stream(sock, waker).has_unread()
    waker.close()
    assert sock.recv(100) == b" for several reads"
    assert sock.pending() == 0


def test_a_server_for_another_name_is_refused(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """The inner certificate is verified as the outer one was, and the server is told."""
    with connected(authority, trusting, "other.test") as (sock, peer):
        sock.nest(trusting, "server.test")
        with pytest.raises(ssl.SSLCertVerificationError):
            persist(sock.do_handshake, peer)
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            peer.step(1)


def test_more_than_the_system_takes_is_sent_in_the_end(pair: Pair) -> None:
    """A call that would have to wait is repeated with the same bytes, and nothing is doubled."""
    sock, peer = pair
    message = bytes(range(256)) * 8192
    stream = Stream(sock, Waker())
    view, waits = memoryview(message), 0
    while view:
        taken = stream.send(view)
        view = view[taken:]
        if not taken:
            waits += 1
            peer.step(1)
    while select.select([peer.sock], [], [], 0)[0]:
        peer.step(1)
    assert peer.received == message
    assert waits
    stream.waker.close()


@pytest.mark.parametrize("is_polite", [False, True])
def test_the_end_of_the_outer_stream_is_the_end(pair: Pair, is_polite: bool) -> None:
    """Whether the peer says goodbye in TLS or not, as with other TLS sockets."""
    sock, peer = pair
    peer.say(b"last")
    if is_polite:
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.layers[1][0].unwrap()
        peer.layers[0][0].write(peer.layers[1][2].read())
        peer.step(0)
    peer.sock.shutdown(socket.SHUT_WR)
    stream = Stream(sock, Waker())
    assert stream.receive(10) == b"last"
    assert stream.receive(10) == b""
    stream.waker.close()


def test_the_context_with_proxies_verifies() -> None:
    """Against the system's certificates, as the default one does."""
    context = nesting_context()
    assert context is nesting_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.sslsocket_class is NestedTlsSocket
