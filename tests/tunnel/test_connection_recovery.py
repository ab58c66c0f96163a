from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from loguru import logger

from statemachine import replay
from tunnel.connection_recovery import ConnectionRecovery
from tunnel.connection_state_tracker import ConnectionStateTracker, StateEffects
from tunnel.errors import (
    AuthenticationFailedError,
    ConnectionLostError,
    MaxReconnectAttemptsExceededError,
    RateLimitedError,
)
from tunnel.events import ConnectionEventType
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState, TunnelTrigger
from tunnel.reconnection_manager import ReconnectionAttempt, ReconnectionManager
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.testing import FakeClock

S = TunnelConnectionState
T = TunnelTrigger
E = ConnectionEventType
REFUSED = ConnectionRefusedError("nobody there")


class World:
    """A recovery and all that it works with, on one fake clock; without jitter."""

    def __init__(
        self, *answers: BaseException | None, state: S = S.CONNECTED, **arguments: Any
    ) -> None:
        self.clock = FakeClock()
        self.answers = deque(answers)
        self.dials: list[float] = []
        self.sent: list[Any] = []
        self.on_dial: Callable[[], object] = lambda: None
        self.on_send: Callable[[Any], object] = lambda item: None
        self.log: list[str] = []
        self.tracker = ConnectionStateTracker(clock=self.clock)
        self.queue = RequestQueue(clock=self.clock)
        manager = {"jitter": 0, "max_attempts": arguments.pop("max_attempts", 10)}
        self.manager = ReconnectionManager(**manager, clock=self.clock)
        self.recovery = ConnectionRecovery(
            self.manager,
            self.tracker,
            self.connect,
            self.queue,
            **{"send": self.send, "on_log": self.log.append, **arguments},
        )
        if state is not S.DISCONNECTED:
            self.tracker.initialize_connection("conn-123", "user-456", "wss://api.example.com")
        if state not in (S.DISCONNECTED, S.CONNECTING):
            self.tracker.update_state(S.CONNECTED)
        if state not in (S.DISCONNECTED, S.CONNECTING, S.CONNECTED):
            self.tracker.update_state(state)
        self.old_events = len(self.tracker.events)

    def connect(self) -> None:
        self.dials.append(self.clock.monotonic())
        answer = self.answers.popleft() if self.answers else None
        self.on_dial()
        if answer is not None:
            raise answer

    def send(self, item: Any) -> None:
        self.on_send(item)
        self.sent.append(item)

    @property
    def state(self) -> S:
        return self.tracker.state

    @property
    def events(self) -> list[E]:
        return [event.type for event in self.tracker.events[self.old_events :]]

    @property
    def path(self) -> list[str]:
        history = self.tracker.machine.history
        assert replay(LIFECYCLE, history)
        return [record.trigger for record in history]

    def at(self, when: float, action: Callable[[], object]) -> None:
        self.clock.call_at(when, action)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# The flow


@pytest.mark.requirement("1.2", "1.4", "1.5")
def test_the_flow_of_the_seed_step_by_step() -> None:
    """Loss, events, attempts with backoff, each tracked; then connected, counted anew, flushed."""
    world = World(REFUSED, OSError("no luck"), None)
    error = ConnectionLostError("reset by peer", close_code=1006)
    for item in ("one", "two", "three"):
        world.queue.enqueue(item)
    steps: list[tuple[str, float]] = []
    world.tracker.subscribe(lambda event: steps.append((event.type.value, world.clock.monotonic())))

    assert world.recovery.handle_disconnection("WebSocket error", error, auto_reconnect=True)

    assert steps == [
        ("disconnected", 0.0),
        ("error", 0.0),
        ("reconnecting", 0.0),
        ("reconnecting", 2.0),
        ("reconnecting", 6.0),
        ("reconnected", 14.0),
    ]
    lost, failed, *attempts, back = world.tracker.events[world.old_events :]
    assert lost.message == "WebSocket error"
    assert lost.metadata["error"] == failed.metadata["error"] == error.to_dict()
    assert [event.metadata["attempt"] for event in attempts] == [1, 2, 3]
    assert [event.metadata["max_attempts"] for event in attempts] == [10, 10, 10]
    assert [event.metadata["delay"] for event in attempts] == [2.0, 4.0, 8.0]
    assert attempts[0].metadata["reason"] == "WebSocket error"
    assert attempts[0].message == "attempt 1 of 10 in 2.0 s: WebSocket error"
    assert "no luck" in attempts[2].message
    assert back.metadata == {"attempts": 3}
    assert world.path == ["connect", "opened", "lost", "recover", "opened"]
    assert world.state is S.CONNECTED
    assert world.tracker.reconnect_attempts == 0
    assert world.sent == ["one", "two", "three"]
    assert world.queue.size == 0
    assert not world.recovery.is_recovering
    assert "flushed: 3 sent, 0 left" in world.log


@pytest.mark.requirement("1.9")
def test_when_the_attempts_are_used_up_the_user_is_notified() -> None:
    """The state becomes error; one event says so, with code and cause; nothing more is tried."""
    world = World(*[REFUSED] * 10)
    world.queue.enqueue("kept")
    assert not world.recovery.handle_disconnection("Heartbeat timeout")
    assert world.state is S.ERROR
    assert world.path[-3:] == ["lost", "recover", "exhausted"]
    assert world.events == [E.DISCONNECTED, *[E.RECONNECTING] * 10, E.ERROR]
    last = world.tracker.events[-1]
    assert last.metadata["error"]["code"] == "TUNNEL_014"
    assert last.metadata["error"]["context"]["attempts"] == 10
    assert "10 attempts" in last.message
    assert world.tracker.reconnect_attempts == 10
    assert len(world.dials) == 10
    assert world.queue.size == 1
    kept = world.tracker.machine.history[-1].data["error"]
    assert isinstance(kept, MaxReconnectAttemptsExceededError)
    assert kept.last_error is not None
    assert kept.last_error.__traceback__ is kept.last_error.__cause__ is None


def test_an_attempt_that_is_not_retryable_ends_it() -> None:
    """Wrong credentials: the state becomes error at once, with that error."""
    world = World(REFUSED, AuthenticationFailedError("who are you"))
    assert not world.recovery.handle_disconnection("WebSocket closed")
    assert world.state is S.ERROR
    assert world.path[-1] == "fail"
    assert world.tracker.events[-1].message == "who are you"
    assert len(world.dials) == 2


def test_cancelled_recoveries_end_disconnected() -> None:
    """A wait that is called off ends at once, and is no error."""
    world = World(REFUSED)
    world.at(3.0, world.recovery.cancel_recovery)
    assert not world.recovery.handle_disconnection("WebSocket closed")
    assert world.clock.monotonic() == 3.0
    assert world.state is S.DISCONNECTED
    assert world.path[-1] == "cancel"
    assert not world.recovery.cancel_recovery()


# Disconnections


@pytest.mark.requirement("9.7")
@pytest.mark.parametrize("switch", ["argument", "tracker"])
def test_without_automatic_reconnection_a_loss_is_only_recorded(switch: str) -> None:
    """Whether it is turned off for this loss or for all."""
    world = World()
    world.tracker.auto_reconnect = switch != "tracker"
    assert not world.recovery.handle_disconnection(
        "WebSocket closed", ConnectionLostError(), auto_reconnect=switch != "argument"
    )
    assert world.state is S.DISCONNECTED
    assert world.events == [E.DISCONNECTED, E.ERROR]
    assert world.dials == []
    assert world.recovery.attempt_recovery(), "by hand it is always possible"


def test_a_failed_first_connection_is_recovered_from() -> None:
    """As in the seed's integration example: connecting fails, and the recovery takes over."""
    world = World(state=S.CONNECTING)
    assert world.recovery.handle_disconnection("Connection failed", REFUSED)
    assert world.path == ["connect", "dial_failed", "recover", "opened"]


@pytest.mark.parametrize("state", [S.CONNECTED, S.CONNECTING])
def test_an_error_that_is_not_retryable_is_not_recovered_from(state: S) -> None:
    """The state becomes error, which is one event; the application has to decide."""
    world = World(state=state)
    assert not world.recovery.handle_disconnection("refused", AuthenticationFailedError("no"))
    assert world.state is S.ERROR
    assert world.events == [E.ERROR]
    assert world.tracker.events[-1].message == "refused"
    assert world.tracker.events[-1].metadata["error"]["code"] == "TUNNEL_002"
    assert world.dials == []


@pytest.mark.parametrize("error", [None, AuthenticationFailedError()])
def test_a_loss_while_closing_is_not_recovered_from(error: Exception | None) -> None:
    """The application wanted the end; now it is there."""
    world = World(state=S.CLOSING)
    assert not world.recovery.handle_disconnection("WebSocket closed", error)
    assert world.state is S.DISCONNECTED
    assert world.dials == []


def test_a_loss_that_was_given_up_is_not_recovered_from() -> None:
    """After the failure a late report changes nothing; its error is recorded."""
    world = World(state=S.ERROR)
    assert not world.recovery.handle_disconnection("late", ConnectionLostError())
    assert world.state is S.ERROR
    assert world.events == [E.ERROR]


def test_a_change_that_somebody_else_makes_first_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the state and the change another thread closes: the error is kept."""
    world = World()
    fire = world.tracker.fire

    def beaten(trigger: T, **data: Any) -> bool:
        monkeypatch.undo()
        fire(T.CLOSE)
        return fire(trigger, **data)

    monkeypatch.setattr(world.tracker, "fire", beaten)
    assert not world.recovery.handle_disconnection("refused", AuthenticationFailedError("no"))
    assert world.state is S.CLOSING
    assert world.events == [E.CLOSING, E.ERROR]


def test_a_loss_reported_twice_is_one_loss() -> None:
    """The second report finds a link that is gone already, and no second event is made of it."""
    world = World()
    world.recovery.handle_disconnection("first", auto_reconnect=False)
    world.recovery.handle_disconnection("second", auto_reconnect=False)
    assert world.events == [E.DISCONNECTED]


def test_a_tracker_that_was_never_connected_can_be_recovered() -> None:
    """The parts also work without initialize_connection."""
    world = World(state=S.DISCONNECTED)
    assert world.recovery.handle_disconnection("WebSocket error", OSError("x"))
    assert world.path == ["recover", "opened"]


def test_what_ended_the_link_may_ask_for_patience() -> None:
    """The first wait is no shorter than the error's retry_after."""
    world = World()
    world.recovery.handle_disconnection("closed", RateLimitedError(retry_after=33.0))
    assert world.dials == [33.0]


# Recoveries by hand


@pytest.mark.parametrize("state", [S.DISCONNECTED, S.ERROR, S.RECONNECTING])
def test_recovery_by_hand(state: S) -> None:
    """From every state without a link, also one that somebody else has put to reconnecting."""
    world = World(state=S.DISCONNECTED)
    if state is S.ERROR:
        world = World(state=state)
    elif state is S.RECONNECTING:
        world.tracker.fire(T.RECOVER)
    assert world.recovery.attempt_recovery()
    assert world.state is S.CONNECTED
    assert world.path[-2:] == ["recover", "opened"]


@pytest.mark.parametrize(
    ("state", "trigger"), [(S.CONNECTED, "lost"), (S.CONNECTING, "dial_failed")]
)
def test_recovery_on_a_live_link_goes_through_disconnected(state: S, trigger: str) -> None:
    """The link is given up first, or the dial that was under way."""
    world = World(state=state)
    assert world.recovery.attempt_recovery()
    assert world.path[-3:] == [trigger, "recover", "opened"]


def test_there_is_no_recovery_while_the_application_closes() -> None:
    """It has asked for the end."""
    world = World(state=S.CLOSING)
    assert not world.recovery.attempt_recovery()
    assert world.state is S.CLOSING
    assert world.dials == []


def test_an_interrupt_leaves_nobody_reconnecting() -> None:
    """What is no Exception passes through, and the state says that nobody works on it."""
    world = World(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        world.recovery.attempt_recovery()
    assert world.state is S.DISCONNECTED
    assert not world.recovery.is_recovering
    assert world.recovery.attempt_recovery()


def test_a_state_that_somebody_else_moves_is_respected() -> None:
    """Closed by a callback in the midst of an attempt that succeeds: no second trigger follows."""
    world = World()
    world.queue.enqueue("kept")
    world.on_dial = lambda: world.tracker.fire(T.CLOSE)
    assert not world.recovery.attempt_recovery()
    assert world.state is S.DISCONNECTED
    assert world.path[-1] == "close"
    assert world.sent == []


def test_a_recovery_that_was_closed_makes_no_more_attempts() -> None:
    """Closed in the midst of an attempt that fails: the recovery ends, and fires nothing."""
    world = World(REFUSED, REFUSED)
    world.on_dial = lambda: world.tracker.fire(T.CLOSE)
    assert not world.recovery.attempt_recovery()
    assert world.state is S.DISCONNECTED
    assert world.path[-1] == "close"
    assert len(world.dials) == 1


def test_a_connect_that_moves_the_state_itself() -> None:
    """As the seed's does: initialize and update_state within connect; nothing is fired twice."""
    world = World(REFUSED)

    def connect() -> None:
        world.tracker.initialize_connection("conn-124", "user-456", "wss://api.example.com")
        if len(world.dials) == 2:
            world.tracker.update_state(S.CONNECTED, message="Connected successfully")

    world.on_dial = connect
    assert world.recovery.handle_disconnection("WebSocket closed")
    assert world.path[-3:] == ["lost", "recover", "opened"]
    assert world.tracker.events[-1].type is E.RECONNECTED
    assert world.tracker.events[-1].message == "Connected successfully"
    assert world.tracker.events[-1].metadata == {"attempts": 2}


def test_a_connect_that_fails_after_it_moved_the_state() -> None:
    """The premature change is taken back, and the next attempt follows."""
    world = World(REFUSED, None)
    world.on_dial = lambda: world.tracker.update_state(S.CONNECTED)
    assert world.recovery.handle_disconnection("WebSocket closed")
    assert world.path[-5:] == ["recover", "opened", "lost", "recover", "opened"]
    assert world.state is S.CONNECTED


@pytest.mark.parametrize("error", [REFUSED, AuthenticationFailedError()])
def test_a_last_attempt_that_fails_after_it_moved_the_state(error: Exception) -> None:
    """The state does not stay connected: the attempts are used up, or no use."""
    world = World(error, max_attempts=1)
    world.on_dial = lambda: world.tracker.update_state(S.CONNECTED)
    assert not world.recovery.attempt_recovery()
    assert world.state is S.ERROR


# Re-entrant and concurrent calls


def test_a_connect_that_reports_its_own_failure() -> None:
    """The seed's connect calls handle_disconnection when it fails: recorded, and False at once."""
    world = World(REFUSED, None)
    results: list[bool] = []

    def connect() -> None:
        if len(world.dials) == 1:
            results.append(world.recovery.handle_disconnection("Connection failed", REFUSED))

    world.on_dial = connect
    assert world.recovery.handle_disconnection("WebSocket closed")
    assert results == [False]
    assert world.events == [
        E.DISCONNECTED,
        E.RECONNECTING,
        E.ERROR,
        E.RECONNECTING,
        E.RECONNECTED,
    ]
    assert len(world.dials) == 2


def test_a_recovery_within_itself_is_refused() -> None:
    """From connect or from a subscriber: an error is recorded, and False returned at once."""
    world = World()
    results: list[bool] = []
    world.on_dial = lambda: results.append(world.recovery.attempt_recovery())
    leave = world.tracker.subscribe(
        lambda event: (
            event.type is E.RECONNECTING and results.append(world.recovery.attempt_recovery())
        )
    )
    assert world.recovery.attempt_recovery()
    leave()
    assert results == [False, False]
    assert world.events.count(E.ERROR) == 2
    assert len(world.dials) == 1


@pytest.mark.parametrize("succeeds", [True, False])
def test_concurrent_calls_share_one_recovery(succeeds: bool) -> None:
    """Four threads ask during an attempt: all wait for the one under way and get its result."""
    world = World(None if succeeds else AuthenticationFailedError())
    results: list[bool] = []
    callers: list[threading.Thread] = []
    asked = threading.Semaphore(0)

    def ask(n: int) -> None:
        asked.release()
        if n % 2:
            results.append(world.recovery.attempt_recovery())
        else:
            results.append(world.recovery.handle_disconnection("seen as well"))

    def dial() -> None:
        assert world.recovery.is_recovering
        for n in range(4):
            callers.append(in_thread(lambda n=n: ask(n)))
        for _ in callers:
            assert asked.acquire(timeout=10)

    # They are in the recovery when they wait for its end.
    waiting = threading.Semaphore(0)
    world.on_dial = lambda: (dial(), [waiting.acquire(timeout=10) for _ in range(4)])

    class Done(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.release()
            return super().wait(timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunnel.connection_recovery.threading.Event", Done)
        results.append(world.recovery.attempt_recovery())
    for caller in callers:
        caller.join(10)
    assert results == [succeeds] * 5
    assert len(world.dials) == 1


def test_those_who_share_an_interrupted_recovery_get_false() -> None:
    """They are not left waiting."""
    world = World(KeyboardInterrupt())
    results: list[bool] = []
    entered = threading.Event()
    callers: list[threading.Thread] = []

    class Done(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            entered.set()
            return super().wait(timeout)

    def dial() -> None:
        callers.append(in_thread(lambda: results.append(world.recovery.attempt_recovery())))
        assert entered.wait(10)

    world.on_dial = dial
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunnel.connection_recovery.threading.Event", Done)
        with pytest.raises(KeyboardInterrupt):
            world.recovery.attempt_recovery()
    callers[0].join(10)
    assert results == [False]


def test_another_thread_cancels_a_real_wait_at_once() -> None:
    """On the system's clock a recovery that waits for an hour ends when it is called off."""
    tracker = ConnectionStateTracker()
    waiting = threading.Event()
    recovery = ConnectionRecovery(
        ReconnectionManager(base_delay=3600.0, max_delay=3600.0),
        tracker,
        pytest.fail,
        before_wait=lambda attempt: waiting.set(),
    )
    results: list[bool] = []
    thread = in_thread(lambda: results.append(recovery.attempt_recovery()))
    assert waiting.wait(10)
    assert recovery.cancel_recovery()
    thread.join(10)
    assert results == [False]
    assert tracker.state is S.DISCONNECTED


def test_a_cancel_before_the_first_wait_is_not_lost() -> None:
    """A subscriber that calls it off when it hears of the loss or of the first attempt."""
    for kind in (E.DISCONNECTED, E.RECONNECTING):
        world = World()

        def cancel(event: Any, kind: E = kind, world: World = world) -> None:
            if event.type is kind:
                world.recovery.cancel_recovery()

        world.tracker.subscribe(cancel)
        world.recovery.attempt_recovery()
        assert world.dials == []
        assert world.state is S.DISCONNECTED
        assert world.events.count(E.RECONNECTING) == (kind is E.RECONNECTING)


def test_a_recovery_that_was_cancelled_while_it_flushed_does_not_begin_again() -> None:
    """The link was there; it is lost again, and nobody wants another."""
    world = World()
    world.queue.enqueue("item")

    def send(item: Any) -> None:
        assert world.recovery.cancel_recovery()
        raise OSError("lost")

    world.on_send = send
    assert not world.recovery.attempt_recovery()
    assert world.path[-3:] == ["recover", "opened", "lost"]
    assert len(world.dials) == 1


# Flushing


@pytest.mark.requirement("1.4")
def test_the_queue_is_flushed_in_its_order() -> None:
    """High priority first; each item is confirmed after it was sent, while connected."""
    world = World()
    world.queue.enqueue("later", RequestPriority.LOW)
    world.queue.enqueue("first", RequestPriority.HIGH)
    sizes: list[int] = []
    states: set[S] = set()
    world.on_send = lambda item: (sizes.append(world.queue.size), states.add(world.state))
    assert world.recovery.handle_disconnection("WebSocket closed")
    assert world.sent == ["first", "later"]
    assert sizes == [2, 1]
    assert states == {S.CONNECTED}


def test_without_send_the_owner_flushes() -> None:
    """The queue is left alone, and still counted."""
    world = World(send=None)
    world.queue.enqueue("item")
    assert world.recovery.attempt_recovery()
    assert world.recovery.get_recovery_stats()["queued_requests"] == 1


@pytest.mark.requirement("1.4")
def test_a_send_that_fails_is_a_loss_and_loses_nothing() -> None:
    """What was taken goes first on the next link, and the delays go on growing."""
    world = World()
    for n in range(4):
        world.queue.enqueue(n)
    failures = [OSError("lost again"), OSError("and again")]

    def send(item: Any) -> None:
        if item == 2 and failures:
            raise failures.pop(0)

    world.on_send = send
    assert world.recovery.handle_disconnection("WebSocket closed")
    assert world.sent == [0, 1, 2, 3]
    assert world.dials == [2.0, 6.0, 14.0]
    assert world.path == ["connect", "opened"] + ["lost", "recover", "opened"] * 3
    lost = [event for event in world.tracker.events if event.type is E.DISCONNECTED]
    assert [event.message for event in lost[1:]] == ["the queue could not be flushed"] * 2


@pytest.mark.requirement("9.7")
def test_a_loss_while_flushing_is_recovered_from_only_automatically() -> None:
    """A recovery by hand, with automatic ones turned off, does not go on by itself."""
    world = World()
    world.tracker.auto_reconnect = False
    world.queue.enqueue("item")
    world.on_send = lambda item: 1 // 0
    assert not world.recovery.attempt_recovery()
    assert world.state is S.DISCONNECTED
    assert world.queue.size == 1


def test_a_message_that_can_never_be_sent_does_not_keep_it_going() -> None:
    """Links that take nothing count as failed attempts; the message stays in the queue."""
    world = World(max_attempts=3)
    for n in range(3):
        world.queue.enqueue(n)

    def send(item: Any) -> None:
        if item == 1:
            raise OSError("I choke on this")

    world.on_send = send
    assert not world.recovery.attempt_recovery()
    assert world.state is S.ERROR
    assert world.sent == [0]
    assert len(world.dials) == 4  # the first link took an item
    assert world.tracker.events[-1].metadata["error"]["code"] == "TUNNEL_014"
    assert world.queue.snapshot() == (1, 2)


def test_an_endless_policy_goes_on_with_links_that_take_nothing() -> None:
    """With max_attempts=None it never gives up, here until it is called off."""
    world = World(max_attempts=None)
    world.queue.enqueue("item")
    world.on_send = lambda item: 1 // 0
    world.at(5000.0, world.recovery.cancel_recovery)
    assert not world.recovery.attempt_recovery()
    assert len(world.dials) > 80


@pytest.mark.parametrize("reported", [False, True])
def test_a_send_that_fails_for_good_ends_it(reported: bool) -> None:
    """An error that trying again does not mend leads to error, also if send reported a loss."""
    world = World()
    world.queue.enqueue("item")

    def send(item: Any) -> None:
        if reported:
            assert not world.recovery.handle_disconnection("send failed")
        raise TypeError("not a message")

    world.on_send = send
    assert not world.recovery.attempt_recovery()
    assert world.state is S.ERROR
    assert world.queue.size == 1
    assert len(world.dials) == 1


def test_a_link_that_is_closed_while_it_is_flushed_is_not_failed() -> None:
    """The application has ended it; that the rest cannot be sent is no failure then."""
    world = World()
    world.queue.enqueue("item")

    def send(item: Any) -> None:
        world.tracker.fire(T.CLOSE)
        raise TypeError("not a message")

    world.on_send = send
    assert not world.recovery.attempt_recovery()
    assert world.state is S.CLOSING
    assert world.queue.size == 1


def test_the_loss_of_an_earlier_link_is_forgotten() -> None:
    """A link that was lost in a failed attempt is no reason to bring back a later, closed one."""
    world = World(REFUSED, None)
    world.queue.enqueue("item")

    def connect() -> None:
        if len(world.dials) == 1:
            world.tracker.update_state(S.CONNECTED)
            assert not world.recovery.handle_disconnection("lost within connect")

    world.on_dial = connect
    world.on_send = lambda item: (world.tracker.fire(T.CLOSE), world.tracker.fire(T.CLOSED))
    assert not world.recovery.attempt_recovery()
    assert world.path[-1] == "closed"
    assert len(world.dials) == 2


def test_an_interrupt_while_flushing_loses_nothing() -> None:
    """What was taken is back in the queue."""
    world = World()
    world.queue.enqueue("item")

    def send(item: Any) -> None:
        raise KeyboardInterrupt

    world.on_send = send
    with pytest.raises(KeyboardInterrupt):
        world.recovery.attempt_recovery()
    assert world.queue.take() == "item"
    assert world.state is S.CONNECTED
    assert not world.recovery.is_recovering


@pytest.mark.parametrize("auto_reconnect", [True, False])
def test_a_loss_that_is_noticed_by_another_thread_while_flushing(auto_reconnect: bool) -> None:
    """The reader sees the end of the link before the writer does: the flush ends and is redone."""
    world = World()
    for n in range(3):
        world.queue.enqueue(n)
    results: list[bool] = []
    readers: list[threading.Thread] = []
    noticed = threading.Event()
    world.tracker.subscribe(lambda event: event.message == "end of stream" and noticed.set())

    def send(item: Any) -> None:
        if item == 0:
            readers.append(
                in_thread(
                    lambda: results.append(
                        world.recovery.handle_disconnection("end of stream", None, auto_reconnect)
                    )
                )
            )
            assert noticed.wait(10)

    world.on_send = send
    assert world.recovery.attempt_recovery() is auto_reconnect
    readers[0].join(10)
    assert results == [auto_reconnect]
    assert world.state is (S.CONNECTED if auto_reconnect else S.DISCONNECTED)
    assert world.sent == ([0, 1, 2] if auto_reconnect else [0])
    assert len(world.dials) == (2 if auto_reconnect else 1)


# The network


@pytest.mark.requirement("1.8")
def test_the_network_comes_back_during_a_recovery() -> None:
    """Gone: the countdown stops. Back: an attempt at once, counted anew. Both are recorded."""
    world = World(REFUSED, None)
    world.at(3.0, lambda: world.recovery.handle_network_change(False))
    world.at(500.0, lambda: world.recovery.handle_network_change(True, "wifi"))
    assert world.recovery.handle_disconnection("WebSocket closed")
    assert world.dials == [2.0, 500.0]
    changes = [event for event in world.tracker.events if event.type is E.NETWORK_CHANGED]
    assert [(e.message, dict(e.metadata)) for e in changes] == [
        ("the network is gone", {"is_connected": False, "network_type": None}),
        ("the network is back", {"is_connected": True, "network_type": "wifi"}),
    ]
    attempts = [e.metadata["attempt"] for e in world.tracker.events if e.type is E.RECONNECTING]
    assert attempts == [1, 2, 1]
    assert world.tracker.events[-1].metadata == {"attempts": 1}


@pytest.mark.requirement("1.8")
def test_a_recovery_that_begins_without_a_network_waits_for_it() -> None:
    """What was heard of the network before the loss still counts."""
    world = World()
    assert world.recovery.handle_network_change(False)
    world.at(90.0, lambda: world.recovery.handle_network_change(True))
    assert world.recovery.handle_disconnection("WebSocket closed")
    assert world.dials == [90.0]


def test_a_recovery_by_hand_does_not_wait_for_the_network() -> None:
    """Whoever asks for it may know better than whoever watches the network."""
    world = World()
    world.recovery.handle_network_change(False)
    assert world.recovery.attempt_recovery()
    assert world.dials == [2.0]


@pytest.mark.requirement("1.8")
def test_the_network_comes_back_after_the_attempts_were_used_up() -> None:
    """A recovery begins with an attempt at once, in the calling thread."""
    world = World(REFUSED, max_attempts=1)
    world.recovery.handle_disconnection("WebSocket closed")
    assert world.state is S.ERROR
    world.clock.advance(3600)
    assert world.recovery.handle_network_change(True)
    assert world.dials == [2.0, 3602.0]
    assert world.state is S.CONNECTED


@pytest.mark.requirement("1.8")
@pytest.mark.parametrize("trigger", [T.LOST, T.DIAL_FAILED])
def test_the_network_comes_back_after_a_loss_that_nobody_recovered_from(trigger: T) -> None:
    """A connection that was lost, or never made, is brought back."""
    world = World(state=S.CONNECTED if trigger is T.LOST else S.CONNECTING)
    world.tracker.fire(trigger)
    assert world.recovery.handle_network_change(True)
    assert world.dials == [0.0]


@pytest.mark.parametrize(
    ("state", "triggers"),
    [
        (S.CONNECTED, [T.CLOSE, T.CLOSED]),
        (S.CONNECTED, [T.CLOSE, T.LOST]),
        (S.CONNECTING, [T.CANCEL]),
        (S.CONNECTED, [T.FAIL]),
        (S.CONNECTED, [T.CLOSE]),
        (S.DISCONNECTED, []),
    ],
)
def test_the_network_brings_nothing_back_that_was_ended(state: S, triggers: list[T]) -> None:
    """Closed, called off, failed for good, or never asked for: the network does not matter."""
    world = World(state=state)
    for trigger in triggers:
        world.tracker.fire(trigger)
    assert not world.recovery.handle_network_change(True)
    assert world.dials == []


@pytest.mark.requirement("9.7")
def test_the_network_starts_nothing_if_recovery_is_turned_off() -> None:
    """Automatic is automatic."""
    world = World()
    world.tracker.fire(T.LOST)
    world.tracker.auto_reconnect = False
    assert not world.recovery.handle_network_change(True)
    assert world.dials == []


def test_a_network_change_while_connected_changes_nothing() -> None:
    """The link may well survive; whether it does, the heartbeat finds out."""
    world = World()
    assert world.recovery.handle_network_change(False)
    assert world.recovery.handle_network_change(True)
    assert world.path == ["connect", "opened"]


@pytest.mark.requirement("1.8")
def test_the_network_comes_back_in_the_last_moment() -> None:
    """After the last attempt has failed and before the recovery is over: it begins again."""
    world = World(REFUSED, None, max_attempts=1)
    world.tracker.subscribe(
        lambda event: event.type is E.ERROR and world.recovery.handle_network_change(True)
    )
    assert world.recovery.handle_disconnection("WebSocket closed")
    assert world.dials == [2.0, 2.0]
    assert world.path[-3:] == ["exhausted", "recover", "opened"]


def test_the_network_goes_in_the_last_moment() -> None:
    """That is no reason to begin again."""
    world = World(REFUSED, max_attempts=1)
    world.tracker.subscribe(
        lambda event: event.type is E.ERROR and world.recovery.handle_network_change(False)
    )
    assert not world.recovery.handle_disconnection("WebSocket closed")
    assert len(world.dials) == 1


def test_the_network_that_came_back_counts_once() -> None:
    """It begins the attempts anew; when those are used up, the recovery is over."""
    world = World(*[REFUSED] * 10, max_attempts=2)
    world.at(3.0, lambda: world.recovery.handle_network_change(True))
    assert not world.recovery.handle_disconnection("WebSocket closed")
    assert world.dials == [2.0, 3.0, 7.0]
    assert world.state is S.ERROR


def test_the_network_comes_back_when_it_is_no_use() -> None:
    """Wrong credentials stay wrong."""
    world = World(AuthenticationFailedError())
    world.tracker.subscribe(
        lambda event: event.type is E.ERROR and world.recovery.handle_network_change(True)
    )
    assert not world.recovery.handle_disconnection("WebSocket closed")
    assert len(world.dials) == 1


def test_a_network_that_goes_and_comes_in_callbacks() -> None:
    """What subscribers and before_wait report about the network holds for the wait to come."""
    reports = deque([False, True])

    def before_wait(attempt: ReconnectionAttempt) -> None:
        if reports:
            world.recovery.handle_network_change(reports.popleft())
            world.at(70.0, lambda: world.recovery.handle_network_change(True))

    world = World(before_wait=before_wait)
    assert world.recovery.attempt_recovery()
    assert world.dials == [70.0]


def test_the_network_changes_whenever_it_likes() -> None:
    """Real threads: however the reports fall, the last one (back) lets the recovery succeed."""
    for _ in range(20):
        recovery = ConnectionRecovery(
            ReconnectionManager(base_delay=3600, max_delay=3600),
            ConnectionStateTracker(),
            lambda: None,
        )
        results: list[bool] = []
        started = threading.Barrier(2)

        def report(recovery: ConnectionRecovery = recovery, start: Any = started) -> None:
            start.wait(10)
            while not recovery.is_recovering:
                pass
            for is_connected in (False, True, False, True):
                recovery.handle_network_change(is_connected)

        reporter = in_thread(report)
        thread = in_thread(
            lambda recovery=recovery, start=started, results=results: (
                start.wait(10),
                results.append(recovery.attempt_recovery()),
            )
        )
        thread.join(10)
        reporter.join(10)
        assert results == [True]


# Testing, watching, telling


def test_a_connection_is_tested_by_a_ping() -> None:
    """True only if the peer answers in time; the result is recorded as a health check."""
    answers: deque[Any] = deque([True, False, OSError("broken pipe")])
    timeouts: list[float] = []

    def ping(timeout: float) -> bool:
        timeouts.append(timeout)
        answer = answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    world = World(ping=ping)
    assert [world.recovery.test_connection() for _ in range(2)] == [True, False]
    assert not world.recovery.test_connection(0.5)
    assert timeouts == [5.0, 5.0, 0.5]
    assert world.events == [E.HEALTH_CHECK] * 3
    checks = world.tracker.events[-3:]
    assert [event.metadata["healthy"] for event in checks] == [True, False, False]
    assert "broken pipe" in checks[2].message


def test_a_link_that_is_not_there_is_not_tested() -> None:
    """It is unhealthy, without a ping."""
    world = World(state=S.DISCONNECTED, ping=pytest.fail)
    assert not world.recovery.test_connection()
    assert world.tracker.events[-1].message == "not tested: disconnected"


def test_nothing_can_be_tested_without_a_ping() -> None:
    """A recovery that was given none says so, and does not guess."""
    with pytest.raises(RuntimeError, match="ping="):
        World().recovery.test_connection()


@pytest.mark.requirement("1.5")
def test_the_statistics_of_the_seed() -> None:
    """Exactly the keys that are promised, ready for JSON, in the midst of a recovery and after."""
    world = World(REFUSED, REFUSED)
    world.queue.enqueue("item")
    seen: list[dict[str, Any]] = []
    world.at(3.0, lambda: seen.append(world.recovery.get_recovery_stats()))
    assert world.recovery.handle_disconnection("WebSocket closed")
    seen.append(world.recovery.get_recovery_stats())
    assert json.loads(json.dumps(seen)) == [
        {
            "is_recovering": True,
            "reconnect_attempts": 2,
            "current_attempt": 2,
            "max_attempts": 10,
            "last_attempt_time": datetime(2026, 1, 1, 0, 0, 2, tzinfo=timezone.utc).isoformat(),
            "connection_state": "reconnecting",
            "queued_requests": 1,
        },
        {
            "is_recovering": False,
            "reconnect_attempts": 0,
            "current_attempt": 0,
            "max_attempts": 10,
            "last_attempt_time": datetime(2026, 1, 1, 0, 0, 14, tzinfo=timezone.utc).isoformat(),
            "connection_state": "connected",
            "queued_requests": 0,
        },
    ]


def test_statistics_before_anything_happened_and_without_a_queue() -> None:
    """Zeros and Nones."""
    recovery = ConnectionRecovery(ReconnectionManager(None), ConnectionStateTracker(), lambda: None)
    assert recovery.get_recovery_stats() == {
        "is_recovering": False,
        "reconnect_attempts": 0,
        "current_attempt": 0,
        "max_attempts": None,
        "last_attempt_time": None,
        "connection_state": "disconnected",
        "queued_requests": 0,
    }


@pytest.mark.requirement("1.5")
def test_the_owner_is_told_of_each_attempt() -> None:
    """After it was recorded, before it is waited for; what the owner raises is harmless."""
    told: list[tuple[int, int]] = []

    def before_wait(attempt: ReconnectionAttempt) -> None:
        told.append((attempt.attempt, world.tracker.reconnect_attempts))
        raise ZeroDivisionError

    world = World(REFUSED, before_wait=before_wait, max_attempts=None)
    logged: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lambda message: logged.append(str(message)), level="ERROR")
    try:
        assert world.recovery.attempt_recovery()
    finally:
        logger.remove(sink)
        logger.disable("tunnel")
    assert told == [(1, 1), (2, 2)]
    assert len(logged) == 2
    assert world.tracker.events[-2].message.startswith("attempt 2 in 4.0 s: ")


def test_effects_that_raise_end_the_recovery() -> None:
    """A callback of the machine that fails is a fault of the program: it is not hidden."""

    class Failing(StateEffects):
        def on_enter_connected(self, **data: Any) -> None:
            raise ZeroDivisionError

    clock = FakeClock()
    tracker = ConnectionStateTracker(clock=clock, effects=Failing())
    recovery = ConnectionRecovery(ReconnectionManager(clock=clock), tracker, lambda: None)
    with pytest.raises(ZeroDivisionError):
        recovery.attempt_recovery()
    assert not recovery.is_recovering


@pytest.mark.requirement("1.2")
def test_a_week_of_a_flapping_network() -> None:
    """Hundreds of losses: the history obeys the table, and every message goes out once."""
    world = World()
    expected = []
    number = 0
    while world.clock.monotonic() < 7 * 86400:
        number += 1
        world.queue.enqueue(number)
        expected.append(number)
        world.answers.extend([REFUSED] * (number % 5))
        assert world.recovery.handle_disconnection("flap", ConnectionLostError())
        world.clock.advance(number * 37 % 1800)
        assert world.path
    assert number > 500
    assert world.sent == expected
    assert len(world.tracker.events) == 100
