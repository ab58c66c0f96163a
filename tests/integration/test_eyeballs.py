"""Names that lead to several addresses, some of which lead nowhere (RFC 8305)."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from peers import DEADLINE, Peer, RawServer

from tunnel import (
    ConnectRefusedError,
    ConnectTimeoutError,
    DnsResolutionError,
    MaxReconnectAttemptsExceededError,
    NetworkUnreachableError,
    TunnelError,
    TunnelErrorCategory,
    TunnelService,
)

MakeService = Callable[..., TunnelService]
Info = tuple[Any, ...]
Resolve = Callable[..., None]
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="127.0.0.2 and full backlogs are known of Linux alone"
)


def four(port: int, host: str = "127.0.0.1") -> Info:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


def six(port: int, host: str = "::1") -> Info:
    return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Sets what ``name.test`` leads to."""

    def to(*answer: Info | Exception) -> None:
        def getaddrinfo(host: str, *arguments: object, **options: object) -> list[Any]:
            assert host == "name.test"
            if isinstance(answer[0], Exception):
                raise answer[0]
            return list(answer)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return to


@pytest.fixture
def server() -> Iterator[RawServer]:
    def serve(peer: Peer) -> None:
        peer.upgrade()
        peer.echo()

    with RawServer(serve) as server:
        yield server


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port on 127.0.0.1 and 127.0.0.2 that does not answer: its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("0.0.0.0", 0), backlog=0))
        port = listener.getsockname()[1]
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.1)
            try:
                filler.connect(("127.0.0.1", port))
            except TimeoutError:
                break
        yield port


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def connect_time(service: TunnelService) -> float:
    began = time.monotonic()
    service.connect("ws://name.test/", timeout=DEADLINE)
    return time.monotonic() - began


def last_error(service: TunnelService) -> TunnelError:
    with pytest.raises(MaxReconnectAttemptsExceededError) as caught:
        service.connect("ws://name.test/", timeout=DEADLINE)
    assert caught.value.last_error is not None
    return caught.value.last_error


@linux
@pytest.mark.fault("dead-addresses-first")
def test_refusing_addresses_cost_nothing(
    server: RawServer, make_service: MakeService, resolve: Resolve
) -> None:
    """Each makes way for the next at once, whatever their number and family."""
    dead = closed_port()
    resolve(six(dead), *(four(dead, f"127.0.0.{n}") for n in range(2, 10)), four(server.port))
    assert connect_time(make_service()) < 1.5  # with delays it would be 2.25


@linux
@pytest.mark.fault("dead-addresses-first")
def test_silent_addresses_cost_250_ms_each(
    server: RawServer, make_service: MakeService, resolve: Resolve, black_hole: int
) -> None:
    """The race goes on beside those that do not answer."""
    resolve(four(black_hole), four(black_hole, "127.0.0.2"), four(server.port))
    assert 0.45 < connect_time(make_service()) < 5.0


@linux
@pytest.mark.fault("dead-addresses-first")
def test_a_dead_family_costs_one_delay(
    server: RawServer, make_service: MakeService, resolve: Resolve, black_hole: int
) -> None:
    """Families alternate: twelve dead addresses before one of the other family cost 250 ms."""
    dead = [six(black_hole, f"::ffff:127.0.0.{n}") for n in range(1, 13)]
    resolve(*dead, four(server.port))
    try:
        with socket.socket(socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert connect_time(make_service()) < 2.0  # in turn it would be 3


@pytest.mark.fault("no-such-family")
def test_a_machine_without_ipv6(
    server: RawServer,
    make_service: MakeService,
    resolve: Resolve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither sockets that cannot be made nor ways that are not there delay the dial."""

    class OldSocket(socket.socket):
        def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *arguments, **options)

    resolve(*(six(1, f"2001:db8::{n}") for n in range(8)), four(server.port))
    monkeypatch.setattr(socket, "socket", OldSocket)
    assert connect_time(make_service()) < 1.5  # with delays it would be 2.25


@linux
@pytest.mark.fault("all-addresses-dead")
def test_dead_addresses_are_bounded_by_the_time_out(
    make_service: MakeService, resolve: Resolve, black_hole: int
) -> None:
    """One that does not answer keeps the dial waiting for no longer than `connect_timeout`."""
    resolve(four(black_hole), four(closed_port()), four(black_hole, "127.0.0.2"))
    began = time.monotonic()
    error = last_error(make_service(connect_timeout=0.4, max_reconnect_attempts=1))
    assert 0.8 <= time.monotonic() - began < 8.0
    assert isinstance(error, ConnectTimeoutError)
    assert error.code == "TUNNEL_020"
    assert error.category is TunnelErrorCategory.NETWORK
    assert error.is_retryable
    assert "TCP connect" in error.message


@linux
@pytest.mark.fault("all-addresses-dead")
def test_the_error_of_dead_addresses_is_the_telling_one(
    make_service: MakeService, resolve: Resolve
) -> None:
    """A refusal says more than a way that this machine has not got."""
    resolve(four(1, "255.255.255.255"), four(closed_port()))
    error = last_error(make_service(max_reconnect_attempts=1))
    assert isinstance(error, ConnectRefusedError)
    assert error.code == "TUNNEL_001"


@pytest.mark.fault("no-such-family")
def test_no_way_at_all(
    make_service: MakeService, resolve: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there is no way to any address, that is the error; it may come back."""
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *a: errno.ENETUNREACH, raising=False)
    resolve(four(1), four(2))
    error = last_error(make_service(max_reconnect_attempts=1))
    assert isinstance(error, NetworkUnreachableError)
    assert error.code == "TUNNEL_012"
    assert error.is_retryable


@pytest.mark.fault("name-does-not-resolve")
def test_a_name_that_does_not_resolve(make_service: MakeService, resolve: Resolve) -> None:
    """It may be that the resolver cannot be reached: tried again."""
    resolve(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    error = last_error(make_service(max_reconnect_attempts=1))
    assert isinstance(error, DnsResolutionError)
    assert error.code == "TUNNEL_011"
    assert error.category is TunnelErrorCategory.NETWORK
    assert error.is_retryable


@linux
def test_losers_are_closed(
    server: RawServer, make_service: MakeService, resolve: Resolve, black_hole: int
) -> None:
    """`no_leaks` sees that nothing is left of a race that was won, lost or called off."""
    service = make_service()
    resolve(four(black_hole), four(server.port))
    service.connect("ws://name.test/", timeout=DEADLINE)
    service.disconnect()
    resolve(four(black_hole), four(black_hole, "127.0.0.2"))
    service.connect("ws://name.test/", wait=False)
    service.disconnect()
