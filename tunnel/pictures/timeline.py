"""A run as a timeline: states, attempts, queue and round trips over the same axis of time."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from xml.etree.ElementTree import Element

from tunnel.history import History, attempt_of
from tunnel.lifecycle import LIFECYCLE
from tunnel.pictures.svg import FAINT, FILLS, INK, add, canvas, number, to_text, write
from tunnel.pictures.words import duration, moment, round_trip, whose

_WIDTH, _LEFT, _RIGHT = 960.0, 118.0, 24.0  # of the picture, and of what is left and right of it
_TOP = 70.0  # where the first row begins
_ROW = 24.0  # the height of a state's row
_CURVE = 72.0  # the height of a curve's panel
_GAP = 26.0  # between panels
_GRID = "#e3e8ee"
_FAILURE = "#b3261e"
_ATTEMPT = "#a87400"
_LEAST = 1.5  # pixels that the shortest state gets: it shall be seen
_ROOM = 15.0  # pixels that the number of an attempt needs
_TICKS = 8  # on the axis, about
_SAME_TIME = 0.05  # seconds between a step and the event that tells why, at most


@dataclass(frozen=True)
class _Span:
    """One stay in a state, in seconds since the Unix epoch."""

    state: str
    begin: float
    end: float


@dataclass(frozen=True)
class _Axis:
    """Time from left to right."""

    begin: float
    end: float

    def x(self, time: float) -> float:
        """Where a time is, in pixels."""
        share = (time - self.begin) / (self.end - self.begin)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def draw_timeline(history: History, *, now: float | None = None) -> str:
    """Draw what a tunnel went through, from left to right.

    Args:
        history: What it went through. Queue and round trips are shown if they were measured.
        now: The end of the picture in seconds since the Unix epoch; None: the last thing known.

    Returns:
        SVG, as a file's text.
    """
    axis = _axis(history, now)
    spans = _spans(history, axis)
    states = [s for s in LIFECYCLE.states if any(span.state == s for span in spans)]
    curves = _curves(history)
    below = _TOP + _ROW * (len(states) + 1) + (_GAP + _CURVE) * len(curves)
    root = canvas(_WIDTH, below + 74)
    _add_head(root, history, axis)
    _add_grid(root, axis, below)
    y = _TOP
    for state in states:
        _add_row(root, axis, state, [s for s in spans if s.state == state], y)
        y += _ROW
    _add_attempts(root, axis, history, y)
    y += _ROW
    for curve in curves:
        y += _GAP
        _add_curve(root, axis, curve, y)
        y += _CURVE
    _add_failures(root, axis, history, below)
    _add_legend(root, below + 44, has_curves=bool(curves))
    return to_text(root)


def _axis(history: History, now: float | None) -> _Axis:
    times = [step.time for step in history.steps] + [sample.time for sample in history.samples]
    times += [event.timestamp.timestamp() for event in history.tracker.events]
    if now is not None:
        times.append(now)
    begin, end = min(times, default=0.0), max(times, default=0.0)
    return _Axis(begin, max(end, begin + 0.001))


def _spans(history: History, axis: _Axis) -> list[_Span]:
    if not history.steps:
        return [_Span(history.tracker.state.value, axis.begin, axis.end)]
    first = history.steps[0]
    spans = [_Span(first.source, axis.begin, first.time)] if first.time > axis.begin else []
    spans += [_Span(step.dest, step.time, after.time) for step, after in pairwise(history.steps)]
    return [*spans, _Span(history.steps[-1].dest, history.steps[-1].time, axis.end)]


def _add_head(root: Element, history: History, axis: _Axis) -> None:
    write(root, 16, 26, whose(history), size=15, font_weight="bold")
    losses = sum(step.source == "connected" and step.trigger == "lost" for step in history.steps)
    up = sum(s.end - s.begin for s in _spans(history, axis) if s.state == "connected")
    length = axis.end - axis.begin
    facts = [
        f"from {moment(axis.begin)}",
        f"{duration(length)} long",
        f"connected {100 * up / length:.1f} % of it",
        "1 loss" if losses == 1 else f"{losses} losses",
    ]
    write(root, 16, 46, " · ".join(facts), size=12, fill=FAINT)


def _add_grid(root: Element, axis: _Axis, below: float) -> None:
    step = _tidy((axis.end - axis.begin) / _TICKS)
    for tick in range(int((axis.end - axis.begin) / step) + 1):
        x = axis.x(axis.begin + tick * step)
        add(root, "line", x1=x, x2=x, y1=_TOP - 6, y2=below, stroke=_GRID)
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


def _add_row(root: Element, axis: _Axis, state: str, spans: Sequence[_Span], y: float) -> None:
    _name(root, state, y + _ROW / 2 + 4)
    fill, border = FILLS[state]
    for span in spans:
        x = axis.x(span.begin)
        width = max(_LEAST, axis.x(span.end) - x)
        lasted = duration(span.end - span.begin)
        title = f"{state} for {lasted}, {span.begin - axis.begin:.2f} s after the beginning"
        shape = {"fill": fill if width > 4 else border, "stroke": border}
        if width <= 4:
            shape["stroke"] = "none"
        add(root, "rect", title, x=x, y=y + 3, width=width, height=_ROW - 6, rx=2, **shape)
        if width > 6 * len(lasted):
            write(root, x + width / 2, y + 16, lasted, size=10, text_anchor="middle")


def _add_attempts(root: Element, axis: _Axis, history: History, y: float) -> None:
    """Each attempt as its wait and the dot at its end, where it was made."""
    _name(root, "attempts", y + _ROW / 2 + 4)
    taken = -math.inf
    for event in history.tracker.events:
        facts = attempt_of(event)
        if facts is None:
            continue
        attempt, delay = facts
        begin = event.timestamp.timestamp()
        due = min(begin + delay, axis.end)
        x1, x2, middle = axis.x(begin), axis.x(due), y + _ROW / 2 + 4
        add(root, "line", x1=x1, x2=x2, y1=middle, y2=middle, stroke=_ATTEMPT, stroke_width=1.5)
        title = f"attempt {attempt}, after a wait of {duration(delay)}: {event.message}"
        add(root, "circle", title, cx=x2, cy=middle, r=3.5, fill=_ATTEMPT)
        if x2 - taken >= _ROOM:
            write(root, x2, middle - 6, str(attempt), size=9, text_anchor="middle", fill=_ATTEMPT)
            taken = x2


@dataclass(frozen=True)
class _Curve:
    """A quantity over time; None where it is not known. Say: how a value is written."""

    name: str
    points: tuple[tuple[float, float | None], ...]
    colour: str
    say: Callable[[float], str]


def _curves(history: History) -> list[_Curve]:
    samples = history.samples
    curves = []
    if samples:
        queue = tuple((sample.time, float(sample.queued)) for sample in samples)
        curves.append(_Curve("queue", queue, "#3d6fb4", number))
    if any(sample.round_trip is not None for sample in samples):
        trips = tuple((sample.time, sample.round_trip) for sample in samples)
        curves.append(_Curve("round trip", trips, "#7a4fa3", round_trip))
    return curves


def _add_curve(root: Element, axis: _Axis, curve: _Curve, y: float) -> None:
    highest = max((value for _, value in curve.points if value is not None), default=0.0)
    scale = (_CURVE - 12) / highest if highest else 0.0
    bottom = y + _CURVE
    _name(root, curve.name, y + _CURVE / 2 + 4)
    add(root, "line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, stroke=FAINT)
    if highest:
        write(root, _LEFT - 8, y + 14, curve.say(highest), size=9, fill=FAINT, text_anchor="end")
    write(root, _LEFT - 8, bottom, "0", size=9, fill=FAINT, text_anchor="end")
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


def _add_failures(root: Element, axis: _Axis, history: History, below: float) -> None:
    """A mark at the top for each step by which something went wrong; a line through all panels."""
    errors = [
        (event.timestamp.timestamp(), event.message)
        for event in history.tracker.events
        if "error" in event.metadata
    ]
    errors.sort()
    for step in history.steps:
        if step.trigger not in LIFECYCLE.failures:
            continue
        x = axis.x(step.time)
        add(
            root, "line", x1=x, x2=x, y1=_TOP - 4, y2=below,
            stroke=_FAILURE, stroke_width=1, stroke_dasharray="3,3", opacity=0.55,
        )  # fmt: skip
        at = bisect(errors, step.time - _SAME_TIME, key=itemgetter(0))
        is_its = at < len(errors) and errors[at][0] < step.time + _SAME_TIME
        why = errors[at][1] if is_its else ""
        title = f"{step.trigger} while {step.source}" + (f": {why}" if why else "")
        d = f"M{number(x)} {number(_TOP - 3)}l-4 -8h8z"
        add(root, "path", title, d=d, fill=_FAILURE)


def _add_legend(root: Element, y: float, *, has_curves: bool) -> None:
    add(root, "path", d=f"M{number(_LEFT + 4)} {number(y)}l-4 -8h8z", fill=_FAILURE)
    write(root, _LEFT + 14, y, "something went wrong", fill=FAINT)
    add(root, "line", x1=270, x2=292, y1=y - 4, y2=y - 4, stroke=_ATTEMPT, stroke_width=1.5)
    add(root, "circle", cx=292, cy=y - 4, r=3.5, fill=_ATTEMPT)
    write(root, 302, y, "wait, then attempt (its number)", fill=FAINT)
    if not has_curves:
        text = "queue and round trips were not recorded: see tunnel.recording"
        write(root, 500, y, text, fill=FAINT)
    write(root, _WIDTH - _RIGHT, y, "time since the beginning", fill=FAINT, text_anchor="end")


def _name(root: Element, text: str, y: float) -> None:
    write(root, 16, y, text, size=12, fill=INK)
