"""One dial of a tunnel: a token, a transport, and the session agreed on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from loguru import logger

from tunnel.clock import Clock
from tunnel.config import TunnelConfig
from tunnel.errors import TokenExpiredError, TunnelError
from tunnel.requests import Target
from tunnel.session_handshake import SessionHandshake
from tunnel.session_keeper import SessionKeeper
from tunnel.transport import DialRequest, Transport
from tunnel.waker import Waker


class Dialled(NamedTuple):
    """What a dial has brought, and is not a link yet.

    Attributes:
        transport: Opened.
        handshake: Has opened or resumed the session; None: a plain peer.
    """

    transport: Transport
    handshake: SessionHandshake | None

    def abandon(self) -> None:
        """It will not be a link."""
        self.transport.abort()
        self.transport.close()


class Dialler:
    """Dials. For the tunnel's thread.

    Args:
        keeper: Opens and resumes the session.
        new_transport: Makes a transport for each dial.
        waker: Ends the waits of a dial.
        clock: The source of time.

    Attributes:
        new_transport: As given; a test may put another in its place.
    """

    __slots__ = ("_clock", "_keeper", "_waker", "new_transport")

    def __init__(
        self,
        keeper: SessionKeeper,
        new_transport: Callable[[Waker], Transport],
        waker: Waker,
        clock: Clock,
    ) -> None:
        self._keeper = keeper
        self.new_transport = new_transport
        self._waker = waker
        self._clock = clock

    def dial(
        self, target: Target, config: TunnelConfig, interrupted: Callable[[], bool]
    ) -> Dialled:
        """Dial; once more if the token had expired and there is another one.

        Args:
            target: Where to, and as whom.
            config: Time-outs, limits, and whether a session is wanted.
            interrupted: Asked after each wake-up: has the dial lost its purpose?

        Raises:
            DialInterrupted: It had.
            TunnelError: The dial failed; no socket is left.
        """
        request = _dial_request(target, config)
        try:
            return self._dial_once(request, config, interrupted)
        except TokenExpiredError:
            renewed = _renewed(target, config, request)
            if renewed is None:
                raise
        logger.info("the token has expired; trying the next one")
        return self._dial_once(renewed, config, interrupted)

    def _dial_once(
        self, request: DialRequest, config: TunnelConfig, interrupted: Callable[[], bool]
    ) -> Dialled:
        deadline = self._clock.monotonic() + config.connect_timeout
        transport = self.new_transport(self._waker)
        transport.open(request, interrupted)
        try:
            handshake = self._keeper.agree(transport, config, deadline, interrupted)
        except BaseException as error:
            self._keeper.detach()
            transport.abort()
            transport.close()
            if isinstance(error, OSError):
                raise TunnelError.from_exception(error) from error
            raise
        return Dialled(transport, handshake)


def _dial_request(target: Target, config: TunnelConfig) -> DialRequest:
    return target.dial_request(
        config.connect_timeout,
        wants_session=config.resume != "off",
        max_header_size=config.max_header_size,
    )


def _renewed(target: Target, config: TunnelConfig, refused: DialRequest) -> DialRequest | None:
    """The same with another token; None: there is only the one that was refused."""
    if not callable(target.token):
        return None
    request = _dial_request(target, config)
    return None if request.headers == refused.headers else request
