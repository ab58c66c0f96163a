"""How to get to the server: checked when `connect` is called, used by every dial."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from tunnel.addresses import TunnelUrl
from tunnel.errors import ConfigurationError
from tunnel.forks import close_in_child
from tunnel.proxy import Proxy, chosen_proxy
from tunnel.tls import TlsSettings

SocketOption: TypeAlias = tuple[int, int, int | bytes]
"""Level, name and value, as `socket.socket.setsockopt` takes them."""

_LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes in the path of a Unix socket."""

_FAMILY_LEVELS = {
    socket.IPPROTO_IP: (socket.AF_INET,),
    socket.IPPROTO_IPV6: (socket.AF_INET6,),
}


@dataclass(frozen=True)
class DialOptions:
    """What `checked_dial_options` makes of the arguments of `connect`. Immutable.

    Attributes:
        proxy: Through which proxy; None: straight to the server.
        unix_socket: The path of the socket to connect to in place of the URL's host; None: none.
        socket_options: Set on every socket before it is connected, after the tunnel's own. Those
            of level IPPROTO_IP or IPPROTO_IPV6 are set on sockets of that family alone.
        pins: SHA-256 digests of public keys, one of which the server's certificate must have;
            none: any will do.
    """

    proxy: Proxy | None = None
    unix_socket: str | None = None
    socket_options: tuple[SocketOption, ...] = ()
    pins: tuple[bytes, ...] = ()

    def make_socket(
        self, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """A non-blocking socket with all options set, which forked children close.

        Raises:
            OSError: The system gives none.
            ConfigurationError: The system refuses one of the options.
        """
        sock = socket.socket(family, kind, protocol)
        close_in_child(sock)  # also what never becomes a connection: half a handshake, a race
        try:
            sock.setblocking(False)
            if family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # The kernel's own probes are a second net below the heartbeat, for those who turn
                # that off.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option in self.socket_options:
                if family in _FAMILY_LEVELS.get(option[0], (family,)):
                    _set_option(sock, option)
            return sock
        except BaseException:
            sock.close()
            raise


DIRECT = DialOptions()
"""Straight to the server."""


def checked_dial_options(
    url: TunnelUrl,
    *,
    proxy: str | None,
    unix_socket: str | os.PathLike[str] | None,
    socket_options: Iterable[SocketOption],
    tls: TlsSettings | None,
) -> DialOptions:
    """Check the arguments of `connect` that are about the way to the server.

    Args:
        url: The server.
        proxy: A URL, ``"auto"`` or None; see `tunnel.proxy.chosen_proxy`.
        unix_socket: The path of a Unix socket, or None.
        socket_options: Level, name and value of each.
        tls: For its pins.

    Raises:
        ConfigurationError: One is wrong, or the system refuses a socket option.
        TypeError: One is of the wrong type.
    """
    path = None if unix_socket is None else _checked_path(unix_socket)
    if path is not None and proxy not in ("auto", None):
        raise ConfigurationError("a unix_socket cannot be reached through a proxy")
    options = DialOptions(
        proxy=chosen_proxy(url, proxy) if path is None else None,
        unix_socket=path,
        socket_options=_checked_options(socket_options),
        pins=() if tls is None else tls.pin_digests,
    )
    _try_out(options)
    return options


def _checked_path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"unix_socket must be a str or a path, not {type(path).__name__}")
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError("unix_socket: Python has no Unix sockets on this system")
    is_abstract = sys.platform == "linux" and text.startswith("\0")
    if not text.strip("\0") or "\0" in text[is_abstract:]:
        raise ConfigurationError("unix_socket: the path is empty, or has a NUL in it")
    if len(os.fsencode(text)) > _LONGEST_PATH:
        raise ConfigurationError(f"unix_socket: the path has more than {_LONGEST_PATH} bytes")
    return text


def _checked_options(options: Iterable[SocketOption]) -> tuple[SocketOption, ...]:
    if not isinstance(options, Iterable):
        raise TypeError(f"socket_options must be several tuples, not {type(options).__name__}")
    checked = []
    for option in options:
        if not isinstance(option, (tuple, list)) or len(option) != 3:
            raise TypeError("a socket option must be a tuple of level, name and value")
        level, name, value = option
        if not all(isinstance(part, int) for part in (level, name)):
            raise TypeError("level and name of a socket option must be numbers")
        if not isinstance(value, (int, bytes)):
            raise TypeError(
                f"the value of a socket option must be int or bytes, not {type(value).__name__}"
            )
        checked.append((level, name, value))
    return tuple(checked)


def _try_out(options: DialOptions) -> None:
    """Set the options on sockets that are not used further: a mistake shows at once."""
    if not options.socket_options:
        return
    families = [socket.AF_INET, socket.AF_INET6]
    if options.unix_socket is not None:
        assert hasattr(socket, "AF_UNIX")  # else the path would have been refused
        families = [socket.AF_UNIX]
    for family in families:
        try:
            sock = options.make_socket(family)
        except OSError:  # a machine without IPv6
            continue
        sock.close()


def _set_option(sock: socket.socket, option: SocketOption) -> None:
    level, name, value = option
    try:
        sock.setsockopt(level, name, value)
    except (OSError, OverflowError, TypeError) as error:  # the last two: the number is too large
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"the system refuses the socket option ({level}, {name}, {value!r}): {reason.lower()}"
        ) from error
