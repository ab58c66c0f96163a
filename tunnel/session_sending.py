"""What one end of a session sends: numbered, kept until it is acknowledged, and replayed. Pure.

The rules are in `tunnel.session`, of which this is the sending half.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TypeAlias, cast

from tunnel.session_frames import (
    ASK_FRAME,
    MAX_UINT32,
    OVERHEAD,
    EncodedText,
    FrameKind,
    Limits,
    Parcel,
    SessionViolation,
    numbered_header,
)

Item: TypeAlias = str | bytes
"""A message of the application, or a `Parcel`. A text may be sent as an `EncodedText`."""

HALF = 2**31
"""Of the numbers on the wire: what is so far ahead, or more, is behind."""

_ALL_BYTES, _ALL_TEXTS = frozenset({bytes}), frozenset({str})
# Plain numbers: the members of an enumeration take longer.
_TEXT, _BINARY = int(FrameKind.TEXT), int(FrameKind.BINARY)


class SessionSending:
    """The sending half of a `tunnel.session.Session`.

    Args:
        keep: What this end will keep of what it has sent: frames, and bytes of their payloads. One
            payload alone may be larger.

    Attributes:
        peer_limits: What the other end will hold; None until it has said so.
        unacknowledged_bytes: Of the payloads that are kept.
        acknowledged: The number of the last own frame that was acknowledged.
        last_number: The number of the last own frame.
        replayed: How many frames were sent again.
    """

    def __init__(self, keep: tuple[int, int]) -> None:
        self._keep = keep
        self.peer_limits: Limits | None = None
        self._window = 0, 0  # what both ends will hold of what we send: frames, and bytes
        # The frames after `acknowledged`, in order; None is a number whose message exists no
        # longer.
        self._kept: deque[tuple[Item | None, int]] = deque()
        self.unacknowledged_bytes = 0
        self.acknowledged = 0
        self.last_number = 0
        self._next_on_link = 1  # what comes before has been put on this link, or is not needed
        self._confirmed_on_link = 0  # ... and has been written whole
        self._written = 0  # the last number that was ever written whole
        self._asked_after = 0  # the last number when acknowledgements were asked for on this link
        self.replayed = 0

    def _heed(self, limits: Limits) -> None:
        """The other end has said what it will hold."""
        self.peer_limits = limits
        messages, size = self._keep
        self._window = min(messages, limits.messages), min(size, limits.bytes)

    @property
    def unacknowledged(self) -> int:
        """How many own frames the other end has not acknowledged."""
        return len(self._kept)

    @property
    def has_replay(self) -> bool:
        """Whether there are frames that were numbered and not yet put on this link."""
        return self._next_on_link <= self.last_number

    def room(self) -> tuple[int, int]:
        """How many more frames may be numbered now, and how many bytes their payloads may have.

        A first frame, while nothing is unacknowledged, may be larger.
        """
        messages = self._window[0] - len(self._kept)
        room = self._window[1] - self.unacknowledged_bytes
        return (messages, room) if messages > 0 and room >= 0 else (0, 0)

    def has_room_for(self, size: int) -> bool:
        """Whether a payload of so many bytes may be numbered now."""
        messages, room = self.room()
        return messages > 0 and (size <= room or not self._kept)

    @property
    def may_ask(self) -> bool:
        """Whether ASK is worth sending, if something has no room: once for all that was sent.

        The other end acknowledges by the share of its own window; it does not know how little this
        end may keep, nor how much waits.
        """
        return bool(self._kept) and self._asked_after != self.last_number

    def ask(self) -> bytes:
        """The frame that asks for acknowledgements."""
        self._asked_after = self.last_number
        return ASK_FRAME

    def send(self, items: Sequence[Item | None]) -> list[bytes]:
        """Number some items, for which there is room, and make their frames.

        None uses a number up, for what nobody wants any more. Nothing may wait to be replayed
        (`has_replay`): order is that of the numbers.
        """
        frames = _frames(items, self.last_number + 1)
        sizes = [len(frame) - OVERHEAD for frame in frames]
        # In this order: an interruption may cost room, and never gives too much of it.
        self.unacknowledged_bytes += sum(sizes)
        self._kept += zip(items, sizes, strict=True)
        self.last_number += len(frames)
        self._next_on_link = self.last_number + 1
        return frames

    def send_one(self, item: Item) -> bytes | None:
        """Number one item and make its frame: `send` for the common case, in less time.

        Returns:
            The frame; None if there is no room for it, or something waits to be replayed.
        """
        number = self.last_number + 1
        if self._next_on_link != number:
            return None
        frame = _frame(item, number)
        size = len(frame) - OVERHEAD
        messages, room = self.room()
        if not messages or (size > room and self._kept):
            return None
        self.unacknowledged_bytes += size
        self._kept.append((item, size))
        self.last_number = number
        self._next_on_link = number + 1
        return frame

    def replay(self, limit: int, max_bytes: int) -> list[bytes]:
        """The next frames that were numbered before and belong on this link, too.

        Args:
            limit: How many at most.
            max_bytes: How long their payloads may be together; the first may be longer.
        """
        frames: list[bytes] = []
        left = max_bytes
        first = self._next_on_link - self.acknowledged - 1
        for item, size in islice(self._kept, first, first + limit):
            left -= 0 if item is None else size
            if left < 0 and frames:
                break
            frames.append(_frame(item, self._next_on_link))
            self._next_on_link += 1
            if self._next_on_link - 1 <= self._written:
                self.replayed += 1
        return frames

    def confirm(self, count: int) -> int:
        """The next `count` frames put on this link have been written whole.

        It has to be said before the link is given up or the session lost: what was written may
        have arrived.

        Returns:
            How many of them were written for the first time.
        """
        # No more than was put on it: after an interruption a writer may say something twice.
        confirmed = min(self._confirmed_on_link + count, self._next_on_link - 1)
        self._confirmed_on_link = confirmed
        fresh = confirmed - self._written
        if fresh <= 0:
            return 0
        self._written = confirmed
        return fresh

    def recount(self) -> None:
        """What is kept is what was numbered, also if an exception came in between.

        Not while anything is being put on a link.
        """
        self.last_number = self.acknowledged + len(self._kept)
        self.unacknowledged_bytes = sum(size for _, size in self._kept)

    @property
    def written(self) -> int:
        """The number of the last own frame that was ever written whole."""
        return self._written

    def unacknowledged_items(self) -> tuple[Item, ...]:
        """What the other end has not acknowledged, oldest first."""
        return tuple(item for item, _ in self._kept if item is not None)

    def _note_acknowledged(self, number: int, frame: bytes) -> None:
        if len(frame) != OVERHEAD:
            raise SessionViolation("ACK with a payload")
        count = (number - self.acknowledged) & MAX_UINT32
        if count >= HALF:
            return  # older than one before: it says nothing new
        last = self.acknowledged + count
        if last > max(self._written, self._next_on_link - 1):
            raise SessionViolation(f"number {last} acknowledged, never sent")
        pop = self._kept.popleft
        self.unacknowledged_bytes -= sum([pop()[1] for _ in range(count)])
        self.acknowledged = last
        if self._next_on_link <= last:
            # True, but not said by the end of this link: somebody repeats what it has heard on an
            # earlier one. That must cost nobody the session.
            self._next_on_link = last + 1
            self._confirmed_on_link = max(self._confirmed_on_link, last)


def _frames(items: Sequence[Item | None], first: int) -> list[bytes]:
    """The frames of items that get the numbers from `first` on."""
    # Nearly always all are of one kind, and no number wraps around: to ask that once takes less
    # time than to ask it of each.
    kinds = set(map(type, items))
    start = first & MAX_UINT32
    if start + len(items) <= MAX_UINT32:
        if kinds == _ALL_BYTES:
            payloads = cast("Sequence[bytes]", items)
            return [
                numbered_header(_BINARY, n) + payload for n, payload in enumerate(payloads, start)
            ]
        if kinds == _ALL_TEXTS:
            texts = cast("Sequence[str]", items)
            return [
                numbered_header(_TEXT, n) + text.encode() for n, text in enumerate(texts, start)
            ]
    return [_frame(item, number) for number, item in enumerate(items, first)]


def _frame(item: Item | None, number: int) -> bytes:
    number &= MAX_UINT32
    if type(item) is bytes:
        return numbered_header(_BINARY, number) + item
    if isinstance(item, str):
        return numbered_header(_TEXT, number) + item.encode()
    if item is None:
        return numbered_header(FrameKind.SKIP, number)
    if isinstance(item, Parcel):
        return numbered_header(item.kind, number) + item
    return numbered_header(_TEXT if isinstance(item, EncodedText) else _BINARY, number) + item


def payload_size(item: Item) -> int:
    """The bytes of a payload."""
    return len(item.encode()) if isinstance(item, str) else len(item)
