from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from random import Random
from typing import Any

import pytest
from loguru import logger

from statemachine import replay
from tunnel.addresses import TunnelUrl
from tunnel.callback_lane import CallbackLane
from tunnel.closing_handshake import LinkEnd
from tunnel.config import TunnelConfig
from tunnel.delivery import CallbackDelivery
from tunnel.dial import DialInterrupted
from tunnel.driver import Driver
from tunnel.errors import (
    AuthenticationFailedError,
    ConnectionLostError,
    ConnectRefusedError,
    InvalidStateError,
    MaxReconnectAttemptsExceededError,
    ServerUnavailableError,
    SessionLostError,
    TokenExpiredError,
    TunnelError,
)
from tunnel.events import ConnectionEventType
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState
from tunnel.link import Link
from tunnel.metrics_collector import MetricsCollector
from tunnel.network_follower import ObservedChange
from tunnel.network_outlook import DEFAULT_ROUTES, Route
from tunnel.network_watch import NetworkWatch
from tunnel.request_handler import RequestHandler
from tunnel.request_queue import RequestQueue
from tunnel.requests import (
    CancelConnect,
    Close,
    Connect,
    Greeted,
    NetworkChange,
    Reconnect,
    Target,
)
from tunnel.secrets import Secret
from tunnel.session_frames import ASK_FRAME, Limits, Parcel
from tunnel.testing import FakeClock, ScriptedGateway, ScriptedTransport
from tunnel.transport import DialRequest, Transport
from tunnel.waker import Waker

S = TunnelConnectionState
E = ConnectionEventType
QUIET = {"jitter": 0.0, "ping_interval": None}
PEER = "198.51.100.7"
WAY, OTHER_WAY = Route("10.0.0.2", 2), Route("10.0.0.3", 3)


class PliableLink(Link):
    """A link whose methods can be replaced."""


@pytest.fixture(autouse=True)
def pliable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.driver.Link", PliableLink)


class SlowDial:
    """A transport whose dial takes its time, and can be interrupted as the real one's."""

    def __init__(self, inner: Transport, world: World) -> None:
        self._inner = inner
        self._clock = world.clock
        self._seconds = world.dial_takes
        self._then = world.on_dialled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def open(self, request: DialRequest, interrupted: Callable[[], bool]) -> None:
        end = self._clock.monotonic() + self._seconds
        while True:
            self._inner.waker.clear()
            if interrupted():
                raise DialInterrupted("the dial was called off")
            if not self._clock.wait(self._inner.waker.event, end - self._clock.monotonic()):
                self._inner.open(request, interrupted)
                self._then()
                return


class FakeWatch(NetworkWatch):
    """The machine's network, as a test wants it."""

    def __init__(self) -> None:
        super().__init__(find=lambda address: self.routes.get(address))
        self.routes: dict[str, Route | None] = {}
        self.followers: set[Any] = set()

    def add(self, follower: Any) -> None:
        self.followers.add(follower)

    def remove(self, follower: Any) -> None:
        self.followers.discard(follower)

    def change(self, route: Route | None) -> None:
        """From now on this is the way to everywhere."""
        self.routes = dict.fromkeys((*DEFAULT_ROUTES, PEER), route)
        for follower in tuple(self.followers):
            follower.look(self.table)


class World:
    """A driver in virtual time, its network, and all that happened."""

    def __init__(self, config: TunnelConfig | None = None, **settings: Any) -> None:
        self.clock = FakeClock()
        self.network = ScriptedTransport(self.clock)
        self.dial_takes = 0.0
        self.dials: list[float] = []
        self.received: list[object] = []
        self.calls: list[str] = []
        self.on_dialled: Callable[[], object] = lambda: None
        self.on_connected: Callable[[], object] = lambda: None
        self.queue = RequestQueue(clock=self.clock)
        self.metrics = MetricsCollector(clock=self.clock)
        self.records: list[Any] = []
        self.resumed: list[bool] = []
        self.losses: list[SessionLostError] = []
        self.answers: list[Parcel] = []
        self.watch = FakeWatch()
        self.network.endpoints = ("10.0.0.2", PEER)
        self.watch.change(WAY)
        waker = Waker()
        self.driver = Driver(
            config or TunnelConfig(**{**QUIET, **settings}),
            queue=self.queue,
            delivery=CallbackDelivery(self.received.append),
            lane=CallbackLane(),
            metrics=self.metrics,
            clock=self.clock,
            rng=Random(1),
            new_transport=self.new_transport,
            waker=waker,
            on_connected=self.greet,
            on_session_lost=self.losses.append,
            on_answer=self.answers.append,
            on_start=lambda: self.calls.append("start"),
            on_rest=lambda: self.calls.append("rest"),
            watch=self.watch,
        )
        self.driver.tracker.machine.subscribe(self.records.append)

    def new_transport(self, waker: Waker) -> Transport:
        self.dials.append(self.clock.monotonic())
        return SlowDial(self.network(waker), self)  # type: ignore[return-value]

    def greet(self, resumed: bool) -> None:
        self.calls.append("greet")
        self.resumed.append(resumed)
        self.on_connected()

    @property
    def state(self) -> S:
        return self.driver.tracker.state

    @property
    def path(self) -> list[str]:
        return [record.dest for record in self.records]

    @property
    def events(self) -> list[E]:
        return [event.type for event in self.driver.tracker.events]

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something so many seconds from now."""
        self.clock.call_at(self.clock.monotonic() + seconds, action)

    def run(self, until: Callable[[], bool] | None = None, timeout: float = 10_000.0) -> None:
        """Drive until a condition holds, or nothing is left to do."""
        assert self.driver.worker.drive(until or (lambda: not self.running), timeout)

    @property
    def running(self) -> bool:
        return self.driver.worker.is_running

    def post_connect(self, url: str = "ws://example.com/") -> Connect:
        request = Connect(Target(TunnelUrl.parse(url), "user", None))
        self.driver.post(request)
        return request

    def connected(self) -> World:
        outcome = self.post_connect().outcome
        self.run(outcome.done)
        assert self.state is S.CONNECTED
        return self

    def close(self, graceful: bool = True, within: float = 10.0) -> Close:
        request = Close(graceful, self.clock.monotonic() + within)
        self.driver.post(request)
        return request


def failure(outcome: Future[None]) -> BaseException:
    error = outcome.exception(timeout=0)
    assert error is not None
    return error


# The first dial


def test_connects_greets_and_flushes() -> None:
    """The outcome is there once the application has greeted; what was queued follows."""
    world = World()
    world.queue.enqueue("queued")
    world.on_connected = lambda: world.driver.link.send("hello")  # type: ignore[union-attr]
    request = world.post_connect()
    assert world.calls == ["start"]
    world.run(request.outcome.done)
    assert request.outcome.exception() is None
    assert world.calls == ["start", "greet"]
    assert world.network.received == ["hello", "queued"]
    assert world.path == ["connecting", "connected"]


def test_first_dial_that_fails_is_repeated() -> None:
    """A failure that may pass leads into a recovery, whose success is that of the connect."""
    world = World()
    world.network.refuse()
    request = world.post_connect()
    world.at(1.0, world.network.accept)
    world.run(request.outcome.done)
    assert world.path == ["connecting", "disconnected", "reconnecting", "connected"]
    assert request.outcome.exception() is None
    assert world.dials == [0.0, 2.0]


def test_first_dial_that_fails_for_good() -> None:
    """No second try, and the very error with its cause is the outcome."""
    world = World()
    refusal = AuthenticationFailedError("no")
    refusal.__cause__ = OSError("why")
    world.network.refuse(refusal)
    request = world.post_connect()
    world.run()
    assert world.path == ["connecting", "error"]
    assert failure(request.outcome) is refusal
    assert refusal.__cause__ is not None
    assert world.calls == ["start", "rest"]


def test_first_dial_without_automatic_reconnection() -> None:
    """One dial, then the error that it raised."""
    world = World(enable_auto_reconnect=False)
    world.network.refuse()
    request = world.post_connect()
    world.run()
    assert world.path == ["connecting", "disconnected"]
    assert isinstance(failure(request.outcome), ConnectRefusedError)
    assert len(world.dials) == 1


def test_exhausted_attempts_know_the_last_error() -> None:
    """The outcome says that the attempts were used up, caused by what the last one raised."""
    world = World(max_reconnect_attempts=3)
    world.network.refuse()
    request = world.post_connect()
    world.run()
    error = failure(request.outcome)
    assert isinstance(error, MaxReconnectAttemptsExceededError)
    assert isinstance(error.__cause__, ConnectRefusedError)
    assert world.dials == [0.0, 2.0, 6.0, 14.0]


def test_a_recovery_that_fails_for_good() -> None:
    """After an error that trying again does not mend the outcome is that error itself."""
    world = World()
    world.network.refuse()
    request = world.post_connect()
    refusal = AuthenticationFailedError("no")
    world.at(1.0, lambda: world.network.refuse(refusal))
    world.run()
    assert world.path == ["connecting", "disconnected", "reconnecting", "error"]
    assert failure(request.outcome) is refusal


def test_cancelled_in_the_first_dial() -> None:
    """Whoever stops waiting ends the dial under way at once."""
    world = World()
    world.dial_takes = 60.0
    request = world.post_connect()

    def give_up() -> None:
        assert request.outcome.cancel()
        world.driver.post(CancelConnect(request))

    world.at(3.0, give_up)
    world.run()
    assert world.clock.monotonic() == 3.0
    assert world.path == ["connecting", "disconnected"]
    assert world.calls == ["start", "rest"]


def test_cancelled_in_a_recovery() -> None:
    """Whoever stops waiting ends the wait under way; the last real failure is remembered."""
    world = World()
    world.network.refuse()
    request = world.post_connect()

    def give_up() -> None:
        assert request.outcome.cancel()
        world.driver.post(CancelConnect(request))

    world.at(3.0, give_up)
    world.run()
    assert world.clock.monotonic() == 3.0
    assert world.path == ["connecting", "disconnected", "reconnecting", "disconnected"]
    assert isinstance(world.driver.last_error, ConnectRefusedError)


def test_cancelled_in_the_dial_of_a_recovery() -> None:
    """That the dial was called off is not the reason why there is no connection."""
    world = World()
    world.network.refuse()
    request = world.post_connect()

    def give_up() -> None:
        assert request.outcome.cancel()
        world.driver.post(CancelConnect(request))

    world.at(1.0, lambda: setattr(world, "dial_takes", 60.0))
    world.at(5.0, give_up)
    world.run()
    assert world.clock.monotonic() == 5.0
    assert isinstance(world.driver.last_error, ConnectRefusedError)


def test_cancelled_while_greeting() -> None:
    """A caller who was told that there is no connection gets none, though one is just there."""
    world = World()
    request = world.post_connect()

    def give_up() -> None:
        assert request.outcome.cancel()
        world.driver.post(CancelConnect(request))

    world.on_connected = give_up
    world.run()
    assert world.path == ["connecting", "connected", "closing", "disconnected"]
    assert world.network.close_codes == [1000]


def test_cancelled_too_late() -> None:
    """An end that came by itself is not changed by a cancellation behind it."""
    world = World(enable_auto_reconnect=False)
    world.network.refuse()
    request = world.post_connect()
    assert world.driver.worker.step()
    world.driver.post(CancelConnect(request))
    world.run()
    assert world.path == ["connecting", "disconnected"]


def test_a_connect_that_is_done_is_not_kept() -> None:
    """What has asked for the connection takes no memory while the link lives."""
    world = World()
    request = world.post_connect()
    world.run(request.outcome.done)
    outcome = weakref.ref(request.outcome)
    del request
    gc.collect()
    assert outcome() is None
    assert world.state is S.CONNECTED


def test_a_refused_connect_calls_nothing_off() -> None:
    """Who comes second and gives up before he is refused does no harm to who came first."""
    world = World()
    world.network.refuse()
    first = world.post_connect()
    second = Connect(Target(TunnelUrl.parse("ws://example.com/"), "user", None))
    world.driver.worker.post(second)  # both have found the tunnel at rest
    assert second.outcome.cancel()
    world.driver.post(CancelConnect(second))
    world.at(1.0, lambda: world.driver.worker.post(CancelConnect(second)))
    world.at(1.0, lambda: world.driver.post(CancelConnect(second)))
    world.at(3.0, world.network.accept)
    world.run(first.outcome.done)
    assert first.outcome.exception() is None
    assert world.dials == [0.0, 2.0, 6.0]


# Connecting while there is something already


@pytest.mark.parametrize("state", [S.CONNECTING, S.CONNECTED, S.RECONNECTING, S.CLOSING])
def test_no_second_connection(state: S) -> None:
    """A connect is refused at once where a connection is there or being worked on."""
    world = World()
    refused: list[bool] = []

    def connect(record: Any) -> None:
        if record.dest == state:
            with pytest.raises(InvalidStateError, match=f"the tunnel is {state.value} already"):
                world.post_connect()
            refused.append(True)

    world.driver.tracker.machine.subscribe(connect)
    world.connected().network.cut()
    world.run(lambda: world.path.count("connected") == 2)
    world.close()
    world.run()
    assert refused
    assert world.network.received == []


def test_two_connect_at_the_same_time() -> None:
    """Of two that are posted before either is obeyed the first one counts."""
    world = World()
    first, second = world.post_connect("ws://a.example/"), world.post_connect("ws://b.example/")
    world.run(first.outcome.done)
    assert first.outcome.exception() is None
    assert isinstance(failure(second.outcome), InvalidStateError)
    assert [dial.url.host for dial in world.network.dials] == ["a.example"]


def test_connects_in_the_moment_of_a_loss() -> None:
    """A connect that comes between a loss and its recovery is refused by the recovery, at once."""
    world = World().connected()
    late: list[Connect] = []

    def connect(record: Any) -> None:
        if record.dest == "disconnected":
            late.append(world.post_connect())

    world.driver.tracker.machine.subscribe(connect)
    world.network.refuse()
    world.network.cut()
    world.at(1.0, lambda: refusals.append(late[0].outcome.exception(timeout=0)))
    refusals: list[BaseException | None] = []
    world.run(lambda: world.state is S.ERROR)
    assert isinstance(refusals[0], InvalidStateError)


def test_connects_in_the_moment_of_an_attempt() -> None:
    """A connect that got into the mailbox of a recovery does not wait for its end."""
    world = World().connected()
    late = Connect(Target(TunnelUrl.parse("ws://example.com/"), "user", None))

    def connect(event: Any) -> None:
        if event.type is E.RECONNECTING and not late.outcome.done():
            world.driver.worker.mailbox.append(late)  # as by a thread that saw the state before

    world.driver.tracker.subscribe(connect)
    world.network.cut()
    refusals: list[BaseException] = []
    world.at(0.0, lambda: refusals.append(failure(late.outcome)))
    world.run(lambda: world.calls.count("greet") == 2)
    assert isinstance(refusals[0], InvalidStateError)


def test_connects_anew_from_error() -> None:
    """Another connect ends the wait of whoever waited for the one before."""
    world = World()
    world.network.refuse(AuthenticationFailedError("no"))
    first = world.post_connect()
    world.run(lambda: world.state is S.ERROR)  # ... and the thread has not looked for mail yet
    world.network.accept()
    second = world.post_connect()
    world.run(second.outcome.done)
    assert isinstance(failure(first.outcome), AuthenticationFailedError)
    assert second.outcome.exception() is None
    assert world.calls == ["start", "greet"]


# Losses


def test_comes_back_after_a_loss() -> None:
    """By way of disconnected and reconnecting to connected; greeted again, and counted."""
    world = World().connected()
    world.network.cut()
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.path[2:] == ["disconnected", "reconnecting", "connected"]
    assert world.clock.monotonic() == 2.0
    snapshot = world.metrics.snapshot()
    assert snapshot.reconnection_count == 1
    assert snapshot.error_counts == {"TUNNEL_021": 1}
    assert world.driver.last_error is None


def test_does_not_come_back_if_that_is_off() -> None:
    """Without automatic reconnection a loss is the end."""
    world = World(enable_auto_reconnect=False).connected()
    world.network.cut()
    world.run()
    assert world.path[2:] == ["disconnected"]
    assert isinstance(world.driver.last_error, ConnectionLostError)


def test_an_end_without_an_error_is_a_loss() -> None:
    """A link that has ended without anybody's fault is brought back as well."""
    world = World().connected()
    assert world.driver.link is not None
    world.driver.link.run = lambda deadline=None: LinkEnd(None, clean=True)  # type: ignore
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.path[2:] == ["disconnected", "reconnecting", "connected"]


def test_does_not_come_back_from_a_final_close() -> None:
    """A close code that says not to come back leads to error."""
    world = World().connected()
    world.network.close(1008, "go away")
    world.run()
    assert world.path[2:] == ["error"]


def test_only_attempts_that_were_made_are_counted() -> None:
    """A wait that was cut short is no failed attempt; one that failed is one."""
    world = World().connected()
    made: list[tuple[int, bool]] = []
    world.metrics.record_reconnection = (  # type: ignore[method-assign]
        lambda attempt, success, delay: made.append((attempt, success))
    )
    world.network.refuse()
    world.network.cut()
    world.at(3.0, world.network.accept)
    world.at(4.0, lambda: world.driver.post(Reconnect()))
    world.run(lambda: world.calls.count("greet") == 2)
    assert made == [(1, False), (1, True)]  # at 2 s, and at 4 s, counted anew


def test_gives_the_socket_back_if_there_can_be_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a link cannot be set up its transport is closed, and the tunnel ends with the error."""
    world = World()

    def fail(*arguments: object, **more: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("tunnel.driver.Link", fail)
    request = world.post_connect()
    with pytest.raises(RuntimeError):  # a tunnel that is driven tells its driver
        world.run()
    world.run()
    assert world.state is S.ERROR
    assert not world.network.is_connected
    assert failure(request.outcome).__cause__ is not None


# Reconnecting by hand


def reconnect(world: World) -> Future[None]:
    request = Reconnect()
    world.driver.post(request)
    return request.outcome


def test_reconnects_a_live_link() -> None:
    """The link is given up, and dialled again without a delay, whatever the settings say."""
    world = World(enable_auto_reconnect=False).connected()
    outcome = reconnect(world)
    world.run(outcome.done)
    assert outcome.exception() is None
    assert world.path[2:] == ["disconnected", "reconnecting", "connected"]
    assert world.clock.monotonic() == 0.0


@pytest.mark.requirement("9.7")
def test_reconnects_after_the_end() -> None:
    """From disconnected and from error, too; on a thread that begins anew."""
    world = World().connected()
    world.close()
    world.run()
    outcome = reconnect(world)
    world.run(outcome.done)
    assert outcome.exception() is None
    world.network.close(1008)
    world.run(lambda: not world.running)
    outcome = reconnect(world)
    world.run(outcome.done)
    assert outcome.exception() is None
    assert world.calls.count("start") == 3


def test_reconnects_in_a_wait() -> None:
    """What the backoff had left to wait is dropped."""
    world = World().connected()
    world.network.cut()
    outcomes: list[Future[None]] = []
    world.at(0.5, lambda: outcomes.append(reconnect(world)))
    world.run(lambda: bool(outcomes) and outcomes[0].done())
    assert outcomes[0].exception() is None
    assert world.dials == [0.0, 0.5]


@pytest.mark.parametrize("first", [True, False])
def test_reconnects_in_a_dial(first: bool) -> None:
    """A dial that hangs is begun anew at once, the first one as well as a later one."""
    world = World()
    if not first:
        world.connected().network.cut()
    world.dial_takes = 60.0
    outcomes: list[Future[None]] = []

    def hurry() -> None:
        world.dial_takes = 0.0
        outcomes.append(reconnect(world))

    world.at(7.0, hurry)
    if first:
        world.post_connect()
    world.run(lambda: bool(outcomes) and outcomes[0].done())
    assert world.clock.monotonic() == 7.0
    assert world.state is S.CONNECTED


def test_reconnects_though_the_network_is_said_to_be_gone() -> None:
    """Whoever asks by hand may know better: one attempt is made at once."""
    world = World().connected()
    world.driver.post(NetworkChange(False, None))
    world.network.cut()
    outcomes: list[Future[None]] = []
    world.at(100.0, lambda: outcomes.append(reconnect(world)))
    world.run(lambda: bool(outcomes) and outcomes[0].done())
    assert outcomes[0].exception() is None
    assert world.dials == [0.0, 100.0]


def test_a_wish_does_not_outlive_its_dial() -> None:
    """After a reconnection by hand the next loss is waited for by the policy again."""
    world = World().connected()
    world.run(reconnect(world).done)
    world.network.cut()
    world.run(lambda: len(world.dials) == 3)
    assert world.clock.monotonic() >= 2.0


def test_reconnecting_ends_with_the_tunnel() -> None:
    """Whoever waits for a reconnection learns that it was called off."""
    world = World().connected()
    world.network.refuse()
    outcome = reconnect(world)
    world.at(1.0, world.close)
    world.run()
    assert isinstance(failure(outcome), ConnectRefusedError)


def test_reconnecting_while_closing() -> None:
    """A tunnel that is closing does not dial, and says so at its end."""
    world = World().connected()
    world.close()
    outcome = reconnect(world)
    world.run()
    assert isinstance(failure(outcome), InvalidStateError)
    assert len(world.dials) == 1


def test_reconnecting_without_a_target() -> None:
    """Before the first connect there is nowhere to dial to."""
    world = World()
    outcome = reconnect(world)
    world.run()
    assert isinstance(failure(outcome), InvalidStateError)
    assert world.dials == []
    assert world.calls == ["start"]  # nobody has worked on a connection, so that has no end


# The network


def change(world: World, is_connected: bool) -> None:
    world.driver.post(NetworkChange(is_connected, "wifi"))


@pytest.mark.requirement("1.8")
def test_the_network_pauses_and_hurries_a_recovery() -> None:
    """While it is gone nothing is dialled; when it is back, at once."""
    world = World().connected()
    world.network.cut()
    world.at(0.5, lambda: change(world, False))
    world.at(500.0, lambda: change(world, True))
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 500.0]
    assert world.events.count(E.NETWORK_CHANGED) == 2


def test_the_network_was_gone_before_the_loss() -> None:
    """A recovery that begins without a network is paused from the beginning."""
    world = World().connected()
    change(world, False)
    world.run(lambda: E.NETWORK_CHANGED in world.events)
    world.network.cut()
    world.at(300.0, lambda: change(world, True))
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 300.0]


def test_the_network_ends_a_dial_that_hangs() -> None:
    """Back means dialling anew; gone means nothing to a dial under way."""
    world = World().connected()
    world.network.cut()
    world.dial_takes = 60.0
    world.at(10.0, lambda: change(world, False))

    def back() -> None:
        world.dial_takes = 0.0
        change(world, True)

    world.at(20.0, back)
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 2.0, 20.0]


def test_the_latest_news_of_the_network_count() -> None:
    """Back and gone again before anybody looked: the recovery is paused."""
    world = World().connected()
    world.network.cut()

    def flicker(event: Any) -> None:
        if event.type is E.RECONNECTING and E.NETWORK_CHANGED not in world.events:
            for is_connected in (False, True, False):
                change(world, is_connected)

    world.driver.tracker.subscribe(flicker)
    world.at(50.0, lambda: change(world, True))
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 50.0]


@pytest.mark.requirement("1.8")
def test_the_network_brings_back_what_was_given_up() -> None:
    """After the attempts were used up, a network that is back is worth another recovery."""
    world = World(max_reconnect_attempts=1).connected()
    world.network.refuse()
    world.network.cut()
    world.run()
    assert world.state is S.ERROR
    world.network.accept()
    before = world.clock.monotonic()
    change(world, True)
    world.run(lambda: world.state is S.CONNECTED)
    assert world.clock.monotonic() == before


@pytest.mark.requirement("9.7")
def test_the_network_brings_nothing_back_if_that_is_off() -> None:
    """Without automatic reconnection a given-up connection stays where it is."""
    world = World(max_reconnect_attempts=1, enable_auto_reconnect=False).connected()
    world.network.refuse()
    world.run(reconnect(world).done)
    world.run()
    assert isinstance(world.driver.last_error, MaxReconnectAttemptsExceededError)
    world.network.accept()
    change(world, True)
    world.run()
    assert world.state is S.ERROR


def test_the_network_does_not_bring_back_what_failed_for_good() -> None:
    """An error that has nothing to do with the network is not mended by it."""
    world = World().connected()
    world.network.close(1008)
    world.run()
    change(world, True)
    world.run()
    assert world.state is S.ERROR


def test_the_network_is_back_and_the_link_lives() -> None:
    """A live link is asked for a sign of life."""
    world = World().connected()
    pings: list[object] = []
    world.driver.link.ping = pings.append  # type: ignore[union-attr, method-assign]
    change(world, True)
    world.run(lambda: E.NETWORK_CHANGED in world.events)
    assert pings


# Closing


@pytest.mark.requirement("8.3")
def test_closes_with_a_handshake() -> None:
    """It goes by way of closing to disconnected, with code 1000."""
    world = World().connected()
    request = world.close()
    world.run(request.done.is_set)
    assert world.path[2:] == ["closing", "disconnected"]
    assert world.network.close_codes == [1000]
    world.run()
    assert world.calls[-1] == "rest"


@pytest.mark.requirement("8.1")
def test_drains_before_it_closes() -> None:
    """What is queued goes out before the close frame, also on a link nobody has greeted yet."""
    world = World()
    world.queue.enqueue("queued")
    request = world.post_connect()
    world.driver.worker.step()  # connected, and that is all
    assert world.state is S.CONNECTED
    close = world.close()
    world.run(close.done.is_set)
    assert world.network.received == ["queued"]
    assert world.network.close_codes == [1000]
    assert request.outcome.exception() is None
    assert world.clock.monotonic() == 0.0


def test_drains_no_longer_than_permitted() -> None:
    """A peer that takes nothing is waited for until the deadline, and the rest stays queued."""
    world = World().connected()
    hold(world)
    world.queue.enqueue("stays")
    request = world.close(within=4.0)
    world.run(request.done.is_set)
    assert world.clock.monotonic() == 4.0
    assert world.queue.snapshot() == ("stays",)
    assert world.path[2:] == ["closing", "disconnected"]


def hold(world: World) -> None:
    """Let nothing that is queued out; what is a control frame goes."""
    assert world.driver.link is not None
    world.driver.link.writer._outbox.is_open = False


def test_a_link_that_dies_while_it_drains() -> None:
    """There is nothing left to close then."""
    world = World().connected()
    hold(world)
    world.queue.enqueue("stays")
    request = world.close()
    world.at(1.0, world.network.cut)
    world.run(request.done.is_set)
    assert world.records[-1].trigger == "lost"
    assert world.clock.monotonic() == 1.0


def test_a_link_that_dies_in_its_handshake() -> None:
    """A peer that hangs up instead of answering the close frame has closed it, too."""
    world = World().connected()
    world.network.fall_silent()
    request = world.close()
    world.at(1.0, world.network.cut)
    world.run(request.done.is_set)
    assert world.records[-1].trigger == "lost"
    assert world.state is S.DISCONNECTED


def test_a_peer_that_does_not_answer_the_close_frame() -> None:
    """It is waited for until the deadline, not longer."""
    world = World().connected()
    world.network.fall_silent()
    request = world.close(within=3.0)
    world.at(1.0, lambda: change(world, False))  # wakes the thread, and ends nothing
    world.run(request.done.is_set)
    assert world.clock.monotonic() == 3.0
    assert world.records[-1].trigger == "closed"


def test_closes_without_grace() -> None:
    """Without grace nothing is drained and nobody waited for; the close frame goes out."""
    world = World().connected()
    hold(world)
    world.queue.enqueue("stays")
    world.close(graceful=False)
    world.run()
    assert world.network.close_codes == [1000]
    assert world.clock.monotonic() == 0.0


@pytest.mark.parametrize(("graceful", "within", "end"), [(True, 2.0, 3.0), (False, 10.0, 1.0)])
def test_two_close_at_once(graceful: bool, within: float, end: float) -> None:
    """The stricter terms hold for both; both learn of the end."""
    world = World().connected()
    world.network.fall_silent()
    first = world.close(within=8.0)
    second: list[Close] = []
    world.at(1.0, lambda: second.append(world.close(graceful, within)))
    world.run(first.done.is_set)
    assert second[0].done.is_set()
    assert world.clock.monotonic() == end


def test_closes_in_a_wait() -> None:
    """A recovery that waits ends at once."""
    world = World().connected()
    world.network.refuse()
    world.network.cut()
    world.at(1.0, world.close)
    world.run()
    assert world.clock.monotonic() == 1.0
    assert world.path[2:] == ["disconnected", "reconnecting", "disconnected"]


def test_closes_in_a_dial() -> None:
    """A dial that hangs ends at once, the first one and one of a recovery."""
    world = World()
    world.dial_takes = 60.0
    world.post_connect()
    world.at(1.0, world.close)
    world.run()
    assert world.clock.monotonic() == 1.0
    world.dial_takes = 0.0
    world.connected().network.cut()
    world.dial_takes = 60.0
    world.at(5.0, world.close)
    world.run()
    assert world.clock.monotonic() == 6.0
    assert world.state is S.DISCONNECTED


def test_closes_before_the_recovery_has_begun() -> None:
    """A close that is posted between a loss and the first wait is not overlooked."""
    world = World().connected()

    def close(record: Any) -> None:
        if record.dest == "reconnecting":
            world.close()

    world.driver.tracker.machine.subscribe(close)
    world.network.cut()
    world.run()
    assert world.clock.monotonic() == 0.0
    assert len(world.dials) == 1
    assert world.state is S.DISCONNECTED


def test_closes_between_a_wait_and_its_dial() -> None:
    """An attempt that was called off before it began is not made."""
    world = World().connected()
    world.network.cut()
    dial = world.driver.recovery._connect

    def dial_late() -> None:
        world.driver.worker.mailbox.append(Close(True, 10.0))
        dial()

    world.driver.recovery._connect = dial_late
    world.run()
    assert len(world.dials) == 1
    assert world.state is S.DISCONNECTED


def test_closes_in_the_moment_of_success() -> None:
    """A dial that succeeds all the same gives a link, which is closed properly."""
    world = World().connected()
    world.network.cut()
    request: list[Close] = []
    world.on_dialled = lambda: request.append(world.close())
    world.run(lambda: bool(request) and request[0].done.is_set())
    assert world.path[3:] == ["reconnecting", "connected", "closing", "disconnected"]
    assert world.network.close_codes == [1000]


def test_closes_what_is_closed() -> None:
    """There is nothing to do, and whoever waits is told."""
    world = World()
    request = world.close()
    world.run(request.done.is_set)
    assert world.path == []


def test_lets_go_of_a_failed_tunnel() -> None:
    """It goes from error to disconnected."""
    world = World().connected()
    world.network.close(1008)
    world.run()
    world.run(world.close().done.is_set)
    assert world.state is S.DISCONNECTED


# Settings


def test_new_settings_hold_from_the_next_recovery_on() -> None:
    """One under way keeps its delays; the next one has the new ones, and so has the queue."""
    world = World().connected()
    world.network.refuse()
    world.network.cut()

    def configure() -> None:
        config = world.driver.config.replace(reconnect_base_delay=5.0, max_queue_size=7)
        world.driver.configure(config)

    world.at(1.0, configure)
    world.at(3.0, world.network.accept)
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials[1:] == [2.0, 6.0]
    assert world.queue.max_size == 7
    world.network.cut()
    world.run(lambda: world.calls.count("greet") == 3)
    assert world.dials[3] == 11.0


# Mistakes


def test_a_greeting_that_raises() -> None:
    """The queue is flushed all the same."""
    world = World()
    world.queue.enqueue("queued")
    world.on_connected = lambda: 1 // 0
    world.connected()
    assert world.network.received == ["queued"]
    assert world.driver.greeting is None


def test_a_greeting_that_ends_the_link() -> None:
    """A link that is lost while the application greets it is lost as any other."""
    world = World()
    world.queue.enqueue("queued")
    ends = [world.network.cut]
    world.on_connected = lambda: ends.pop()() if ends else None
    world.post_connect()
    world.run(lambda: bool(world.network.received))
    assert world.network.received == ["queued"]
    assert world.calls.count("greet") == 2


def test_a_greeting_belongs_to_its_link() -> None:
    """What it says after the link was lost is not said on the next one before that is greeted."""
    world = World()
    links: list[Any] = []

    def greet() -> None:
        links.append(world.driver.greeting)
        if len(links) == 1:
            world.driver.link = None  # as another thread would, having noticed a loss
        assert world.driver.greeting is links[-1]
        world.driver.link = links[-1]

    world.on_connected = greet
    world.connected()
    assert links == [world.driver.link]
    assert world.driver.greeting is None


def test_a_greeting_that_comes_too_late() -> None:
    """If its link was lost meanwhile the queue stays closed until the next one is greeted."""
    world = World()
    world.connected()
    link = world.driver.link
    assert link is not None
    world.network.cut()
    world.run(lambda: world.driver.link not in (None, link))
    opened: list[object] = []
    world.driver.link.open_queue = lambda: opened.append(1)  # type: ignore[union-attr, method-assign]
    world.driver.obey(Greeted(link))
    assert opened == []
    world.run(lambda: bool(opened))


def test_a_bug_in_an_activity_ends_the_link() -> None:
    """It does not go on half alive: the state is error, the socket closed, the driver told."""
    world = World().connected()
    world.driver.link.run = lambda: 1 // 0  # type: ignore[union-attr, method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        world.run()
    assert world.state is S.ERROR
    assert not world.network.is_connected
    world.run()


def test_a_bug_while_closing_ends_the_link() -> None:
    """A tunnel that fails while it closes is closed."""
    world = World().connected()
    request = world.close()
    world.driver.link.run = lambda _: 1 // 0  # type: ignore[union-attr, method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        world.run()
    assert world.state is S.DISCONNECTED
    assert request.done.is_set()


def test_a_bug_in_obedience_does_not_lose_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong with a request is an error of the tunnel, too; the next one is obeyed."""
    world = World().connected()
    monkeypatch.setattr(RequestHandler, "_change_network", lambda handler, request: 1 // 0)
    change(world, True)
    with pytest.raises(ZeroDivisionError):
        world.run()
    assert world.state is S.ERROR
    world.run(world.close().done.is_set)


def test_a_callback_that_ends_its_thread() -> None:
    """`sys.exit` in a callback ends the tunnel with an error, not in silence."""
    world = World()

    def leave() -> None:
        raise SystemExit(3)

    world.on_connected = leave
    request = world.post_connect()
    with pytest.raises(SystemExit):
        world.run()
    world.run()
    assert world.state is S.ERROR
    assert "SystemExit" in str(failure(request.outcome))


def test_with_a_thread_nobody_is_told_but_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a thread of its own the error is logged; raising it would reach nobody."""
    world = World().connected()
    monkeypatch.setattr(world.driver.worker, "_threaded", True)
    world.driver.link.run = lambda: 1 // 0  # type: ignore[union-attr, method-assign, assignment]
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}")
    logger.enable("tunnel")
    try:
        assert world.driver.worker.step()
    finally:
        logger.disable("tunnel")
        logger.remove(sink)
    assert world.state is S.ERROR
    assert lines[0].startswith("ERROR the tunnel failed")
    assert "ZeroDivisionError" in lines[0]


def test_an_end_in_which_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread goes on, or nothing that is posted would be obeyed any more."""
    world = World().connected()
    monkeypatch.setattr(world.driver.worker, "_threaded", True)
    link = world.driver.link
    assert link is not None
    link.run = lambda: 1 // 0  # type: ignore[method-assign, assignment]
    dispose, link.dispose = link.dispose, lambda: 1 // 0  # type: ignore[method-assign, assignment]
    assert world.driver.worker.step()
    dispose()
    assert world.state is S.ERROR
    assert not world.driver.worker.step()
    assert not world.running


def test_a_bug_that_found_nothing_to_end() -> None:
    """If the connection is over already, the state stays what it is."""
    world = World()
    world.driver.activity = lambda: 1 // 0  # type: ignore[assignment]
    world.driver.worker.start()
    with pytest.raises(ZeroDivisionError):
        world.driver.worker.step()
    assert world.state is S.DISCONNECTED
    world.driver.activity = None
    world.run()


# Tokens


class Gate:
    """A network that refuses the tokens that have expired, and a source of tokens."""

    def __init__(self, world: World, *tokens: str | Exception, expired: str = "old") -> None:
        self.world = world
        self.tokens = list(tokens)
        self.expired = expired
        self.takes = 0.0
        self.shown: list[str] = []
        inner = world.new_transport

        def new_transport(waker: Waker) -> Transport:
            transport = inner(waker)
            open_it = transport.open

            def open_gate(request: DialRequest, interrupted: Callable[[], bool]) -> None:
                token = dict(request.headers)["Authorization"].removeprefix("Bearer ")
                self.shown.append(token)
                if token.startswith(self.expired):
                    raise TokenExpiredError("the token has expired", status=401)
                open_it(request, interrupted)

            transport.open = open_gate  # type: ignore[method-assign]
            return transport

        world.driver._dialler.new_transport = new_transport

    def token(self) -> str:
        self.world.clock.advance(self.takes)
        token = self.tokens.pop(0)
        if isinstance(token, Exception):
            raise token
        return token

    def connect(self, token: Any) -> Connect:
        target = Target(TunnelUrl.parse("ws://example.com/"), "user", token)
        request = Connect(target)
        self.world.driver.post(request)
        self.world.run(request.outcome.done)
        return request


@pytest.mark.requirement("2.9")
def test_an_expired_token_is_renewed_within_the_attempt() -> None:
    """A callable is asked once more, at once; nobody sees a failure in between."""
    world = World()
    gate = Gate(world, "old", "new")
    gate.connect(gate.token).outcome.result(0)
    assert gate.shown == ["old", "new"]
    assert world.path == ["connecting", "connected"]
    assert world.dials == [0.0, 0.0]


def test_the_second_refusal_is_final() -> None:
    """There is no third try, nor one with the same token, nor one with a token that is fixed."""
    for tokens, shown in ((["old1", "old2", "new"], ["old1", "old2"]), (["old", "old"], ["old"])):
        world = World()
        gate = Gate(world, *tokens)
        with pytest.raises(TokenExpiredError):
            gate.connect(gate.token).outcome.result(0)
        assert gate.shown == shown
        assert world.state is S.ERROR
    world = World()
    gate = Gate(world)
    with pytest.raises(TokenExpiredError):
        gate.connect(Secret("old")).outcome.result(0)
    assert gate.shown == ["old"]


def test_a_renewal_that_raises() -> None:
    """What the callable raises decides: a mistake is final, the network is tried again."""
    world = World()
    gate = Gate(world, "old", ValueError("secret"))
    with pytest.raises(AuthenticationFailedError, match="ValueError"):
        gate.connect(gate.token).outcome.result(0)
    world = World()
    gate = Gate(world, "old", OSError("no route"), "new")
    gate.connect(gate.token).outcome.result(0)
    assert gate.shown == ["old", "new"]
    assert "reconnecting" in world.path


def test_a_callable_that_says_expired_itself_is_asked_once() -> None:
    """Only the server's word makes it worth while to ask again."""
    world = World()
    gate = Gate(world, TokenExpiredError("log in again"), "new")
    with pytest.raises(TokenExpiredError, match="log in"):
        gate.connect(gate.token).outcome.result(0)
    assert gate.tokens == ["new"]


def test_a_slow_callable_does_not_use_up_the_time_of_the_dial() -> None:
    """The deadline of the session's handshake begins with the dial, not with the question."""
    world = World(connect_timeout=1.0)
    ScriptedGateway(world.network)
    gate = Gate(world, "old", "new")
    gate.takes = 5.0
    gate.connect(gate.token).outcome.result(0)
    assert world.driver.channel.session is not None
    assert world.dials == [5.0, 10.0]


def test_the_limit_on_headers_reaches_the_dial() -> None:
    """`max_header_size` is what the transport is told."""
    world = World(max_header_size=2000)
    limits: list[int] = []
    inner = world.new_transport

    def new_transport(waker: Waker) -> Transport:
        transport = inner(waker)
        open_it = transport.open

        def note(request: DialRequest, interrupted: Callable[[], bool]) -> None:
            limits.append(request.max_header_size)
            open_it(request, interrupted)

        transport.open = note  # type: ignore[method-assign]
        return transport

    world.driver._dialler.new_transport = new_transport
    world.connected()
    assert limits == [2000]


# Other


def test_tests_the_link() -> None:
    """A ping that is answered is health, silence is not, and no link is none."""
    world = World()
    assert not world.driver._ping(1.0)
    world.connected()
    assert world.driver._ping(1.0)
    world.network.answers_pings = False
    assert not world.driver._ping(1.0)
    assert world.clock.monotonic() == 1.0


def test_the_history_obeys_the_table() -> None:
    """Whatever was recorded in a full life can be replayed."""
    world = World(max_reconnect_attempts=2).connected()
    world.network.cut()
    world.run(lambda: world.calls.count("greet") == 2)
    world.run(reconnect(world).done)
    world.network.refuse()
    world.network.cut()
    world.run()
    world.network.accept()
    change(world, True)
    world.run(lambda: world.state is S.CONNECTED)
    world.close()
    world.run()
    assert replay(LIFECYCLE, world.records)


def test_pokes_come_in_the_order_of_the_mail() -> None:
    """Whatever threads post at the same time, the manager hears what the mailbox says last."""
    world = World()
    heard: list[bool] = []
    manager, worker = world.driver._reconnecting._manager, world.driver.worker
    manager.pause = lambda: bool(heard.append(False))  # type: ignore[method-assign]
    manager.retry_now = lambda: bool(heard.append(True))  # type: ignore[method-assign]
    second = threading.Thread(target=lambda: change(world, True))
    post = worker.post

    def post_and_be_overtaken(request: Any) -> None:
        post(request)
        if second.ident is None:
            second.start()
            second.join(0.02)  # it cannot get through; and if it could, it would have by now

    worker.post = post_and_be_overtaken  # type: ignore[method-assign]
    change(world, False)
    second.join()
    mail = [m.is_connected for m in worker.mailbox if isinstance(m, NetworkChange)]
    assert heard == mail == [False, True]


def test_errors_are_tunnel_errors() -> None:
    """A bug that is not ours to name still has the root class, for whoever waits."""
    world = World()
    world.network.refuse(ValueError("what"))
    request = world.post_connect()
    world.run()
    assert isinstance(failure(request.outcome), TunnelError)


# Sessions


def resuming(**settings: Any) -> tuple[World, ScriptedGateway]:
    """A driver whose peer resumes sessions."""
    world = World(**settings)
    return world, ScriptedGateway(world.network)


def test_a_session_is_opened_within_the_dial() -> None:
    """When the link is there, the session is; the application hears whether it was resumed."""
    world, gateway = resuming()
    world.connected()
    assert dict(world.network.dials[0].headers) == {"Tunnel-Resume": "1"}
    session = world.driver.channel.session
    assert session is not None
    assert session.state == "attached"
    world.network.cut()
    world.run(lambda: len(world.resumed) == 2)
    assert world.resumed == [False, True]
    assert world.driver.channel.session is session
    assert (gateway.sessions_opened, gateway.resumptions) == (1, 1)


def test_a_peer_that_does_not_answer_the_greeting() -> None:
    """Upgrade and handshake have one deadline; then it is a dial that failed, and is repeated."""
    world, gateway = resuming(connect_timeout=5.0, max_reconnect_attempts=1)
    answer = world.network.on_message
    world.network.on_message = None
    world.network.latency = 2.0
    request = world.post_connect()
    world.at(6.0, lambda: setattr(world.network, "on_message", answer))
    world.run(request.outcome.done)
    assert world.dials[1] == pytest.approx(5.0 + 2.0)  # the dial's end, and the first delay
    assert request.outcome.exception() is None
    assert gateway.sessions_opened == 1
    assert world.resumed == [False]


def test_a_connection_that_breaks_in_the_handshake() -> None:
    """It is translated as any other error of a dial; no socket is left."""
    world, _ = resuming()
    transports: list[Any] = []

    def breaking(waker: Waker) -> Any:
        transports.append(world.network(waker))
        transports[-1].receive = broken
        return transports[-1]

    def broken(size: int) -> bytes:
        raise ConnectionResetError("reset by peer")

    world.driver._dialler.new_transport = breaking
    world.driver.configure(world.driver.config.replace(enable_auto_reconnect=False))
    request = world.post_connect()
    world.run()
    assert isinstance(failure(request.outcome), TunnelError)
    assert len(transports) == 1
    assert not world.network.is_connected
    assert world.driver.channel.session is None


@pytest.mark.parametrize("how", ["close", "cancel", "reconnect", "network"])
def test_called_off_in_the_handshake(how: str) -> None:
    """A handshake can be interrupted as a dial can."""
    world, gateway = resuming()
    answer = world.network.on_message
    world.network.on_message = None
    request = world.post_connect()

    def interrupt() -> None:
        world.network.on_message = answer
        if how == "close":
            world.close()
        elif how == "cancel":
            request.outcome.cancel()
            world.driver.post(CancelConnect(request))
        elif how == "reconnect":
            world.driver.post(Reconnect())
        else:
            world.driver.post(NetworkChange(True, None))

    world.at(1.0, interrupt)
    world.run(lambda: world.state is S.CONNECTED or not world.running)
    assert world.clock.monotonic() == pytest.approx(1.0)
    if how in ("close", "cancel"):
        assert world.state is S.DISCONNECTED
        assert gateway.sessions_opened == 0
        assert world.driver.channel.session is None
    else:
        assert world.state is S.CONNECTED
        assert gateway.sessions_opened == 1


def test_called_off_between_dial_and_link() -> None:
    """A session that was just opened is kept, though there is no link for it."""
    world, gateway = resuming()
    request = world.post_connect()
    world.driver.worker._waker.clear()
    world.driver.obey(world.driver.worker.mailbox.pop(0))
    world.driver._dial()
    session = world.driver.channel.session
    assert session is not None
    assert session.state == "attached"
    request.outcome.cancel()
    world.driver.obey(CancelConnect(request))
    assert world.state is S.DISCONNECTED
    assert session.state == "detached"
    world.run()
    world.connected()
    assert gateway.resumptions == 1


def test_a_loss_is_told_whatever_becomes_of_the_link() -> None:
    """On the next link before the greeting; if there is none, when nothing is left to be done."""
    world, gateway = resuming(max_reconnect_attempts=1)
    world.connected()
    gateway.end()
    world.run(lambda: len(world.resumed) == 2)
    assert (len(world.losses), world.resumed) == (1, [False, False])
    assert world.events[-1] is not E.SESSION_LOST
    assert E.SESSION_LOST in world.events
    gateway.end()
    world.network.refuse()
    world.run()
    assert world.state is S.ERROR
    assert len(world.losses) == 2


def test_drains_until_all_is_acknowledged() -> None:
    """With a session the end waits for the peer's word, asks for it once, and says END."""
    world, gateway = resuming()
    world.connected()
    gateway.acknowledges = False
    world.queue.enqueue_many(["a", "b"])
    asked: list[object] = []
    arrived = world.network.on_message
    assert arrived is not None

    def note(frame: Any) -> None:
        if frame == ASK_FRAME:
            asked.append(frame)
        arrived(frame)

    world.network.on_message = note
    close = world.close()
    world.at(1.0, lambda: gateway.send("still there"))
    world.at(3.0, gateway.acknowledge)
    world.run(close.done.is_set)
    assert world.clock.monotonic() == pytest.approx(3.0)
    assert len(asked) == 1
    assert gateway.received == ["a", "b"]
    assert world.received == ["still there"]
    assert gateway.session is None
    assert world.network.close_codes == [1000]


def test_drains_no_longer_than_the_peer_is_given_to_acknowledge() -> None:
    """Then the session is kept for later."""
    world, gateway = resuming()
    world.connected()
    gateway.acknowledges = False
    world.queue.enqueue("a")
    close = world.close(within=2.0)
    world.run(close.done.is_set)
    assert world.clock.monotonic() == pytest.approx(2.0)
    session = world.driver.channel.session
    assert session is not None
    assert session.state == "detached"
    assert gateway.session is not None


def test_the_limit_is_the_lesser_of_both() -> None:
    """A message has to be one that both ends take; without a session only ours is known."""
    world = World(max_message_size=2000)
    gateway = ScriptedGateway(world.network, limits=Limits(10, 2**20, 1000))
    assert world.driver.max_message_size == 2000
    world.connected()
    assert world.driver.max_message_size == 1000
    world.driver.configure(world.driver.config.replace(max_message_size=500))
    assert world.driver.max_message_size == 500
    assert gateway.sessions_opened == 1


@pytest.mark.parametrize("resumes", [True, False])
def test_a_queue_that_was_closed_too_early(tmp_path: Path, resumes: bool) -> None:
    """An application may close its queue before the tunnel: no socket is left even so."""
    world = World()
    closed: list[bool] = []
    if resumes:
        ScriptedGateway(world.network)
    queue = RequestQueue(path=tmp_path / "queue", clock=world.clock)
    world.driver._queue = world.driver.channel._queue = world.driver._keeper._queue = queue
    world.connected()
    link = world.driver.link
    assert link is not None
    close = link._transport.close
    link._transport.close = lambda: (closed.append(True), close())  # type: ignore[method-assign,assignment,func-returns-value]
    queue.close()
    world.network.cut()
    with contextlib.suppress(InvalidStateError):
        world.run(lambda: world.driver.link is not link)
    assert closed == [True]


def test_the_end_of_a_session_may_be_slow_to_go_out() -> None:
    """What is queued meanwhile came too late, and does not hold up the closing handshake."""
    world, gateway = resuming()
    world.connected()
    link = world.driver.link
    assert link is not None
    send = link._transport.send
    stalls: list[int] = []

    def slow(data: memoryview | bytes) -> int:
        if world.driver.channel.is_ended and not stalls:
            stalls.append(len(data))
            world.queue.enqueue("late")
            return 0
        return send(data)

    link._transport.send = slow  # type: ignore[method-assign]
    close = world.close(within=5.0)
    world.run(close.done.is_set)
    assert len(stalls) == 1
    assert world.clock.monotonic() == 0.0
    assert gateway.session is None
    assert world.network.close_codes == [1000]
    assert world.queue.snapshot() == ("late",)


# What the watch sees of the network


def messages(world: World) -> list[str]:
    """What was recorded about the network."""
    events = world.driver.tracker.events
    return [event.message for event in events if event.type is E.NETWORK_CHANGED]


@pytest.mark.requirement("1.8")
def test_a_seen_return_ends_a_wait() -> None:
    """A recovery that waits tries at once; nobody has to call anything."""
    world = World(reconnect_base_delay=60.0).connected()
    world.watch.change(None)
    world.network.cut()
    world.at(3.0, lambda: world.watch.change(WAY))
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 3.0]
    assert messages(world)[-1] == "there is a route again"


@pytest.mark.requirement("1.8")
def test_a_return_needs_a_moment() -> None:
    """An attempt that fails at once, since the network is only coming up, is soon repeated."""
    world = World(reconnect_base_delay=60.0).connected()
    world.watch.change(None)
    world.network.cut()
    world.network.refuse()
    world.at(3.0, lambda: world.watch.change(WAY))
    world.at(6.0, world.network.accept)
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 3.0, 4.0, 5.5, 7.0]
    assert messages(world)[1:] == ["there is a route again"]  # reminders are not recorded


def test_reminders_leave_a_dial_alone() -> None:
    """One that is under way may finish; if it fails, the next follows at once."""
    world = World(reconnect_base_delay=60.0).connected()
    world.watch.change(None)
    world.network.cut()

    def back() -> None:
        world.dial_takes = 2.2
        world.network.refuse()
        world.watch.change(WAY)

    world.at(3.0, back)
    world.at(4.9, world.network.accept)
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 3.0]
    world = World(reconnect_base_delay=60.0).connected()
    world.watch.change(None)
    world.network.cut()
    world.at(3.0, back)
    world.at(6.0, world.network.accept)
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 3.0, 5.2]


def test_a_seen_return_ends_a_dial_that_hangs() -> None:
    """It hangs since there was no network: it is given up, the first one as well."""
    world = World()
    world.dial_takes = 60.0
    outcome = world.post_connect().outcome

    def back() -> None:
        world.dial_takes = 0.0
        world.watch.change(OTHER_WAY)

    world.at(5.0, back)
    world.run(outcome.done)
    assert world.dials == [0.0, 5.0]


def test_a_reminder_in_the_first_dial() -> None:
    """If that fails after all, the next follows at once."""
    world = World(reconnect_base_delay=60.0)
    world.network.refuse()
    world.dial_takes = 2.2
    outcome = world.post_connect().outcome
    world.at(0.1, lambda: world.watch.change(OTHER_WAY))
    world.at(2.35, world.network.accept)
    world.run(outcome.done)
    assert world.dials == [0.0, 0.1, pytest.approx(2.3)]


@pytest.mark.requirement("1.8")
def test_a_seen_return_brings_back_what_was_given_up() -> None:
    """A tunnel whose attempts were used up is followed on, and tries again, and is reminded."""
    world = World(max_reconnect_attempts=1, reconnect_base_delay=0.5).connected()
    world.network.refuse()
    world.watch.change(None)
    world.network.cut()
    world.run()
    assert world.state is S.ERROR
    assert len(world.watch.followers) == 1
    world.watch.change(WAY)
    before = world.clock.monotonic()
    world.at(0.6, world.network.accept)
    world.run()
    assert world.state is S.ERROR
    world.run(lambda: world.state is S.CONNECTED)
    assert world.clock.monotonic() == before + 1.0


@pytest.mark.parametrize("way", [None, OTHER_WAY])
def test_a_changed_route_challenges_the_link(way: Route | None) -> None:
    """It has two seconds for a sign of life, however rare the pings are."""
    world = World(ping_interval=30.0, reconnect_base_delay=60.0).connected()
    world.network.fall_silent()
    world.at(1.0, lambda: world.watch.change(way))
    world.run(lambda: world.state is not S.CONNECTED)
    assert world.clock.monotonic() == pytest.approx(3.0)
    assert world.state is S.RECONNECTING


@pytest.mark.requirement("1.8")
def test_a_link_that_fails_its_challenge_is_replaced() -> None:
    """The network is there, by another way: nothing has to return, and nobody waits."""
    world = World(ping_interval=30.0, reconnect_base_delay=60.0).connected()
    world.network.fall_silent()
    world.at(1.0, lambda: world.watch.change(OTHER_WAY))
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 3.5]


def test_a_link_that_passes_its_challenge_stays() -> None:
    """A sign of life is all that is asked for; reminders do not disturb it."""
    world = World(ping_interval=30.0).connected()
    world.network.latency = 0.01
    link = world.driver.link
    assert link is not None
    challenges: list[float] = []
    challenge = link.challenge

    def note() -> None:
        challenges.append(world.clock.monotonic())
        challenge()

    link.challenge = note  # type: ignore[method-assign]
    world.at(1.0, lambda: world.watch.change(OTHER_WAY))
    assert not world.driver.worker.drive(lambda: world.state is not S.CONNECTED, 100.0)
    assert challenges == [1.0]
    assert messages(world) == ["the route to the server has changed"]


def test_the_application_says_that_there_is_no_network() -> None:
    """What it says counts more than what is seen, until it says otherwise."""
    world = World(max_reconnect_attempts=3).connected()
    change(world, False)
    world.run(lambda: E.NETWORK_CHANGED in world.events)
    world.watch.change(None)
    world.network.cut()
    world.at(10.0, lambda: world.watch.change(WAY))
    world.at(500.0, lambda: change(world, True))
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 500.0]


def test_a_route_that_goes_pauses_nothing() -> None:
    """What is seen may be wrong: the backoff goes on."""
    world = World().connected()
    world.watch.change(None)
    world.network.cut()
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 2.0]


def test_a_route_that_goes_does_not_hold_up_a_dial() -> None:
    """News of a link that is lost by now take nothing from a wish to dial at once."""
    world = World(reconnect_base_delay=60.0).connected()
    outcome = Reconnect()

    def wish(record: Any) -> None:
        if record.dest == S.RECONNECTING:
            world.driver.post(outcome)

    def tell(event: Any) -> None:
        if event.type is E.RECONNECTING:
            world.driver.post(ObservedChange(False, None, "late news"))

    world.driver.tracker.machine.subscribe(wish)
    world.driver.tracker.subscribe(tell)
    world.network.cut()
    world.run(outcome.outcome.done)
    assert world.dials == [0.0, 0.0]


def test_the_server_has_asked_for_patience() -> None:
    """A network that changes is no reason to come back earlier than the server said."""
    world = World(reconnect_base_delay=1.0).connected()
    world.network.refuse(ServerUnavailableError("busy", retry_after=50.0))
    world.network.cut()
    world.at(3.0, lambda: world.watch.change(OTHER_WAY))
    world.at(4.0, world.network.accept)
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 1.0, 51.0]


def test_a_dial_after_patience_may_hang_as_well() -> None:
    """Once the server's time is over, a return counts again."""
    world = World(reconnect_base_delay=1.0).connected()
    world.network.refuse(ServerUnavailableError("busy", retry_after=50.0))
    world.network.cut()
    world.at(4.0, lambda: setattr(world, "dial_takes", 60.0))

    def back() -> None:
        world.network.accept()
        world.dial_takes = 0.0
        world.watch.change(OTHER_WAY)

    world.at(55.0, back)
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 1.0, 51.0, 55.0]


def test_the_network_returns_just_before_a_recovery_begins() -> None:
    """News that come between a loss and the recovery hurry its first attempt."""
    world = World(reconnect_base_delay=60.0).connected()

    def back(record: Any) -> None:
        if record.dest == S.RECONNECTING:
            change(world, True)

    world.driver.tracker.machine.subscribe(back)
    world.network.cut()
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 0.0]


def test_follows_the_network_while_somebody_works_on_a_connection() -> None:
    """From the first dial to the end; again with the next connect or reconnect."""
    world = World()
    assert not world.watch.followers
    world.connected()
    assert len(world.watch.followers) == 1
    close = world.close()
    world.run(close.done.is_set)
    world.run()
    assert not world.watch.followers
    outcome = reconnect(world)
    world.run(outcome.done)
    assert len(world.watch.followers) == 1
    world.network.close(1008)
    world.run()
    assert world.state is S.ERROR
    assert not world.watch.followers


def test_a_tunnel_that_has_given_up_is_followed_until_it_is_closed() -> None:
    """Nobody lets go of a tunnel in the state error but the application."""
    world = World(max_reconnect_attempts=1).connected()
    world.network.refuse()
    world.network.cut()
    world.run()
    assert world.state is S.ERROR
    assert len(world.watch.followers) == 1
    close = world.close()
    world.run(close.done.is_set)
    world.run()
    assert not world.watch.followers


def test_the_watch_can_be_turned_off() -> None:
    """Then the network is the application's business."""
    world = World(watch_network=False, reconnect_base_delay=60.0).connected()
    assert not world.watch.followers
    world.network.cut()
    world.at(3.0, lambda: world.watch.change(OTHER_WAY))
    world.run(lambda: world.calls.count("greet") == 2)
    assert world.dials == [0.0, 60.0]
