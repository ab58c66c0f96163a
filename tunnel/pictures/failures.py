"""When something went wrong, and why."""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple
from xml.etree.ElementTree import Element

from tunnel.history import History
from tunnel.lifecycle import LIFECYCLE
from tunnel.pictures.axis import FAILURE, TOP
from tunnel.pictures.crowds import Bin, Crowds
from tunnel.pictures.svg import add, number, write
from tunnel.pictures.words import duration

_SAME_TIME = 0.05  # seconds between a step and the event that tells why, at most


class Failure(NamedTuple):
    """A step by which something went wrong: when, what (as "lost while connected"), and why."""

    time: float
    what: str
    why: str


def failures_of(history: History) -> list[Failure]:
    """Return what went wrong in a history, oldest first."""
    errors = [
        (event.timestamp.timestamp(), event.message)
        for event in history.tracker.events
        if "error" in event.metadata
    ]
    errors.sort()
    failures = []
    for step in history.steps:
        if step.trigger in LIFECYCLE.failures:
            at = bisect(errors, step.time - _SAME_TIME, key=itemgetter(0))
            is_its = at < len(errors) and errors[at][0] < step.time + _SAME_TIME
            what = f"{step.trigger} while {step.source}"
            failures.append(Failure(step.time, what, errors[at][1] if is_its else ""))
    return failures


def add_failures(root: Element, crowds: Crowds, failures: Iterable[Failure], below: float) -> None:
    """Add a mark at the top for each, and a line through all panels; of many, their number."""
    counted: defaultdict[Bin, Counter[str]] = defaultdict(Counter)
    for failure in failures:
        crowded = crowds.bin_at(failure.time)
        if crowded is not None:
            counted[crowded][failure.what] += 1
            continue
        x = crowds.axis.x(failure.time)
        add(
            root, "line", x1=x, x2=x, y1=TOP - 4, y2=below,
            stroke=FAILURE, stroke_width=1, stroke_dasharray="3,3", opacity=0.55,
        )  # fmt: skip
        title = failure.what + (f": {failure.why}" if failure.why else "")
        add_triangle(root, x, TOP - 3, title)
    for part, whats in counted.items():
        _add_count(root, part, whats)


def _add_count(root: Element, part: Bin, whats: Counter[str]) -> None:
    said = "; ".join(
        f"{what}, {count} times" if count > 1 else f"{what}, once"
        for what, count in whats.most_common()
    )
    add_triangle(root, part.middle, TOP - 3, f"{said} in {duration(part.end - part.begin)}")
    text = str(whats.total())
    write(root, part.middle, TOP - 13, text, size=9, text_anchor="middle", fill=FAILURE)


def add_triangle(root: Element, x: float, y: float, title: str = "") -> None:
    """Add the mark of a failure, with its tip there."""
    add(root, "path", title, d=f"M{number(x)} {number(y)}l-4 -8h8z", fill=FAILURE)
