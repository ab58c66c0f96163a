"""The way to a connected stream: look-up, TCP, proxy, TLS, under one deadline, abortable.

websocket-client can only dial by itself in a way that cannot be interrupted and has one time-out
per operation. So this module dials, and the library gets the connected socket (see
`tunnel.transport`). Nothing here blocks in a system call: all waits are polls that the tunnel's
waker ends. Only the name look-up cannot be interrupted; it runs in a thread of its own, which is
left behind if nobody waits for it any more.

The addresses of a name are raced (`tunnel.happy_eyeballs`). To a proxy the way is the same; what is
said there is `tunnel.proxy_handshake`, and TLS with the server goes through what the proxy opened.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable

from tunnel.addresses import TunnelUrl
from tunnel.connect_race import ConnectRace
from tunnel.dial_options import DIRECT, DialOptions
from tunnel.errors import ConnectTimeoutError, NetworkError
from tunnel.forks import close_in_child
from tunnel.happy_eyeballs import AddressInfo
from tunnel.name_lookup import LOOKUPS
from tunnel.nested_tls import NestedTlsSocket, nesting_context
from tunnel.proxy import Proxy
from tunnel.proxy_errors import error_with_proxy
from tunnel.proxy_handshake import Conversation, conversation
from tunnel.stream import Readiness, Stream, wait_for, wait_for_any
from tunnel.tls import check_session, default_context
from tunnel.turnstile import give, take
from tunnel.waker import Waker

_BACKLOG_PAUSE = 0.02
"""Seconds between two tries at a Unix socket whose backlog is full, which no poll can wait for."""


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

    def open_stream(
        self,
        url: TunnelUrl,
        ssl_context: ssl.SSLContext | None,
        options: DialOptions = DIRECT,
    ) -> Stream:
        """Connect to `url`, with TLS if it is a wss one.

        Args:
            url: The server.
            ssl_context: For wss; None: one that verifies against the system's certificates.
            options: How to get there.

        Raises:
            TunnelError: The time was up, or the dial was interrupted; the proxy did not open the
                way; TLS came about in a way that is not allowed.
            OSError: No address of the name could be reached; the most telling one's error.
            ssl.SSLError: The handshake failed, or the certificate was refused.
        """
        sock = self._open_way(url, options)
        try:
            if url.is_secure:
                sock = self._wrap_in_tls(sock, url.host, ssl_context or default_context())
                check_session(sock, options.pins)
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

    def wait(self, sock: socket.socket, *, read: bool, write: bool) -> Readiness:
        """Wait for `sock`, until the deadline.

        Raises:
            TunnelError: The time was up, or the dial was interrupted.
        """
        while True:
            self.check()
            timeout = self.deadline.remaining()
            ready = wait_for(sock, self._waker, read=read, write=write, timeout=timeout)
            if ready.readable or ready.writable:
                return ready
            if not ready.woken:
                # Judged by the poll's own clock, which no test can freeze.
                raise self.deadline.exceeded()

    def send(self, stream: Stream, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            TunnelError: The time was up, or the dial was interrupted.
            OSError: The connection broke.
        """
        view = memoryview(data)
        while view:
            taken = stream.send(view)
            if not taken:
                self.wait(stream.socket, read=False, write=True)
            view = view[taken:]

    def receive(self, stream: Stream, size: int) -> bytes:
        """Read what is there, at most `size` bytes, waiting for the first; ``b""`` at the end.

        Raises:
            TunnelError: The time was up, or the dial was interrupted.
            OSError: The connection broke.
        """
        while (data := stream.receive(size)) is None:
            self.wait(stream.socket, read=True, write=False)
        return data

    # The name

    def _look_up(self, host: str, port: int) -> list[AddressInfo]:
        self.deadline.step = "name look-up"
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return self._look_up_name(host, port)
        return _resolve(host, port, socket.AI_NUMERICHOST)

    def _look_up_name(self, host: str, port: int) -> list[AddressInfo]:
        lookup = LOOKUPS.begin((host, port), functools.partial(_resolve, host, port), self._waker)
        try:
            while lookup.outcome is None:
                self.check()
                if lookup.outcome is None:
                    timeout = self.deadline.remaining()
                    if not self._await_wake_up(timeout):
                        raise self.deadline.exceeded()
        finally:
            LOOKUPS.leave(lookup, self._waker)
        if isinstance(lookup.outcome, Exception):
            raise copy.copy(lookup.outcome)  # others may raise it, too
        return lookup.outcome

    def _await_wake_up(self, timeout: float) -> bool:
        had_turn = give()
        woken = self._waker.event.wait(timeout)
        if had_turn:
            take(self._waker.event.is_set)
        return woken

    # The way

    def _open_way(self, url: TunnelUrl, options: DialOptions) -> socket.socket:
        """What TLS, or the upgrade, can begin on."""
        if options.unix_socket is not None:
            return self._connect_unix(options.unix_socket, options)
        if options.proxy is not None:
            return self._pass_proxy(options.proxy, url, options)
        return self._connect_any(self._look_up(url.host, url.port), options)

    def _connect_any(self, addresses: list[AddressInfo], options: DialOptions) -> socket.socket:
        """Race the addresses (`tunnel.happy_eyeballs`); the first one that connects wins."""
        self.deadline.step = "TCP connect"
        race = ConnectRace(addresses, options)
        try:
            while True:
                self.check()
                winner = race.start_due(time.monotonic())
                error = race.error()
                if error is not None:
                    raise error
                winner = winner or self._await_winner(race)
                if winner is not None:
                    return winner
        finally:
            race.close()

    def _await_winner(self, race: ConnectRace) -> socket.socket | None:
        """Wait for something to happen in the race: a success, a failure, or the next start."""
        timeout = self.deadline.remaining()
        pause = race.pause(time.monotonic())
        share = timeout if pause is None else min(pause, timeout)
        ready, woken = wait_for_any(race.sockets, self._waker, share)
        if not ready and not woken:
            if share == timeout:
                raise self.deadline.exceeded()
            race.expire()  # by the poll's own clock, as above
        return race.settle(ready)

    def _connect_unix(self, path: str, options: DialOptions) -> socket.socket:
        assert hasattr(socket, "AF_UNIX")  # else the path would have been refused
        self.deadline.step = "connect to the Unix socket"
        while True:
            sock = options.make_socket(socket.AF_UNIX)
            try:
                error = sock.connect_ex(path)
                if not error:
                    return sock
                if error != errno.EAGAIN:  # its backlog is full
                    raise OSError(error, os.strerror(error))
                sock.close()
            except BaseException:
                sock.close()
                raise
            self.check()
            self._await_wake_up(min(_BACKLOG_PAUSE, self.deadline.remaining()))

    # The proxy

    def _pass_proxy(self, proxy: Proxy, url: TunnelUrl, options: DialOptions) -> socket.socket:
        host = url.host
        if proxy.wants_address:
            host = proxy.chosen_address(self._look_up(url.host, url.port))
        try:
            sock = self._connect_any(self._look_up(proxy.host, proxy.port), options)
            try:
                if proxy.scheme == "https":
                    sock = self._wrap_in_tls(sock, proxy.host, nesting_context())
                    check_session(sock)
                self.deadline.step = "proxy handshake"
                self._converse(sock, conversation(proxy, host, url.port))
                return sock
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            # Without its frames: they hold what was said, and with it the credentials.
            raise error_with_proxy(str(proxy), error) from error.with_traceback(None)

    def _converse(self, sock: socket.socket, talk: Conversation) -> None:
        """Say and hear what the conversation wants."""
        stream = Stream(sock, self._waker)
        wanted = next(talk)
        with contextlib.suppress(StopIteration):
            while True:
                if isinstance(wanted, int):
                    wanted = talk.send(self.receive(stream, wanted))
                else:
                    self.send(stream, wanted)
                    wanted = next(talk)

    # TLS

    def _wrap_in_tls(
        self, sock: socket.socket, host: str, context: ssl.SSLContext
    ) -> ssl.SSLSocket:
        self.deadline.step = "TLS handshake"
        # In a certificate an absolute name has no dot at its end (RFC 6066, section 3), and an
        # address no zone: that means something on this machine alone.
        host = host.partition("%")[0].removesuffix(".")
        if isinstance(sock, NestedTlsSocket):
            wrapped: ssl.SSLSocket = sock.nest(context, host)
        else:
            wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            close_in_child(wrapped)  # the descriptor is its own now
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


def _resolve(host: str, port: int, flags: int = 0) -> list[AddressInfo]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))
