"""The title of a picture: whose tunnel it is, as far as there is room."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from tunnel.history import History
from tunnel.pictures.svg import add, printable, text_width, write
from tunnel.pictures.words import whose

LEFT = 16.0  # where a title begins
_BETWEEN = " · "
_BOLD = 1.08  # how much wider bold letters are


def add_title(root: Element, history: History, y: float, *, size: float, width: float) -> None:
    """Add the title; what is too long ends with an ellipsis, and is shown under the pointer.

    Args:
        root: The picture.
        history: Whose.
        y: Where its text stands.
        size: The size of its letters, in pixels.
        width: The width of the picture.
    """
    parts = [printable(part) for part in whose(history)]
    letters = size * _BOLD
    room = width - 2 * LEFT
    if text_width(_BETWEEN.join(parts), letters) <= room:
        shown = _BETWEEN.join(parts)
    else:  # the name has half of the room at most, and the address what is left
        first = [_shortened(part, letters, room / 2) for part in parts[:-1]]
        rest = room - text_width(_BETWEEN.join([*first, ""]), letters)
        shown = _BETWEEN.join([*first, _shortened(parts[-1], letters, rest)])
    text = write(root, LEFT, y, shown, size=size, font_weight="bold")
    if shown != _BETWEEN.join(parts):
        add(text, "title").text = _BETWEEN.join(parts)


def _shortened(text: str, size: float, room: float) -> str:
    """As much of a text as there is room for."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(f"{text}…", size) > room:
        text = text[:-1]
    return f"{text}…"
