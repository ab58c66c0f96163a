"""The attempts to reconnect, each as its wait and a mark at the end of that."""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

from tunnel.history import History, attempt_of
from tunnel.pictures.axis import ROW, Axis, name_row
from tunnel.pictures.svg import add, write
from tunnel.pictures.words import duration

ATTEMPT = "#a87400"
_ROOM = 15.0  # pixels that the number of an attempt needs


def add_attempts(root: Element, axis: Axis, history: History, y: float) -> None:
    """Each attempt as its wait and the dot at its end, where it was made."""
    name_row(root, "attempts", y + ROW / 2 + 4)
    taken = -math.inf
    for event in history.tracker.events:
        facts = attempt_of(event)
        if facts is None:
            continue
        attempt, delay = facts
        begin = event.timestamp.timestamp()
        due = min(begin + delay, axis.end)
        x1, x2, middle = axis.x(begin), axis.x(due), y + ROW / 2 + 4
        add(root, "line", x1=x1, x2=x2, y1=middle, y2=middle, stroke=ATTEMPT, stroke_width=1.5)
        title = f"attempt {attempt}, after a wait of {duration(delay)}: {event.message}"
        add(root, "circle", title, cx=x2, cy=middle, r=3.5, fill=ATTEMPT)
        if x2 - taken >= _ROOM:
            write(root, x2, middle - 6, str(attempt), size=9, text_anchor="middle", fill=ATTEMPT)
            taken = x2
