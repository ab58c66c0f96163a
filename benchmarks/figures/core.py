"""Figures of what happens in one thread: importing, and firing a trigger."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from transitions import Machine

from benchmarks.figures.fresh import LIMIT
from benchmarks.figures.measure import TUNNEL, Contenders, Figure, Goal
from benchmarks.figures.servers import ROOT
from statemachine import Record, StateMachine
from tunnel import LIFECYCLE

_IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
_IMPORTS = 5  # of each value, which is their median
_LIBRARIES = "websocket, transitions, tenacity, loguru"
_TURN = ("connect", "opened", "lost", "recover", "opened", "close", "closed")
_TURNS = 2000


@contextmanager
def _importing(brief: bool) -> Iterator[Contenders]:
    times = 1 if brief else _IMPORTS
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:

        def measure(modules: str) -> float:
            return statistics.median(_import(modules, environment) for _ in range(times))

        if not brief:
            environment["PYTHONPYCACHEPREFIX"] = folder
            environment.pop("PYTHONDONTWRITEBYTECODE", None)
            for modules in (TUNNEL, _LIBRARIES):
                _import(modules, environment)  # now they are compiled, as after an installation
        yield {TUNNEL: partial(measure, TUNNEL), "libraries": partial(measure, _LIBRARIES)}


def _import(modules: str, environment: Mapping[str, str]) -> float:
    """Milliseconds that importing takes in a new interpreter, without the start of that."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT.format(modules)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=ROOT,
        env=environment,
        check=True,
    )
    return float(done.stdout) * 1e3


class _Model:
    """What both machines need of a model: the guard of the table."""

    def may_recover(self) -> bool:
        return True


@contextmanager
def _firing(brief: bool) -> Iterator[Contenders]:
    turns = 10 if brief else _TURNS
    yield {
        TUNNEL: partial(_microseconds, _ours(), turns),
        "transitions": partial(_microseconds, _theirs(), turns),
    }


def _ours() -> Callable[[], None]:
    seen: list[Record] = []
    machine = StateMachine(LIFECYCLE, _Model())
    machine.subscribe(seen.append)

    def turn() -> None:
        for trigger in _TURN:
            machine.fire(trigger)
        seen.clear()

    return turn


def _theirs() -> Callable[[], None]:
    """The same table in a machine of `transitions`, which calls nobody and remembers nothing."""
    model: Any = _Model()
    Machine(
        model,
        states=list(LIFECYCLE.states),
        initial=LIFECYCLE.initial,
        transitions=[
            [row.trigger, row.source, row.dest, row.guard] for row in LIFECYCLE.transitions
        ],
        auto_transitions=False,
    )

    def turn() -> None:
        for trigger in _TURN:
            getattr(model, trigger)()

    return turn


def _microseconds(turn: Callable[[], None], turns: int) -> float:
    """For each trigger."""
    start = time.perf_counter()
    for _ in range(turns):
        turn()
    return (time.perf_counter() - start) / (turns * len(_TURN)) * 1e6


FIGURES: tuple[Figure, ...] = (
    Figure(
        "import",
        "import tunnel, or what it is made of",
        "ms",
        _importing,
        goal=Goal(1.5, at_least=False, peers=("libraries",)),
        more_is_better=False,
    ),
    Figure(
        "trigger",
        "firing a trigger, with history and an observer",
        "us",
        _firing,
        goal=Goal(1.5, at_least=False, peers=("transitions",)),
        more_is_better=False,
    ),
)
"""What takes no network."""
