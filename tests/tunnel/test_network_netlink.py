from __future__ import annotations

import errno
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tunnel import network_netlink
from tunnel.network_netlink import NetlinkEvents, way_to

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="netlink is Linux's"),
]

ROUTE, LINK, ERROR = 24, 16, 2
GATEWAY = bytes([10, 0, 0, 1])
INTERFACE = (4, struct.pack("=I", 7))


def answer(kind: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, 1, 0) + payload


def route(*attributes: tuple[int, bytes], kind: int = 1) -> bytes:
    payload = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 0, 0, 0, kind, 0)
    for number, value in attributes:
        padding = bytes(-len(value) % 4)
        payload += struct.pack("=HH", 4 + len(value), number) + value + padding
    return answer(ROUTE, payload)


def link(flags: int) -> bytes:
    return answer(LINK, struct.pack("=BxHiII", 0, 1, 7, flags, 0))


def refusal(code: int) -> bytes:
    return answer(ERROR, struct.pack("=i", -code))


class Kernel:
    """A netlink socket whose answers are given."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def settimeout(self, seconds: float) -> None: ...

    def sendto(self, data: bytes, address: tuple[int, int]) -> None:
        assert address == (0, 0)
        self.requests.append(data)

    def recv(self, size: int) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kernel]:
    def make(*answers: bytes | OSError) -> Kernel:
        kernel = Kernel(*answers)
        monkeypatch.setattr(network_netlink, "_open", lambda groups: kernel)
        return kernel

    return make


# Asking for a way


def test_the_real_kernel_knows_the_loopback() -> None:
    """To this machine leads the loopback interface, without a gateway."""
    index = socket.if_nametoindex("lo")
    way = way_to("127.0.0.1")
    assert (way.interface, way.gateway) == (index, b"")


def test_the_real_kernel_knows_no_way() -> None:
    """No way leads to everybody (broadcast), nor through an interface that does not exist."""
    for address in ("255.255.255.255", "fe80::1%4294967"):
        with pytest.raises(OSError):
            way_to(address)


@pytest.mark.parametrize(
    ("flags", "is_up"), [(0x41, True), (0x10043, True), (0x1, False), (0x40, False), (0, False)]
)
def test_a_way_through_a_gateway(kernel: Callable[..., Kernel], flags: int, is_up: bool) -> None:
    """Interface and gateway are from the route, and whether that works from the interface."""
    asked = kernel(route((15, b"\0"), INTERFACE, (5, GATEWAY)), link(flags))
    assert way_to("203.0.113.1") == (7, GATEWAY, is_up)
    assert len(asked.requests) == 2


@pytest.mark.parametrize(
    ("attributes", "gateway"), [((INTERFACE,), b""), ((INTERFACE, (18, b"via")), b"via")]
)
def test_a_way_without_a_gateway_of_its_family(
    kernel: Callable[..., Kernel], attributes: tuple[Any, ...], gateway: bytes
) -> None:
    """On the same network there is none; an IPv4 route may also lead via an IPv6 address."""
    kernel(route(*attributes), link(0x41))
    assert way_to("203.0.113.1").gateway == gateway


def test_what_is_asked(kernel: Callable[..., Kernel]) -> None:
    """The requests are those of rtnetlink(7), byte by byte."""
    asked = kernel(route(INTERFACE), link(0x41))
    way_to("203.0.113.1")
    assert asked.requests == [
        struct.pack("=IHHII", 36, 26, 1, 1, 0)
        + struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
        + struct.pack("=HH4s", 8, 1, bytes([203, 0, 113, 1])),
        struct.pack("=IHHII", 32, 18, 1, 1, 0) + struct.pack("=BxHiII", 0, 0, 7, 0, 0),
    ]


def test_a_scope_is_the_interface_that_is_asked_for(kernel: Callable[..., Kernel]) -> None:
    """A link-local address means nothing without its interface."""
    asked = kernel(route(INTERFACE), link(0x41))
    way_to("fe80::1%7")
    scope = struct.pack("=HHI", 8, 4, 7)
    destination = struct.pack("=HH16s", 20, 1, socket.inet_pton(socket.AF_INET6, "fe80::1"))
    assert asked.requests[0].endswith(destination + scope)


@pytest.mark.parametrize("kind", [0, 6, 7, 8, 9])
def test_a_route_that_leads_nowhere(kernel: Callable[..., Kernel], kind: int) -> None:
    """A blackhole and its like are no way."""
    kernel(route(INTERFACE, kind=kind))
    with pytest.raises(OSError) as caught:
        way_to("2001:db8::1")
    assert caught.value.errno == errno.ENETUNREACH


@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EPERM])
def test_the_kernel_refuses(kernel: Callable[..., Kernel], code: int) -> None:
    """A refusal is raised as what it is."""
    kernel(refusal(code))
    with pytest.raises(OSError) as caught:
        way_to("203.0.113.1")
    assert caught.value.errno == code


@pytest.mark.parametrize(
    "answers",
    [
        (b"",),
        (b"\0" * 16,),
        (answer(ERROR, b""),),
        (answer(ROUTE, b""),),
        (link(0x41),),
        (route(),),
        (route((4, b"\0")),),
        (route(INTERFACE), route(INTERFACE)),
        (route(INTERFACE), answer(LINK, b"\0" * 4)),
        (answer(ROUTE, route(INTERFACE)[16:28] + b"\0\0\0\0" * 2),),
        (answer(ROUTE, route(INTERFACE)[16:28] + b"\0"),),
    ],
)
def test_an_answer_that_makes_no_sense(
    kernel: Callable[..., Kernel], answers: tuple[bytes, ...]
) -> None:
    """Whatever the kernel says, nothing but an `OSError` comes of it."""
    kernel(*answers)
    with pytest.raises(OSError):
        way_to("203.0.113.1")


# Hearing of changes


@pytest.fixture
def events() -> Iterator[NetlinkEvents]:
    events = NetlinkEvents()
    yield events
    events.close()


def stand_in(events: NetlinkEvents) -> socket.socket:
    """Put a datagram socket in place of the kernel's, and return its other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    events._socket.close()
    events._socket = ours
    return theirs


def test_no_change_until_the_time_is_up(events: NetlinkEvents) -> None:
    """A wait without news ends with the time."""
    assert events.wait(0.01) is False


def test_a_wake_ends_a_wait(events: NetlinkEvents) -> None:
    """One before the wait counts as well; and each only once."""
    events.wake()
    events.wake()
    assert events.wait(60.0) is False
    thread = threading.Timer(0.05, events.wake)
    thread.start()
    assert events.wait(60.0) is False
    thread.join()
    events.wake()
    events.settle(60.0)


def test_wakes_without_number(events: NetlinkEvents) -> None:
    """Nobody waits for a thread that does not listen at the moment."""
    for _ in range(2_000):
        events.wake()
    assert events.wait(60.0) is False


def test_many_messages_are_one_change(events: NetlinkEvents) -> None:
    """What comes while things settle is taken with it."""
    with stand_in(events) as kernel:
        kernel.send(b"one")
        kernel.send(b"two")
        assert events.wait(60.0) is True
        kernel.send(b"three")
        events.settle(0.01)
        assert events.wait(0.01) is False


def test_lost_messages_are_a_change(events: NetlinkEvents) -> None:
    """The kernel had no room for all of them (ENOBUFS): what counts is that there were some."""
    with stand_in(events) as kernel:
        kernel.send(b"wakes the poll")
        real = events._socket
        events._socket = _Failing(real, [OSError(errno.ENOBUFS, "")])  # type: ignore[assignment]
        assert events.wait(60.0) is True
        events._socket = real


def test_a_flood_of_messages_does_not_hold_the_thread(
    events: NetlinkEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some of them it is time to look at the network."""
    monkeypatch.setattr(network_netlink, "_MOST_READS", 2)
    with stand_in(events) as kernel:
        for _ in range(3):
            kernel.send(b"news")
        assert events.wait(60.0) is True
        assert events.wait(60.0) is True
        assert events.wait(0.01) is False


def test_a_broken_socket_is_reported(events: NetlinkEvents) -> None:
    """Whoever waits has to do without from then on."""
    with stand_in(events) as kernel:
        kernel.send(b"wakes the poll")
        real = events._socket
        events._socket = _Failing(real, [OSError(errno.EIO, "")])  # type: ignore[assignment]
        with pytest.raises(OSError):
            events.wait(60.0)
        events._socket = real


class _Failing:
    """A socket whose next reads fail."""

    def __init__(self, real: socket.socket, errors: list[OSError]) -> None:
        self._real = real
        self._errors = errors

    def fileno(self) -> int:
        return self._real.fileno()

    def recv(self, size: int) -> bytes:
        if self._errors:
            raise self._errors.pop()
        return self._real.recv(size)


# Systems without


def test_no_netlink_on_this_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python knows no such family the error is that of a system which does not."""
    monkeypatch.delattr(socket, "AF_NETLINK")
    for call in (NetlinkEvents, lambda: way_to("127.0.0.1")):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EAFNOSUPPORT


def test_nothing_is_left_open_when_there_is_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A watch that cannot be opened whole is not opened at all."""

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socketpair", refuse)
        with pytest.raises(OSError):
            NetlinkEvents()
    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(OSError):
        NetlinkEvents()
