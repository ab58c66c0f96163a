"""The table of the lifecycle, cell by cell, written down a second time and run."""

from __future__ import annotations

import re
from typing import Any

import pytest

import tunnel
from statemachine import InvalidTransition, StateMachine, Transition
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState, TunnelTrigger

S = TunnelConnectionState
T = TunnelTrigger

ROWS: dict[tuple[S, T], S] = {
    (S.DISCONNECTED, T.CONNECT): S.CONNECTING,
    (S.ERROR, T.CONNECT): S.CONNECTING,
    (S.CONNECTING, T.OPENED): S.CONNECTED,
    (S.RECONNECTING, T.OPENED): S.CONNECTED,
    (S.CONNECTING, T.DIAL_FAILED): S.DISCONNECTED,
    (S.CONNECTED, T.LOST): S.DISCONNECTED,
    (S.CLOSING, T.LOST): S.DISCONNECTED,
    (S.DISCONNECTED, T.RECOVER): S.RECONNECTING,
    (S.ERROR, T.RECOVER): S.RECONNECTING,
    (S.RECONNECTING, T.EXHAUSTED): S.ERROR,
    (S.CONNECTING, T.FAIL): S.ERROR,
    (S.CONNECTED, T.FAIL): S.ERROR,
    (S.RECONNECTING, T.FAIL): S.ERROR,
    (S.CONNECTING, T.CANCEL): S.DISCONNECTED,
    (S.RECONNECTING, T.CANCEL): S.DISCONNECTED,
    (S.CONNECTED, T.CLOSE): S.CLOSING,
    (S.CONNECTING, T.CLOSE): S.DISCONNECTED,
    (S.RECONNECTING, T.CLOSE): S.DISCONNECTED,
    (S.ERROR, T.CLOSE): S.DISCONNECTED,
    (S.CLOSING, T.CLOSED): S.DISCONNECTED,
}
"""What leads where."""

IGNORED: dict[T, tuple[S, ...]] = {
    T.CONNECT: (S.CONNECTING, S.CONNECTED, S.RECONNECTING),
    T.LOST: (S.DISCONNECTED, S.RECONNECTING, S.ERROR),
    T.RECOVER: (S.RECONNECTING,),
    T.DIAL_FAILED: (S.RECONNECTING,),
    T.FAIL: (S.CLOSING, S.ERROR),
    T.CANCEL: (S.DISCONNECTED, S.CONNECTED, S.CLOSING, S.ERROR),
    T.CLOSE: (S.DISCONNECTED, S.CLOSING),
    T.CLOSED: (S.DISCONNECTED,),
}
"""What does nothing; every other cell without a row is illegal."""

CELLS = [(state, trigger) for state in S for trigger in T]


class Model:
    def __init__(self, may_recover: bool = True) -> None:
        self.allows = may_recover
        self.asked: list[dict[str, Any]] = []
        self.calls: list[str] = []

    def may_recover(self, **data: Any) -> bool:
        self.asked.append(data)
        return self.allows


for _state in S:
    for _name in (f"on_enter_{_state.value}", f"on_exit_{_state.value}"):
        setattr(Model, _name, lambda self, _name=_name, **data: self.calls.append(_name))


PATHS: dict[S, tuple[T, ...]] = {
    S.DISCONNECTED: (),
    S.CONNECTING: (T.CONNECT,),
    S.CONNECTED: (T.CONNECT, T.OPENED),
    S.RECONNECTING: (T.CONNECT, T.OPENED, T.LOST, T.RECOVER),
    S.CLOSING: (T.CONNECT, T.OPENED, T.CLOSE),
    S.ERROR: (T.CONNECT, T.FAIL),
}
"""How a new machine gets to each state."""


def machine_in(state: S, model: Model) -> StateMachine:
    machine = StateMachine(LIFECYCLE, model)
    allows, model.allows = model.allows, True
    for trigger in PATHS[state]:
        assert machine.fire(trigger)
    model.allows = allows
    model.asked.clear()
    model.calls.clear()
    assert machine.state == state.value
    return machine


def test_there_are_sixty_cells() -> None:
    """Six states and ten triggers, in their declared order, and nothing else."""
    assert len(CELLS) == 60
    assert list(LIFECYCLE.states) == [state.value for state in S]
    assert list(LIFECYCLE.triggers) == [trigger.value for trigger in T]
    assert LIFECYCLE.initial == "disconnected"
    assert LIFECYCLE.final == ("disconnected",)


@pytest.mark.requirement("1.2")
@pytest.mark.parametrize(("state", "trigger"), ROWS, ids=lambda name: name.value)
def test_a_row_leads_where_it_says(state: S, trigger: T) -> None:
    """A trigger with a row is fired: the state is left, the other one entered, and it is noted."""
    model = Model()
    machine = machine_in(state, model)
    before = len(machine.history)
    assert machine.fire(trigger, number=7) is True
    dest = ROWS[state, trigger]
    assert machine.state == dest.value
    assert model.calls == [f"on_exit_{state.value}", f"on_enter_{dest.value}"]
    (record,) = machine.history[before:]
    assert (record.trigger, record.source, record.dest) == (
        trigger.value,
        state.value,
        dest.value,
    )
    assert dict(record.data) == {"number": 7}


def _cells_without_row(*, ignored: bool) -> list[tuple[S, T]]:
    return [
        (state, trigger)
        for state, trigger in CELLS
        if (state, trigger) not in ROWS and (state in IGNORED.get(trigger, ())) is ignored
    ]


@pytest.mark.parametrize(
    ("state", "trigger"), _cells_without_row(ignored=True), ids=lambda name: name.value
)
def test_an_ignored_trigger_does_nothing(state: S, trigger: T) -> None:
    """Where a trigger is ignored `fire` returns False, and nothing has happened."""
    model = Model()
    machine = machine_in(state, model)
    before = machine.history
    assert machine.fire(trigger) is False
    assert machine.state == state.value
    assert machine.history == before
    assert model.calls == []


@pytest.mark.parametrize(
    ("state", "trigger"), _cells_without_row(ignored=False), ids=lambda name: name.value
)
def test_an_illegal_trigger_is_refused(state: S, trigger: T) -> None:
    """Where a trigger is a mistake it raises, with state, trigger and reason; nothing changed."""
    model = Model()
    machine = machine_in(state, model)
    before = machine.history
    with pytest.raises(InvalidTransition) as caught:
        machine.fire(trigger)
    assert (caught.value.state, caught.value.trigger) == (state.value, trigger.value)
    assert caught.value.reason == LIFECYCLE.reason(state, trigger)
    assert machine.state == state.value
    assert machine.history == before
    assert model.calls == []


@pytest.mark.parametrize(("state", "trigger"), CELLS, ids=lambda name: name.value)
def test_every_cell_is_decided_with_a_sentence(state: S, trigger: T) -> None:
    """The declaration agrees with the tables above, and says of each cell why."""
    decision = LIFECYCLE.decision(state, trigger)
    if (state, trigger) in ROWS:
        (row,) = LIFECYCLE.rows(state, trigger)
        assert decision == "row"
        assert row.dest == ROWS[state, trigger].value
        sentence = row.doc
    else:
        assert decision == ("ignored" if state in IGNORED.get(trigger, ()) else "illegal")
        assert LIFECYCLE.rows(state, trigger) == ()
        sentence = LIFECYCLE.reason(state, trigger)
    assert re.fullmatch(r"[A-Z].*\.", sentence)


def test_it_is_declared_complete() -> None:
    """An undecided cell would be refused at import, not found by a user."""
    assert LIFECYCLE.complete is True
    assert len(LIFECYCLE.transitions) + len(LIFECYCLE.ignored) + len(LIFECYCLE.illegal) == 60


@pytest.mark.parametrize("state", S)
def test_every_state_says_what_it_means(state: S) -> None:
    """Each state has a sentence of its own."""
    assert re.fullmatch(r"[A-Z].*\.", LIFECYCLE.states[state.value])
    assert len(set(LIFECYCLE.states.values())) == len(S)


@pytest.mark.requirement("9.7")
@pytest.mark.parametrize("state", [S.DISCONNECTED, S.ERROR])
def test_the_guard_decides_about_a_recovery(state: S) -> None:
    """`recover` asks `may_recover` with the data of the trigger; a no leaves all as it was."""
    model = Model(may_recover=False)
    machine = machine_in(state, model)
    before = machine.history
    assert machine.fire(T.RECOVER, manual=True) is False
    assert model.asked == [{"manual": True}]
    assert machine.state == state.value
    assert machine.history == before
    assert model.calls == []


def test_nothing_else_is_guarded() -> None:
    """Only the two rows of `recover` have a guard."""
    guarded = {
        (row.source, row.trigger): row.guard
        for row in LIFECYCLE.transitions
        if row.guard is not None
    }
    assert guarded == {
        ("disconnected", "recover"): "may_recover",
        ("error", "recover"): "may_recover",
    }


def test_the_rows_are_told_apart() -> None:
    """No two rows share their sentence: each says when and why that very step happens."""
    docs = [row.doc for row in LIFECYCLE.transitions]
    assert len(set(docs)) == len(docs)
    assert all(isinstance(row, Transition) for row in LIFECYCLE.transitions)


@pytest.mark.parametrize(
    ("source", "dest", "trigger"),
    [
        (S.DISCONNECTED, S.CONNECTING, T.CONNECT),
        (S.CONNECTING, S.CONNECTED, T.OPENED),
        (S.CONNECTED, S.DISCONNECTED, T.LOST),
        (S.DISCONNECTED, S.RECONNECTING, T.RECOVER),
        (S.RECONNECTING, S.CONNECTED, T.OPENED),
        (S.RECONNECTING, S.ERROR, T.EXHAUSTED),
        (S.CONNECTED, S.CLOSING, T.CLOSE),
        (S.CLOSING, S.DISCONNECTED, T.LOST),
    ],
)
def test_the_first_trigger_between_two_states(source: S, dest: S, trigger: T) -> None:
    """What a tracker of its own fires for a change of state: the first row in the table."""
    assert LIFECYCLE.trigger_between(source, dest) == trigger.value


def test_the_public_names() -> None:
    """The table and the states can be had from the package; values are lower-case names."""
    assert tunnel.LIFECYCLE is LIFECYCLE
    assert tunnel.TunnelConnectionState is TunnelConnectionState
    for name in (*S, *T):
        assert name.value == name.name.lower()
        assert name == name.value
