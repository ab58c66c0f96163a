"""Which proxy is used: from an argument, or from the environment as other programs read it.

Where the conventions differ, this holds:

* The URL's scheme says who resolves the server's name, as with curl: ``socks5`` and ``socks4`` this
  machine, ``socks5h``, ``socks4a``, ``http`` and ``https`` the proxy.
* In the environment `https_proxy` counts for wss, `http_proxy` for ws, and `all_proxy` for either;
  names in lower case go before those in upper case, and in a CGI program `HTTP_PROXY` is a header
  that a stranger sent, so it is ignored. Exceptions are in `no_proxy`. All this is
  `urllib.request`'s reading. A value without a scheme is an ``http`` one.
* What the environment says is not used for this machine itself (``localhost``, 127.0.0.0/8, ::1),
  where a proxy would look for another machine; browsers and Go do the same. A proxy that was given
  as an argument is used for every host.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from tunnel.addresses import TunnelUrl
from tunnel.errors import ConfigurationError, DnsResolutionError, ResourceExhaustedError
from tunnel.happy_eyeballs import AddressInfo
from tunnel.secrets import Secret

_DEFAULT_PORTS = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}


@dataclass(frozen=True, repr=False)
class Proxy:
    """A proxy's URL, taken apart. Made by `parse`, which checks it.

    Attributes:
        scheme: ``http``, ``https`` (TLS to the proxy), ``socks4``, ``socks4a``, ``socks5`` or
            ``socks5h``.
        host: As in `TunnelUrl`.
        port: From 1 to 65535; if the URL has none, 80, 443 or 1080.
        credentials: ``user:password`` of the URL, or None. Shown nowhere.
        authorization: The same as Basic authentication (RFC 7617), or None.
    """

    scheme: str
    host: str
    port: int
    credentials: Secret | None = None
    authorization: Secret | None = None

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Take a proxy's URL apart.

        Raises:
            ConfigurationError: It is not valid, or its credentials are none that can be sent.
            TypeError: It is not a `str`.
        """
        if not isinstance(url, str):
            raise TypeError(f"the proxy must be a str or None, not {type(url).__name__}")
        scheme, has_scheme, rest = url.partition("://")
        scheme = scheme.lower()
        if not has_scheme or scheme not in _DEFAULT_PORTS:
            known = ", ".join(_DEFAULT_PORTS)
            raise _wrong(f"it must begin with one of {known}, and ://")
        try:
            location = TunnelUrl.parse(f"ws://{rest}")
        except ConfigurationError as error:
            raise _wrong(error.message.removeprefix("the URL is not valid: ")) from None
        if location.resource != "/":
            raise _wrong("it has a path or a query")
        has_port = re.search(r":[0-9]+/?$", rest.rpartition("@")[2])
        port = location.port if has_port else _DEFAULT_PORTS[scheme]
        _check_credentials(scheme, location.credentials)
        return cls(scheme, location.host, port, location.credentials, location.authorization)

    @property
    def wants_address(self) -> bool:
        """Whether the server's name is resolved here, not by the proxy."""
        return self.scheme in ("socks4", "socks5")

    def chosen_address(self, addresses: Iterable[AddressInfo]) -> str:
        """Which of the server's addresses the proxy is asked for: the first that it can take.

        Raises:
            DnsResolutionError: There is none.
        """
        for family, *_, target in addresses:
            if self.scheme != "socks4" or family == socket.AF_INET:
                return str(target[0])
        raise DnsResolutionError("the server's name has no address that the proxy could take")

    def check_target(self, url: TunnelUrl) -> None:
        """Check whether the proxy can be asked for that server at all.

        Raises:
            ConfigurationError: It cannot, or a library for it is missing.
        """
        if self.scheme in ("socks4", "socks4a") and ":" in url.host:
            raise ConfigurationError("a SOCKS4 proxy cannot connect to IPv6 addresses")
        library = "h11" if self.scheme in ("http", "https") else "socksio"
        if find_spec(library) is None:
            raise ConfigurationError(
                f"connecting through the proxy {self} needs {library}, which is not installed",
                suggestion="Run: pip install 'resilient-tunnel[proxy]'; or pass proxy=None.",
            )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"Proxy({str(self)!r})"


def chosen_proxy(url: TunnelUrl, proxy: str | None) -> Proxy | None:
    """The proxy to use for a server.

    Args:
        url: The server.
        proxy: The proxy's URL; ``"auto"``: what the environment says now; None: none.

    Raises:
        ConfigurationError: The proxy's URL is not valid, the proxy cannot be asked for that server,
            or a library is missing.
        TypeError: `proxy` is neither a `str` nor None.
    """
    if proxy is None:
        return None
    chosen = _from_environment(url) if proxy == "auto" else Proxy.parse(proxy)
    if chosen is not None:
        chosen.check_target(url)
    return chosen


def _from_environment(url: TunnelUrl) -> Proxy | None:
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    # Only now, since it takes a third of the time in which the rest of the tunnel is imported.
    try:
        from urllib.request import (  # type: ignore[attr-defined]  # typeshed lacks the second
            getproxies_environment,
            proxy_bypass_environment,
        )
    except (ImportError, OSError) as error:  # without descriptors, or rights to the library
        raise ResourceExhaustedError(
            f"the environment's proxies cannot be read: {error}"
        ) from error

    proxies = getproxies_environment()
    name = "https" if url.is_secure else "http"
    found = proxies.get(name) or proxies.get("all")
    if not found or _is_this_machine(url.host):
        return None
    if proxy_bypass_environment(f"{url.host}:{url.port}", proxies):
        return None
    try:
        return Proxy.parse(found if "://" in found else f"http://{found}")
    except ConfigurationError as error:
        variable = name if proxies.get(name) else "all"
        raise ConfigurationError(f"in the environment, {variable}_proxy: {error.message}") from None


def _is_this_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return re.fullmatch(r"(.*\.)?localhost\.?", host) is not None


def _check_credentials(scheme: str, credentials: Secret | None) -> None:
    if credentials is None:
        return
    # Not the parts themselves: a traceback can show variables.
    user, password = (len(part.encode()) for part in credentials.reveal().split(":", 1))
    if scheme.startswith("socks4") and password:
        raise _wrong("SOCKS4 knows a user name, but no password")
    if scheme.startswith("socks5") and not (0 < user < 256 and 0 < password < 256):
        raise _wrong("SOCKS5 wants a user name and a password of 1 to 255 bytes (RFC 1929)")


def _wrong(problem: str) -> ConfigurationError:
    return ConfigurationError(f"the proxy's URL is not valid: {problem}")
