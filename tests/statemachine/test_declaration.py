from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from statemachine import Declaration, InvalidDeclaration, Transition

Declare = Callable[..., Declaration]


class S(str, Enum):
    ON = "on"
    OFF = "off"


class T(str, Enum):
    FLIP = "flip"
    FAILED = "failed"


def switch(**changes: Any) -> Declaration:
    rows = (
        Transition(T.FLIP, S.OFF, S.ON, doc="Up."),
        Transition(T.FLIP, S.ON, S.OFF, guard="may", doc="Down."),
    )
    arguments: dict[str, Any] = {"states": S, "initial": S.OFF, "transitions": rows}
    return Declaration("switch", **{**arguments, **changes})


def test_a_row_says_what_it_is() -> None:
    """As text, a row shows its trigger, its guard and its two states."""
    assert str(Transition("go", "a", "b", guard="may", doc="x")) == "go [may]: a -> b"
    assert str(Transition("go", "a", "b", doc="x")) == "go: a -> b"


def test_a_row_cannot_be_changed() -> None:
    """A row is frozen."""
    row = Transition("go", "a", "b", doc="x")
    with pytest.raises(AttributeError):
        row.dest = "c"  # type: ignore[misc]


def test_a_sentence_may_be_broken_over_lines() -> None:
    """White space in a sentence is collapsed, wherever the sentence stands."""
    assert Transition("go", "a", "b", doc="  One\n    two.  ").doc == "One two."
    declaration = switch(
        states={"on": "It\n shines.", "off": "Dark."},
        illegal={("off", "flip"): "a\n b"},
        transitions=[Transition("flip", "on", "off", doc="x")],
        initial="on",
        final=["off"],
    )
    assert declaration.states["on"] == "It shines."
    assert declaration.illegal["off", "flip"] == "a b"


def test_members_of_an_enumeration_become_plain_strings() -> None:
    """Names given as members of a str enumeration are kept as the strings they stand for."""
    declaration = switch(
        final=(S.OFF,),
        transitions=[
            Transition(T.FLIP, S.OFF, S.ON, guard=S.ON, doc="x"),
            Transition(T.FLIP, S.ON, S.OFF, doc="x"),
        ],
    )
    row = declaration.transitions[0]
    names = [row.trigger, row.source, row.dest, row.guard, declaration.initial]
    names += [*declaration.states, *declaration.final, *declaration.triggers]
    assert {type(name) for name in names} == {str}
    assert names == ["flip", "off", "on", "on", "off", "on", "off", "off", "flip"]


def test_members_of_an_enumeration_can_be_asked_about() -> None:
    """Questions about cells take members of an enumeration as well as strings."""
    declaration = switch()
    assert declaration.decision(S.OFF, T.FLIP) == declaration.decision("off", "flip") == "row"
    assert declaration.trigger_between(S.ON, S.OFF) == "flip"


def test_states_may_go_without_sentences() -> None:
    """States may be given as names only."""
    assert dict(switch(states=("off", "on")).states) == {"off": "", "on": ""}


def test_triggers_come_in_the_order_of_the_rows(breaker: Declaration) -> None:
    """The triggers are those of the rows, each once, in order of declaration."""
    assert breaker.triggers == ("failed", "succeeded", "waited", "retire")


def test_rows_of_a_cell_keep_their_order(breaker: Declaration) -> None:
    """The rows of a cell are given in the order in which they are tried."""
    assert [row.dest for row in breaker.rows("closed", "failed")] == ["open", "closed"]
    assert breaker.rows("open", "failed") == ()


def test_each_cell_tells_its_decision(breaker: Declaration) -> None:
    """A cell has a row, is ignored, is illegal, or is not decided."""
    assert breaker.decision("closed", "failed") == "row"
    assert breaker.decision("open", "failed") == "ignored"
    assert breaker.decision("closed", "waited") == "illegal"
    assert breaker.decision("retired", "waited") is None


def test_each_cell_tells_its_reason(breaker: Declaration) -> None:
    """The reason of a cell is its sentence, or those of all its rows."""
    assert breaker.reason("open", "waited") == "60 s have passed."
    assert breaker.reason("closed", "failed") == (
        "The fifth failure in a row. One of fewer than five failures."
    )
    assert breaker.reason("open", "failed") == "A call from before the breaker opened."
    assert breaker.reason("closed", "waited") == "Nothing is waited for."


def test_an_undecided_cell_tells_what_would_be_allowed(declare: Declare) -> None:
    """For an undecided cell the reason says so, and which triggers the state allows."""
    bare = declare(ignored={}, illegal={})
    assert bare.reason("open", "failed") == (
        "The machine 'breaker' has no row for it; from 'open' it allows waited, retire."
    )
    assert bare.reason("retired", "failed").endswith("from 'retired' it allows nothing.")


def test_the_first_trigger_between_two_states_is_found(breaker: Declaration) -> None:
    """Of the triggers that lead from one state to another, the one declared first is given."""
    assert breaker.trigger_between("closed", "open") == "failed"
    assert breaker.trigger_between("closed", "closed") == "failed"
    assert breaker.trigger_between("open", "closed") is None
    two = switch(
        transitions=[
            Transition("b", "off", "on", doc="x"),
            Transition("a", "off", "on", doc="x"),
            Transition("c", "on", "off", doc="x"),
        ]
    )
    assert two.trigger_between("off", "on") == "b"


@pytest.mark.parametrize("method", ["rows", "decision", "reason"])
def test_unknown_names_are_refused(breaker: Declaration, method: str) -> None:
    """A question about an undeclared state or trigger raises, and says what is declared."""
    with pytest.raises(ValueError, match="no state 'shut', only closed, open, half_open, retired"):
        getattr(breaker, method)("shut", "failed")
    with pytest.raises(ValueError, match="no trigger 'push', only failed, succeeded, waited"):
        getattr(breaker, method)("open", "push")


def test_unknown_states_are_refused_between(breaker: Declaration) -> None:
    """Neither end of `trigger_between` may be an undeclared state."""
    for ends in (("x", "open"), ("open", "x")):
        with pytest.raises(ValueError, match="no state 'x'"):
            breaker.trigger_between(*ends)


def test_a_declaration_cannot_be_changed(breaker: Declaration) -> None:
    """No attribute can be set or deleted, and no mapping in it takes another entry."""
    with pytest.raises(AttributeError, match="cannot be changed"):
        breaker.name = "other"
    with pytest.raises(AttributeError, match="cannot be changed"):
        del breaker.name
    for mapping in (breaker.states, breaker.ignored, breaker.illegal):
        with pytest.raises(TypeError):
            mapping["x"] = "y"  # type: ignore[index]


def test_later_changes_of_the_arguments_do_not_reach_it(declare: Declare) -> None:
    """A declaration keeps copies of what it was made from."""
    states = {"on": "It shines.", "off": "Dark."}
    rows = list(switch().transitions)
    declaration = switch(states=states, transitions=rows)
    states.clear()
    rows.clear()
    assert len(declaration.states) == len(declaration.transitions) == 2


def test_equal_declarations_are_equal(declare: Declare, breaker: Declaration) -> None:
    """Declarations with the same contents are equal and hash alike; others are not equal."""
    assert declare() == breaker
    assert hash(declare()) == hash(breaker)
    assert declare(name="other") != breaker
    assert declare(ignored={}) != breaker
    assert breaker != "breaker"


@pytest.mark.parametrize("make", [lambda d: pickle.loads(pickle.dumps(d)), copy.deepcopy])
def test_declarations_can_be_copied(
    make: Callable[[Declaration], Declaration], breaker: Declaration
) -> None:
    """A declaration survives pickling and copying, with sentences for its states or without."""
    for declaration in (breaker, switch()):
        assert make(declaration) == declaration


def test_it_shows_its_size(breaker: Declaration) -> None:
    """The repr tells the name and the number of states and rows, not the whole table."""
    assert repr(breaker) == "<Declaration 'breaker': 4 states, 7 rows>"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"states": "ab"}, "`states` is the string 'ab'; give a collection of names"),
        ({"final": "on"}, "`final` is the string 'on'; give a collection of names"),
        ({"states": ("on", "off", "on")}, "`states` names 'on' twice; name it once"),
        ({"final": ("on", "on")}, "`final` names 'on' twice; name it once"),
        ({"states": {"on": " ", "off": "x"}}, "the state 'on' has no sentence; say what it means"),
        ({"states": {"on": None, "off": "x"}}, "the state 'on' has no sentence; say what it means"),
        (
            {"ignored": {("on", "flip", 1): "x"}},
            "`ignored` has the key ('on', 'flip', 1); a key is a pair (state, trigger)",
        ),
        ({"illegal": {"on": "x"}}, "`illegal` has the key 'on'; a key is a pair (state, trigger)"),
        ({"ignored": {("on", "go"): " "}}, "`ignored` has no sentence for 'go' in 'on'; say why"),
        ({"illegal": {("on", "go"): 1}}, "`illegal` has no sentence for 'go' in 'on'; say why"),
    ],
)
def test_malformed_arguments_are_problems(changes: dict[str, Any], problem: str) -> None:
    """What is not of the form that it should have is reported with all the other problems."""
    with pytest.raises(InvalidDeclaration) as caught:
        switch(**changes)
    assert problem in caught.value.problems


def test_failures_and_groups_are_part_of_a_declaration(
    declare: Declare,
) -> None:
    """They are kept as plain names, make a difference in comparison, and survive pickling."""
    made = declare(failures=[T.FAILED], groups={"calls pass": ("closed",)})
    assert made.failures == ("failed",)
    assert dict(made.groups) == {"calls pass": ("closed",)}
    assert made != declare()
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"failures": ["no"]}, "'no' in `failures` is the trigger of no row"),
        ({"failures": "failed"}, "`failures` is the string 'failed'; give a collection of names"),
        ({"groups": {"g": ["no"]}}, "'no' in the group 'g' is no declared state"),
        ({"groups": {"g": "open"}}, "`groups['g']` is the string 'open'"),
        ({"groups": {"g": ["open"], "h": ["open"]}}, "'open' is in more than one group"),
        ({"groups": {" ": ["open"]}}, "the group ' ' has no name"),
    ],
)
def test_wrong_failures_and_groups_are_refused(
    declare: Declare, changes: dict[str, Any], sentence: str
) -> None:
    """What they name has to be there, and a state is in one group at most."""
    with pytest.raises(InvalidDeclaration, match=re.escape(sentence)):
        declare(**changes)
