"""A TCP proxy on loopback that does to connections what networks do, when a test asks for it.

Three kinds of faults: a method that does something to all connections now (`reset`); a context
manager while which something holds for all of them (`silent`); and a `Strike`, which happens once,
at an exact byte (`cut`, `flip`, `insert`). `fault_streams` has the bytes, `fault_connections` the
sockets, `fault_relay` what connects them, `fault_loop` the one thread in which all of it happens;
so nothing there needs a lock.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from types import TracebackType

from tunnel.testing.fault_arguments import (
    Target,
    between,
    bits_of,
    bytes_of,
    count_of_bytes,
    directions_of,
    ending_of,
    not_negative,
    positive,
)
from tunnel.testing.fault_connections import Connection
from tunnel.testing.fault_relay import Change, Lengths, Relay
from tunnel.testing.fault_streams import Cut, Direction, Ending, Pipe, Strike


class FaultProxy:
    """Forwards what comes to `port` to a server, as faultily as it is told; a context manager.

    For tests on real sockets: clients connect to `url` in place of the server's. It forwards bytes
    and knows nothing of TLS or WebSockets (but for `after=None`, see `cut`), so any TCP service can
    stand behind it, and a client of any kind before it::

        with FaultProxy("ws://127.0.0.1:8765/chat") as proxy:
            service = tunnel.connect(proxy.url)
            with proxy.silent():
                ...  # the cable is cut

    A call returns once the fault has happened, or is set up. Nothing happens by chance but in
    `cutting` and `cutting_after`, whose chance comes from their `seed`. Faults that last may be
    nested (but for these two and `duplicating`: one of each at a time), and used with
    `contextlib.ExitStack` to begin in one place and end in another. Where directions (``"up"``:
    from the client to the server; ``"down"``) may be named and are not, both are meant. Durations
    are seconds of real time, also while freezegun holds the time still.

    Thread-safe. What is asked for before `start` or after `stop` raises `InvalidStateError`; an
    argument that makes no sense raises `ValueError`.

    Args:
        target: The server: its port on 127.0.0.1, or a URL. Can be changed by `target`.

    Raises:
        ValueError: `target` is neither a port nor a URL with a host.
    """

    def __init__(self, target: int | str) -> None:
        self._relay = Relay(Target.read(target))

    def __enter__(self) -> FaultProxy:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on a port that is free, in a thread.

        Raises:
            InvalidStateError: It was started before.
            OSError: There is no port, or no descriptor.
        """
        self._relay.start()

    def stop(self) -> None:
        """Reset all connections, and end the thread. No harm if it does not run."""
        self._relay.stop()

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1; 0 before it does."""
        return self._relay.port

    @property
    def url(self) -> str:
        """What clients connect to: the target's URL (ws for a port) with this proxy's address."""
        return self._relay.target.url(self._relay.port)

    @property
    def target(self) -> int | str:
        """The server, as it was given. A new one is for connections that are made from now on."""
        return self._relay.target.given

    @target.setter
    def target(self, target: int | str) -> None:
        self._relay.target = Target.read(target)

    # Faults that happen now

    def reset(self) -> int:
        """Break every connection with RST, to both ends. Returns how many there were."""
        return self._relay.call(lambda: self._relay.each(Connection.reset))

    def fin(self) -> int:
        """Close every connection in good order (FIN), but with no close frame before it.

        Returns:
            How many there were.
        """
        return self._relay.call(lambda: self._relay.each(Connection.fin))

    # Faults that last

    def silent(self, *directions: Direction) -> contextlib.AbstractContextManager[None]:
        """Let no byte through; afterwards all that was held.

        Connections that are made meanwhile are accepted and not answered. In direction "up" this is
        also a peer that has stopped reading: the client's writes stall.
        """
        return self._shaped(directions, is_silent=True)

    @contextlib.contextmanager
    def blackhole(self) -> Iterator[None]:
        """Swallow all that comes, both ways: as `silent`, but what was held is lost.

        Afterwards the connections from before are reset, as nothing can go on behind bytes that are
        missing; those that were made meanwhile get through.
        """
        before = self._relay.call(self._relay.connections)
        with self.silent():
            try:
                yield
            finally:
                self._relay.undo(lambda: self._relay.lose(before))

    def delaying(
        self, seconds: float, *directions: Direction
    ) -> contextlib.AbstractContextManager[None]:
        """Let each byte, and the end, through so many seconds late, and in order."""
        return self._shaped(directions, delay=not_negative("a delay", seconds))

    def throttling(
        self, bytes_per_second: float, *directions: Direction
    ) -> contextlib.AbstractContextManager[None]:
        """Let so many bytes through in a second, of each connection, a hundred times a second."""
        piece = max(1, round(positive("a rate in bytes per second", bytes_per_second) / 100))
        return self._shaped(directions, piece=piece, pause=piece / bytes_per_second)

    def dripping(
        self, pause: float, *directions: Direction
    ) -> contextlib.AbstractContextManager[None]:
        """Let bytes through one by one, with a pause of so many seconds behind each."""
        return self._shaped(directions, piece=1, pause=not_negative("a pause", pause))

    def refusing(self) -> contextlib.AbstractContextManager[None]:
        """Refuse new connections; those that are there live on.

        A server that is down: ``with proxy.refusing(): proxy.reset()``.
        """
        return self._holding(lambda: self._relay.refuse(1), lambda: self._relay.refuse(-1))

    def ignoring(self) -> contextlib.AbstractContextManager[None]:
        """Accept new connections and never answer; in the end they are reset. Others live on."""
        return self._holding(lambda: self._relay.ignore(1), lambda: self._relay.ignore(-1))

    def duplicating(self, late: float = 0.0) -> contextlib.AbstractContextManager[None]:
        """Say all that comes on new connections again, on other ones, whose answers are dropped.

        Args:
            late: Seconds by which all that is said there comes later. A late one goes on when its
                client has gone, until everything was said.
        """
        not_negative("late", late)

        def duplicate(seconds: float | None) -> None:
            self._relay.twin_late = seconds

        return self._holding(lambda: duplicate(late), lambda: duplicate(None))

    def cutting(
        self, every: tuple[float, float], *, seed: int
    ) -> contextlib.AbstractContextManager[None]:
        """Cut connections in the midst of what they forward, again and again.

        Args:
            every: Seconds between two cuts, at least and at most.
            seed: Of the moments, of the byte at which to cut among those that are about to pass,
                and of whether by RST or FIN.
        """
        between("every", every)
        pace = (random.Random(seed), every)
        return self._holding(
            lambda: self._relay.cut_every(pace), lambda: self._relay.cut_every(None)
        )

    def cutting_after(
        self, sizes: tuple[int, int], *directions: Direction, seed: int
    ) -> contextlib.AbstractContextManager[None]:
        """Let each new connection live for so many bytes; the same ones, whenever it is run.

        Args:
            sizes: Bytes of one direction after which a connection is cut, at least and at most.
            directions: From which that one is drawn. A connection on which its direction does not
                carry as much is not cut.
            seed: Of the direction, the size, and of whether by RST or FIN: of the first connection,
                the second, and so on.
        """
        between("sizes", sizes)
        for size in sizes:
            count_of_bytes("a size", size)
        lengths = Lengths(random.Random(seed), sizes, directions_of(directions))
        return self._holding(
            lambda: self._relay.cut_after(lengths), lambda: self._relay.cut_after(None)
        )

    # Faults that strike once

    def cut(self, direction: Direction, after: int | None, how: Ending = "reset") -> Strike:
        """Cut a connection when exactly so many bytes of it have passed.

        The first connection on which that happens is struck, and no other.

        Args:
            direction: Whose bytes count.
            after: Bytes, from now; on connections that are made later, from their beginning. None:
                those up to the beginning of the next WebSocket frame.
            how: "reset", or "fin": in good order.
        """
        ending_of(how)

        def act(pipe: Pipe) -> None:
            raise Cut(how)

        return self._arm(direction, act, after, is_cut=True)

    def flip(self, direction: Direction, after: int | None, bits: int = 0xFF) -> Strike:
        """Invert bits of the byte behind so many; `after` is that of `cut`."""
        bits_of(bits)
        return self._arm(direction, lambda pipe: pipe.flip(bits), after)

    def insert(self, direction: Direction, after: int | None, garbage: bytes) -> Strike:
        """Insert bytes behind so many (as in `cut`), as soon as another one is to pass."""
        data = bytes_of(garbage)
        return self._arm(direction, lambda pipe: pipe.insert(data), after)

    def disarm(self) -> None:
        """Strike no more where nothing was struck yet."""
        self._relay.call(self._relay.disarm)

    # Looking

    @property
    def accepted(self) -> int:
        """How many connections it has accepted."""
        return self._relay.accepted

    @property
    def live(self) -> int:
        """How many connections there are, from clients."""
        return len(self._relay.call(self._relay.connections))

    @property
    def forwarded(self) -> dict[Direction, int]:
        """Bytes by direction, over all connections so far."""
        return dict(self._relay.forwarded)

    @property
    def cuts(self) -> int:
        """How many connections `cutting` and `cutting_after` have cut."""
        return self._relay.cuts

    def wait_idle(self, timeout: float = 20.0) -> bool:
        """Wait until there are none, so many seconds at most. Returns whether that is so."""
        return self._relay.idle.wait(timeout)

    # Inside

    @contextlib.contextmanager
    def _holding(self, begin: Callable[[], object], end: Callable[[], None]) -> Iterator[None]:
        """Both happen in the proxy's thread."""
        self._relay.call(begin)
        try:
            yield
        finally:
            self._relay.undo(end)

    def _shaped(
        self, directions: tuple[Direction, ...], **values: object
    ) -> contextlib.AbstractContextManager[None]:
        """Change the shapes of these directions for a while."""
        relay = self._relay
        change = Change(directions_of(directions), values)
        return self._holding(
            lambda: relay.shape([*relay.changes, change]),
            lambda: relay.shape([each for each in relay.changes if each is not change]),
        )

    def _arm(
        self,
        direction: Direction,
        act: Callable[[Pipe], None],
        after: int | None,
        *,
        is_cut: bool = False,
    ) -> Strike:
        (way,) = directions_of((direction,))
        if after is not None:
            count_of_bytes("after", after)
        return self._relay.call(lambda: self._relay.arm(way, act, after, is_cut=is_cut))
