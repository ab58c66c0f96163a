from __future__ import annotations

import errno
import socket
import ssl
import threading
import traceback

import pytest
import trustme
import websocket

from tunnel.classify import classify
from tunnel.errors import (
    AuthenticationFailedError,
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
    QueueFullError,
    RateLimitedError,
    ResourceExhaustedError,
    TlsError,
    TokenExpiredError,
    TunnelError,
)

MARK = "hunter2"
"""Stands for a secret, and must not be found in anything."""


def ssl_error(reason: str | None, library: str | None = "SSL") -> ssl.SSLError:
    error = ssl.SSLError(1, f"[{library}: {reason}] text (_ssl.c:1006)")
    error.reason = reason  # type: ignore[assignment]  # None when OpenSSL gives none
    error.library = library  # type: ignore[assignment]
    return error


def bad_status(status: int | None, headers: dict[str, str] | None = None) -> Exception:
    return websocket.WebSocketBadStatusException(
        f"Handshake status {status} -+-+- {headers} {MARK} -+-+- {MARK}", status, "", headers
    )


class BrokenText(Exception):
    def __str__(self) -> str:
        raise ValueError


def unreadable() -> OSError:
    return PermissionError(errno.EACCES, "Permission denied", "/etc/shadow")


@pytest.mark.requirement("2.1")
@pytest.mark.parametrize(
    ("exc", "cls", "is_retryable"),
    [
        # Numbers of the operating system.
        (OSError(errno.ECONNREFUSED, "Connection refused"), ConnectRefusedError, True),
        (OSError(errno.ENETUNREACH, "x"), NetworkUnreachableError, True),
        (OSError(errno.EHOSTUNREACH, "x"), NetworkUnreachableError, True),
        (OSError(errno.ENETDOWN, "x"), NetworkUnreachableError, True),
        (OSError(errno.EADDRNOTAVAIL, "x"), NetworkUnreachableError, True),
        (OSError(errno.ETIMEDOUT, "x"), ConnectTimeoutError, True),
        (OSError(errno.ECONNRESET, "x"), ConnectionLostError, True),
        (OSError(errno.EPIPE, "x"), ConnectionLostError, True),
        (OSError(errno.ENOTCONN, "x"), ConnectionLostError, True),
        (OSError(errno.EMFILE, "x"), ResourceExhaustedError, True),
        (OSError(errno.ENFILE, "x", "/some/file"), ResourceExhaustedError, True),
        (OSError(errno.ENOBUFS, "x"), ResourceExhaustedError, True),
        (OSError(errno.EPERM, "x"), NetworkError, True),
        (OSError(123456, "x"), NetworkError, True),
        # Classes of Python's, without a number.
        (ConnectionRefusedError("x"), ConnectRefusedError, True),
        (ConnectionResetError(), ConnectionLostError, True),
        (BrokenPipeError(), ConnectionLostError, True),
        (ConnectionAbortedError(), ConnectionLostError, True),
        (ConnectionError("x"), ConnectionLostError, True),
        (TimeoutError("timed out"), ConnectTimeoutError, True),
        (BlockingIOError(), NetworkError, True),
        (OSError("x"), NetworkError, True),
        (unreadable(), TunnelError, True),
        # Names.
        (socket.gaierror(socket.EAI_NONAME, "x"), DnsResolutionError, True),
        (socket.gaierror(socket.EAI_AGAIN, "x"), DnsResolutionError, True),
        (socket.gaierror("x"), DnsResolutionError, True),
        (socket.herror(1, "Unknown host"), DnsResolutionError, True),
        # TLS.
        (ssl.SSLCertVerificationError(1, "x"), CertificateError, False),
        (ssl.SSLEOFError(8, "x"), ConnectionLostError, True),
        (ssl.SSLZeroReturnError(6, "x"), ConnectionLostError, True),
        (ssl.SSLSyscallError(5, "x"), ConnectionLostError, True),
        (ssl.SSLError("The handshake operation timed out"), ConnectTimeoutError, True),
        (ssl_error("WRONG_VERSION_NUMBER"), TlsError, False),
        (ssl_error("UNSUPPORTED_PROTOCOL"), TlsError, False),
        (ssl_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), TlsError, False),
        (ssl_error("TLSV1_ALERT_PROTOCOL_VERSION"), TlsError, False),
        (ssl_error("TLSV1_ALERT_UNKNOWN_CA"), TlsError, False),
        (ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), TlsError, False),
        (ssl_error("SSLV3_ALERT_CERTIFICATE_EXPIRED"), TlsError, False),
        (ssl_error("DECRYPTION_FAILED_OR_BAD_RECORD_MAC"), TlsError, True),
        (ssl_error("BAD_LENGTH"), TlsError, True),
        (ssl_error("TLSV1_ALERT_INTERNAL_ERROR"), TlsError, True),
        (ssl_error(None, None), TlsError, True),
        (ssl_error("KEY_VALUES_MISMATCH", "X509"), ConfigurationError, False),
        (ssl_error("NO_START_LINE", "PEM"), ConfigurationError, False),
        (ssl.SSLWantReadError(2, "x"), TlsError, True),
        # websocket-client.
        (
            websocket.WebSocketConnectionClosedException("socket is already closed."),
            ConnectionLostError,
            True,
        ),
        (websocket.WebSocketTimeoutException("Connection timed out"), ConnectTimeoutError, True),
        (websocket.WebSocketTimeoutException("ping/pong timed out"), HeartbeatTimeoutError, True),
        (websocket.WebSocketPayloadException("cannot decode: b'x'"), ProtocolError, False),
        (websocket.WebSocketProtocolException("Invalid opcode 3"), ProtocolError, False),
        (
            websocket.WebSocketAddressException(socket.gaierror(-2, "unknown")),
            DnsResolutionError,
            True,
        ),
        (websocket.WebSocketAddressException(), DnsResolutionError, True),
        (websocket.WebSocketProxyException("Connection refused"), ProxyError, True),
        (
            websocket.WebSocketProxyException("failed CONNECT via proxy status: 407"),
            AuthenticationFailedError,
            False,
        ),
        (
            websocket.WebSocketProxyException("failed CONNECT via proxy status: 403"),
            AuthenticationFailedError,
            False,
        ),
        (
            websocket.WebSocketProxyException("failed CONNECT via proxy status: 404"),
            ProxyError,
            False,
        ),
        (
            websocket.WebSocketProxyException("failed CONNECT via proxy status: 502"),
            ProxyError,
            True,
        ),
        (
            websocket.WebSocketProxyException("failed CONNECT via proxy status: None"),
            ProxyError,
            True,
        ),
        (websocket.WebSocketException("Invalid WebSocket Header"), ProtocolError, False),
        (websocket.WebSocketException("Invalid header"), ProtocolError, False),
        (websocket.WebSocketException("Invalid status line: 'x'"), ProtocolError, False),
        (websocket.WebSocketException("Redirect limit exhausted"), HandshakeRejectedError, False),
        (
            websocket.WebSocketException("Invalid redirect target 'x': y"),
            HandshakeRejectedError,
            False,
        ),
        (
            websocket.WebSocketException("Redirect response without Location header, status 301"),
            HandshakeRejectedError,
            False,
        ),
        (websocket.WebSocketException("Host not found.: x:80"), DnsResolutionError, True),
        (
            websocket.WebSocketException("SSL CA certificate loading failed: x"),
            ConfigurationError,
            False,
        ),
        (websocket.WebSocketException("Ensure ping_timeout > 0"), ConfigurationError, False),
        (bad_status(401), AuthenticationFailedError, False),
        (bad_status(404), HandshakeRejectedError, False),
        (bad_status(None), ProtocolError, False),
        # Arguments.
        (ValueError("url is invalid"), ConfigurationError, False),
        (ValueError("hostname is invalid"), ConfigurationError, False),
        (ValueError("scheme http is invalid"), ConfigurationError, False),
        (ValueError("check_hostname requires server_hostname"), ConfigurationError, False),
        (UnicodeError("encoding with 'idna' codec failed"), ConfigurationError, False),
        (
            OverflowError("connect(): port must be 0-65535."),
            ConfigurationError,
            False,
        ),
        # The rest.
        (MemoryError(), ResourceExhaustedError, True),
        (RuntimeError("can't start new thread"), ResourceExhaustedError, True),
        (
            RuntimeError("can't create new thread at interpreter shutdown"),
            ResourceExhaustedError,
            True,
        ),
        (ValueError("not JSON"), TunnelError, True),
        (RuntimeError("boom"), TunnelError, True),
        (KeyError("token"), TunnelError, True),
        (BrokenText(), TunnelError, True),
        (TypeError("x"), TunnelError, False),
        (AttributeError("x"), TunnelError, False),
        (NameError("x"), TunnelError, False),
        (AssertionError(), TunnelError, False),
        (ImportError("x"), TunnelError, False),
        (NotImplementedError(), TunnelError, False),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, Exception) else None,
)
def test_every_exception_has_its_error(
    exc: Exception, cls: type[TunnelError], is_retryable: bool
) -> None:
    """What the libraries raise is of one class of the tree, and retryable or not."""
    error = classify(exc)
    assert type(error) is cls
    assert error.is_retryable is is_retryable
    assert error.context["exception"] == type(exc).__name__
    assert error.message


def test_an_error_of_the_tunnel_is_returned_as_it_is() -> None:
    """What is translated already is not touched."""
    error = QueueFullError()
    assert classify(error) is error
    assert error.__cause__ is None
    assert error.context == {"accepted": 0}


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_what_must_end_the_program_is_raised_again(exc: BaseException) -> None:
    """What is no `Exception` is never swallowed."""
    with pytest.raises(type(exc)) as caught:
        classify(exc)
    assert caught.value is exc


@pytest.mark.parametrize("value", [None, "boom", RuntimeError])
def test_only_exceptions_are_translated(value: object) -> None:
    """Anything that is no exception at all is a mistake of the caller."""
    with pytest.raises(TypeError, match="expected an exception, not "):
        classify(value)  # type: ignore[arg-type]


def test_the_cause_is_kept() -> None:
    """The exception that was caught is the cause, with its text in the message."""
    exc = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    error = classify(exc)
    assert error.__cause__ is exc
    assert error.message == "connection refused"
    assert error.context == {"errno": "ECONNREFUSED", "exception": "ConnectionRefusedError"}


def test_an_exception_without_words_is_named_by_its_class() -> None:
    """The message is never empty."""
    assert classify(RuntimeError()).message == "RuntimeError"
    assert classify(BrokenText()).message == "BrokenText"


@pytest.mark.requirement("2.9")
def test_an_expired_token_is_seen_through_websocket_client() -> None:
    """A rejected upgrade is judged by its status and headers."""
    challenge = 'Bearer error="invalid_token", error_description="The access token expired"'
    error = classify(bad_status(401, {"www-authenticate": challenge}))
    assert type(error) is TokenExpiredError


def test_the_time_is_handed_on() -> None:
    """A date in `Retry-After` is compared with the time that the caller gives."""
    headers = {"retry-after": "Sun, 06 Nov 1994 08:50:37 GMT"}
    error = classify(bad_status(429, headers), now=784111777.0)
    assert type(error) is RateLimitedError
    assert error.retry_after == 60.0


@pytest.mark.parametrize(
    "exc",
    [
        bad_status(401, {"set-cookie": MARK, "www-authenticate": f'Bearer realm="{MARK}"'}),
        bad_status(503, {"set-cookie": MARK}),
        bad_status(302, {"location": f"wss://x:{MARK}@host/?token={MARK}"}),
        bad_status(None, {"set-cookie": MARK}),
        websocket.WebSocketException(f"Invalid status line: b'Set-Cookie: {MARK}'"),
        websocket.WebSocketException(f'Invalid status line: "{MARK}"'),
        websocket.WebSocketException(f"Invalid redirect target 'wss://{MARK}': x"),
        websocket.WebSocketPayloadException(f"cannot decode: b'{MARK}'"),
    ],
    ids=str,
)
def test_nothing_that_the_peer_sent_is_shown(exc: Exception) -> None:
    """Neither the error nor its traceback has the headers, the body or the payload."""
    error = classify(exc)
    assert error.__cause__ is None
    assert MARK not in f"{error} {error!r} {error.to_dict()}"

    def fail() -> None:
        try:
            raise exc
        except Exception as caught:
            found = classify(caught)
            raise found from found.__cause__

    with pytest.raises(TunnelError) as raised:
        fail()
    lines = traceback.format_exception(raised.type, raised.value, raised.tb)
    assert MARK not in "".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        f"Invalid header value: Authorization: Bearer {MARK}",
        f"cannot reach wss://me:{MARK}@host/path",
        f"GET /?access_token={MARK} failed",
    ],
)
def test_credentials_in_foreign_texts_are_hidden(text: str) -> None:
    """What looks like a credential is removed from the text of any exception."""
    assert MARK not in str(classify(RuntimeError(text)).to_dict())


def test_the_numbers_of_windows() -> None:
    """Where the system has a second set of numbers, they mean the same."""
    wsa = getattr(errno, "WSAECONNREFUSED", errno.ECONNREFUSED)
    assert type(classify(OSError(wsa, "x"))) is ConnectRefusedError


class TestRealFailures:
    """What the libraries raise in truth, on loopback."""

    def test_nobody_listens(self) -> None:
        """A port without a listener is a refused connection."""
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            with pytest.raises(OSError) as caught:
                websocket.create_connection(f"ws://127.0.0.1:{reserved.getsockname()[1]}/")
        assert type(classify(caught.value)) is ConnectRefusedError

    def test_a_name_that_is_not_found(self) -> None:
        """A name that the system's resolver does not know is a failed look-up."""
        with pytest.raises(socket.gaierror) as caught:
            socket.getaddrinfo("nowhere.invalid", 80, flags=socket.AI_NUMERICHOST)  # asks nobody
        assert type(classify(caught.value)) is DnsResolutionError

    @pytest.mark.parametrize(
        ("answer", "cls"),
        [
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", HandshakeRejectedError),
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", ProtocolError),
            (b"\r\n\r\n", ProtocolError),
            (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", ProtocolError),
            (b"HTTP/1.1 301 Moved\r\nLocation: ws://elsewhere/\r\n\r\n", HandshakeRejectedError),
            (b"", ConnectionLostError),
        ],
    )
    def test_answers_to_the_upgrade(self, answer: bytes, cls: type[TunnelError]) -> None:
        """Answers other than a proper 101 are rejected handshakes, violations or losses."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(answer)
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(Exception) as caught:
                websocket.create_connection("ws://host/", socket=ours, redirect_limit=0)
        assert type(classify(caught.value)) is cls

    @pytest.mark.parametrize(
        ("trusted", "host", "cls"),
        [(False, "localhost", CertificateError), (True, "elsewhere", CertificateError)],
    )
    def test_certificates(self, trusted: bool, host: str, cls: type[TunnelError]) -> None:
        """A certificate from nobody we trust, or for another host, is not tried again."""
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(server)
        client = ssl.create_default_context()
        if trusted:
            authority.configure_trust(client)
        error = self._tls_failure(server, client, host)
        assert type(classify(error)) is cls

    def test_no_common_version(self) -> None:
        """Two ends that have no version of TLS in common will not have one later either."""
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("localhost").configure_cert(server)
        server.minimum_version = ssl.TLSVersion.TLSv1_3
        client = ssl.create_default_context()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        error = classify(self._tls_failure(server, client, "localhost"))
        assert type(error) is TlsError
        assert not error.is_retryable

    @staticmethod
    def _tls_failure(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> Exception:
        ours, theirs = socket.socketpair()

        def serve() -> None:
            try:
                server.wrap_socket(theirs, server_side=True).close()
            except OSError:
                theirs.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(OSError) as caught:
                client.wrap_socket(ours, server_hostname=host)
        finally:
            ours.close()
            thread.join()
        return caught.value
