"""Exceptions of other libraries as errors of the tunnel: the one place where they are translated.

Beside the transport, the only module that knows websocket-client. What is decided here:

* `ssl.SSLCertVerificationError` comes first: it is an `OSError` and a `ValueError` too.
* An error number of the operating system decides before the exception's class does.
* Nothing that quotes the peer's answer goes into a text, and the exception that holds it is not
  kept as the cause: a traceback would show its cookies.
* What nobody foresaw is retryable, since the ways in which connecting may fail are many (a token
  service that is down); except the exceptions that only a mistake in the program raises: trying
  again would raise them again.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl

import websocket

from tunnel.errors import (
    CertificateError,
    ConfigurationError,
    ConnectionLostError,
    ConnectRefusedError,
    ConnectTimeoutError,
    DnsResolutionError,
    HandshakeRejectedError,
    HeartbeatTimeoutError,
    NetworkError,
    NetworkUnreachableError,
    ProtocolError,
    ProxyError,
    ResourceExhaustedError,
    TlsError,
    TunnelError,
)
from tunnel.handshake_errors import error_for_status
from tunnel.proxy_errors import error_for_connect_status
from tunnel.secrets import scrub

_BUGS = (
    AssertionError,
    AttributeError,
    ImportError,
    NameError,
    NotImplementedError,
    SyntaxError,
    TypeError,
)

_ERRNO_NAMES: dict[type[TunnelError], str] = {
    ConnectRefusedError: "ECONNREFUSED",
    NetworkUnreachableError: (
        "ENETUNREACH EHOSTUNREACH ENETDOWN EHOSTDOWN EADDRNOTAVAIL ENONET EAFNOSUPPORT"
    ),
    ConnectTimeoutError: "ETIMEDOUT",
    ConnectionLostError: "ECONNRESET ECONNABORTED EPIPE ESHUTDOWN ENOTCONN ENETRESET",
    ResourceExhaustedError: "EMFILE ENFILE ENOMEM ENOBUFS",
}
# Windows has some of these a second time, with numbers of their own, as WSA...
_BY_ERRNO = {
    getattr(errno, prefix + name): error
    for error, names in _ERRNO_NAMES.items()
    for name in names.split()
    for prefix in ("", "WSA")
    if hasattr(errno, prefix + name)
}

_BY_OS_CLASS: tuple[tuple[type[OSError], type[TunnelError]], ...] = (
    (ConnectionRefusedError, ConnectRefusedError),
    (ConnectionError, ConnectionLostError),
    (TimeoutError, ConnectTimeoutError),
)

# The two ends cannot agree, or the other one does not speak TLS: that does not pass.
_FINAL_TLS_REASONS = re.compile(
    r"WRONG_VERSION_NUMBER|HTTP_REQUEST|HTTPS_PROXY_REQUEST|UNSUPPORTED_PROTOCOL"
    r"|NO_PROTOCOLS_AVAILABLE|NO_SHARED_CIPHER|NO_CIPHERS_AVAILABLE|UNRECOGNIZED_NAME"
    r"|ALERT_(HANDSHAKE_FAILURE|PROTOCOL_VERSION|INSUFFICIENT_SECURITY|UNKNOWN_CA|ACCESS_DENIED"
    r"|.*CERTIFICATE.*)"
)

# Mistakes in arguments that the libraries report as a plain ValueError or OverflowError.
_ARGUMENT_MISTAKES = re.compile(
    r"^(url|hostname|scheme .*) is invalid$|\bidna\b|server_hostname|check_hostname|port must be"
)

# What `Thread.start` says; the second from Python 3.12 on, when the main thread has ended.
_NO_THREAD = ("can't start new thread", "can't create new thread at interpreter shutdown")

# Texts of a plain WebSocketException, by how they begin.
_WEBSOCKET_TEXTS: tuple[tuple[str, type[TunnelError]], ...] = (
    ("SSL ", ConfigurationError),
    ("Ensure ping", ConfigurationError),
    ("Python Socks", ConfigurationError),
    ("Host not found", DnsResolutionError),
    ("Redirect", HandshakeRejectedError),
    ("Invalid redirect", HandshakeRejectedError),
)


def classify(exc: BaseException, *, now: float | None = None) -> TunnelError:
    """See `TunnelError.from_exception`, which is the way in."""
    if isinstance(exc, TunnelError):
        return exc
    if not isinstance(exc, BaseException):
        raise TypeError(f"expected an exception, not {type(exc).__name__}")
    if not isinstance(exc, Exception):
        raise exc
    error = _translated(exc, now)
    error.context.setdefault("exception", type(exc).__name__)
    # Setting the cause, even to None, also hides the exception that was being handled.
    error.__cause__ = None if _quotes_the_peer(exc) else exc
    return error


def _translated(exc: Exception, now: float | None) -> TunnelError:
    if isinstance(exc, ssl.SSLError):
        return _from_ssl(exc)
    if isinstance(exc, OSError):
        return _from_os(exc)
    if isinstance(exc, websocket.WebSocketBadStatusException):
        return _from_bad_status(exc, now)
    if isinstance(exc, websocket.WebSocketException):
        return _from_websocket(exc)
    words = _words(exc)
    if isinstance(exc, MemoryError) or words in _NO_THREAD:
        return ResourceExhaustedError(_text(exc))
    if isinstance(exc, (ValueError, OverflowError)) and _ARGUMENT_MISTAKES.search(words):
        return ConfigurationError(_text(exc))
    return TunnelError(_text(exc), is_retryable=not isinstance(exc, _BUGS))


def _from_ssl(exc: ssl.SSLError) -> TunnelError:
    text = _text(exc)
    if isinstance(exc, ssl.SSLCertVerificationError):
        return CertificateError(text)
    if isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return ConnectionLostError(text)
    if "timed out" in text:
        return ConnectTimeoutError(text)
    # Attributes of what OpenSSL raises; Python's own instances lack them.
    library, reason = getattr(exc, "library", None), getattr(exc, "reason", None) or ""
    if library in ("PEM", "X509", "ASN1"):  # reading certificates and keys of our own
        return ConfigurationError(text)
    is_final = _FINAL_TLS_REASONS.search(reason) is not None
    return TlsError(text, is_retryable=not is_final, context={"reason": reason})


def _from_os(exc: OSError) -> TunnelError:
    text = _text(exc)
    # The numbers of look-ups are of another kind, and some are the same as the system's.
    if isinstance(exc, (socket.gaierror, socket.herror)):
        return DnsResolutionError(text)
    number = exc.errno or 0
    context = {"errno": errno.errorcode[number]} if number in errno.errorcode else {}
    if context and exc.filename is None and exc.strerror:
        text = scrub(exc.strerror[:1].lower() + exc.strerror[1:])  # the number is in the context
    if number in _BY_ERRNO:
        return _BY_ERRNO[number](text, context=context)
    for os_class, error in _BY_OS_CLASS:
        if isinstance(exc, os_class):
            return error(text, context=context)
    # With the name of a file it is not about the network.
    return (NetworkError if exc.filename is None else TunnelError)(text, context=context)


def _from_bad_status(exc: websocket.WebSocketBadStatusException, now: float | None) -> TunnelError:
    status: int | None = exc.status_code  # None after an answer that begins with an empty line
    if status is None:
        return ProtocolError("the server's answer has no HTTP status", close_code=None)
    return error_for_status(status, exc.resp_headers, now=now)


def _from_websocket(exc: websocket.WebSocketException) -> TunnelError:
    text = _text(exc)
    if isinstance(exc, websocket.WebSocketConnectionClosedException):
        return ConnectionLostError(text)
    if isinstance(exc, websocket.WebSocketTimeoutException):
        lost = HeartbeatTimeoutError if "ping/pong" in text else ConnectTimeoutError
        return lost(text)
    if isinstance(exc, websocket.WebSocketPayloadException):
        return ProtocolError(text, close_code=1007)
    if isinstance(exc, websocket.WebSocketProtocolException):
        return ProtocolError(text)
    if isinstance(exc, websocket.WebSocketAddressException):
        return DnsResolutionError(text)
    if isinstance(exc, websocket.WebSocketProxyException):
        return _from_proxy(text)
    for beginning, error in _WEBSOCKET_TEXTS:
        if _words(exc).startswith(beginning):
            return error(text)
    # Everything else is an answer to the upgrade that is not valid; there is nothing to close yet.
    return ProtocolError(text, close_code=None)


def _from_proxy(text: str) -> TunnelError:
    found = re.search(r"via proxy status: ([0-9]{3})$", text)
    if found is None:
        return ProxyError(text)
    return error_for_connect_status(int(found[1]), text)


def _quotes_the_peer(exc: Exception) -> bool:
    """Whether a traceback with this exception would show what the peer sent.

    websocket-client puts what it received into quotes, and headers behind a dash of its own.
    """
    return isinstance(exc, websocket.WebSocketException) and _unquoted(_words(exc)) != _words(exc)


def _unquoted(text: str) -> str:
    return re.split(r"\s*:?\s*(?:b?['\"]|-\+-)", text, maxsplit=1)[0]


def _words(exc: Exception) -> str:
    try:
        return str(exc)
    except Exception:  # somebody's own __str__ is broken, which is not what is being reported here
        return ""


def _text(exc: Exception) -> str:
    """The exception's own words, as far as they can be repeated; else its class."""
    text = _words(exc)
    if isinstance(exc, websocket.WebSocketException):
        text = _unquoted(text)
    text = scrub(text)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
