"""Quantities over time: the queue and the round trips."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from xml.etree.ElementTree import Element

from tunnel.history import History, Sample
from tunnel.pictures.axis import LEFT, RIGHT, WIDTH, Axis, name_row
from tunnel.pictures.svg import FAINT, add, number, write
from tunnel.pictures.words import round_trip

HEIGHT = 72.0  # of a curve's panel
_WHEN = attrgetter("time")


@dataclass(frozen=True)
class Curve:
    """A quantity over time; None where it is not known. Say: how a value is written."""

    name: str
    points: tuple[tuple[float, float | None], ...]
    colour: str
    say: Callable[[float], str]


def curves_of(history: History, axis: Axis) -> list[Curve]:
    """Return what was measured in the time that is shown."""
    samples = _shown(history.samples, axis)
    curves = []
    if samples:
        queue = tuple((sample.time, float(sample.queued)) for sample in samples)
        curves.append(Curve("queue", queue, "#3d6fb4", number))
    if any(sample.round_trip is not None for sample in samples):
        trips = tuple((sample.time, sample.round_trip) for sample in samples)
        curves.append(Curve("round trip", trips, "#7a4fa3", round_trip))
    return curves


def _shown(samples: Sequence[Sample], axis: Axis) -> Sequence[Sample]:
    """Those in the picture, with what was known at its beginning and at its end."""
    first = max(0, bisect_left(samples, axis.begin, key=_WHEN) - 1)
    beyond = bisect_right(samples, axis.end, key=_WHEN)
    shown = [replace(s, time=max(s.time, axis.begin)) for s in samples[first:beyond]]
    if shown and beyond < len(samples):
        shown.append(replace(shown[-1], time=axis.end))
    return shown


def add_curve(root: Element, axis: Axis, curve: Curve, y: float) -> None:
    """Add the panel of a curve."""
    highest = max((value for _, value in curve.points if value is not None), default=0.0)
    scale = (HEIGHT - 12) / highest if highest else 0.0
    bottom = y + HEIGHT
    name_row(root, curve.name, y, HEIGHT)
    add(root, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, stroke=FAINT)
    if highest:
        write(root, LEFT - 8, y + 14, curve.say(highest), size=9, fill=FAINT, text_anchor="end")
    write(root, LEFT - 8, bottom, "0", size=9, fill=FAINT, text_anchor="end")
    for path in _pieces(curve.points):
        line = "".join(
            f"{'H' if place else 'M'}{number(axis.x(time))}{'' if place else ' '}"
            f"{f'V{number(bottom - value * scale)}' if place else number(bottom - value * scale)}"
            for place, (time, value) in enumerate(path)
        )
        area = f"{line}V{number(bottom)}H{number(axis.x(path[0][0]))}Z"
        add(root, "path", d=area, fill=curve.colour, fill_opacity=0.16)
        title = f"{curve.name}: {curve.say(highest)} at most"
        add(root, "path", title, d=line, fill="none", stroke=curve.colour, stroke_width=1.5)


def _pieces(
    points: Sequence[tuple[float, float | None]],
) -> list[list[tuple[float, float]]]:
    """The stretches of a curve in which it is known, each up to where it is known no more."""
    pieces: list[list[tuple[float, float]]] = []
    known: float | None = None
    for time, value in points:
        if value is not None and known is None:
            pieces.append([])
        if pieces and (value is not None or known is not None):
            last = value if value is not None else known
            assert last is not None
            pieces[-1].append((time, last))
        known = value
    return pieces
