from __future__ import annotations

from typing import Any

import pytest

from statemachine import Declaration, InvalidDeclaration, Transition


def row(trigger: Any, source: Any, dest: Any, **rest: Any) -> Transition:
    return Transition(trigger, source, dest, **{"doc": "x", **rest})


# Sound by itself; each test adds one mistake.
SOUND: dict[str, Any] = {
    "name": "m",
    "states": ("a", "b"),
    "initial": "a",
    "transitions": (row("go", "a", "b"), row("back", "b", "a")),
}


def problems(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidDeclaration) as caught:
        Declaration(**{**SOUND, **changes})
    return caught.value.problems


def with_row(*rows: Any) -> dict[str, Any]:
    return {"transitions": (*SOUND["transitions"], *rows)}


def test_the_sound_one_is_accepted() -> None:
    """A declaration without a mistake is made."""
    Declaration(**SOUND)
    Declaration(**SOUND, final=("b",))


@pytest.mark.parametrize("name", ["", "half open", "half-open", "1st", None, 7])
def test_names_must_be_identifiers(name: Any) -> None:
    """A name that cannot be part of a method's name is refused, whatever it names."""
    hint = "take letters, digits and underscores, such as 'half_open'"
    assert problems(name=name) == (f"{name!r} cannot be the name of a declaration; {hint}",)
    found = problems(states=("a", "b", name), **with_row())
    assert f"{name!r} cannot be the name of a state; {hint}" in found
    if isinstance(name, str):
        assert problems(**with_row(row(name, "a", "b"))) == (
            f"{name!r} cannot be the name of a trigger; {hint}",
        )
    if name is not None:
        assert problems(**with_row(row("more", "a", "b", guard=name))) == (
            f"{name!r} cannot be the name of a guard; {hint}",
        )


def test_a_wrong_name_is_reported_once() -> None:
    """A wrong name that stands in several rows is one problem."""
    assert len(problems(**with_row(row("g o", "a", "b"), row("g o", "b", "a")))) == 1


@pytest.mark.parametrize("thing", [("go", "a", "b"), row(["go"], "a", "b"), row("go", "a", None)])
def test_rows_must_be_rows(thing: Any) -> None:
    """Something else among the rows is named with its place."""
    (problem,) = problems(**with_row(thing))
    assert problem == f"row 3, {thing!r}, is no Transition between names; make it one"


@pytest.mark.parametrize("doc", ["", " \n", None])
def test_a_row_needs_a_sentence(doc: Any) -> None:
    """A row without a sentence is refused."""
    assert problems(**with_row(row("more", "a", "b", doc=doc))) == (
        "the row more: a -> b has no sentence; say in `doc` when and why it happens",
    )


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"initial": "c"}, "'c' as `initial` is no declared state"),
        ({"initial": ["a"]}, "['a'] as `initial` is no declared state"),
        ({"final": ("a", "c")}, "'c' in `final` is no declared state"),
        (with_row(row("more", "c", "b")), "'c' in the row more: c -> b is no declared state"),
        (with_row(row("more", "b", "c")), "'c' in the row more: b -> c is no declared state"),
        ({"ignored": {("c", "go"): "x"}}, "'c' in `ignored` is no declared state"),
        ({"illegal": {("c", "go"): "x"}}, "'c' in `illegal` is no declared state"),
    ],
)
def test_unknown_states_are_named(changes: dict[str, Any], start: str) -> None:
    """A state that is used but not declared is named, with the place of its use."""
    assert problems(**changes) == (f"{start}; correct it or add it to `states`",)


@pytest.mark.parametrize("what", ["ignored", "illegal"])
def test_unknown_triggers_are_named(what: str) -> None:
    """A sentence for a trigger that no row has is refused: it is a slip of the pen."""
    assert problems(**{what: {("a", "goo"): "x"}}) == (
        f"'goo' in `{what}` is the trigger of no row; correct it or add a row",
    )


def test_a_row_twice_is_refused() -> None:
    """The same row twice is refused, whatever its guard."""
    assert problems(**with_row(row("go", "a", "b", doc="y"))) == (
        "the row go: a -> b is there twice; remove one",
    )
    twice = row("more", "a", "b", guard="g")
    assert problems(**with_row(twice, twice)) == (
        "the row more [g]: a -> b is there twice; remove one",
    )


@pytest.mark.parametrize("guard", [None, "g"])
def test_a_row_behind_one_without_guard_is_refused(guard: str | None) -> None:
    """A row that can never be taken, for an earlier one of its cell always is, is refused."""
    late = row("go", "a", "a", guard=guard)
    assert problems(**with_row(late)) == (
        f"the row {late} is never taken, for go: a -> b always is; move or guard that one",
    )


def test_a_guard_twice_in_a_cell_is_refused() -> None:
    """Of two rows of a cell with the same guard, the later one can never be taken."""
    first, other, second = (
        row("more", "a", "b", guard="g"),
        row("more", "a", "a", guard="h"),
        row("more", "a", "a", guard="g"),
    )
    assert problems(**with_row(first, other, second)) == (
        "the row more [g]: a -> a is never taken, for more [g]: a -> b has its guard; "
        "change one guard",
    )


def test_rows_of_other_cells_shadow_nothing() -> None:
    """Guards may be shared between cells, and a cell's last row may go without one."""
    Declaration(
        **{
            **SOUND,
            **with_row(
                row("more", "a", "b", guard="g"),
                row("more", "a", "a"),
                row("more", "b", "a", guard="g"),
                row("more", "b", "b", guard="h"),
            ),
        }
    )


def test_a_cell_is_decided_once() -> None:
    """A cell that has rows and a sentence, or two sentences, is refused."""
    assert problems(ignored={("a", "go"): "x"}) == (
        "'go' in 'a' has a row and is ignored; remove one",
    )
    assert problems(illegal={("a", "go"): "x"}) == (
        "'go' in 'a' has a row and is illegal; remove one",
    )
    assert problems(ignored={("b", "go"): "x"}, illegal={("b", "go"): "x"}) == (
        "'go' in 'b' is ignored and illegal; remove one",
    )


def test_every_state_can_be_reached() -> None:
    """A state to which no way leads from the initial one is refused, a whole island of them too."""
    island = {"states": ("a", "b", "c", "d")}
    hint = "cannot be reached; add a row that leads to it or remove it"
    assert problems(**island, **with_row(row("go", "c", "d"), row("go", "d", "a"))) == (
        f"the state 'c' {hint}",
        f"the state 'd' {hint}",
    )


def test_a_dead_end_is_refused() -> None:
    """A state that no row leaves for another state has to be final."""
    more = {"states": ("a", "b", "c")}
    hint = "is a dead end; add a row that leaves it or make it final"
    for rows in ((row("more", "a", "c"),), (row("more", "a", "c"), row("more", "c", "c"))):
        assert problems(**more, **with_row(*rows)) == (f"the state 'c' {hint}",)
        Declaration(**{**SOUND, **more, **with_row(*rows)}, final=("c",))


def test_a_final_state_stays_in_reach() -> None:
    """Once a machine has final states, a state from which none can be reached is refused."""
    more = {"states": ("a", "b", "c", "d"), "final": ("b",)}
    rows = (row("more", "a", "c"), row("go", "c", "d"), row("back", "d", "c"))
    hint = "add a row or make it final"
    assert problems(**more, **with_row(*rows)) == (
        f"no final state can be reached from 'c'; {hint}",
        f"no final state can be reached from 'd'; {hint}",
    )


def test_a_machine_needs_a_state() -> None:
    """Without any state there is no initial one."""
    found = problems(states=(), transitions=())
    assert found == ("'a' as `initial` is no declared state; correct it or add it to `states`",)


def test_a_complete_declaration_decides_every_cell() -> None:
    """With complete=True each undecided cell is a problem of its own."""
    hint = "is not decided; add a row, or ignore or forbid it"
    assert problems(complete=True) == (f"'back' in 'a' {hint}", f"'go' in 'b' {hint}")
    decided = {"ignored": {("a", "back"): "x"}, "illegal": {("b", "go"): "x"}}
    assert Declaration(**SOUND, **decided, complete=True).complete


def test_all_problems_are_reported_together() -> None:
    """One exception tells everything that has to be corrected."""
    found = problems(
        name="my machine",
        final=("z",),
        ignored={("a", "go"): ""},
        **with_row(row("go", "a", "b"), 3),
    )
    assert [problem.split(";")[0] for problem in found] == [
        "`ignored` has no sentence for 'go' in 'a'",
        "row 4, 3, is no Transition between names",
        "'my machine' cannot be the name of a declaration",
        "'z' in `final` is no declared state",
        "the row go: a -> b is there twice",
        "'go' in 'a' has a row and is ignored",
    ]
