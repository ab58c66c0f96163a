"""A WebSocket connection as bytes after the upgrade: the seam to the network.

`WebSocketTransport` is a `websocket.WebSocket`: the library makes and checks the opening handshake
(RFC 6455, section 4) and keeps the socket. Frames are ours (`tunnel.frames`), and so are dialling
and waiting. Tests replace the whole by `tunnel.testing.ScriptedTransport`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import websocket

from tunnel.addresses import TunnelUrl
from tunnel.dial import Dial
from tunnel.dial_options import DIRECT, DialOptions
from tunnel.errors import ProtocolError, TunnelError
from tunnel.handshake_socket import HandshakeSocket
from tunnel.stream import Readiness, Stream
from tunnel.waker import Waker


@dataclass(frozen=True)
class DialRequest:
    """Where to connect, and what to say there.

    Attributes:
        url: The server.
        headers: Sent with the upgrade; validated (see `tunnel.addresses.validate_headers`).
        subprotocols: Offered in this order.
        ssl_context: For wss; None for one that verifies against the system's certificates.
        timeout: Seconds for look-up, TCP, proxy, TLS and upgrade together.
        max_header_size: Bytes of the server's answer, up to the end of its headers.
        options: How to get to the server.
    """

    url: TunnelUrl
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # may hold a token
    subprotocols: tuple[str, ...] = ()
    ssl_context: ssl.SSLContext | None = None
    timeout: float = 10.0
    max_header_size: int = 64 * 1024
    options: DialOptions = DIRECT


class Transport(Protocol):
    """One connection, dialled once.

    `open` and `receive` and `wait` belong to one thread, the tunnel's; `send` and `wait_writable`
    to whoever has the write role; `abort` to anyone; `close` to the tunnel's thread after the last
    `send`.
    """

    @property
    def waker(self) -> Waker:
        """What interrupts `open` and `wait`."""
        ...

    def open(self, request: DialRequest, interrupted: Callable[[], bool]) -> None:
        """Dial and upgrade.

        Raises:
            TunnelError: It failed.
            DialInterrupted: `interrupted` said so after a wake-up.
        """
        ...

    @property
    def response_headers(self) -> dict[str, str]:
        """The server's, with names in lower case; several of a name are joined by commas."""
        ...

    @property
    def subprotocol(self) -> str | None:
        """The one that the server chose."""
        ...

    @property
    def endpoints(self) -> tuple[str, str] | None:
        """The IP addresses of this end and of the peer, or of the proxy in between; or None."""
        ...

    def receive(self, size: int) -> bytes | None:
        """At most `size` bytes; ``b""`` at the end; None if there are none now."""
        ...

    def send(self, data: memoryview | bytes) -> int:
        """How many bytes were taken; 0 if none can be now, then the same bytes must come first."""
        ...

    def wait(self, *, read: bool, write: bool, timeout: float | None) -> Readiness:
        """Wait for bytes, for room, or to be woken."""
        ...

    def has_unread(self) -> bool:
        """Whether bytes, or the end of the stream, wait to be read."""
        ...

    def wait_writable(self, timeout: float | None) -> bool:
        """Wait for room, in any thread."""
        ...

    def abort(self) -> None:
        """End the connection at once; all waits for it end."""
        ...

    def close(self) -> None:
        """Give back what the connection held."""
        ...


class WebSocketTransport(websocket.WebSocket):
    """The `Transport` over websocket-client.

    Args:
        waker: Interrupts `open` and `wait`.
    """

    def __init__(self, waker: Waker) -> None:
        super().__init__(enable_multithread=False)  # its locks guard calls that are not made here
        del self.frame_buffer, self.cont_frame  # frames are read by `tunnel.frames`
        self.waker = waker
        self._stream: Stream | None = None
        self._rest = b""
        self._headers: dict[str, str] = {}

    def open(self, request: DialRequest, interrupted: Callable[[], bool]) -> None:
        """See `Transport.open`."""
        dial = self._make_dial(request.timeout, interrupted)
        try:
            self._stream = dial.open_stream(request.url, request.ssl_context, request.options)
            self._upgrade(request, self._stream, dial)
        except BaseException as error:
            self.close()
            if not isinstance(error, Exception):
                raise
            # The library's frames hold the request's headers, and so the token: not to be kept.
            error = error.with_traceback(None)
            if isinstance(error, TunnelError):
                raise error from error.__cause__
            translated = TunnelError.from_exception(error)
            raise translated from translated.__cause__

    def adopt(self, connection: websocket.WebSocket) -> None:
        """Take over a connection that websocket-client opened; `connection` is of no use after it.

        Raises:
            ValueError: It is not connected, or has read a part of a message and keeps it.
        """
        if connection.sock is None or not connection.connected:
            raise ValueError("the websocket.WebSocket to wrap is not connected")
        buffer = connection.frame_buffer
        if buffer.recv_buffer or buffer.header or connection.cont_frame.cont_data:
            raise ValueError("the websocket.WebSocket to wrap is in the middle of a message")
        self._stream = Stream(connection.sock, self.waker)
        self._headers = dict(connection.getheaders() or {})
        connection.sock, connection.connected = None, False

    @property
    def response_headers(self) -> dict[str, str]:
        """See `Transport.response_headers`."""
        return dict(self._headers)

    @property
    def subprotocol(self) -> str | None:
        """See `Transport.subprotocol`."""
        return self._headers.get("sec-websocket-protocol")

    @property
    def endpoints(self) -> tuple[str, str] | None:
        """See `Transport.endpoints`."""
        return None if self._stream is None else self._stream.endpoints

    def receive(self, size: int) -> bytes | None:
        """See `Transport.receive`."""
        if self._rest:
            rest, self._rest = self._rest[:size], self._rest[size:]
            return rest
        return self._live.receive(size)

    def send(self, data: memoryview | bytes) -> int:  # type: ignore[override]
        """See `Transport.send`."""
        stream = self._stream
        return (self._live if stream is None else stream).send(data)

    def wait(self, *, read: bool, write: bool, timeout: float | None) -> Readiness:
        """See `Transport.wait`."""
        return self._live.wait(read=read, write=write, timeout=timeout)

    def has_unread(self) -> bool:
        """See `Transport.has_unread`."""
        return bool(self._rest) or self._live.has_unread()

    def wait_writable(self, timeout: float | None) -> bool:
        """See `Transport.wait_writable`."""
        return self._live.wait_writable(timeout)

    def abort(self) -> None:
        """See `Transport.abort`."""
        if self._stream is not None:
            self._stream.abort()

    def close(self) -> None:  # type: ignore[override]
        """See `Transport.close`. No close handshake: that is the link's (`tunnel.link`)."""
        if self._stream is not None:
            self._stream.close()

    def _make_dial(self, timeout: float, interrupted: Callable[[], bool]) -> Dial:
        """What dials; a subclass may watch its steps."""
        return Dial(timeout, self.waker, interrupted)

    @property
    def _live(self) -> Stream:
        if self._stream is None:
            raise ProtocolError("the transport has not been opened")
        return self._stream

    def _upgrade(self, request: DialRequest, stream: Stream, dial: Dial) -> None:
        sock = HandshakeSocket(
            stream,
            dial,
            request.url.resource,
            request.max_header_size,
            headers=request.headers,
            subprotocols=request.subprotocols,
        )
        self.connect(  # type: ignore[no-untyped-call]  # the library is typed in part
            f"{request.url.scheme}://{request.url.host_header}/",  # the rest is added by `sock`
            socket=sock,
            host=request.url.host_header,  # the library's own has no port on ws://host:443
            subprotocols=list(request.subprotocols) or None,
            redirect_limit=0,  # a redirect would carry the Authorization header elsewhere
            suppress_origin=True,  # a header of browsers; servers refuse origins unknown to them
        )
        self.sock = None  # ours to keep and close
        self.handshake_response = None  # a part of the headers once more
        self._headers, self._rest = sock.headers, sock.rest
        stream.shed()
