"""The connections of the fault proxy: their sockets, and what they wait for.

All of it belongs to the thread of the proxy's loop.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from tunnel.testing.fault_loop import Loop, now
from tunnel.testing.fault_streams import (
    CHUNK,
    DOWN,
    UP,
    Cut,
    Direction,
    Ending,
    Pipe,
    Shape,
    Strike,
)


class Owner(Protocol):
    """What a connection asks of its proxy.

    Attributes:
        shapes: Of each direction.
        strikes: Of each direction.
        forwarded: Counts bytes.
    """

    shapes: dict[Direction, Shape]
    strikes: dict[Direction, list[Strike]]
    forwarded: dict[Direction, int]

    @property
    def loop(self) -> Loop:
        """In whose thread all happens."""
        ...

    def before_write(self, way: Direction, size: int) -> None:
        """So many bytes are about to pass."""
        ...

    def forget(self, connection: Connection | Twin) -> None:
        """It is over."""
        ...


class Alarm:
    """Has one call made, at the earliest of the times that it is set to."""

    def __init__(self, loop: Loop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._when: float | None = None

    def set(self, when: float) -> None:
        """Call at this time, or earlier."""
        if self._when is None or when < self._when:
            self._when = when
            self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        if self._when is not None and self._when <= now():
            self._when = None
            self._call()


class Connection:
    """A client, a server, and the bytes between them.

    Args:
        owner: The proxy.
        client: Accepted.
        server: Connected.
        twin: Gets what the client says, too.
    """

    def __init__(
        self, owner: Owner, client: socket.socket, server: socket.socket, twin: Twin | None
    ) -> None:
        self._owner, self._loop = owner, owner.loop
        self._client, self._server = client, server
        self._twin = twin
        self.pipes: dict[Direction, Pipe] = {
            UP: Pipe(owner.shapes[UP], owner.strikes[UP]),
            DOWN: Pipe(owner.shapes[DOWN], owner.strikes[DOWN]),
        }
        self._discards = False  # after `fin`: what the client still sends goes nowhere
        self._alarm = Alarm(self._loop, self.attend)
        for sock in (client, server):
            prepare(sock)
        self.attend()

    def end(self, how: Ending) -> None:
        """End it, to both ends."""
        (self.reset if how == "reset" else self.fin)()

    def reset(self) -> None:
        """Break it with RST, to both ends."""
        self._forget()
        reset(self._client)
        reset(self._server)

    def fin(self) -> None:
        """End it with FIN, to both ends."""
        self._loop.unwatch(self._server)
        self._server.close()
        self._discards = True
        self.pipes[DOWN].is_over = True
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)
        self._end_twin()
        self.attend()

    def attend(self) -> None:
        """Wait for exactly what this connection can use now."""
        if self._client.fileno() < 0:
            return
        up, down = self.pipes[UP], self.pipes[DOWN]
        if self._discards:
            self._loop.watch(self._client, selectors.EVENT_READ, self._on_event)
            return
        self._loop.watch(self._client, self._interest(up, down), self._on_event)
        self._loop.watch(self._server, self._interest(down, up), self._on_event)

    def _interest(self, reads: Pipe, writes: Pipe) -> int:
        interest = selectors.EVENT_READ if reads.has_room else 0
        ready_at = writes.ready_at()
        if ready_at is not None:
            if ready_at <= now():
                interest |= selectors.EVENT_WRITE
            else:
                self._alarm.set(ready_at)
        return interest

    def _on_event(self, sock: socket.socket, events: int) -> None:
        reads: Direction = UP if sock is self._client else DOWN
        writes: Direction = DOWN if sock is self._client else UP
        try:
            if events & selectors.EVENT_READ:
                self._read(sock, reads)
            if events & selectors.EVENT_WRITE:
                self._write(sock, writes)
        except BlockingIOError:
            pass
        except Cut as cut:
            self.end(cut.how)
            return
        except OSError:  # one end has broken: so has the other
            self.reset()
            return
        if all(pipe.is_over for pipe in self.pipes.values()):
            self._forget()
            self._client.close()
            self._server.close()
        else:
            self.attend()

    def _read(self, sock: socket.socket, way: Direction) -> None:
        data = sock.recv(CHUNK)
        if self._discards:
            self.pipes[UP].is_over = not data
            return
        came = now()
        self.pipes[way].take(data, came)
        if way == UP and self._twin is not None:
            self._twin.take(data, came)

    def _write(self, sock: socket.socket, way: Direction) -> None:
        pipe = self.pipes[way]
        present = now()
        ready_at = pipe.ready_at()
        if ready_at is None or ready_at > present:
            return  # a fault of this very round is in the way
        self._owner.before_write(way, pipe.ready_size)

        def send(data: bytes) -> int:
            count = sock.send(data)
            self._owner.forwarded[way] += count
            return count

        pipe.give(send, lambda: sock.shutdown(socket.SHUT_WR), present)

    def _end_twin(self) -> None:
        if self._twin is not None:
            self._twin.take(b"", now())
            self._twin = None

    def _forget(self) -> None:
        self._loop.unwatch(self._client)
        self._loop.unwatch(self._server)
        self._end_twin()
        self._owner.forget(self)


class Twin:
    """Another connection to the server, on which somebody says again what a client has said.

    What the server answers is dropped. It ends when the client's connection has, and all was said.

    Args:
        owner: The proxy.
        server: Connected.
        late: Seconds by which it says everything later.
    """

    def __init__(self, owner: Owner, server: socket.socket, late: float) -> None:
        self._owner, self._loop = owner, owner.loop
        self._server = server
        self._late = late
        self._pipe = Pipe(Shape(), [])
        self._alarm = Alarm(self._loop, self.attend)
        prepare(server)
        self.attend()

    def take(self, data: bytes, came: float) -> None:
        """The client has said this, at that time; nothing: it has gone."""
        if self._server.fileno() >= 0 and not self._pipe.has_ended:
            self._pipe.take(data, came, self._late)
            self.attend()

    def reset(self) -> None:
        """End it."""
        self._loop.unwatch(self._server)
        self._owner.forget(self)
        reset(self._server)

    def attend(self) -> None:
        """Wait for exactly what it can use now."""
        if self._server.fileno() < 0:
            return
        interest = selectors.EVENT_READ
        ready_at = self._pipe.ready_at()
        if ready_at is not None:
            if ready_at <= now():
                interest |= selectors.EVENT_WRITE
            else:
                self._alarm.set(ready_at)
        self._loop.watch(self._server, interest, self._on_event)

    def _on_event(self, sock: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and not sock.recv(CHUNK):
                raise ConnectionError("the server has hung up")
            if events & selectors.EVENT_WRITE:
                self._pipe.give(sock.send, lambda: None, now())
        except BlockingIOError:
            pass
        except OSError:
            self.reset()
            return
        if self._pipe.is_over:
            self.reset()
        else:
            self.attend()


def prepare(sock: socket.socket) -> None:
    """Never block, never wait for more to send."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset(sock: socket.socket) -> None:
    """Close with RST in place of FIN."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
