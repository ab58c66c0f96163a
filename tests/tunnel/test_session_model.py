"""Every history of two sessions and a network that may cut at any point, up to a bound.

The ends are real `Session` objects; around each is the least that an owner does. A state of the
world is a tuple, so that states can be compared; the exploration goes breadth first, and remembers
how it came to each state. What an end does depends on that end alone, so a step of an end is taken
once by the real code and then looked up.

What may happen in a state:

- an end numbers its next message, or makes the next frame of a replay (`put`); its writer hands a
  frame to the kernel (`write`) and says so (`confirm`), at once or at any time after;
- a frame arrives (`deliver`); the application takes a message (`take`); what was taken is
  acknowledged (`ack`), whenever that pleases the owner;
- one end loses the link: what was on its way to it is gone, and what it has written may arrive, as
  far as it pleases the network, until the other end notices or has a newer link;
- the client comes back, while the server may still believe in the old link; a greeting from a link
  that the client has given up may reach the server at any later time, or never;
- the client's process is killed and another goes on with what was on disk; the server forgets.

Losses, restarts and forgetting are limited in number. Of what is left without them, the graph must
have no cycle, and each of its ends must be the state where all is delivered, taken, acknowledged
and forgotten: so every schedule that has no further losses leads there.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import pytest

from tunnel.secrets import Secret
from tunnel.session import Item, Session, Ticket
from tunnel.session_frames import (
    MAX_UINT32,
    FrameKind,
    Gone,
    Limits,
    Open,
    Resume,
    Resumed,
    encode,
    numbered_header,
    read_answer,
    read_greeting,
)

Script: TypeAlias = Sequence[Item | None]
"""What an end sends, all different; None is a number without a message."""

QUEUES = ("_kept", "_sizes", "_asides")
PLAIN = (
    "unacknowledged_bytes",
    "acknowledged",
    "last_number",
    "_next_on_link",
    "_confirmed_on_link",
    "_written",
    "received",
    "_taken",
    "_acknowledged_to_peer",
    "_held_bytes",
    "_ack_wanted",
    "_asked_up_to",
    "_is_restored",
)
FIXED = {
    *("limits", "id", "token", "kept_for", "peer_limits", "machine"),
    *("_keep", "_window", "_accepts", "_ack_every", "_ack_bytes"),
    *("violation", "ended_by_peer", "_asked_after"),  # never happen here
    *("replayed", "duplicates"),  # for statistics
}
EVERYTHING = 2**40


LIMITS = Limits(messages=2, bytes=3, message_size=8)
KEEP = (LIMITS.messages, LIMITS.bytes)


class Broken(AssertionError):
    """A state that must not be."""


def demand(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


@dataclass(frozen=True)
class World:
    """What is explored, and how far."""

    client_script: Script
    server_script: Script
    cuts: int
    restarts: int = 0
    forgets: int = 0
    holes: frozenset[int] = frozenset()  # the client's messages that are not on disk
    late_confirm: bool = False
    session_class: type[Session] = Session


@dataclass
class Moves:
    """What an end can do by itself, and what the exploration asks about it often."""

    state: str
    is_done: bool
    acknowledged: int
    last_number: int
    received: int
    may_be_acknowledged: int
    local: list[tuple[str, int, bytes | None]] = field(default_factory=list)


class End:
    """One end; loads a state, lets the session take a step, and stores what became of it."""

    def __init__(self, world: World, session: Session, script: Script, peer_script: Script) -> None:
        self.world = world
        self.script = script
        self.peer_script = peer_script
        self.is_client = script is world.client_script
        holes = set() if self.is_client else world.holes
        self.peer_holes = holes | {n for n, item in enumerate(peer_script, 1) if item is None}
        demand(set(vars(session)) - {"state", *QUEUES, *PLAIN} == FIXED, "the model knows no field")
        self.session = session
        self.outbox: list[bytes] = []
        self.unconfirmed = 0
        self.inbox: list[int] = []
        self.got = 0
        self.got_ever = 0
        self.known: dict[tuple[Any, ...], int] = {}
        self.states: list[tuple[Any, ...]] = []
        self.cache: dict[tuple[int, str, Any], tuple[int, Any]] = {}
        self.moves: list[Moves | None] = []

    # States

    def load(self, number: int) -> None:
        session = self.session
        state, queues, plain, outbox, self.unconfirmed, inbox, self.got, self.got_ever = (
            self.states[number]
        )
        session.state = session.machine._present_state = state
        for name, values in zip(QUEUES, queues, strict=True):
            setattr(session, name, deque(values))
        session.__dict__.update(zip(PLAIN, plain, strict=True))
        self.outbox = list(outbox)
        self.inbox = list(inbox)

    def store(self) -> int:
        session = self.session
        fields = vars(session)
        key = (
            session.machine.state,
            tuple([tuple(fields[name]) for name in QUEUES]),
            tuple([fields[name] for name in PLAIN]),
            tuple(self.outbox),
            self.unconfirmed,
            tuple(self.inbox),
            self.got,
            self.got_ever,
        )
        number = self.known.get(key)
        if number is None:
            self.check()
            number = self.known[key] = len(self.states)
            self.states.append(key)
            self.moves.append(None)
        return number

    def check(self) -> None:
        """What must hold at an end whatever the other does."""
        s = self.session
        if s.state == "lost":
            return
        kept = [item for item, _ in s._kept]
        sent = self.script[s.acknowledged : s.last_number]
        demand(len(kept) == len(sent), "acknowledged and unacknowledged are not all that was sent")
        for number, (mine, theirs) in enumerate(zip(kept, sent, strict=True), s.acknowledged + 1):
            is_hole = mine is None and number in self.world.holes and self.is_client
            demand(mine == theirs or is_hole, f"kept is {mine!r} where {theirs!r} was sent")
        demand(s._acknowledged_to_peer <= s._taken <= s.received, "counters out of order")
        demand(len(s._sizes) == s.received - s._acknowledged_to_peer, "sizes out of step")
        demand(s._held_bytes == sum(s._sizes), "bytes out of step")
        demand(len(s._sizes) <= s.limits.messages, "more is held than was offered")
        demand(len(self.inbox) <= s.received - s._taken, "taken before it was")
        if s.state == "attached":
            put = sum(frame[0] <= FrameKind.SKIP for frame in self.outbox) + self.unconfirmed
            demand(s._confirmed_on_link + put == s._next_on_link - 1, "written is out of step")

    # Steps

    def step(self, number: int, name: str, argument: Any = None) -> tuple[int, Any]:
        """Take a step from a state; the next state, and what came out."""
        key = (number, name, argument)
        found = self.cache.get(key)
        if found is None:
            self.load(number)
            result = getattr(self, name)() if argument is None else getattr(self, name)(argument)
            found = self.cache[key] = (self.store(), result)
        return found

    def alone(self, number: int) -> Moves:
        """What the end may do by itself in a state."""
        moves = self.moves[number]
        if moves is None:
            self.load(number)
            s = self.session
            is_idle = not (self.outbox or self.unconfirmed or self.inbox or s._kept)
            is_done = is_idle and s.last_number == len(self.script) and not s.has_untold
            moves = Moves(
                *(s.machine.state, is_done, s.acknowledged, s.last_number, s.received),
                self.got_ever,
            )
            while moves.may_be_acknowledged + 1 in self.peer_holes:
                moves.may_be_acknowledged += 1
            who = "client" if self.is_client else "server"
            for name in list(self.possible()):
                moves.local.append((f"{who} {name}", *self.step(number, name)))
            self.moves[number] = moves
        return moves

    def possible(self) -> Iterator[str]:
        s = self.session
        if self.inbox:
            yield "take"
        if self.unconfirmed:
            yield "confirm"
        if s.state != "attached":
            return
        if self.outbox:
            yield "write"
        if s.has_replay or (
            s.last_number < len(self.script) and s.has_room_for(length(self.script[s.last_number]))
        ):
            yield "put"
        if s.has_untold or s.is_acknowledgement_due:
            yield "ack"

    def put(self) -> None:
        s = self.session
        if s.has_replay:
            frames = s.replay(1, EVERYTHING)
        else:
            frames = s.send([self.script[s.last_number]])
            self.check_room()
        demand(len(frames) == 1, "one frame was asked for")
        self.outbox += frames

    def check_room(self) -> None:
        """What is kept after a new message is what both ends agreed to."""
        kept = [item for item, _ in self.session._kept]
        demand(len(kept) <= LIMITS.messages, "too many are kept")
        size = sum(map(length, kept))
        demand(size <= LIMITS.bytes or len(kept) == 1, "too many bytes are kept")

    def write(self) -> bytes:
        frame = self.outbox.pop(0)
        if frame[0] <= FrameKind.SKIP:
            self.unconfirmed += 1
            if not self.world.late_confirm:
                self.confirm()
        return frame

    def confirm(self) -> None:
        self.session.confirm(self.unconfirmed)
        self.unconfirmed = 0

    def take(self) -> None:
        number = self.inbox.pop(0)
        skipped = set(range(self.got + 1, number))
        demand(self.got < number and skipped <= self.peer_holes, f"{number} after {self.got}")
        self.got = number
        self.got_ever = max(self.got_ever, number)
        self.session.take(1)

    def ack(self) -> None:
        self.outbox.append(self.session.acknowledgement())

    def deliver(self, frame: bytes) -> None:
        if self.session.state == "resuming":
            self.answer(frame)
            return
        for item in self.session.receive([frame]):
            self.inbox.append(self.peer_script.index(item) + 1)
        demand(self.session.violation is None, f"a violation: {self.session.violation}")
        demand(self.session.duplicates == 0, "more was sent again than was missing")

    def drop_link(self) -> None:
        """What the owner does when a link is over: what was written whole is confirmed first."""
        self.confirm()
        self.outbox.clear()

    def detach(self) -> None:
        self.drop_link()
        self.session.detach()

    # At the client

    def greet(self) -> bytes:
        return encode(self.session.greeting())

    def answer(self, frame: bytes) -> None:
        answer = read_answer(frame)
        if isinstance(answer, Resumed) and self.session._is_restored:
            demand(answer.released <= self.got_ever, "acknowledged and never taken")
            self.got = answer.released
        self.session.answered(answer)

    def restart(self, acknowledged: int) -> None:
        """Another process goes on with what was on disk."""
        s = self.session
        numbers = range(acknowledged + 1, s.last_number + 1)
        messages = {n: self.script[n - 1] for n in numbers if n not in self.world.holes}
        self.session = self.world.session_class.restored(
            s.ticket,
            keep=KEEP,
            accepts=(),
            acknowledged=acknowledged,
            last_number=s.last_number,
            messages={n: item for n, item in messages.items() if item is not None},
        )
        self.outbox, self.inbox, self.unconfirmed = [], [], 0

    # At the server

    def resume(self, frame: bytes) -> bytes:
        greeting = read_greeting(frame)
        assert isinstance(greeting, Resume)
        self.drop_link()
        return encode(self.session.resume(greeting))

    # At both

    def lose(self, delivered: int) -> None:
        """The session is lost, and the other end has had all up to a number."""
        s = self.session
        acknowledged, last_number = s.acknowledged, s.last_number
        loss = s.lose("gone")
        unwritten = [self.script.index(item) + 1 for item in loss.unwritten]
        unknown = [self.script.index(item) + 1 for item in loss.unacknowledged]
        numbers = range(acknowledged + 1, last_number + 1)
        there = [n for n in numbers if self.script[n - 1] is not None]
        if self.is_client:
            there = [n for n in there if n not in self.world.holes or n in unwritten + unknown]
        demand(unknown + unwritten == there, "what was lost is not what was kept")
        demand(all(number > delivered for number in unwritten), "unwritten, and delivered")
        demand(not s._kept and not s.unacknowledged_bytes, "something is still kept")


def length(item: Item | None) -> int:
    return len(item.encode()) if isinstance(item, str) else len(item or b"")


class State(NamedTuple):
    """A state of the world.

    Attributes:
        client: The client's state, by number.
        server: The server's; -1 once it has forgotten the session.
        to_server: What is on its way on the server's link.
        to_client: What is on its way on the client's.
        cuts: How many losses of a link may still happen.
        restarts: How often the client may still be killed.
        forgets: How often the server may still forget.
        is_shared: Whether it is the same link.
        greeting: What the client has said on a new link that the server has not seen.
        late: What it has said on links that it has given up.
        had: What the server had received when it forgot.
    """

    client: int
    server: int
    to_server: tuple[bytes, ...]
    to_client: tuple[bytes, ...]
    cuts: int
    restarts: int
    forgets: int
    is_shared: bool = True
    greeting: bytes | None = None
    late: tuple[bytes, ...] = ()
    had: int = 0


Step: TypeAlias = tuple[str, bool, State]
"""What may happen: its name, whether it is a loss, and the state after it."""

GONE = encode(Gone("unknown"))


class Explorer:
    """Explores a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        client = world.session_class(LIMITS, keep=KEEP)
        server = world.session_class(LIMITS, keep=KEEP)
        wish = read_greeting(encode(client.greeting()))
        assert isinstance(wish, Open)
        opened = server.open(wish, bytes(16), Secret("00" * 32), 600)
        client.answered(read_answer(encode(opened)))
        self.client = End(world, client, world.client_script, world.server_script)
        self.server = End(world, server, world.server_script, world.client_script)
        self.seen: dict[State, int] = {}
        self.origin: list[tuple[int, str]] = []
        self.edges = array("I")  # all that are no losses; those of a state stand together
        self.ends = array("I")  # ... and up to here

    def explore(self) -> int:
        """Go everywhere; how many states there are."""
        world = self.world
        ends = self.client.store(), self.server.store()
        start = State(*ends, (), (), world.cuts, world.restarts, world.forgets)
        queue = [start]
        self.seen[start] = 0
        self.origin.append((0, "start"))
        for index, state in enumerate(queue):
            try:
                queue += self.visit(index, state)
            except Exception as error:
                raise Broken(f"{error} after: {', '.join(self.history(index))}") from error
        self.check_acyclic()
        return len(queue)

    def visit(self, index: int, state: State) -> list[State]:
        """Look at a state and its steps; the states that are new."""
        self.check(state)
        new: list[State] = []
        is_stuck = True
        for name, is_loss, after in self.steps(state):
            number = self.seen.get(after)
            if number is None:
                number = self.seen[after] = len(self.seen)
                self.origin.append((index, name))
                new.append(after)
            if not is_loss:
                self.edges.append(number)
                is_stuck = is_stuck and name == LATE  # it may never come
        self.ends.append(len(self.edges))
        demand(not is_stuck or self.is_complete(state), "nothing can happen, and not all is done")
        return new

    def history(self, index: int) -> list[str]:
        """The shortest way to a state."""
        names: list[str] = []
        while index:
            index, name = self.origin[index]
            names.append(name)
        return names[::-1]

    def check_acyclic(self) -> None:
        """No schedule without further losses goes on for ever."""
        degree = array("I", bytes(4 * len(self.ends)))
        for number in self.edges:
            degree[number] += 1
        ready = [number for number, count in enumerate(degree) if not count]
        for number in ready:
            for follower in self.edges[self.ends[number - 1] if number else 0 : self.ends[number]]:
                degree[follower] -= 1
                if not degree[follower]:
                    ready.append(follower)
        demand(len(ready) == len(self.ends), "a schedule without losses goes in a circle")

    def check(self, state: State) -> None:
        """What must hold between the ends."""
        client = self.client.alone(state.client)
        if state.server < 0 or client.state == "lost":
            return
        server = self.server.alone(state.server)
        for sender, receiver in ((client, server), (server, client)):
            demand(sender.acknowledged <= receiver.may_be_acknowledged, "acknowledged, not taken")
            demand(receiver.received <= sender.last_number, "received and never sent")

    def is_complete(self, state: State) -> bool:
        """Whether all is done; what a lost session leaves was looked at when it was lost."""
        client = self.client.alone(state.client)
        if client.state == "lost":
            return True
        server = self.server.alone(state.server)
        return (
            (state.to_server, state.to_client, state.is_shared) == ((), (), True)
            and client.state == server.state == "attached"
            and client.is_done
            and server.is_done
            and client.last_number == server.received
            and server.last_number == client.received
        )

    # What may happen

    def steps(self, state: State) -> Iterator[Step]:
        if self.client.alone(state.client).state != "lost":
            yield from self.steps_alone(state)
            yield from self.arrivals(state)
            yield from self.links(state)
            yield from self.greetings(state)
            yield from self.ends_of_processes(state)

    def steps_alone(self, state: State) -> Iterator[Step]:
        """One end does something; what it writes to a link that the other has left is gone."""
        client, server, to_server, to_client = state[:4]  # all this for speed
        rest: tuple[Any, ...] = state[4:]
        for name, after, out in self.client.alone(client).local:
            wire = (*to_server, out) if out is not None and state.is_shared else to_server
            yield name, False, State(after, server, wire, to_client, *rest)
        if server >= 0:
            for name, after, out in self.server.alone(server).local:
                wire = (*to_client, out) if out is not None and state.is_shared else to_client
                yield name, False, State(client, after, to_server, wire, *rest)

    def arrivals(self, state: State) -> Iterator[Step]:
        client, server, to_server, to_client = state[:4]
        rest: tuple[Any, ...] = state[4:]
        if to_client:
            after, _ = self.client.step(client, "deliver", to_client[0])
            if to_client[0] == GONE:
                after, _ = self.client.step(after, "lose", state.had)
            yield "client deliver", False, State(after, server, to_server, to_client[1:], *rest)
        if to_server:
            after, _ = self.server.step(server, "deliver", to_server[0])
            yield "server deliver", False, State(client, after, to_server[1:], to_client, *rest)

    def links(self, state: State) -> Iterator[Step]:
        """An end loses its link, or the client takes a new one.

        It is no loss to be counted if the other end has left that link before.
        """
        cuts, greeting = state.cuts, state.greeting
        if self.client.alone(state.client).state == "detached":
            client, hello = self.client.step(state.client, "greet")
            yield "greeting", False, state._replace(client=client, greeting=hello)
        else:
            is_left = not state.is_shared and greeting is None and GONE not in state.to_client
            if is_left or cuts:
                after = self.without_client(state, self.client.step(state.client, "detach")[0])
                after = after._replace(cuts=cuts - (not is_left))
                yield "client loses link", not is_left, after
                if greeting is not None:
                    yield "client gives up", True, after._replace(late=(*state.late, greeting))
        is_there = state.server >= 0 and self.server.alone(state.server).state == "attached"
        if is_there and (cuts or not state.is_shared):
            server, _ = self.server.step(state.server, "detach")
            after = state._replace(server=server, to_server=(), is_shared=False)
            after = after._replace(cuts=cuts - state.is_shared)
            yield "server loses link", state.is_shared, after

    def without_client(self, state: State, client: int) -> State:
        """The client has left its link; what it had written may still arrive."""
        return state._replace(client=client, to_client=(), is_shared=False, greeting=None)

    def greetings(self, state: State) -> Iterator[Step]:
        """The server reads a greeting: the newest link wins. What the older held is not read."""
        if state.greeting is not None:
            if state.server < 0:
                server, answer = state.server, GONE
            else:
                server, answer = self.server.step(state.server, "resume", state.greeting)
            after = state._replace(server=server, to_server=(), to_client=(answer,), greeting=None)
            yield "server resume", False, after._replace(is_shared=server >= 0)
        for index, greeting in enumerate(state.late):
            after = state._replace(late=state.late[:index] + state.late[index + 1 :])
            if state.server >= 0:
                server, _ = self.server.step(state.server, "resume", greeting)
                after = after._replace(server=server, to_server=(), is_shared=False)
            yield LATE, False, after

    def ends_of_processes(self, state: State) -> Iterator[Step]:
        if state.restarts:
            # What is on disk about acknowledgements may be old.
            for acknowledged in {0, self.client.alone(state.client).acknowledged}:
                client, _ = self.client.step(state.client, "restart", acknowledged)
                after = self.without_client(state, client)
                after = after._replace(restarts=state.restarts - 1)
                yield f"client restart({acknowledged})", True, after
                if state.greeting is not None:
                    late = (*state.late, state.greeting)
                    yield f"client restart({acknowledged})", True, after._replace(late=late)
        if state.forgets and self.server.alone(state.server).state == "detached":
            coming = [frame[4] for frame in state.to_client if frame[0] <= FrameKind.SKIP]
            has_had = max([self.client.alone(state.client).received, *coming])
            self.server.step(state.server, "lose", has_had)
            had = self.server.alone(state.server).received
            after = state._replace(server=-1, forgets=state.forgets - 1, had=had)
            yield "server forgets", True, after


LATE = "server resume (late)"


# The worlds

C: Script = ("ä", b"c", b"long")
S: Script = (b"r", "s", b"")
WORLDS = {
    "two each way": World(C[:2], S[:2], cuts=1),
    "two to the server": World(C[:2], S[:1], cuts=2),
    "two to the client": World(C[:1], S[:2], cuts=2),
    "windows": World((b"a", "ä", b"", b"long", b"d"), (), cuts=2),
    "windows, with answers": World(C, S[:1], cuts=1),
    "a number without a message": World((b"a", None, b"cc"), S[:1], cuts=1),
    "confirmed late, forgotten": World(C[:2], S[:1], cuts=1, late_confirm=True, forgets=1),
    "killed": World(C[:1], S[:2], cuts=1, restarts=1, forgets=1),
    "killed, not all on disk": World(
        (b"a", b"bb", b"cc"), (), cuts=1, restarts=1, holes=frozenset({1, 2})
    ),
    "many losses": World(C[:1], S[:1], cuts=3),
    "many to the server": World(C[:1], (), cuts=4, restarts=2, forgets=1),
    "many to the client": World((), S[:1], cuts=4, restarts=2, forgets=1),
}
LARGE_WORLDS = {
    "two each way": World(C[:2], S[:2], cuts=2),
    "three each way": World((b"a", "b", b"c"), S, cuts=1),
    "three losses": World(C[:2], S[:1], cuts=3, forgets=1),
    "killed between two": World(C[:2], S[:2], cuts=1, restarts=1),
    "killed, confirmed late": World(C[:2], S[:1], cuts=1, restarts=1, forgets=1, late_confirm=True),
    "killed twice": World(C[:2], S[:1], cuts=1, restarts=2, holes=frozenset({1})),
    "killed, not all on disk": World(
        (b"a", b"bb", b"cc"), S[:1], cuts=1, restarts=1, holes=frozenset({1, 2})
    ),
}


@pytest.mark.requirement("1.7")
@pytest.mark.parametrize("name", WORLDS)
def test_nothing_is_lost_doubled_or_reordered_whatever_happens(name: str) -> None:
    """In each state that can be reached all is as promised, and from each all gets done."""
    print(f"{name}: {Explorer(WORLDS[name]).explore()} states")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.requirement("1.7")
@pytest.mark.parametrize("name", LARGE_WORLDS)
def test_nothing_is_lost_doubled_or_reordered_in_larger_worlds(name: str) -> None:
    """The same, with more messages and losses."""
    print(f"{name}: {Explorer(LARGE_WORLDS[name]).explore()} states")


# Would a mistake be noticed?


class AcknowledgesReceived(Session):
    def acknowledgement(self) -> bytes:
        super().acknowledgement()
        return numbered_header(FrameKind.ACK, self.received & MAX_UINT32)


class ForgetsToAcknowledgeAgain(Session):
    def _attached(self, received_by_peer: int) -> None:
        super()._attached(received_by_peer)
        self._ack_wanted = False


class ReplaysTooLittle(Session):
    def _attached(self, received_by_peer: int) -> None:
        super()._attached(min(received_by_peer + 1, self.last_number))


class ReplaysTooMuch(Session):
    def _attached(self, received_by_peer: int) -> None:
        super()._attached(max(received_by_peer - 1, self.acknowledged))


class ReplaysNothing(Session):
    @property
    def has_replay(self) -> bool:
        return False


class TakesWhatArrived(Session):
    def _attached(self, received_by_peer: int) -> None:
        super()._attached(received_by_peer)
        self._taken = self.received


class OneMessageTooMany(Session):
    def room(self) -> tuple[int, int]:
        messages, room = super().room()
        return messages + (messages == 0 and len(self._kept) == 2), room


class OneByteTooMany(Session):
    def room(self) -> tuple[int, int]:
        messages, room = super().room()
        return messages, room + 1


class OffersLess(Session):
    def _check_window(self) -> None:
        self._held_bytes += 1
        super()._check_window()
        self._held_bytes -= 1


class WritesNothing(Session):
    def confirm(self, count: int) -> int:
        written = self._written
        super().confirm(count)
        self._written = written
        return 0


class WritesOnThisLinkOnly(Session):
    def _attached(self, received_by_peer: int) -> None:
        super()._attached(received_by_peer)
        self._written = received_by_peer


class KnowsWhatADeadProcessWrote(Session):
    @classmethod
    def restored(cls, ticket: Ticket, **saved: Any) -> Session:
        session = super().restored(ticket, **saved)
        session._written = session.acknowledged
        return session


class HolesAreEmpty(Session):
    @classmethod
    def restored(cls, ticket: Ticket, **saved: Any) -> Session:
        session = super().restored(ticket, **saved)
        session._kept = deque((item, 0 if item is None else size) for item, size in session._kept)
        session.unacknowledged_bytes = sum(size for _, size in session._kept)
        return session


class SendsAgainWhatWasTaken(Session):
    def resume(self, greeting: Resume) -> Resumed:
        answer = super().resume(greeting)
        self._next_on_link = greeting.received + 1
        return answer


class StartsAfreshWhenKilled(Session):
    def _believe_released(self, released: int) -> None:
        pass


class LeavesSkippedNumbers(Session):
    def _receive_other(self, kind: int, number: int, frame: bytes, items: list[Item]) -> None:
        super()._receive_other(kind, number, frame, items)
        self._asides.clear()


class KeepsWhatWasAcknowledged(Session):
    def _note_acknowledged(self, number: int, frame: bytes) -> None:
        if number != self.acknowledged + 2:
            super()._note_acknowledged(number, frame)


STUCK = "nothing can happen, and not all is done"


@pytest.mark.parametrize(
    ("mistaken", "world", "what"),
    [
        (AcknowledgesReceived, "two each way", "acknowledged, not taken"),
        (ForgetsToAcknowledgeAgain, "windows", STUCK),
        (ReplaysTooLittle, "windows", "a violation: number 2 after 0"),
        (ReplaysTooMuch, "two each way", "more was sent again than was missing"),
        (ReplaysNothing, "two each way", "written is out of step"),
        (TakesWhatArrived, "two each way", "taken before it was"),
        (OneMessageTooMany, "windows", "too many are kept"),
        (OneByteTooMany, "windows", "too many bytes are kept"),
        (OffersLess, "windows", "a violation: more than was offered to be held"),
        (WritesNothing, "confirmed late, forgotten", "unwritten, and delivered"),
        (WritesOnThisLinkOnly, "many to the client", "unwritten, and delivered"),
        (KnowsWhatADeadProcessWrote, "killed", "unwritten, and delivered"),
        (HolesAreEmpty, "killed, not all on disk", "more than was offered to be held"),
        (SendsAgainWhatWasTaken, "killed", "written is out of step"),
        (StartsAfreshWhenKilled, "killed", "a violation: number 2 after 0"),
        (LeavesSkippedNumbers, "a number without a message", STUCK),
        (KeepsWhatWasAcknowledged, "windows", STUCK),
    ],
)
def test_a_mistake_is_noticed(mistaken: type[Session], world: str, what: str) -> None:
    """The exploration finds fault with a session that is wrong in one place."""
    explorer = Explorer(replace(WORLDS[world], session_class=mistaken))
    with pytest.raises(Broken, match=what) as caught:
        explorer.explore()
    print(f"{mistaken.__name__}: {caught.value}")
