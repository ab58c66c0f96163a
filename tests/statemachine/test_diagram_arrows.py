from __future__ import annotations

from statemachine import Declaration, Transition
from statemachine.diagram.arrows import arrows, label, main_path


def test_rows_between_the_same_states_share_an_arrow() -> None:
    """Rows are gathered by their two ends, in the order of declaration."""
    rows = [
        Transition("b", "s1", "s0", doc="x"),
        Transition("c", "s0", "s1", doc="x"),
        Transition("a", "s0", "s1", doc="x"),
    ]
    found = arrows(Declaration("d", ["s0", "s1"], "s0", (), rows))
    assert {ends: [row.trigger for row in shared] for ends, shared in found.items()} == {
        ("s0", "s1"): ["c", "a"],
        ("s1", "s0"): ["b"],
    }


def test_arrows_come_in_the_order_of_the_states(breaker: Declaration) -> None:
    """Arrows are listed by the state that they leave, as the states are declared."""
    assert [source for source, _ in arrows(breaker)] == (
        ["closed"] * 3 + ["open"] * 2 + ["half_open"] * 2
    )


def test_the_main_path_goes_on_through_the_states(breaker: Declaration) -> None:
    """The path leads from the initial state, always to the nearest later one that it can reach."""
    assert main_path(breaker) == (("closed", "open"), ("open", "half_open"))


def test_the_main_path_begins_at_the_initial_state() -> None:
    """States listed before the initial one are not on the path."""
    rows = [Transition("a", "s1", "s0", doc="x"), Transition("b", "s0", "s1", doc="x")]
    assert main_path(Declaration("d", ["s0", "s1"], "s1", (), rows)) == ()


def test_a_label_names_trigger_and_guard() -> None:
    """A guard stands in brackets behind its trigger."""
    assert label(Transition("go", "a", "b", doc="x")) == "go"
    assert label(Transition("go", "a", "b", guard="may", doc="x")) == "go [may]"
