"""A run as a timeline: states, attempts, queue and round trips over the same axis of time."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from tunnel.history import History
from tunnel.lifecycle import LIFECYCLE
from tunnel.pictures.attempts import ATTEMPT, add_attempts
from tunnel.pictures.axis import FAILURE, LEFT, RIGHT, ROW, TOP, WIDTH, Axis, add_grid, axis_of
from tunnel.pictures.curves import HEIGHT, add_curve, curves_of
from tunnel.pictures.failures import add_failures
from tunnel.pictures.stays import add_row, stays_of
from tunnel.pictures.svg import FAINT, add, canvas, number, to_text, write
from tunnel.pictures.words import duration, moment, whose

_GAP = 26.0  # between panels


def draw_timeline(history: History, *, now: float | None = None) -> str:
    """Draw what a tunnel went through, from left to right.

    Args:
        history: What it went through. Queue and round trips are shown if they were measured.
        now: The end of the picture in seconds since the Unix epoch; None: the last thing known.

    Returns:
        SVG, as a file's text.
    """
    axis = axis_of(history, now)
    spans = stays_of(history, axis)
    states = [s for s in LIFECYCLE.states if any(span.state == s for span in spans)]
    curves = curves_of(history)
    below = TOP + ROW * (len(states) + 1) + (_GAP + HEIGHT) * len(curves)
    root = canvas(WIDTH, below + 74)
    _add_head(root, history, axis)
    add_grid(root, axis, below)
    y = TOP
    for state in states:
        add_row(root, axis, state, [s for s in spans if s.state == state], y)
        y += ROW
    add_attempts(root, axis, history, y)
    y += ROW
    for curve in curves:
        y += _GAP
        add_curve(root, axis, curve, y)
        y += HEIGHT
    add_failures(root, axis, history, below)
    _add_legend(root, below + 44, has_curves=bool(curves))
    return to_text(root)


def _add_head(root: Element, history: History, axis: Axis) -> None:
    write(root, 16, 26, whose(history), size=15, font_weight="bold")
    losses = sum(step.source == "connected" and step.trigger == "lost" for step in history.steps)
    up = sum(s.end - s.begin for s in stays_of(history, axis) if s.state == "connected")
    length = axis.end - axis.begin
    facts = [
        f"from {moment(axis.begin)}",
        f"{duration(length)} long",
        f"connected {100 * up / length:.1f} % of it",
        "1 loss" if losses == 1 else f"{losses} losses",
    ]
    write(root, 16, 46, " · ".join(facts), size=12, fill=FAINT)


def _add_legend(root: Element, y: float, *, has_curves: bool) -> None:
    add(root, "path", d=f"M{number(LEFT + 4)} {number(y)}l-4 -8h8z", fill=FAILURE)
    write(root, LEFT + 14, y, "something went wrong", fill=FAINT)
    add(root, "line", x1=270, x2=292, y1=y - 4, y2=y - 4, stroke=ATTEMPT, stroke_width=1.5)
    add(root, "circle", cx=292, cy=y - 4, r=3.5, fill=ATTEMPT)
    write(root, 302, y, "wait, then attempt (its number)", fill=FAINT)
    if not has_curves:
        text = "queue and round trips were not recorded: see tunnel.recording"
        write(root, 500, y, text, fill=FAINT)
    write(root, WIDTH - RIGHT, y, "time since the beginning", fill=FAINT, text_anchor="end")
