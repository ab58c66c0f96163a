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

The halves are `tunnel.session_sending` and `tunnel.session_receiving`, the format of the frames is
in `tunnel.session_frames`, the states in `tunnel.session_lifecycle`.
XEP-0198 (stream management) is the model; unlike there, numbers are on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from statemachine import StateMachine
from tunnel.secrets import Secret
from tunnel.session_frames import (
    Answer,
    End,
    FrameKind,
    Gone,
    Greeting,
    Limits,
    Open,
    Opened,
    Resume,
    Resumed,
    SessionViolation,
    encode,
)
from tunnel.session_lifecycle import SESSION, SessionState
from tunnel.session_receiving import SessionReceiving
from tunnel.session_sending import Item, SessionSending, payload_size

__all__ = ["Item", "Loss", "Session", "Ticket"]

_S = SessionState
_MOST_RELEASED = 2**63  # a counter has 64 bits on the wire, and goes on from here


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


class Session(SessionSending, SessionReceiving):
    """One end of a session. Neither thread-safe nor aware of time; its owner is both.

    Args:
        limits: What this end will hold of what the other sends.
        keep: What this end will keep of what it has sent: frames, and bytes of their payloads. One
            payload alone may be larger.
        accepts: The kinds of parcels that make sense here; others break the protocol.

    Attributes:
        state: Where the session stands.
        id: The session's name; ``b""`` until there is one.
        token: Proves that the session is the client's; None until there is a session.
        kept_for: Seconds for which the server keeps the session without a link.

    Those of the halves are in `tunnel.session_sending` and `tunnel.session_receiving`.
    """

    state: SessionState

    def __init__(
        self, limits: Limits, *, keep: tuple[int, int], accepts: Iterable[FrameKind] = ()
    ) -> None:
        SessionSending.__init__(self, keep)
        SessionReceiving.__init__(self, limits, accepts)
        self.id = b""
        self.token: Secret | None = None
        self.kept_for = 0
        self._is_restored = False  # another process had this session, and nothing arrived since
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
            self._heed(answer.limits)
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
        session._heed(ticket.peer_limits)
        session.acknowledged = acknowledged
        session.last_number = session._written = last_number  # nobody knows what was written
        for number in range(acknowledged + 1, last_number + 1):
            item = messages.get(number)
            size = ticket.peer_limits.bytes + 1 if item is None else payload_size(item)
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
        self._heed(greeting.limits)
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
