from __future__ import annotations

import ssl
from concurrent.futures import Future

import pytest

from tunnel.addresses import TunnelUrl
from tunnel.errors import (
    AuthenticationFailedError,
    ConfigurationError,
    NetworkError,
    TokenExpiredError,
)
from tunnel.requests import Close, Connect, Reconnect, Target
from tunnel.secrets import Secret

URL = TunnelUrl.parse("wss://example.com/tunnel")


def test_a_target_makes_a_dial_request() -> None:
    """All that the target knows is in the request, with the time-out of that dial."""
    context = ssl.create_default_context()
    target = Target(URL, "user", None, (("X-Name", "value"),), ("chat",), context)
    request = target.dial_request(3.5)
    assert request.url is URL
    assert request.headers == (("X-Name", "value"),)
    assert request.subprotocols == ("chat",)
    assert request.ssl_context is context
    assert request.timeout == 3.5


def test_a_token_becomes_a_header() -> None:
    """A token is sent as a bearer token (RFC 6750), after the other headers."""
    target = Target(URL, "user", Secret("abc"), (("X-Name", "value"),))
    assert target.dial_request(1.0).headers == (
        ("X-Name", "value"),
        ("Authorization", "Bearer abc"),
    )


def test_a_callable_is_asked_before_every_dial() -> None:
    """Each dial gets the token of that moment."""
    tokens = iter(["one", "two"])
    target = Target(URL, "user", lambda: next(tokens))
    assert target.dial_request(1.0).headers == (("Authorization", "Bearer one"),)
    assert target.dial_request(1.0).headers == (("Authorization", "Bearer two"),)


def test_user_information_in_the_url() -> None:
    """Without a token, what stands in the URL is sent as Basic authentication; else the token."""
    url = TunnelUrl.parse("wss://user:pass@example.com/")
    assert Target(url, "", None).dial_request(1.0).headers == (
        ("Authorization", "Basic dXNlcjpwYXNz"),
    )
    assert Target(url, "", Secret("abc")).dial_request(1.0).headers == (
        ("Authorization", "Bearer abc"),
    )


@pytest.mark.requirement("2.9")
def test_what_a_callable_raises_of_ours_stays() -> None:
    """A `TunnelError` of the callable's is passed on as it is."""
    error = TokenExpiredError("renew it")

    def token() -> str:
        raise error

    with pytest.raises(TokenExpiredError) as caught:
        Target(URL, "", token).dial_request(1.0)
    assert caught.value is error


def test_a_network_error_of_a_callable_is_one() -> None:
    """A callable that could not reach its server has failed in a way that may pass."""

    def token() -> str:
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.raises(NetworkError) as caught:
        Target(URL, "", token).dial_request(1.0)
    assert caught.value.is_retryable
    assert caught.value.context["exception"] == "ConnectionRefusedError"


def test_any_other_error_of_a_callable_is_an_authentication_failure() -> None:
    """The error names the exception's class, and never its text, which may quote the token."""

    def token() -> str:
        raise KeyError("the secret")

    with pytest.raises(AuthenticationFailedError, match="callable raised KeyError") as caught:
        Target(URL, "", token).dial_request(1.0)
    assert "the secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("token", ["", "two\r\nlines"])
def test_a_callable_that_returns_no_token(token: str) -> None:
    """What cannot be sent in a header is refused, without quoting it."""
    with pytest.raises(ConfigurationError) as caught:
        Target(URL, "", lambda: token).dial_request(1.0)
    assert "two" not in str(caught.value)


def test_a_callable_that_returns_something_else() -> None:
    """What is no `str` fails the authentication, and is no crash."""
    with pytest.raises(AuthenticationFailedError, match="TypeError"):
        Target(URL, "", lambda: 42).dial_request(1.0)  # type: ignore[arg-type, return-value]


def test_the_end_of_the_process_is_no_error() -> None:
    """`KeyboardInterrupt` in the callable is not swallowed."""

    def token() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Target(URL, "", token).dial_request(1.0)


def test_no_secret_shows() -> None:
    """Neither token nor headers are in the target's `repr`, nor in that of the request."""
    target = Target(URL, "user", Secret("token-1"), (("X-Key", "key-2"),))
    for text in (repr(target), repr(target.dial_request(1.0))):
        assert "token-1" not in text
        assert "key-2" not in text


def test_requests_are_told_apart() -> None:
    """Two requests that say the same are two: each has its own outcome."""
    target = Target(URL, "", None)
    one, other = Connect(target), Connect(target)
    assert one != other
    assert one.outcome is not other.outcome
    assert isinstance(one.outcome, Future)
    assert Close(True, 1.0) != Close(True, 1.0)
    assert not Close(True, 1.0).done.is_set()
    assert len({Reconnect(), Reconnect()}) == 2
