"""A session: what makes messages survive the link that carried them. Pure, for both ends.

Rules
-----

Each end numbers what it sends, from 1, and keeps it until the other end has acknowledged it. A
receiver takes the next number, drops what it has had already, and refuses a gap: on one link bytes
do not get lost, so a gap is a mistake.

Two counters belong to what is received. *Received* is what has arrived here; the other end hears
it when a session is resumed, and replays what comes after. *Taken* is what the application has
finished with; it is acknowledged, and then the other end forgets it. So a message that has arrived
and was not taken when its receiver was killed is still there. Acknowledgements are cumulative, and
due by count, by bytes, when asked for, and by time, which the owner measures.

Each end has told the other how much it will hold (`Limits`). A sender numbers nothing that would
leave more than that unacknowledged, nor more than it wants to keep itself; what does not fit waits
in front of the session. So nothing is dropped, and both ends are bounded.

The format of the frames is in `tunnel.session_frames`, the states in `tunnel.session_lifecycle`.
XEP-0198 (stream management) is the model; unlike there, numbers are on the wire.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeAlias

from statemachine import StateMachine
from tunnel.secrets import Secret
from tunnel.session_frames import (
    ASK_FRAME,
    MAX_UINT32,
    OVERHEAD,
    Answer,
    End,
    FrameKind,
    Gone,
    Greeting,
    Limits,
    Open,
    Opened,
    Parcel,
    Resume,
    Resumed,
    SessionViolation,
    encode,
    numbered_header,
    read_numbered_header,
    read_reason,
)
from tunnel.session_lifecycle import SESSION, SessionState

Item: TypeAlias = str | bytes
"""A message of the application, or a `Parcel`."""

_S = SessionState
# Plain numbers: to compare with a member of an enumeration takes longer.
_TEXT, _BINARY, _ACK = int(FrameKind.TEXT), int(FrameKind.BINARY), int(FrameKind.ACK)
_REQUEST, _SKIP, _END = int(FrameKind.REQUEST), int(FrameKind.SKIP), int(FrameKind.END)
_PARCELS = frozenset({FrameKind.REQUEST, FrameKind.RESPONSE, FrameKind.CANCEL})
_HALF = 2**31
_MOST_RELEASED = 2**63  # a counter has 64 bits on the wire, and goes on from here
_ACKNOWLEDGE_AT_LEAST_EVERY = 256  # frames, however large the window


@dataclass(frozen=True)
class Ticket:
    """What an end needs to go on with a session in another process.

    Attributes:
        id: The session's name; bytes.
        token: Proves that it is ours.
        limits: What this end will hold.
        peer_limits: What the other end will.
        kept_for: Seconds for which the server keeps it without a link.
    """

    id: bytes
    token: Secret
    limits: Limits
    peer_limits: Limits
    kept_for: int


@dataclass
class Loss:
    """What a lost session leaves behind, each oldest first.

    Attributes:
        reason: Why it was lost.
        unacknowledged: Was written whole, and may or may not have arrived.
        unwritten: Was numbered and never written whole: it cannot have arrived.
        unwritten_numbers: The numbers of those.
    """

    reason: str
    unacknowledged: list[Item] = field(default_factory=list)
    unwritten: list[Item] = field(default_factory=list)
    unwritten_numbers: list[int] = field(default_factory=list)


class Session:
    """One end of a session. Neither thread-safe nor aware of time; its owner is both.

    Args:
        limits: What this end will hold of what the other sends.
        keep: What this end will keep of what it has sent: frames, and bytes of their payloads. One
            payload alone may be larger.
        accepts: The kinds of parcels that make sense here; others break the protocol.

    Attributes:
        state: Where the session stands.
        limits: As given.
        id: The session's name; ``b""`` until there is one.
        token: Proves that the session is the client's; None until there is a session.
        kept_for: Seconds for which the server keeps the session without a link.
        peer_limits: What the other end will hold; None until it has said so.
        received: The number of the last frame that has arrived.
        acknowledged: The number of the last own frame that was acknowledged.
        last_number: The number of the last own frame.
        replayed: How many frames were sent again.
        duplicates: How many frames were dropped because they had been here.
        violation: How the peer broke the protocol; then nothing more is received.
        ended_by_peer: The reason in the peer's END; None until there is one.
    """

    state: SessionState

    def __init__(
        self, limits: Limits, *, keep: tuple[int, int], accepts: Iterable[FrameKind] = ()
    ) -> None:
        self.limits: Final = limits
        self._keep_messages, self._keep_bytes = keep
        self._accepts = {int(kind): kind for kind in accepts}
        self.id = b""
        self.token: Secret | None = None
        self.kept_for = 0
        self.peer_limits: Limits | None = None
        # What we send. `_kept` are the frames after `acknowledged`, in order; None is a number
        # whose message exists no longer.
        self._kept: deque[tuple[Item | None, int]] = deque()
        self.unacknowledged_bytes = 0
        self.acknowledged = 0
        self.last_number = 0
        self._next_on_link = 1  # what comes before has been put on this link, or is not needed
        self._confirmed_on_link = 0  # ... and has been written whole
        self._written = 0  # the last number that was ever written whole
        self._asked_after = 0  # the last number when acknowledgements were asked for on this link
        # What we receive. `_sizes` are the payloads after `_acknowledged_to_peer`, in order.
        self.received = 0
        self._taken = 0
        self._acknowledged_to_peer = 0
        self._sizes: deque[int] = deque()
        self._held_bytes = 0
        self._asides: deque[int] = deque()  # numbers that the application does not see, untaken
        self._ack_wanted = False  # at once, whatever was taken
        self._asked_up_to = 0  # the other end waits for the acknowledgement of this
        self._is_restored = False  # another process had this session, and nothing arrived since
        self.replayed = 0
        self.duplicates = 0
        self.violation: SessionViolation | None = None
        self.ended_by_peer: str | None = None
        self._ack_every = max(1, min(_ACKNOWLEDGE_AT_LEAST_EVERY, limits.messages // 4))
        self._ack_bytes = max(1, limits.bytes // 4)
        self.machine = StateMachine(SESSION, self, history=16)

    # The handshake, at the client

    def greeting(self) -> Greeting:
        """What to say first on a new link: OPEN, or RESUME if there is a session."""
        if self.state == _S.NEW:
            self.machine.fire("open")
            return Open(self.limits)
        assert self.token is not None
        self.machine.fire("resume")
        return Resume(self.id, self.token, self.received)

    def answered(self, answer: Answer) -> bool:
        """Take the server's answer to the greeting.

        A session of another process may know fewer of its own numbers than the server has received:
        a loss of power can take the last of what was on file. It cannot go on then, since nobody
        knows what had those numbers. Once resumed here, a session knows them all.

        Returns:
            Whether a link carries the session now; False: the server does not know it any more, or
            knows more of it than this end.

        Raises:
            SessionViolation: It is no answer to the greeting, or cannot be true.
        """
        if isinstance(answer, Opened) and self.state == _S.OPENING:
            self.id, self.token, self.kept_for = answer.id, answer.token, answer.kept_for
            self.peer_limits = answer.limits
            self.machine.fire("opened")
        elif isinstance(answer, Resumed) and self.state == _S.RESUMING:
            if self._is_restored and answer.received > self.last_number:
                self.machine.fire("lose")
                return False
            self._check_counters(answer.received)
            self._believe_released(answer.released)
            self._is_restored = False
            self.machine.fire("resumed")
            self._attached(answer.received)
        elif isinstance(answer, Gone) and self.state == _S.RESUMING:
            self.machine.fire("lose")
            return False
        else:
            raise SessionViolation(f"{type(answer).__name__.upper()} while {self.state}")
        return True

    @classmethod
    def restored(
        cls,
        ticket: Ticket,
        *,
        keep: tuple[int, int],
        accepts: Iterable[FrameKind],
        acknowledged: int,
        last_number: int,
        messages: dict[int, Item],
    ) -> Session:
        """The session of a process that ended, to be resumed by this one.

        Args:
            ticket: What was saved of it.
            keep: As for the class.
            accepts: As for the class.
            acknowledged: The number of the last own frame that was acknowledged.
            last_number: The number of the last own frame.
            messages: What was numbered after `acknowledged`, by number. A number without a message
                is skipped on the wire. The server may have had its message, of any size, and not
                taken it: so nothing new is numbered until that number is acknowledged.
        """
        session = cls(ticket.limits, keep=keep, accepts=accepts)
        session.id, session.token, session.kept_for = ticket.id, ticket.token, ticket.kept_for
        session.peer_limits = ticket.peer_limits
        session.acknowledged = acknowledged
        session.last_number = session._written = last_number  # nobody knows what was written
        for number in range(acknowledged + 1, last_number + 1):
            item = messages.get(number)
            size = ticket.peer_limits.bytes + 1 if item is None else _size(item)
            session._kept.append((item, size))
        session.recount()
        session._is_restored = True
        for trigger in ("open", "opened", "detach"):
            session.machine.fire(trigger)
        return session

    @property
    def ticket(self) -> Ticket:
        """What to save, so that another process can go on with the session."""
        assert self.token is not None
        assert self.peer_limits is not None
        return Ticket(self.id, self.token, self.limits, self.peer_limits, self.kept_for)

    # The handshake, at the server

    def open(self, greeting: Open, identity: bytes, token: Secret, kept_for: int) -> Opened:
        """Begin the session that a client asks for; the answer says so."""
        self.id, self.token, self.kept_for = identity, token, kept_for
        self.peer_limits = greeting.limits
        self.machine.fire("attach")
        return Opened(identity, token, kept_for, self.limits)

    def resume(self, greeting: Resume) -> Resumed:
        """Let a new link carry the session; the answer says so. The token was checked before.

        A client that was killed comes back without what it had received. What it has acknowledged
        is not sent again even so: it had taken that.

        The older link is over, even if it looks alive: nothing that came through it and was not
        received yet may be received any more. The client sends it again, and until it has, an
        acknowledgement of it would be one of what was never sent.

        Raises:
            SessionViolation: The client claims to have what was never sent.
        """
        received = max(greeting.received, self.acknowledged)
        self._check_counters(received)
        self.machine.fire("attach")
        self._attached(received)
        return Resumed(self.received, self.acknowledged)

    # Links, at both ends

    def detach(self) -> None:
        """The link is gone."""
        self.machine.fire("detach")

    def end(self) -> bytes:
        """Say that the session is over. For the client, once nothing is unacknowledged."""
        self.machine.fire("end")
        return encode(End(""))

    def lose(self, reason: str) -> Loss:
        """The session cannot be resumed. What is returned is kept here no longer."""
        self.machine.fire("lose")
        loss = Loss(reason)
        for number, (item, _) in enumerate(self._kept, self.acknowledged + 1):
            if item is None:
                continue
            if number <= self._written:
                loss.unacknowledged.append(item)
            else:
                loss.unwritten.append(item)
                loss.unwritten_numbers.append(number)
        self._kept.clear()
        self.unacknowledged_bytes = 0
        self.acknowledged = self.last_number
        self._next_on_link = self.last_number + 1
        return loss

    def _check_counters(self, received: int) -> None:
        if not self.acknowledged <= received <= self.last_number:
            raise SessionViolation(
                f"the peer has {received} frames of {self.last_number}, "
                f"of which it acknowledged {self.acknowledged}"
            )

    def _attached(self, received_by_peer: int) -> None:
        self._next_on_link = received_by_peer + 1
        self._confirmed_on_link = received_by_peer
        self._asked_after = 0
        self._written = max(self._written, received_by_peer)
        self._ack_wanted = True  # the last acknowledgement may be lost: say it again

    def _believe_released(self, released: int) -> None:
        """Go on after what the process before this one had acknowledged."""
        if released <= self.received:
            return
        if not self._is_restored or released >= _MOST_RELEASED:
            raise SessionViolation(f"{released} frames released, of which {self.received} arrived")
        self.received = self._taken = self._acknowledged_to_peer = released

    # Sending

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
        peer = self.peer_limits
        assert peer is not None
        messages = min(self._keep_messages, peer.messages) - len(self._kept)
        room = min(self._keep_bytes, peer.bytes) - self.unacknowledged_bytes
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
        first = self.last_number + 1
        frames = [_frame(item, number) for number, item in enumerate(items, first)]
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
        if not self.has_room_for(size):
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
        before = self._written
        # No more than was put on it: after an interruption a writer may say something twice.
        self._confirmed_on_link = min(self._confirmed_on_link + count, self._next_on_link - 1)
        self._written = max(before, self._confirmed_on_link)
        return self._written - before

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

    # Receiving

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
                    self._count_received(count, held)
                    count = held = 0
                    self._receive_other(kind, number, frame, items)
                    if self.ended_by_peer is not None:
                        return
                    expected = (self.received + 1) & MAX_UINT32
        finally:
            self._count_received(count, held)

    def _count_received(self, count: int, size: int) -> None:
        self.received += count
        self._held_bytes += size

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
        if ahead == 0 or ahead >= _HALF:
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
        self._count_received(1, size)

    def _check_window(self) -> None:
        """What is not acknowledged is what we hold, or might have to."""
        if len(self._sizes) > self.limits.messages or (
            self._held_bytes > self.limits.bytes and len(self._sizes) > 1
        ):
            raise SessionViolation("more than was offered to be held")

    def _note_acknowledged(self, number: int, frame: bytes) -> None:
        if len(frame) != OVERHEAD:
            raise SessionViolation("ACK with a payload")
        count = (number - self.acknowledged) & MAX_UINT32
        if count >= _HALF:
            return  # older than one before: it says nothing new
        last = self.acknowledged + count
        if last > max(self._written, self._next_on_link - 1):
            raise SessionViolation(f"number {last} acknowledged, never sent")
        for _ in range(count):
            _, size = self._kept.popleft()
            self.unacknowledged_bytes -= size
        self.acknowledged = last
        if self._next_on_link <= last:
            # True, but not said by the end of this link: somebody repeats what it has heard on an
            # earlier one. That must cost nobody the session.
            self._next_on_link = last + 1
            self._confirmed_on_link = max(self._confirmed_on_link, last)

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
        for _ in range(self._taken - self._acknowledged_to_peer):
            self._held_bytes -= self._sizes.popleft()
        self._acknowledged_to_peer = self._taken
        self._ack_wanted = False
        if self._taken >= self._asked_up_to:
            self._asked_up_to = 0
        return numbered_header(_ACK, self._taken & MAX_UINT32)


def _frame(item: Item | None, number: int) -> bytes:
    number &= MAX_UINT32
    if type(item) is bytes:
        return numbered_header(_BINARY, number) + item
    if isinstance(item, str):
        return numbered_header(_TEXT, number) + item.encode()
    if item is None:
        return numbered_header(FrameKind.SKIP, number)
    kind = item.kind if isinstance(item, Parcel) else _BINARY
    return numbered_header(kind, number) + item


def _size(item: Item) -> int:
    return len(item.encode()) if isinstance(item, str) else len(item)
