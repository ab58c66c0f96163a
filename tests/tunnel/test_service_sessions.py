"""A tunnel with a peer that resumes sessions, on virtual time: what an application sees of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.ctrl_c import interrupted_at
from tunnel.config import TunnelConfig
from tunnel.errors import (
    InvalidCredentialsError,
    InvalidStateError,
    MessageTooBigError,
    NotConnectedError,
    PayloadTypeError,
    ProtocolError,
    ProtocolVersionError,
    QueueFullError,
    RequestTimeoutError,
    SessionLostError,
    WouldDeadlockError,
)
from tunnel.events import ConnectionEventType
from tunnel.lifecycle import TunnelConnectionState
from tunnel.outbox import Message
from tunnel.request_queue import RequestQueue
from tunnel.service import DrainReport, TunnelService
from tunnel.session import Session
from tunnel.session_frames import FrameKind, Limits
from tunnel.session_lifecycle import SessionState
from tunnel.testing import FakeClock, ScriptedGateway, ScriptedTransport, drive
from tunnel.thread_work import ThreadWork

S = TunnelConnectionState
URL = "ws://example.com/"


class World:
    """A tunnel, its gateway, and all that the application is told."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        by_iterator: bool = False,
        queue: RequestQueue | None = None,
        **settings: Any,
    ) -> None:
        self.clock = FakeClock()
        self.network = ScriptedTransport(self.clock)
        self.gateway = ScriptedGateway(self.network, limits=limits)
        self.got: list[Message] = []
        self.calls: list[object] = []
        self.losses: list[SessionLostError] = []
        self.on_connected: Callable[[bool], object] = lambda resumed: None
        self.on_message: Callable[[Message], object] = lambda message: None
        self.service = TunnelService(
            TunnelConfig(**{"jitter": 0, "ping_interval": None, **settings}),
            clock=self.clock,
            new_transport=self.network,
            request_queue=queue,
            on_message=None if by_iterator else self._receive,
            on_connected=self._connected,
            on_session_lost=self._lost,
        )

    def _receive(self, message: Message) -> None:
        self.got.append(message)
        self.on_message(message)

    def _connected(self, service: TunnelService, resumed: bool) -> None:
        self.calls.append(("connected", resumed))
        self.on_connected(resumed)

    def _lost(self, error: SessionLostError) -> None:
        self.losses.append(error)
        self.calls.append(("lost", error.unacknowledged))

    def connect(self, url: str = URL) -> World:
        self.service.connect(url)
        return self

    def run(self, seconds: float = 30.0) -> None:
        drive(self.service, timeout=seconds)

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        assert drive(self.service, condition, timeout=seconds)

    def come_back(self) -> None:
        """Lose the link, and have another."""
        self.network.cut()
        self.until(lambda: self.service.state is not S.CONNECTED)
        self.until(lambda: self.service.state is S.CONNECTED)
        self.run(1.0)

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        self.clock.call_at(self.clock.monotonic() + seconds, action)

    @property
    def session(self) -> Session:
        session = self.service._driver.channel.session
        assert session is not None
        return session

    @property
    def events(self) -> list[ConnectionEventType]:
        return [event.type for event in self.service.tracker.events]

    def statistic(self, name: str) -> Any:
        return self.service.statistics()[name]


@pytest.fixture
def world() -> World:
    return World().connect()


# Over many links


@pytest.mark.requirement("1.7")
def test_nothing_is_lost_doubled_or_reordered(world: World) -> None:
    """Whatever either end had not heard of is sent again, and nothing else."""
    world.gateway.on_message = world.gateway.send
    sent: list[Message] = []
    for round_ in range(5):
        world.gateway.acknowledges = round_ % 2 == 0
        for number in range(10):
            message: Message = f"{round_}.{number} ä" if number % 2 else b"%d.%d" % (round_, number)
            if number == 5 and round_ % 3 == 1:
                world.network.fall_silent()
            world.service.send(message)
            sent.append(message)
        world.come_back()
    world.gateway.acknowledges = True
    world.come_back()
    assert world.gateway.received == sent
    assert world.got == sent
    assert world.gateway.sessions_opened == 1
    assert world.statistic("unacknowledged") == 0
    assert world.statistic("messages_sent") == len(sent)
    assert world.statistic("messages_received") == len(sent)
    assert world.calls == [("connected", False), *[("connected", True)] * 6]


def test_only_what_is_missing_is_sent_again(world: World) -> None:
    """What the peer has, though it has not acknowledged it, is not sent a second time."""
    world.gateway.acknowledges = False
    world.service.send("a")
    world.network.fall_silent()
    world.service.send("b")
    world.come_back()
    assert world.gateway.received == ["a", "b"]
    assert world.statistic("replayed") == 1
    assert world.gateway.session is not None
    assert world.gateway.session.duplicates == 0


def test_the_order_on_a_new_link(world: World) -> None:
    """First what has to be sent again, then what `on_connected` says, then what was queued."""
    world.network.fall_silent()
    world.service.send("sent before")

    def greet(resumed: bool) -> None:
        world.service.send("hello")
        world.service.send_many(["I am", "back"])

    world.on_connected = greet
    world.network.cut()
    world.until(lambda: world.service.state is not S.CONNECTED)
    world.service.send("queued")
    world.until(lambda: world.service.state is S.CONNECTED)
    world.run(1.0)
    assert world.gateway.received == ["sent before", "hello", "I am", "back", "queued"]


def test_first_words_are_kept_like_others(world: World) -> None:
    """What `on_connected` sent is sent again, too, if its link was lost."""

    def greet(resumed: bool) -> None:
        world.network.fall_silent()
        world.service.send("hello")
        world.on_connected = lambda resumed: None

    world.on_connected = greet
    world.come_back()
    assert world.gateway.received == []
    assert world.statistic("unacknowledged") == 1
    world.come_back()
    assert world.gateway.received == ["hello"]
    assert world.statistic("unacknowledged") == 0


@pytest.mark.requirement("1.7")
@pytest.mark.parametrize("was_written", [False, True])
def test_first_words_of_a_lost_session_come_back(was_written: bool) -> None:
    """They are handed back, not sent again: `on_connected` speaks on the new link as well."""
    world = World(limits=Limits(1, 2**20, 2**20))
    world.gateway.acknowledges = False
    world.on_connected = lambda resumed: world.service.send("hello")
    world.connect()
    world.run(1.0)
    assert world.gateway.received == ["hello"]
    if not was_written:
        world.come_back()  # the first is not acknowledged: a second one has no room
        assert world.statistic("unacknowledged") == 2
    world.gateway.forget()
    world.come_back()
    expected = ("hello",) if was_written else ("hello", "hello")
    assert [loss.unacknowledged for loss in world.losses] == [expected]
    assert world.gateway.received == ["hello", "hello"]
    assert world.calls[-1] == ("connected", False)


def test_numbers_go_on_over_links(world: World) -> None:
    """The peer sees one sequence, whatever links carry it."""
    for number in range(3):
        world.service.send(f"{number}")
        world.come_back()
    assert world.session.last_number == 3
    assert world.gateway.received == ["0", "1", "2"]


# Callbacks


def test_a_callback_may_send(world: World) -> None:
    """An echo on our side: what it sends goes out, in order, across losses."""
    world.on_message = lambda message: world.service.send(message)
    world.gateway.send("a", "b")
    world.run(1.0)
    world.network.cut()
    world.gateway.send("c")
    world.run()
    assert world.gateway.received == ["a", "b", "c"]


def test_a_callback_may_disconnect(world: World) -> None:
    """It returns at once; the rest happens when the callback is over."""
    reports: list[DrainReport] = []
    world.on_message = lambda _: reports.append(world.service.disconnect())
    world.gateway.send("stop")
    world.until(lambda: world.service.state is S.DISCONNECTED)
    assert reports == [DrainReport()]
    assert world.gateway.session is None


def test_a_callback_that_floods_is_stopped() -> None:
    """With a closed window a callback may queue up to a limit; then its send raises."""
    world = World(limits=Limits(1, 2**20, 2**20), max_queue_size=2).connect()
    world.gateway.acknowledges = False
    errors: list[Exception] = []

    def flood(_: Message) -> None:
        try:
            for _number in range(100):
                world.service.send(b"x" * 2**20)
        except QueueFullError as error:
            errors.append(error)

    world.on_message = flood
    world.gateway.send("go")
    world.until(lambda: bool(errors))
    count = world.statistic("queued_requests") + world.statistic("unacknowledged")
    assert 10 < count < 20
    world.gateway.acknowledges = True
    world.gateway.acknowledge()
    world.run(60.0)
    assert len(world.gateway.received) == count


def test_slow_callbacks_are_acknowledged(world: World) -> None:
    """Each message is acknowledged within a second of its callback's end, not of the last one's."""
    unacknowledged: list[int] = []
    assert world.gateway.session is not None
    session = world.gateway.session

    def work(_: Message) -> None:
        world.clock.advance(10.0)
        unacknowledged.append(session.unacknowledged)

    world.on_message = work
    world.network.send(*session.send(["a", "b", "c"]))  # in one piece
    world.run(100.0)
    assert unacknowledged == [3, 2, 1]
    assert session.unacknowledged == 0


def test_a_callback_that_ends_its_thread_loses_nothing(world: World) -> None:
    """`sys.exit` ends the link; what came with the message is delivered on the next."""

    def leave(message: Message) -> None:
        if message == "exit":
            raise SystemExit

    world.on_message = leave
    world.network.send(*world.gateway.session.send(["a", "exit", "b"]))  # type: ignore[union-attr]
    with pytest.raises(SystemExit):
        world.run()
    assert world.service.state is S.ERROR
    world.connect()
    world.run()
    assert world.got == ["a", "exit", "b"]
    assert world.gateway.session is not None
    assert world.gateway.session.unacknowledged == 0


def test_nothing_waits_on_the_tunnels_thread(world: World) -> None:
    """What would wait for the tunnel raises there."""
    errors: list[type[Exception]] = []

    def wait(_: Message) -> None:
        for call in (world.service.flush, lambda: world.service.request("?")):
            try:
                call()
            except WouldDeadlockError as error:
                errors.append(type(error))

    world.on_message = wait
    world.gateway.send("go")
    world.run(1.0)
    assert errors == [WouldDeadlockError] * 2


def test_the_position_in_a_callback(world: World) -> None:
    """The number of the message in hand, with its session; it goes on over links."""
    positions: list[object] = []
    world.on_message = lambda _: positions.append(world.service.position)
    assert world.service.position is not None
    world.gateway.send("a", "b")
    world.run(1.0)
    world.network.cut()
    world.gateway.send("c")
    world.run()
    identity = world.session.id
    assert positions == [(identity, 1), (identity, 2), (identity, 3)]
    assert World().service.position is None


# By iterator


def test_a_window_of_one_message() -> None:
    """A consumer that asks for the next has taken the last: the smallest window does not stall."""
    world = World(by_iterator=True, receive_high_water=1024).connect()
    world.gateway.send(*["x" * 600] * 5)  # more than the window together, each
    messages = world.service.messages()
    assert [next(messages) for _ in range(5)] == ["x" * 600] * 5


def test_what_nobody_reads_is_not_acknowledged() -> None:
    """It is held to the window, and costs nothing; then it is read, and acknowledged."""
    world = World(by_iterator=True, receive_high_water=2048).connect()
    world.gateway.send(*[f"{number}" for number in range(100)])
    world.run(100.0)
    assert world.gateway.session is not None
    assert world.gateway.session.unacknowledged == world.statistic("messages_waiting") == 16
    messages = world.service.messages()
    assert [next(messages) for _ in range(100)] == [f"{number}" for number in range(100)]
    del messages
    world.run(1.0)
    assert world.gateway.session.unacknowledged == 0


def test_an_idle_tunnel_does_nothing() -> None:
    """With messages that nobody reads, and with none: no timers, no wake-ups."""
    world = World(by_iterator=True).connect()
    world.gateway.send("a", "b")
    world.run(10.0)
    timers: list[float] = []
    call_at = world.clock.call_at

    def note(when: float, callback: Callable[[], object]) -> Any:
        timers.append(when)
        return call_at(when, callback)

    world.clock.call_at = note  # type: ignore[method-assign]
    world.run(3600.0)
    assert len(timers) < 10  # the driving's own


# Windows


@pytest.mark.parametrize("messages", [1, 2, 7])
def test_a_small_window_opens_and_closes(messages: int) -> None:
    """However small, everything gets through, in order, and no faster than it is acknowledged."""
    world = World(limits=Limits(messages, 2**20, 2**20), max_queue_size=1000).connect()
    world.gateway.acknowledges = False
    most = 0

    def acknowledge() -> None:
        nonlocal most
        assert world.gateway.session is not None
        most = max(most, world.session.unacknowledged)
        world.gateway.acknowledge()
        if len(world.gateway.received) < 100:
            world.at(0.1, acknowledge)

    sent = [f"{number}" for number in range(100)]
    world.service.send_many(sent)
    acknowledge()
    world.run(60.0)
    assert world.gateway.received == sent
    assert most == messages


@pytest.mark.parametrize("size", [1000, 1001, 5000])
def test_messages_as_large_as_the_window(size: int) -> None:
    """A message that alone is as much as the peer will hold, or more, goes alone."""
    world = World(limits=Limits(100, 1000, 2**20)).connect()
    sent: list[Message] = ["ä", b"x" * size, "", "€" * 400, b"y" * size, "z"]
    for message in sent:
        world.service.send(message)
    world.run()
    assert world.gateway.received == sent
    assert world.service.state is S.CONNECTED


def test_a_closed_window_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the peer does not acknowledge, nobody spins over what waits."""
    world = World(limits=Limits(2, 2**20, 2**20)).connect()
    world.gateway.acknowledges = False
    for number in range(5):
        world.service.send(f"{number}")
    steps = 0
    act = ThreadWork.act

    def count(work: ThreadWork) -> bool:
        nonlocal steps
        steps += 1
        return act(work)

    monkeypatch.setattr(ThreadWork, "act", count)
    for _ in range(10):
        world.run(10.0)
    assert steps < 100
    assert world.statistic("queued_requests") == 3


def test_a_full_queue_behind_a_closed_window() -> None:
    """It never drops: the send that finds no room raises, and what was accepted goes out."""
    world = World(limits=Limits(2, 2**20, 2**20), max_queue_size=3).connect()
    world.gateway.acknowledges = False
    for number in range(5):
        world.service.send(f"{number}", timeout=0)
    with pytest.raises(QueueFullError):
        world.service.send("5", timeout=0)
    world.at(1.0, world.gateway.acknowledge)
    world.at(2.0, world.gateway.acknowledge)
    world.run(10.0)
    assert world.gateway.received == ["0", "1", "2", "3", "4"]


# Too big


def test_longer_than_the_peer_takes() -> None:
    """The limit is what both ends take; the peer's is known once there is a session."""
    world = World(limits=Limits(10, 2**20, 1000), max_message_size=5000)
    world.connect()
    for size, limit in ((1001, 1000), (5001, 1000)):
        with pytest.raises(MessageTooBigError) as caught:
            world.service.send(b"x" * size)
        assert caught.value.context["limit"] == limit
    with pytest.raises(MessageTooBigError):
        world.service.send("ä" * 501)
    world.service.send(b"x" * 1000)
    world.run(1.0)
    assert world.gateway.received == [b"x" * 1000]


@pytest.mark.parametrize("message", [b"x" * 1001, "ä" * 501])
def test_queued_before_the_limit_was_known(message: Message) -> None:
    """A message that the peer will not take fails the connection, and stays where it can be seen.

    Were it numbered, it would end every link from then on.
    """
    world = World(limits=Limits(10, 2**20, 1000))
    world.service.send(message)
    world.service.send("b")
    with pytest.raises(MessageTooBigError) as caught:
        world.connect()
    assert caught.value.limit == 1000
    assert world.service.state is S.ERROR
    assert world.service.disconnect() == DrainReport(unsent=(message, "b"))
    world.service._queue.clear()
    world.service.send("c")
    world.connect()
    world.run(1.0)
    assert world.gateway.received == ["c"]
    assert world.losses == []


def test_a_message_of_the_greatest_size_arrives() -> None:
    """What a session adds to a message does not count."""
    world = World(max_message_size=2000).connect()
    world.gateway.send(b"x" * 2000)
    world.run(1.0)
    assert world.got == [b"x" * 2000]
    world.gateway.send(b"x" * 2001)
    world.run(1.0)
    assert world.service.state is S.ERROR
    assert world.network.close_codes == [1009]


# Flushing


def test_flushed_is_acknowledged(world: World) -> None:
    """`flush` is true once the peer has acknowledged everything, and not before."""
    world.gateway.acknowledges = False
    world.service.send("a")
    assert not world.service.flush(5.0)
    world.at(3.0, world.gateway.acknowledge)
    start = world.clock.monotonic()
    assert world.service.flush(60.0)
    assert world.clock.monotonic() == start + 3.0
    assert world.service.flush(0)


def test_flushed_across_a_loss(world: World) -> None:
    """It goes on waiting through a loss, if the session does."""
    world.network.fall_silent()
    world.service.send("a")
    world.at(1.0, world.network.cut)
    assert world.service.flush(60.0)
    assert world.gateway.received == ["a"]


def test_flushed_and_lost(world: World) -> None:
    """If the session is lost meanwhile, and what was to be flushed with it, it says so."""
    world.gateway.acknowledges = False
    world.service.send("a")

    def lose() -> None:
        world.gateway.forget()
        world.network.cut()

    world.at(1.0, lose)
    assert not world.service.flush(60.0)
    world.run(1.0)
    assert world.losses[0].unacknowledged == ("a",)


def test_flushed_in_the_next_session(world: World) -> None:
    """What was never written in the lost session goes out in the next: nothing was lost."""
    world.gateway.forget()
    world.network.cut()
    world.until(lambda: world.service.state is not S.CONNECTED)
    world.service.send("a")
    assert world.service.flush(60.0)
    assert world.gateway.received == ["a"]
    assert world.gateway.sessions_opened == 2


def test_messages_that_return_while_it_looks() -> None:
    """Between a look at the queue and one at the session, messages may go back to the queue."""
    service = TunnelService()
    looks: list[float | None] = []

    def look(timeout: float | None) -> bool:
        looks.append(timeout)
        if len(looks) == 1:
            service._driver.channel.returns += 1
        return len(looks) < 3

    service._queue.wait_until_empty = look  # type: ignore[method-assign,assignment]
    assert service.flush()
    assert len(looks) == 2
    assert not service.flush()


# Disconnecting


def test_a_session_that_nobody_needs_ends(world: World) -> None:
    """With all acknowledged, both ways, the peer is told that it is over."""
    world.service.send("a")
    world.gateway.send("b")
    world.until(lambda: world.got == ["b"])
    session = world.gateway.session
    assert session is not None
    assert session.unacknowledged == 1  # it is too early for its acknowledgement
    assert world.service.disconnect() == DrainReport()
    assert session.unacknowledged == 0
    assert session.ended_by_peer == ""
    assert world.network.close_codes == [1000]
    assert world.service.state is S.DISCONNECTED
    world.connect()
    assert world.gateway.sessions_opened == 2
    assert world.losses == []


def test_a_peer_that_acknowledges_late(world: World) -> None:
    """A graceful end waits for it."""
    world.gateway.acknowledges = False
    world.service.send("a")
    world.at(5.0, world.gateway.acknowledge)
    start = world.clock.monotonic()
    assert world.service.disconnect() == DrainReport()
    assert world.clock.monotonic() == start + 5.0
    assert world.gateway.session is None


def test_it_is_asked_once(world: World) -> None:
    """The peer is asked to acknowledge, so that nobody waits for its timer."""
    kinds: list[int] = []
    arrived = world.network.on_message
    assert arrived is not None

    def note(frame: Message) -> None:
        assert isinstance(frame, bytes)
        kinds.append(frame[0])
        if frame[0] == FrameKind.ASK:
            world.gateway.acknowledge()
        arrived(frame)

    world.network.on_message = note
    world.gateway.acknowledges = False
    world.service.send("a")
    start = world.clock.monotonic()
    assert world.service.disconnect() == DrainReport()
    assert world.clock.monotonic() == start
    assert kinds == [FrameKind.TEXT, FrameKind.ASK, FrameKind.END]


def test_a_peer_that_never_acknowledges(world: World) -> None:
    """When the time is up the report says what is not acknowledged; the session is kept."""
    world.gateway.acknowledges = False
    world.service.send("a")
    world.service.send(b"b")
    start = world.clock.monotonic()
    report = world.service.disconnect(timeout=3.0)
    assert report == DrainReport(unsent=(), unacknowledged=("a", b"b"))
    assert world.clock.monotonic() == pytest.approx(start + 3.0)
    assert world.session.state == SessionState.DETACHED
    world.gateway.acknowledges = True
    world.connect()
    world.run(1.0)
    assert world.calls[-1] == ("connected", True)
    assert world.gateway.received == ["a", b"b"]
    assert world.statistic("unacknowledged") == 0


def test_without_grace(world: World) -> None:
    """Nothing is waited for, and the session is kept."""
    world.gateway.acknowledges = False
    world.service.send("a")
    start = world.clock.monotonic()
    assert world.service.disconnect(graceful=False) == DrainReport(unacknowledged=("a",))
    assert world.clock.monotonic() == start
    assert world.gateway.session is not None


def test_disconnected_behind_a_closed_window() -> None:
    """What had no room is unsent, what had is unacknowledged."""
    world = World(limits=Limits(1, 2**20, 2**20)).connect()
    world.gateway.acknowledges = False
    for message in ("a", "b", "c"):
        world.service.send(message)
    report = world.service.disconnect(timeout=1.0)
    assert report == DrainReport(unsent=("b", "c"), unacknowledged=("a",))


def test_disconnected_while_reconnecting(world: World) -> None:
    """It does not wait; the session is kept for a later link."""
    world.network.fall_silent()
    world.service.send("a")
    world.network.refuse()
    world.network.cut()
    world.until(lambda: world.service.state is S.RECONNECTING)
    world.service.send("b")
    assert world.service.disconnect() == DrainReport(unsent=("b",), unacknowledged=("a",))
    world.network.accept()
    world.connect()
    world.run(1.0)
    assert world.gateway.received == ["a", "b"]


@pytest.mark.parametrize("what", ["cut", "end", "violation"])
def test_the_link_is_lost_while_it_drains(world: World, what: str) -> None:
    """The report says what nobody knows of, and if the session is lost, so does the callback."""
    world.gateway.acknowledges = False
    world.service.send("a")
    actions: dict[str, Callable[[], object]] = {
        "cut": world.network.cut,
        "end": world.gateway.end,
        "violation": lambda: world.network.send(b"\x63\0\0\0\0"),
    }
    world.at(1.0, actions[what])
    report = world.service.disconnect(timeout=10.0)
    assert world.service.state is S.DISCONNECTED
    if what == "cut":
        assert report == DrainReport(unacknowledged=("a",))
        assert world.losses == []
    else:
        assert report == DrainReport()
        assert [error.unacknowledged for error in world.losses] == [("a",)]


def test_the_peer_ends_the_session_at_the_same_time(world: World) -> None:
    """Both ends say that it is over: that is an agreement, and no loss."""
    arrived = world.network.on_message
    assert arrived is not None

    def also_end(frame: Message) -> None:
        arrived(frame)
        if isinstance(frame, bytes) and frame[0] == FrameKind.END:
            world.gateway.end("shutting down")

    world.network.on_message = also_end
    assert world.service.disconnect() == DrainReport()
    world.run(1.0)
    assert world.losses == []
    assert ConnectionEventType.ERROR not in world.events
    assert world.service._driver.last_error is None


def test_what_is_queued_behind_the_end_waits(world: World) -> None:
    """A cancellation that comes too late neither breaks the protocol nor holds up the end."""
    future = world.service.submit("?", timeout=100.0)
    world.run(1.0)
    arrived = world.network.on_message
    assert arrived is not None

    def cancel(frame: Message) -> None:
        arrived(frame)
        if isinstance(frame, bytes) and frame[0] == FrameKind.END:
            future.cancel()

    world.network.on_message = cancel
    start = world.clock.monotonic()
    assert world.service.disconnect() == DrainReport()
    assert world.clock.monotonic() == start


# Losing a session


def lose_session(world: World) -> None:
    world.gateway.forget()
    world.network.cut()


def test_a_lost_session_is_told_before_anything_else(world: World) -> None:
    """First the loss, with what may or may not have arrived, then the new link."""
    world.gateway.acknowledges = False
    world.service.send("written")
    lose_session(world)
    world.until(lambda: world.service.state is not S.CONNECTED)
    world.service.send("queued")
    world.gateway.received.clear()
    world.run()
    assert world.calls[1:] == [("lost", ("written",)), ("connected", False)]
    assert world.gateway.received == ["queued"]
    event = next(
        event
        for event in world.service.tracker.events
        if event.type is ConnectionEventType.SESSION_LOST
    )
    assert event.metadata == {"unacknowledged": 1}
    assert world.losses[0].code in world.service.metrics.snapshot().error_counts


@pytest.mark.parametrize("phase", ["connected", "reconnecting", "dialling", "greeting"])
def test_lost_in_every_phase(world: World, phase: str) -> None:
    """Whenever the gateway forgets the session, the tunnel goes on with another one."""
    world.gateway.acknowledges = False
    world.service.send("a")
    if phase == "connected":
        world.gateway.end("restart")
    elif phase == "reconnecting":
        world.network.cut()
        world.at(1.0, world.gateway.forget)
    elif phase == "dialling":
        world.network.cut()
        world.network.latency = 1.0
        world.at(2.5, world.gateway.forget)
    else:

        def end(resumed: bool) -> None:
            if resumed:
                world.gateway.end("sorry")
                world.gateway.acknowledges = True

        world.on_connected = end
        world.network.cut()
    world.gateway.acknowledges = phase != "greeting"
    world.run(60.0)
    assert world.service.state is S.CONNECTED
    world.service.send("b")
    world.run(1.0)
    assert world.gateway.received[-1] == "b"
    assert [error.unacknowledged for error in world.losses] == [("a",)]
    assert world.gateway.sessions_opened == 2
    assert world.statistic("unacknowledged") == 0


def test_lost_and_no_further_link(world: World) -> None:
    """The application hears of it though there is no other link to tell it on."""
    world.gateway.acknowledges = False
    world.service.send("a")
    world.service.update_config(world.service.config.replace(max_reconnect_attempts=1))
    world.network.refuse()
    world.gateway.end("never again")
    world.until(lambda: world.service.state is S.ERROR)
    world.run(1.0)
    assert world.calls[1:] == [("lost", ("a",))]
    assert world.service.disconnect() == DrainReport()


def test_a_peer_that_breaks_the_protocol(world: World) -> None:
    """It hears why (close code 1002); the tunnel fails for good, and says what is not known."""
    world.gateway.acknowledges = False
    world.service.send("a")
    world.gateway.send("b")
    world.network.send(b"\x63\0\0\0\0")
    world.until(lambda: world.service.state is S.ERROR)
    world.run(1.0)
    assert world.got == ["b"]
    assert world.network.close_codes == [1002]
    assert isinstance(world.service._driver.last_error, ProtocolError)
    assert world.calls[1:] == [("lost", ("a",))]
    world.connect()
    assert world.calls[-1] == ("connected", False)
    assert world.gateway.sessions_opened == 2


def test_a_text_message_breaks_the_protocol(world: World) -> None:
    """Frames of a session are binary."""
    world.network.send("hello")
    world.until(lambda: world.service.state is S.ERROR)
    assert world.got == []


def test_text_heartbeats_do_not_break_it() -> None:
    """With `ping_mode="text"`, "ping" and "pong" are heartbeats, and all else is the session's."""
    world = World(ping_mode="text", ping_interval=5.0)
    arrived = world.network.on_message
    assert arrived is not None
    pongs: list[Message] = []

    def answer(frame: Message) -> None:
        if frame == "ping":
            world.network.send("pong")
        elif frame == "pong":
            pongs.append(frame)
        else:
            arrived(frame)

    world.network.on_message = answer
    world.connect()
    world.network.send("ping")
    world.service.send("ping")  # a message of the application that looks like one
    world.gateway.send("pong")
    world.run(60.0)
    assert pongs == ["pong"]
    assert world.gateway.received == ["ping"]
    assert world.got == ["pong"]
    assert world.service.state is S.CONNECTED


def test_the_server_says_that_it_is_over(world: World) -> None:
    """END ends the link with code 1000, and another session is opened on the next."""
    world.gateway.end("your time is up")
    world.run()
    assert world.network.close_codes == [1000]
    assert world.service.state is S.CONNECTED
    assert world.calls[1:] == [("lost", ()), ("connected", False)]
    messages = [event.message for event in world.service.tracker.events]
    assert any("your time is up" in message for message in messages)


def test_a_half_open_link(world: World) -> None:
    """Silence ends the link, not the session."""
    world.service.update_config(world.service.config.replace(ping_interval=5.0))
    world.come_back()
    world.network.fall_silent()
    world.service.send("a")
    world.gateway.send("b")
    world.run(60.0)
    assert world.gateway.received == ["a"]
    assert world.got == ["b"]
    assert world.gateway.sessions_opened == 1


# Another peer


def test_a_plain_peer_after_a_session(world: World) -> None:
    """What is unacknowledged is told, what was never written goes to the plain peer."""
    world.gateway.acknowledges = False
    world.service.send("written")
    plain: list[Message] = []
    world.network.response_headers.clear()
    world.network.on_message = plain.append
    world.network.cut()
    world.until(lambda: world.service.state is not S.CONNECTED)
    world.service.send("queued")
    world.run()
    assert plain == ["queued"]
    assert world.calls[1:] == [("lost", ("written",)), ("connected", False)]
    assert world.statistic("unacknowledged") == 0
    assert world.service.flush(1.0)
    world.network.send("from a plain peer")
    world.run(1.0)
    assert world.got == ["from a plain peer"]
    with pytest.raises(InvalidStateError, match="plain"):
        world.service.request("?")


def test_a_session_after_a_plain_peer() -> None:
    """A server that has learned it is believed."""
    world = World()
    world.network.response_headers.clear()
    arrived, world.network.on_message = world.network.on_message, None
    world.connect()
    world.service.send("plain")
    world.gateway.__init__(world.network)  # type: ignore[misc]
    assert arrived is not None
    world.come_back()
    world.service.send("numbered")
    world.run(1.0)
    assert world.gateway.received == ["numbered"]
    assert world.losses == []


def test_another_server(world: World) -> None:
    """A session stays with its server; elsewhere nobody sees its token."""
    world.gateway.acknowledges = False
    world.service.send("a")
    world.service.disconnect(timeout=0.1)
    world.gateway.acknowledges = True
    world.connect("ws://other.example.com/")
    world.run(1.0)
    assert world.calls[1:] == [("lost", ("a",)), ("connected", False)]
    assert world.gateway.sessions_opened == 2


def test_another_server_that_is_not_there(world: World) -> None:
    """The loss is told though the new server cannot be reached."""
    world.gateway.acknowledges = False
    world.service.send("a")
    world.service.disconnect(timeout=0.1)
    world.network.refuse()
    world.service.connect("ws://other.example.com/", wait=False)
    world.run(1.0)
    assert world.losses[0].unacknowledged == ("a",)


def test_sessions_are_off() -> None:
    """Then none is asked for, whatever the server could do."""
    world = World(resume="off")
    world.network.on_message = None
    world.connect()
    assert "Tunnel-Resume" not in dict(world.network.dials[0].headers)
    world.service.send("a")
    assert world.network.received == ["a"]
    assert world.statistic("unacknowledged") == 0


def test_sessions_are_required() -> None:
    """Then a plain peer will not do."""
    world = World(resume="required")
    world.network.response_headers.clear()
    with pytest.raises(ProtocolVersionError):
        world.connect()
    assert world.service.state is S.ERROR


# Requests


def test_a_request_needs_a_peer_that_answers() -> None:
    """Before the first link there is nobody to ask."""
    with pytest.raises(NotConnectedError):
        World().service.request("?")


@pytest.mark.parametrize("why", ["disconnected", "given up"])
def test_requests_want_somebody_who_tries_to_connect(world: World, why: str) -> None:
    """Whoever asks while nobody does is told at once, and does not wait for the time-out."""
    if why == "disconnected":
        world.service.disconnect()
    else:
        world.network.refuse(InvalidCredentialsError("no"))
        world.network.cut()
        world.until(lambda: not world.service.worker.is_running)
    before = world.clock.monotonic()
    with pytest.raises(NotConnectedError, match="nobody tries to: call connect"):
        world.service.request("?")
    assert world.clock.monotonic() == before


def test_requests_end_with_their_session(world: World) -> None:
    """The answer to a request of a lost session will never come: whoever waits is told at once."""
    world.network.refuse()
    future = world.service.submit("?", timeout=1000.0)
    world.gateway.end("bye")
    world.until(future.done, 5.0)
    with pytest.raises(SessionLostError):
        future.result(0)


def test_requests_survive_a_loss(world: World) -> None:
    """A request that the peer has not seen is sent again, one that is too old is withdrawn."""
    world.network.fall_silent()
    future = world.service.submit("?", timeout=2.0)
    world.network.refuse()
    world.at(10.0, world.network.accept)
    world.network.cut()
    late = []
    world.at(3.0, lambda: late.append(future.done()))
    world.run(60.0)
    assert late == [True]
    with pytest.raises(RequestTimeoutError):
        future.result(0)


@pytest.mark.requirement("5.6")
@pytest.mark.parametrize("seen", [False, True])
def test_requests_that_time_out_without_a_link_leave_room(world: World, seen: bool) -> None:
    """Those that were never sent leave nothing behind in the queue.

    For the others CANCEL goes out on the next link, and needs no room in the queue before.
    """
    if not seen:
        world.network.refuse()
        world.network.cut()
        world.until(lambda: world.service.state is S.RECONNECTING)
    futures = [world.service.submit("?", timeout=2.0) for _ in range(90)]
    if seen:
        world.run(0.5)
        assert len(world.gateway.requests) == 90
        world.network.refuse()
        world.network.cut()
    world.at(10.0, world.network.accept)
    sent: list[str] = []

    def send() -> None:
        for number in range(100):  # max_queue_size
            world.service.send(f"{number}")
            sent.append(f"{number}")

    world.at(5.0, send)
    world.run(60.0)
    assert all(isinstance(future.exception(0), RequestTimeoutError) for future in futures)
    assert world.gateway.received == sent
    assert len(sent) == 100
    kinds = [request.kind for request in world.gateway.requests]
    assert kinds == ([FrameKind.REQUEST] * 90 + [FrameKind.CANCEL] * 90 if seen else [])


def test_a_cancelled_request_is_told_at_once(world: World) -> None:
    """On a live link the peer hears of it without waiting for anything else."""
    future = world.service.submit("?")
    assert future.cancel()
    world.run(0.1)
    kinds = [request.kind for request in world.gateway.requests]
    assert kinds == [FrameKind.REQUEST, FrameKind.CANCEL]
    assert world.service.flush(5.0)


def test_requests_are_no_messages(world: World) -> None:
    """What is counted as sent are the messages of the application; requests have figures too."""
    world.service.send("a")
    world.service.submit("?").cancel()
    world.run(1.0)
    assert len(world.gateway.requests) == 2
    assert world.statistic("messages_sent") == 1


def test_a_plain_peer_sees_no_requests(world: World) -> None:
    """A request that was queued for a session does not go to a peer that has none."""
    plain: list[Message] = []
    world.network.refuse()
    world.network.cut()
    world.until(lambda: world.service.state is S.RECONNECTING)
    future = world.service.submit("secret", timeout=1000.0)
    world.service.send("a")
    world.network.response_headers.clear()
    world.network.on_message = plain.append
    world.at(10.0, world.network.accept)
    world.until(future.done)
    with pytest.raises(SessionLostError):
        future.result(0)
    world.run(1.0)
    assert plain == ["a"]
    assert world.statistic("queued_requests") == 0


def test_no_requests_while_closing(world: World) -> None:
    """A tunnel that is closing takes no more."""
    world.gateway.acknowledges = False
    world.service.send("a")
    errors: list[Exception] = []

    def ask() -> None:
        try:
            world.service.submit("?")
        except InvalidStateError as error:
            errors.append(error)

    world.at(0.5, ask)
    world.service.disconnect(timeout=1.0)
    assert len(errors) == 1


# On disk


@pytest.mark.requirement("1.7")
def test_a_durable_queue_and_a_session(tmp_path: Path) -> None:
    """Nothing goes past the file; after a kill the next process goes on with the same session."""
    path = tmp_path / "queue"
    first = World(queue=RequestQueue(path=path)).connect()
    first.gateway.acknowledges = False
    for message in ("a", b"b"):
        first.service.send(message)
    first.run(1.0)
    first.network.fall_silent()
    first.service.send("c")
    first.run(1.0)
    first.network.cut()
    first.service._queue.close()  # killed
    second = World(queue=RequestQueue(path=path))
    second.network, second.gateway = first.network, first.gateway
    second.service._driver._dialler.new_transport = first.network
    second.gateway.acknowledges = True
    first.network._clock = second.clock
    second.connect()
    second.run(5.0)
    assert first.gateway.received == ["a", b"b", "c"]
    assert second.calls == [("connected", True)]
    assert second.service.flush(5.0)
    second.service.disconnect()
    second.service._queue.close()


def test_a_gateway_that_restarts(world: World) -> None:
    """A close frame of the gateway is a loss as ever, and the session goes on."""
    world.network.close(1012, "restarting")
    world.run()
    assert world.calls[1:] == [("connected", True)]
    assert world.network.close_codes == [1012]


# Ctrl-C


WRITING = tuple(
    f"tunnel/{name}.py"
    for name in ("writer", "outbox", "session_channel", "session", "session_sending")
)


def is_writing(frame: FrameType) -> bool:
    """Whether it belongs to those who write, and not to the peer, which has sessions, too."""
    if not frame.f_code.co_filename.endswith(WRITING):
        return False
    caller: FrameType | None = frame
    while caller is not None and not caller.f_code.co_filename.endswith("testing/scripted.py"):
        caller = caller.f_back
    return caller is None


@pytest.mark.parametrize("way", ["direct", "queued", "first in line"])
def test_ctrl_c_at_any_line_of_a_send(way: str) -> None:
    """The link may be lost, and the interrupted message; all others come once, and in order."""
    number = 0
    finished = False
    while not finished:
        number += 1
        world = World(limits=Limits(4, 2**20, 2**20)).connect()
        world.gateway.acknowledges = False
        world.service.send("before")
        with contextlib.suppress(KeyboardInterrupt), interrupted_at(number, is_writing) as lines:
            if way == "direct":
                world.service.send("hello")
            elif way == "queued":
                world.service.send_many(["hello", "hello again"])
            else:
                world.service.send_many(["hello", "hello again", "hello?", "too many"])
        finished = lines[0] < number  # it came through without an interruption
        world.gateway.acknowledges = True
        world.network.cut()
        world.run(10.0)
        assert world.service.state is S.CONNECTED
        world.service.send("after")
        assert world.service.flush(10.0), f"something is stuck after line {number}"
        received = world.gateway.received
        hellos = ["hello", "hello again", "hello?", "too many"]
        assert received[0] == "before"
        assert received[-1] == "after"
        assert received[1:-1] == hellos[: len(received) - 2], f"after line {number}"
        assert world.losses == []
        assert world.statistic("queued_requests") == 0
    assert number > 20


# A queue that the application has closed


@pytest.mark.parametrize("is_durable", [False, True])
@pytest.mark.parametrize("resume", ["auto", "off"])
@pytest.mark.parametrize("phase", ["idle", "waiting", "unacknowledged", "reconnecting", "request"])
def test_disconnected_with_a_closed_queue(
    tmp_path: Path, is_durable: bool, resume: str, phase: str
) -> None:
    """The tunnel ends, at once, and says what is left; nothing else is raised or hangs."""
    queue = RequestQueue(path=tmp_path / "queue" if is_durable else None)
    world = World(queue=queue, resume=resume, limits=Limits(1, 2**20, 2**20)).connect()
    world.gateway.acknowledges = phase != "unacknowledged"
    if phase in ("waiting", "reconnecting"):
        world.network.refuse()
        world.network.cut()
        world.until(lambda: world.service.state is S.RECONNECTING)
        world.service.send("left")
        if phase == "waiting":
            world.network.accept()
            world.service._queue.close()
    elif resume == "auto":
        world.service.send("a")
        world.run(1.0)
        if phase == "request":
            world.gateway.acknowledges = False
            world.service.submit("?")
            world.service.submit("?")
    queue.close()
    start = world.clock.monotonic()
    report = world.service.disconnect(timeout=60.0)
    waits = phase in ("unacknowledged", "request")  # for a peer that does not acknowledge
    assert world.clock.monotonic() <= start + (60.0 if waits else 1.0)
    assert world.service.state in (S.DISCONNECTED, S.ERROR)
    assert not world.service.worker.is_running
    if phase in ("waiting", "reconnecting"):
        assert report.unsent == ("left",)


def test_what_cannot_be_sent_is_refused_by_its_queue(world: World) -> None:
    """The application may fill the queue itself; what would end each link is refused there."""
    queue = world.service._queue
    for item, error in (
        (1, PayloadTypeError),
        (bytearray(b"x"), PayloadTypeError),
        ("a\ud800", ValueError),
        ("x" * (world.service.config.max_message_size + 1), MessageTooBigError),
    ):
        with pytest.raises(error):
            queue.enqueue(item)
    queue.enqueue("ü")
    world.service.flush()
    assert world.gateway.received == ["ü"]


# What was received and not read


@pytest.mark.parametrize("phase", ["ended", "kept"])
def test_unread_messages_at_the_end(phase: str) -> None:
    """They can be read after `disconnect`.

    If the session ended, the peer does not hear of it; if it is kept, it does when it goes on.
    """
    world = World(by_iterator=True).connect()
    world.gateway.send("1", "2")
    world.run(1.0)
    peer = world.gateway.session
    assert peer is not None
    if phase == "kept":
        world.gateway.acknowledges = False
        world.service.send("unacknowledged")
    world.service.disconnect(timeout=1.0)
    assert peer.unacknowledged == 2
    assert list(world.service.messages()) == ["1", "2"]
    world.connect()
    world.run(1.0)
    if phase == "ended":
        assert world.gateway.session is not peer
        assert world.losses == []
    else:
        assert world.gateway.session is peer
        assert peer.unacknowledged == 0
