"""The little of SVG that the pictures need."""

from __future__ import annotations

import unicodedata
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

NAMESPACE = "http://www.w3.org/2000/svg"
FONT = "Helvetica,Arial,sans-serif"
INK = "#16283a"
FAINT = "#6b7c8f"
FILLS = {  # of states; as the groups of the lifecycle in its diagram
    "disconnected": ("#eef1f5", "#4a6785"),
    "connecting": ("#fdf0cf", "#a87400"),
    "reconnecting": ("#fdf0cf", "#a87400"),
    "connected": ("#d9f0e1", "#2c7a4b"),
    "closing": ("#d9f0e1", "#2c7a4b"),
    "error": ("#fbdfdc", "#a8322a"),
}
"""Fill and border of each state."""

_NARROW, _WIDE = frozenset(" !',./:;I[]fijlrt|()-"), frozenset("%@MWmw…")  # letters

ElementTree.register_namespace("", NAMESPACE)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def name(tag: str) -> str:
    """A tag as ElementTree calls it."""
    return f"{{{NAMESPACE}}}{tag}"


def canvas(width: float, height: float) -> Element:
    """Return an empty white picture of so many pixels."""
    root = Element(
        name("svg"),
        width=number(width),
        height=number(height),
        viewBox=f"0 0 {number(width)} {number(height)}",
    )
    add(root, "rect", width=width, height=height, fill="white")
    return root


def add(parent: Element, tag: str, title: str = "", **attributes: object) -> Element:
    """Append an element; underscores in the names of attributes stand for hyphens.

    Args:
        parent: Where to.
        tag: What it is.
        title: Shown while the pointer rests on it.
        **attributes: Its attributes; numbers are written short.
    """
    element = ElementTree.SubElement(
        parent,
        name(tag),
        {
            key.replace("_", "-"): number(value) if isinstance(value, (int, float)) else str(value)
            for key, value in attributes.items()
        },
    )
    if title:
        ElementTree.SubElement(element, name("title")).text = printable(title)
    return element


def write(
    parent: Element, x: float, y: float, text: str, *, size: float = 11, **attributes: object
) -> Element:
    """Append a line of text."""
    style = {"fill": INK, "font_family": FONT, "font_size": size, **attributes}
    element = add(parent, "text", "", x=x, y=y, **style)
    element.text = printable(text)
    return element


def text_width(text: str, size: float) -> float:
    """About how many pixels a text is wide; rather more than less, as fonts differ."""
    return size * sum(_letter_width(char) for char in text)


def _letter_width(char: str) -> float:
    """In ems, about as in Helvetica."""
    if unicodedata.east_asian_width(char) in "WF":
        return 1.0
    if char in _NARROW:
        return 0.33
    return 0.86 if char in _WIDE else 0.68 if char.isupper() else 0.56


def printable(text: str) -> str:
    """Text without what XML cannot hold."""
    return "".join(char if char.isprintable() else " " for char in text)


def number(value: float) -> str:
    """A number with at most two places."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def to_text(root: Element) -> str:
    """Return the picture as a file's text."""
    return ElementTree.tostring(root, encoding="unicode") + "\n"
