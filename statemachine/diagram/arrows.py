"""The rows of a declaration as the arrows of a picture."""

from __future__ import annotations

from collections.abc import Mapping

from statemachine.declaration import Declaration, Transition


def arrows(declaration: Declaration) -> Mapping[tuple[str, str], tuple[Transition, ...]]:
    """Return the rows by source and dest: those between the same two states share one arrow.

    The states' order rules that of the arrows, so that a picture lists them as the table of states
    does.
    """
    order = {state: place for place, state in enumerate(declaration.states)}
    found: dict[tuple[str, str], tuple[Transition, ...]] = {}
    for row in sorted(declaration.transitions, key=lambda row: order[row.source]):
        ends = (row.source, row.dest)
        found[ends] = (*found.get(ends, ()), row)
    return found


def arrows_apart(
    declaration: Declaration,
) -> Mapping[tuple[str, str, bool], tuple[Transition, ...]]:
    """Return the same with failures apart: by source, dest, and whether something goes wrong."""
    found: dict[tuple[str, str, bool], tuple[Transition, ...]] = {}
    for (source, dest), rows in arrows(declaration).items():
        for is_failure in (False, True):
            some = tuple(r for r in rows if (r.trigger in declaration.failures) is is_failure)
            if some:
                found[source, dest, is_failure] = some
    return found


def main_path(declaration: Declaration) -> tuple[tuple[str, str], ...]:
    """Return the arrows that a picture should draw straight, as pairs of states.

    It is the way from the initial state on, always to the nearest later one in the states' order:
    people list states in the order in which they tell the story.
    """
    ends = {(row.source, row.dest) for row in declaration.transitions}
    states = list(declaration.states)
    here, path = declaration.initial, []
    for state in states[states.index(here) + 1 :]:
        if (here, state) in ends:
            path.append((here, state))
            here = state
    return tuple(path)


def label(row: Transition) -> str:
    """Return what an arrow says of a row: its trigger, and its guard in brackets."""
    return f"{row.trigger} [{row.guard}]" if row.guard else row.trigger
