"""One connection to an HTTP service, for one exchange after the other; it can be broken off.

The standard library's client speaks HTTP. What it lacks is added here: an end of the body that
comes too early is noticed, an answer is bounded, and another thread can break the exchange off.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from contextlib import suppress

from tunnel.gateway.handlers import RequestFailed

_CONNECT_TIMEOUT = 10.0
_CHUNK = 64 * 1024


class HttpConnection:
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
