"""What is to be written on one connection, as pieces of bytes in their order.

Pure: no socket, no lock. Control frames go first, between any two frames of the rest; then messages
from the queue, small ones joined into one piece, big ones in fragments (RFC 6455, section 5.4). A
message stays "taken" in the queue until its last byte was written, so that a connection which ends
earlier gives it back. Behind a close frame nothing follows (section 5.5.1): the peer would not look
at it, so the messages that have not gone out wait for the next connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

from tunnel.frames import FrameEncoder
from tunnel.request_queue import RequestPriority
from tunnel.session_frames import Parcel

Message: TypeAlias = str | bytes


class Source(Protocol):
    """Where messages come from: the queue, or the session in front of it.

    For whoever has the write role.
    """

    @property
    def waiting(self) -> int:
        """How many could be written now, at least 1 if there are any."""
        ...

    def take_many(self, limit: int, max_bytes: int) -> Sequence[Message]:
        """The next ones, at least one if any are `waiting`; they stay with the source."""
        ...

    def adopt(self, message: Message, priority: RequestPriority, expires_in: float | None) -> None:
        """Register as taken what was written past the source, in part."""
        ...

    def confirm(self, count: int) -> None:
        """The oldest taken were written whole."""
        ...

    def restore(self) -> None:
        """The other taken were not."""
        ...


FRAGMENT_SIZE = 64 * 1024
"""`len` above which a message goes out in fragments of so many bytes; a ping gets in between.

A text counts by its characters, since encoding it only to know would cost more than it is worth.
"""

_BATCH_BYTES = 64 * 1024
_BATCH_MESSAGES = 512
_MAX_PONGS = 32
_PONG = 0x8A  # the first byte of a pong frame (RFC 6455, section 5.2)
_CLOSE = 0x88
_NOTHING = memoryview(b"")


class Outbox:
    """The order of one connection's bytes.

    Belongs to whoever has the write role. Others may call `add_control`, `add_own` and `add_beat`,
    under the writer's lock, and ask `has_work` and `is_idle`, whose answer may be out of date at
    once. What they add is kept in lists, which take a tenth of a deque's memory while they are
    empty; one is appended to at its end while it is emptied from its front.

    Args:
        source: Where messages come from.
        encoder: Makes frames of them.
        on_sent: Called with the number of messages whose last byte was written.

    Attributes:
        is_open: Whether queued messages may go: not before `open`, when only control frames and
            the connection's own messages do, and not behind a close frame.
    """

    __slots__ = (
        "_batch",
        "_beat",
        "_big",
        "_closed",
        "_confirming",
        "_controls",
        "_encoder",
        "_fragments",
        "_is_doubtful",
        "_lead",
        "_next_fragment",
        "_on_sent",
        "_own",
        "_piece",
        "_piece_size",
        "_pongs",
        "_source",
        "is_open",
    )

    def __init__(
        self, source: Source, encoder: FrameEncoder, on_sent: Callable[[int], None]
    ) -> None:
        self._source = source
        self._encoder = encoder
        self._on_sent = on_sent
        self._controls: list[bytes] = []
        self._pongs: list[bytes] = []  # the most recent
        self._beat: list[bytes] = []  # the same for pings that are messages: one at most
        self._own: list[bytes] = []  # messages that belong to the connection, not the queue
        self._big: Message | None = None  # the message whose fragments are being written
        self._fragments: Iterator[bytes] = iter(())
        self._next_fragment: bytes | None = None  # one ahead, so that the last is known as such
        self._piece = _NOTHING  # the rest of what is being written
        self._piece_size = 0
        self._lead = 0  # bytes of the piece before the first frame of its batch
        self._batch: Sequence[Message] = []  # the messages that end in this piece
        self._closed = False  # a close frame is in the piece, or was: it is the last one
        self._is_doubtful = False
        self._confirming = 0  # messages that were written whole, until that was said
        self.is_open = False

    @property
    def has_work(self) -> bool:
        """Whether there is anything to write now."""
        if self._piece:
            return True
        if self._closed:
            return False
        if self._controls or self._pongs or self._own or self._beat or self._next_fragment:
            return True
        return self.is_open and self._source.waiting > 0

    @property
    def is_idle(self) -> bool:
        """Whether a message may be written past the queue: open, nothing before it."""
        return self.is_open and not self.has_work

    def open(self) -> None:
        """Let queued messages go, unless a close frame has gone already."""
        self.is_open = not self._closed

    def add_control(self, frame: bytes) -> None:
        """Put a control frame before everything, also between the fragments of a message."""
        if frame[0] == _PONG:
            # A peer that pings and does not read must not fill our memory; the answer to the most
            # recent ping is enough (RFC 6455, section 5.5.3).
            _append(self._pongs, frame, _MAX_PONGS)
        else:
            self._controls.append(frame)

    def add_own(self, frame: bytes) -> None:
        """Put a whole message before all that are not begun; it dies with the connection."""
        self._own.append(frame)

    def add_beat(self, frame: bytes) -> None:
        """The same for the answer to a ping that is a message: the latest one is enough."""
        _append(self._beat, frame, 1)

    def adopt(
        self,
        message: Message,
        priority: RequestPriority,
        expires_in: float | None,
        frame: bytes,
        written: int,
    ) -> None:
        """Take over a message that was written directly, and only in part."""
        self._source.adopt(message, priority, expires_in)
        self._begin(frame, [message], lead=0)
        self._piece = self._piece[written:]

    def piece(self) -> memoryview:
        """The bytes to write next, the same until `advance`; empty if there is nothing."""
        if not self._piece:
            self._fill()
        return self._piece

    def advance(self, written: int) -> None:
        """The first `written` bytes of the piece were taken by the kernel."""
        self._piece = self._piece[written:]
        if not self._piece:
            self._piece = _NOTHING  # lets the buffer go
            if self._batch:
                # Forgotten first: were it confirmed twice, for an interruption in between, another
                # message would be taken for written.
                self._confirming, self._batch = len(self._batch), []
                self._confirm(self._confirming)
                self._confirming = 0

    def doubt(self) -> None:
        """Nobody knows how much of the piece was written: `settle` takes all of it for written."""
        self._is_doubtful = True

    def settle(self) -> None:
        """The connection is over: confirm what was written whole, give the rest back."""
        whole = 0
        if self._is_doubtful:
            whole = len(self._batch) + self._confirming
        elif self._big is None:
            written = self._piece_size - len(self._piece) - self._lead
            for message in self._batch:
                written -= _frame_size(message)
                if written < 0:
                    break
                whole += 1
        if whole:
            self._confirm(whole)
        self._batch = []
        self._piece = _NOTHING
        self._big = self._next_fragment = None
        self._controls.clear()
        self._pongs.clear()
        self._beat.clear()
        self._own.clear()
        self._source.restore()

    def _fill(self) -> None:
        if self._closed:
            return
        parts = self._take_controls()
        if self._closed:
            self._begin(b"".join(parts), [], lead=0)
            return
        if self._next_fragment is None:
            parts += _drained_latest(self._beat) + _drained(self._own)
        lead = sum(map(len, parts))
        batch: Sequence[Message] = []
        if self._next_fragment is None and self.is_open:
            batch = self._take_batch()
            if len(batch) == 1 and len(batch[0]) > FRAGMENT_SIZE:
                self._big = batch[0]
                self._fragments = self._encoder.fragments(self._big, FRAGMENT_SIZE)
                self._next_fragment = next(self._fragments)
            elif batch:
                parts.append(self._encoder.messages(batch))
        if self._next_fragment is not None and self._big is not None:
            parts.append(self._next_fragment)
            self._next_fragment = next(self._fragments, None)
            batch = [self._big] if self._next_fragment is None else []
        if parts:
            self._begin(parts[0] if len(parts) == 1 else b"".join(parts), batch, lead)

    def _take_batch(self) -> Sequence[Message]:
        """The next messages, without requests: those are for sessions, which make frames of them.

        They may be in the queue from before, when there was a session. Whoever waited for their
        answers knows that there will be none.
        """
        limit = _BATCH_MESSAGES
        while True:
            batch = self._source.take_many(limit, _BATCH_BYTES)
            kinds = list(map(type, batch))
            if Parcel not in kinds:
                return batch
            if len(batch) == 1:
                self._source.confirm(1)
                limit = _BATCH_MESSAGES
            else:  # only the oldest can be confirmed, so take those before it, or it alone
                self._source.restore()
                limit = max(1, kinds.index(Parcel))

    def _take_controls(self) -> list[bytes]:
        """The control frames so far, up to a close frame."""
        parts = _drained_latest(self._pongs)
        for frame in _drained(self._controls):
            parts.append(frame)
            if frame[0] == _CLOSE:
                self._closed = True
                self.is_open = False
                break
        return parts

    def _begin(self, frame: bytes, batch: Sequence[Message], lead: int) -> None:
        self._piece = memoryview(frame)
        self._piece_size = len(frame)
        self._lead = lead
        self._batch = batch

    def _confirm(self, count: int) -> None:
        self._source.confirm(count)
        self._big = None
        self._on_sent(count)


def _append(frames: list[bytes], frame: bytes, limit: int) -> None:
    """Append, and keep only the last ones. Never empties the list, not even in between."""
    frames.append(frame)
    del frames[:-limit]


def _drained(frames: list[bytes]) -> list[bytes]:
    """All that is there; others may append meanwhile."""
    drained = frames[:]
    del frames[: len(drained)]
    return drained


def _drained_latest(frames: list[bytes]) -> list[bytes]:
    """The same of a few, of which `_append` may be taking the oldest out."""
    return [frames.pop(0) for _ in range(len(frames)) if frames]


def _frame_size(message: Message) -> int:
    """Bytes of a client's frame around `message` (RFC 6455, section 5.2): header, mask, payload."""
    size = len(message.encode()) if isinstance(message, str) else len(message)
    if size < 126:
        return 6 + size
    return (8 if size < 65536 else 14) + size
