"""Every error of a tunnel: one root, branches by what the caller can do.

::

    TunnelError                                999  anything that nobody foresaw
    +-- NetworkError                           019  wait: the tunnel tries again by itself
    |   +-- ConnectRefusedError                001  nobody listens there
    |   +-- ConnectTimeoutError                020  no answer within the dial's deadline
    |   +-- DnsResolutionError                 011  the name was not found
    |   +-- NetworkUnreachableError            012  no way there
    |   +-- ProxyError                         033  the proxy did not open the way
    |   +-- ConnectionLostError                021  a link that was up has ended
    |       +-- HeartbeatTimeoutError          022  ... by silence
    |       +-- ConnectionClosedByPeerError    023  ... by a close frame that allows to come back
    +-- ServerUnavailableError                 004  wait as long as the server asks: 5xx, close 1012
    |   +-- RateLimitedError                   005  429
    +-- AuthenticationFailedError              002  get other credentials
    |   +-- TokenExpiredError                  003  they were right once: renew them
    |   +-- InvalidCredentialsError            013  they are wrong
    +-- ProtocolError                          009  talk to whoever runs the other end
    |   +-- HandshakeRejectedError             024  an HTTP status other than 101
    |   |   +-- ProtocolVersionError           016  it speaks another version
    |   +-- ConnectionRejectedError            035  closed with a code that says not to come back
    |   +-- MessageTooBigError                 027  at either end: send less, or allow more
    +-- TlsError                               025  look at the TLS settings of both ends
    |   +-- CertificateError                   026  do not talk to it, or trust its authority
    +-- UsageError                             036  correct the program; the tunnel is untouched
    |   +-- ConfigurationError (ValueError)    010  an argument or a setting
    |   +-- PayloadTypeError (TypeError)       031  data that is neither str nor bytes
    |   +-- InvalidStateError                  028  not in this state
    |       +-- NotConnectedError              029  only while connected
    |       +-- WouldDeadlockError             030  not on the tunnel's own thread
    +-- ResourceExhaustedError                 034  close something: descriptors, threads, memory
    +-- QueueFullError                         006  send more slowly, or wait for room
    +-- QueueStorageError                      037  look at the queue's file and its disk
    |   +-- QueueInUseError                    038  ... which another process has open
    +-- RequestTimeoutError                    007  ask again, if asking twice does no harm
    +-- CircuitOpenError                       039  ask again later: the peer is failing
    +-- SessionLostError                       032  decide about the unacknowledged messages
    +-- MaxReconnectAttemptsExceededError      014  the tunnel has stopped trying: decide

The number is that of the code (`TUNNEL_019`); `tunnel.error_codes` has the table with each code's
category and what people are told. Exceptions of other libraries are translated in one place,
`TunnelError.from_exception`; close frames of the peer in another, `error_for_close`.

Every class takes a message and, by keyword, its own attributes and the options of `TunnelError`. No
secret is ever part of an error, neither of its texts nor of its context.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from tunnel.error_base import ErrorOptions, TunnelError
from tunnel.error_codes import TunnelErrorCategory
from tunnel.secrets import scrub

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "AuthenticationFailedError",
    "CertificateError",
    "CircuitOpenError",
    "ConfigurationError",
    "ConnectRefusedError",
    "ConnectTimeoutError",
    "ConnectionClosedByPeerError",
    "ConnectionLostError",
    "ConnectionRejectedError",
    "DnsResolutionError",
    "HandshakeRejectedError",
    "HeartbeatTimeoutError",
    "InvalidCredentialsError",
    "InvalidStateError",
    "MaxReconnectAttemptsExceededError",
    "MessageTooBigError",
    "NetworkError",
    "NetworkUnreachableError",
    "NotConnectedError",
    "PayloadTypeError",
    "ProtocolError",
    "ProtocolVersionError",
    "ProxyError",
    "QueueFullError",
    "QueueInUseError",
    "QueueStorageError",
    "RateLimitedError",
    "RequestTimeoutError",
    "ResourceExhaustedError",
    "ServerUnavailableError",
    "SessionLostError",
    "TlsError",
    "TokenExpiredError",
    "TunnelError",
    "TunnelErrorCategory",
    "UsageError",
    "WouldDeadlockError",
    "error_for_close",
]


class NetworkError(TunnelError):
    """The way to the server failed; waiting and trying again is all there is to do."""

    code = "TUNNEL_019"


class ConnectRefusedError(NetworkError):
    """Nobody listens at the address and port."""

    code = "TUNNEL_001"


class ConnectTimeoutError(NetworkError):
    """The other end did not answer within the deadline of the dial."""

    code = "TUNNEL_020"


class DnsResolutionError(NetworkError):
    """The name was not found. Retryable: a network that is down looks the same."""

    code = "TUNNEL_011"


class NetworkUnreachableError(NetworkError):
    """There is no route, or no address of our own to come from."""

    code = "TUNNEL_012"


class ProxyError(NetworkError):
    """The proxy did not open the way to the server."""

    code = "TUNNEL_033"


class ConnectionLostError(NetworkError):
    """A link that was up has ended.

    Attributes:
        close_code: The close code received (1005: a close frame without one); None: no close frame.
        reason: The reason in the close frame.
    """

    code = "TUNNEL_021"
    close_code: int | None
    reason: str

    def __init__(
        self,
        message: str = "",
        *,
        close_code: int | None = None,
        reason: str = "",
        **options: Unpack[ErrorOptions],
    ) -> None:
        super().__init__(message, **options)
        self._add_facts(close_code=close_code, reason=reason)


class HeartbeatTimeoutError(ConnectionLostError):
    """Nothing was heard from the peer for `pong_timeout` seconds (requirement 6.2)."""

    code = "TUNNEL_022"


class ConnectionClosedByPeerError(ConnectionLostError):
    """The peer ended the connection by a close frame whose code allows to come back."""

    code = "TUNNEL_023"


class ServerUnavailableError(TunnelError):
    """The server cannot serve now: HTTP 5xx, 408 or 425, or close code 1012 or 1013.

    Attributes:
        status: The HTTP status of the handshake, or None.
        close_code: The close code received, or None.
        reason: The reason in the close frame.
    """

    code = "TUNNEL_004"
    status: int | None
    close_code: int | None
    reason: str

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        close_code: int | None = None,
        reason: str = "",
        **options: Unpack[ErrorOptions],
    ) -> None:
        super().__init__(message, **options)
        self._add_facts(status=status, close_code=close_code, reason=reason)


class RateLimitedError(ServerUnavailableError):
    """The server wants fewer attempts (HTTP 429); `retry_after` says for how long, if it told."""

    code = "TUNNEL_005"


class AuthenticationFailedError(TunnelError):
    """The server did not accept who we are, or does not let us in; without telling more (401, 403).

    Attributes:
        status: The HTTP status of the handshake, or None.
    """

    code = "TUNNEL_002"
    status: int | None

    def __init__(
        self, message: str = "", *, status: int | None = None, **options: Unpack[ErrorOptions]
    ) -> None:
        super().__init__(message, **options)
        self._add_facts(status=status)


class TokenExpiredError(AuthenticationFailedError):
    """The server says that the token has expired (RFC 6750, section 3.1; requirement 2.9)."""

    code = "TUNNEL_003"


class InvalidCredentialsError(AuthenticationFailedError):
    """The server says that the credentials are wrong, not merely old (requirement 2.9)."""

    code = "TUNNEL_013"


class ProtocolError(TunnelError):
    """One end does not keep to RFC 6455.

    Attributes:
        close_code: The code to close the connection with (RFC 6455, section 7.4.1), 1002 unless
            given; None before the connection is open. In `ConnectionRejectedError` the peer's.
    """

    code = "TUNNEL_009"
    close_code: int | None

    def __init__(
        self, message: str = "", *, close_code: int | None = 1002, **options: Unpack[ErrorOptions]
    ) -> None:
        super().__init__(message, **options)
        self._add_facts(close_code=close_code)


class HandshakeRejectedError(ProtocolError):
    """The server answered the upgrade with a status that refuses it for good (requirement 6.8).

    Attributes:
        status: The HTTP status, or None if it is not known.
    """

    code = "TUNNEL_024"
    status: int | None

    def __init__(
        self, message: str = "", *, status: int | None = None, **options: Unpack[ErrorOptions]
    ) -> None:
        super().__init__(message, close_code=None, **options)
        self._add_facts(status=status)


class ProtocolVersionError(HandshakeRejectedError):
    """The server speaks another version of WebSocket, or of this package's session protocol."""

    code = "TUNNEL_016"


class ConnectionRejectedError(ProtocolError):
    """The peer closed with a code that says not to come back.

    Attributes:
        close_code: The close code received.
        reason: The reason in the close frame.
    """

    code = "TUNNEL_035"
    reason: str

    def __init__(
        self,
        message: str = "",
        *,
        close_code: int,
        reason: str = "",
        **options: Unpack[ErrorOptions],
    ) -> None:
        super().__init__(message, close_code=close_code, **options)
        self._add_facts(reason=reason)


class MessageTooBigError(ProtocolError):
    """A message is over `max_message_size`: ours, the peer's, or one that the peer refused.

    Attributes:
        close_code: 1009.
        size: The message's size in bytes, as far as it is known.
        limit: The most that is allowed, in bytes, if it is known.
    """

    code = "TUNNEL_027"
    size: int | None
    limit: int | None

    def __init__(
        self,
        message: str = "",
        *,
        size: int | None = None,
        limit: int | None = None,
        **options: Unpack[ErrorOptions],
    ) -> None:
        super().__init__(message, close_code=1009, **options)
        self._add_facts(size=size, limit=limit)


class TlsError(TunnelError):
    """TLS failed. Retryable where the reason may pass, such as damaged data."""

    code = "TUNNEL_025"


class CertificateError(TlsError):
    """The peer's certificate has expired, is for another host, or is from nobody we trust."""

    code = "TUNNEL_026"


class UsageError(TunnelError):
    """The program made a mistake at this call; the tunnel is untouched."""

    code = "TUNNEL_036"


class ConfigurationError(UsageError, ValueError):
    """An argument or a setting is wrong (requirement 9.3).

    Attributes:
        problems: Everything that is wrong, a sentence each; together they are the default message.
    """

    code = "TUNNEL_010"
    problems: tuple[str, ...]

    def __init__(
        self, message: str = "", *, problems: Iterable[str] = (), **options: Unpack[ErrorOptions]
    ) -> None:
        found = tuple(problems)
        super().__init__(message or "; ".join(found), **options)
        self._add_facts(problems=found or (self.message,))


class PayloadTypeError(UsageError, TypeError):
    """Data to be sent is neither `str` nor bytes-like."""

    code = "TUNNEL_031"


class InvalidStateError(UsageError):
    """The call is not allowed in the present state."""

    code = "TUNNEL_028"


class NotConnectedError(InvalidStateError):
    """The call needs a live connection, and there is none."""

    code = "TUNNEL_029"


class WouldDeadlockError(InvalidStateError):
    """The call would wait for the tunnel on the tunnel's own thread, that is, for ever."""

    code = "TUNNEL_030"


class ResourceExhaustedError(TunnelError):
    """This process or machine has no descriptor, thread or memory left for a connection."""

    code = "TUNNEL_034"


class QueueFullError(TunnelError):
    """The queue is full, and the message was not accepted (requirement 5.4).

    Attributes:
        accepted: For `send_many`: how many messages, from the first, were accepted.
    """

    code = "TUNNEL_006"
    accepted: int

    def __init__(
        self, message: str = "", *, accepted: int = 0, **options: Unpack[ErrorOptions]
    ) -> None:
        super().__init__(message, **options)
        self._add_facts(accepted=accepted)


class QueueStorageError(TunnelError):
    """The file of a durable queue cannot be used, or not written to; nothing was accepted."""

    code = "TUNNEL_037"


class QueueInUseError(QueueStorageError):
    """Another queue, perhaps of another process, has the file open."""

    code = "TUNNEL_038"


class CircuitOpenError(TunnelError):
    """So many requests have failed in a row that no more are sent for a while (requirement 5.7).

    Its `retry_after` says for how many seconds.
    """

    code = "TUNNEL_039"


class RequestTimeoutError(TunnelError):
    """The answer to a request did not come in time (requirement 5.6).

    Attributes:
        timeout: The time that was allowed, in seconds.
    """

    code = "TUNNEL_007"
    timeout: float | None

    def __init__(
        self, message: str = "", *, timeout: float | None = None, **options: Unpack[ErrorOptions]
    ) -> None:
        super().__init__(message, **options)
        self._add_facts(timeout=timeout)


class SessionLostError(TunnelError):
    """The peer no longer knows the session: what was unacknowledged may or may not have arrived.

    Attributes:
        unacknowledged: The messages that were written and never acknowledged, oldest first. The
            context holds only their number.
    """

    code = "TUNNEL_032"

    def __init__(
        self,
        message: str = "",
        *,
        unacknowledged: Iterable[str | bytes] = (),
        **options: Unpack[ErrorOptions],
    ) -> None:
        super().__init__(message, **options)
        self.unacknowledged: tuple[str | bytes, ...] = tuple(unacknowledged)
        self.context.setdefault("unacknowledged", len(self.unacknowledged))


class MaxReconnectAttemptsExceededError(TunnelError):
    """All attempts failed, and automatic ones have stopped (requirement 1.9).

    Attributes:
        attempts: How many were made.
        last_error: Why the last one failed, if that is known.
    """

    code = "TUNNEL_014"
    attempts: int
    last_error: TunnelError | None

    def __init__(
        self,
        message: str = "",
        *,
        attempts: int,
        last_error: TunnelError | None = None,
        **options: Unpack[ErrorOptions],
    ) -> None:
        because = f"; the last error: {last_error}" if last_error is not None else ""
        super().__init__(message or f"gave up after {attempts} attempts{because}", **options)
        self._add_facts(attempts=attempts, last_error=last_error)


# The peer says that one end broke the protocol, or that it will not serve us (RFC 6455, section
# 7.4.1). 1009 has a class of its own.
_FINAL_CLOSE_CODES = frozenset({1002, 1003, 1007, 1008, 1010})
# "Service restart" and "try again later" of the IANA registry of close codes.
_PATIENCE_CLOSE_CODES = frozenset({1012, 1013})


def error_for_close(
    code: int, reason: str = "", fatal_close_codes: Container[int] = frozenset()
) -> TunnelError:
    """What the end of a connection means, by the peer's close code.

    Losses, which are retryable: 1000, 1001, 1011, 1014, 3000-4999 (`ConnectionClosedByPeerError`),
    1012 and 1013 (`ServerUnavailableError`), 1005 (a close frame without a code) and 1006 (no close
    frame at all: `ConnectionLostError`). Final: 1002, 1003, 1007, 1008, 1010
    (`ConnectionRejectedError`) and 1009 (`MessageTooBigError`). A code that is not listed here is a
    loss as well.

    Args:
        code: The close code, or the stand-ins 1005 and 1006 of RFC 6455, section 7.1.5.
        reason: The peer's reason; control characters and what looks like a secret are removed.
        fatal_close_codes: Further codes that are final for this application.
    """
    reason = scrub(reason)
    text = f"the peer closed the connection with code {code}" + (f": {reason}" if reason else "")
    if code in fatal_close_codes or code in _FINAL_CLOSE_CODES:
        return ConnectionRejectedError(text, close_code=code, reason=reason)
    if code == 1009:
        return MessageTooBigError(text, context={"reason": reason} if reason else {})
    if code in _PATIENCE_CLOSE_CODES:
        return ServerUnavailableError(text, close_code=code, reason=reason)
    if code == 1006:
        return ConnectionLostError("the connection ended without a close frame")
    return ConnectionClosedByPeerError(text, close_code=code, reason=reason)
