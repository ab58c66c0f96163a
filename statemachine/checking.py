"""What is wrong with a declaration.

Each check is a generator of sentences that name the offender and say what to do. All of them run,
so that one look at the error shows everything that has to be corrected. What is not even of the
right type is reported once and left out of the further checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statemachine.declaration import Declaration, Transition

Steps = Mapping[str, set[str]]
"""For each state, the states that its rows lead to."""


def problems_of(declaration: Declaration) -> list[str]:
    """Return a sentence for each problem of a declaration; its look-ups need not be made yet."""
    rows = [row for row in declaration.transitions if _is_sound(row)]
    triggers = tuple(dict.fromkeys(row.trigger for row in rows))
    steps: dict[str, set[str]] = {state: set() for state in declaration.states}
    for row in rows:
        if row.source in steps and row.dest in steps:
            steps[row.source].add(row.dest)
    problems = [
        *_check_rows_are_rows(declaration.transitions),
        *_check_names(declaration, rows),
        *_check_known(declaration, rows, triggers),
        *_check_groups(declaration),
        *_check_shadows(rows),
        *_check_decided_once(declaration, rows),
        *_check_reachable(declaration, steps),
        *_check_dead_ends(declaration, steps),
    ]
    if declaration.complete:
        problems += _check_complete(declaration, rows, triggers)
    return problems


def _is_sound(row: Any) -> bool:
    names = (getattr(row, name, None) for name in ("trigger", "source", "dest"))
    return all(isinstance(name, str) for name in names)


def _check_rows_are_rows(rows: Iterable[Any]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        if not _is_sound(row):
            yield f"row {number}, {row!r}, is no Transition between names; make it one"
        elif not isinstance(row.doc, str) or not row.doc:
            yield f"the row {row} has no sentence; say in `doc` when and why it happens"


def _check_names(declaration: Declaration, rows: Sequence[Transition]) -> Iterator[str]:
    """Names become parts of method names, such as ``on_enter_connected``, and of file names."""
    named: list[tuple[str, Any]] = [("declaration", declaration.name)]
    named += [("state", state) for state in declaration.states]
    named += [("trigger", row.trigger) for row in rows]
    named += [("guard", row.guard) for row in rows if row.guard is not None]
    wrong = [
        f"{name!r} cannot be the name of a {what}; "
        "take letters, digits and underscores, such as 'half_open'"
        for what, name in named
        if not (isinstance(name, str) and name.isidentifier())
    ]
    yield from dict.fromkeys(wrong)


def _check_known(
    declaration: Declaration, rows: Iterable[Transition], triggers: Sequence[str]
) -> Iterator[str]:
    known = list(declaration.states)  # a list can be asked for what cannot be hashed, too
    uses: list[tuple[Any, str]] = [(declaration.initial, "as `initial`")]
    uses += [(state, "in `final`") for state in declaration.final]
    for row in rows:
        uses += [(row.source, f"in the row {row}"), (row.dest, f"in the row {row}")]
    for group, states in declaration.groups.items():
        uses += [(state, f"in the group {group!r}") for state in states]
    for what, cells in (("ignored", declaration.ignored), ("illegal", declaration.illegal)):
        uses += [(state, f"in `{what}`") for state, _ in cells]
    unknown = [
        f"{state!r} {where} is no declared state; correct it or add it to `states`"
        for state, where in uses
        if state not in known
    ]
    for what, cells in (("ignored", declaration.ignored), ("illegal", declaration.illegal)):
        unknown += [
            f"{trigger!r} in `{what}` is the trigger of no row; correct it or add a row"
            for _, trigger in cells
            if trigger not in triggers
        ]
    unknown += [
        f"{trigger!r} in `failures` is the trigger of no row; correct it or add a row"
        for trigger in declaration.failures
        if trigger not in triggers
    ]
    yield from dict.fromkeys(unknown)


def _check_groups(declaration: Declaration) -> Iterator[str]:
    """A state has one colour."""
    grouped: list[Any] = []
    for group, states in declaration.groups.items():
        if not isinstance(group, str) or not group.strip():
            yield f"the group {group!r} has no name; say what its states have in common"
        for state in states:
            if state in grouped:
                yield f"{state!r} is in more than one group; leave it in one"
            grouped.append(state)


def _check_shadows(rows: Iterable[Transition]) -> Iterator[str]:
    """A row that can never be taken is a mistake: an earlier one of its cell always wins."""
    earlier: dict[tuple[str, str], list[Transition]] = {}
    for row in rows:
        before = earlier.setdefault((row.source, row.trigger), [])
        for other in before:
            if other.guard == row.guard and other.dest == row.dest:
                yield f"the row {row} is there twice; remove one"
            elif other.guard is None:
                yield f"the row {row} is never taken, for {other} always is; move or guard that one"
            elif other.guard == row.guard:
                yield f"the row {row} is never taken, for {other} has its guard; change one guard"
            else:
                continue
            break
        before.append(row)


def _check_decided_once(declaration: Declaration, rows: Iterable[Transition]) -> Iterator[str]:
    with_rows = {(row.source, row.trigger) for row in rows}
    for state, trigger in declaration.ignored:
        if (state, trigger) in with_rows:
            yield f"{trigger!r} in {state!r} has a row and is ignored; remove one"
        if (state, trigger) in declaration.illegal:
            yield f"{trigger!r} in {state!r} is ignored and illegal; remove one"
    for state, trigger in declaration.illegal:
        if (state, trigger) in with_rows:
            yield f"{trigger!r} in {state!r} has a row and is illegal; remove one"


def _check_reachable(declaration: Declaration, steps: Steps) -> Iterator[str]:
    if declaration.initial not in list(steps):
        return  # reported already, and nothing could be reached
    reached = _closure({declaration.initial}, steps)
    for state in steps:
        if state not in reached:
            yield f"the state {state!r} cannot be reached; add a row that leads to it or remove it"


def _check_dead_ends(declaration: Declaration, steps: Steps) -> Iterator[str]:
    backwards: dict[str, set[str]] = {state: set() for state in steps}
    for source, dests in steps.items():
        for dest in dests:
            backwards[dest].add(source)
    finals = {state for state in steps if state in declaration.final}
    ending = _closure(finals, backwards)
    for state, dests in steps.items():
        if state in finals:
            continue
        if not dests - {state}:
            yield f"the state {state!r} is a dead end; add a row that leaves it or make it final"
        elif finals and state not in ending:
            yield f"no final state can be reached from {state!r}; add a row or make it final"


def _check_complete(
    declaration: Declaration, rows: Iterable[Transition], triggers: Sequence[str]
) -> Iterator[str]:
    decided = {(row.source, row.trigger) for row in rows}
    decided.update(declaration.ignored, declaration.illegal)
    for state in declaration.states:
        for trigger in triggers:
            if (state, trigger) not in decided:
                yield f"{trigger!r} in {state!r} is not decided; add a row, or ignore or forbid it"


def _closure(start: set[str], steps: Steps) -> set[str]:
    """Return the states of `start` and all that can be reached from them."""
    reached = set(start)
    waiting = list(start)
    while waiting:
        for state in steps[waiting.pop()] - reached:
            reached.add(state)
            waiting.append(state)
    return reached
