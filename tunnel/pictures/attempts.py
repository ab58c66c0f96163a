"""The attempts to reconnect, each as its wait and a mark at the end of that.

What is recorded of an attempt is that it was announced: its number, and how long it is waited for.
Whether it was made is told by what came next.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import attrgetter
from typing import NamedTuple
from xml.etree.ElementTree import Element

from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.history import History, attempt_of
from tunnel.pictures.axis import ROW
from tunnel.pictures.crowds import Bin, Crowds
from tunnel.pictures.stays import Stay
from tunnel.pictures.svg import add, write
from tunnel.pictures.words import duration

ATTEMPT = "#a87400"
_ROOM = 15.0  # pixels that the number of an attempt needs
_CLOCKS = 0.001  # seconds by which the times of a step and of its event may differ
_OUTCOMES = frozenset({"opened", "exhausted", "fail"})  # triggers by which an attempt ends a stay
_WHEN = attrgetter("time")


@dataclass(frozen=True)
class Attempt:
    """An attempt that was announced.

    Attributes:
        number: Its number, from 1.
        begin: When its wait began, in seconds since the Unix epoch.
        end: When its wait ended, or was called off.
        is_made: Whether it was made then.
        title: What is said of it.
    """

    number: int
    begin: float
    end: float
    is_made: bool
    title: str


class _Announcement(NamedTuple):
    time: float
    number: int
    delay: float
    message: str

    @property
    def due(self) -> float:
        return self.time + self.delay


def attempts_of(history: History, stays: Sequence[Stay]) -> list[Attempt]:
    """Return the attempts of a history, oldest first.

    What was announced while the tunnel was not `reconnecting` is a note of the application.
    """
    offline = [_time(event) for event in history.tracker.events if _is_offline(event)]
    attempts = []
    for stay, announced in _by_stay(history, stays):
        for this, after in zip_longest(announced, announced[1:]):
            end = max(this.time, stay.end if after is None else after.time)
            is_made = _is_made(this, after, stay, offline)
            title = f"attempt {this.number}, {_fate(this, end, stay, is_made, after is None)}"
            attempts.append(
                Attempt(
                    this.number,
                    this.time,
                    min(this.due, end) if is_made else end,
                    is_made,
                    f"{title}: {this.message}",
                )
            )
    return attempts


def _by_stay(history: History, stays: Sequence[Stay]) -> Iterator[tuple[Stay, list[_Announcement]]]:
    """What was announced in each stay in `reconnecting`."""
    facts = ((event, attempt_of(event)) for event in history.tracker.events)
    announced = [_Announcement(_time(e), *fact, e.message) for e, fact in facts if fact is not None]
    announced.sort(key=_WHEN)
    for stay in stays:
        if stay.state == "reconnecting":
            first = bisect_left(announced, stay.begin - _CLOCKS, key=_WHEN)
            beyond = bisect_right(announced, stay.end + _CLOCKS, key=_WHEN)
            yield stay, announced[first:beyond]


def _is_made(
    this: _Announcement, after: _Announcement | None, stay: Stay, offline: Sequence[float]
) -> bool:
    if after is None and stay.left_by in _OUTCOMES:
        return True
    if after is not None and after.number == this.number + 1:
        return True
    # While the network is gone the countdown stands still.
    is_paused = any(this.time <= time < this.due for time in offline)
    return this.due <= (stay.end if after is None else after.time) and not is_paused


def _fate(this: _Announcement, end: float, stay: Stay, is_made: bool, is_last: bool) -> str:
    """What became of it."""
    if is_made:
        return f"after a wait of {duration(this.delay)}"
    if is_last and stay.left_by is None:
        left = this.due - end
        return f"not yet made: {f'due in {duration(left)}' if left > 0 else 'the network is gone'}"
    return f"not made: its wait of {duration(this.delay)} ended after {duration(end - this.time)}"


def _time(event: ConnectionEvent) -> float:
    return event.timestamp.timestamp()


def _is_offline(event: ConnectionEvent) -> bool:
    is_change = event.type is ConnectionEventType.NETWORK_CHANGED
    return is_change and event.metadata.get("is_connected") is False


def add_attempts(root: Element, crowds: Crowds, attempts: Sequence[Attempt], y: float) -> None:
    """Add the row of the attempts; a mark is filled if the attempt was made."""
    axis, middle, taken = crowds.axis, y + ROW / 2 + 4, -math.inf
    counted: defaultdict[Bin, list[bool]] = defaultdict(list)
    for attempt in attempts:
        crowded = crowds.bin_at(attempt.end)
        if crowded is not None:
            counted[crowded].append(attempt.is_made)
            continue
        x1, x2 = axis.x(max(attempt.begin, axis.begin)), axis.x(min(attempt.end, axis.end))
        add(root, "line", x1=x1, x2=x2, y1=middle, y2=middle, stroke=ATTEMPT, stroke_width=1.5)
        if axis.shows(attempt.end):
            add_mark(root, x2, middle, attempt.title, is_made=attempt.is_made)
            if x2 - taken >= _ROOM:
                _write_number(root, x2, middle, attempt.number)
                taken = x2
    for part, made in counted.items():
        _add_count(root, part, made, middle)


def _add_count(root: Element, part: Bin, made: Sequence[bool], y: float) -> None:
    count, unmade = sum(made), len(made) - sum(made)
    facts = ["1 attempt made" if count == 1 else f"{count} attempts made"]
    facts += [f"{unmade} not made"] if unmade else []
    facts += [f"in {duration(part.end - part.begin)}"]
    add_mark(root, part.middle, y, ", ".join(facts), is_made=count > 0)
    _write_number(root, part.middle, y, count or unmade)


def _write_number(root: Element, x: float, y: float, number: int) -> None:
    write(root, x, y - 6, str(number), size=9, text_anchor="middle", fill=ATTEMPT)


def add_mark(root: Element, x: float, y: float, title: str = "", *, is_made: bool) -> None:
    """Add the mark of an attempt."""
    if is_made:
        add(root, "circle", title, cx=x, cy=y, r=3.5, fill=ATTEMPT)
    else:
        add(root, "circle", title, cx=x, cy=y, r=3, fill="white", stroke=ATTEMPT, stroke_width=1.2)
