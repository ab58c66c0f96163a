"""Which of a name's addresses is tried when: RFC 8305, "Happy Eyeballs", without socket and clock.

A name has addresses of two families, and one family may lead nowhere without anybody saying so.
Tried in turn, each of its addresses would cost a time-out. So the attempts are raced: they begin
one after the other, each a short delay after the last one or as soon as one has failed, and nobody
is told to stop before one has succeeded. The families alternate, beginning with the one that the
system's resolver prefers (RFC 6724), so that a dead family costs one delay (RFC 8305, section 4).

`Race` is the order of events; who connects, waits and closes is `tunnel.dial`.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Any, NamedTuple

ATTEMPT_DELAY = 0.25
"""Seconds between two attempts while none fails (RFC 8305, section 5)."""

AddressInfo = tuple[Any, ...]
"""What `socket.getaddrinfo` says of one address; the family is its first item."""

# These say that this machine has no way to such an address, and nothing of the server.
_NO_WAY = frozenset(
    getattr(errno, prefix + name)
    for name in ("ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ENETDOWN")
    for prefix in ("", "WSA")  # Windows has numbers of its own
    if hasattr(errno, prefix + name)
)


def interleaved(addresses: Iterable[AddressInfo]) -> list[AddressInfo]:
    """The addresses with alternating families, in their order otherwise; each address once."""
    families: dict[object, list[AddressInfo]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(address[0], []).append(address)
    return [a for a in chain.from_iterable(zip_longest(*families.values())) if a is not None]


class Entrant(NamedTuple):
    """One address in the race.

    Attributes:
        position: Its place in the order, from 0.
        address: What to connect to.
    """

    position: int
    address: AddressInfo


class Race:
    """The attempts at the addresses of one name. For one thread.

    Args:
        addresses: In the order in which they are to be tried.
        delay: Seconds between two attempts while none fails.
    """

    def __init__(self, addresses: Iterable[AddressInfo], delay: float = ATTEMPT_DELAY) -> None:
        self._waiting = deque(Entrant(*numbered) for numbered in enumerate(addresses))
        self._delay = delay
        self._running = 0
        self._next_start = float("-inf")
        self._errors: dict[int, OSError] = {}

    def start(self, now: float) -> Entrant | None:
        """Who is to be tried now, if anybody is; call it until it returns None.

        Args:
            now: The time in seconds, on any clock that does not go back.
        """
        if not self._waiting or now < self._next_start:
            return None
        self._next_start = now + self._delay
        self._running += 1
        return self._waiting.popleft()

    def fail(self, entrant: Entrant, error: OSError) -> None:
        """One that was started has failed: the next one is due at once."""
        self._running -= 1
        self._errors[entrant.position] = error
        self.expire()

    def expire(self) -> None:
        """The delay is over, whatever the clock says."""
        self._next_start = float("-inf")

    def pause(self, now: float) -> float | None:
        """Seconds until the next one is due; None: nobody waits to be started."""
        return max(0.0, self._next_start - now) if self._waiting else None

    @property
    def is_lost(self) -> bool:
        """Whether all have failed."""
        return not self._waiting and not self._running

    def error(self) -> OSError:
        """Why the race is lost: the error that tells most.

        That of the first address, unless it only says that this machine has no way to addresses of
        that kind, and another one says more.
        """
        errors = [error for _, error in sorted(self._errors.items())]
        if not errors:
            return OSError(errno.EADDRNOTAVAIL, "the name has no address")
        return next((error for error in errors if error.errno not in _NO_WAY), errors[0])
