from __future__ import annotations

import gc
import json
import threading
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine import InvalidTransition, replay
from tunnel.connection_state_tracker import (
    ConnectionStateTracker,
    StateEffects,
    TunnelConnection,
)
from tunnel.errors import ConnectionLostError, TunnelError
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState, TunnelTrigger
from tunnel.testing import FakeClock

S = TunnelConnectionState
T = TunnelTrigger
E = ConnectionEventType
START = datetime(2026, 1, 1, tzinfo=timezone.utc)

# How to get to each state, in full.
PATHS: dict[S, list[S]] = {
    S.DISCONNECTED: [],
    S.CONNECTING: [S.CONNECTING],
    S.CONNECTED: [S.CONNECTING, S.CONNECTED],
    S.RECONNECTING: [S.CONNECTING, S.CONNECTED, S.DISCONNECTED, S.RECONNECTING],
    S.CLOSING: [S.CONNECTING, S.CONNECTED, S.CLOSING],
    S.ERROR: [S.CONNECTING, S.ERROR],
}


def tracker_in(state: S, **arguments: Any) -> ConnectionStateTracker:
    tracker = ConnectionStateTracker(**{"clock": FakeClock(), **arguments})
    tracker.initialize_connection("conn-123", "user-456", "wss://api.example.com")
    for step in PATHS[state][1:] if state is not S.DISCONNECTED else [S.DISCONNECTED]:
        tracker.update_state(step)
    return tracker


def kinds(tracker: ConnectionStateTracker) -> list[E]:
    return [event.type for event in tracker.events]


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# The seed's example


@pytest.mark.requirement("11.5", "6.10")
def test_the_example_of_the_seed() -> None:
    """Initialize, connect, listen, look at the statistics: as the seed shows it."""
    clock = FakeClock()
    tracker = ConnectionStateTracker(max_event_history=100, clock=clock)
    heard: list[str] = []
    tracker.subscribe(lambda event: heard.append(f"Event: {event.type.value} - {event.message}"))

    tracker.initialize_connection(id="conn-123", user_id="user-456", server_url="wss://a.example")
    assert tracker.state is S.CONNECTING
    tracker.update_state(S.CONNECTED, message="Connected successfully")
    clock.advance(12.5)

    assert tracker.state is S.CONNECTED
    assert heard == ["Event: connecting - connecting", "Event: connected - Connected successfully"]
    assert tracker.uptime == 12.5
    assert tracker.reconnect_attempts == 0
    connection = tracker.connection
    assert connection is not None
    assert (connection.id, connection.user_id) == ("conn-123", "user-456")
    assert connection.server_url == "wss://a.example"
    assert connection.connected_at == START
    assert connection.state is S.CONNECTED


# States


def test_a_new_tracker_is_disconnected_and_knows_nothing() -> None:
    """Before anything has happened there is no connection, no event, no uptime."""
    tracker = ConnectionStateTracker()
    assert tracker.state is S.DISCONNECTED
    assert tracker.connection is None
    assert tracker.events == ()
    assert tracker.uptime == 0.0
    assert tracker.reconnect_attempts == 0
    assert tracker.auto_reconnect is True
    tracker.touch()


@pytest.mark.parametrize("source", S)
@pytest.mark.parametrize("dest", S)
def test_update_state_obeys_the_table(source: S, dest: S) -> None:
    """Every pair of states: a row leads there, or it is refused and nothing changes."""
    tracker = tracker_in(source)
    before = tracker.events
    trigger = LIFECYCLE.trigger_between(source, dest)
    if source is dest or trigger is not None:
        tracker.update_state(dest, "message", {"fact": 1})
        assert tracker.state is dest
        assert len(tracker.events) == len(before) + 1
        assert tracker.events[-1].message == "message"
        assert tracker.events[-1].metadata["fact"] == 1
        if source is not dest:
            assert tracker.machine.history[-1].trigger == trigger
    else:
        with pytest.raises(InvalidTransition, match=f"{dest.value}.*illegal.*{source.value}"):
            tracker.update_state(dest)
        assert tracker.state is source
        assert tracker.events == before
    assert replay(LIFECYCLE, tracker.machine.history)


def test_the_present_state_again_is_only_an_event() -> None:
    """No transition is made, so the link's times go on; the event is recorded."""
    tracker = tracker_in(S.CONNECTED)
    records = tracker.machine.history
    tracker.update_state(S.CONNECTED)
    tracker.update_state("connected", "still there")  # type: ignore[arg-type] # its value will do
    assert tracker.machine.history == records
    assert [(e.type, e.message) for e in tracker.events[-2:]] == [
        (E.CONNECTED, "connected"),
        (E.CONNECTED, "still there"),
    ]


def test_there_are_no_other_states() -> None:
    """A state that is none is refused."""
    with pytest.raises(ValueError, match="sleeping"):
        ConnectionStateTracker().update_state("sleeping")  # type: ignore[arg-type]


@pytest.mark.requirement("9.7")
def test_automatic_recovery_can_be_turned_off() -> None:
    """Then only a recovery that is asked for by hand may begin."""
    tracker = tracker_in(S.DISCONNECTED)
    tracker.auto_reconnect = False
    assert not tracker.fire(T.RECOVER)
    assert tracker.state is S.DISCONNECTED
    assert tracker.fire(T.RECOVER, manual=True)
    assert tracker.state is S.RECONNECTING
    tracker = tracker_in(S.DISCONNECTED)
    assert tracker.fire(T.RECOVER)
    tracker = tracker_in(S.DISCONNECTED)
    tracker.auto_reconnect = False
    tracker.update_state(S.RECONNECTING)
    assert tracker.state is S.RECONNECTING


def test_fire_tells_ignored_from_illegal() -> None:
    """Ignored is False; illegal raises; neither records anything."""
    tracker = tracker_in(S.DISCONNECTED)
    before = tracker.events
    assert tracker.fire(T.LOST) is False
    with pytest.raises(InvalidTransition):
        tracker.fire(T.OPENED)
    assert tracker.events == before


# Events of changes


@pytest.mark.requirement("1.2", "11.5")
def test_each_change_is_one_event() -> None:
    """Through a whole life: one event for each change, of the type that the table names."""
    tracker = ConnectionStateTracker(clock=FakeClock())
    tracker.initialize_connection("id", "user", "wss://a.example")
    for trigger in (
        T.OPENED, T.LOST, T.RECOVER, T.OPENED, T.LOST, T.RECOVER, T.EXHAUSTED, T.CONNECT,
        T.OPENED, T.CLOSE, T.CLOSED,
    ):  # fmt: skip
        assert tracker.fire(trigger)
    assert kinds(tracker) == [
        E.CONNECTING,
        E.CONNECTED,
        E.DISCONNECTED,
        E.RECONNECTING,
        E.RECONNECTED,
        E.DISCONNECTED,
        E.RECONNECTING,
        E.ERROR,
        E.CONNECTING,
        E.CONNECTED,
        E.CLOSING,
        E.DISCONNECTED,
    ]
    assert len(tracker.machine.history) == len(tracker.events)


def test_events_say_when() -> None:
    """The timestamp is the clock's, in UTC, frozen time included."""
    with freeze_time("2026-07-01 08:00:00") as frozen:
        tracker = ConnectionStateTracker(clock=FakeClock())
        frozen.tick(timedelta(seconds=1.5))
        tracker.record_config_change()
        moment = datetime(2026, 7, 1, 8, 0, 1, 500000, tzinfo=timezone.utc)
        assert tracker.events[0].timestamp == moment == datetime.now(timezone.utc)


def test_message_metadata_and_error_go_into_the_event() -> None:
    """What the trigger was fired with is recorded; the error in full, under its own key."""
    tracker = tracker_in(S.CONNECTED)
    error = ConnectionLostError("reset by peer", close_code=1006)
    tracker.fire(T.LOST, error=error, metadata={"bytes": 17})
    event = tracker.events[-1]
    assert event.message == "reset by peer"
    assert event.metadata == {"error": error.to_dict(), "bytes": 17}
    tracker.fire(T.RECOVER, message="again")
    assert tracker.events[-1].message == "again"


def test_entering_reconnecting_has_the_keys_of_its_attempts() -> None:
    """RECONNECTING always has attempt, max_attempts and delay; what is given wins."""
    tracker = tracker_in(S.DISCONNECTED)
    tracker.update_state(S.RECONNECTING, metadata={"attempt": 2, "other": True})
    assert tracker.events[-1].metadata == {
        "attempt": 2,
        "max_attempts": None,
        "delay": 0.0,
        "other": True,
    }


def test_reconnected_says_how_many_attempts_it_took() -> None:
    """The attempts are in the event, and counted anew after it."""
    tracker = tracker_in(S.RECONNECTING)
    for _ in range(3):
        tracker.increment_reconnect_attempts()
    tracker.update_state(S.CONNECTED)
    assert tracker.events[-1].type is E.RECONNECTED
    assert tracker.events[-1].metadata == {"attempts": 3}
    assert tracker.reconnect_attempts == 0


def test_a_quiet_change_records_nothing() -> None:
    """Whoever fires quietly records a better event."""
    tracker = tracker_in(S.DISCONNECTED)
    before = tracker.events
    assert tracker.fire(T.RECOVER, quiet=True)
    assert tracker.state is S.RECONNECTING
    assert tracker.events == before
    assert tracker.connection is not None
    assert tracker.connection.state is S.RECONNECTING


@pytest.mark.parametrize("how", ["fire", "update_state", "update_state again"])
def test_bad_metadata_is_refused_before_anything_changes(how: str) -> None:
    """Metadata that JSON cannot hold is an error at the call, and the state stays."""
    tracker = tracker_in(S.CONNECTED)
    before = tracker.to_json()
    bad = {"socket": object()}
    call: dict[str, Callable[[], object]] = {
        "fire": lambda: tracker.fire(T.LOST, metadata=bad),
        "update_state": lambda: tracker.update_state(S.DISCONNECTED, metadata=bad),
        "update_state again": lambda: tracker.update_state(S.CONNECTED, metadata=bad),
    }
    with pytest.raises(TypeError, match="socket"):
        call[how]()
    assert tracker.state is S.CONNECTED
    assert tracker.to_json() == before


def test_errors_in_histories_hold_nothing_else_alive() -> None:
    """The record of a change has the error without its traceback and causes."""
    tracker = tracker_in(S.CONNECTED)
    with pytest.raises(ConnectionLostError) as caught:
        raise ConnectionLostError("lost", close_code=1006) from ConnectionResetError("gone")
    tracker.fire(T.LOST, error=caught.value)
    kept = tracker.machine.history[-1].data["error"]
    assert isinstance(kept, ConnectionLostError)
    assert kept.to_dict() == caught.value.to_dict()
    assert kept.close_code == 1006
    assert kept.__traceback__ is kept.__cause__ is kept.__context__ is None
    assert caught.value.__traceback__ is not None


def test_any_exception_is_taken_for_an_error() -> None:
    """Exceptions of others are translated."""
    tracker = tracker_in(S.CONNECTED)
    tracker.fire(T.LOST, error=ConnectionResetError("gone"))
    assert tracker.events[-1].metadata["error"]["code"] == "TUNNEL_021"


# The connection


def test_times_of_a_connection() -> None:
    """The link's times begin with it; a loss ends the uptime and keeps when it came up."""
    clock = FakeClock()
    tracker = ConnectionStateTracker(clock=clock)
    tracker.initialize_connection("id", "user", "wss://a.example")
    connection = tracker.connection
    assert connection == TunnelConnection("id", "user", "wss://a.example", state=S.CONNECTING)
    clock.advance(1)
    tracker.update_state(S.CONNECTED)
    assert connection.connected_at == connection.last_activity_at == START + timedelta(seconds=1)
    clock.advance(5)
    tracker.touch()
    assert connection.last_activity_at == START + timedelta(seconds=6)
    assert tracker.uptime == 5.0
    tracker.update_state(S.DISCONNECTED)
    assert tracker.uptime == 0.0
    assert connection.state is S.DISCONNECTED
    assert connection.connected_at == START + timedelta(seconds=1)
    tracker.update_state(S.RECONNECTING)
    clock.advance(4)
    tracker.update_state(S.CONNECTED)
    assert connection.connected_at == START + timedelta(seconds=10)
    assert tracker.uptime == 0.0
    connection.last_activity_at = START  # as the seed's message handler sets it
    assert tracker.connection is connection


def test_the_link_is_up_only_while_connected() -> None:
    """While it is closed the uptime is over."""
    clock = FakeClock()
    tracker = tracker_in(S.CONNECTED, clock=clock)
    clock.advance(3)
    tracker.update_state(S.CLOSING)
    assert tracker.uptime == 0.0


def test_credentials_in_the_address_are_not_kept() -> None:
    """Neither in the connection nor in its JSON."""
    tracker = ConnectionStateTracker()
    tracker.initialize_connection("id", "user", "wss://me:geheim@a.example/path?token=geheim")
    assert tracker.connection is not None
    assert "a.example/path" in tracker.connection.server_url
    assert "geheim" not in tracker.connection.server_url + tracker.to_json()


@pytest.mark.requirement("1.2")
@pytest.mark.parametrize("state", [S.CONNECTED, S.RECONNECTING])
def test_a_connection_keeps_its_times_when_it_is_named_anew(state: S) -> None:
    """As when connect is called again within a recovery: the state stays, and what is known."""
    clock = FakeClock()
    tracker = tracker_in(state, clock=clock)
    tracker.increment_reconnect_attempts()
    clock.advance(1)
    tracker.initialize_connection("conn-124", "user-456", "wss://b.example")
    assert tracker.state is state
    assert tracker.connection == TunnelConnection(
        "conn-124", "user-456", "wss://b.example", START, START, state, 1
    )


def test_a_new_connection_begins_anew() -> None:
    """After the end of one connection the next one has no times yet."""
    tracker = tracker_in(S.ERROR)
    tracker.initialize_connection("conn-124", "user-456", "wss://b.example")
    assert tracker.state is S.CONNECTING
    assert tracker.connection == TunnelConnection(
        "conn-124", "user-456", "wss://b.example", state=S.CONNECTING
    )


def test_a_connection_that_is_being_closed_is_not_replaced() -> None:
    """The call is refused, and the old connection stays."""
    tracker = tracker_in(S.CLOSING)
    before = tracker.connection
    with pytest.raises(InvalidTransition):
        tracker.initialize_connection("other", "user", "wss://b.example")
    assert tracker.connection is before


def test_attempts_are_counted() -> None:
    """By one, and from 0 again; the connection shows the same, and need not be there."""
    tracker = ConnectionStateTracker()
    tracker.increment_reconnect_attempts()
    assert tracker.reconnect_attempts == 1
    tracker = tracker_in(S.RECONNECTING)
    connection = tracker.connection
    assert connection is not None
    tracker.increment_reconnect_attempts()
    tracker.increment_reconnect_attempts()
    assert tracker.reconnect_attempts == connection.reconnect_attempts == 2
    tracker.reset_reconnect_attempts()
    assert tracker.reconnect_attempts == connection.reconnect_attempts == 0


# Recording


def test_health_checks_and_configuration_changes_are_recorded() -> None:
    """With a message of their own or a plain one, and facts."""
    tracker = ConnectionStateTracker()
    tracker.record_health_check(True)
    tracker.record_health_check(False)
    tracker.record_health_check(True, "pong in 12 ms")
    tracker.record_config_change()
    tracker.record_config_change("faster", {"ping_interval": 10})
    assert [(e.type.value, e.message, dict(e.metadata)) for e in tracker.events] == [
        ("health_check", "the link answers", {"healthy": True}),
        ("health_check", "the link does not answer", {"healthy": False}),
        ("health_check", "pong in 12 ms", {"healthy": True}),
        ("config_changed", "the configuration was updated", {}),
        ("config_changed", "faster", {"ping_interval": 10}),
    ]


def test_errors_are_recorded_with_their_full_context() -> None:
    """Whatever kind of exception: code, category, texts and context, ready for JSON."""
    tracker = ConnectionStateTracker()
    tracker.record_error(ConnectionLostError("lost", close_code=1006))
    tracker.record_error(OSError("strange"))
    first, second = tracker.events
    assert first.type is second.type is E.ERROR
    assert first.message == "lost"
    assert first.metadata["error"]["context"]["close_code"] == 1006
    assert second.metadata["error"] == TunnelError.from_exception(OSError("strange")).to_dict()


def test_events_of_ones_own_are_recorded() -> None:
    """An event is taken as it is; what is none is refused."""
    tracker = ConnectionStateTracker()
    event = ConnectionEvent(E.SESSION_LOST, START, "gone", {"unacknowledged": 3})
    tracker.record_event(event)
    assert tracker.events == (event,)
    with pytest.raises(TypeError, match="ConnectionEvent"):
        tracker.record_event("gone")  # type: ignore[arg-type]


def test_the_history_is_bounded() -> None:
    """A hundred events by default; another bound on demand; none at all with 0."""
    tracker, short, none = (ConnectionStateTracker(*n) for n in ((), (2,), (0,)))
    for n in range(150):
        for each in (tracker, short, none):
            each.record_config_change(str(n))
    assert [e.message for e in tracker.events] == [str(n) for n in range(50, 150)]
    assert [e.message for e in short.events] == ["148", "149"]
    assert none.events == ()


@pytest.mark.parametrize(
    ("bound", "error"), [(-1, ValueError), (2.5, TypeError), (True, TypeError), (None, TypeError)]
)
def test_an_absurd_bound_is_refused(bound: Any, error: type[Exception]) -> None:
    """The text names the argument."""
    with pytest.raises(error, match="max_event_history"):
        ConnectionStateTracker(bound)


# Subscribers


def test_subscribers_are_told_after_the_change_is_complete() -> None:
    """When a subscriber is called, no lock is held: it, or another thread, may change the state."""
    tracker = ConnectionStateTracker(clock=FakeClock())
    seen: list[tuple[E, S]] = []

    def subscriber(event: ConnectionEvent) -> None:
        seen.append((event.type, tracker.state))
        if event.type is E.CONNECTING:
            other = in_thread(lambda: tracker.update_state(S.CONNECTED))
            other.join(10)
            assert not other.is_alive()

    tracker.subscribe(subscriber)
    tracker.initialize_connection("id", "user", "wss://a.example")
    assert seen == [(E.CONNECTING, S.CONNECTING), (E.CONNECTED, S.CONNECTED)]


def test_events_of_a_refused_change_are_told_as_well() -> None:
    """What a callback recorded before the change failed is not forgotten."""

    class Failing(StateEffects):
        def on_exit_disconnected(self, **data: Any) -> None:
            tracker.record_config_change("tried")
            raise ZeroDivisionError

    tracker = ConnectionStateTracker(effects=Failing())
    heard: list[str] = []
    tracker.subscribe(lambda event: heard.append(event.message))
    with pytest.raises(ZeroDivisionError):
        tracker.fire(T.CONNECT)
    assert heard == ["tried"]
    assert tracker.state is S.DISCONNECTED


def test_unsubscribing_and_streams() -> None:
    """A subscription ends; a stream has what happens from now on, and ends."""
    tracker = ConnectionStateTracker()
    heard: list[ConnectionEvent] = []
    leave = tracker.subscribe(heard.append)
    tracker.record_config_change("a")
    with tracker.event_stream() as stream:
        leave()
        tracker.record_config_change("b")
    assert [e.message for e in heard] == ["a"]
    assert [e.message for e in stream] == ["b"]


# Effects


def test_the_callbacks_drive_the_effects() -> None:
    """Each change calls the effects of the state left and the one entered, with the data."""
    calls: list[tuple[str, dict[str, Any]]] = []

    class Effects(StateEffects):
        def on_exit_disconnected(self, **data: Any) -> None:
            calls.append(("exit disconnected", data))
            assert tracker.state is S.DISCONNECTED

        def on_enter_connecting(self, **data: Any) -> None:
            calls.append(("enter connecting", data))
            assert tracker.state is S.CONNECTING
            assert tracker.events[-1].type is E.CONNECTING

    tracker = ConnectionStateTracker(effects=Effects())
    tracker.fire(T.CONNECT, extra=1)
    assert calls == [("exit disconnected", {"extra": 1}), ("enter connecting", {"extra": 1})]


def test_effects_may_fire_the_next_trigger() -> None:
    """Entering a state can lead on at once; the events stand in the order of the changes."""

    class Hasty(StateEffects):
        def on_enter_connecting(self, **data: Any) -> None:
            tracker.fire(T.OPENED)

    tracker = ConnectionStateTracker(effects=Hasty())
    heard: list[E] = []
    tracker.subscribe(lambda event: heard.append(event.type))
    tracker.fire(T.CONNECT)
    assert tracker.state is S.CONNECTED
    assert heard == [E.CONNECTING, E.CONNECTED]


def test_effects_that_raise_on_leaving_leave_everything_as_it_was() -> None:
    """The link stays up, with its times."""

    class Clinging(StateEffects):
        def on_exit_connected(self, **data: Any) -> None:
            raise OSError("no")

    clock = FakeClock()
    tracker = tracker_in(S.CONNECTED, effects=Clinging(), clock=clock)
    clock.advance(2)
    before = tracker.events
    with pytest.raises(OSError, match="no"):
        tracker.fire(T.LOST)
    assert tracker.state is S.CONNECTED
    assert tracker.uptime == 2.0
    assert tracker.events == before


def test_the_state_can_be_read_at_any_time() -> None:
    """Also by another thread in the middle of a callback, without waiting for it."""
    seen: list[S] = []

    class Slow(StateEffects):
        def on_enter_connecting(self, **data: Any) -> None:
            reader = in_thread(lambda: seen.append(tracker.state))
            reader.join(10)
            assert seen == [S.CONNECTING]

    tracker = ConnectionStateTracker(effects=Slow())
    tracker.fire(T.CONNECT)


def test_two_threads_cannot_win_the_same_change() -> None:
    """Of many threads that fire one trigger, one makes the change; the others are told no."""
    for _ in range(50):
        tracker = tracker_in(S.CONNECTED)
        barrier = threading.Barrier(4)
        results: list[bool] = []

        def lose() -> None:
            barrier.wait(10)  # noqa: B023 # used within the turn
            results.append(tracker.fire(T.LOST))  # noqa: B023

        threads = [in_thread(lose) for _ in range(4)]
        for thread in threads:
            thread.join(10)
        assert sorted(results) == [False, False, False, True]
        assert kinds(tracker).count(E.DISCONNECTED) == 1


# JSON


def full_tracker(state: S, clock: FakeClock) -> ConnectionStateTracker:
    tracker = tracker_in(state, clock=clock, max_event_history=20)
    clock.advance(1.25)
    tracker.touch()
    tracker.auto_reconnect = False
    tracker.increment_reconnect_attempts()
    tracker.record_error(ConnectionLostError("lost", close_code=1006))
    tracker.record_config_change("ünïcode 🙂", {"nested": {"list": [1, 2.5, None, True]}})
    return tracker


@pytest.mark.requirement("1.2")
@pytest.mark.parametrize("state", S)
def test_everything_survives_json(state: S) -> None:
    """Out and in again: state, attempts, connection, events and settings are the same."""
    clock = FakeClock()
    tracker = full_tracker(state, clock)
    text = tracker.to_json()
    json.loads(text, parse_constant=pytest.fail)
    again = ConnectionStateTracker.from_json(text, clock=clock)
    assert again.state is tracker.state
    assert again.machine.state == state.value
    assert again.connection == tracker.connection
    assert again.connection is not tracker.connection
    assert again.events == tracker.events
    assert again.reconnect_attempts == tracker.reconnect_attempts
    assert again.auto_reconnect is False
    assert again.uptime == pytest.approx(tracker.uptime, abs=1e-5)
    assert again.to_json() == text
    for n in range(30):
        again.record_config_change(str(n))
    assert len(again.events) == 20


def test_an_empty_tracker_survives_json() -> None:
    """Without a connection there is none afterwards, even if the state says connected."""
    again = ConnectionStateTracker.from_json(ConnectionStateTracker().to_json())
    assert again.connection is None
    assert again.events == ()
    tracker = ConnectionStateTracker(clock=FakeClock())
    tracker.fire(T.CONNECT)
    tracker.fire(T.OPENED)
    again = ConnectionStateTracker.from_json(tracker.to_json(), clock=FakeClock())
    assert again.state is S.CONNECTED
    assert again.connection is None
    assert again.uptime == 0.0


def test_a_restored_tracker_runs_no_callbacks_and_goes_on() -> None:
    """Nothing happens while it is restored; the next trigger finds the saved state."""
    calls: list[str] = []

    class Effects(StateEffects):
        def on_enter_connected(self, **data: Any) -> None:
            calls.append("connected")

        def on_exit_reconnecting(self, **data: Any) -> None:
            calls.append("left")

    text = tracker_in(S.RECONNECTING).to_json()
    again = ConnectionStateTracker.from_json(text, clock=FakeClock(), effects=Effects())
    assert calls == []
    assert again.machine.history == ()
    again.fire(T.OPENED)
    assert calls == ["left", "connected"]
    assert again.events[-1].type is E.RECONNECTED
    assert replay(LIFECYCLE, again.machine.history)


@given(st.lists(st.sampled_from(TunnelTrigger), max_size=30))
@settings(deadline=None)
def test_any_sequence_of_triggers_is_tracked(triggers: list[T]) -> None:
    """Whatever is fired: events and connection match the machine, its history obeys the table."""
    tracker = ConnectionStateTracker(clock=FakeClock())
    tracker.initialize_connection("id", "user", "wss://a.example")
    for trigger in triggers:
        before = tracker.state, len(tracker.events)
        try:
            changed = tracker.fire(trigger)
        except InvalidTransition:
            changed = False
        assert len(tracker.events) == before[1] + changed
        assert changed or tracker.state is before[0]
        assert tracker.connection is not None
        assert tracker.connection.state is tracker.state
        assert (tracker._up_since is not None) == (tracker.state is S.CONNECTED)
    assert replay(LIFECYCLE, tracker.machine.history)
    assert ConnectionStateTracker.from_json(tracker.to_json()).events == tracker.events


# Cost


def test_an_idle_tracker_is_small() -> None:
    """A connected tracker takes a few KiB."""
    tracker_in(S.CONNECTED)  # what all share is made now
    clock = FakeClock()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [tracker_in(S.CONNECTED, clock=clock) for _ in range(50)]
        each = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    finally:
        tracemalloc.stop()
    assert each < 8 * 1024
