"""By which way packets would leave this machine: asked of the kernel, without sending any.

Everywhere: a UDP socket that is connected, which sends nothing, shows the source address, and fails
where there is no route. On Linux the kernel also tells interface and gateway, and whether the
interface works (`tunnel.network_netlink`). Nothing here waits.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterable

from tunnel.network_netlink import way_to
from tunnel.network_outlook import Route

FindRoute = Callable[[str], Route | None]
"""Finds the route to an address; None: there is none. Raises `OSError` if that is not known."""

_PORT = 9  # discard (RFC 863); any would do
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_NO_ROUTE = (
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EADDRNOTAVAIL,
    errno.EINVAL,  # a route of the type "blackhole"
    errno.EACCES,  # "prohibit"
)


def find_route(address: str) -> Route | None:
    """Find the way to an address as things stand. From any thread.

    Args:
        address: IPv4 or IPv6, perhaps with a numeric scope (``fe80::1%2``).

    Returns:
        The way; None: there is none.

    Raises:
        OSError: There is no descriptor or no memory to find out.
    """
    try:
        source = _source_for(address)
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        return None
    try:
        return Route(source, *way_to(address))
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        if error.errno in _NO_ROUTE:
            return None
        return Route(source)  # this system does not tell more


class RouteTable:
    """What is found in one look at the network: each destination is looked up once.

    Args:
        find: Finds a route.
    """

    def __init__(self, find: FindRoute = find_route) -> None:
        self._find = find
        self._found: dict[str, Route | None] = {}

    def look_up(self, destinations: Iterable[str]) -> dict[str, Route | None]:
        """The routes to these destinations; without those that cannot be known now."""
        for address in destinations:
            if address not in self._found:
                with contextlib.suppress(OSError):
                    self._found[address] = self._find(address)
        return {key: self._found[key] for key in destinations if key in self._found}


def _source_for(address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((address, _PORT))
        source: str = sock.getsockname()[0]
        return source
