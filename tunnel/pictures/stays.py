"""How long a tunnel was in which state, as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

from tunnel.history import History
from tunnel.pictures.axis import ROW, Axis, name_row
from tunnel.pictures.svg import FILLS, add, write
from tunnel.pictures.words import duration

_LEAST = 1.5  # pixels that the shortest stay gets: it shall be seen


@dataclass(frozen=True)
class Stay:
    """One stay in a state.

    Attributes:
        state: The state.
        begin: When it was entered, in seconds since the Unix epoch; at the earliest, the beginning
            of what is known.
        end: When it was left, or the end of what is known.
        left_by: The trigger by which it was left; None: it was not.
    """

    state: str
    begin: float
    end: float
    left_by: str | None = None


def stays_of(history: History, axis: Axis) -> list[Stay]:
    """The stays that a history tells of, oldest first."""
    if not history.steps:
        return [Stay(history.tracker.state.value, axis.begin, axis.end)]
    first, last = history.steps[0], history.steps[-1]
    stays = [
        Stay(step.dest, step.time, after.time, after.trigger)
        for step, after in pairwise(history.steps)
    ]
    if first.time > axis.begin:
        stays.insert(0, Stay(first.source, axis.begin, first.time, first.trigger))
    return [*stays, Stay(last.dest, last.time, axis.end)]


def add_row(root: Element, axis: Axis, state: str, stays: Sequence[Stay], y: float) -> None:
    """Add the row of a state."""
    name_row(root, state, y + ROW / 2 + 4)
    fill, border = FILLS[state]
    for stay in stays:
        x = axis.x(stay.begin)
        width = max(_LEAST, axis.x(stay.end) - x)
        lasted = duration(stay.end - stay.begin)
        title = f"{state} for {lasted}, {stay.begin - axis.begin:.2f} s after the beginning"
        shape = {"fill": fill if width > 4 else border, "stroke": border}
        if width <= 4:
            shape["stroke"] = "none"
        add(root, "rect", title, x=x, y=y + 3, width=width, height=ROW - 6, rx=2, **shape)
        if width > 6 * len(lasted):
            write(root, x + width / 2, y + 16, lasted, size=10, text_anchor="middle")
