"""The table of the session's machine, cell by cell, written down a second time and run."""

from __future__ import annotations

import re

import pytest

from statemachine import InvalidTransition, StateMachine
from tunnel.session_lifecycle import SESSION, SessionState

S = SessionState
TRIGGERS = ("open", "opened", "attach", "detach", "resume", "resumed", "end", "lose")
ROWS: dict[tuple[S, str], S] = {
    (S.NEW, "open"): S.OPENING,
    (S.OPENING, "opened"): S.ATTACHED,
    (S.NEW, "attach"): S.ATTACHED,
    (S.DETACHED, "attach"): S.ATTACHED,
    (S.ATTACHED, "attach"): S.ATTACHED,
    (S.OPENING, "detach"): S.NEW,
    (S.ATTACHED, "detach"): S.DETACHED,
    (S.RESUMING, "detach"): S.DETACHED,
    (S.DETACHED, "resume"): S.RESUMING,
    (S.RESUMING, "resumed"): S.ATTACHED,
    (S.ATTACHED, "end"): S.ENDED,
    (S.ATTACHED, "lose"): S.LOST,
    (S.DETACHED, "lose"): S.LOST,
    (S.RESUMING, "lose"): S.LOST,
}
"""What leads where."""

IGNORED = {
    "detach": (S.NEW, S.DETACHED, S.ENDED, S.LOST),
    "lose": (S.NEW, S.OPENING, S.ENDED, S.LOST),
}
"""What does nothing; every other cell without a row is illegal."""

PATHS: dict[S, tuple[str, ...]] = {
    S.NEW: (),
    S.OPENING: ("open",),
    S.ATTACHED: ("attach",),
    S.DETACHED: ("attach", "detach"),
    S.RESUMING: ("attach", "detach", "resume"),
    S.ENDED: ("attach", "end"),
    S.LOST: ("attach", "lose"),
}
"""How a new machine gets to each state."""

CELLS = [(state, trigger) for state in S for trigger in TRIGGERS]


class Model:
    pass


@pytest.mark.parametrize(("state", "trigger"), CELLS)
def test_each_cell_does_what_it_should(state: S, trigger: str) -> None:
    """A row leads where it says, what is ignored does nothing, and all else is refused."""
    machine = StateMachine(SESSION, Model())
    for step in PATHS[state]:
        assert machine.fire(step)
    assert machine.state == state.value
    if (state, trigger) in ROWS:
        assert machine.fire(trigger) is True
        assert machine.state == ROWS[state, trigger].value
        return
    if state in IGNORED.get(trigger, ()):
        assert machine.fire(trigger) is False
    else:
        with pytest.raises(InvalidTransition) as caught:
            machine.fire(trigger)
        assert caught.value.reason == SESSION.reason(state, trigger)
    assert machine.state == state.value


def test_there_are_fifty_six_cells_and_each_is_decided_with_a_sentence() -> None:
    """Seven states and eight triggers; an undecided cell would be refused at import."""
    assert SESSION.complete is True
    assert list(SESSION.states) == [state.value for state in (*list(S)[:5], S.LOST, S.ENDED)]
    assert set(SESSION.triggers) == set(TRIGGERS)
    assert (SESSION.initial, set(SESSION.final)) == ("new", {"ended", "lost"})
    assert len(SESSION.transitions) + len(SESSION.ignored) + len(SESSION.illegal) == len(CELLS)
    sentences = [row.doc for row in SESSION.transitions]
    sentences += [*SESSION.states.values(), *SESSION.ignored.values(), *SESSION.illegal.values()]
    assert [text for text in sentences if not re.fullmatch(r"[A-Z].*\.", text)] == []
