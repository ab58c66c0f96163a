"""URLs of any kind: what is accepted leads to the host that other readers of the URL see, too.

Readers that disagree about the host of a URL have let attackers past many an allowlist. So where
`TunnelUrl` and another parser both accept a URL, they must name the same host and port. Ours may
refuse what others take.
"""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websocket._url import parse_url
from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from tunnel.addresses import TunnelUrl, bearer_header, validate_headers, validate_subprotocols
from tunnel.errors import ConfigurationError

Place = tuple[str, int]

DELIMITERS = "/:@?#[]%\\;&=.,!$'()*+"
CHARACTERS = DELIMITERS + "aZ09-_~ \t\r\n\0\x7f\x85\u00ad\u200d\u2028\ud800é"
LOOKALIKES = "\u3002\uff0e\uff61\u2100\u2048\uff03\uff1f\uff0f\uff20\uff1a\u24d4\u00df\u0130\u2488"

some_text = st.text(CHARACTERS + LOOKALIKES, max_size=6)
names = st.sampled_from(
    [
        "host",
        "a.example",
        "a.example.",
        "EXAMPLE.com",
        "b\u00fccher.example",
        "xn--bcher-kva.example",
    ]
)
numbers = st.sampled_from(
    ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "1.2.3.4.", "1.2.3.256", "09.1"]
)
literals = st.sampled_from(
    [
        "[::1]",
        "[::ffff:1.2.3.4]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[::1",
        "::1]",
        "[v1.a]",
        "[]",
    ]
)
hosts = st.one_of(names, numbers, literals, some_text)
ports = st.one_of(
    st.sampled_from(["", ":", ":80", ":443", ":0", ":65536", ":+1", ":1_0", ":\u0661", ":00080"]),
    st.integers(0, 70_000).map(":{}".format),
)
user_informations = st.one_of(
    st.sampled_from(["", "@", "u@", "u:p@", ":@", "u:p:q@", "a@b@", "u%40x@", "u%00@", "%ff@"]),
    some_text.map("{}@".format),
)
paths = st.one_of(
    st.sampled_from(["", "/", "/p?q=1", "?q@other", "/@other", "//other/", "/..//a", "#f", "/%zz"]),
    some_text,
)
schemes = st.sampled_from(
    ["ws://", "wss://", "WS://", "ws:/", "ws:", "http://", " ws://", "//", ""]
)


@st.composite
def urls(draw: st.DrawFn) -> str:
    """A URL, or something with the parts of one; now and then a character too much or too few."""
    url = "".join(
        draw(part)
        for part in (schemes, user_informations, hosts, some_text | st.just(""), ports, paths)
    )
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(url)))
        url = url[:place] + draw(some_text) + url[place + draw(st.integers(0, 1)) :]
    return url


def normal(host: str) -> str:
    """A host as it would be looked up."""
    address = host.partition("%")[0]
    with contextlib.suppress(ValueError):
        return str(ipaddress.IPv6Address(address))
    return host.lower().encode("idna").decode().lower()


def by_urllib(url: str) -> Place:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return parts.hostname, parts.port or {"ws": 80, "wss": 443}[parts.scheme]


def by_websockets(url: str) -> Place:
    uri = parse_uri(url)
    return uri.host, uri.port


def by_websocket_client(url: str) -> Place:
    host, port, _, _ = parse_url(url)
    return host, port


@pytest.mark.fault("any-url")
@given(urls() | st.text(max_size=30))
def test_what_is_accepted_leads_where_others_see_it_lead(url: str) -> None:
    """Any text is refused by the documented error, or names the host that others find in it."""
    try:
        ours = TunnelUrl.parse(url)
    except ConfigurationError:
        return
    for read in (by_urllib, by_websockets, by_websocket_client):
        try:
            host, port = read(url)
            host = normal(host)
        except (ValueError, InvalidURI):
            continue
        assert (normal(ours.host), ours.port) == (host, port), read.__name__


@pytest.mark.fault("any-url")
@given(urls() | st.text(max_size=30))
def test_what_is_accepted_can_be_read_again(url: str) -> None:
    """The address that others are given is ASCII on one line, and leads to the same place."""
    try:
        ours = TunnelUrl.parse(url)
    except ConfigurationError:
        return
    assert ours.address.isascii()
    assert ours.address.isprintable()
    assert " " not in ours.address
    again = TunnelUrl.parse(ours.address)
    assert (again.scheme, again.host, again.port) == (
        ours.scheme,
        ours.host.partition("%")[0],  # the zone is this machine's affair
        ours.port,
    )
    assert again.resource == ours.resource
    assert again.address == ours.address
    assert TunnelUrl.parse(ours.redacted).host_header == ours.host_header
    if ours.authorization is not None:
        assert ours.authorization.reveal().removeprefix("Basic ").strip("=").isascii()


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=3))
def test_headers_stay_on_their_lines(pairs: list[tuple[str, str]]) -> None:
    """Whatever is passed as headers, none of it begins another line."""
    try:
        checked = validate_headers(pairs)
    except ConfigurationError:
        return
    for name, value in checked:
        line = f"{name}: {value}".encode("latin-1")
        assert not set(line) & {*range(0x09), *range(0x0A, 0x20), 0x7F}
        assert name.isascii()
        assert ":" not in name


@given(st.text(max_size=20))
def test_tokens_and_subprotocols_stay_on_their_lines(text: str) -> None:
    """The same holds for a token and for a subprotocol."""
    for check in (bearer_header, lambda name: validate_subprotocols([name])):
        with contextlib.suppress(ConfigurationError):
            for part in check(text):
                assert part.isascii()
                assert part.isprintable()
