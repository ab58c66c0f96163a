"""When something went wrong, and why."""

from __future__ import annotations

from bisect import bisect
from operator import itemgetter
from xml.etree.ElementTree import Element

from tunnel.history import History
from tunnel.lifecycle import LIFECYCLE
from tunnel.pictures.axis import FAILURE, TOP, Axis
from tunnel.pictures.svg import add, number

_SAME_TIME = 0.05  # seconds between a step and the event that tells why, at most


def add_failures(root: Element, axis: Axis, history: History, below: float) -> None:
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
            root, "line", x1=x, x2=x, y1=TOP - 4, y2=below,
            stroke=FAILURE, stroke_width=1, stroke_dasharray="3,3", opacity=0.55,
        )  # fmt: skip
        at = bisect(errors, step.time - _SAME_TIME, key=itemgetter(0))
        is_its = at < len(errors) and errors[at][0] < step.time + _SAME_TIME
        why = errors[at][1] if is_its else ""
        title = f"{step.trigger} while {step.source}" + (f": {why}" if why else "")
        add_triangle(root, x, TOP - 3, title)


def add_triangle(root: Element, x: float, y: float, title: str = "") -> None:
    """Add the mark of a failure, with its tip there."""
    add(root, "path", title, d=f"M{number(x)} {number(y)}l-4 -8h8z", fill=FAILURE)
