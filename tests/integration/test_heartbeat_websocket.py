"""One watched connection that does not come back: over a URL, and around one that exists."""

from __future__ import annotations

import socket
import ssl
import threading
import time

import pytest
import websocket
from peers import DEADLINE, TEXT, Collector, Peer, RawServer, ServerProcess

from tunnel import (
    ConnectionClosedByPeerError,
    ConnectionLostError,
    ConnectRefusedError,
    HandshakeRejectedError,
    HeartbeatTimeoutError,
    HeartbeatWebSocket,
    InvalidStateError,
    NotConnectedError,
    TunnelConfig,
    TunnelConnectionState,
    TunnelService,
)
from tunnel.testing import FaultProxy


@pytest.mark.requirement("6.1", "6.3")
def test_over_a_url(echo_server: ServerProcess) -> None:
    """Over a URL: messages pass, pings are answered and counted, and `close` ends the iterator."""
    connection = HeartbeatWebSocket(echo_server.url, ping_interval=0.05, pong_timeout=DEADLINE)
    connection.start()
    connection.send("text")
    connection.send(b"binary")
    messages = connection.messages()
    assert [next(messages), next(messages)] == ["text", b"binary"]
    never, deadline = threading.Event(), time.monotonic() + DEADLINE
    while connection.get_heartbeat_stats()["pongs_received"] < 3 and time.monotonic() < deadline:
        never.wait(0.01)
    stats = connection.get_heartbeat_stats()
    assert stats["pings_sent"] >= stats["pongs_received"] >= 3
    assert stats["is_healthy"] is True
    assert stats["round_trip"] > 0
    assert stats["last_pong_received"] >= stats["last_ping_sent"] or stats["status"] != "running"
    connection.close()
    assert list(messages) == []
    assert connection.error is None
    assert connection.get_heartbeat_stats()["status"] == "stopped"
    with pytest.raises(NotConnectedError):
        connection.send("too late")
    with pytest.raises(InvalidStateError):
        connection.start()
    connection.close()


def test_over_tls(tls_echo_server: ServerProcess, client_tls: ssl.SSLContext) -> None:
    """Over TLS, as a context manager."""
    with HeartbeatWebSocket(tls_echo_server.url, ssl_context=client_tls) as connection:
        connection.send("text")
        assert next(connection.messages()) == "text"


def test_around_a_connected_websocket(echo_server: ServerProcess) -> None:
    """Around a `websocket.WebSocket` that is connected already: the connection is taken over."""
    client = websocket.create_connection(echo_server.url)
    with HeartbeatWebSocket(client, ping_interval=0.05, pong_timeout=DEADLINE) as connection:
        connection.send("text")
        assert next(connection.messages()) == "text"
    assert client.connected is False
    with pytest.raises(ValueError, match="not connected"):
        HeartbeatWebSocket(client)


def test_around_a_connected_websocket_over_tls(
    tls_echo_server: ServerProcess, client_tls: ssl.SSLContext
) -> None:
    """The same over TLS."""
    client = websocket.create_connection(tls_echo_server.url, sslopt={"context": client_tls})
    with HeartbeatWebSocket(client) as connection:
        connection.send("text")
        assert next(connection.messages()) == "text"


def test_taken_over_and_never_started(echo_server: ServerProcess) -> None:
    """A connection that was taken over and never started is closed by `close`, too."""
    client = websocket.create_connection(echo_server.url)
    taken = client.sock
    connection = HeartbeatWebSocket(client)
    connection.close()
    assert taken.fileno() == -1
    assert list(connection.messages()) == []


@pytest.mark.requirement("6.2")
def test_lost_by_silence(proxy: FaultProxy) -> None:
    """Silence is noticed within the pong time-out, told once, and ends the iterator."""
    lost = Collector()
    connection = HeartbeatWebSocket(
        f"ws://127.0.0.1:{proxy.port}/",
        ping_interval=0.1,
        pong_timeout=0.3,
        on_connection_lost=lost,
    )
    connection.start()
    with proxy.silent():
        began = time.perf_counter()
        assert list(connection.messages()) == []
        assert time.perf_counter() - began < 0.3 + 0.3
    assert lost.wait(1)
    connection.close()
    assert len(lost.items) == 1
    assert isinstance(connection.error, HeartbeatTimeoutError)
    assert connection.get_heartbeat_stats()["is_healthy"] is False


def test_lost_by_reset(proxy: FaultProxy) -> None:
    """A reset ends it, and is told."""
    lost = Collector()
    connection = HeartbeatWebSocket(f"ws://127.0.0.1:{proxy.port}/", on_connection_lost=lost)
    connection.start()
    proxy.reset()
    assert list(connection.messages()) == []
    assert lost.wait(1)
    assert isinstance(lost.items[0], ConnectionLostError)
    connection.close()


def test_closed_by_the_peer() -> None:
    """The peer's close frame ends it, with its code, after the messages before it."""
    answers = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.text("last")
        peer.close(4001, "enough")
        answers(peer.receive_close())

    with RawServer(script) as server:
        connection = HeartbeatWebSocket(server.url)
        connection.start()
        assert list(connection.messages()) == ["last"]
        assert isinstance(connection.error, ConnectionClosedByPeerError)
        assert connection.error.close_code == 4001
        assert answers.items == [4001]
        connection.close()


def test_close_on_a_dead_link(proxy: FaultProxy) -> None:
    """`close` returns within its time-out on a silent link."""
    connection = HeartbeatWebSocket(f"ws://127.0.0.1:{proxy.port}/")
    connection.start()
    with proxy.silent():
        began = time.perf_counter()
        connection.close(timeout=0.3)
        assert time.perf_counter() - began < 0.6


def test_close_in_the_callback(proxy: FaultProxy) -> None:
    """`close` within `on_connection_lost` does not wait for itself."""
    done = Collector()
    connection = HeartbeatWebSocket(
        f"ws://127.0.0.1:{proxy.port}/", on_connection_lost=lambda error: done(connection.close())
    )
    connection.start()
    proxy.reset()
    assert done.wait(1)


def test_failed_starts_leave_nothing(echo_server: ServerProcess) -> None:
    """A start that fails raises its error and leaves neither thread nor descriptor."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.respond("404 Not Found", {"Content-Length": "0"})

    with RawServer(script) as server:
        for _ in range(10):
            connection = HeartbeatWebSocket(server.url)
            with pytest.raises(HandshakeRejectedError):
                connection.start()
            connection.close()
    with pytest.raises(ConnectRefusedError):
        HeartbeatWebSocket(server.url).start()


# Text mode


def _answering_only_text(pings: Collector) -> RawServer:
    """A server that does not know ping frames, as the seed's."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.text("before")
        while True:
            opcode, payload = peer.receive()
            if opcode == 0x8:
                peer.send(0x8, payload)
                return
            if (opcode, payload) == (TEXT, b"ping"):
                pings(None)
                peer.text("pong")
                peer.text("ping")  # it asks as well
            elif (opcode, payload) == (TEXT, b"pong"):
                peer.text(f"after {len(pings.items)}")

    return RawServer(script)


@pytest.mark.requirement("6.1")
def test_text_mode() -> None:
    """In text mode "ping" and "pong" keep the link alive, and never show up among the messages."""
    pings = Collector()
    with _answering_only_text(pings) as server:
        connection = HeartbeatWebSocket(
            server.url, mode="text", ping_interval=0.05, pong_timeout=DEADLINE
        )
        connection.start()
        messages = connection.messages()
        assert [next(messages) for _ in range(4)] == ["before", "after 1", "after 2", "after 3"]
        assert connection.get_heartbeat_stats()["pongs_received"] >= 3
        connection.close()
        assert not {"ping", "pong"} & set(messages)


def test_text_mode_of_a_service() -> None:
    """A service in text mode keeps the link alive the same way, and can test it."""
    pings, received = Collector(), Collector()
    with _answering_only_text(pings) as server:
        service = TunnelService(
            TunnelConfig(ping_interval=0.05, pong_timeout=DEADLINE, ping_mode="text"),
            on_message=received,
        )
        service.connect(server.url, timeout=DEADLINE)
        assert pings.wait(3)
        assert service.test_connection(timeout=DEADLINE)
        assert service.state is TunnelConnectionState.CONNECTED
        service.disconnect()
        assert not {"ping", "pong"} & set(received.items)


def test_adopted_socket_is_unblocked(echo_server: ServerProcess) -> None:
    """A time-out that the connected `websocket.WebSocket` had does not matter any more."""
    client = websocket.create_connection(echo_server.url, timeout=0.05)
    assert isinstance(client.sock, socket.socket)
    with HeartbeatWebSocket(client) as connection:
        results = Collector()
        iterating = threading.Thread(target=lambda: results(next(connection.messages())))
        iterating.start()
        assert not results.wait(1, timeout=0.3)
        connection.send("late")
        assert results.wait(1)
        iterating.join()
