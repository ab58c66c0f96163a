"""The sockets of a race to a name's addresses; it never waits, and has no clock of its own.

`tunnel.happy_eyeballs` decides who is tried when, `tunnel.dial` waits.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable

from tunnel.dial_options import DialOptions
from tunnel.happy_eyeballs import AddressInfo, Entrant, Race, interleaved

_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK)  # the latter on Windows


class ConnectRace:
    """Connects to the addresses of one name; the first socket that is connected wins.

    For one thread. Whoever made it calls `close` at the end, whatever came of it.

    Args:
        addresses: As `socket.getaddrinfo` returns them.
        options: For the sockets.
    """

    def __init__(self, addresses: Iterable[AddressInfo], options: DialOptions) -> None:
        self._race = Race(interleaved(addresses))
        self._options = options
        self._running: dict[socket.socket, Entrant] = {}

    @property
    def sockets(self) -> Collection[socket.socket]:
        """Those that are under way."""
        return self._running.keys()

    def start_due(self, now: float) -> socket.socket | None:
        """Begin with whoever is due; see `Race.start`.

        Returns:
            A socket that is connected already; it is the caller's then.

        Raises:
            ConfigurationError: The system refuses one of the options.
        """
        while (entrant := self._race.start(now)) is not None:
            family, kind, protocol, _, target = entrant.address
            try:
                sock = self._options.make_socket(family, kind, protocol)
            except OSError as error:  # the system has no such family, or no descriptor left
                self._race.fail(entrant, error)
                continue
            self._running[sock] = entrant
            number = sock.connect_ex(target)
            if number not in _UNDER_WAY and self._is_won_by(sock, number):
                return sock
        return None

    def settle(self, ready: Iterable[socket.socket]) -> socket.socket | None:
        """See what became of sockets for which a wait has ended.

        Returns:
            One that is connected; it is the caller's then.
        """
        for sock in ready:
            if self._is_won_by(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                return sock
        return None

    def pause(self, now: float) -> float | None:
        """See `Race.pause`."""
        return self._race.pause(now)

    def expire(self) -> None:
        """See `Race.expire`."""
        self._race.expire()

    def error(self) -> OSError | None:
        """Why the race is lost: see `Race.error`. None: it is not."""
        return self._race.error() if self._race.is_lost else None

    def close(self) -> None:
        """Close the losers."""
        for sock in self._running:
            sock.close()
        self._running.clear()

    def _is_won_by(self, sock: socket.socket, number: int) -> bool:
        """Whether a socket is connected, whose attempt has ended with this error number or 0."""
        if not number and _is_connected_to_itself(sock):
            number = errno.ECONNREFUSED
        entrant = self._running.pop(sock)
        if number:
            self._race.fail(entrant, OSError(number, os.strerror(number)))
            sock.close()
        return not number


def _is_connected_to_itself(sock: socket.socket) -> bool:
    """Whether TCP has joined a socket with itself.

    It does so if nobody listens at a port of this machine, and the port that the system has chosen
    for our end happens to be the same: a simultaneous open (RFC 9293, section 3.5). What would be
    read then is our own request.
    """
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # the peer has gone already, which is for the reader to find out
        return False
