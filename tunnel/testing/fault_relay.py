"""What a fault proxy does: it accepts, connects, and makes the faults, in its loop's thread."""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tunnel.errors import InvalidStateError
from tunnel.testing.fault_arguments import Target
from tunnel.testing.fault_connections import Connection, Twin, reset
from tunnel.testing.fault_loop import Loop, now
from tunnel.testing.fault_streams import DOWN, UP, Cut, Direction, Ending, Pipe, Shape, Strike

_HOST = "127.0.0.1"
_DIAL_TIMEOUT = 5.0
_BACKLOG = 128

_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Change:
    """What holds for some directions for a while: attributes of `Shape`."""

    directions: tuple[Direction, ...]
    values: dict[str, object]


@dataclass(frozen=True)
class Lengths:
    """How long connections live: of which chance, between which sizes, in one of which ways."""

    rng: random.Random
    sizes: tuple[int, int]
    directions: tuple[Direction, ...]


class Relay:
    """The `Owner` of connections.

    `start`, `stop`, `call`, `undo` and the attributes are for any thread; all else belongs to the
    loop's.

    Attributes:
        target: Where new connections go.
        port: Where it listens; 0 before it does.
        accepted: How many connections it has accepted.
        cuts: How many connections it has cut by chance.
        forwarded: Bytes by direction.
        shapes: How each direction is held up now.
        strikes: What is to strike in each.
        changes: What makes up the shapes; the last one counts where several say the same.
        twin_late: Seconds by which all that new connections say is said again; None: it is not.
        idle: Set while there is no connection of a client.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.port = self.accepted = self.cuts = 0
        self.forwarded: dict[Direction, int] = {UP: 0, DOWN: 0}
        self.shapes: dict[Direction, Shape] = {UP: Shape(), DOWN: Shape()}
        self.strikes: dict[Direction, list[Strike]] = {UP: [], DOWN: []}
        self.changes: list[Change] = []
        self.twin_late: float | None = None
        self.idle = threading.Event()
        self.idle.set()
        self._pace: tuple[random.Random, tuple[float, float]] | None = None
        self._next_cut = 0.0
        self._lengths: Lengths | None = None
        self._refusals = self._ignorances = 0  # how many ask for it
        self._ignored: list[socket.socket] = []
        self._connections: set[Connection | Twin] = set()
        self._listener: socket.socket | None = None
        self._loop: Loop | None = None
        self._is_stopped = False

    # For any thread

    def start(self) -> None:
        """See `FaultProxy.start`."""
        if self._loop is not None:
            raise InvalidStateError("the fault proxy was started before; make another one")
        listener = self._listening_socket()
        try:
            self._loop = Loop()
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self.call(self._listen)

    def stop(self) -> None:
        """See `FaultProxy.stop`."""
        if self._loop is None or self._is_stopped:
            return
        self._is_stopped = True
        self.undo(self._close)
        self._loop.stop()

    def call(self, action: Callable[[], _Result]) -> _Result:
        """Run an action in the loop's thread, and wait for what it returns or raises."""
        return self.loop.call(action)

    def undo(self, action: Callable[[], None]) -> None:
        """End a fault that lasts; nothing is left of it where the proxy was stopped before."""
        with contextlib.suppress(InvalidStateError):
            self.call(action)

    # What its connections ask of it

    @property
    def loop(self) -> Loop:
        """See `Owner`."""
        if self._loop is None:
            raise InvalidStateError("the fault proxy does not run: use it in a with statement")
        return self._loop

    def before_write(self, way: Direction, size: int) -> None:
        """See `Owner`: of these bytes one may be the last, if a cut is due."""
        if self._pace is None or now() < self._next_cut:
            return
        rng, every = self._pace
        self._next_cut = now() + rng.uniform(*every)
        self.arm(way, self._cut_by_chance(rng), rng.randrange(size + 1), is_cut=True)

    def forget(self, connection: Connection | Twin) -> None:
        """See `Owner`."""
        self._connections.discard(connection)
        if not self.connections():
            self.idle.set()

    # Faults

    def connections(self) -> list[Connection]:
        """Those from clients."""
        return [each for each in self._connections if isinstance(each, Connection)]

    def each(self, fault: Callable[[Connection], None]) -> int:
        """Do this to every connection. Returns how many there were."""
        connections = self.connections()
        for connection in connections:
            fault(connection)
        return len(connections)

    def lose(self, connections: list[Connection]) -> None:
        """Reset these, if they are still there."""
        for connection in self._connections.intersection(connections):
            connection.reset()

    def shape(self, changes: list[Change]) -> None:
        """From now on these changes hold."""
        self.changes = changes
        usual = vars(Shape())
        for way, shape in self.shapes.items():
            values = dict(usual)
            for change in changes:
                values.update(change.values if way in change.directions else {})
            vars(shape).update(values)
        self.each(Connection.attend)

    def refuse(self, more: int) -> None:
        """So many more (or fewer) want new connections refused."""
        self._refusals += more
        if self._refusals:
            self._close_listener()
        elif self._listener is None:
            self._listen()

    def ignore(self, more: int) -> None:
        """So many more (or fewer) want new connections ignored."""
        self._ignorances += more
        if not self._ignorances:
            self._reset_ignored()

    def cut_every(self, pace: tuple[random.Random, tuple[float, float]] | None) -> None:
        """Cut by chance, at intervals between these two; None: no more."""
        self._pace = pace
        if pace is not None:
            self._next_cut = now() + pace[0].uniform(*pace[1])

    def cut_after(self, lengths: Lengths | None) -> None:
        """Cut each new connection by chance, after so many bytes; None: no more."""
        self._lengths = lengths
        if lengths is None:
            for connection in self.connections():
                for pipe in connection.pipes.values():
                    pipe.own.clear()

    def arm(
        self,
        way: Direction,
        act: Callable[[Pipe], None],
        after: int | None,
        *,
        is_cut: bool = False,
    ) -> Strike:
        """Have this done to one pipe of this direction."""
        pipes = [connection.pipes[way] for connection in self.connections()]
        strike = Strike(act, after, pipes, is_cut=is_cut)
        self.strikes[way].append(strike)
        return strike

    def disarm(self) -> None:
        """Strike no more."""
        for strikes in self.strikes.values():
            strikes.clear()

    # Inside

    def _listening_socket(self) -> socket.socket:
        listener = socket.socket()
        try:
            if os.name != "nt":  # there it would let others have the port, too
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((_HOST, self.port))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        return listener

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = self._listening_socket()
        self.loop.watch(self._listener, selectors.EVENT_READ, self._on_connection)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self.loop.unwatch(self._listener)
            self._listener.close()
            self._listener = None

    def _on_connection(self, listener: socket.socket, events: int) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # it has gone again
            return
        self.accepted += 1
        if self._ignorances:
            self._ignored.append(client)
            return
        twin = server = None
        try:
            server = self._dial()
            if self.twin_late is not None:
                twin = Twin(self, self._dial(), self.twin_late)
                self._connections.add(twin)
        except OSError:
            reset(client)
            if server is not None:
                server.close()
            return
        self.idle.clear()
        connection = Connection(self, client, server, twin)
        self._connections.add(connection)
        if self._lengths is not None:
            rng = self._lengths.rng
            way = rng.choice(self._lengths.directions)
            after = rng.randint(*self._lengths.sizes)
            strike = Strike(self._cut_by_chance(rng), after, [], is_cut=True)
            connection.pipes[way].own.append(strike)

    def _dial(self) -> socket.socket:
        return socket.create_connection(self.target.address, _DIAL_TIMEOUT)

    def _cut_by_chance(self, rng: random.Random) -> Callable[[Pipe], None]:
        how: Ending = "reset" if rng.random() < 0.5 else "fin"

        def act(pipe: Pipe) -> None:
            self.cuts += 1
            raise Cut(how)

        return act

    def _reset_ignored(self) -> None:
        while self._ignored:
            reset(self._ignored.pop())

    def _close(self) -> None:
        self._close_listener()
        self._reset_ignored()
        for connection in tuple(self._connections):
            connection.reset()
