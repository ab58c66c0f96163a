"""Where a connection ends, as its transport tells (`Transport.endpoints`)."""

from __future__ import annotations

import socket

import pytest

from tunnel.stream import Stream
from tunnel.testing import FakeClock, ScriptedTransport
from tunnel.transport import WebSocketTransport
from tunnel.waker import Waker

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_of_a_connected_stream(address: str) -> None:
    """This end and the other one, as addresses without a port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener, socket.create_connection(listener.getsockname()[:2]) as sock:
        assert Stream(sock, Waker()).endpoints == (address, address)


class _LinkLocal(socket.socket):
    """A connection within one network, where an address needs its interface."""

    def getsockname(self) -> tuple[str, int, int, int]:
        return ("fe80::1", 5, 0, 7)

    def getpeername(self) -> tuple[str, int, int, int]:
        return ("fe80::2", 6, 0, 7)


def test_of_a_link_local_stream() -> None:
    """The peer's address comes with its scope, without which it leads nowhere."""
    with _LinkLocal(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        assert Stream(sock, Waker()).endpoints == ("fe80::1", "fe80::2%7")


def test_of_a_stream_without_addresses() -> None:
    """A Unix socket has none, nor has what is not connected any more."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        stream = Stream(sock, Waker())
        assert stream.endpoints is None
    assert stream.endpoints is None
    if hasattr(socket, "AF_UNIX"):
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours, theirs:
            assert Stream(ours, Waker()).endpoints is None


def test_of_a_transport() -> None:
    """Those of its stream; none before it is opened."""
    transport = WebSocketTransport(Waker())
    assert transport.endpoints is None
    ours, theirs = socket.socketpair()
    with theirs:
        transport._stream = Stream(ours, transport.waker)
        assert transport.endpoints == transport._stream.endpoints
        transport.close()


def test_of_a_script() -> None:
    """None, unless a test wants some."""
    network = ScriptedTransport(FakeClock())
    transport = network(Waker())
    assert transport.endpoints is None
    network.endpoints = ("10.0.0.2", "10.0.0.1")
    assert transport.endpoints == ("10.0.0.2", "10.0.0.1")
