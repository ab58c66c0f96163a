"""Linux: what the kernel tells of links, addresses and routes (rtnetlink(7)).

Two uses of AF_NETLINK. `NetlinkEvents` hears that something has changed; what, is not looked at:
whoever waits asks anew how things stand, so that lost messages (ENOBUFS) and their order do not
matter. `way_to` asks by which interface and gateway packets would go, and whether that interface
works: a source address alone does not show that a cable was pulled.

No privileges are needed. On another system, or where a sandbox forbids it, opening a socket raises
`OSError` (also if Python knows no AF_NETLINK), and the watch does without.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import struct
import sys
from typing import NamedTuple

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port (struct nlmsghdr)
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, bits of the destination, ... type, flags (rtmsg)
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change mask (ifinfomsg)
_ATTRIBUTE = struct.Struct("=HH")  # length, type (rtattr)
_REQUEST = 1
_ERROR, _NEW_LINK, _GET_LINK, _NEW_ROUTE, _GET_ROUTE = 2, 16, 18, 24, 26
_DESTINATION, _INTERFACE, _GATEWAY, _VIA = 1, 4, 5, 18
_TYPES = (1, 2)  # to another machine, to this one; not: blackhole, unreachable, prohibit
_UP_AND_RUNNING = 0x41  # IFF_UP: somebody wants it; IFF_RUNNING: cable or radio are connected
# Links, addresses, routes and rules, each but links for IPv4 and IPv6: RTMGRP_..., and for the last
# one, which has no such name, 1 << (RTNLGRP_IPV6_RULE - 1).
_GROUPS = 0x1 | 0x10 | 0x100 | 0x40 | 0x400 | 0x80 | 1 << 18
_POLL_IN = getattr(select, "POLLIN", 0)
_SIZE = 64 * 1024
_TIMEOUT = 1.0  # seconds; the kernel answers within the call that asks
_MOST_READS = 1000  # in one go: a flood of news must not keep anybody from acting on it


class Way(NamedTuple):
    """How packets to an address leave this machine.

    Attributes:
        interface: The index of the interface.
        gateway: The next station, packed; empty if the destination is on the same network.
        is_up: Whether the interface is up, and its cable or radio connected.
    """

    interface: int
    gateway: bytes
    is_up: bool


def way_to(address: str) -> Way:
    """Ask the kernel by which way packets would go.

    Args:
        address: IPv4 or IPv6, perhaps with a numeric scope (``fe80::1%2``).

    Raises:
        OSError: There is none, or the kernel did not tell; see `errno`.
    """
    try:
        with _open(0) as sock:
            sock.settimeout(_TIMEOUT)
            interface, gateway = _parse_route(_ask(sock, _route_request(address), _NEW_ROUTE))
            link = _ask(sock, _link_request(interface), _NEW_LINK)
            flags = _LINK.unpack_from(link)[3]
    except struct.error:
        raise OSError(errno.EBADMSG, "the kernel's answer was not understood") from None
    return Way(interface, gateway, flags & _UP_AND_RUNNING == _UP_AND_RUNNING)


class NetlinkEvents:
    """Hears that links, addresses or routes have changed. For one thread, except `wake`.

    Raises:
        OSError: There is no netlink here, or no descriptor is left.
    """

    def __init__(self) -> None:
        self._socket = _open(_GROUPS)
        try:
            self._ear, self._bell = socket.socketpair()
        except OSError:
            self._socket.close()
            raise
        for sock in (self._socket, self._ear, self._bell):
            sock.setblocking(False)

    def wait(self, timeout: float) -> bool:
        """Wait for a change, a `wake` or so many seconds. Returns whether something has changed.

        Raises:
            OSError: Nothing more can be heard.
        """
        self._poll((self._socket, self._ear), timeout)
        return self._drain()

    def settle(self, seconds: float) -> None:
        """Let so many seconds pass, or less if woken, and take what comes meanwhile as one change.

        Raises:
            OSError: Nothing more can be heard.
        """
        self._poll((self._ear,), seconds)
        self._drain()

    def wake(self) -> None:
        """End a wait, now or the next one. From any thread, until `close`."""
        with contextlib.suppress(BlockingIOError):  # full: it has not heard the last ones yet
            self._bell.send(b"\0")

    def close(self) -> None:
        """Give the descriptors back; in a forked child its copies, which disturbs nobody."""
        for sock in (self._socket, self._ear, self._bell):
            sock.close()

    def _poll(self, sockets: tuple[socket.socket, ...], timeout: float) -> None:
        assert hasattr(select, "poll")  # Windows has none; but then neither has it a netlink
        poller = select.poll()
        for sock in sockets:
            poller.register(sock, _POLL_IN)
        ready = poller.poll(timeout * 1000)
        if any(descriptor == self._ear.fileno() for descriptor, _ in ready):
            self._ear.recv(4096)

    def _drain(self) -> bool:
        has_changed = False
        for _ in range(_MOST_READS):
            try:
                self._socket.recv(_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # that: more has changed than there is room for
                    raise
            has_changed = True
        return has_changed


def _open(groups: int) -> socket.socket:
    if sys.platform != "linux" or not hasattr(socket, "AF_NETLINK"):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        sock.bind((0, groups))
        return sock
    except BaseException:
        sock.close()
        raise


def _ask(sock: socket.socket, request: bytes, kind: int) -> bytes:
    """Send a request, and return what comes behind the header of its answer.

    Raises:
        OSError: The kernel refused, in its own words.
    """
    sock.sendto(request, (0, 0))
    answer = sock.recv(_SIZE)
    length, answered = _HEADER.unpack_from(answer)[:2]
    payload = answer[_HEADER.size : length]
    if answered == _ERROR:
        code = -struct.unpack_from("=i", payload)[0]
        raise OSError(code, os.strerror(code))
    if answered != kind:
        raise OSError(errno.EBADMSG, "the kernel answered another question")
    return payload


def _message(kind: int, payload: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(payload), kind, _REQUEST, 1, 0) + payload


def _route_request(address: str) -> bytes:
    destination = ipaddress.ip_address(address)
    packed = destination.packed
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    attributes = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _DESTINATION) + packed
    scope = getattr(destination, "scope_id", None)
    if scope is not None:
        attributes += _ATTRIBUTE.pack(_ATTRIBUTE.size + 4, _INTERFACE)
        attributes += struct.pack("=I", int(scope))
    rules = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    return _message(_GET_ROUTE, rules + attributes)


def _link_request(interface: int) -> bytes:
    return _message(_GET_LINK, _LINK.pack(socket.AF_UNSPEC, 0, interface, 0, 0))


def _parse_route(payload: bytes) -> tuple[int, bytes]:
    """The interface's index, and the gateway.

    Raises:
        OSError: The route leads nowhere.
    """
    if _ROUTE.unpack_from(payload)[7] not in _TYPES:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
    attributes = _attributes(payload[_ROUTE.size :])
    interface = struct.unpack("=I", attributes.get(_INTERFACE, b""))[0]
    return interface, attributes.get(_GATEWAY, attributes.get(_VIA, b""))


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found
