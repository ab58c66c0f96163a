from __future__ import annotations

import os
import socket
import sys
from typing import Any

import pytest

from tunnel import proxy as proxy_module
from tunnel.addresses import TunnelUrl
from tunnel.errors import ConfigurationError, DnsResolutionError, ResourceExhaustedError
from tunnel.proxy import Proxy, chosen_proxy
from tunnel.secrets import Secret

PASSWORD = "s3cr3t"
WS, WSS = TunnelUrl.parse("ws://server.test/"), TunnelUrl.parse("wss://server.test:8443/")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "REQUEST_METHOD":
            monkeypatch.delenv(name)


# The URL


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port"),
    [
        ("http://proxy.test:3128", "http", "proxy.test", 3128),
        ("HTTP://Proxy.Test/", "http", "proxy.test", 80),
        ("https://proxy.test", "https", "proxy.test", 443),
        ("socks4://10.0.0.1", "socks4", "10.0.0.1", 1080),
        ("socks4a://[::1]:9", "socks4a", "::1", 9),
        ("socks5://[::1]", "socks5", "::1", 1080),
        ("socks5h://proxy.test:1081/", "socks5h", "proxy.test", 1081),
    ],
)
def test_a_proxys_url_is_taken_apart(url: str, scheme: str, host: str, port: int) -> None:
    """Scheme, host and port, which each scheme has a default for."""
    proxy = Proxy.parse(url)
    assert (proxy.scheme, proxy.host, proxy.port) == (scheme, host, port)
    assert proxy.credentials is None
    assert proxy.authorization is None


def test_credentials_are_kept_and_not_shown() -> None:
    """They are decoded, and in no text of the proxy."""
    proxy = Proxy.parse(f"http://me:a%40{PASSWORD}@[::1]:3128")
    assert proxy.credentials == Secret(f"me:a@{PASSWORD}")
    assert proxy.authorization == Secret("Basic bWU6YUBzM2NyM3Q=")
    assert str(proxy) == "http://[::1]:3128"
    assert repr(proxy) == "Proxy('http://[::1]:3128')"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("proxy.test:3128", "must begin with one of http, https, socks4"),
        ("ftp://proxy.test", "must begin with"),
        ("wss://proxy.test", "must begin with"),
        ("http://", "no host"),
        ("http://proxy.test:99999", "port must be from 1 to 65535"),
        ("http://proxy.test/path", "a path or a query"),
        ("http://proxy.test?a=b", "a path or a query"),
        (f"http://a@b:{PASSWORD}@proxy.test", "@ in its user information"),
        (f"socks4://me:{PASSWORD}@proxy.test", "no password"),
        ("socks5://me@proxy.test", "1 to 255 bytes"),
        (f"socks5://:{PASSWORD}@proxy.test", "1 to 255 bytes"),
        (f"socks5h://me:{PASSWORD * 50}@proxy.test", "1 to 255 bytes"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, problem: str) -> None:
    """The text says what is wrong, and not what is secret."""
    with pytest.raises(ConfigurationError, match="the proxy's URL is not valid") as caught:
        Proxy.parse(url)
    assert problem in caught.value.message
    assert PASSWORD not in repr(caught.value)


def test_a_user_name_is_enough_for_socks4() -> None:
    """SOCKS4 has a user name without a password."""
    assert Proxy.parse("socks4://me@proxy.test").credentials == Secret("me:")


def test_only_a_str_or_none_is_a_proxy() -> None:
    """Anything else is a wrong type."""
    with pytest.raises(TypeError, match="must be a str or None, not int"):
        chosen_proxy(WS, 3128)  # type: ignore[arg-type]


# Who resolves


def info(family: int, host: str) -> tuple[Any, ...]:
    return (family, socket.SOCK_STREAM, 6, "", (host, 1))


ADDRESSES = [info(socket.AF_INET6, "2001:db8::1"), info(socket.AF_INET, "10.0.0.1")]


@pytest.mark.parametrize(("scheme", "chosen"), [("socks4", "10.0.0.1"), ("socks5", "2001:db8::1")])
def test_the_first_address_that_the_proxy_can_take_is_chosen(scheme: str, chosen: str) -> None:
    """SOCKS4 knows IPv4 alone."""
    proxy = Proxy.parse(f"{scheme}://proxy.test")
    assert proxy.wants_address
    assert proxy.chosen_address(ADDRESSES) == chosen


def test_without_such_an_address_there_is_no_way() -> None:
    """A server that has IPv6 alone cannot be reached by SOCKS4."""
    with pytest.raises(DnsResolutionError, match="no address that the proxy could take"):
        Proxy.parse("socks4://proxy.test").chosen_address(ADDRESSES[:1])


@pytest.mark.parametrize("scheme", ["http", "https", "socks4a", "socks5h"])
def test_the_other_proxies_resolve_the_name(scheme: str) -> None:
    """As with curl."""
    assert not Proxy.parse(f"{scheme}://proxy.test").wants_address


@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
def test_socks4_is_refused_for_ipv6(scheme: str) -> None:
    """The call that made the mistake fails."""
    with pytest.raises(ConfigurationError, match="IPv6"):
        chosen_proxy(TunnelUrl.parse("ws://[2001:db8::1]/"), f"{scheme}://proxy.test")


@pytest.mark.parametrize(
    ("url", "library"), [("http://proxy.test", "h11"), ("socks5://proxy.test", "socksio")]
)
def test_a_missing_library_is_named(
    url: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is the extra that installs it."""
    monkeypatch.setattr(proxy_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=f"needs {library}") as caught:
        chosen_proxy(WS, url)
    assert "resilient-tunnel[proxy]" in str(caught.value.suggestion)


# The environment


def chosen(url: TunnelUrl, **variables: str) -> str | None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        proxy = chosen_proxy(url, "auto")
    return None if proxy is None else str(proxy)


def test_the_environment_is_read_by_scheme() -> None:
    """https_proxy is for wss, http_proxy for ws, all_proxy for what has none of its own."""
    both = {"HTTPS_PROXY": "http://secure.test:1", "http_proxy": "http://plain.test:2"}
    assert chosen(WSS, **both) == "http://secure.test:1"
    assert chosen(WS, **both) == "http://plain.test:2"
    assert chosen(WSS, ALL_PROXY="socks5h://all.test", **both) == "http://secure.test:1"
    assert chosen(WSS, ALL_PROXY="socks5h://all.test") == "socks5h://all.test:1080"
    assert chosen(WS, HTTPS_PROXY="http://secure.test:1") is None
    assert chosen(WS) is None
    assert chosen(WS, http_proxy="", ALL_PROXY="") is None


def test_lower_case_goes_first() -> None:
    """As with urllib, curl and others."""
    assert chosen(WSS, HTTPS_PROXY="http://a.test:1", https_proxy="http://b.test:1") == (
        "http://b.test:1"
    )


def test_a_header_of_a_cgi_program_is_no_proxy() -> None:
    """HTTP_PROXY may come from a stranger's ``Proxy:`` header there; http_proxy may not."""
    assert chosen(WS, HTTP_PROXY="http://evil.test:1", REQUEST_METHOD="GET") is None
    assert chosen(WS, http_proxy="http://good.test:1", REQUEST_METHOD="GET") is not None


@pytest.mark.parametrize(
    ("no_proxy", "is_used"),
    [
        ("server.test", False),
        (".test", False),
        ("other.test, server.test:8443", False),
        ("*", False),
        ("server.test:1", True),
        ("rver.test", True),
    ],
)
def test_exceptions_are_heeded(no_proxy: str, is_used: bool) -> None:
    """no_proxy has names, with the names below them and a port if one is given."""
    got = chosen(WSS, https_proxy="http://proxy.test:1", no_proxy=no_proxy)
    assert (got is not None) == is_used


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "a.localhost", "localhost.", "127.0.0.1", "127.1.2.3"),
        *("[::1]", "[::1%25lo]", "[::ffff:127.0.0.1]"),
    ],
)
def test_this_machine_is_not_looked_for_at_a_proxy(host: str) -> None:
    """The environment's proxies are not for loopback; one that was given is for all."""
    url = TunnelUrl.parse(f"ws://{host}/")
    assert chosen(url, http_proxy="http://proxy.test:1") is None
    assert str(chosen_proxy(url, "http://proxy.test:1")) == "http://proxy.test:1"


def test_a_value_without_a_scheme_is_an_http_proxy() -> None:
    """As many environments have it."""
    assert chosen(WS, http_proxy="proxy.test:3128") == "http://proxy.test:3128"


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_mistake_in_the_environment_is_named(variable: str) -> None:
    """With the variable and without its value."""
    with pytest.raises(ConfigurationError) as caught:
        chosen(WS, **{variable: f"ftp://me:{PASSWORD}@proxy.test"})
    assert caught.value.message.startswith(f"in the environment, {variable.lower()}: the proxy's")
    assert PASSWORD not in repr(caught.value)


def test_what_is_loaded_for_the_environment_may_be_out_of_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without descriptors it cannot be loaded: an error like others, which says so."""
    monkeypatch.setenv("all_proxy", "http://proxy.test:1")
    monkeypatch.setitem(sys.modules, "urllib.request", None)
    with pytest.raises(ResourceExhaustedError, match="environment's proxies cannot be read"):
        chosen_proxy(WS, "auto")


def test_none_is_none_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to turn the environment off."""
    monkeypatch.setenv("all_proxy", "http://proxy.test:1")
    assert chosen_proxy(WS, None) is None
