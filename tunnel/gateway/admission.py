"""The opening handshake: who comes in, and whether a session is negotiated.

The answers to those who do not come in say why, in a sentence and in the challenge that RFC 6750
has for it, but nothing of what they sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from loguru import logger
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from tunnel.errors import (
    AuthenticationFailedError,
    ConfigurationError,
    InvalidCredentialsError,
    TokenExpiredError,
)
from tunnel.gateway.auth import Authenticate, bearer_token, challenge
from tunnel.gateway.connection import GatewayConnection
from tunnel.gateway.pool import Pool, run_in
from tunnel.responses import Headers
from tunnel.session_frames import HEADER, VERSION, is_offered


class Admission:
    """Decides about upgrade requests. For the event loop's thread.

    Args:
        authenticate: Checks a token; called in a thread, since it may take its time.
        pool: Such threads.
    """

    def __init__(self, authenticate: Authenticate, pool: Pool) -> None:
        self._authenticate = authenticate
        self._pool = pool

    async def decide(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to who does not come in; None: come in."""
        assert isinstance(connection, GatewayConnection)
        try:
            token = bearer_token(request.headers.get_all("Authorization"))
            headers = Headers(list(request.headers.raw_items()))
            connection.user = await run_in(self._pool, lambda: self._user(token, headers))
        except ConfigurationError:
            return connection.respond(HTTPStatus.BAD_REQUEST, "The headers are not valid.\n")
        except AuthenticationFailedError as error:
            return self._refusal(connection, error)
        except Exception as error:  # of the application's check; its text may hold the token
            logger.error("the check of a token failed: {}", type(error).__name__)
            text = "Tokens cannot be checked at the moment.\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, text)
        return None

    def negotiate(
        self, connection: ServerConnection, request: Request, response: Response
    ) -> Response | None:
        """Agree to a session, if the client asks for one in the way that we know."""
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS and wants_session(request):
            response.headers[HEADER] = VERSION
        return None

    def _user(self, token: str | None, headers: Mapping[str, str]) -> str:
        user = self._authenticate(token, headers)
        if not isinstance(user, str):
            raise TypeError("the check of tokens must return the name of a user")
        return user

    def _refusal(self, connection: GatewayConnection, error: AuthenticationFailedError) -> Response:
        if isinstance(error, TokenExpiredError):
            text = "The token has expired.\n"
        elif isinstance(error, InvalidCredentialsError):
            text = "The token is not valid.\n"
        else:
            text = "A valid token is needed.\n"
        logger.info("{} was refused: {}", connection.peer, text.strip())
        response = connection.respond(HTTPStatus.UNAUTHORIZED, text)
        response.headers["WWW-Authenticate"] = challenge(error)
        return response


def wants_session(request: Request | None) -> bool:
    """Whether a client asks for a session."""
    return request is not None and is_offered(",".join(request.headers.get_all(HEADER)))
