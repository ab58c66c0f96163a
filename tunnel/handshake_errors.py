"""What an HTTP answer other than 101 to the upgrade means (RFC 6455, section 4.1; requirement 6.8).

The texts made here never quote the answer's headers or body: cookies and tokens are found there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus

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
from tunnel.secrets import scrub

MAX_RETRY_AFTER = 86_400.0
"""Seconds. A server that asks for more than a day is obeyed for a day."""

_CHALLENGE_PARAMETER = re.compile(
    r"""(?<![\w-])(error|error_description)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))""",
    re.IGNORECASE,
)
_LONGEST_CHALLENGE = 4096


def error_for_status(
    status: int, headers: Mapping[str, str] | None = None, *, now: float | None = None
) -> TunnelError:
    """The error that an HTTP status stands for.

    Retryable are 408, 425 and 5xx (`ServerUnavailableError`) and 429 (`RateLimitedError`), no
    earlier than `Retry-After` asks. 401, 403 and 407 are about credentials; 400 and 426 that do not
    offer version 13 are a `ProtocolVersionError`. All others, redirects too, which are not
    followed, are a `HandshakeRejectedError`.

    A `Retry-After` that is a date is compared with the answer's own `Date`, if it has one: one of
    the two clocks may be wrong, and the server's own one is the one it meant.

    Args:
        status: The HTTP status.
        headers: The answer's headers; their names may be in any case.
        now: The present Unix time in seconds, for an answer without a date. Default: the system's.
    """
    fields = {name.lower(): value for name, value in (headers or {}).items()}
    text = f"the server answered the WebSocket upgrade with HTTP {_described(status)}"
    if status in (401, 403, 407):
        return _authentication_error(status, text, fields)
    if status in (408, 425, 429) or 500 <= status <= 599:
        said_at = _moment(fields.get("date"))
        now = now if said_at is None else said_at
        delay = parse_retry_after(fields.get("retry-after"), now=now)
        if delay is not None:
            text += f" and asks to wait {delay:.0f} s"
        unavailable = RateLimitedError if status == 429 else ServerUnavailableError
        return unavailable(text, status=status, retry_after=delay)
    if status in (400, 426) and "sec-websocket-version" in fields:
        versions = re.findall(r"\d{1,3}", fields["sec-websocket-version"])
        if "13" not in versions:
            return ProtocolVersionError(
                f"{text}; it speaks WebSocket version {', '.join(versions) or 'unknown'}, not 13",
                status=status,
            )
    if 300 <= status <= 399 and "location" in fields:
        return _redirect_error(status, text, fields["location"])
    return HandshakeRejectedError(text, status=status)


def parse_retry_after(value: str | None, *, now: float | None = None) -> float | None:
    """Seconds to wait by a `Retry-After` header: a number of seconds or a date (RFC 9110, 10.2.3).

    Args:
        value: The header's value, or None without one.
        now: The present Unix time in seconds. Default: the system's.

    Returns:
        From 0 to `MAX_RETRY_AFTER`, or None for a value that means nothing.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]+", text):
        # Digits without end are not converted at all.
        return min(float(text), MAX_RETRY_AFTER) if len(text) <= 10 else MAX_RETRY_AFTER
    moment = _moment(text)
    if moment is None:
        return None
    return min(max(moment - (time.time() if now is None else now), 0.0), MAX_RETRY_AFTER)


def _moment(text: str | None) -> float | None:
    """An HTTP date (RFC 9110, section 5.6.7) as Unix time; None for what is none."""
    try:
        moment = parsedate_to_datetime((text or "")[:64])
        if moment.tzinfo is None:  # the asctime form, which is in UTC
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _described(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def _redirect_error(status: int, text: str, location: str) -> TunnelError:
    target = scrub(location)
    return HandshakeRejectedError(
        f"{text}, a redirect to {target}; redirects are not followed",
        status=status,
        suggestion="If you trust the new address, connect to it directly.",
        context={"location": target},
    )


def _authentication_error(status: int, text: str, fields: Mapping[str, str]) -> TunnelError:
    """Tell an expired token from a wrong one by the challenge (RFC 6750, section 3.1)."""
    if status == 407:
        return AuthenticationFailedError(
            "the proxy asks for credentials (HTTP 407)",
            status=status,
            user_message="The proxy did not let you through.",
            suggestion="Check the user name and password for the proxy.",
        )
    challenge = fields.get("www-authenticate", "")[:_LONGEST_CHALLENGE]
    given = {
        name.lower(): (quoted or plain).lower()
        for name, quoted, plain in _CHALLENGE_PARAMETER.findall(challenge)
    }
    error = given.get("error", "")
    if "expired" in error or (error and "expired" in given.get("error_description", "")):
        return TokenExpiredError(f"{text}: the token has expired", status=status)
    if error == "invalid_token":
        return InvalidCredentialsError(f"{text}: the token is not valid", status=status)
    return AuthenticationFailedError(text, status=status)
