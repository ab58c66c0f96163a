"""The way to a connected stream: name look-up, TCP, TLS, under one deadline, abortable.

websocket-client can only dial by itself in a way that cannot be interrupted and has one time-out
per operation. So this module dials, and the library gets the connected socket (see
`tunnel.transport`). Nothing here blocks in a system call: all waits are polls that the tunnel's
waker ends. Only the name look-up cannot be interrupted; it runs in a thread of its own, which is
left behind if nobody waits for it any more.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from tunnel.addresses import TunnelUrl
from tunnel.errors import ConnectTimeoutError, NetworkError, ProtocolError, TunnelError
from tunnel.handshake_errors import error_for_status
from tunnel.stream import Readiness, Stream, wait_for
from tunnel.waker import Waker

_AddressInfo = tuple[Any, ...]


class DialInterrupted(NetworkError):
    """The dial was called off, or is to begin anew. Not a fault, so it never leaves the tunnel."""


class Deadline:
    """A point in time up to which an operation may take, spread over its steps.

    On the real clock, since it bounds waits for real sockets.

    Raises:
        ConnectTimeoutError: By `remaining`, once the time is up.
    """

    __slots__ = ("_end", "_seconds", "step")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self.step = "name look-up"

    def remaining(self) -> float:
        """Seconds left; always more than 0."""
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise self.exceeded()
        return remaining

    def exceeded(self) -> ConnectTimeoutError:
        """The error that says in which step the time ran out."""
        return ConnectTimeoutError(
            f"no connection within {self._seconds:g} s: the time ran out during the {self.step}"
        )


class Dial:
    """One attempt to get through: the deadline and the means to interrupt it.

    Args:
        timeout: Seconds for everything up to the end of the WebSocket upgrade.
        waker: Ends a wait at once.
        interrupted: Asked after each wake-up: has the dial lost its purpose?
    """

    def __init__(self, timeout: float, waker: Waker, interrupted: Callable[[], bool]) -> None:
        self.deadline = Deadline(timeout)
        self._waker = waker
        self._interrupted = interrupted

    def open_stream(self, url: TunnelUrl, ssl_context: ssl.SSLContext | None) -> Stream:
        """Connect to `url`, with TLS if it is a wss one.

        Raises:
            TunnelError: The time was up, or the dial was interrupted.
            OSError: No address of the name could be reached; the first one's error.
            ssl.SSLError: The handshake failed, or the certificate was refused.
        """
        sock = self._connect_any(self._look_up(url.host, url.port))
        try:
            if url.is_secure:
                sock = self._wrap_in_tls(sock, url.host, ssl_context or _default_ssl_context())
            return Stream(sock, self._waker)
        except BaseException:
            sock.close()
            raise

    def check(self) -> None:
        """Obey a wake-up.

        Raises:
            DialInterrupted: The dial has lost its purpose.
        """
        self._waker.clear()
        if self._interrupted():
            raise DialInterrupted("the dial was called off")

    def wait(
        self, sock: socket.socket, *, read: bool, write: bool, limit: float = 1e9
    ) -> Readiness:
        """Wait for `sock`, until the deadline or for `limit` seconds, whichever is first.

        Raises:
            TunnelError: The time was up, or the dial was interrupted.
        """
        end = time.monotonic() + limit
        while True:
            self.check()
            timeout = self.deadline.remaining()
            share = end - time.monotonic()  # whatever woke it in between, the limit stays the same
            ready = wait_for(sock, self._waker, read=read, write=write, timeout=min(timeout, share))
            if ready.readable or ready.writable:
                return ready
            if not ready.woken:
                if timeout > share:
                    return ready
                # Judged by the poll's own clock, which no test can freeze.
                raise self.deadline.exceeded()

    def _look_up(self, host: str, port: int) -> list[_AddressInfo]:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return self._look_up_name(host, port)
        return _resolve(host, port, socket.AI_NUMERICHOST)

    def _look_up_name(self, host: str, port: int) -> list[_AddressInfo]:
        """Resolve in a thread that may be abandoned: `getaddrinfo` cannot be interrupted."""
        outcome: list[list[_AddressInfo] | Exception] = []

        def resolve() -> None:
            try:
                outcome.append(_resolve(host, port))
            except Exception as error:
                outcome.append(error)
            self._waker.wake()

        threading.Thread(target=resolve, name="tunnel-resolver", daemon=True).start()
        while not outcome:
            self.check()
            if not outcome and not self._waker.event.wait(self.deadline.remaining()):
                raise self.deadline.exceeded()
        result = outcome[0]
        if isinstance(result, Exception):
            raise result
        return result

    def _connect_any(self, addresses: list[_AddressInfo]) -> socket.socket:
        """Try the addresses in turn, each with its share of the time that is left."""
        self.deadline.step = "TCP connect"
        first_error: OSError | None = None
        for position, address in enumerate(addresses):
            share = self.deadline.remaining() / (len(addresses) - position)
            try:
                return self._connect_one(address, share)
            except OSError as error:
                first_error = first_error or error
        raise first_error or OSError(errno.EADDRNOTAVAIL, "the name has no address")

    def _connect_one(self, address: _AddressInfo, share: float) -> socket.socket:
        family, kind, protocol, _, target = address
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            _set_options(sock)
            error = sock.connect_ex(target)
            if error in (errno.EINPROGRESS, errno.EWOULDBLOCK):
                if not self.wait(sock, read=False, write=True, limit=share).writable:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            return sock
        except BaseException:
            sock.close()
            raise

    def _wrap_in_tls(
        self, sock: socket.socket, host: str, context: ssl.SSLContext
    ) -> ssl.SSLSocket:
        self.deadline.step = "TLS handshake"
        wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        try:
            while True:
                try:
                    wrapped.do_handshake()
                    return wrapped
                except ssl.SSLWantReadError:
                    self.wait(wrapped, read=True, write=False)
                except ssl.SSLWantWriteError:
                    self.wait(wrapped, read=False, write=True)
        except BaseException:
            wrapped.close()
            raise


class HandshakeSocket:
    """What websocket-client takes for a socket while it speaks HTTP.

    The library reads its answer byte by byte from a blocking socket with a time-out per call. This
    reads ahead, under the dial's deadline, interruptibly, and no more than `limit` bytes. What was
    read beyond the end of the headers belongs to the WebSocket: see `rest`. The body of a refusal,
    which the library would wait for, is not read: it may be long or never come, and is not used.

    Two faults of the library's request are put right on its way through: it drops the parameters
    of a path (``/a;b=1``), and encodes header values as UTF-8, not as Latin-1 (RFC 7230, 3.2.4).

    Args:
        stream: Connected.
        dial: Gives the deadline, and says when to stop.
        resource: What is requested, as it is to be on the wire.
        limit: Bytes that the answer may have.
    """

    def __init__(self, stream: Stream, dial: Dial, resource: str, limit: int) -> None:
        self._stream = stream
        self._dial = dial
        self._resource = resource
        self._limit = limit
        self._buffer = b""
        self._position = 0
        self._line = bytearray()  # the header line that is being read
        self._lines: list[str] = []  # those before it
        self._has_headers = False
        dial.deadline.step = "WebSocket upgrade"

    @property
    def rest(self) -> bytes:
        """The bytes that were read and not asked for."""
        return self._buffer[self._position :]

    def recv(self, size: int) -> bytes:
        """Read as `socket.recv` does, waiting for the first byte.

        Raises:
            TunnelError: The time was up, the dial was interrupted, or the answer is too long; or
                this would be a body: then the error is that of the answer's status.
        """
        if self._has_headers:
            raise self._refusal()
        if self._position == len(self._buffer):
            self._buffer, self._position = self._read(), 0
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        self._note(data)
        return data

    def send(self, data: bytes) -> int:
        """Write the request, all of it."""
        _, _, headers = data.decode("utf-8").partition("\r\n")
        request = f"GET {self._resource} HTTP/1.1\r\n{headers}".encode("latin-1")
        view = memoryview(request)
        while view:
            taken = self._stream.send(view)
            if not taken:
                self._dial.wait(self._stream.socket, read=False, write=True)
            view = view[taken:]
        return len(data)

    def gettimeout(self) -> float:
        """Not zero, so that the library takes `recv` for a blocking one."""
        return self._dial.deadline.remaining()

    def close(self) -> None:
        """The library closes what failed; the transport owns the stream and does it itself."""

    def _note(self, data: bytes) -> None:
        """Keep the headers, in which the library (by one byte at a time) has found no fault."""
        self._line += data
        if data.endswith(b"\n"):
            line = self._line.decode("latin-1").strip()
            self._line.clear()
            self._lines.append(line)
            self._has_headers = not line

    def _refusal(self) -> TunnelError:
        status = int(self._lines[0].split()[1])
        fields = (line.partition(":") for line in self._lines[1:])
        return error_for_status(status, {name: value.strip() for name, _, value in fields})

    def _read(self) -> bytes:
        if self._limit <= 0:
            raise ProtocolError("the server's answer to the upgrade does not come to an end")
        while True:
            chunk = self._stream.receive(min(4096, self._limit))
            if chunk is not None:
                self._limit -= len(chunk)
                return chunk
            self._dial.wait(self._stream.socket, read=True, write=False)


def _resolve(host: str, port: int, flags: int = 0) -> list[_AddressInfo]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)


def _set_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The kernel's own probes are a second net below the heartbeat, for those who turn that off.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


@functools.lru_cache(maxsize=1)
def _default_ssl_context() -> ssl.SSLContext:
    """One for all tunnels: loading the system's certificates takes some 20 ms."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
