"""Requests to an HTTP service next to the gateway, and its answers back.

Rules
-----

A request goes to the configured service and nowhere else: its path is appended to the service's,
and one that could mean another place (``//host``, ``..``) is refused. No redirect is followed, no
proxy used, nothing tried twice. Method, path, headers and body arrive as they were sent, but for
what belongs to one connection only (RFC 9110, section 7.6.1), and Host.

A connection is used again if the service allows it, and only within a second: services close idle
ones, and a request that meets such a closing could not be repeated.

Every failure is a status and a sentence for the one who asked; the sentence does not show where the
service is.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from urllib.parse import unquote, urlsplit

from loguru import logger

from tunnel.errors import ConfigurationError
from tunnel.gateway.handlers import Call, GatewaySession, RequestFailed
from tunnel.gateway.http_connection import HttpConnection
from tunnel.request_frames import TunnelRequest
from tunnel.responses import Headers, TunnelResponse
from tunnel.secrets import scrub

_REUSE_WITHIN = 1.0

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_FORWARDED = _HOP_BY_HOP | {"host", "content-length", "expect"}
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_FOLDED = re.compile(r"[\r\n]+[ \t]*")


class HttpForwarder:
    """Answers requests by asking an HTTP service. Thread-safe.

    Args:
        url: Of the service: ``http`` or ``https``, a host, perhaps a port and a path.
        timeout: Seconds for one step of an exchange; who calls sees to the whole.
        max_request: Bytes of the longest body that is forwarded.
        ssl_context: For https; None: the system's authorities are trusted.

    Raises:
        ConfigurationError: The URL is none of these.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        max_request: int,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if re.search(r"[^!-~]", url):  # `urlsplit` would let some of it vanish
            raise ConfigurationError("the URL to forward to must be visible ASCII")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(f"the URL to forward to is not valid: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigurationError("the URL to forward to must begin with http:// or https://")
        if parts.query or parts.fragment or parts.username is not None:
            raise ConfigurationError(
                "the URL to forward to may have a host, a port and a path, and nothing else"
            )
        self._host = host
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._authority = parts.netloc
        self._base = parts.path.rstrip("/")
        self._timeout = timeout
        self._max_request = max_request
        self._ssl_context = None
        if parts.scheme == "https":
            self._ssl_context = ssl_context or ssl.create_default_context()
        self._lock = threading.Lock()  # guards both below
        self._idle: list[tuple[HttpConnection, float]] = []
        self._is_closed = False

    def answer(self, session: GatewaySession, request: TunnelRequest, call: Call) -> TunnelResponse:
        """Ask the service; waits for its answer.

        Raises:
            RequestFailed: There is none.
        """
        target = self._target(request)
        if len(request.payload) > self._max_request:
            raise RequestFailed(413, f"The body has more than {self._max_request} bytes.")
        service = self._take() or HttpConnection(
            self._host, self._port, self._timeout, self._ssl_context
        )
        call.on_abort(service.abort)
        try:
            response, body = service.exchange(
                request.method, target, self._fields(request), request.payload, call.max_size
            )
            answer = TunnelResponse(request.request_id, response.status, _returned(response), body)
        except (OSError, http.client.HTTPException, ConfigurationError, RequestFailed) as error:
            service.close()
            raise self._explain(error, service) from None
        # A connection that is just being broken off must not become the next request's.
        if call.settle() or response.will_close:
            service.close()
        else:
            self._give_back(service)
        return answer

    def close(self) -> None:
        """Close the connections that wait to be used again; no more are kept."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for service, _ in idle:
            service.close()

    def _target(self, request: TunnelRequest) -> str:
        """Where the request goes, as HTTP has it: always below the service's own path."""
        if request.method == "CONNECT":
            raise RequestFailed(501, "CONNECT is not forwarded.")
        path, question, query = request.path.partition("?")
        segments = re.split(r"[/\\]", unquote(path))
        if path.startswith("//") or "\\" in path or ".." in segments:
            raise RequestFailed(400, "The path could lead away from the service.")
        return self._base + path + question + query

    def _fields(self, request: TunnelRequest) -> list[tuple[str, str]]:
        named = {
            name.strip().lower()
            for value in request.headers.get_all("Connection")
            for name in value.split(",")
        }
        fields = [
            (name, value)
            for name, value in request.headers.multi_items()
            if name.lower() not in _NOT_FORWARDED and name.lower() not in named
        ]
        if request.payload or request.method in _WITH_BODY:
            fields.append(("Content-Length", str(len(request.payload))))
        return [("Host", self._authority), *fields]

    def _take(self) -> HttpConnection | None:
        with self._lock:
            if not self._idle:
                return None
            service, since = self._idle.pop()
            if time.monotonic() - since <= _REUSE_WITHIN and service.is_usable:
                return service
            old, self._idle = [(service, since), *self._idle], []  # they have waited even longer
        for service, _ in old:
            service.close()
        return None

    def _give_back(self, service: HttpConnection) -> None:
        with self._lock:
            is_kept = not self._is_closed
            if is_kept:
                self._idle.append((service, time.monotonic()))
        if not is_kept:
            service.close()

    def _explain(self, error: Exception, service: HttpConnection) -> RequestFailed:
        """What to say to the one who asked; the log gets more of it."""
        if isinstance(error, RequestFailed):
            return error
        kind, text = type(error).__name__, scrub(str(error))
        logger.warning("the service at {} failed: {}: {}", self._authority, kind, text)
        if isinstance(error, TimeoutError):
            return RequestFailed(504, "The service did not answer in time.")
        return RequestFailed(502, _sentence(error, service.is_connected))


def _sentence(error: Exception, is_connected: bool) -> str:
    """What went wrong, for somebody who knows neither the service nor its address."""
    if isinstance(error, http.client.IncompleteRead):
        return "The service's answer ended in the middle."
    if not isinstance(error, OSError):
        return "What the service answered is no valid HTTP."
    if is_connected:  # a connection that ends without an answer is an error of this kind too
        return "The service closed the connection without an answer."
    if isinstance(error, ConnectionRefusedError):
        return "The service refuses connections; is it running?"
    if isinstance(error, socket.gaierror):
        return "The service's name cannot be resolved."
    if isinstance(error, ssl.SSLError):
        return "The service cannot be reached: TLS failed."
    return "The service cannot be reached."


def _returned(response: http.client.HTTPResponse) -> Headers:
    """The fields that are the answer's, not the connection's."""
    named = {
        name.strip().lower()
        for value in response.msg.get_all("Connection", [])
        for name in value.split(",")
    }
    return Headers(
        (name, _FOLDED.sub(" ", value))
        for name, value in response.getheaders()
        if name.lower() not in _HOP_BY_HOP and name.lower() not in named
    )
