"""What a gateway does with messages and requests: its own handlers, and the application's.

A handler of one's own is called as ``handler(session, message)`` with each message of a session, a
`str` or `bytes`, in order and one at a time, in a thread that may wait; what it returns, if that is
not None, is sent back. A request comes to it as a `TunnelRequest`, concurrently with others; it
returns the body (`str` or `bytes`), or ``(status, headers, body)``, or a `TunnelResponse`. If it
raises, that is logged: the message counts as handled, the request is answered with 500.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

from tunnel.errors import ConfigurationError, MessageTooBigError, PayloadTypeError
from tunnel.gateway.outbox import Outbox
from tunnel.request_frames import TunnelRequest
from tunnel.responses import Headers, TunnelResponse, headers_of
from tunnel.session_frames import EncodedText

_OK = int(HTTPStatus.OK)  # a plain number, which takes no time to write

Handler: TypeAlias = Callable[["GatewaySession", Any], Any]
"""A handler of one's own; see above."""


class GatewaySession:
    """A client's session, as handlers see it. Thread-safe.

    Attributes:
        id: Tells sessions apart, in logs too; nothing secret.
        user: Whose it is.
    """

    __slots__ = ("_close", "_max_size", "_outbox", "id", "user")

    def __init__(
        self,
        identity: str,
        user: str,
        outbox: Outbox,
        max_size: Callable[[], int | None],
        close: Callable[[], None],
    ) -> None:
        self.id = identity
        self.user = user
        self._outbox = outbox
        self._max_size = max_size
        self._close = close

    def send(self, message: str | bytes) -> None:
        """Send a message, now or later; waits while too much is waiting already.

        Args:
            message: Text or bytes.

        Raises:
            InvalidStateError: The session is over.
            MessageTooBigError: The client takes no message of this size.
            PayloadTypeError: It is neither text nor bytes.
            QueueFullError: There is no room, and this is the event loop's thread.
        """
        self._outbox.send(self.checked(message))

    def checked(self, message: object) -> str | bytes:
        """The message as it is to be sent, if it can be to this client. Raises as `send` does."""
        if isinstance(message, (bytearray, memoryview)):
            message = bytes(message)
        if not isinstance(message, (str, bytes)):
            raise PayloadTypeError(
                f"a message must be str or bytes-like, not {type(message).__name__}"
            )
        if isinstance(message, str) and not message.isascii():
            message = EncodedText(message.encode())  # once, for its size and for the wire
        size, limit = len(message), self._max_size()
        if limit is not None and size > limit:
            raise MessageTooBigError(
                f"the message has {size} bytes, and the client takes {limit}",
                size=size,
                limit=limit,
            )
        return message

    def close(self) -> None:
        """Finish what is under way, take nothing new, and then end the session.

        Does not wait for it.
        """
        self._close()

    def __repr__(self) -> str:
        return f"<GatewaySession {self.id[:8]} of {self.user}>"


class Call:
    """A request under way, as seen by the one who answers it. Thread-safe.

    Args:
        max_size: Bytes that the client takes in one answer.
    """

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self._lock = threading.Lock()  # guards both below
        self._abort: Callable[[], None] | None = None
        self._is_aborted = False

    @property
    def is_aborted(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self._is_aborted

    def on_abort(self, action: Callable[[], None]) -> None:
        """Have this called, in any thread, when nobody wants the answer any more; or now."""
        with self._lock:
            self._abort = action
            is_aborted = self._is_aborted
        if is_aborted:
            action()

    def settle(self) -> bool:
        """There is an answer: nothing is to be called any more.

        Returns:
            Whether it was aborted before; then what was to be called was called, or is just now.
        """
        with self._lock:
            self._abort = None
            return self._is_aborted

    def abort(self) -> None:
        """The answer is not wanted any more."""
        with self._lock:
            self._is_aborted = True
            action, self._abort = self._abort, None
        if action is not None:
            action()


class RequestFailed(Exception):
    """There is no answer to a request but a sentence that says why.

    Attributes:
        status: What stands for it in HTTP.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class MessageHandling:
    """How messages are handled; `is_quick`: on the event loop, which it must not hold up."""

    handle: Callable[[GatewaySession, str | bytes], object]
    is_quick: bool


@dataclass(frozen=True)
class RequestHandling:
    """How requests are answered; it may raise `RequestFailed`. `is_quick`: see above."""

    answer: Callable[[GatewaySession, TunnelRequest, Call], TunnelResponse]
    is_quick: bool


def echo(session: GatewaySession, message: str | bytes) -> str | bytes:
    """Sends every message back."""
    return message


def sink(session: GatewaySession, message: str | bytes) -> None:
    """Takes every message, and does nothing with it."""


def handling_of(handler: str | Handler) -> tuple[MessageHandling, RequestHandling]:
    """How a handler deals with messages and with requests.

    Args:
        handler: ``echo``, ``sink``, ``MODULE:NAME``, or a callable.

    Raises:
        ConfigurationError: There is no such handler.
    """
    if handler == "echo":
        return MessageHandling(echo, True), RequestHandling(_echo_request, True)
    if handler == "sink":
        return MessageHandling(sink, True), RequestHandling(_sink_request, True)
    function = _load(handler) if isinstance(handler, str) else handler
    if not callable(function):
        raise ConfigurationError(f"the handler is not callable: {type(function).__name__}")

    def answer(session: GatewaySession, request: TunnelRequest, call: Call) -> TunnelResponse:
        return response_of(request.request_id, function(session, request))

    return MessageHandling(function, False), RequestHandling(answer, False)


def response_of(request_id: int, result: object) -> TunnelResponse:
    """What a handler returned, as an answer.

    Raises:
        RequestFailed: It was None: the handler does not answer requests.
        TypeError, ValueError: It is nothing that can be answered.
    """
    if result is None:
        raise RequestFailed(501, "The handler of the gateway does not answer requests.")
    if isinstance(result, TunnelResponse):
        return TunnelResponse(request_id, result.status_code, result.headers, result.payload)
    status, headers, body = result if isinstance(result, tuple) else (200, None, result)
    fields = Headers(headers)
    if isinstance(body, str):
        kind, body = "text/plain; charset=utf-8", body.encode()
    else:
        kind, body = "application/octet-stream", bytes(memoryview(body))
    if "Content-Type" not in fields and body:
        fields = Headers([*fields.multi_items(), ("Content-Type", kind)])
    return TunnelResponse(request_id, status, fields, body)


def failure(request_id: int, status: int, sentence: str) -> TunnelResponse:
    """An answer that is only a sentence."""
    fields = Headers({"Content-Type": "text/plain; charset=utf-8"})
    return TunnelResponse(request_id, status, fields, sentence.encode())


def _echo_request(session: GatewaySession, request: TunnelRequest, call: Call) -> TunnelResponse:
    kinds = request.headers.get_all("Content-Type")
    fields = headers_of([("Content-Type", kind) for kind in kinds])
    return TunnelResponse(request.request_id, _OK, fields, request.payload)


def _sink_request(session: GatewaySession, request: TunnelRequest, call: Call) -> TunnelResponse:
    return TunnelResponse(request.request_id, HTTPStatus.NO_CONTENT)


def _load(name: str) -> Handler:
    module_name, colon, path = name.partition(":")
    if not (colon and module_name and path):
        raise ConfigurationError(
            f"the handler must be echo, sink or MODULE:NAME, not {name[:100]!r}"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(f"the handler's module cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise ConfigurationError(
            f"the handler's module {module_name} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ConfigurationError(f"the module {module_name} has no {path!r}") from None
    if not callable(found):
        raise ConfigurationError(f"{name!r} is not callable")
    handler: Handler = found
    return handler
