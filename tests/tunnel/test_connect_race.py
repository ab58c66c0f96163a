from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tunnel.connect_race import ConnectRace
from tunnel.dial_options import DIRECT, DialOptions
from tunnel.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("no_leaks")


def address(port: int, family: int = socket.AF_INET, host: str = "127.0.0.1") -> tuple[Any, ...]:
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection comes about by itself."""
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *a: errno.EINPROGRESS, raising=False)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_a_connected_socket_wins(listener: socket.socket) -> None:
    """It is the caller's; the others are closed with the race."""
    with contextlib.closing(ConnectRace([address(listener.getsockname()[1])], DIRECT)) as race:
        winner = race.start_due(0.0)
        if winner is None:
            select.select([], list(race.sockets), [], 10.0)
            winner = race.settle(race.sockets)
        assert winner is not None
        assert not race.sockets
    assert winner.getpeername() == listener.getsockname()
    assert race.error() is None
    winner.close()


def test_a_socket_that_is_connected_at_once_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is tried then."""
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *a: 0, raising=False)
    with contextlib.closing(ConnectRace([address(1), address(2)], DIRECT)) as race:
        winner = race.start_due(0.0)
        assert winner is not None
        assert not race.sockets
        winner.close()


def test_a_socket_that_is_connected_to_itself_was_refused() -> None:
    """Nobody listens there, and our own end got the same port: a simultaneous open."""

    class SamePort(DialOptions):
        def make_socket(self, family: int, kind: int = 0, protocol: int = 0) -> socket.socket:
            sock = super().make_socket(family, kind, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return sock

    port = closed_port()
    with contextlib.closing(ConnectRace([address(port)], SamePort())) as race:
        assert race.start_due(0.0) is None
        if race.sockets:
            select.select([], list(race.sockets), [], 10.0)
            assert race.settle(tuple(race.sockets)) is None
        error = race.error()
        assert isinstance(error, ConnectionRefusedError)


@pytest.mark.usefixtures("pending")
def test_several_are_under_way_and_closed_at_the_end() -> None:
    """One more each 250 ms."""
    race = ConnectRace([address(1), address(2), address(3)], DIRECT)
    assert race.start_due(0.0) is None
    assert len(race.sockets) == 1
    assert race.pause(0.1) == pytest.approx(0.15)
    race.expire()
    assert race.start_due(0.1) is None
    sockets = list(race.sockets)
    assert len(sockets) == 2
    assert race.error() is None
    race.close()
    assert [sock.fileno() for sock in sockets] == [-1, -1]


def test_a_failure_makes_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once if the system knows at once, or when a wait for it has ended."""
    numbers = iter([errno.ENETUNREACH, errno.EINPROGRESS, errno.EINPROGRESS])
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *a: next(numbers), raising=False)
    monkeypatch.setattr(socket.socket, "getsockopt", lambda *a: errno.ECONNREFUSED, raising=False)
    with contextlib.closing(ConnectRace(map(address, range(3)), DIRECT)) as race:
        assert race.start_due(0.0) is None
        (second,) = race.sockets
        assert race.settle([second]) is None
        assert second.fileno() == -1
        assert race.start_due(0.0) is None
        (third,) = race.sockets
        assert race.settle([third]) is None
        error = race.error()
        assert isinstance(error, ConnectionRefusedError)


def test_a_system_without_a_family_is_no_obstacle(listener: socket.socket) -> None:
    """A socket that cannot be made is one more failure."""
    no_such_family = address(1, family=12345)
    race = ConnectRace([no_such_family, address(closed_port())], DIRECT)
    winner = race.start_due(0.0)
    while (error := race.error()) is None:
        select.select([], list(race.sockets), [], 10.0)
        winner = winner or race.settle(list(race.sockets))
    assert winner is None
    assert isinstance(error, ConnectionRefusedError)
    race.close()


@pytest.mark.usefixtures("pending")
def test_an_option_that_is_refused_ends_the_race() -> None:
    """That is a mistake in the program, which no other address mends."""
    options = DialOptions(socket_options=((socket.IPPROTO_TCP, 9999, 1),))
    with contextlib.closing(ConnectRace([address(1)], options)) as race:
        with pytest.raises(ConfigurationError, match="socket option"):
            race.start_due(0.0)
        assert not race.sockets
