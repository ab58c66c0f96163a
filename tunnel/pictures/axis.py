"""The axis of time that all rows of a timeline share, and its grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from tunnel.history import History
from tunnel.pictures.svg import FAINT, INK, add, write

WIDTH, LEFT, RIGHT = 960.0, 118.0, 24.0  # of the picture, and of what is left and right of it
TOP = 70.0  # where the first row begins
ROW = 24.0  # the height of a row
FAILURE = "#b3261e"
_GRID = "#e3e8ee"
_TICKS = 8  # on the axis, about


@dataclass(frozen=True)
class Axis:
    """Time from left to right."""

    begin: float
    end: float

    def x(self, time: float) -> float:
        """Where a time is, in pixels."""
        share = (time - self.begin) / (self.end - self.begin)
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def axis_of(history: History, now: float | None) -> Axis:
    """The time from the first thing that is known to the last, or to `now`."""
    times = [step.time for step in history.steps] + [sample.time for sample in history.samples]
    times += [event.timestamp.timestamp() for event in history.tracker.events]
    if now is not None:
        times.append(now)
    begin, end = min(times, default=0.0), max(times, default=0.0)
    return Axis(begin, max(end, begin + 0.001))


def add_grid(root: Element, axis: Axis, below: float) -> None:
    """Add lines and times, down to `below`."""
    step = _tidy((axis.end - axis.begin) / _TICKS)
    for tick in range(int((axis.end - axis.begin) / step) + 1):
        x = axis.x(axis.begin + tick * step)
        add(root, "line", x1=x, x2=x, y1=TOP - 6, y2=below, stroke=_GRID)
        write(root, x, below + 16, _tick(tick * step, step), fill=FAINT, text_anchor="middle")


def _tidy(least: float) -> float:
    """The nearest step above that people count in."""
    for step in (60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400):
        if 30 < least <= step:
            return float(step)
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least)


def _tick(seconds: float, step: float) -> str:
    if step < 60:
        return f"{seconds:.10g} s"
    if step < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if step < 86400 else f"{seconds / 86400:.0f} d"


def name_row(root: Element, text: str, y: float) -> None:
    """Say on the left what a row or a panel shows."""
    write(root, 16, y, text, size=12, fill=INK)
