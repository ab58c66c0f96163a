"""The lifecycle's diagram with one tunnel in it: its state, the path it took, how often.

The diagram is the one in ``diagrams/``, laid out by Graphviz when it was made; here it is only
marked, which needs no Graphviz.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib.resources import files
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from tunnel.history import History
from tunnel.lifecycle import LIFECYCLE
from tunnel.pictures.svg import FAINT, FILLS, INK, add, name, number, to_text, write
from tunnel.pictures.title import add_title
from tunnel.pictures.words import changes, duration, moment

_HEAD = 62  # units above the diagram, for what is said of the tunnel
_PATH = 7  # states of the path that are listed
_LETTER = 4.6  # units that a letter of a label is wide, about
_ARROW = "▶"  # at the end of the legend's lines, as Graphviz writes them
_LINES = {"━━": {"stroke-width": "2.2"}, "╌╌": {"stroke-dasharray": "5,2"}, "──": {}}
_NOT_TAKEN = "0.28"  # how dense what was not entered or taken is drawn


def draw_diagram(history: History, *, now: float | None = None) -> str:
    """Draw the states of a connection, and mark what a tunnel went through.

    The present state has a thick border; arrows that were taken say how often; what was neither
    entered nor taken is faint.

    Args:
        history: What it went through.
        now: The present time in seconds since the Unix epoch, for how long the state has lasted;
            None: that is not said.

    Returns:
        SVG, as a file's text.
    """
    root = ElementTree.fromstring(_template())
    graph = root.find(name("g"))
    assert graph is not None
    state = history.tracker.state.value
    entered = {state, *(s.source for s in history.steps), *(s.dest for s in history.steps)}
    taken = Counter((s.source, s.dest, s.trigger) for s in history.steps)
    for group in list(graph):
        kind, label = group.get("class", ""), group.findtext(name("title"), "")
        if kind == "node":
            _mark_node(graph, group, is_present=label == state, was_entered=label in entered)
        elif kind.startswith("edge "):
            _mark_edge(group, label, taken, is_failure=kind == "edge failure")
    _draw_legend(graph)
    _add_head(root, history, now)
    return to_text(root)


@cache
def _template() -> str:
    text = (files("tunnel.pictures") / "lifecycle.svg").read_text("utf-8")
    return text[text.index("<svg") :]  # without the document type, whose only use was long ago


def _mark_node(graph: Element, node: Element, *, is_present: bool, was_entered: bool) -> None:
    if node.findtext(name("title")) == "[initial]":
        return
    if not was_entered:
        node.set("opacity", _NOT_TAKEN)
    if not is_present:
        return
    shapes = list(node.iter(name("path")))
    for shape in shapes:
        shape.set("stroke-width", "3.5")
        shape.set("stroke", INK)
    text = next(node.iter(name("text")))
    text.set("font-weight", "bold")
    x, y = float(text.get("x", "0")), float(text.get("y", "0"))
    bottom = y + (29 if len(shapes) == 1 else 33)  # below one border, or two
    badge = add(graph, "g")
    add(badge, "rect", x=x - 17, y=bottom - 13, width=34, height=15, rx=7, fill=INK)
    write(badge, x, bottom - 2, "now", size=10, fill="white", text_anchor="middle")


def _mark_edge(
    edge: Element, ends: str, taken: Counter[tuple[str, str, str]], *, is_failure: bool
) -> None:
    source, _, dest = ends.partition("->")
    counts = {
        trigger: count
        for (s, d, trigger), count in taken.items()
        if (s, d, trigger in LIFECYCLE.failures) == (source, dest, is_failure)
    }
    if not counts:
        edge.set("opacity", _NOT_TAKEN)
        return
    for text in edge.iter(name("text")):
        words = (text.text or "").strip("\xa0 ").split(" ")
        count = counts.get(words[0])
        if count:
            # It gets longer, and must not grow over the line on its left.
            half = _LETTER * sum(len(word) + 1 for word in words) / 2
            text.set("x", number(float(text.get("x", "0")) - half))
            text.set("text-anchor", "start")
            text.set("font-weight", "bold")
            text.text = f"{words[0]} \u00d7{count}"  # its guard has said yes, and need not be named
            text.set("paint-order", "stroke")
            text.set("stroke", "white")
            text.set("stroke-width", "3")


def _draw_legend(graph: Element) -> None:
    """Draw the legend's lines, which Graphviz can only write, as lines."""
    for text in graph.findall(name("text")):
        letters = (text.text or "").strip("\xa0 ")
        shape, _, words = letters.partition(_ARROW)
        if not words:
            continue
        colour, x, y = text.get("fill", ""), float(text.get("x", "0")), float(text.get("y", "0"))
        line = add(graph, "line", x1=x + 4, x2=x + 23, y1=y - 3.5, y2=y - 3.5, stroke=colour)
        for key, value in _LINES[shape].items():
            line.set(key, value)
        add(graph, "path", d=f"M{number(x + 29)} {number(y - 3.5)}l-8 -2.8v5.6z", fill=colour)
        text.text = words.strip("\xa0 ")
        text.set("x", number(x + 34))


def _add_head(root: Element, history: History, now: float | None) -> None:
    """Make room above the diagram, and say there what it shows."""
    _, _, width, height = (float(part) for part in root.get("viewBox", "").split())
    root.set("viewBox", f"0 {-_HEAD} {number(width)} {number(height + _HEAD)}")
    root.set("width", number(width))
    root.set("height", number(height + _HEAD))
    add(root, "rect", x=0, y=-_HEAD, width=width, height=_HEAD, fill="white")
    state = history.tracker.state.value
    add_title(root, history, -40, size=14, width=width)
    line = write(root, 16, -21, "", size=12)
    mark = add(line, "tspan", fill=FILLS[state][1], font_weight="bold")
    mark.text = state
    mark.tail = _since(history, now)
    write(root, 16, -4, _path(history), size=11, fill=FAINT)


def _since(history: History, now: float | None) -> str:
    if not history.steps:
        return "" if history.is_cut else ", as from the beginning"
    last = history.steps[-1].time
    lasted = f", for {duration(max(0.0, now - last))}" if now is not None else ""
    return f" since {moment(last)}{lasted}"


def _path(history: History) -> str:
    if not history.steps:
        return changes(history) if history.is_cut else "no change of state yet"
    states = [history.steps[0].source, *(step.dest for step in history.steps)]
    dots = "… → " if len(states) > _PATH else ""
    return f"{changes(history)}: {dots}{' → '.join(states[-_PATH:])}"
