"""The table of error codes (requirements 2.1-2.3 and 2.10).

A code is a promise: it keeps its meaning for ever and is never given to anything else. Each leads
to its section of `docs/errors.rst`, which docs/list_errors.py makes from this table.

A few codes belong to the requirements but to no class here: this client speaks no SSH and offers no
compression. They are listed so that nobody reuses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class TunnelErrorCategory(str, Enum):
    """Where an error comes from (requirement 2.1). The value is what JSON and metrics show."""

    NETWORK = "network"
    AUTHENTICATION = "authentication"
    CONFIGURATION = "configuration"
    SERVER = "server"
    PROTOCOL = "protocol"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ErrorCode:
    """One row: what an error of this code is, and what people are told about it.

    Attributes:
        code: The stable name, `TUNNEL_` and three digits.
        category: Where the error comes from.
        title: What happened, in a few words.
        is_retryable: Whether trying again later may help; an error may know better.
        user_message: A sentence for people who use the program.
        suggestion: What they can do about it, or None.
    """

    code: str
    category: TunnelErrorCategory
    title: str
    is_retryable: bool
    user_message: str
    suggestion: str | None

    @property
    def anchor(self) -> str:
        """The name of the code's section in the documentation, such as `tunnel-001`."""
        return self.code.lower().replace("_", "-")


_C = TunnelErrorCategory

_ROWS = (
    ErrorCode(
        "TUNNEL_001",
        _C.NETWORK,
        "connection refused",
        True,
        "The server refused the connection.",
        "Check that the server is running and that its address and port are right.",
    ),
    ErrorCode(
        "TUNNEL_002",
        _C.AUTHENTICATION,
        "authentication failed",
        False,
        "The server did not let you in.",
        "Check that you are signed in and that your account may use this server.",
    ),
    ErrorCode(
        "TUNNEL_003",
        _C.AUTHENTICATION,
        "token expired",
        False,
        "Your sign-in has expired.",
        "Sign in again; a program passes a callable as auth_token to renew it by itself.",
    ),
    ErrorCode(
        "TUNNEL_004",
        _C.SERVER,
        "server unavailable",
        True,
        "The server is not available at the moment.",
        "Wait a little and try again; if it lasts, ask whoever runs the server.",
    ),
    ErrorCode(
        "TUNNEL_005",
        _C.SERVER,
        "rate limit exceeded",
        True,
        "The server asks for fewer requests.",
        "Wait before you try again, and connect or send less often.",
    ),
    ErrorCode(
        "TUNNEL_006",
        _C.NETWORK,
        "queue full",
        True,
        "Too much is waiting to be sent; this message was not accepted.",
        "Send it again when the connection has caught up, or raise max_queue_size.",
    ),
    ErrorCode(
        "TUNNEL_007",
        _C.NETWORK,
        "request timeout",
        True,
        "The answer did not come in time.",
        "Try again, or allow more time with request_timeout.",
    ),
    ErrorCode(
        "TUNNEL_008",
        _C.PROTOCOL,
        "SSH error",
        False,
        "The SSH connection inside the tunnel failed.",
        None,
    ),
    ErrorCode(
        "TUNNEL_009",
        _C.PROTOCOL,
        "WebSocket error",
        False,
        "The server's answer was not valid WebSocket.",
        "Check that the address is a WebSocket server's and that no proxy alters the traffic.",
    ),
    ErrorCode(
        "TUNNEL_010",
        _C.CONFIGURATION,
        "configuration error",
        False,
        "A setting is not valid.",
        "Correct the setting that the message names.",
    ),
    ErrorCode(
        "TUNNEL_011",
        _C.NETWORK,
        "DNS resolution failed",
        True,
        "The server's name could not be found.",
        "Check the spelling of the address and your network connection.",
    ),
    ErrorCode(
        "TUNNEL_012",
        _C.NETWORK,
        "network unreachable",
        True,
        "The server cannot be reached from here.",
        "Check your network connection.",
    ),
    ErrorCode(
        "TUNNEL_013",
        _C.AUTHENTICATION,
        "invalid credentials",
        False,
        "The server does not accept your credentials.",
        "Check the token or password; it was not merely expired.",
    ),
    ErrorCode(
        "TUNNEL_014",
        _C.NETWORK,
        "maximum reconnect attempts exceeded",
        False,
        "The connection could not be restored, and automatic attempts have stopped.",
        "Check your network connection, then connect again.",
    ),
    ErrorCode(
        "TUNNEL_015",
        _C.PROTOCOL,
        "compression error",
        False,
        "Compressed data could not be read.",
        None,
    ),
    ErrorCode(
        "TUNNEL_016",
        _C.PROTOCOL,
        "protocol version mismatch",
        False,
        "The server speaks another version of the protocol.",
        "Update this program or the server.",
    ),
    ErrorCode(
        "TUNNEL_017",
        _C.AUTHENTICATION,
        "host key verification failed",
        False,
        "The identity of the SSH host could not be verified.",
        None,
    ),
    ErrorCode(
        "TUNNEL_018",
        _C.SERVER,
        "channel limit exceeded",
        True,
        "Too many channels are open at once.",
        None,
    ),
    ErrorCode(
        "TUNNEL_019",
        _C.NETWORK,
        "network error",
        True,
        "The network connection failed.",
        "Check your network connection.",
    ),
    ErrorCode(
        "TUNNEL_020",
        _C.NETWORK,
        "connect timeout",
        True,
        "The server did not answer in time.",
        "Check your network connection; on a slow one allow more time with connect_timeout.",
    ),
    ErrorCode(
        "TUNNEL_021",
        _C.NETWORK,
        "connection lost",
        True,
        "The connection was lost.",
        "It is restored by itself unless automatic reconnection is off.",
    ),
    ErrorCode(
        "TUNNEL_022",
        _C.NETWORK,
        "heartbeat timeout",
        True,
        "The server has stopped answering.",
        "Check your network connection; it is tried again by itself.",
    ),
    ErrorCode(
        "TUNNEL_023",
        _C.NETWORK,
        "connection closed by the peer",
        True,
        "The server closed the connection.",
        "It is restored by itself unless automatic reconnection is off.",
    ),
    ErrorCode(
        "TUNNEL_024",
        _C.PROTOCOL,
        "handshake rejected",
        False,
        "The server refused to open a WebSocket connection at this address.",
        "Check the address, its path above all.",
    ),
    ErrorCode(
        "TUNNEL_025",
        _C.PROTOCOL,
        "TLS error",
        True,
        "No secure connection to the server could be made.",
        "Check that the port speaks TLS (wss), and which TLS versions the server supports.",
    ),
    ErrorCode(
        "TUNNEL_026",
        _C.CONFIGURATION,
        "certificate not trusted",
        False,
        "The server could not prove its identity, so nothing was sent to it.",
        "Check the address and this machine's clock, or trust the server's certificate authority.",
    ),
    ErrorCode(
        "TUNNEL_027",
        _C.PROTOCOL,
        "message too big",
        False,
        "A message is larger than is allowed.",
        "Send smaller messages, or raise max_message_size at the end that refused it.",
    ),
    ErrorCode(
        "TUNNEL_028",
        _C.CONFIGURATION,
        "call not allowed now",
        False,
        "This cannot be done in the tunnel's present state.",
        "Wait for the state that the message names.",
    ),
    ErrorCode(
        "TUNNEL_029",
        _C.NETWORK,
        "not connected",
        True,
        "There is no connection at the moment.",
        "Connect first, or wait until the connection is restored.",
    ),
    ErrorCode(
        "TUNNEL_030",
        _C.CONFIGURATION,
        "call would wait for itself",
        False,
        "The program made a call that could never have ended.",
        "Make calls that wait for the tunnel from another thread than its callbacks'.",
    ),
    ErrorCode(
        "TUNNEL_031",
        _C.CONFIGURATION,
        "wrong type of data",
        False,
        "The program tried to send something that is neither text nor bytes.",
        "Send str (as text) or bytes (as binary); turn anything else into one of them first.",
    ),
    ErrorCode(
        "TUNNEL_032",
        _C.SERVER,
        "session lost",
        False,
        "The server no longer knows this session; some messages may not have arrived.",
        "Decide for each message of error.unacknowledged whether to send it again.",
    ),
    ErrorCode(
        "TUNNEL_033",
        _C.NETWORK,
        "proxy error",
        True,
        "The proxy did not let the connection through.",
        "Check the proxy's address and that it allows connections to the server.",
    ),
    ErrorCode(
        "TUNNEL_034",
        _C.CONFIGURATION,
        "resources exhausted",
        True,
        "This machine has run out of files, threads or memory for another connection.",
        "Close what is not needed, or raise the limits (ulimit -n, ulimit -u).",
    ),
    ErrorCode(
        "TUNNEL_035",
        _C.PROTOCOL,
        "connection rejected by the peer",
        False,
        "The server closed the connection and does not want it back.",
        "Look at the close code and reason in the message; the server's operator knows more.",
    ),
    ErrorCode(
        "TUNNEL_036",
        _C.CONFIGURATION,
        "wrong use",
        False,
        "The program used the tunnel in a way that cannot work.",
        "Correct the call that the message names.",
    ),
    ErrorCode(
        "TUNNEL_037",
        _C.CONFIGURATION,
        "queue storage failed",
        False,
        "Messages cannot be kept on disk.",
        "Look at the file that the message names: free space, permissions, a damaged disk.",
    ),
    ErrorCode(
        "TUNNEL_038",
        _C.CONFIGURATION,
        "queue in use",
        False,
        "Another program uses the same file for its messages.",
        "End the other program, or give this one a file of its own.",
    ),
    ErrorCode(
        "TUNNEL_039",
        _C.SERVER,
        "circuit open",
        True,
        "The other end has failed several times in a row, so nothing is asked of it for a while.",
        "Wait a minute; look at the errors before this one.",
    ),
    ErrorCode(
        "TUNNEL_999",
        _C.UNKNOWN,
        "unknown error",
        True,
        "Something unexpected went wrong.",
        "Try again; if it happens again, report it with the message.",
    ),
)

ERROR_CODES: Mapping[str, ErrorCode] = MappingProxyType({row.code: row for row in _ROWS})
"""Every code that exists, in order."""
