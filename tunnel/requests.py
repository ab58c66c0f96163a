"""What other threads ask of a tunnel's thread: they only post, the tunnel's thread acts."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

from tunnel.addresses import TunnelUrl, bearer_header
from tunnel.dial_options import DIRECT, DialOptions
from tunnel.errors import AuthenticationFailedError, TunnelError
from tunnel.interruptible import Event, Outcome
from tunnel.link import Link
from tunnel.secrets import Secret
from tunnel.session_frames import HEADER, VERSION
from tunnel.transport import DialRequest
from tunnel.turnstile import give, take

AuthToken: TypeAlias = str | Callable[[], str] | None
"""A bearer token, or what is asked for one before every attempt."""


@dataclass(frozen=True)
class Target:
    """Where a tunnel leads, and as whom.

    Attributes:
        url: The server.
        user_id: Whose connection it is, for the records.
        token: Sent as ``Authorization: Bearer`` (RFC 6750, section 2.1); a callable is asked before
            every attempt, so that it can renew what has expired.
        headers: Further headers of the upgrade.
        subprotocols: Offered in this order.
        ssl_context: For wss; None for the default one.
        options: How to get to the server.
        asked: The token that a callable gave last; kept, so that it counts as a secret in use.
    """

    url: TunnelUrl
    user_id: str
    token: Secret | Callable[[], str] | None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    subprotocols: tuple[str, ...] = ()
    ssl_context: ssl.SSLContext | None = None
    options: DialOptions = DIRECT
    asked: list[Secret] = field(default_factory=list, repr=False, compare=False)

    def dial_request(
        self, timeout: float, *, wants_session: bool = False, max_header_size: int = 64 * 1024
    ) -> DialRequest:
        """What the next dial says; asks for a token if that is a callable.

        Args:
            timeout: Seconds for the dial.
            wants_session: Whether to ask for a session that can be resumed.
            max_header_size: As for `DialRequest`.

        Raises:
            TunnelError: The callable raised: what it raised if that is a `TunnelError` or has to do
                with the network, else an `AuthenticationFailedError`.
        """
        headers = self.headers
        token = self._ask_for_token() if callable(self.token) else self.token
        if token is not None:
            headers = (*headers, bearer_header(token))
        elif self.url.authorization is not None:
            headers = (*headers, ("Authorization", self.url.authorization.reveal()))
        if wants_session:
            headers = (*headers, (HEADER, VERSION))
        return DialRequest(
            self.url,
            headers,
            self.subprotocols,
            self.ssl_context,
            timeout,
            max_header_size,
            self.options,
        )

    def _ask_for_token(self) -> Secret:
        assert callable(self.token)
        had_turn = give()  # it may take long
        try:
            token = self.token()
            bearer_header(token)
            secret = Secret(token)
            self.asked[:] = [secret]
            return secret
        except TunnelError:
            raise
        except OSError as error:
            raise TunnelError.from_exception(error) from None
        except Exception as error:
            # Not its text: that may quote the token.
            message = f"the auth_token callable raised {type(error).__name__}"
            raise AuthenticationFailedError(message) from None
        finally:
            if had_turn:
                take()


# Never changed. Compared by identity: a mailbox must be able to take one out without running Python
# code.


class Connect:
    """Go there; `outcome` gets None, or the error that ended all tries."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.outcome: Future[None] = Outcome()


class CancelConnect:
    """Whoever wanted the connection has stopped waiting: the outcome of `connect` is cancelled."""

    def __init__(self, connect: Connect) -> None:
        self.connect = connect


class Close:
    """End the connection, drained first if `graceful`, by `deadline` on `monotonic()`."""

    def __init__(self, graceful: bool, deadline: float) -> None:
        self.graceful = graceful
        self.deadline = deadline
        self.done: threading.Event = Event()


class Reconnect:
    """Give the present link up, if there is one, and dial at once; `outcome` as for `Connect`."""

    def __init__(self) -> None:
        self.outcome: Future[None] = Outcome()


class NetworkChange:
    """The machine's network went away or came back."""

    def __init__(self, is_connected: bool, network_type: str | None) -> None:
        self.is_connected = is_connected
        self.network_type = network_type


class Greeted:
    """The application has gone first on a link: now the queue may follow."""

    def __init__(self, link: Link) -> None:
        self.link = link


class CallbackFailed:
    """A callback has raised what ends a thread, where that cannot be obeyed at once.

    Its thread was not the tunnel's any more, or it was called in the midst of something.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error


Request: TypeAlias = (
    Connect | CancelConnect | Close | Reconnect | NetworkChange | Greeted | CallbackFailed
)
