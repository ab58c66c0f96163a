"""The connection's life as it happens: the model of its machine, and what is remembered of it.

There is one machine for a connection (`tunnel.lifecycle`), and the tracker is its model: the
machine's callbacks arrive here, are recorded as events, and go on to the `StateEffects` of whoever
drives the connection. Alone, without effects, the tracker is told what happens by `update_state`.

Each change of state is recorded as one event:

=================  ==================  ==========================================================
entered            coming from         event
=================  ==================  ==========================================================
``connecting``     anywhere            ``CONNECTING``
``connected``      ``connecting``      ``CONNECTED``
``connected``      ``reconnecting``    ``RECONNECTED``; metadata: attempts
``reconnecting``   anywhere            ``RECONNECTING``; metadata: attempt, max_attempts, delay
``disconnected``   anywhere            ``DISCONNECTED``
``closing``        anywhere            ``CLOSING``
``error``          anywhere            ``ERROR``
=================  ==================  ==========================================================

The ``RECONNECTING`` of the change itself has attempt 0: nothing is counted down yet. A recovery
fires it with ``quiet=True`` and records one event for each attempt instead.

While there is a connection, an event has its id and that of its last dial
(`TunnelConnection.dial_id`). An event's metadata has under ``error`` all that is known of the error
which caused it (`TunnelError.to_dict`).
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cache
from typing import Any

from statemachine import Declaration, InvalidTransition, StateMachine
from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import TunnelError
from tunnel.event_log import EventLog, EventStream
from tunnel.events import ConnectionEvent, ConnectionEventType, checked_metadata
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState, TunnelTrigger
from tunnel.secrets import scrub
from tunnel.state_effects import EffectiveModel, NoEffects, StateEffects
from tunnel.tracker_snapshot import TrackerSnapshot, TunnelConnection

__all__ = ["ConnectionStateTracker", "StateEffects", "TunnelConnection"]

_State = TunnelConnectionState
_Type = ConnectionEventType

_ENTERED = {
    _State.CONNECTING: (_Type.CONNECTING, "connecting"),
    _State.CONNECTED: (_Type.CONNECTED, "connected"),
    _State.RECONNECTING: (_Type.RECONNECTING, "reconnecting"),
    _State.DISCONNECTED: (_Type.DISCONNECTED, "disconnected"),
    _State.CLOSING: (_Type.CLOSING, "closing"),
    _State.ERROR: (_Type.ERROR, "the connection failed"),
}
_NO_EFFECTS = NoEffects()


class ConnectionStateTracker(EffectiveModel):
    """Knows the state of one connection, and its latest events.

    Everything but `fire` and what fires (`update_state`, `initialize_connection`) returns at once,
    in any thread; `state` in particular can be read at any time. Changes of state are made one at a
    time, under a lock that is held through the callbacks; subscribers are called after it is let
    go of, in order, one event at a time.

    Args:
        max_event_history: How many events are kept.
        clock: Where the time comes from; None: the system's.
        effects: What the callbacks of the machine drive; None: nothing.

    Attributes:
        auto_reconnect: Whether a loss may be followed by a recovery (requirement 9.7); the guard of
            the machine's ``recover``. A recovery that is asked for by hand is always allowed.

    Raises:
        TypeError: `max_event_history` is no integer.
        ValueError: `max_event_history` is negative.
    """

    def __init__(
        self,
        max_event_history: int = 100,
        *,
        clock: Clock | None = None,
        effects: StateEffects | None = None,
    ) -> None:
        if isinstance(max_event_history, bool) or not isinstance(max_event_history, int):
            raise TypeError(f"max_event_history is an integer, not {max_event_history!r}")
        if max_event_history < 0:
            raise ValueError(f"max_event_history is at least 0, not {max_event_history}")
        self.auto_reconnect = True
        self._clock = SYSTEM_CLOCK if clock is None else clock
        self._effects = _NO_EFFECTS if effects is None else effects
        self._log = EventLog(max_event_history)
        self._firing = threading.RLock()  # held by the thread that changes the state
        self._owner: int | None = None  # that thread's ident
        self._counting = threading.Lock()  # guards the changes of _attempts
        self._attempts = 0
        self._connection: TunnelConnection | None = None
        self._up_since: float | None = None  # on the monotonic clock; None: the link is not up
        self._state: str  # set by the machine
        self._machine = self._make_machine(LIFECYCLE)

    # What is known

    @property
    def machine(self) -> StateMachine:
        """The machine whose model this is, for its history and its observers. Fire with `fire`."""
        return self._machine

    @property
    def state(self) -> TunnelConnectionState:
        """The present state. Never waits, and can be read in callbacks too."""
        return _State(self._state)

    @property
    def connection(self) -> TunnelConnection | None:
        """The present connection; None before `initialize_connection`."""
        return self._connection

    @property
    def uptime(self) -> float:
        """For how many seconds the link has been up; 0.0 while the state is not `connected`."""
        since = self._up_since
        return 0.0 if since is None else self._clock.monotonic() - since

    @property
    def reconnect_attempts(self) -> int:
        """How many attempts the recovery under way, or the last one that failed, has made."""
        return self._attempts

    @property
    def events(self) -> tuple[ConnectionEvent, ...]:
        """The latest events, oldest first."""
        return self._log.events

    def subscribe(self, callback: Callable[[ConnectionEvent], object]) -> Callable[[], None]:
        """Have `callback` called with every event from now on; see `EventLog.subscribe`.

        Returns:
            A function that ends the subscription.
        """
        return self._log.subscribe(callback)

    def event_stream(self) -> EventStream:
        """Return an iterator over the events from now on, for a thread of its own."""
        return self._log.stream()

    # What happens

    def fire(self, trigger: str, **data: Any) -> bool:
        """Fire a trigger of the lifecycle.

        Args:
            trigger: Its name.
            **data: What goes with it, for guards, callbacks and the machine's record. Four names
                have a meaning here. `message` (a str) and `metadata` (a mapping) go into the event
                that is recorded. So does `error` (an exception); it is kept as a `TunnelError`
                without traceback and causes, because those would keep alive all that the failed
                call had in its hands. With `quiet=True` no event is recorded.

        Returns:
            As `StateMachine.fire`: False means that nothing changed.

        Raises:
            InvalidTransition: The trigger is illegal in the present state; nothing changed.
            TypeError, ValueError: The metadata cannot be held by JSON; nothing changed.
        """
        if data.get("metadata") is not None:
            data["metadata"] = checked_metadata(data["metadata"])
        if data.get("error") is not None:
            data["error"] = copy.copy(TunnelError.from_exception(data["error"]))
        with self._changing():
            return self._machine.fire(trigger, **data)

    def may_recover(self, manual: bool = False, **data: Any) -> bool:
        """Whether a recovery may begin: the guard of ``recover``."""
        return manual or self.auto_reconnect

    def initialize_connection(self, id: str, user_id: str, server_url: str) -> None:
        """Say who connects to what, and go to `connecting`.

        While a connection is there or being brought back it only gets the new names; its times
        stay (requirement 1.2).

        Args:
            id: The connection's name.
            user_id: Whose it is.
            server_url: Where it leads; credentials in it are not kept.

        Raises:
            InvalidTransition: The old connection is just being closed; nothing changed.
        """
        new = TunnelConnection(id, user_id, scrub(server_url))
        with self._changing():
            old = self._connection
            if old is not None and self.state in (_State.CONNECTED, _State.RECONNECTING):
                new.connected_at, new.last_activity_at = old.connected_at, old.last_activity_at
                new.dials = old.dials
            new.state, new.reconnect_attempts = self.state, self._attempts
            self._connection = new
            try:
                self.fire(TunnelTrigger.CONNECT)
            except InvalidTransition:
                self._connection = old
                raise

    def update_state(
        self,
        state: TunnelConnectionState,
        message: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Go to a state, by the first declared trigger that leads there from the present one.

        The present state again is no change: it is only recorded as an event.

        Args:
            state: The state; its value will do.
            message: A sentence for the event; None: a plain one.
            metadata: Facts for the event.

        Raises:
            InvalidTransition: No row of the lifecycle leads there from here; nothing changed.
            TypeError, ValueError: The metadata cannot be held by JSON, or there is no such state;
                nothing changed.
        """
        wanted = _State(state)
        with self._changing():
            present = self.state
            if wanted is present:
                type, text = _ENTERED[wanted]
                self.record(type, message or text, metadata)
                return
            trigger = LIFECYCLE.trigger_between(present, wanted)
            if trigger is None:
                reason = f"no row of the lifecycle leads from there to {wanted.value!r}"
                raise InvalidTransition(present.value, f"update_state({wanted.value!r})", reason)
            self.fire(trigger, manual=True, message=message, metadata=metadata)

    def begin_dial(self) -> None:
        """Note that the connection is dialled, once more or for the first time.

        From now on events carry the id of this dial. Without a connection it does nothing.
        """
        if self._connection is not None:
            self._connection.dials += 1

    def touch(self) -> None:
        """Note that something was heard from the peer just now. Cheap; from any thread."""
        connection = self._connection
        if connection is not None:
            connection.last_activity_at = self._now()

    def increment_reconnect_attempts(self) -> None:
        """Count one more attempt."""
        self._count(1)

    def reset_reconnect_attempts(self) -> None:
        """Count from 0 again. Entering `connected` does so by itself."""
        self._count(None)

    def _count(self, step: int | None) -> None:
        with self._counting:
            self._attempts = 0 if step is None else self._attempts + step
            if self._connection is not None:
                self._connection.reconnect_attempts = self._attempts

    # What is recorded

    def record_event(self, event: ConnectionEvent) -> None:
        """Record an event as it is.

        Raises:
            TypeError: It is no `ConnectionEvent`.
        """
        if not isinstance(event, ConnectionEvent):
            raise TypeError(f"only a ConnectionEvent can be recorded, not {event!r}")
        self._log.record(event)
        self._deliver()

    def record(
        self,
        type: ConnectionEventType,
        message: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Record an event that happens now.

        Raises:
            TypeError, ValueError: As for `ConnectionEvent`; nothing was recorded.
        """
        connection = self._connection
        ids = (None, None) if connection is None else (connection.id, connection.dial_id)
        self.record_event(ConnectionEvent(type, self._now(), message, metadata or {}, *ids))

    def record_error(self, error: Exception) -> None:
        """Record an error, with all that is known of it in the metadata under ``error``."""
        translated = TunnelError.from_exception(error)
        self.record(_Type.ERROR, translated.message, {"error": translated.to_dict()})

    def record_health_check(self, healthy: bool, message: str | None = None) -> None:
        """Record that the link was tested."""
        text = message or ("the link answers" if healthy else "the link does not answer")
        self.record(_Type.HEALTH_CHECK, text, {"healthy": bool(healthy)})

    def record_config_change(
        self, message: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Record that the configuration was updated."""
        self.record(_Type.CONFIG_CHANGED, message or "the configuration was updated", metadata)

    # To JSON and back

    def to_json(self) -> str:
        """Return all that is known as JSON: state, attempts, connection and events.

        The machine's records and the subscribers are not part of it.
        """
        with self._changing():
            snapshot = TrackerSnapshot(
                state=self.state,
                reconnect_attempts=self._attempts,
                auto_reconnect=self.auto_reconnect,
                max_event_history=self._log.max_history,
                connection=self._connection,
                events=self._log.events,
            )
        return snapshot.to_json()

    @classmethod
    def from_json(
        cls, text: str, *, clock: Clock | None = None, effects: StateEffects | None = None
    ) -> ConnectionStateTracker:
        """Return a tracker that knows what the one knew which wrote `text`.

        Nothing is fired or called: its machine begins in the state that was saved.

        Args:
            text: What `to_json` returned.
            clock: As for the class.
            effects: As for the class.

        Raises:
            ValueError: The text is damaged, or of a version that is not known here.
        """
        saved = TrackerSnapshot.from_json(text)
        tracker = cls(saved.max_event_history, clock=clock, effects=effects)
        tracker.auto_reconnect = saved.auto_reconnect
        tracker._attempts = saved.reconnect_attempts
        tracker._connection = saved.connection
        tracker._log = EventLog(saved.max_event_history, saved.events)
        tracker._machine = tracker._make_machine(_lifecycle_from(saved.state))
        if saved.state is _State.CONNECTED and saved.connection is not None:
            since = saved.connection.connected_at or tracker._now()
            seconds = (tracker._now() - since).total_seconds()
            tracker._up_since = tracker._clock.monotonic() - max(0.0, seconds)
        return tracker

    # The model's part of the callbacks

    def _link_is_gone(self) -> None:
        self._up_since = None

    def _entered(self, state: TunnelConnectionState, data: dict[str, Any]) -> None:
        attempts = self._attempts
        if self._connection is not None:
            self._connection.state = state
        if state is _State.CONNECTED:
            self._link_is_up()
        if not data.get("quiet"):
            self._record_change(state, data, attempts)

    def _link_is_up(self) -> None:
        self._up_since = self._clock.monotonic()
        if self._connection is not None:
            self._connection.connected_at = self._connection.last_activity_at = self._now()
        self.reset_reconnect_attempts()

    def _record_change(
        self, state: TunnelConnectionState, data: dict[str, Any], attempts: int
    ) -> None:
        type, text = _ENTERED[state]
        metadata: dict[str, Any] = {}
        error: TunnelError | None = data.get("error")
        if error is not None:
            text, metadata["error"] = error.message, error.to_dict()
        if state is _State.RECONNECTING:
            metadata |= {"attempt": 0, "max_attempts": None, "delay": 0.0}
        elif state is _State.CONNECTED and self._machine.history[-1].source == _State.RECONNECTING:
            type, text, metadata["attempts"] = _Type.RECONNECTED, "reconnected", attempts
        self.record(type, data.get("message") or text, metadata | (data.get("metadata") or {}))

    # Inside

    def _make_machine(self, declaration: Declaration) -> StateMachine:
        return StateMachine(declaration, self, time=self._clock.time, state_attribute="_state")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change the state, or look at all of it: one thread at a time. Then tell subscribers."""
        try:
            with self._firing:
                outer, self._owner = self._owner, threading.get_ident()
                try:
                    yield
                finally:
                    self._owner = outer
        finally:
            self._deliver()

    def _deliver(self) -> None:
        # Not with the lock held: the outermost `_changing` of this thread delivers after it.
        if self._owner != threading.get_ident():
            self._log.deliver()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), timezone.utc)


@cache
def _lifecycle_from(state: TunnelConnectionState) -> Declaration:
    """The lifecycle, but beginning in another state: the one that was saved."""
    if state == LIFECYCLE.initial:
        return LIFECYCLE
    return Declaration(
        name=LIFECYCLE.name,
        states=LIFECYCLE.states,
        initial=state,
        final=LIFECYCLE.final,
        transitions=LIFECYCLE.transitions,
        ignored=LIFECYCLE.ignored,
        illegal=LIFECYCLE.illegal,
        complete=LIFECYCLE.complete,
        failures=LIFECYCLE.failures,
        groups=LIFECYCLE.groups,
    )
