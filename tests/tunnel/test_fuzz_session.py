"""Sessions whose other end sends anything: refused in one way only, with consistent, bounded books.

Whatever arrives, `Session.receive` raises nothing. What came before the frame that breaks the
protocol is delivered, nothing behind it is, and what the session holds stays within what it offered
to hold, and the one chunk in which more than that arrived.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.secrets import Secret
from tunnel.session import Item, Session
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
    Resume,
    Resumed,
    SessionViolation,
    encode,
    numbered_header,
    read_answer,
    read_greeting,
)

ID, TOKEN = b"i" * 16, Secret("5e" * 32)
OURS, THEIRS = Limits(6, 60, 40), Limits(5, 50, 30)

payloads = st.one_of(
    st.just(b""),
    st.binary(max_size=12),
    st.sampled_from([b"\xff", b"\xed\xa0\x80", bytes(59), bytes(70)]),
)
kinds = st.sampled_from([*FrameKind]).map(int) | st.integers(0, 255)
jumps = st.sampled_from([1, 1, 1, 1, 0, -1, 2, 2**31 - 1, 2**31, -(2**31)]) | st.integers(-9, 9)
whole_numbers = st.sampled_from([0, 1, 2, 2**31, 2**32, 2**63, 2**64 - 1]) | st.integers(
    0, 2**64 - 1
)
limits = st.builds(Limits, st.integers(1, 9), st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1))
handshakes = st.one_of(
    st.builds(Open, limits),
    st.builds(Opened, st.just(ID), st.just(TOKEN), st.integers(0, MAX_UINT32), limits),
    st.builds(Resume, st.just(ID), st.just(TOKEN), whole_numbers),
    st.builds(Resumed, whole_numbers, whole_numbers),
    st.builds(Gone, st.text()),
    st.builds(End, st.text()),
).map(encode)


def damaged(frames: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Some of the frames whole, some with a byte changed, some with their end cut off."""
    bent = st.builds(
        lambda frame, place, new, end: (frame[:place] + new + frame[place + 1 :])[:end],
        frames,
        st.integers(0, 60),
        st.binary(max_size=2),
        st.none() | st.integers(0, 60),
    )
    return frames | bent


def attached(at: int) -> Session:
    """A session that a link carries, at the server, with so many frames behind it in both ways."""
    session = Session(OURS, keep=(4, 40), accepts=[FrameKind.REQUEST, FrameKind.CANCEL])
    session.open(Open(THEIRS), ID, TOKEN, 60)
    session.received = session._taken = session._acknowledged_to_peer = at
    session.acknowledged = session.last_number = session._confirmed_on_link = session._written = at
    session._next_on_link = at + 1
    return session


def check_books(session: Session) -> None:
    """What belongs together agrees, and nothing is out of its bounds."""
    assert session._acknowledged_to_peer <= session.taken <= session.received
    assert len(session._sizes) == session.received - session._acknowledged_to_peer
    assert session._held_bytes == sum(session._sizes)
    assert all(session.taken < number <= session.received for number in session._asides)
    assert len(session._kept) == session.last_number - session.acknowledged
    assert session.unacknowledged_bytes == sum(size for _, size in session._kept)
    assert session.acknowledged < session._next_on_link <= session.last_number + 1
    if session.violation is None:
        assert len(session._sizes) <= OURS.messages
        assert session._held_bytes <= OURS.bytes or len(session._sizes) == 1


def books(session: Session) -> dict[str, object]:
    kept = {name: value for name, value in vars(session).items() if name != "machine"}
    return kept | {"violation": str(session.violation)}


def clone(session: Session) -> Session:
    """Another with the same books; only for what fires nothing, since the machine is the same."""
    other = copy.copy(session)
    for name in ("_kept", "_sizes", "_asides"):
        setattr(other, name, copy.copy(getattr(session, name)))
    return other


class World:
    """A session and what an owner does with it, while its other end sends what chance draws."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.session = attached(draw(st.sampled_from([0, 2**31 - 3, 2**32 - 3, 2**63])))

    def step(self) -> None:
        actions: list[Callable[[], None]] = [self.receive, self.receive, self.take, self.send]
        self.draw(st.sampled_from([*actions, self.acknowledge, self.come_back]))()
        check_books(self.session)

    def legal_frame(self, ahead: int) -> bytes:
        """What a peer may send; `ahead` numbered frames were drawn since it was heard."""
        draw, session = self.draw, self.session
        first = draw(st.sampled_from([1, 1, 2, 2, 3, 5, 6, 8, 9]))
        if first == FrameKind.ASK:
            return ASK_FRAME
        if first == FrameKind.ACK:
            number = draw(st.integers(session.acknowledged, session.last_number))
            return numbered_header(first, number & MAX_UINT32)
        payload = b"" if first == FrameKind.SKIP else bytes(draw(st.sampled_from([0, 2, 9, 59])))
        return numbered_header(first, (session.received + ahead + 1) & MAX_UINT32) + payload

    def wild_frame(self, ahead: int) -> bytes:
        """What no peer should send, or may only by chance."""
        draw, session = self.draw, self.session
        kind = draw(st.sampled_from(["numbered", "numbered", "ack", "other"]))
        if kind == "other":
            end = encode(End("bye"))
            return draw(st.just(end) | damaged(handshakes) | st.binary(max_size=9))
        jump = draw(jumps)
        if kind == "ack":  # of the next number, which does not exist yet, or of any other
            told = draw(st.sampled_from([session.last_number, session.acknowledged])) + jump
            header = numbered_header(FrameKind.ACK, told & MAX_UINT32)
            return header + draw(st.sampled_from([b"", b"", b"", b"x"]))
        number = (session.received + ahead + jump) & MAX_UINT32
        return numbered_header(draw(kinds), number) + draw(payloads)

    def receive(self) -> None:
        frames: list[bytes] = []
        draw_frame = self.draw(
            st.sampled_from([self.legal_frame, self.legal_frame, self.wild_frame])
        )
        for _ in range(self.draw(st.integers(0, 6))):
            frames.append(draw_frame(sum(frame[:1] < b"\x08" for frame in frames)))
        before, one_by_one = clone(self.session), clone(self.session)
        was_over = before.violation is not None or before.ended_by_peer is not None
        items = self.session.receive(frames)
        if was_over:
            assert not items
            assert books(self.session) == books(before)
            return
        assert self.session.received >= before.received
        assert self.session.acknowledged >= before.acknowledged
        singly: list[Item] = []
        for frame in frames:
            singly += one_by_one.receive([frame])
        if "offered to be held" in str(one_by_one.violation):  # looked at once a chunk
            assert items[: len(singly)] == singly
        else:
            assert items == singly
            assert books(self.session) == books(one_by_one)

    def take(self) -> None:
        session = self.session
        left = session.received - session.taken - len(session._asides)
        session.take(self.draw(st.integers(0, left)))

    def send(self) -> None:
        session = self.session
        while not session.has_replay and session.has_room_for(9) and self.draw(st.booleans()):
            session.send([self.draw(st.sampled_from(["text", b"bytes", None]))])
            session.confirm(1)

    def acknowledge(self) -> None:
        assert len(self.session.acknowledgement()) == OVERHEAD

    def come_back(self) -> None:
        """The client resumes, with whatever it claims to have."""
        session, before = self.session, clone(self.session)
        near = st.integers(-2, 6).map(lambda more: max(0, session.acknowledged + more))
        received = self.draw(near | whole_numbers)
        session.detach()
        try:
            answer = session.resume(Resume(ID, TOKEN, received))
        except SessionViolation:
            assert received > before.last_number
            assert session._kept == before._kept
            session.machine.fire("attach")
        else:
            assert answer == Resumed(before.received, before.acknowledged)
            session.confirm(len(session.replay(99, 999)))


@pytest.mark.fault("any-session-frame")
@given(st.data())
def test_whatever_the_peer_sends_the_books_agree(data: st.DataObject) -> None:
    """No frame raises, none is delivered behind a violation, and the bounds hold."""
    world = World(data.draw)
    for _ in range(data.draw(st.integers(1, 12))):
        world.step()


@pytest.mark.parametrize("read", [read_answer, read_greeting])
@given(frame=damaged(handshakes) | st.binary(max_size=90))
def test_what_is_read_of_a_handshake_was_written(
    read: Callable[[bytes], Answer | Greeting], frame: bytes
) -> None:
    """Any bytes are refused by the documented error, or are what would be written for that."""
    try:
        said = read(frame)
    except SessionViolation:
        return
    if isinstance(said, Gone):
        assert read(encode(said)) == said
    else:
        assert encode(said) == frame


@pytest.mark.fault("any-session-frame")
@given(st.sampled_from(["new", "attached", "restored"]), damaged(handshakes), st.integers(0, 3))
def test_an_answer_is_true_or_refused(history: str, frame: bytes, sent: int) -> None:
    """Any answer carries the session on, loses it or is refused; and then it can greet again."""
    session = Session(OURS, keep=(4, 40))
    if history != "new":
        session.greeting()
        session.answered(Opened(ID, TOKEN, 60, THEIRS))
        session.send([b"m"] * sent)
        session.confirm(sent)
        session.detach()
    if history == "restored":
        session = Session.restored(
            session.ticket,
            keep=(4, 40),
            accepts=(),
            acknowledged=0,
            last_number=sent,
            messages=dict.fromkeys(range(1, sent + 1), b"m"),
        )
    session.greeting()
    with contextlib.suppress(SessionViolation):
        if session.answered(read_answer(frame)):
            check_books(session)
            session.replay(99, 999)
            session.detach()
            encode(session.greeting())
