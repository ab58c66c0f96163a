"""How a curve is measured, and how it is judged.

The same work is done at each x, then again from the beginning, several times; the fastest counts,
so a disturbance of some seconds spoils one round of many points rather than all of one. In the last
round it is done once more with memory traced, so that tracing slows down no time that counts. What
is judged is how steep the curves are on doubly logarithmic axes, in their upper half: below that,
constant costs hide how others grow. A slope of 0 is constant, 1 linear, 2 quadratic.
"""

from __future__ import annotations

import gc
import math
import statistics
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass

STEEPEST = 1.2
"""The slope that still counts as linear: 1, and what a noisy machine and its caches add."""


@dataclass(frozen=True)
class Spent:
    """What one run of the work took.

    Attributes:
        seconds: From its beginning to its end, without set-up.
        items: How many were dealt with.
        size: Bytes in each, for those whose throughput is one of bytes.
    """

    seconds: float
    items: int
    size: int = 0


@dataclass(frozen=True)
class Curve:
    """Something that grows.

    Attributes:
        name: What it is called on the command line, and its picture's file.
        title: What it is, for people.
        x_label: What grows, with its unit.
        items: What is counted in a second.
        xs: Where it is measured.
        brief: Where it is measured if it is to be brief.
        work: Called with x, and whether it is to be brief; a context that sets everything up, and
            gives what does the work once.
        explanation: Why the curves are as they are. What was measured at x comes in by
            ``{time[x]}``, ``{throughput[x]}``, ``{mib[x]}`` (MiB/s) and ``{memory[x]}``.
        is_per_item: Whether the cost that is judged is that of an item, not that of all.
    """

    name: str
    title: str
    x_label: str
    items: str
    xs: tuple[int, ...]
    brief: tuple[int, ...]
    work: Callable[[int, bool], AbstractContextManager[Callable[[], Spent]]]
    explanation: str
    is_per_item: bool = False


@dataclass(frozen=True)
class Point:
    """What was measured at one x.

    Attributes:
        x: How much there was of what grows.
        seconds: For all items, or for one if the curve is one of items.
        throughput: Items in a second.
        kib: The most memory that Python objects took at once during the work, in KiB.
        mib_a_second: Throughput in bytes, where that is known; else 0.
    """

    x: int
    seconds: float
    throughput: float
    kib: float
    mib_a_second: float = 0.0


@dataclass(frozen=True)
class Growth:
    """A curve that was measured.

    Attributes:
        curve: What was measured.
        points: From the least x to the greatest.
    """

    curve: Curve
    points: tuple[Point, ...]

    @property
    def time_slope(self) -> float:
        """How steep the time is."""
        return slope([(point.x, point.seconds) for point in self.points])

    @property
    def memory_slope(self) -> float:
        """How steep the memory is."""
        return slope([(point.x, point.kib) for point in self.points])

    @property
    def is_at_most_linear(self) -> bool:
        """Whether neither is steeper than linear."""
        return max(self.time_slope, self.memory_slope) <= STEEPEST

    def to_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "name": self.curve.name,
            "title": self.curve.title,
            "x": self.curve.x_label,
            "items": self.curve.items,
            "points": [asdict(point) for point in self.points],
            "time_slope": self.time_slope,
            "memory_slope": self.memory_slope,
            "at_most_linear": self.is_at_most_linear,
        }


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the upper half on doubly logarithmic axes, by least squares.

    Args:
        points: In the order of x; all numbers more than 0. A single one counts as constant.
    """
    if len(points) < 2:
        return 0.0
    upper = points[min(len(points) // 2, max(0, len(points) - 3)) :]
    xs = [math.log(x) for x, _ in upper]
    ys = [math.log(y) for _, y in upper]
    return statistics.linear_regression(xs, ys).slope


def measure(curve: Curve, rounds: int, *, brief: bool = False) -> Growth:
    """Measure a curve.

    Args:
        curve: What to measure.
        rounds: How often at each x.
        brief: Only see that it works.
    """
    xs = curve.brief if brief else curve.xs
    fastest: dict[int, Spent] = {}
    memory: dict[int, float] = {}
    for number in range(rounds):
        for x in xs:
            with curve.work(x, brief) as work:
                work()  # what only the first run pays for
                spent = [work(), *filter(None, [fastest.get(x)])]
                fastest[x] = min(spent, key=lambda one: one.seconds)
                if number == rounds - 1:
                    memory[x] = _memory(work)
            print(f"  {curve.name} {x:,}: {spent[0].seconds:.4g} s", file=sys.stderr)
    return Growth(curve, tuple(_point(curve, x, fastest[x], memory[x]) for x in xs))


def _point(curve: Curve, x: int, spent: Spent, kib: float) -> Point:
    throughput = spent.items / spent.seconds
    seconds = 1 / throughput if curve.is_per_item else spent.seconds
    return Point(x, seconds, throughput, kib, throughput * spent.size / 2**20)


def _memory(work: Callable[[], object]) -> float:
    """KiB that the work took at once, at most."""
    with _traced() as peak:
        work()
        return peak() / 1024


@contextmanager
def _traced() -> Iterator[Callable[[], int]]:
    """Trace memory; gives what returns the most bytes at once so far, beyond those at the start."""
    gc.collect()
    tracemalloc.start()
    try:
        yield lambda: max(1, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
