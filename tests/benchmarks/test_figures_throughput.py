"""Each figure of throughput and of echoes, once and small: that it works, not how fast it is."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest

from benchmarks.figures import echoing, receiving, sending
from benchmarks.figures import socketio_client as socketio
from benchmarks.figures.clients import BARE, bare, tunnel, websocket_client
from benchmarks.figures.measure import TUNNEL, Figure, measure
from benchmarks.figures.servers import Blaster, Counter, EchoServer, Server, SessionServer

FIGURES = (*receiving.FIGURES, *sending.FIGURES, *echoing.FIGURES)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_a_figure(figure: Figure) -> None:
    """Everybody who is measured, and whom the goal names, gets a value."""
    measured = measure(figure, 1, brief=True)
    assert all(len(row) == 1 and row[0] > 0 for row in measured.values.values())
    assert TUNNEL in measured.values
    if figure.goal is not None:
        assert measured.ratio is not None
        assert set(figure.goal.peers) <= set(measured.values)


def test_names_are_unique() -> None:
    """Each figure can be asked for by its name."""
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)


def test_websocket_client_with_and_without_wsaccel() -> None:
    """There are two copies of it: one masks and checks by wsaccel, the other does it itself."""
    with_it = websocket_client(is_accelerated=True)
    without = websocket_client(is_accelerated=False)
    assert "XorMaskerSimple" in vars(with_it._abnf)
    assert "XorMaskerSimple" not in vars(without._abnf)
    assert "Utf8Validator" in vars(with_it._utils)
    assert "Utf8Validator" not in vars(without._utils)
    import websocket

    assert with_it is websocket


@pytest.mark.parametrize("name", BARE)
def test_bare_clients(name: str) -> None:
    """Each sends and receives text and bytes, and leaves without waiting."""
    with Blaster(200, 3) as server, bare(name, server.url) as client:
        client.send_text("go")
        assert [client.receive() for _ in range(3)] == [b"x" * 200] * 3
        client.send_bytes(b"once more")
        assert [client.receive() for _ in range(3)] == [b"x" * 200] * 3


@pytest.mark.parametrize("size", [64, 1024, 2**16])
def test_the_counter(size: int) -> None:
    """It answers when all bytes have come, not before, and then counts anew."""
    with Counter() as server, bare("wsaccel", server.url_of(3, size)) as client:
        for _ in range(2):
            for _ in range(3):
                client.send_bytes(b"x" * size)
            assert client.receive() == "done"


def test_a_client_of_socketio() -> None:
    """The servers speak its protocol too: it gets its events, and is told when all have come."""
    with Blaster(200, 30) as server:
        assert socketio.receive_by_handler(server.url, 30) > 0
        assert socketio.receive_by_simple_client(server.url, 30) > 0
    client, arguments, done = socketio.new_client(), [], threading.Event()
    client.on(socketio.EVENT, lambda argument: (arguments.append(argument), done.set()))
    with Counter() as server:
        url = server.url_of(3, socketio.size_of(1000))
        with socketio.connected(client, url):
            for _ in range(2):
                client.emit(socketio.EVENT, "x" * 1000)
            assert not done.is_set()
            client.emit(socketio.EVENT, "x" * 1000)
            assert done.wait(10)
    assert arguments == ["done"]


def test_the_server_of_sessions() -> None:
    """It sends in a session beyond what a client holds, and acknowledges what it is sent."""
    count = 12_000  # a client holds 10,000
    with SessionServer(64, count) as server:
        assert receiving.by_callback(f"{server.url}?blast", count) > 0
        assert sending.in_session(server.url, count, 64) > 0
        with tunnel(server.url) as service:
            assert service.position is not None


def test_a_secure_echo_server() -> None:
    """Its certificate is good for its own clients alone, and is removed at the end."""
    with EchoServer(secure=True) as server:
        with bare("wsaccel", server.url, server.client_context()) as client:
            client.send_text("grüße")
            assert client.receive() == "grüße"
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            bare("wsaccel", server.url, ssl.create_default_context()),
        ):
            pass
        folder = server._folder
        assert folder is not None
    assert not folder.exists()


def test_a_server_that_does_not_start() -> None:
    """That is an error at once, and says which one it was."""
    with pytest.raises(OSError, match="'nothing' did not start"), Server("nothing"):
        pass


def test_servers_end_with_the_context() -> None:
    """Nobody listens any more after it."""
    with Counter() as server:
        socket.create_connection(("127.0.0.1", server.port), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 5)
