"""The axis of time that all rows of a timeline share, and its grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from tunnel.pictures.svg import FAINT, INK, add, write

WIDTH, LEFT, RIGHT = 960.0, 118.0, 24.0  # of the picture, and of what is left and right of it
PLOT = WIDTH - LEFT - RIGHT  # how wide the time is
TOP = 78.0  # where the first row begins
ROW = 24.0  # the height of a row
FAILURE = "#b3261e"
_GRID = "#e3e8ee"
_TICKS = 8  # on the axis, about


@dataclass(frozen=True)
class Axis:
    """Time from left to right.

    Attributes:
        begin: The time on the left, in seconds since the Unix epoch.
        end: The time on the right; not before `begin`.
    """

    begin: float
    end: float

    @property
    def length(self) -> float:
        """The seconds that are shown."""
        return self.end - self.begin

    @property
    def extent(self) -> float:
        """The seconds from left to right; more than 0, also if a single moment is shown."""
        return max(self.length, 0.001)

    def x(self, time: float) -> float:
        """Where a time is, in pixels."""
        return LEFT + PLOT * (time - self.begin) / self.extent

    def shows(self, time: float) -> bool:
        """Whether this time is in the picture."""
        return self.begin <= time <= self.end


def add_grid(root: Element, axis: Axis, below: float) -> None:
    """Add lines and times, down to `below`."""
    step = _tidy(axis.extent / _TICKS)
    for tick in range(int(axis.length / step) + 1):
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


def name_row(root: Element, text: str, y: float, height: float = ROW) -> None:
    """Say on the left what the row or the panel that begins at `y` shows."""
    write(root, 16, y + height / 2 + 4, text, size=12, fill=INK)
