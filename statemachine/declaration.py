"""A finite state machine as data: states, rows, and a decision for every other cell.

A *cell* is a pair of a state and a trigger. A declaration decides a cell in one of three ways: by
rows (`Transition`), by a sentence in `ignored` (the trigger does nothing there, because ...), or by
a sentence in `illegal` (it can only be a mistake there, because ...). A cell that is not decided is
illegal; with ``complete=True`` there may be none.

Several rows may share a cell: they are tried in order, and the first whose guard agrees is taken.
So all but the last need a guard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from statemachine.checking import problems_of
from statemachine.errors import InvalidDeclaration

Decision = Literal["row", "ignored", "illegal"]
_NOTHING: Mapping[tuple[str, str], str] = MappingProxyType({})
_NO_GROUPS: Mapping[str, Iterable[str]] = MappingProxyType({})


def plain(name: Any) -> Any:
    """Return a member of a ``str`` enumeration as the plain string that it stands for."""
    return str.__str__(name) if isinstance(name, str) else name  # the checks refuse what is no str


def _sentence(text: Any) -> Any:
    """Join a sentence that was broken over lines in the source."""
    return " ".join(text.split()) if isinstance(text, str) else text


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table: `trigger` leads from `source` to `dest`, if the guard agrees.

    Args:
        trigger: What happens, or what somebody asks for.
        source: The state in which the row applies.
        dest: The state that it leads to; the source again is left and entered anew.
        guard: The name of the model's method (called with the data of the trigger) or attribute
            that has to be true for the row to be taken; None for a row that always is.
        doc: A sentence that says when and why it happens. White space in it is collapsed.
    """

    trigger: str
    source: str
    dest: str
    guard: str | None = field(default=None, kw_only=True)
    doc: str = field(kw_only=True)

    def __post_init__(self) -> None:
        for name in ("trigger", "source", "dest"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if self.guard is not None:
            object.__setattr__(self, "guard", plain(self.guard))
        object.__setattr__(self, "doc", _sentence(self.doc))

    def __str__(self) -> str:
        guard = f" [{self.guard}]" if self.guard else ""
        return f"{self.trigger}{guard}: {self.source} -> {self.dest}"


class Declaration:
    """A whole machine, checked when it is made and never changed after.

    Names of states, triggers and guards are Python identifiers; members of a ``str`` enumeration
    are taken for their values. Two declarations are equal if everything in them is, in the same
    order. Declarations can be pickled, and be used from any thread.

    Args:
        name: What the machine is called, in messages and as the name of its diagrams' files.
        states: The states' names, each with a sentence that says what it means; or only the names.
        initial: The state that a machine begins in.
        final: States in which a machine may rest for good; rows may still lead out of them.
        transitions: The rows. Rows of one cell are tried in this order.
        ignored: For a cell without a row, the sentence why the trigger does nothing there.
        illegal: For a cell without a row, the sentence why the trigger is a mistake there.
        complete: Refuse a declaration that leaves a cell undecided.
        failures: The triggers by which something goes wrong; pictures tell their rows apart.
        groups: For some or all states, which belong together, by what they have in common; pictures
            give each group a colour and name it in the legend.

    Raises:
        InvalidDeclaration: With every problem found, not only the first.
    """

    __slots__ = (
        "__weakref__",
        "_between",
        "_hash",
        "_rows",
        "complete",
        "failures",
        "final",
        "groups",
        "ignored",
        "illegal",
        "initial",
        "name",
        "states",
        "transitions",
        "triggers",
    )

    name: str
    states: Mapping[str, str]
    initial: str
    final: tuple[str, ...]
    transitions: tuple[Transition, ...]
    ignored: Mapping[tuple[str, str], str]
    illegal: Mapping[tuple[str, str], str]
    complete: bool
    failures: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    triggers: tuple[str, ...]
    _rows: Mapping[tuple[str, str], tuple[Transition, ...]]
    _between: Mapping[tuple[str, str], str]
    _hash: int

    def __init__(
        self,
        name: str,
        states: Mapping[str, str] | Iterable[str],
        initial: str,
        final: Iterable[str] = (),
        transitions: Iterable[Transition] = (),
        ignored: Mapping[tuple[str, str], str] = _NOTHING,
        illegal: Mapping[tuple[str, str], str] = _NOTHING,
        complete: bool = False,
        failures: Iterable[str] = (),
        groups: Mapping[str, Iterable[str]] = _NO_GROUPS,
    ) -> None:
        problems: list[str] = []
        self._set("name", plain(name))
        self._set("states", MappingProxyType(_read_states(states, problems)))
        self._set("initial", plain(initial))
        self._set("final", _read_names("final", final, problems))
        self._set("transitions", tuple(transitions))
        self._set("ignored", MappingProxyType(_read_cells("ignored", ignored, problems)))
        self._set("illegal", MappingProxyType(_read_cells("illegal", illegal, problems)))
        self._set("complete", bool(complete))
        self._set("failures", _read_names("failures", failures, problems))
        self._set("groups", MappingProxyType(_read_groups(groups, problems)))
        problems += problems_of(self)
        if problems:
            raise InvalidDeclaration(self.name, tuple(problems))
        self._index()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _index(self) -> None:
        """Make the look-ups once, so that a machine's trigger costs none."""
        rows: dict[tuple[str, str], tuple[Transition, ...]] = {}
        between: dict[tuple[str, str], str] = {}
        for row in self.transitions:
            cell = (row.source, row.trigger)
            rows[cell] = (*rows.get(cell, ()), row)
            between.setdefault((row.source, row.dest), row.trigger)
        self._set("triggers", tuple(dict.fromkeys(row.trigger for row in self.transitions)))
        self._set("_rows", MappingProxyType(rows))
        self._set("_between", MappingProxyType(between))
        self._set("_hash", hash(self._definition()))

    def rows(self, state: str, trigger: str) -> tuple[Transition, ...]:
        """Return the rows of a cell in the order in which they are tried; empty if it has none.

        Raises:
            ValueError: If the state or the trigger is not declared.
        """
        self._require(state, trigger)
        return self._rows.get((state, trigger), ())

    def decision(self, state: str, trigger: str) -> Decision | None:
        """Return how a cell is decided; None if it is not (the trigger is illegal then, too).

        Raises:
            ValueError: If the state or the trigger is not declared.
        """
        self._require(state, trigger)
        cell = (state, trigger)
        if cell in self._rows:
            return "row"
        if cell in self.ignored:
            return "ignored"
        return "illegal" if cell in self.illegal else None

    def reason(self, state: str, trigger: str) -> str:
        """Return the sentence of a cell; one made up for it if the declaration has none.

        Raises:
            ValueError: If the state or the trigger is not declared.
        """
        self._require(state, trigger)
        cell = (state, trigger)
        if cell in self._rows:
            return " ".join(row.doc for row in self._rows[cell])
        sentence = self.ignored.get(cell) or self.illegal.get(cell)
        if sentence:
            return sentence
        allowed = ", ".join(t for t in self.triggers if (state, t) in self._rows) or "nothing"
        return f"The machine {self.name!r} has no row for it; from {state!r} it allows {allowed}."

    def trigger_between(self, source: str, dest: str) -> str | None:
        """Return the first declared trigger that leads from `source` to `dest`; None if none does.

        Raises:
            ValueError: If a state is not declared.
        """
        self._require(source)
        self._require(dest)
        return self._between.get((source, dest))

    def _require(self, state: str, trigger: str | None = None) -> None:
        if state not in self.states:
            known = ", ".join(self.states)
            raise ValueError(f"the machine {self.name!r} has no state {state!r}, only {known}")
        if trigger is not None and trigger not in self.triggers:
            known = ", ".join(self.triggers)
            raise ValueError(f"the machine {self.name!r} has no trigger {trigger!r}, only {known}")

    def _definition(self) -> tuple[Any, ...]:
        return (
            self.name,
            tuple(self.states.items()),
            self.initial,
            self.final,
            self.transitions,
            tuple(self.ignored.items()),
            tuple(self.illegal.items()),
            self.complete,
            self.failures,
            tuple(self.groups.items()),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Declaration):
            return NotImplemented
        return self is other or self._definition() == other._definition()

    def __hash__(self) -> int:
        return self._hash

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Declaration cannot be changed (setting {name!r})")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Declaration cannot be changed (deleting {name!r})")

    def __reduce__(self) -> tuple[Any, ...]:
        states = dict(self.states) if any(self.states.values()) else tuple(self.states)
        ignored, illegal = dict(self.ignored), dict(self.illegal)
        rest = (self.initial, self.final, self.transitions, ignored, illegal, self.complete)
        return Declaration, (self.name, states, *rest, self.failures, dict(self.groups))

    def __repr__(self) -> str:
        counts = f"{len(self.states)} states, {len(self.transitions)} rows"
        return f"<Declaration {self.name!r}: {counts}>"


def _read_names(what: str, names: Iterable[Any], problems: list[str]) -> tuple[Any, ...]:
    if isinstance(names, str):
        problems.append(f"`{what}` is the string {names!r}; give a collection of names")
        return ()
    read = tuple(plain(name) for name in names)
    twice = dict.fromkeys(repr(name) for name in read if read.count(name) > 1)
    problems += (f"`{what}` names {name} twice; name it once" for name in twice)
    return read


def _read_states(states: Iterable[Any], problems: list[str]) -> dict[Any, Any]:
    if not isinstance(states, Mapping):
        return dict.fromkeys(_read_names("states", states, problems), "")
    read = {plain(state): _sentence(text) for state, text in states.items()}
    for state, text in read.items():
        if not isinstance(text, str) or not text:
            problems.append(f"the state {state!r} has no sentence; say what it means")
    return read


def _read_cells(what: str, cells: Mapping[Any, Any], problems: list[str]) -> dict[Any, Any]:
    read: dict[Any, Any] = {}
    for cell, text in cells.items():
        if not isinstance(cell, tuple) or len(cell) != 2:
            problems.append(f"`{what}` has the key {cell!r}; a key is a pair (state, trigger)")
            continue
        state, trigger = plain(cell[0]), plain(cell[1])
        read[state, trigger] = _sentence(text)
        if not read[state, trigger] or not isinstance(text, str):
            problems.append(f"`{what}` has no sentence for {trigger!r} in {state!r}; say why")
    return read


def _read_groups(groups: Mapping[Any, Any], problems: list[str]) -> dict[Any, Any]:
    return {
        group: _read_names(f"groups[{group!r}]", states, problems)
        for group, states in groups.items()
    }
