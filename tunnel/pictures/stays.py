"""How long a tunnel was in which state, as bars."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

from tunnel.history import History
from tunnel.pictures.axis import ROW, Axis
from tunnel.pictures.crowds import Bin, Crowds
from tunnel.pictures.svg import FILLS, add, write
from tunnel.pictures.words import duration

_BAR = ROW - 6  # the height of a bar
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


def stays_of(history: History, begin: float, end: float) -> list[Stay]:
    """Return the stays that a history tells of, oldest first.

    Args:
        history: The history.
        begin: When what is known begins, in seconds since the Unix epoch.
        end: When it ends.
    """
    if not history.steps:
        return [Stay(history.tracker.state.value, begin, end)]
    first, last = history.steps[0], history.steps[-1]
    stays = [
        Stay(step.dest, step.time, after.time, after.trigger)
        for step, after in pairwise(history.steps)
    ]
    if first.time > begin:
        stays.insert(0, Stay(first.source, begin, first.time, first.trigger))
    return [*stays, Stay(last.dest, last.time, end)]


def add_row(root: Element, crowds: Crowds, stays: Sequence[Stay], y: float) -> None:
    """Add the row of a state: its stays, all of which are in the picture at least in part."""
    axis = crowds.axis
    counts: Counter[Bin] = Counter()
    seconds: defaultdict[Bin, float] = defaultdict(float)
    for stay in stays:
        begin, end = max(stay.begin, axis.begin), min(stay.end, axis.end)
        for left, right in crowds.gaps_between(begin, end):
            _add_bar(root, axis, stay, left, right, y + 3)
        for part in crowds.bins_between(begin, end):
            counts[part] += 1
            seconds[part] += min(end, part.end) - max(begin, part.begin)
    for part, count in counts.items():
        _add_share(root, part, stays[0].state, seconds[part], count, y + 3)


def _add_bar(root: Element, axis: Axis, stay: Stay, left: float, right: float, y: float) -> None:
    """A stay, or that part of it which is drawn by itself."""
    fill, border = FILLS[stay.state]
    x = axis.x(left)
    width = max(_LEAST, axis.x(right) - x)
    lasted = duration(stay.end - stay.begin)
    after = stay.begin - axis.begin
    when = f"{after:.2f} s after" if after >= 0 else f"from {-after:.2f} s before"
    shape = {"fill": fill if width > 4 else border, "stroke": border if width > 4 else "none"}
    title = f"{stay.state} for {lasted}, {when} the beginning"
    add(root, "rect", title, x=x, y=y, width=width, height=_BAR, rx=2, **shape)
    if width > 6 * len(lasted):
        write(root, x + width / 2, y + 13, lasted, size=10, text_anchor="middle")


def _add_share(root: Element, part: Bin, state: str, seconds: float, count: int, y: float) -> None:
    """What a state has of a crowded bin, as a bar of that height."""
    fill, border = FILLS[state]
    share = min(1.0, seconds / (part.end - part.begin))
    height = max(_LEAST, _BAR * share)
    stays = "1 stay" if count == 1 else f"{count} stays"
    title = f"{state} {100 * share:.1f} % of {duration(part.end - part.begin)}, in {stays}"
    top = y + _BAR - height
    add(
        root, "rect", title, x=part.x, y=top, width=part.width, height=height,
        fill=fill, shape_rendering="crispEdges",
    )  # fmt: skip
    add(root, "line", x1=part.x, x2=part.x + part.width, y1=top, y2=top, stroke=border)
