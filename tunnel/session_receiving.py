"""What one end of a session receives: taken in once, in order, and acknowledged. Pure.

The rules are in `tunnel.session`, of which this is the receiving half.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from tunnel.session_frames import (
    ASK_FRAME,
    MAX_UINT32,
    OVERHEAD,
    FrameKind,
    Limits,
    Parcel,
    SessionViolation,
    numbered_header,
    read_numbered_header,
    read_reason,
)
from tunnel.session_sending import HALF, Item

# Plain numbers: to compare with a member of an enumeration takes longer.
_TEXT, _BINARY, _ACK = int(FrameKind.TEXT), int(FrameKind.BINARY), int(FrameKind.ACK)
_REQUEST, _SKIP, _END = int(FrameKind.REQUEST), int(FrameKind.SKIP), int(FrameKind.END)
_ACKNOWLEDGE_AT_LEAST_EVERY = 256  # frames, however large the window


class SessionReceiving:
    """The receiving half of a `tunnel.session.Session`.

    Args:
        limits: What this end will hold of what the other sends.
        accepts: The kinds of parcels that make sense here; others break the protocol.

    Attributes:
        limits: As given.
        received: The number of the last frame that has arrived.
        duplicates: How many frames were dropped because they had been here.
        violation: How the peer broke the protocol; then nothing more is received.
        ended_by_peer: The reason in the peer's END; None until there is one.
    """

    def __init__(self, limits: Limits, accepts: Iterable[FrameKind]) -> None:
        self.limits: Final = limits
        self._accepts = {int(kind): kind for kind in accepts}
        self.received = 0
        self._taken = 0
        self._acknowledged_to_peer = 0
        self._sizes: deque[int] = deque()  # the payloads after `_acknowledged_to_peer`, in order
        self._held_bytes = 0
        self._asides: deque[int] = deque()  # numbers that the application does not see, untaken
        self._ack_wanted = False  # at once, whatever was taken
        self._asked_up_to = 0  # the other end waits for the acknowledgement of this
        self.duplicates = 0
        self.violation: SessionViolation | None = None
        self.ended_by_peer: str | None = None
        self._ack_every = max(1, min(_ACKNOWLEDGE_AT_LEAST_EVERY, limits.messages // 4))
        self._ack_bytes = max(1, limits.bytes // 4)

    def _note_acknowledged(self, number: int, frame: bytes) -> None:
        """An acknowledgement has come; it is for the sending half."""
        raise NotImplementedError

    def receive(self, frames: Iterable[bytes]) -> list[Item]:
        """Take frames that have come through the link, up to the first that breaks the protocol.

        Returns:
            What is new, in order: messages and parcels.
        """
        items: list[Item] = []
        if self.violation is not None or self.ended_by_peer is not None:
            return items
        try:
            self._receive_into(items, frames)
            self._check_window()
        except UnicodeDecodeError:
            self.violation = SessionViolation("a text that is no UTF-8")
        except SessionViolation as violation:
            self.violation = violation
        return items

    def _receive_into(self, items: list[Item], frames: Iterable[bytes]) -> None:
        # The next message is what a frame nearly always is, so for that the counters are locals.
        read, add, note_size = read_numbered_header, items.append, self._sizes.append
        expected = (self.received + 1) & MAX_UINT32
        count = held = 0
        try:
            for frame in frames:
                try:
                    kind, number = read(frame)
                except struct.error:
                    kind = number = -1
                if number == expected and 0 < kind <= _BINARY:
                    payload = frame[OVERHEAD:]
                    size = len(payload)
                    add(payload if kind == _BINARY else payload.decode())
                    note_size(size)
                    count += 1
                    held += size
                    expected = (number + 1) & MAX_UINT32
                elif kind == _ACK:
                    self._note_acknowledged(number, frame)
                else:
                    self.received += count
                    self._held_bytes += held
                    count = held = 0
                    self._receive_other(kind, number, frame, items)
                    if self.ended_by_peer is not None:
                        return
                    expected = (self.received + 1) & MAX_UINT32
        finally:
            self.received += count
            self._held_bytes += held

    def _receive_other(self, kind: int, number: int, frame: bytes, items: list[Item]) -> None:
        if len(frame) < OVERHEAD:
            self._obey_short(frame)
            return
        if kind == _END:
            self.ended_by_peer = read_reason(frame)
            return
        if not _TEXT <= kind <= _SKIP:
            raise SessionViolation(f"a frame of kind {kind:#04x}, which does not belong here")
        ahead = (number - self.received) & MAX_UINT32
        if ahead == 0 or ahead >= HALF:
            self.duplicates += 1
            return
        if ahead > 1:
            raise SessionViolation(f"number {self.received + ahead} after {self.received}")
        if kind == _SKIP:
            if len(frame) != OVERHEAD:
                raise SessionViolation("SKIP with a payload")
        elif kind in self._accepts:
            items.append(Parcel(self._accepts[kind], frame[OVERHEAD:]))
        else:
            raise SessionViolation(f"{FrameKind(kind).name}, which does not belong here")
        self._note_received(len(frame) - OVERHEAD)
        if kind != _REQUEST:
            self._asides.append(self.received)
            self._pass_asides()

    def _obey_short(self, frame: bytes) -> None:
        if frame == ASK_FRAME:
            self._ack_wanted, self._asked_up_to = True, self.received
        elif frame[:1] == bytes([FrameKind.END]):
            self.ended_by_peer = read_reason(frame)
        else:
            raise SessionViolation(f"a frame of {len(frame)} bytes")

    def _note_received(self, size: int) -> None:
        self._sizes.append(size)
        self.received += 1
        self._held_bytes += size

    def _check_window(self) -> None:
        """What is not acknowledged is what we hold, or might have to."""
        count, limits = len(self._sizes), self.limits
        if count > limits.messages or (self._held_bytes > limits.bytes and count > 1):
            raise SessionViolation("more than was offered to be held")

    # Acknowledging

    @property
    def taken(self) -> int:
        """The number of the last frame that the application has finished with."""
        return self._taken

    def take(self, count: int) -> None:
        """The application has finished with the next `count` messages or requests.

        Other parcels are the owner's, who is done with them at once: they do not count.
        """
        while self._asides and count:
            step = min(count, self._asides[0] - self._taken - 1)
            self._taken += step
            count -= step
            self._pass_asides()
        self._taken += count
        assert self._taken <= self.received

    def _pass_asides(self) -> None:
        while self._asides and self._asides[0] == self._taken + 1:
            self._asides.popleft()
            self._taken += 1

    @property
    def has_untold(self) -> bool:
        """Whether something was taken and not acknowledged yet; a timer should see to it."""
        return self._taken > self._acknowledged_to_peer

    @property
    def is_acknowledgement_due(self) -> bool:
        """Whether to acknowledge at once: enough was taken, or the other end has asked."""
        untold = self._taken - self._acknowledged_to_peer
        if untold >= self._ack_every:
            return True
        if (self._ack_wanted and self._taken) or (self._asked_up_to and untold):
            return True
        if self._held_bytes < self._ack_bytes:
            return False
        return sum(islice(self._sizes, untold)) >= self._ack_bytes

    @property
    def takes_until_due(self) -> int:
        """How many more frames have to be taken before an acknowledgement is due."""
        untold = self._taken - self._acknowledged_to_peer
        count = self._ack_every - untold
        if self._held_bytes >= self._ack_bytes:
            total = 0
            for index, size in enumerate(islice(self._sizes, self._ack_every)):
                total += size
                if total >= self._ack_bytes:
                    count = min(count, index + 1 - untold)
                    break
        return max(1, count)

    def acknowledgement(self) -> bytes:
        """The frame that acknowledges all that was taken."""
        pop = self._sizes.popleft
        count = self._taken - self._acknowledged_to_peer
        self._held_bytes -= sum([pop() for _ in range(count)])
        self._acknowledged_to_peer = self._taken
        self._ack_wanted = False
        if self._taken >= self._asked_up_to:
            self._asked_up_to = 0
        return numbered_header(_ACK, self._taken & MAX_UINT32)
