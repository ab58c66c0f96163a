"""How a figure is measured: all contenders in turns, several rounds, and ratios within a round.

The machine's noise comes and goes in seconds, so what is compared is measured shortly one after the
other, and what counts is the ratio within each round. The order turns with each round, so that
nobody is always first. Everything here is free of sockets.

Who fails is measured again, up to three times. A peer that fails all of them is left out; a failure
of the tunnel itself is a goal missed, however fast it is.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeAlias

TUNNEL = "tunnel"
"""The name of the contender that all others are compared with."""

_TRIES = 3

Contenders: TypeAlias = Mapping[str, Callable[[], float]]
"""By name: what measures once, and returns the value in the figure's unit."""


@dataclass(frozen=True)
class Goal:
    """What a ratio of the tunnel to its peers is to be.

    Attributes:
        bound: The ratio.
        at_least: Whether it is the least, or else the most that it may be.
        peers: To whom; empty: to all that are measured, the best of them in each round.
    """

    bound: float
    at_least: bool = True
    peers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g} x"

    def holds(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound


@dataclass(frozen=True)
class Figure:
    """Something to measure.

    Attributes:
        name: What it is called on the command line: "receive-callback-64".
        title: What it is, for people: "receive by on_message, 64 B".
        unit: Of the values: "messages/s", "us", "KiB".
        contend: Called with whether it is to be brief; a context that sets everything up and gives
            the contenders, `TUNNEL` among them.
        goal: What is to be reached; None: it is only shown.
        limit: What the tunnel's value itself is to be at most (or at least, if more is better).
        more_is_better: Whether a greater value is the better one.
    """

    name: str
    title: str
    unit: str
    contend: Callable[[bool], AbstractContextManager[Contenders]]
    goal: Goal | None = None
    limit: float | None = None
    more_is_better: bool = True


@dataclass
class Result:
    """The values of one figure.

    Attributes:
        figure: What was measured.
        values: By contender: one value for each round.
        failures: By contender: what went wrong, in the order in which it did.
    """

    figure: Figure
    values: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """The median of a contender's values."""
        return statistics.median(self.values[name])

    def ratios(self) -> list[float]:
        """Of each round: the tunnel's value by the best value of the peers that count."""
        goal = self.figure.goal
        wanted = goal.peers if goal is not None and goal.peers else tuple(self.values)
        names = [name for name in wanted if name in self.values and name != TUNNEL]
        if not names or TUNNEL not in self.values:
            return []
        best = max if self.figure.more_is_better else min
        rounds = zip(*(self.values[name] for name in names), strict=True)
        return [
            ours / best(theirs) for ours, theirs in zip(self.values[TUNNEL], rounds, strict=True)
        ]

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios; None without a peer."""
        ratios = self.ratios()
        return statistics.median(ratios) if ratios else None

    @property
    def is_reached(self) -> bool | None:
        """Whether goal and limit are reached; None if there is neither, or nobody to compare."""
        figure, verdicts = self.figure, []
        if TUNNEL in self.failures:
            return False
        if figure.goal is not None and self.ratio is not None:
            verdicts.append(figure.goal.holds(self.ratio))
        if figure.limit is not None:
            ours = self.median(TUNNEL)
            verdicts.append(ours >= figure.limit if figure.more_is_better else ours <= figure.limit)
        return all(verdicts) if verdicts else None

    def to_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "name": self.figure.name,
            "title": self.figure.title,
            "unit": self.figure.unit,
            "more_is_better": self.figure.more_is_better,
            "values": self.values,
            "medians": {name: self.median(name) for name in self.values},
            "ratios": self.ratios(),
            "ratio": self.ratio,
            "goal": None if self.figure.goal is None else str(self.figure.goal),
            "limit": self.figure.limit,
            "reached": self.is_reached,
            # Of each the last line: a trial's traceback says where this machine has its files.
            "failures": {
                name: [failure.splitlines()[-1] for failure in them]
                for name, them in self.failures.items()
            },
        }


def measure(figure: Figure, rounds: int, *, brief: bool = False) -> Result:
    """Measure a figure.

    Args:
        figure: What to measure.
        rounds: How often; each contender is measured once in each.
        brief: Only see that it works.
    """
    result = Result(figure)
    with figure.contend(brief) as contenders:
        names = list(contenders)
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if name in result.failures and name not in result.values:
                    continue
                if not _measure_once(result, name, contenders[name]) and name == TUNNEL:
                    return result
    return result


def _measure_once(result: Result, name: str, contender: Callable[[], float]) -> bool:
    """Add a value; or only failures, and leave the contender out."""
    figure = result.figure
    for _ in range(_TRIES):
        try:
            value = contender()
        except Exception as exc:
            result.failures.setdefault(name, []).append(f"{type(exc).__name__}: {exc}")
            print(f"  {figure.name} {name}: {result.failures[name][-1]}", file=sys.stderr)
        else:
            result.values.setdefault(name, []).append(value)
            print(f"  {figure.name} {name}: {value:,.4g} {figure.unit}", file=sys.stderr)
            return True
    result.values.pop(name, None)
    return False
