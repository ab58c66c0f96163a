"""What a peer may send at most: each limit is a setting, and what it allows arrives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from peers import BINARY, DEADLINE, Collector, Peer, RawServer, frame

from tunnel import (
    HandshakeRejectedError,
    HeartbeatWebSocket,
    MessageTooBigError,
    ProtocolError,
    TunnelError,
    TunnelService,
)

MakeService = Callable[..., TunnelService]


class Errors(Collector):
    """The errors with which connections have ended; called on each change of state."""

    def __call__(self, record: object) -> None:
        error = record.data.get("error")
        if error is not None:
            super().__call__(error)


def sending(data: bytes) -> RawServer:
    """A server that sends this, and reads until the client has gone."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.sock.sendall(data)
        peer.receive_close()

    return RawServer(script)


def test_four_mebibytes_in_tiny_fragments_arrive(make_service: MakeService) -> None:
    """A message of 4 MiB in fragments of 64 bytes is legal."""
    received = Collector()
    pieces = [number.to_bytes(4, "big") * 16 for number in range(65536)]
    fragments = b"".join(frame(0, piece, final=False) for piece in pieces)
    with sending(frame(BINARY, b"", final=False) + fragments + frame(0, b"")) as server:
        service = make_service(on_message=received)
        service.connect(server.url, timeout=DEADLINE)
        assert received.wait(1)
        assert received.items == [b"".join(pieces)]
        service.disconnect(graceful=False)


@pytest.mark.parametrize(
    ("settings", "allowed", "refused"),
    [
        ({"max_message_size": 1000}, frame(BINARY, bytes(1000)), frame(BINARY, bytes(1001))),
        (
            {"max_fragments": 3},
            frame(BINARY, b"", final=False) + frame(0, b"x", final=False) + frame(0, b""),
            frame(BINARY, b"", final=False) + frame(0, b"x", final=False) * 3,
        ),
    ],
    ids=["size", "fragments"],
)
@pytest.mark.parametrize("alone", [False, True], ids=["service", "heartbeat websocket"])
def test_limits_on_messages(
    make_service: MakeService,
    settings: dict[str, int],
    allowed: bytes,
    refused: bytes,
    alone: bool,
) -> None:
    """What is at the limit arrives; what is over it ends the connection with 1009."""
    received, errors = Collector(), Errors()
    with sending(allowed + refused) as server:
        if alone:
            lost = Collector()
            with HeartbeatWebSocket(server.url, on_connection_lost=lost, **settings) as connection:
                assert len(list(connection.messages())) == 1
            assert lost.wait(1)
            (error,) = lost.items
        else:
            service = make_service(on_message=received, on_state_change=errors, **settings)
            service.connect(server.url, timeout=DEADLINE)
            assert errors.wait(1)
            assert len(received.items) == 1
            (error,) = errors.items
    assert type(error) is MessageTooBigError
    assert error.close_code == 1009


@pytest.mark.fault("endless-headers")
@pytest.mark.parametrize(("limit", "fits"), [(2048, False), (65536, True), (None, True)])
def test_the_limit_on_headers(make_service: MakeService, limit: int | None, fits: bool) -> None:
    """`max_header_size` bounds the answer's headers, whether many or long."""
    settings = {} if limit is None else {"max_header_size": limit}
    many = {f"X-{number}": "y" * 10 for number in range(1000)}
    for headers in (many, {"X": "y" * 20_000}):

        def script(peer: Peer, headers: dict[str, str] = headers) -> None:
            peer.upgrade(headers)
            peer.echo()

        with RawServer(script) as server:
            service = make_service(**settings)
            if fits:
                service.connect(server.url, timeout=DEADLINE)
                service.disconnect()
                continue
            with pytest.raises(ProtocolError, match="does not come to an end"):
                service.connect(server.url, timeout=DEADLINE)
            with (
                pytest.raises(ProtocolError, match="does not come to an end"),
                HeartbeatWebSocket(server.url, **settings),
            ):
                pass


@pytest.mark.fault("endless-body")
def test_many_refusals_with_endless_bodies_cost_nothing(make_service: MakeService) -> None:
    """Twenty of them in a row take no time to speak of, and no descriptor or thread stays."""
    given_up = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.respond("404 Not Found", {"Content-Length": str(2**40)})
        try:
            while True:
                peer.sock.sendall(bytes(65536))
        finally:
            given_up.release()

    with RawServer(script) as server:
        began = time.perf_counter()
        for _ in range(20):
            service = make_service()
            with pytest.raises(TunnelError) as caught:
                service.connect(server.url, timeout=DEADLINE)
            assert type(caught.value) is HandshakeRejectedError
            assert given_up.acquire(timeout=DEADLINE)
        assert time.perf_counter() - began < 5.0
