"""A connected socket that one thread reads and many write, with or without TLS.

Two threads in one `ssl.SSLSocket` crash the interpreter or end the stream for no reason, however
the calls are spread over `recv` and `send`. What holds: the socket is non-blocking, one lock is
held around each single call into OpenSSL, and nobody waits while holding it. Reading and writing a
plain socket needs no lock; the kernel has its own.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Collection
from typing import NamedTuple

from tunnel.forks import close_in_child
from tunnel.turnstile import give, take
from tunnel.waker import Waker

TLS_PIECE = 16 * 1024
"""Bytes per call into OpenSSL: one TLS record. A larger write may take nothing at all."""


class Readiness(NamedTuple):
    """Why a wait ended; all False: its time was up.

    Attributes:
        readable: Bytes, or the end of the stream, are there to be read.
        writable: The kernel takes bytes again.
        woken: The waker was set.
        ended: The peer's end is there, perhaps behind bytes that are still unread.
    """

    readable: bool
    writable: bool
    woken: bool
    ended: bool


_POLL_IN = getattr(select, "POLLIN", 0)
_POLL_OUT = getattr(select, "POLLOUT", 0)
_POLL_BROKEN = getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)  # always reported
_POLL_PEER_END = getattr(select, "POLLRDHUP", 0)  # Linux: the peer has shut its side

_WANTED_BY_TLS = 0.05
"""Seconds between two tries of a write for which room alone will not do."""

_LONGEST_WAIT = 1_000_000.0
"""Seconds, 11 days: poll takes no more than 24. A wait that is cut short counts as timed out."""


def wait_for(
    sock: socket.socket,
    waker: Waker | None,
    *,
    read: bool,
    write: bool,
    timeout: float | None,
    peer_end: bool = False,
) -> Readiness:
    """Wait until the socket is ready or the waker is set, `timeout` seconds at most.

    With `peer_end`, where the system can tell (Linux), the wait also ends when the peer has shut
    its side while bytes before that are unread. Not for those who only write: what the peer has
    shut says nothing about room, and stays as it is, so that they would spin.
    """
    return _Lookout(sock, waker).wait(read=read, write=write, timeout=timeout, peer_end=peer_end)


class _Lookout:
    """One thread's waits for a socket and perhaps a waker; see `wait_for`.

    Kept by who waits again and again: to make a poll object takes ten times as long as to use it.
    """

    __slots__ = ("_interest", "_poller", "_sock", "_waker", "_waker_descriptor")

    def __init__(self, sock: socket.socket, waker: Waker | None) -> None:
        self._sock = sock
        self._waker = waker
        self._poller = select.poll() if hasattr(select, "poll") else None
        self._interest: int | None = None  # what it is set up for
        self._waker_descriptor: int | None = None

    def wait(
        self, *, read: bool, write: bool, timeout: float | None, peer_end: bool = False
    ) -> Readiness:
        """See `wait_for`."""
        if timeout is not None:
            timeout = min(max(0.0, timeout), _LONGEST_WAIT)
        if self._poller is None:  # without turns
            return _wait_by_select(self._sock, self._waker, read=read, write=write, timeout=timeout)
        descriptor = self._sock.fileno()
        if descriptor < 0:
            return Readiness(read, write, False, True)  # closed: the next call on it says so
        self._set_up(descriptor, read=read, write=write, peer_end=peer_end)
        had_turn = timeout != 0 and give()
        # Rounded up: rounded down, the last millisecond of a wait would be spent spinning.
        milliseconds = None if timeout is None else timeout * 1000 + 0.999
        events = woken = 0
        for ready, mask in self._poller.poll(milliseconds):
            if ready == descriptor:
                events = mask
            else:
                woken = mask
        if had_turn:
            take(bool if self._waker is None else self._waker.event.is_set)
        broken = bool(events & _POLL_BROKEN)
        ended = broken or bool(events & _POLL_PEER_END)
        return Readiness(
            read and (ended or bool(events & _POLL_IN)),
            write and (broken or bool(events & _POLL_OUT)),
            bool(woken),
            ended,
        )

    def _set_up(self, descriptor: int, *, read: bool, write: bool, peer_end: bool) -> None:
        assert self._poller is not None
        interest = (_POLL_IN if read else 0) | (_POLL_OUT if write else 0)
        if peer_end:
            interest |= _POLL_PEER_END
        if interest != self._interest:
            self._poller.register(descriptor, interest)
            self._interest = interest
        if self._waker is not None:
            waker_descriptor = self._waker.fileno()
            if waker_descriptor != self._waker_descriptor:
                if self._waker_descriptor is not None:
                    self._poller.unregister(self._waker_descriptor)
                self._poller.register(waker_descriptor, _POLL_IN)
                self._waker_descriptor = waker_descriptor


def _wait_by_select(
    sock: socket.socket, waker: Waker | None, *, read: bool, write: bool, timeout: float | None
) -> Readiness:
    """The same where the system has no poll (Windows); the peer's end shows only when read."""
    if sock.fileno() < 0:
        return Readiness(read, write, False, True)
    readers: list[socket.socket | Waker] = [sock] if read else []
    if waker is not None:
        readers.append(waker)
    writers = [sock] if write else []
    readable, writable, failed = select.select(readers, writers, [sock], timeout)
    ended = bool(failed)
    return Readiness(
        read and (ended or sock in readable),
        write and (ended or bool(writable)),
        waker in readable,
        ended,
    )


def wait_for_any(
    socks: Collection[socket.socket], waker: Waker, timeout: float
) -> tuple[list[socket.socket], bool]:
    """Wait until one of several sockets is connected or has failed to, or the waker is set.

    Returns:
        The sockets that are ready, and whether the waker was set. Neither: the time was up.
    """
    timeout = min(max(0.0, timeout), _LONGEST_WAIT)
    had_turn = give()
    found = _poll_any(socks, waker, timeout)
    if had_turn:
        take(waker.event.is_set)
    return found


def _poll_any(
    socks: Collection[socket.socket], waker: Waker, timeout: float
) -> tuple[list[socket.socket], bool]:
    if not hasattr(select, "poll"):
        readable, writable, failed = select.select([waker], socks, socks, timeout)
        return [sock for sock in socks if sock in writable or sock in failed], bool(readable)
    poller = select.poll()
    for sock in socks:
        poller.register(sock, _POLL_OUT)
    poller.register(waker, _POLL_IN)
    events = dict(poller.poll(timeout * 1000 + 0.999))  # rounded up, as above
    return [sock for sock in socks if sock.fileno() in events], waker.fileno() in events


class Stream:
    """A connected, non-blocking stream socket.

    `receive` belongs to the reading thread, `send` to whoever has the write role (see
    `tunnel.writer`), `abort` to anyone. `close` is for the reading thread, once nobody can be
    writing.
    """

    __slots__ = ("_is_drained", "_lock", "_lookout", "_sock", "_tls", "_wants_peer", "waker")

    def __init__(self, sock: socket.socket, waker: Waker) -> None:
        sock.setblocking(False)
        close_in_child(sock)
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        # Around each call into OpenSSL; and around `abort`, which must not hit a descriptor that
        # `close` has given back and the system has given to another file.
        self._lock = threading.Lock()
        # The last write waits for the peer's words, not for room: it renegotiates (TLS 1.2), or has
        # sent half of a message of TLS. Whoever reads those words, there is room all the while, and
        # who waited for that alone would spin. So the write is tried again every now and then.
        self._wants_peer = False
        # The last read took less than it could have: there is no more, and the kernel need not be
        # asked. Not with TLS, which reads by records.
        self._is_drained = False
        self.waker = waker
        self._lookout = _Lookout(sock, waker)  # the reading thread's

    @property
    def is_tls(self) -> bool:
        """Whether the bytes are encrypted."""
        return self._tls

    @property
    def socket(self) -> socket.socket:
        """The socket itself, for its options and addresses."""
        return self._sock

    @property
    def endpoints(self) -> tuple[str, str] | None:
        """The IP addresses of this end and of the peer; the peer's with its scope, if it has one.

        None for a Unix socket, and for one that is not connected any more.
        """
        if self._sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        try:
            local, peer = self._sock.getsockname(), self._sock.getpeername()
        except OSError:
            return None
        scope = f"%{peer[3]}" if len(peer) > 3 and peer[3] else ""
        return str(local[0]), str(peer[0]) + scope

    def receive(self, size: int) -> bytes | None:
        """Read at most `size` bytes.

        Returns:
            The bytes; ``b""`` at the end of the stream; None if there are none now, or if there
            were none behind those that the last call has returned.

        Raises:
            OSError: The connection broke.
        """
        if not self._tls:
            if self._is_drained:
                self._is_drained = False
                return None
            try:
                data = self._sock.recv(size)
            except (BlockingIOError, InterruptedError):
                return None
            self._is_drained = 0 < len(data) < size
            return data
        try:
            with self._lock:
                return self._sock.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLZeroReturnError:
            return b""

    def send(self, data: memoryview | bytes) -> int:
        """Write as much of `data` as the kernel takes now.

        After a call that returns 0 on TLS, the next call must begin with the very same bytes.

        Returns:
            How many bytes were taken; 0 if none can be now.

        Raises:
            OSError: The connection broke.
        """
        if not self._tls:
            try:
                return self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                return 0
        self._wants_peer = False
        try:
            with self._lock:
                return self._sock.send(data[:TLS_PIECE])
        except ssl.SSLWantWriteError:
            return 0
        except ssl.SSLWantReadError:
            self._wants_peer = True
            return 0

    def shed(self) -> None:
        """Give back a buffer of TLS that nothing is in; only while nothing is left to be written.

        OpenSSL takes 16 KiB to write in whenever it handles a message of TLS itself, such as the
        session tickets that come after the handshake, and gives them back after the next write.
        `SSL_write_ex` puts nothing on the wire if there is nothing to write (its manual says so).
        """
        if self._tls:
            with contextlib.suppress(OSError), self._lock:  # if it broke, whoever reads will see
                self._sock.send(b"")

    def wait(self, *, read: bool, write: bool, timeout: float | None) -> Readiness:
        """The reading thread's wait: for the socket, the waker, or `timeout` seconds.

        On TLS, bytes that OpenSSL holds already do not show here: call `receive` until it returns
        None before waiting.
        """
        if write and self._wants_peer:
            return self._wait_for_peer(self.waker, read=read, timeout=timeout)
        return self._lookout.wait(read=read, write=write, timeout=timeout, peer_end=True)

    def has_unread(self) -> bool:
        """Whether bytes, or the end of the stream, wait to be read. For the reading thread."""
        if self._tls:
            assert isinstance(self._sock, ssl.SSLSocket)
            with self._lock:
                if self._sock.pending():
                    return True
        return wait_for(self._sock, None, read=True, write=False, timeout=0).readable

    def wait_writable(self, timeout: float | None) -> bool:
        """A writer's wait, in any thread; an `abort` ends it too."""
        if self._wants_peer:
            return self._wait_for_peer(None, read=False, timeout=timeout).writable
        return wait_for(self._sock, None, read=False, write=True, timeout=timeout).writable

    def _wait_for_peer(
        self, waker: Waker | None, *, read: bool, timeout: float | None
    ) -> Readiness:
        """A moment's wait at most, after which the write may be tried again."""
        timeout = _WANTED_BY_TLS if timeout is None else min(timeout, _WANTED_BY_TLS)
        ready = wait_for(self._sock, waker, read=read, write=False, timeout=timeout, peer_end=read)
        return ready._replace(writable=True)

    def abort(self) -> None:
        """End the connection at once, in both directions; whoever waits for it is woken.

        The base class's `shutdown`, since `SSLSocket.shutdown` drops its SSL object first, and what
        another thread writes in that moment would go out in clear. The descriptor stays open, so
        that nobody can be using it when its number is given to another file.
        """
        # An OSError says that it is not connected any more: that is what was asked for.
        with self._lock, contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            self._sock.close()
