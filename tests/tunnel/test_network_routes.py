from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest

from tunnel import network_routes
from tunnel.network_netlink import Way
from tunnel.network_outlook import Route
from tunnel.network_routes import RouteTable, find_route

pytestmark = pytest.mark.usefixtures("no_leaks")

ADDRESS = "203.0.113.1"


def failing(code: int) -> Callable[[str], Way]:
    def fail(address: str) -> Way:
        raise OSError(code, "")

    return fail


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_routes, "_source_for", lambda address: "10.0.0.2")


def test_a_real_route() -> None:
    """To this machine packets go from the loopback address, and nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        route = find_route("127.0.0.1")
        assert route is not None
        assert route.source == "127.0.0.1"
        with pytest.raises(BlockingIOError):
            receiver.recv(1)


def test_a_real_route_of_ipv6() -> None:
    """An IPv6 address is asked for with its family; a machine without it has no route."""
    route = find_route("::1")
    assert route is None or route.source == "::1"


def test_no_real_route() -> None:
    """Where no packet can go there is no route: 240.0.0.0/4 is reserved."""
    assert find_route("255.255.255.255") is None


def test_all_that_the_kernel_tells(source: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source, interface, gateway, and whether the interface works."""
    monkeypatch.setattr(network_routes, "way_to", lambda address: Way(3, b"gate", False))
    assert find_route(ADDRESS) == Route("10.0.0.2", 3, b"gate", False)


@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL])
def test_the_route_goes_in_between(
    source: None, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """That there was a source a moment ago does not count."""
    monkeypatch.setattr(network_routes, "way_to", failing(code))
    assert find_route(ADDRESS) is None


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EPERM, errno.EBADMSG])
def test_a_system_that_tells_the_source_only(
    source: None, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Without netlink the source address is all that is known; that is much."""
    monkeypatch.setattr(network_routes, "way_to", failing(code))
    assert find_route(ADDRESS) == Route("10.0.0.2")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
@pytest.mark.parametrize("step", ["_source_for", "way_to"])
def test_a_shortage_is_no_answer(
    source: None, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    """That no descriptor is left says nothing about the network."""
    monkeypatch.setattr(network_routes, step, failing(code))
    with pytest.raises(OSError):
        find_route(ADDRESS)


def test_a_table_asks_once() -> None:
    """A thousand tunnels to the same server are one question."""
    asked: list[str] = []

    def find(address: str) -> Route | None:
        asked.append(address)
        return None if address == "a" else Route(address)

    table = RouteTable(find)
    assert table.look_up(["a", "b"]) == {"a": None, "b": Route("b")}
    assert table.look_up(["b", "a", "c"]) == {"b": Route("b"), "a": None, "c": Route("c")}
    assert asked == ["a", "b", "c"]


def test_a_table_leaves_out_what_is_not_known() -> None:
    """A shortage concerns one answer; the next look may have it."""
    problems = [OSError(errno.EMFILE, "")]

    def find(address: str) -> Route | None:
        if problems:
            raise problems.pop()
        return None

    table = RouteTable(find)
    assert table.look_up(["a", "b"]) == {"b": None}
    assert table.look_up(["a", "b"]) == {"a": None, "b": None}
