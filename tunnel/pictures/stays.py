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
    """One stay in a state, in seconds since the Unix epoch."""

    state: str
    begin: float
    end: float


def stays_of(history: History, axis: Axis) -> list[Stay]:
    """The stays that a history tells of, oldest first."""
    if not history.steps:
        return [Stay(history.tracker.state.value, axis.begin, axis.end)]
    first = history.steps[0]
    spans = [Stay(first.source, axis.begin, first.time)] if first.time > axis.begin else []
    spans += [Stay(step.dest, step.time, after.time) for step, after in pairwise(history.steps)]
    return [*spans, Stay(history.steps[-1].dest, history.steps[-1].time, axis.end)]


def add_row(root: Element, axis: Axis, state: str, spans: Sequence[Stay], y: float) -> None:
    """Add the row of a state."""
    name_row(root, state, y + ROW / 2 + 4)
    fill, border = FILLS[state]
    for span in spans:
        x = axis.x(span.begin)
        width = max(_LEAST, axis.x(span.end) - x)
        lasted = duration(span.end - span.begin)
        title = f"{state} for {lasted}, {span.begin - axis.begin:.2f} s after the beginning"
        shape = {"fill": fill if width > 4 else border, "stroke": border}
        if width <= 4:
            shape["stroke"] = "none"
        add(root, "rect", title, x=x, y=y + 3, width=width, height=ROW - 6, rx=2, **shape)
        if width > 6 * len(lasted):
            write(root, x + width / 2, y + 16, lasted, size=10, text_anchor="middle")
