"""A TCP proxy on loopback that does to connections what networks do: the faults of the tests.

All faults are asked for by the test, and a call returns once the fault has happened; none happens
by chance but those of `cutting`, whose chance the test brings along. One thread runs a selector
loop; the test's calls run in it (`_call`), so that nothing here needs a lock. To add a fault, write
a method that does it within `_call`, or a context manager that sets a flag which
`_Connection.interest` obeys.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType

UP, DOWN = "up", "down"  # from the client to the server, and back
_CHUNK = 64 * 1024
_HELD = 256 * 1024  # bytes that the proxy holds in each direction before it stops reading


class FaultProxy:
    """Forwards what comes to `port` to a server, as faultily as it is told.

    Args:
        target: The server's port on 127.0.0.1; can be changed by `target`.

    Attributes:
        port: Where it listens on 127.0.0.1.
        accepted: How many connections it has accepted.
        forwarded: Bytes by direction, over all connections.
        cuts: How many connections `cutting` has cut.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.accepted = 0
        self.forwarded = {UP: 0, DOWN: 0}
        self.cuts = 0
        self._rng: random.Random | None = None
        self._interval = (0.0, 0.0)
        self._next_cut = 0.0
        self._silent = {UP: False, DOWN: False}
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._calls: deque[Callable[[], None]] = deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._on_wake)
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()
        self._running = True
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call(self._stop)
        self._thread.join()

    # Faults

    def reset(self) -> int:
        """Break every connection with RST, to both ends. Returns how many there were."""
        return self._call(lambda: self._each(_Connection.reset))

    def fin(self) -> int:
        """End every connection with FIN, no close frame before it. Returns how many there were."""
        return self._call(lambda: self._each(_Connection.fin))

    @contextlib.contextmanager
    def silent(self, *directions: str) -> Iterator[None]:
        """Let no byte through, in both directions or in those named; afterwards all that was held.

        Connections that are made meanwhile are accepted and not answered. In direction `UP` this is
        also a peer that has stopped reading: the client's writes stall.
        """
        silenced = directions or (UP, DOWN)
        self._call(lambda: self._set_silent(silenced, True))
        try:
            yield
        finally:
            self._call(lambda: self._set_silent(silenced, False))

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse new connections; those that are there live on."""
        self._call(self._close_listener)
        try:
            yield
        finally:
            self._call(self._listen)

    @contextlib.contextmanager
    def cutting(self, rng: random.Random, interval: tuple[float, float]) -> Iterator[None]:
        """Cut connections in the midst of what they forward, again and again.

        Args:
            rng: Draws the moments, the byte at which to cut, and whether by RST or FIN.
            interval: Seconds between two cuts, at least and at most.
        """
        self._call(lambda: self._start_cutting(rng, interval))
        try:
            yield
        finally:
            self._call(lambda: self._start_cutting(None, interval))

    # Looking

    @property
    def live(self) -> int:
        """How many connections there are."""
        return self._call(lambda: len(self._connections))

    # Inside

    def _call(self, action: Callable[[], object]) -> object:
        """Run an action in the loop's thread, and wait for what it returns."""
        done = threading.Event()
        results: list[object] = []

        def run() -> None:
            try:
                results.append(action())
            finally:
                done.set()

        self._calls.append(run)
        self._wake_out.send(b"\0")
        if not done.wait(10):
            raise RuntimeError("the proxy's thread has ended")
        return results[0]

    def _run(self) -> None:
        while self._running:
            for key, events in self._selector.select():
                if key.fileobj.fileno() >= 0:  # not closed by an earlier one of this round
                    key.data(key.fileobj, events)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _on_wake(self, sock: socket.socket, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            sock.recv(4096)
        while self._calls:
            self._calls.popleft()()

    def _listen(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._selector.register(self._listener, selectors.EVENT_READ, self._on_connection)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _on_connection(self, listener: socket.socket, events: int) -> None:
        client, _ = listener.accept()
        self.accepted += 1
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            _reset(client)
            return
        self._connections.add(_Connection(self, client, server))

    def _each(self, fault: Callable[[_Connection], None]) -> int:
        connections = tuple(self._connections)
        for connection in connections:
            fault(connection)
        return len(connections)

    def _set_silent(self, directions: tuple[str, ...], silent: bool) -> None:
        for direction in directions:
            self._silent[direction] = silent
        for connection in tuple(self._connections):
            connection.attend()

    def _start_cutting(self, rng: random.Random | None, interval: tuple[float, float]) -> None:
        self._rng, self._interval = rng, interval
        if rng is not None:
            self._next_cut = time.monotonic() + rng.uniform(*interval)

    def is_cut_due(self) -> bool:
        """Whether the next bytes are to be cut. In the loop's thread."""
        return self._rng is not None and time.monotonic() >= self._next_cut

    def cut(self, connection: _Connection, sock: socket.socket, data: bytes) -> None:
        """Forward some of the data, and end the connection there. In the loop's thread."""
        rng = self._rng
        assert rng is not None
        self.cuts += 1
        self._next_cut = time.monotonic() + rng.uniform(*self._interval)
        with contextlib.suppress(OSError):
            sock.send(data[: rng.randrange(len(data) + 1)])
        if rng.random() < 0.5:
            connection.reset()
        else:
            connection.fin()

    def _stop(self) -> None:
        self._close_listener()
        self._each(_Connection.reset)
        self._running = False


class _Connection:
    """A client, a server, and the bytes between them."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._from = {UP: client, DOWN: server}
        self._to = {UP: server, DOWN: client}
        self._held = {UP: bytearray(), DOWN: bytearray()}
        self._ended = {UP: False, DOWN: False}  # nothing more comes from that side
        self._passed_on = {UP: False, DOWN: False}  # ... and the other side knows
        self._discards = False  # after `fin`: what the client still sends goes nowhere
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.attend()

    def reset(self) -> None:
        self._forget()
        _reset(self._client)
        _reset(self._server)

    def fin(self) -> None:
        self._selector_forget(self._server)
        self._server.close()
        self._discards = True
        self._ended[DOWN] = self._passed_on[DOWN] = True
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)
        self.attend()

    def attend(self) -> None:
        """Wait for exactly what this connection can use now."""
        self._watch(self._client, self._interest(reads=UP, writes=DOWN))
        if not self._discards:
            self._watch(self._server, self._interest(reads=DOWN, writes=UP))

    def _interest(self, *, reads: str, writes: str) -> int:
        interest = 0
        silent = self._proxy._silent
        room = len(self._held[reads]) < _HELD
        if not self._ended[reads] and room and (not silent[reads] or self._discards):
            interest |= selectors.EVENT_READ
        if self._held[writes] and not silent[writes] and not self._passed_on[writes]:
            interest |= selectors.EVENT_WRITE
        return interest

    def _on_event(self, sock: socket.socket, events: int) -> None:
        reads, writes = (UP, DOWN) if sock is self._client else (DOWN, UP)
        try:
            if events & selectors.EVENT_READ:
                self._read(sock, reads)
            if events & selectors.EVENT_WRITE:
                self._write(sock, writes)
            self._pass_ends_on()
        except BlockingIOError:
            pass
        except OSError:  # one end has broken: so has the other
            if not self._discards:
                self.reset()
            return
        if self._passed_on[UP] and self._passed_on[DOWN]:
            self._forget()
            self._client.close()
            self._server.close()
        else:
            self.attend()

    def _read(self, sock: socket.socket, direction: str) -> None:
        data = sock.recv(_CHUNK)
        if not data:
            self._ended[direction] = True
            if self._discards:
                self._passed_on[direction] = True
        elif not self._discards:
            self._held[direction] += data

    def _write(self, sock: socket.socket, direction: str) -> None:
        if self._proxy.is_cut_due():
            self._proxy.cut(self, sock, bytes(self._held[direction][:_CHUNK]))
            raise ConnectionResetError("cut")
        taken = sock.send(self._held[direction][:_CHUNK])
        del self._held[direction][:taken]
        self._proxy.forwarded[direction] += taken

    def _pass_ends_on(self) -> None:
        for direction in (UP, DOWN):
            over = self._ended[direction] and not self._held[direction]
            if over and not self._passed_on[direction]:
                self._passed_on[direction] = True
                self._to[direction].shutdown(socket.SHUT_WR)

    def _watch(self, sock: socket.socket, interest: int) -> None:
        selector = self._proxy._selector
        known = sock in selector.get_map()
        if known and interest:
            selector.modify(sock, interest, self._on_event)
        elif known:
            selector.unregister(sock)
        elif interest:
            selector.register(sock, interest, self._on_event)

    def _selector_forget(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0 and sock in self._proxy._selector.get_map():
            self._proxy._selector.unregister(sock)

    def _forget(self) -> None:
        self._selector_forget(self._client)
        self._selector_forget(self._server)
        self._proxy._connections.discard(self)


def _reset(sock: socket.socket) -> None:
    """Close with RST in place of FIN."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
