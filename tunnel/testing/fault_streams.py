"""What the fault proxy forwards: the bytes of one direction, and where to strike at them.

Without a socket and a clock of its own. Bytes go into a `Pipe` as they come, and out of it as late,
as slowly and as faultily as its proxy wants. All of it belongs to the thread of the proxy's loop.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Direction: TypeAlias = Literal["up", "down"]
"""From the client to the server, or back."""
Ending: TypeAlias = Literal["reset", "fin"]
"""How a connection ends: by RST, as when the peer's machine has crashed, or in good order."""
UP: Final = "up"
DOWN: Final = "down"
CHUNK = 64 * 1024
_HELD = 256 * 1024  # bytes that a pipe holds before no more are read for it


class Cut(Exception):
    """The connection is to be cut here.

    Args:
        how: "reset" or "fin".
    """

    def __init__(self, how: Ending) -> None:
        super().__init__(how)
        self.how: Ending = how


@dataclass
class Shape:
    """How one direction of all connections is held up.

    Attributes:
        is_silent: No byte passes.
        delay: Seconds that each byte is late.
        piece: Bytes that pass at a time; None: what there is.
        pause: Seconds after each piece.
    """

    is_silent: bool = False
    delay: float = 0.0
    piece: int | None = None
    pause: float = 0.0


class Strike:
    """A fault that strikes once, at an exact byte of one direction; a `FaultProxy` makes it.

    Args:
        act: Does it to the pipe that strikes it; may raise `Cut`.
        after: Bytes that pass before it, of each connection: from now, or from its beginning if it
            is made later. None: those up to the beginning of a WebSocket frame.
        pipes: Those that there are.
        is_cut: Whether it strikes behind the last of these bytes; else at the next one.
    """

    def __init__(
        self, act: Callable[[Pipe], None], after: int | None, pipes: list[Pipe], *, is_cut: bool
    ) -> None:
        self.act = act
        self.is_cut = is_cut
        self._after = after
        self._begins = {pipe: pipe.passed for pipe in pipes}
        self._happened = threading.Event()

    def distance(self, pipe: Pipe) -> int:
        """Bytes that may pass before it strikes, or before this is to be asked again."""
        if self._after is None:
            return pipe.frames.distance
        return max(0, self._begins.get(pipe, 0) + self._after - pipe.passed)

    def note(self) -> None:
        """It has struck."""
        self._happened.set()

    @property
    def has_happened(self) -> bool:
        """Whether it has struck. For any thread."""
        return self._happened.is_set()

    def wait(self, timeout: float = 20.0) -> bool:
        """Wait until it has struck, so many seconds at most. For any other thread.

        Returns:
            Whether it has.
        """
        return self._happened.wait(timeout)


class FrameWalk:
    """Finds where WebSocket frames begin (RFC 6455, section 5.2), behind the heads of HTTP."""

    def __init__(self) -> None:
        self._tail: bytes | None = b""  # of HTTP; None behind it
        self._header = b""
        self._left = 0  # of the frame's mask and payload

    @property
    def distance(self) -> int:
        """0 where a frame begins; else bytes that are before the next one for certain."""
        if self._tail is None and not self._header:
            return self._left
        return 1

    def feed(self, data: bytes) -> None:
        """These bytes have passed."""
        if self._tail is not None:
            seen = self._tail + data
            end = seen.find(b"\r\n\r\n")
            if end < 0:
                self._tail = seen[-3:]
                return
            data, self._tail = seen[end + 4 :], None
        position, size = 0, len(data)
        while position < size:
            if self._left:
                step = min(self._left, size - position)
                self._left -= step
            else:
                step = min(self._wanted() - len(self._header), size - position)
                self._header += data[position : position + step]
                self._read_header()
            position += step

    def _wanted(self) -> int:
        """How long the header is, as far as it is known, without the mask."""
        if len(self._header) < 2:
            return 2
        return {126: 4, 127: 10}.get(self._header[1] & 0x7F, 2)

    def _read_header(self) -> None:
        header = self._header
        if len(header) < 2 or len(header) < self._wanted():
            return
        size = int.from_bytes(header[2:], "big") if len(header) > 2 else header[1] & 0x7F
        self._left = size + (4 if header[1] & 0x80 else 0)
        self._header = b""


@dataclass
class _Entry:
    due: float
    data: bytearray  # empty: the end of the stream
    is_counted: bool = True


@dataclass(eq=False)
class Pipe:
    """Bytes on their way in one direction of one connection.

    Args:
        shape: How they are held up.
        strikes: What is to be done to them; those that have struck are taken out.
        own: The same, for this pipe alone.

    Attributes:
        passed: How many have gone out, of those that came in.
        frames: Where frames begin in what has gone out.
        has_ended: The end has gone in.
        is_over: The end has gone out.
    """

    shape: Shape
    strikes: list[Strike]
    own: list[Strike] = field(default_factory=list)
    passed: int = 0
    frames: FrameWalk = field(default_factory=FrameWalk)
    has_ended: bool = False
    is_over: bool = False
    _held: deque[_Entry] = field(default_factory=deque)
    _size: int = 0
    _not_before: float = 0.0

    @property
    def has_room(self) -> bool:
        """Whether more may be read."""
        return not self.has_ended and self._size < _HELD and not self.shape.is_silent

    def take(self, data: bytes, now: float, late: float = 0.0) -> None:
        """Bytes go in; none: the end. They are `late` seconds later than others."""
        delay = self.shape.delay + late
        due = now + delay if delay else 0.0
        if not data:
            self.has_ended = True
        last = self._held[-1] if self._held else None
        if data and last is not None and last.is_counted and last.due == due:
            last.data += data
        else:
            self._held.append(_Entry(due, bytearray(data)))
        self._size += len(data)

    def ready_at(self) -> float | None:
        """When something may go out, 0 being now; None: when there is something, and no silence."""
        if not self._held or self.shape.is_silent:
            return None
        return max(self._held[0].due, self._not_before)

    @property
    def ready_size(self) -> int:
        """How many bytes go out next, at most."""
        return min(len(self._held[0].data), self.shape.piece or CHUNK)

    def give(self, send: Callable[[bytes], int], end: Callable[[], None], now: float) -> None:
        """Have some bytes sent, or the end; for when something may go out.

        Args:
            send: Sends bytes and returns how many it has; may raise.
            end: Ends the stream.
            now: The time.

        Raises:
            Cut: The connection ends here.
        """
        head = self._held[0]
        if not head.data:
            self._held.popleft()
            self.is_over = True
            end()
            return
        most = self._strike(CHUNK) if head.is_counted else CHUNK
        head = self._held[0]
        most = min(most, self.shape.piece or CHUNK)
        data = bytes(head.data[:most])
        count = send(data)
        del head.data[:count]
        if not head.data:
            self._held.popleft()
        if head.is_counted:
            self._count(data[:count])
        if self.shape.piece is not None:
            self._not_before = now + self.shape.pause
        if head.is_counted:
            self._cut_behind()

    def _count(self, data: bytes) -> None:
        self.passed += len(data)
        self._size -= len(data)
        self.frames.feed(data)

    def _strike(self, most: int) -> int:
        """Strike if it is time. Returns how many bytes may pass before it is time again."""
        for strikes in (self.strikes, self.own):
            for strike in tuple(strikes):
                distance = strike.distance(self)
                if distance == 0:
                    self._do(strike, strikes)
                    return most
                most = min(most, distance)
        return most

    def _cut_behind(self) -> None:
        for strikes in (self.strikes, self.own):
            for strike in tuple(strikes):
                if strike.is_cut and strike.distance(self) == 0:
                    self._do(strike, strikes)

    def _do(self, strike: Strike, strikes: list[Strike]) -> None:
        strikes.remove(strike)
        strike.note()
        strike.act(self)

    # What strikes may do

    def flip(self, bits: int) -> None:
        """Invert these bits of the next byte."""
        head = self._held[0]
        byte = bytes(head.data[:1])
        del head.data[:1]
        if not head.data:
            self._held.popleft()
        self._count(byte)
        self.insert(bytes([byte[0] ^ bits]))

    def insert(self, garbage: bytes) -> None:
        """Put bytes before the next one that were never sent."""
        self._held.appendleft(_Entry(0.0, bytearray(garbage), is_counted=False))
