from __future__ import annotations

import time

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import (
    AuthenticationFailedError,
    HandshakeRejectedError,
    InvalidCredentialsError,
    ProtocolVersionError,
    RateLimitedError,
    ServerUnavailableError,
    TokenExpiredError,
    TunnelError,
)
from tunnel.handshake_errors import MAX_RETRY_AFTER, error_for_status, parse_retry_after

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110


@pytest.mark.requirement("6.8")
@pytest.mark.parametrize(
    ("status", "cls", "is_retryable"),
    [
        (200, HandshakeRejectedError, False),
        (301, HandshakeRejectedError, False),
        (400, HandshakeRejectedError, False),
        (401, AuthenticationFailedError, False),
        (403, AuthenticationFailedError, False),
        (404, HandshakeRejectedError, False),
        (407, AuthenticationFailedError, False),
        (408, ServerUnavailableError, True),
        (410, HandshakeRejectedError, False),
        (425, ServerUnavailableError, True),
        (426, HandshakeRejectedError, False),
        (429, RateLimitedError, True),
        (499, HandshakeRejectedError, False),
        (500, ServerUnavailableError, True),
        (502, ServerUnavailableError, True),
        (503, ServerUnavailableError, True),
        (599, ServerUnavailableError, True),
        (600, HandshakeRejectedError, False),
    ],
)
def test_what_a_status_means(status: int, cls: type[TunnelError], is_retryable: bool) -> None:
    """Each status but 101 has its error, which names it and says whether to try again."""
    error = error_for_status(status)
    assert type(error) is cls
    assert error.is_retryable is is_retryable
    assert error.context["status"] == status
    assert str(status) in error.message


def test_a_known_status_is_named() -> None:
    """The message has the name of a status that has one, and the number alone of others."""
    beginning = "the server answered the WebSocket upgrade with HTTP "
    assert error_for_status(404).message == beginning + "404 (Not Found)"
    assert error_for_status(799).message == beginning + "799"


@pytest.mark.requirement("2.9")
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("challenge", "cls"),
    [
        # The example of RFC 6750, section 3.
        (
            'Bearer realm="example", error="invalid_token", '
            'error_description="The access token expired"',
            TokenExpiredError,
        ),
        ('Bearer error="invalid_token", error_description="EXPIRED at noon"', TokenExpiredError),
        ('Bearer error_description="it \\"expired\\"",error=invalid_token', TokenExpiredError),
        ("Bearer error=token_expired", TokenExpiredError),
        ('Bearer error="invalid_token"', InvalidCredentialsError),
        ('bearer ERROR = "INVALID_TOKEN"', InvalidCredentialsError),
        (
            'Bearer error="invalid_token", error_description="revoked"',
            InvalidCredentialsError,
        ),
        ('Bearer error="insufficient_scope"', AuthenticationFailedError),
        ('Bearer realm="expired"', AuthenticationFailedError),
        ('Bearer error_description="The access token expired"', AuthenticationFailedError),
        ('Bearer x-error="token_expired"', AuthenticationFailedError),
        ('Basic realm="x"', AuthenticationFailedError),
        ("", AuthenticationFailedError),
        ("," * 100_000 + "error=token_expired", AuthenticationFailedError),
    ],
)
def test_expired_is_not_wrong(status: int, challenge: str, cls: type[TunnelError]) -> None:
    """An expired token, wrong credentials and a bare refusal are told apart by the challenge."""
    error = error_for_status(status, {"WWW-Authenticate": challenge})
    assert type(error) is cls
    assert not error.is_retryable


def test_a_proxy_that_asks_for_credentials_is_named() -> None:
    """The error for 407 speaks of the proxy, not of the server."""
    error = error_for_status(407)
    assert "proxy" in error.message
    assert "proxy" in error.user_message
    assert "proxy" in str(error.suggestion)


@pytest.mark.parametrize("status", [400, 426])
@pytest.mark.parametrize(
    ("versions", "cls", "text"),
    [
        ("8, 7", ProtocolVersionError, "version 8, 7, not 13"),
        ("?", ProtocolVersionError, "version unknown, not 13"),
        ("13", HandshakeRejectedError, ""),
        ("8, 13", HandshakeRejectedError, ""),
    ],
)
def test_another_version(status: int, versions: str, cls: type[TunnelError], text: str) -> None:
    """A server that speaks only other versions than 13 is a version mismatch (RFC 6455, 4.4)."""
    error = error_for_status(status, {"sec-websocket-version": versions})
    assert type(error) is cls
    assert text in error.message


def test_a_redirect_is_named_and_not_followed() -> None:
    """The message names the target of a redirect, without what in it may be secret."""
    target = "https://user:hunter2@elsewhere.example/path?token=abc123"
    error = error_for_status(302, {"Location": target})
    assert type(error) is HandshakeRejectedError
    assert "https://***@elsewhere.example/path?token=***" in error.message
    assert "not followed" in error.message
    assert "hunter2" not in str(error.to_dict())
    assert "abc123" not in str(error.to_dict())
    assert error.context["location"] == "https://***@elsewhere.example/path?token=***"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_server_may_ask_to_wait(status: int) -> None:
    """An error that is retryable knows how long the server asked to wait."""
    error = error_for_status(status, {"Retry-After": "120"})
    assert error.retry_after == 120.0
    assert error.message.endswith("and asks to wait 120 s")
    assert error_for_status(status, {"Retry-After": "soon"}).retry_after is None


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:48:37 GMT", 120.0),
        ("Sun, 06 Nov 1994 09:49:37 GMT", 0.0),
        ("some day", 60.0),
        ("", 60.0),
    ],
)
def test_a_date_is_meant_by_the_servers_clock(date: str, seconds: float) -> None:
    """An answer that is dated says itself how long its `Retry-After` is; our clock may be wrong."""
    headers = {"Retry-After": "Sun, 06 Nov 1994 08:50:37 GMT", "Date": date}
    assert error_for_status(503, headers, now=NOW).retry_after == seconds


def test_waiting_is_no_use_where_retrying_is_none() -> None:
    """A refusal for good has no `retry_after`, whatever the server writes."""
    assert error_for_status(404, {"Retry-After": "120"}).retry_after is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120\t", 120.0),
        ("86400", 86400.0),
        ("86401", MAX_RETRY_AFTER),
        ("9999999999", MAX_RETRY_AFTER),
        ("9" * 10_000, MAX_RETRY_AFTER),
        # The three forms of a date (RFC 9110, section 5.6.7), a minute from now.
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sun Nov  6 08:50:37 1994", 60.0),
        ("Sun, 06 Nov 1994 10:50:37 +0200", 60.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("Sat, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER),
        (None, None),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e300", None),
        ("inf", None),
        ("nan", None),
        ("\u0663", None),
        ("soon", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 99:49:37 GMT", None),
        ("Sun, 06 Nov 99999999999999999999 08:49:37 GMT", None),
        ("x" * 100_000, None),
    ],
)
def test_how_long_to_wait(value: str | None, seconds: float | None) -> None:
    """`Retry-After` is a number of seconds or a date, bounded; anything else means nothing."""
    assert parse_retry_after(value, now=NOW) == seconds


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system cannot change its time zone")
def test_a_date_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The asctime form of a date is in UTC (RFC 9110), wherever this machine stands."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        assert parse_retry_after("Sun Nov  6 08:50:37 1994", now=NOW) == 60.0
    time.tzset()


@freeze_time("1994-11-06 08:49:37")
def test_the_systems_clock_is_the_default() -> None:
    """Without being told the time, a date is compared with the system's."""
    assert parse_retry_after("Sun, 06 Nov 1994 08:50:37 GMT") == 60.0
    late = error_for_status(503, {"retry-after": "Sun, 06 Nov 1994 08:50:37 GMT"})
    assert late.retry_after == 60.0


@given(
    st.text(max_size=80) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ \S*", fullmatch=True)
)
def test_any_header_gives_an_answer(value: str) -> None:
    """No header makes the function raise or return what is out of bounds."""
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or 0.0 <= seconds <= MAX_RETRY_AFTER


@given(
    st.integers(min_value=0, max_value=999),
    st.dictionaries(
        st.sampled_from(["WWW-Authenticate", "Retry-After", "Location", "Sec-WebSocket-Version"]),
        st.text(),
    ),
)
def test_any_answer_gives_an_error(status: int, headers: dict[str, str]) -> None:
    """No answer of a server makes the function raise."""
    assert isinstance(error_for_status(status, headers, now=NOW), TunnelError)
