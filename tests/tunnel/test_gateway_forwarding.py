"""Where requests may be forwarded to."""

from __future__ import annotations

import pytest

from tunnel.errors import ConfigurationError
from tunnel.gateway.forwarding import HttpForwarder


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "must begin with http:// or https://"),
        ("127.0.0.1:80", "must begin with http:// or https://"),
        ("ftp://host", "must begin with http:// or https://"),
        ("http://", "must begin with http:// or https://"),
        ("http://host:port", "is not valid"),
        ("http://host:70000", "is not valid"),
        ("http://[::1", "is not valid"),
        ("http://host/?query", "and nothing else"),
        ("http://host/#fragment", "and nothing else"),
        ("http://user:s3cret@host/", "and nothing else"),
        ("http://host/with space", "visible ASCII"),
        ("http://host/\nX: y", "visible ASCII"),
    ],
)
def test_what_is_no_service(url: str, words: str) -> None:
    """The URL has a scheme that we speak, a host, perhaps a port and a path, and no more."""
    with pytest.raises(ConfigurationError, match=words) as info:
        HttpForwarder(url, timeout=1.0, max_request=1)
    assert "s3cret" not in str(info.value)


@pytest.mark.parametrize(
    "url", ["http://host", "https://host:1/", "http://[::1]:80/path/", "http://127.0.0.1:11434"]
)
def test_services(url: str) -> None:
    """Names, addresses, ports and paths."""
    HttpForwarder(url, timeout=1.0, max_request=1).close()
