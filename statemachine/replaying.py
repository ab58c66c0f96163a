"""Does a recorded history obey the table?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from statemachine.declaration import Declaration, plain
from statemachine.machine import Record


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `replay` found. True if the history obeys the table.

    Args:
        state: The state after the last record that obeys; None if there is none.
        index: The place of the first record that does not obey, counted from 0; None if all do.
        record: That record, as it was given.
        reason: A sentence that says what is wrong with it.
    """

    state: str | None
    index: int | None = None
    record: Any = None
    reason: str | None = None

    def __bool__(self) -> bool:
        return self.index is None

    def __str__(self) -> str:
        if self.index is None:
            return "the history obeys the table"
        return f"record {self.index} does not obey the table: {self.reason}"


def replay(
    declaration: Declaration,
    history: Iterable[Record | Mapping[str, Any]],
    *,
    start: str | None = None,
) -> Verdict:
    """Follow a recorded history through the table.

    Each record has to stand in the table as a row, and to begin where the one before it ended.
    Guards are not asked: what they said then is not recorded.

    Args:
        declaration: The table.
        history: The records, oldest first; or mappings, such as JSON gives, with at least the keys
            ``trigger``, ``source`` and ``dest``.
        start: The state in which the history has to begin. Not given, it may begin in any, for a
            bounded history has lost its beginning.

    Returns:
        A verdict that is true if every record obeys, and else names the first one that does not.

    Raises:
        ValueError: If `start` is no state of the declaration.
    """
    if start is not None and start not in declaration.states:
        known = ", ".join(declaration.states)
        raise ValueError(f"the machine {declaration.name!r} has no state {start!r}, only {known}")
    state: str | None = plain(start)
    for index, record in enumerate(history):
        reason = _objection(declaration, record, state)
        if reason is not None:
            return Verdict(state, index, record, reason)
        state = plain(_steps(record)[2])
    return Verdict(state)


def _steps(record: Any) -> list[Any]:
    """Return a record's trigger, source and dest; None for what it lacks."""
    if isinstance(record, Mapping):
        return [record.get(key) for key in ("trigger", "source", "dest")]
    return [getattr(record, key, None) for key in ("trigger", "source", "dest")]


def _objection(declaration: Declaration, record: Any, state: str | None) -> str | None:
    """Say what is wrong with a record that follows on `state`; None if nothing is."""
    trigger, source, dest = _steps(record)
    for name, value in (("trigger", trigger), ("source", source), ("dest", dest)):
        if not isinstance(value, str):
            return f"it has no {name}."
    for value in (source, dest):
        if value not in declaration.states:
            return f"there is no state {plain(value)!r}."
    if state is not None and source != state:
        return f"it leaves {plain(source)!r}, but the state was {state!r}."
    if trigger not in declaration.triggers:
        return f"there is no trigger {plain(trigger)!r}."
    if any(row.dest == dest for row in declaration.rows(source, trigger)):
        return None
    step = f"{plain(trigger)!r} from {plain(source)!r} to {plain(dest)!r}"
    return f"no row leads by {step}."
