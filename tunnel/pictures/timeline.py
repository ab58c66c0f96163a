"""A run as a timeline: states, attempts, queue and round trips over the same axis of time."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from tunnel.history import History
from tunnel.lifecycle import LIFECYCLE
from tunnel.pictures.attempts import add_attempts, attempts_of
from tunnel.pictures.axis import ROW, TOP, WIDTH, Axis, add_grid, axis_of
from tunnel.pictures.curves import HEIGHT, add_curve, curves_of
from tunnel.pictures.failures import add_failures
from tunnel.pictures.legend import add_legend, legend_height
from tunnel.pictures.stays import add_row, stays_of
from tunnel.pictures.svg import FAINT, canvas, to_text, write
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
    stays = stays_of(history, axis)
    attempts = attempts_of(history, stays)
    states = [s for s in LIFECYCLE.states if any(stay.state == s for stay in stays)]
    curves = curves_of(history)
    below = TOP + ROW * (len(states) + 1) + (_GAP + HEIGHT) * len(curves)
    notes = [] if curves else ["queue and round trips were not recorded: see tunnel.recording"]
    root = canvas(WIDTH, below + 56 + legend_height(notes))
    _add_head(root, history, axis)
    add_grid(root, axis, below)
    y = TOP
    for state in states:
        add_row(root, axis, state, [s for s in stays if s.state == state], y)
        y += ROW
    add_attempts(root, axis, attempts, y)
    y += ROW
    for curve in curves:
        y += _GAP
        add_curve(root, axis, curve, y)
        y += HEIGHT
    add_failures(root, axis, history, below)
    has_unmade = not all(attempt.is_made for attempt in attempts)
    add_legend(root, below + 44, has_unmade=has_unmade, notes=notes)
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
