"""What a proxy's refusal means.

What it is about decides the class. Our credentials for the proxy: `AuthenticationFailedError`. What
the proxy found out about the server: the error that a direct connection would have had. Everything
else: `ProxyError`.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunnel.errors import (
    AuthenticationFailedError,
    ConnectRefusedError,
    NetworkError,
    NetworkUnreachableError,
    ProxyError,
    TlsError,
    TunnelError,
)
from tunnel.handshake_errors import error_for_status

# RFC 1928, section 6: what the reply says, the error, and whether trying again may help.
_SOCKS5_REPLIES: dict[int, tuple[str, type[TunnelError], bool]] = {
    1: ("general failure", ProxyError, True),
    2: ("not allowed by its rules", ProxyError, False),
    3: ("network unreachable", NetworkUnreachableError, True),
    4: ("host unreachable", NetworkUnreachableError, True),
    5: ("connection refused", ConnectRefusedError, True),
    6: ("time to live expired", NetworkUnreachableError, True),
    7: ("command not supported", ProxyError, False),
    8: ("address type not supported", ProxyError, False),
}

_SOCKS4_REPLIES: dict[int, tuple[str, type[TunnelError], bool]] = {
    91: ("rejected or failed", ProxyError, True),
    92: ("it cannot reach identd on this machine", AuthenticationFailedError, False),
    93: ("identd reports another user", AuthenticationFailedError, False),
}


def error_for_connect_status(
    status: int, text: str, headers: Mapping[str, str] | None = None
) -> TunnelError:
    """The error that an HTTP answer to CONNECT stands for.

    Args:
        status: Any but 2xx.
        text: Says what happened.
        headers: Of the answer, for its `Retry-After`.
    """
    # What the server would mean by this status is what the proxy means by it.
    meaning = error_for_status(status, headers)
    if isinstance(meaning, AuthenticationFailedError):
        return credentials_refused(text, status=status)
    return ProxyError(
        text,
        is_retryable=meaning.is_retryable,
        retry_after=meaning.retry_after,
        context={"status": status},
    )


def error_for_socks_reply(version: int, reply: int) -> TunnelError:
    """The error that a SOCKS proxy's reply stands for.

    Args:
        version: 4 or 5.
        reply: Its code, any but that of success.
    """
    replies = _SOCKS5_REPLIES if version == 5 else _SOCKS4_REPLIES
    words, error, is_retryable = replies.get(reply, ("a reply that is not known", ProxyError, True))
    text = f"the SOCKS{version} proxy did not connect: {words} (reply {reply})"
    if error is AuthenticationFailedError:
        return credentials_refused(text)
    return error(text, is_retryable=is_retryable, context={"reply": reply})


def error_with_proxy(proxy: str, error: OSError) -> TunnelError:
    """The error for a connection to the proxy itself that failed.

    Args:
        proxy: Its address.
        error: What happened.
    """
    reason = TunnelError.from_exception(error)
    text = f"the connection to the proxy {proxy} failed: {reason.message}"
    if isinstance(reason, TlsError):
        return type(reason)(text, is_retryable=reason.is_retryable, context=reason.context)
    if isinstance(reason, NetworkError):
        return ProxyError(text, context=reason.context)
    return reason


def credentials_refused(text: str, *, status: int | None = None) -> AuthenticationFailedError:
    """The error that says that the proxy wants credentials, or others.

    Of HTTP, 403 is also what a proxy answers that does not allow the server, whoever asks.
    """
    suggestion = "Check the user name and password for the proxy."
    if status == 403:
        suggestion += " They may be right, and the proxy may not allow this host and port."
    return AuthenticationFailedError(
        text,
        status=status,
        user_message="The proxy did not let you through.",
        suggestion=suggestion,
    )


def invalid_answer(problem: str) -> ProxyError:
    """The error for an answer that no such proxy gives: whoever listens there is something else."""
    return ProxyError(f"the proxy's answer is not valid: {problem}", is_retryable=False)
