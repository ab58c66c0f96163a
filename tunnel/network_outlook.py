"""What a change of the machine's network means for one tunnel (requirement 1.8).

Rules
-----

The kernel's routing table answers one question: by which way would a packet go to this address, and
is there a way at all? (`tunnel.network_routes` asks it.) An outlook remembers the answers and
compares:

- A live link depends on the way to its peer. If that has changed or gone, the link may be dead: it
  is asked for a sign of life. What the change was does not matter: a packet that leaves by another
  interface, from another address or by another gateway may be dropped on its way.
- While there is no link, a way that appears or changes is worth an attempt at once. What counts is
  the way to the last peer, and, as a name may lead to another address next time, the default
  routes: those to addresses that belong to nobody (RFC 5737 and RFC 3849). A way that goes is no
  news: the backoff goes on, for the machine may be wrong.
- Everything else, such as another interface that comes and goes, is nothing. A server on this very
  machine needs no network, and no watch.

Pure: no thread, no socket, no clock. Not locked; see `tunnel.network_follower`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

DEFAULT_ROUTES = ("203.0.113.1", "2001:db8::1")
"""Addresses for documentation: only a default route leads there."""


@dataclass(frozen=True)
class Route:
    """By which way a packet would go.

    Attributes:
        source: The address that it would be sent from.
        interface: The index of the interface; 0 where the system does not tell.
        gateway: The first station, packed; empty if there is none, or the system does not tell.
        is_up: Whether the interface works: it is up, and its cable or radio is connected.
    """

    source: str
    interface: int = 0
    gateway: bytes = b""
    is_up: bool = True


class Verdict(Enum):
    """What a tunnel is to make of a look at the network."""

    NOTHING = "nothing has changed for this tunnel"
    GONE = "there is no route to the server any more"  # the link is to be challenged, ...
    CHANGED = "the route to the server has changed"  # ... and here as well
    BACK = "there is a route again"  # the next attempt is due now


class NetworkOutlook:
    """What one tunnel has seen of the network.

    Args:
        host: Where the tunnel leads: a name or an address.
    """

    def __init__(self, host: str) -> None:
        self._fixed = _destinations_of(host)
        self._peer: str | None = None  # of the present link, or of the last one
        self._local: str | None = None  # of the present link, until its route was seen
        self._is_live = False
        self._seen: dict[str, Route | None] = {}

    @property
    def destinations(self) -> tuple[str, ...]:
        """The addresses whose routes matter; none if the server is on this machine."""
        if self._peer is None or self._peer in self._fixed:
            return self._fixed
        return (self._peer, *self._fixed)

    def connected(self, local: str | None, peer: str | None) -> None:
        """There is a link, between these addresses; None: it has none (a Unix socket)."""
        is_remote = peer is not None and not is_local(peer)
        self._peer = plain(peer) if is_remote and peer is not None else None
        self._local = plain(local) if local is not None else None
        self._is_live = True

    def lost(self) -> None:
        """There is no link any more."""
        self._is_live = False

    def judge(self, routes: Mapping[str, Route | None]) -> Verdict:
        """Compare with what was seen before, and remember.

        Args:
            routes: By destination; None: there is no route. What is missing is not known, and
                stays as it was.
        """
        before = dict(self._seen)
        self._seen = {key: before.get(key) for key in self.destinations if key in before}
        self._seen.update((key, routes[key]) for key in self.destinations if key in routes)
        if self._is_live:
            return self._judge_link(before)
        for key, now in self._seen.items():
            if key in before and now != before[key] and _is_usable(now):
                return Verdict.BACK
        return Verdict.NOTHING

    def _judge_link(self, before: Mapping[str, Route | None]) -> Verdict:
        peer, local = self._peer, self._local
        if peer is None or peer not in self._seen:
            return Verdict.NOTHING
        now = self._seen[peer]
        self._local = None
        if local is not None:  # the first look: the link may be older than the route
            has_changed = now is None or not now.is_up or now.source != local
        else:
            has_changed = now != before.get(peer)
        if not has_changed:
            return Verdict.NOTHING
        return Verdict.CHANGED if _is_usable(now) else Verdict.GONE


def is_local(host: str) -> bool:
    """Whether a name or address is this machine, whatever the network (RFC 6761, section 6.3)."""
    try:
        return ipaddress.ip_address(plain(host)).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def plain(address: str) -> str:
    """An address in its plainest form: an IPv4 address that is written as an IPv6 one is IPv4."""
    try:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return address if mapped is None else str(mapped)


def _destinations_of(host: str) -> tuple[str, ...]:
    if is_local(host):
        return ()
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return DEFAULT_ROUTES
    return (plain(host),)


def _is_usable(route: Route | None) -> bool:
    return route is not None and route.is_up
