"""Long histories of two sessions, at random: sizes, windows, batches, bytes cut in two, parcels.

What `test_session_model` explores in full with very little, is tried here with much. A link is two
streams of bytes, so that frames are written, arrive and are lost in parts.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tunnel.secrets import Secret
from tunnel.session import Item, Session
from tunnel.session_frames import (
    ASK_FRAME,
    FrameKind,
    Gone,
    Limits,
    Open,
    Opened,
    Parcel,
    Resumed,
    encode,
    read_answer,
    read_greeting,
)
from tunnel.session_lifecycle import SessionState as S

EVERYTHING = 2**30
TO_SERVER = (FrameKind.REQUEST, FrameKind.CANCEL)
TO_CLIENT = (FrameKind.RESPONSE,)


@dataclass
class Stream:
    """Bytes on their way, and those of a frame that has not arrived whole."""

    flying: bytearray = field(default_factory=bytearray)
    arrived: bytearray = field(default_factory=bytearray)

    def arrive(self, size: int) -> list[bytes]:
        self.arrived += self.flying[:size]
        del self.flying[:size]
        frames = []
        while len(self.arrived) >= 4:
            end = 4 + int.from_bytes(self.arrived[:4], "big")
            if len(self.arrived) < end:
                break
            frames.append(bytes(self.arrived[4:end]))
            del self.arrived[:end]
        return frames


@dataclass
class Link:
    up: Stream = field(default_factory=Stream)
    down: Stream = field(default_factory=Stream)


def wrapped(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


class End:
    """A session and the least that its owner does."""

    def __init__(self, session: Session, *, is_client: bool) -> None:
        self.session = session
        self.is_client = is_client
        self.link: Link | None = None
        self.waiting: deque[Item | None] = deque()
        self.sent: list[Item | None] = []  # of this session, after the first number
        self.holes: set[int] = set()  # indexes into it: what may have been skipped
        self.inbox = 0
        self.next = 0  # the index of what arrives next, in what the other has sent
        self.taken_ever = 0  # how much of that was taken, by whichever process
        self.counted: list[int] = []  # the indexes of what is in the inbox
        self._forget_link()

    def _forget_link(self) -> None:
        self.link = None
        self.outbox = bytearray()
        self.marks: deque[int] = deque()  # where numbered frames end in what is unwritten
        self.unconfirmed = 0

    # Sending

    def put(self, limit: int, max_bytes: int) -> None:
        s = self.session
        if s.has_replay:
            frames = s.replay(limit, max_bytes)
            assert frames
        else:
            frames = s.send(self._fitting(limit, max_bytes))
        for frame in frames:
            self.outbox += wrapped(frame)
            self.marks.append(len(self.outbox))

    def _fitting(self, limit: int, max_bytes: int) -> list[Item | None]:
        messages, room = self.session.room()
        is_alone = self.session.unacknowledged == 0
        room = min(room, max_bytes)
        items: list[Item | None] = []
        while self.waiting and len(items) < min(messages, limit):
            size = length(self.waiting[0])
            if size > room and (items or not is_alone):
                break
            assert items or self.session.has_room_for(size)
            room -= size
            items.append(self.waiting.popleft())
        self.sent += items
        return items

    def add(self, frame: bytes) -> None:
        self.outbox += wrapped(frame)

    def write(self, size: int) -> None:
        assert self.link is not None
        stream = self.link.up if self.is_client else self.link.down
        size = min(size, len(self.outbox))
        stream.flying += self.outbox[:size]
        del self.outbox[:size]
        self.marks = deque(mark - size for mark in self.marks)
        while self.marks and self.marks[0] <= 0:
            self.marks.popleft()
            self.unconfirmed += 1

    def confirm(self) -> None:
        self.session.confirm(self.unconfirmed)
        self.unconfirmed = 0

    def leave(self) -> None:
        self.confirm()
        self._forget_link()
        self.session.detach()

    # Receiving

    def receive(self, frames: list[bytes], sender: End) -> None:
        for item in self.session.receive(frames):
            self._note(item, sender)
        assert self.session.violation is None, self.session.violation
        assert self.session.duplicates == 0

    def _note(self, item: Item, sender: End) -> None:
        while not is_same(item, sender.sent[self.next]):
            assert sender.sent[self.next] is None or self.next in sender.holes, "lost"
            self.next += 1
        if is_counted(item):
            self.counted.append(self.next)
        self.next += 1

    def take(self, count: int) -> None:
        count = min(count, len(self.counted))
        if count:
            self.session.take(count)
            self.taken_ever = max(self.taken_ever, self.counted[count - 1] + 1)
            del self.counted[:count]

    def has_taken(self, end: int, sender: End) -> bool:
        """Whether the application has taken all before an index that it is to see."""
        untaken = range(self.taken_ever, end)
        return not any(is_counted(sender.sent[n]) for n in untaken if n not in sender.holes)


def length(item: Item | None) -> int:
    return len(item.encode()) if isinstance(item, str) else len(item or b"")


def is_counted(item: Item | None) -> bool:
    """Whether the application sees the item."""
    return item is not None and getattr(item, "kind", FrameKind.REQUEST) == FrameKind.REQUEST


def is_same(one: Item, other: Item | None) -> bool:
    kinds = getattr(one, "kind", None), getattr(other, "kind", None)
    return type(one) is type(other) and one == other and kinds[0] == kinds[1]


def start_at(session: Session, number: int) -> None:
    """As if so many frames had been sent and received before, and all of them acknowledged."""
    session.acknowledged = session.last_number = session._written = number
    session._confirmed_on_link, session._next_on_link = number, number + 1
    session.received = session._taken = session._acknowledged_to_peer = number


SIDES = st.sampled_from(["client", "server"])
SIZES = st.sampled_from([0, 1, 3, 10, 40, 130])
COUNTS = st.sampled_from([100, 1, 2, 5])
BYTES = st.sampled_from([EVERYTHING, 0, 5, 17, 60, 300, EVERYTHING, EVERYTHING])
LIMITS = st.builds(
    Limits,
    messages=st.sampled_from([1, 2, 3, 8, 50]),
    bytes=st.sampled_from([1, 4, 30, 100, 1000]),
    message_size=st.just(1000),
)
KEEPS = st.tuples(st.sampled_from([1, 2, 10, 50]), st.sampled_from([1, 20, 100, 1000]))
STARTS = st.sampled_from([0, 1, 2**31 - 2, 2**32 - 2, 2**32, 5 * 2**32 - 4])


class Histories(RuleBasedStateMachine):
    @initialize(limits=st.tuples(LIMITS, LIMITS), keeps=st.tuples(KEEPS, KEEPS), at=STARTS)
    def begin(
        self, limits: tuple[Limits, Limits], keeps: tuple[tuple[int, int], tuple[int, int]], at: int
    ) -> None:
        self.limits, self.keeps, self.at = limits, keeps, at
        self.names = itertools.count()
        self.links: list[Link] = []  # whose greeting the server has not read
        self.servers: dict[bytes, End] = {}
        self.restarts = self.forgets = 0
        self.new_client(())
        self.come_back(2)

    def new_client(self, waiting: tuple[Item | None, ...]) -> None:
        session = Session(self.limits[0], keep=self.keeps[0], accepts=TO_CLIENT)
        self.client = End(session, is_client=True)
        self.client.waiting.extend(waiting)

    @property
    def server(self) -> End | None:
        return self.servers.get(self.client.session.id)

    def end(self, side: str) -> End | None:
        return self.client if side == "client" else self.server

    def attached(self, side: str) -> End | None:
        end = self.end(side)
        return end if end and end.session.state == S.ATTACHED else None

    # What applications do

    @rule(
        side=SIDES,
        sizes=st.lists(SIZES, min_size=1, max_size=8),
        kind=st.integers(0, 9),
        written=BYTES,
        arrive=BYTES,
    )
    def send(self, side: str, sizes: list[int], kind: int, written: int, arrive: int) -> None:
        end = self.end(side)
        parcels = TO_SERVER if side == "client" else TO_CLIENT
        for size in sizes if end else ():
            assert end is not None
            text = f"{next(self.names)}" + "ü" * (size // 2)
            options: list[Item | None] = [text, text.encode(), None]
            options += [Parcel(parcel, text.encode()) for parcel in parcels]
            end.waiting.append(options[kind % len(options)])
            kind += 1
        self.carry(side, 100, EVERYTHING, written, arrive)

    @rule(side=SIDES, count=COUNTS, is_late=st.booleans(), arrive=BYTES)
    def take(self, side: str, count: int, is_late: bool, arrive: int) -> None:
        if end := self.end(side):
            end.take(count)
            self.acknowledge(side, is_late)
            self.write(side, arrive)
            self.arrive(side, arrive)

    # What owners do

    @rule(side=SIDES, limit=COUNTS, max_bytes=BYTES, written=BYTES, arrive=BYTES)
    def carry(self, side: str, limit: int, max_bytes: int, written: int, arrive: int) -> None:
        """Some frames are made, some bytes are written, and some arrive."""
        self.put(side, limit, max_bytes)
        self.write(side, written)
        self.arrive(side, arrive)

    def put(self, side: str, limit: int, max_bytes: int) -> None:
        end = self.attached(side)
        if end and (end.session.has_replay or end.waiting):
            end.put(limit, max_bytes)

    def write(self, side: str, size: int) -> None:
        if end := self.attached(side):
            end.write(size)

    @rule(side=SIDES)
    def confirm(self, side: str) -> None:
        if end := self.attached(side):
            end.confirm()

    def acknowledge(self, side: str, is_late: bool) -> None:
        end = self.attached(side)
        if end and (end.session.is_acknowledgement_due or (is_late and end.session.has_untold)):
            end.add(end.session.acknowledgement())
            assert not end.session.has_untold

    @rule(side=SIDES)
    def ask(self, side: str) -> None:
        if end := self.attached(side):
            end.add(ASK_FRAME)
            self.write(side, EVERYTHING)

    # What the network does

    @rule(side=SIDES, size=BYTES)
    def arrive(self, side: str, size: int) -> None:
        """Some of what this side has written arrives."""
        if side == "client":
            self.arrive_at_server(size)
        else:
            self.arrive_at_client(size)

    def arrive_at_server(self, size: int) -> None:
        server = self.server
        if server and server.link:
            frames = server.link.up.arrive(size)
            server.receive(frames, self.client)

    def arrive_at_client(self, size: int) -> None:
        client = self.client
        if not client.link:
            return
        frames = client.link.down.arrive(size)
        if frames and client.session.state != S.ATTACHED:
            was_restored = client.session._is_restored
            answer = read_answer(frames.pop(0))
            if not client.session.answered(answer):
                self.gone()
                return
            if isinstance(answer, Opened):
                start_at(client.session, self.at)
            if was_restored and isinstance(answer, Resumed):
                assert client.has_taken(answer.released - self.at, self.server or self.forgotten)
                client.next = answer.released - self.at
                client.counted.clear()
        if frames:
            client.receive(frames, self.server or self.forgotten)

    @rule(side=SIDES, survives=BYTES)
    def lose_link(self, side: str, survives: int) -> None:
        """One end knows; some of what it has written may arrive yet."""
        end = self.end(side)
        if end and end.link:
            stream = end.link.up if end is self.client else end.link.down
            del stream.flying[survives:]
            end.leave()

    @rule(progress=st.integers(0, 3))
    def come_back(self, progress: int) -> None:
        """The client says hello on a new link; more may follow at once."""
        if self.client.link is not None:
            self.lose_link("client", EVERYTHING)
        link = self.client.link = Link()
        link.up.flying += wrapped(encode(self.client.session.greeting()))
        if progress == 0:
            self.links.append(link)
        else:
            self.accept(link)
        if progress > 1:
            self.arrive_at_client(EVERYTHING if progress == 2 else 70)

    @precondition(lambda self: self.links)
    @rule(which=st.integers(0, 3))
    def read_greeting(self, which: int) -> None:
        """The server reads a greeting, not always in the order in which they were written."""
        self.accept(self.links.pop(which % len(self.links)))

    def accept(self, link: Link) -> None:
        frames = link.up.arrive(EVERYTHING)
        if not frames:
            return  # the greeting was lost
        greeting = read_greeting(frames[0])
        if isinstance(greeting, Open):
            session = Session(self.limits[1], keep=self.keeps[1], accepts=TO_SERVER)
            identity = next(self.names).to_bytes(16, "big")
            answer = session.open(greeting, identity, Secret("00" * 32), 600)
            start_at(session, self.at)
            end = self.servers[identity] = End(session, is_client=False)
            link.down.flying += wrapped(encode(answer))
        elif greeting.id in self.servers:
            end = self.servers[greeting.id]
            end.confirm()
            end._forget_link()
            link.down.flying += wrapped(encode(end.session.resume(greeting)))
        else:
            link.down.flying += wrapped(encode(Gone("unknown")))
            return
        end.link = link

    # What ends

    @precondition(lambda self: self.restarts < 2 and self.client.session.token is not None)
    @rule(survives=BYTES, lag=st.integers(0, 3), holes=st.sets(st.integers(1, 10)))
    def kill_client(self, survives: int, lag: int, holes: set[int]) -> None:
        """Another process goes on with what was on disk: it may be late, and not everything."""
        self.restarts += 1
        client, old = self.client, self.client.session
        if client.link:
            del client.link.up.flying[survives:]
        acknowledged = max(self.at, old.acknowledged - lag)
        client.holes |= {acknowledged - self.at - 1 + n for n in holes if n <= old.unacknowledged}
        on_disk = {
            number: item
            for number in range(acknowledged + 1, old.last_number + 1)
            if (item := client.sent[number - self.at - 1]) is not None
            and number - self.at - 1 not in client.holes
        }
        client.session = Session.restored(
            old.ticket,
            keep=self.keeps[0],
            accepts=TO_CLIENT,
            acknowledged=acknowledged,
            last_number=old.last_number,
            messages=on_disk,
        )
        client._forget_link()
        client.counted.clear()

    @precondition(lambda self: self.server is not None and self.forgets < 2)
    @rule()
    def forget(self) -> None:
        server = self.server
        assert server is not None
        if server.link:
            self.lose_link("server", EVERYTHING)
        if server.session.state == S.DETACHED:
            self.forgets += 1
            self.check_loss(server, self.client)
            del self.servers[self.client.session.id]
            self.forgotten = server

    def gone(self) -> None:
        client = self.client
        unwritten = self.check_loss(client, self.forgotten)
        waiting = (*unwritten, *client.waiting)
        link = client.link
        self.new_client(waiting)
        # The client opens a new session on the same link.
        assert link is not None
        link.up.flying += wrapped(encode(self.client.session.greeting()))
        self.client.link = link
        self.links.append(link)

    def check_loss(self, end: End, receiver: End) -> list[Item]:
        kept = end.session.unacknowledged_items()
        end.confirm()
        numbered = end.session.last_number
        loss = end.session.lose("gone")
        assert (*loss.unacknowledged, *loss.unwritten) == kept
        assert len(loss.unwritten_numbers) == len(loss.unwritten)
        first = min(loss.unwritten_numbers, default=numbered + 1)
        assert receiver.next <= first - self.at - 1, "unwritten, and delivered"
        return loss.unwritten

    # What must hold

    @invariant()
    def all_is_well(self) -> None:
        client, server = self.client, self.server
        if not client.session.token:
            return
        self.check_end(client)
        if server is None:
            return
        self.check_end(server)
        for sender, receiver in ((client, server), (server, client)):
            assert sender.session.last_number == self.at + len(sender.sent)
            assert receiver.session.received <= sender.session.last_number
            assert receiver.has_taken(sender.session.acknowledged - self.at, sender)

    def check_end(self, end: End) -> None:
        s = end.session
        assert s.unacknowledged + s.acknowledged == s.last_number
        assert s._acknowledged_to_peer <= s._taken <= s.received
        assert len(end.counted) <= s.received - s._taken
        assert len(s._sizes) == s.received - s._acknowledged_to_peer <= s.limits.messages
        assert s._held_bytes == sum(s._sizes)
        assert s._held_bytes <= s.limits.bytes or len(s._sizes) == 1
        assert s.takes_until_due >= 1

    def teardown(self) -> None:
        """Without further losses everything gets there, and is acknowledged and forgotten."""
        if not hasattr(self, "client"):
            return
        for _ in range(5000):
            if self.is_done():
                return
            self.run_fairly()
        raise AssertionError("it does not come to an end")

    def run_fairly(self) -> None:
        if self.client.link is None:
            self.come_back(0)
        while self.links:
            self.accept(self.links.pop(0))
        self.arrive_at_client(EVERYTHING)
        if self.links:
            return  # the session was gone, and a new one was asked for
        if self.server is None or self.server.link is not self.client.link:
            self.client.leave()
            return
        for side in ("client", "server"):
            self.put(side, 100, EVERYTHING)
            self.write(side, EVERYTHING)
            self.confirm(side)
        self.arrive_at_client(EVERYTHING)
        self.arrive_at_server(EVERYTHING)
        for side in ("client", "server"):
            self.take(side, EVERYTHING, True, EVERYTHING)

    def is_done(self) -> bool:
        client, server = self.client, self.server
        if server is None or server.link is not client.link:
            return False
        for one, other in ((client, server), (server, client)):
            last = len(one.sent)
            while last and (one.sent[last - 1] is None or last - 1 in one.holes):
                last -= 1
            if one.waiting or one.session.unacknowledged or other.next < last or other.counted:
                return False
        return True


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=50)


def step(histories: Histories, rng: random.Random) -> None:
    """One step, such that much gets done and little is lost."""
    histories.restarts = histories.forgets = 0
    side = rng.choice(["client", "server"])
    few, some, more = (rng.choice([EVERYTHING, 0, 7, 60, 300]) for _ in range(3))
    count = rng.choice([1, 2, 5, 100])
    if histories.client.link is None:
        histories.come_back(rng.randrange(4))
    elif rng.random() < 0.4:
        sizes = [rng.choice([0, 1, 3, 10, 40, 130]) for _ in range(rng.randrange(1, 6))]
        histories.send(side, sizes, rng.randrange(10), few, some)
    elif rng.random() < 0.6:
        histories.take(side, count, rng.random() < 0.5, few)
    elif rng.random() < 0.6:
        histories.carry(side, count, few, some, more)
    elif rng.random() < 0.4:
        rng.choice([histories.confirm, histories.ask])(side)
    elif histories.links and rng.random() < 0.5:
        histories.read_greeting(rng.randrange(4))
    elif rng.random() < 0.7:
        histories.lose_link(side, few)
    elif histories.client.session.token is not None and rng.random() < 0.7:
        histories.kill_client(few, rng.randrange(4), set(rng.sample(range(1, 11), 2)))
    elif histories.server is not None and rng.random() < 0.3:
        histories.forget()
    histories.all_is_well()


@pytest.mark.parametrize("seed", range(15))
def test_a_long_history(seed: int) -> None:
    """The same over thousands of steps, with a bounded number of messages waiting."""
    rng = random.Random(seed)
    histories = Histories()
    limits = [
        Limits(rng.choice([1, 2, 3, 8, 50]), rng.choice([1, 4, 30, 100, 1000]), 1000)
        for _ in range(2)
    ]
    keeps = [(rng.choice([1, 2, 10, 50]), rng.choice([1, 20, 100, 1000])) for _ in range(2)]
    at = rng.choice([0, 2**32 - 50, 3 * 2**32 - 200])
    histories.begin((limits[0], limits[1]), (keeps[0], keeps[1]), at)
    for _ in range(2000):
        step(histories, rng)
    histories.teardown()
