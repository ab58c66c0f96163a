"""Tunnels over Unix sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peers import DEADLINE, Collector, Peer

from tunnel import (
    ConnectRefusedError,
    ConnectTimeoutError,
    MaxReconnectAttemptsExceededError,
    NetworkError,
    TunnelError,
    TunnelService,
)

MakeService = Callable[..., TunnelService]
pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "server"))
        sock.listen()
        sock.settimeout(DEADLINE)
        yield sock


@contextlib.contextmanager
def serving(listener: socket.socket, context: ssl.SSLContext | None = None) -> Iterator[Peer]:
    """Serves one connection; what was asked for is in the peer afterwards."""
    peer = Peer(listener)

    def serve() -> None:
        accepted, _ = listener.accept()
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(accepted)
            if context is not None:
                accepted = stack.enter_context(context.wrap_socket(accepted, server_side=True))
            peer.sock = accepted
            peer.upgrade()
            peer.echo()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield peer
    finally:
        thread.join(DEADLINE)


@pytest.mark.parametrize("is_secure", [False, True], ids=["ws", "wss"])
def test_a_tunnel_over_a_unix_socket(
    is_secure: bool,
    listener: socket.socket,
    make_service: MakeService,
    client_tls: ssl.SSLContext,
    server_tls: ssl.SSLContext,
) -> None:
    """The URL gives host, resource and the name in the certificate; the path where to connect."""
    received = Collector()
    service = make_service(on_message=received)
    with serving(listener, server_tls if is_secure else None) as peer:
        scheme = "wss" if is_secure else "ws"
        service.connect(
            f"{scheme}://localhost/a?b=c",
            unix_socket=Path(listener.getsockname()),
            ssl_context=client_tls,
            timeout=DEADLINE,
        )
        service.send("hello")
        assert received.wait(1)
        service.disconnect()
    assert peer.headers["host"] == "localhost"
    assert peer.resource == "/a?b=c"


def last_error(service: TunnelService, path: object) -> TunnelError:
    with pytest.raises(MaxReconnectAttemptsExceededError) as caught:
        service.connect("ws://server.test/", unix_socket=path, timeout=DEADLINE)
    assert caught.value.last_error is not None
    return caught.value.last_error


@pytest.mark.fault("unix-socket-dead")
def test_a_unix_socket_that_is_not_there(tmp_path: Path, make_service: MakeService) -> None:
    """The server may come: tried again."""
    error = last_error(make_service(max_reconnect_attempts=1), tmp_path / "server")
    assert type(error) is NetworkError
    assert error.is_retryable
    assert "no such file" in error.message


@pytest.mark.fault("unix-socket-dead")
def test_a_unix_socket_that_nobody_listens_at(tmp_path: Path, make_service: MakeService) -> None:
    """A file that a server has left behind refuses."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "server"))
    error = last_error(make_service(max_reconnect_attempts=1), tmp_path / "server")
    assert isinstance(error, ConnectRefusedError)
    assert error.code == "TUNNEL_001"


@pytest.mark.fault("unix-socket-dead")
def test_a_unix_socket_whose_backlog_is_full(tmp_path: Path, make_service: MakeService) -> None:
    """There is nothing to poll for then: it is tried until the deadline."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "server"))
        listener.listen(0)
        full = False
        while not full:
            filler = stack.enter_context(socket.socket(socket.AF_UNIX))
            filler.setblocking(False)
            full = filler.connect_ex(str(tmp_path / "server")) != 0
        service = make_service(connect_timeout=0.2, max_reconnect_attempts=1)
        error = last_error(service, tmp_path / "server")
        assert isinstance(error, ConnectTimeoutError)
        assert "Unix socket" in error.message
        service.connect("ws://server.test/", unix_socket=tmp_path / "server", wait=False)
        service.disconnect()
