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
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from loguru import logger

from tunnel.errors import ConfigurationError
from tunnel.gateway.handlers import Call, GatewaySession, RequestFailed
from tunnel.request_frames import TunnelRequest
from tunnel.responses import Headers, TunnelResponse
from tunnel.secrets import scrub

_CONNECT_TIMEOUT = 10.0
_REUSE_WITHIN = 1.0
_CHUNK = 64 * 1024

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
        self._idle: list[tuple[_Service, float]] = []
        self._is_closed = False

    def answer(self, session: GatewaySession, request: TunnelRequest, call: Call) -> TunnelResponse:
        """Ask the service; waits for its answer.

        Raises:
            RequestFailed: There is none.
        """
        target = self._target(request)
        if len(request.payload) > self._max_request:
            raise RequestFailed(413, f"The body has more than {self._max_request} bytes.")
        service = self._take() or _Service(self._host, self._port, self._timeout, self._ssl_context)
        call.on_abort(service.abort)
        try:
            response, body = service.exchange(
                request.method, target, self._fields(request), request.payload, call.max_size
            )
            answer = TunnelResponse(request.request_id, response.status, _returned(response), body)
        except (OSError, http.client.HTTPException, ConfigurationError, RequestFailed) as error:
            service.close()
            raise self._explain(error, service) from None
        if response.will_close or call.is_aborted:
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

    def _take(self) -> _Service | None:
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

    def _give_back(self, service: _Service) -> None:
        with self._lock:
            is_kept = not self._is_closed
            if is_kept:
                self._idle.append((service, time.monotonic()))
        if not is_kept:
            service.close()

    def _explain(self, error: Exception, service: _Service) -> RequestFailed:
        """What to say to the one who asked; the log gets more of it."""
        if isinstance(error, RequestFailed):
            return error
        kind, text = type(error).__name__, scrub(str(error))
        logger.warning("the service at {} failed: {}: {}", self._authority, kind, text)
        if isinstance(error, TimeoutError):
            return RequestFailed(504, "The service did not answer in time.")
        return RequestFailed(502, _sentence(error, service.is_connected))


class _Service:
    """One connection to the service. For one thread at a time, but for `abort`."""

    def __init__(
        self, host: str, port: int, timeout: float, ssl_context: ssl.SSLContext | None
    ) -> None:
        self._timeout = timeout
        connect_timeout = min(timeout, _CONNECT_TIMEOUT)
        self._connection: http.client.HTTPConnection
        if ssl_context is None:
            self._connection = http.client.HTTPConnection(host, port, timeout=connect_timeout)
        else:
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=connect_timeout, context=ssl_context
            )
        self._socket: socket.socket | None = None
        self._is_aborted = False

    @property
    def is_connected(self) -> bool:
        """Whether the service was reached."""
        return self._socket is not None

    @property
    def is_usable(self) -> bool:
        """Whether nothing has come since the last answer: neither bytes nor the end."""
        sock = self._socket
        if sock is None or self._connection.sock is None:
            return False
        sock.settimeout(0.0)
        try:
            # Below TLS too, any byte makes it suspect. `SSLSocket.recv` knows no MSG_PEEK.
            socket.socket.recv(sock, 1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        finally:
            sock.settimeout(self._timeout)
        return False

    def exchange(
        self,
        method: str,
        target: str,
        fields: list[tuple[str, str]],
        body: bytes,
        max_size: int,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a request and read the answer whole.

        Raises:
            RequestFailed: The answer is too long.
            OSError, http.client.HTTPException: Something went wrong.
        """
        connection = self._connection
        if self._socket is None:
            connection.connect()
            self._socket = connection.sock
            self._socket.settimeout(self._timeout)
        if self._is_aborted:
            raise TimeoutError("nobody wants the answer any more")
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in fields:
            connection.putheader(name, value)
        # A service may answer, and close, before it has read a body that it does not want.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.endheaders()
            for start in range(0, len(body), _CHUNK):
                connection.send(body[start : start + _CHUNK])
        response = connection.getresponse()
        try:
            if response.status < 200:
                raise http.client.HTTPException("an interim answer that nobody asked for")
            return response, _read(response, max_size)
        finally:
            response.close()  # it may be the last that holds the socket

    def abort(self) -> None:
        """Let `exchange` fail; from any thread."""
        self._is_aborted = True
        sock = self._socket
        if sock is not None:
            # Not `SSLSocket.shutdown`: it would drop the SSL object under the reader's feet.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        if self._socket is not None:
            self._socket.close()


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


def _read(response: http.client.HTTPResponse, max_size: int) -> bytes:
    chunks, size = [], 0
    while chunk := response.read(_CHUNK):
        size += len(chunk)
        if size > max_size:
            raise RequestFailed(502, f"The answer has more than the {max_size} bytes allowed.")
        chunks.append(chunk)
    # `read` says nothing if the end comes before Content-Length.
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(chunks)


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
