"""A TCP proxy on loopback that does to connections what networks do: the faults of the tests.

All faults are asked for by the test, and a call returns once the fault has happened or is set up;
none happens by chance but those of `cutting`, whose chance the test brings along. One thread runs a
selector loop; the test's calls run in it (`_call`), so that nothing here needs a lock.

Three kinds of faults: a method that does something to all connections now (`reset`); a context
manager while which something holds for all of them (`silent`; those that have a rate or a delay set
a `Shape`); and a `Strike`, which happens once, at an exact byte (`cut`, `flip`, `insert`).
`proxy_streams` has the bytes, `proxy_connections` the sockets.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import itertools
import random
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TypeVar

from proxy_connections import Connection, Twin, reset
from proxy_streams import DOWN, UP, Cut, Pipe, Shape, Strike

__all__ = ["DOWN", "UP", "FaultProxy"]

_Result = TypeVar("_Result")


class FaultProxy:
    """Forwards what comes to `port` to a server, as faultily as it is told.

    Where directions may be named and are not, both are meant.

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
        self.shapes = {UP: Shape(), DOWN: Shape()}
        self.strikes: dict[str, list[Strike]] = {UP: [], DOWN: []}
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._rng: random.Random | None = None
        self._interval = (0.0, 0.0)
        self._next_cut = 0.0
        self._twin_late: float | None = None
        self._is_ignoring = False
        self._ignored: list[socket.socket] = []
        self._connections: set[Connection | Twin] = set()
        self._idle = threading.Event()  # there is no connection of a client
        self._idle.set()
        self._calls: deque[Callable[[], None]] = deque()
        self._later: list[tuple[float, int, Callable[[], None]]] = []  # a heap
        self._count = itertools.count()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self.selector.register(self._wake_in, selectors.EVENT_READ, self._on_wake)
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

    # Faults that happen now

    def reset(self) -> int:
        """Break every connection with RST, to both ends. Returns how many there were."""
        return self._call(lambda: self._each(Connection.reset))

    def fin(self) -> int:
        """End every connection with FIN, no close frame before it. Returns how many there were."""
        return self._call(lambda: self._each(Connection.fin))

    # Faults that last

    def silent(self, *directions: str) -> contextlib.AbstractContextManager[None]:
        """Let no byte through; afterwards all that was held.

        Connections that are made meanwhile are accepted and not answered. In direction `UP` this is
        also a peer that has stopped reading: the client's writes stall.
        """
        return self._shaped(directions, is_silent=True)

    def delaying(self, seconds: float, *directions: str) -> contextlib.AbstractContextManager[None]:
        """Let each byte, and the end, through so many seconds late, and in order."""
        return self._shaped(directions, delay=seconds)

    def throttling(
        self, bytes_per_second: float, *directions: str
    ) -> contextlib.AbstractContextManager[None]:
        """Let so many bytes through in a second, of each connection, a hundred times a second."""
        piece = max(1, round(bytes_per_second / 100))
        return self._shaped(directions, piece=piece, pause=piece / bytes_per_second)

    def dripping(self, pause: float, *directions: str) -> contextlib.AbstractContextManager[None]:
        """Let bytes through one by one, with a pause of so many seconds behind each."""
        return self._shaped(directions, piece=1, pause=pause)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse new connections; those that are there live on."""
        self._call(self._close_listener)
        try:
            yield
        finally:
            self._call(self._listen)

    @contextlib.contextmanager
    def ignoring(self) -> Iterator[None]:
        """Accept new connections and never answer; in the end they are reset. Others live on."""
        self._call(lambda: self._ignore(True))
        try:
            yield
        finally:
            self._call(lambda: self._ignore(False))

    @contextlib.contextmanager
    def duplicating(self, late: float = 0.0) -> Iterator[None]:
        """Say all that comes on new connections again, on other ones, whose answers are dropped.

        Args:
            late: Seconds by which all that is said there comes later. A late one goes on when its
                client has gone, until everything was said.
        """
        self._call(lambda: self._duplicate(late))
        try:
            yield
        finally:
            self._call(lambda: self._duplicate(None))

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

    # Faults that strike once; `after` is that of `Strike`

    def cut(self, direction: str, after: int | None, how: str = "reset") -> Strike:
        """Cut a connection when exactly so many bytes of it have passed, by "reset" or "fin"."""

        def act(pipe: Pipe) -> None:
            raise Cut(how)

        return self._call(lambda: self._arm(direction, act, after, is_cut=True))

    def flip(self, direction: str, after: int | None, bits: int = 0xFF) -> Strike:
        """Invert bits of the byte behind so many."""
        return self._call(lambda: self._arm(direction, lambda pipe: pipe.flip(bits), after))

    def insert(self, direction: str, after: int | None, garbage: bytes) -> Strike:
        """Insert bytes behind so many, as soon as another one is to pass."""
        return self._call(lambda: self._arm(direction, lambda pipe: pipe.insert(garbage), after))

    def disarm(self) -> None:
        """Strike no more where nothing was struck yet."""
        self._call(self._disarm)

    # Looking

    @property
    def live(self) -> int:
        """How many connections there are, from clients."""
        return self._call(lambda: len(self._from_clients()))

    def wait_idle(self, timeout: float = 20.0) -> bool:
        """Wait until there are none."""
        return self._idle.wait(timeout)

    # What its connections ask of it, in the loop's thread

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """See `proxy_connections.Loop`."""
        heapq.heappush(self._later, (when, next(self._count), call))

    def before_write(self, way: str, size: int) -> None:
        """See `proxy_connections.Loop`: of these bytes one may be the last, if a cut is due."""
        rng = self._rng
        if rng is None or time.monotonic() < self._next_cut:
            return
        self._next_cut = time.monotonic() + rng.uniform(*self._interval)
        after, how = rng.randrange(size + 1), "reset" if rng.random() < 0.5 else "fin"

        def act(pipe: Pipe) -> None:
            self.cuts += 1
            raise Cut(how)

        self._arm(way, act, after, is_cut=True)

    def forget(self, connection: Connection | Twin) -> None:
        """See `proxy_connections.Loop`."""
        self._connections.discard(connection)
        if not self._from_clients():
            self._idle.set()

    # Inside

    def _call(self, action: Callable[[], _Result]) -> _Result:
        """Run an action in the loop's thread, and wait for what it returns."""
        done = threading.Event()
        results: list[_Result] = []

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
            timeout = max(0.0, self._later[0][0] - time.monotonic()) if self._later else None
            for key, events in self.selector.select(timeout):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock.fileno() >= 0:  # not closed by an earlier one of this round
                    key.data(sock, events)
            while self._later and self._later[0][0] <= time.monotonic():
                heapq.heappop(self._later)[2]()
        self.selector.close()
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
        self.selector.register(self._listener, selectors.EVENT_READ, self._on_connection)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self.selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _on_connection(self, listener: socket.socket, events: int) -> None:
        client, _ = listener.accept()
        self.accepted += 1
        if self._is_ignoring:
            self._ignored.append(client)
            return
        twin = None
        try:
            server = self._dial()
            if self._twin_late is not None:
                twin = Twin(self, self._dial(), self._twin_late)
                self._connections.add(twin)
        except OSError:
            reset(client)
            return
        self._idle.clear()
        self._connections.add(Connection(self, client, server, twin))

    def _dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.target), timeout=5)

    def _from_clients(self) -> list[Connection]:
        return [each for each in self._connections if isinstance(each, Connection)]

    def _each(self, fault: Callable[[Connection], None]) -> int:
        connections = self._from_clients()
        for connection in connections:
            fault(connection)
        return len(connections)

    @contextlib.contextmanager
    def _shaped(self, directions: tuple[str, ...], **changes: object) -> Iterator[None]:
        """Change the shapes of these directions for a while."""

        def apply(values: dict[str, object]) -> None:
            for direction in directions or (UP, DOWN):
                for name, value in values.items():
                    setattr(self.shapes[direction], name, value)
            self._each(Connection.attend)

        usual = dataclasses.asdict(Shape())
        self._call(lambda: apply(changes))
        try:
            yield
        finally:
            self._call(lambda: apply({name: usual[name] for name in changes}))

    def _arm(
        self,
        direction: str,
        act: Callable[[Pipe], None],
        after: int | None,
        *,
        is_cut: bool = False,
    ) -> Strike:
        pipes = [connection.pipes[direction] for connection in self._from_clients()]
        strike = Strike(act, after, pipes, is_cut=is_cut)
        self.strikes[direction].append(strike)
        return strike

    def _disarm(self) -> None:
        for strikes in self.strikes.values():
            strikes.clear()

    def _ignore(self, ignores: bool) -> None:
        self._is_ignoring = ignores
        while self._ignored:
            reset(self._ignored.pop())

    def _duplicate(self, late: float | None) -> None:
        self._twin_late = late

    def _start_cutting(self, rng: random.Random | None, interval: tuple[float, float]) -> None:
        self._rng, self._interval = rng, interval
        if rng is not None:
            self._next_cut = time.monotonic() + rng.uniform(*interval)

    def _stop(self) -> None:
        self._close_listener()
        self._ignore(False)
        for connection in tuple(self._connections):
            connection.reset()
        self._running = False
