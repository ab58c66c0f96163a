"""What the marks of a timeline mean."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from tunnel.pictures.attempts import ATTEMPT, add_mark
from tunnel.pictures.axis import LEFT, RIGHT, WIDTH
from tunnel.pictures.failures import add_triangle
from tunnel.pictures.svg import FAINT, add, text_width, write

_LINE = 18.0  # the height of a line
_BETWEEN = 22.0  # between two entries


def legend_height(notes: Sequence[str]) -> float:
    """How much room a legend with these notes takes, in pixels."""
    return _LINE * (1 + bool(notes))


def add_legend(root: Element, y: float, *, has_unmade: bool, notes: Sequence[str]) -> None:
    """Add the legend.

    Args:
        root: The picture.
        y: Where the text of its first line stands.
        has_unmade: Whether attempts were announced that were not made.
        notes: What else is to be said, on a line of its own.
    """
    x = LEFT + 4
    add_triangle(root, x, y)
    x = _say(root, x + 10, y, "something went wrong")
    add(root, "line", x1=x, x2=x + 22, y1=y - 4, y2=y - 4, stroke=ATTEMPT, stroke_width=1.5)
    add_mark(root, x + 22, y - 4, is_made=True)
    x = _say(root, x + 32, y, "wait, then attempt (its number)")
    if has_unmade:
        add_mark(root, x + 4, y - 4, is_made=False)
        _say(root, x + 14, y, "not made")
    write(root, WIDTH - RIGHT, y, "time since the beginning", fill=FAINT, text_anchor="end")
    write(root, LEFT, y + _LINE, "; ".join(notes), fill=FAINT)


def _say(root: Element, x: float, y: float, text: str) -> float:
    """Add an entry's text. Returns where the next entry begins."""
    write(root, x, y, text, fill=FAINT)
    return x + text_width(text, 11) + _BETWEEN
