"""Waiting for a state: who waits hears of each that is entered, also if it is left at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from statemachine import Record, StateMachine
from tunnel.interruptible import Event
from tunnel.lifecycle import TunnelConnectionState


class StateWatch:
    """One wait for one of some states.

    Attributes:
        seen: Set once one of them was entered.
        last: The last of them that was.
    """

    def __init__(self, states: frozenset[str]) -> None:
        self.states = states
        self.seen: threading.Event = Event()
        self.last: str | None = None

    def note(self, state: str) -> None:
        """A state was entered."""
        if state in self.states:
            self.last = state
            self.seen.set()


class StateWatches:
    """Everyone who waits for a state of one machine. Safe to use from any thread."""

    def __init__(self, machine: StateMachine) -> None:
        self._machine = machine
        self._lock = threading.Lock()  # guards the changes of _watches; reading takes the tuple
        self._watches: tuple[StateWatch, ...] = ()
        machine.subscribe(self._note)

    @contextmanager
    def watch(self, *states: TunnelConnectionState, also_now: bool) -> Iterator[StateWatch]:
        """Watch for `states`; with `also_now`, being in one of them already counts."""
        watch = StateWatch(frozenset(TunnelConnectionState(state).value for state in states))
        try:
            with self._lock:
                self._watches += (watch,)
            if also_now:  # looked at after the watch began, so that nothing falls in between
                watch.note(self._machine.state)
            yield watch
        finally:
            with self._lock:
                self._watches = tuple(other for other in self._watches if other is not watch)

    def _note(self, record: Record) -> None:
        for watch in self._watches:
            watch.note(record.dest)
