"""Where to connect, checked before anything is done: URLs, headers and subprotocols.

Whatever is wrong raises a `ConfigurationError` (a `ValueError` too) at the call that made the
mistake, or a `TypeError` for a wrong type. The texts name what is wrong but never show what might
be secret: no user information, no query, no header value.
"""

from __future__ import annotations

import base64
import encodings.idna  # noqa: F401  (now: names are encoded by it, also by `getaddrinfo`, and it
import ipaddress  # could not be loaded any more without a free descriptor)
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from tunnel.errors import ConfigurationError
from tunnel.secrets import HIDDEN, Secret, raises_bare

__all__ = ["HeaderPairs", "TunnelUrl", "bearer_header", "validate_headers", "validate_subprotocols"]

_DEFAULT_PORTS = {"ws": 80, "wss": 443}

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?]*)(?P<resource>.*)", re.I)
_HOST_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
# RFC 7230, section 3.2.6.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What RFC 3986 allows in a path with a query; "%" because it is there already when it is needed.
_RESOURCE_SAFE = "%/?:@!$&'()*+,;=~-._[]"

# Parts of a header's or a query's value that are looked for in what the peer says. Shorter ones are
# rather words than secrets, and what these headers say is no secret.
_SECRET_PART = re.compile(r"[^\s;,=&\"']{8,}")
_PUBLIC_HEADERS = re.compile(
    r"accept.*|cache-control|content-.*|date|dnt|forwarded|from|if-.*|max-forwards|origin|pragma"
    r"|referer|user-agent|via|warning|x-forwarded-.*",
    re.IGNORECASE,
)

_RESERVED_HEADERS = {
    "host": "it follows from the URL",
    "upgrade": "it is part of the WebSocket handshake",
    "connection": "it is part of the WebSocket handshake",
    "content-length": "a WebSocket handshake has no body",
    "transfer-encoding": "a WebSocket handshake has no body",
    "expect": "a WebSocket handshake has no body",
    "te": "it is about the connection, which the tunnel handles",
    "trailer": "it is about the connection, which the tunnel handles",
    "keep-alive": "it is about the connection, which the tunnel handles",
    "proxy-connection": "it is about the connection, which the tunnel handles",
    "tunnel-resume": "the tunnel negotiates sessions itself (see the setting resume)",
    "sec-websocket-protocol": "pass subprotocols instead",
}


@dataclass(frozen=True, repr=False)
class TunnelUrl:
    """A WebSocket URL, taken apart (RFC 6455, section 3). Made by `parse`, which checks it.

    Attributes:
        scheme: ``ws`` or ``wss``.
        host: In lower case; a name in its ASCII form, an IPv6 address without brackets.
        port: From 1 to 65535; the scheme's if the URL has none.
        resource: Path and query as they are requested; ``/`` if the URL has none.
        credentials: ``user:password`` of the URL, or None. RFC 6455 knows no user information in
            URLs; but browsers and other clients take it, and send it as Basic authentication.
    """

    scheme: str
    host: str
    port: int
    resource: str = "/"
    credentials: Secret | None = None
    _known: tuple[Secret, ...] = field(init=False, default=(), compare=False)

    def __post_init__(self) -> None:
        # Kept for `scrub`, which knows secrets by their being in use.
        query = self.resource.partition("?")[2]
        values = "&".join(pair.partition("=")[2] for pair in query.split("&"))
        texts = [*_SECRET_PART.findall(values), *_SECRET_PART.findall(unquote(values))]
        if self.credentials is not None:
            _, _, password = self.credentials.reveal().partition(":")
            texts += [password, quote(password, safe=""), _basic(self.credentials)]
        object.__setattr__(self, "_known", tuple(map(Secret, texts)))

    @classmethod
    @raises_bare
    def parse(cls, url: str) -> TunnelUrl:
        """Take a URL apart.

        A name that is not ASCII is converted by IDNA (2003, Python's own), and other characters
        that are not ASCII are percent-encoded as UTF-8, as browsers do.

        Args:
            url: Such as ``wss://example.com/tunnel?room=1``.

        Raises:
            ConfigurationError: It is no WebSocket URL: wrong or missing scheme, no host or an
                impossible one, a port out of range, a fragment (RFC 6455 forbids it), spaces,
                backslashes or control characters.
            TypeError: It is not a `str`.
        """
        if not isinstance(url, str):
            raise TypeError(f"the URL must be a str, not {type(url).__name__}")
        _check_characters(url)
        parts = _URL.fullmatch(url)
        if parts is None:
            raise _wrong("it must begin with ws:// or wss://")
        scheme = parts["scheme"].lower()
        if scheme not in _DEFAULT_PORTS:
            instead = {"http": "; use ws", "https": "; use wss"}.get(scheme, "")
            raise _wrong(f"its scheme must be ws or wss, not {scheme[:16]!r}{instead}")
        user_information, _, location = parts["authority"].rpartition("@")
        host, port = _host_and_port(location)
        resource = parts["resource"]
        if not resource.startswith("/"):
            resource = "/" + resource
        return cls(
            scheme=scheme,
            host=host,
            port=_DEFAULT_PORTS[scheme] if port is None else port,
            resource=quote(resource, safe=_RESOURCE_SAFE),
            credentials=_credentials(user_information) if user_information else None,
        )

    @property
    def is_secure(self) -> bool:
        """Whether the connection is over TLS."""
        return self.scheme == "wss"

    @property
    def host_header(self) -> str:
        """The value of the ``Host`` header: no zone, and the port unless it is the scheme's."""
        host = self.host.partition("%")[0]
        host = f"[{host}]" if ":" in host else host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> str:
        """The URL without credentials. Its query may still be secret: see `redacted`."""
        return f"{self.scheme}://{self.host_header}{self.resource}"

    @property
    def redacted(self) -> str:
        """The URL as logs and errors may show it: no credentials, no values in the query."""
        path, has_query, query = self.resource.partition("?")
        hidden = "&".join(_without_value(parameter) for parameter in query.split("&"))
        return f"{self.scheme}://{self.host_header}{path}{has_query}{hidden}"

    @property
    def authorization(self) -> Secret | None:
        """The value of an ``Authorization`` header for the credentials (RFC 7617), or None."""
        if self.credentials is None:
            return None
        return Secret(f"Basic {_basic(self.credentials)}")

    def __str__(self) -> str:
        return self.redacted

    def __repr__(self) -> str:
        return f"TunnelUrl({self.redacted!r})"


class HeaderPairs(tuple[tuple[str, str], ...]):
    """Validated headers: pairs of name and value. Their `repr` shows the names only."""

    _known: tuple[Secret, ...]

    def __new__(cls, pairs: Iterable[tuple[str, str]] = ()) -> HeaderPairs:
        """Take pairs that are valid."""
        self = super().__new__(cls, pairs)
        # Kept for `scrub`, which knows secrets by their being in use.
        self._known = tuple(
            Secret(text)
            for name, value in self
            if not _PUBLIC_HEADERS.fullmatch(name)
            for text in (value, *_SECRET_PART.findall(value))
        )
        return self

    def __repr__(self) -> str:
        return f"({', '.join(f'({name!r}, {HIDDEN})' for name, _ in self)})"


@raises_bare
def validate_headers(
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None,
) -> HeaderPairs:
    """Check the headers that an application adds to the handshake, and fix their order.

    Args:
        headers: A mapping or pairs of name and value; a name may come more than once in pairs.

    Returns:
        The pairs, without white space around the values.

    Raises:
        ConfigurationError: A name is not a token of RFC 7230, or is one of the handshake's own; or
            a value has a control character (CR and LF would begin another header) or one that is
            not in Latin-1.
        TypeError: A name or a value is not a `str`, or `headers` are neither a mapping nor pairs.
    """
    if headers is None:
        return HeaderPairs()
    if not isinstance(headers, Iterable):
        raise TypeError("headers must be a mapping or pairs of name and value")
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return HeaderPairs(_validated_header(pair) for pair in pairs)


@raises_bare
def bearer_header(token: str | Secret) -> tuple[str, str]:
    """The header that carries a token (RFC 6750, section 2.1).

    Raises:
        ConfigurationError: The token is empty, or has characters that no token has: spaces, control
            characters, anything beyond ASCII.
        TypeError: It is neither `str` nor `Secret`.
    """
    value = Secret(token)
    if not re.fullmatch(r"[!-~]+", value.reveal()):
        problem = "contains a character that is not visible ASCII" if value else "is empty"
        raise ConfigurationError(f"the token {problem}; it cannot be sent in a header")
    return "Authorization", f"Bearer {value.reveal()}"


@raises_bare
def validate_subprotocols(subprotocols: Iterable[str] | None) -> tuple[str, ...]:
    """Check the subprotocols to offer (RFC 6455, section 4.1).

    Raises:
        ConfigurationError: One is not a token of RFC 7230, or comes twice.
        TypeError: They are not strings, or a single string was given instead of several.
    """
    if isinstance(subprotocols, (str, bytes)) or not isinstance(subprotocols, Iterable | None):
        raise TypeError("subprotocols must be several strings, such as a list, not one")
    offered = tuple(subprotocols or ())
    for name in offered:
        if not isinstance(name, str):
            raise TypeError(f"a subprotocol must be a str, not {type(name).__name__}")
        if not _TOKEN.fullmatch(name):
            raise ConfigurationError(f"the subprotocol {name[:40]!r} is not a token (RFC 7230)")
    if len(set(offered)) < len(offered):
        raise ConfigurationError("a subprotocol is offered twice")
    return offered


def _wrong(problem: str) -> ConfigurationError:
    return ConfigurationError(f"the URL is not valid: {problem}")


def _check_characters(url: str) -> None:
    for char in url:
        if char.isspace() or not char.isprintable():
            raise _wrong(f"it contains the character U+{ord(char):04X}")
    if "\\" in url:
        raise _wrong("it contains a backslash")
    if "#" in url:
        raise _wrong("it has a fragment (#), which WebSocket URLs cannot have; write %23 for a '#'")


def _host_and_port(location: str) -> tuple[str, int | None]:
    if location.startswith("["):
        literal, closed, rest = location[1:].partition("]")
        if not closed or rest[:1] not in ("", ":"):
            raise _wrong("its IPv6 address is not closed by ]")
        host, port = _ipv6(literal), rest[1:]
    else:
        name, _, port = location.partition(":")
        host = _host(name)
    return host, _port(port)


def _port(text: str) -> int | None:
    if not text:
        return None
    # A wrong port is not shown unless it is a number: it may be the password of a URL without "@".
    if not re.fullmatch(r"[0-9]+", text):
        raise _wrong("its port must be a number from 1 to 65535")
    if len(text) > 5 or not 1 <= int(text) <= 65535:
        raise _wrong(f"its port must be from 1 to 65535, not {text[:20]}")
    return int(text)


def _ipv6(literal: str) -> str:
    """An IPv6 address; with a zone, the "%" before it is encoded in a URL (RFC 6874)."""
    address, has_zone, zone = literal.partition("%25")
    if has_zone and not re.fullmatch(r"[A-Za-z0-9._~-]+", zone):
        raise _wrong("the zone of its IPv6 address is not valid")
    try:
        # Python takes a zone after a bare "%" as well, which is not one in a URL.
        host = str(ipaddress.IPv6Address(address.replace("%", " ")))
    except ValueError:
        raise _wrong("what is in brackets is not an IPv6 address") from None
    return f"{host}%{zone}" if has_zone else host


def _host(name: str) -> str:
    if not name:
        raise _wrong("it has no host")
    try:
        ascii_name = name.lower().encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise _wrong("its host is not a valid name") from None
    labels = ascii_name.removesuffix(".").split(".")
    if _NUMBER_LABEL.fullmatch(labels[-1]):  # then browsers take the whole for an IPv4 address
        try:
            return str(ipaddress.IPv4Address(ascii_name))
        except ValueError:
            raise _wrong("its host is not a valid IPv4 address") from None
    if len(ascii_name) > 254 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise _wrong("its host is not a valid name")
    return ascii_name


def _credentials(user_information: str) -> Secret:
    # A second "@" is refused because readers disagree about which one counts.
    if "@" in user_information:
        raise _wrong("an @ in its user information must be written %40")
    user, _, password = user_information.partition(":")
    try:
        text = f"{unquote(user, errors='strict')}:{unquote(password, errors='strict')}"
    except UnicodeDecodeError:
        text = "\0"
    if _CONTROL.search(text) or ":" in unquote(user):
        raise _wrong("its user information cannot be sent as Basic authentication (RFC 7617)")
    return Secret(text)


def _basic(credentials: Secret) -> str:
    return base64.b64encode(credentials.reveal().encode("utf-8")).decode("ascii")


def _without_value(parameter: str) -> str:
    name, has_value, _ = parameter.partition("=")
    if has_value:
        return f"{name}={HIDDEN}"
    return HIDDEN if parameter else ""


def _validated_header(pair: object) -> tuple[str, str]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError("headers must be a mapping or pairs of name and value")
    name, value = pair
    if not isinstance(name, str):
        raise TypeError(f"a header's name must be a str, not {type(name).__name__}")
    token = _TOKEN.match(name)
    if token is None or token.end() < len(name):
        # Only the valid beginning is shown: a whole line "Name: value" may have been passed.
        beginning = token[0][:40] if token else ""
        raise ConfigurationError(
            f"the header name that begins with {beginning!r} is not a token (RFC 7230)"
        )
    if not isinstance(value, str):
        raise TypeError(f"the value of the header {name!r} must be a str")
    reason = _RESERVED_HEADERS.get(name.lower())
    if reason is None and name.lower().startswith("sec-websocket-"):
        reason = "it is part of the WebSocket handshake"
    if reason is not None:
        raise ConfigurationError(f"the header {name!r} cannot be set: {reason}")
    value = value.strip(" \t")
    if _CONTROL.search(value.replace("\t", " ")):
        raise ConfigurationError(f"the value of the header {name!r} contains a control character")
    if any(ord(char) > 0xFF for char in value):
        raise ConfigurationError(
            f"the value of the header {name!r} contains a character that is not in Latin-1"
        )
    return name, value
