"""The timeline where it is not simple: attempts that were not made, crowds, parts of a run."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.history import History, Sample, Step
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState
from tunnel.pictures import draw_timeline
from tunnel.tracker_snapshot import TrackerSnapshot, TunnelConnection

SVG = "{http://www.w3.org/2000/svg}"
_Type = ConnectionEventType


def history_of(
    changes: Iterable[tuple[float, str]],
    events: Iterable[ConnectionEvent] = (),
    samples: tuple[Sample, ...] = (),
) -> History:
    """A history of these triggers, each at so many seconds."""
    state, steps = LIFECYCLE.initial, []
    for time, trigger in changes:
        row = LIFECYCLE.rows(state, trigger)[0]
        steps.append(Step(time, trigger, state, row.dest))
        state = row.dest
    connection = TunnelConnection("id", "", "wss://example.com/")
    tracker = TrackerSnapshot(
        TunnelConnectionState(state), 0, True, 10_000, connection, tuple(events)
    )
    return History(tracker, tuple(steps), samples)


def announced(time: float, attempt: int, delay: float) -> ConnectionEvent:
    """The event by which an attempt is announced."""
    return event(_Type.RECONNECTING, time, attempt=attempt, delay=delay)


def event(type: _Type, time: float, **metadata: object) -> ConnectionEvent:
    return ConnectionEvent(type, datetime.fromtimestamp(time, timezone.utc), "why", metadata)


def drawn(history: History, **options: float) -> Element:
    return ElementTree.fromstring(draw_timeline(history, **options))


def titles(picture: Element, beginning: str) -> list[str]:
    found = [title.text or "" for title in picture.iter(f"{SVG}title")]
    return [title for title in found if title.startswith(beginning)]


def texts(picture: Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


def marks(picture: Element) -> list[Element]:
    """The dots of attempts; those of the legend have no title."""
    return [dot for dot in picture.iter(f"{SVG}circle") if dot.find(f"{SVG}title") is not None]


LOST = ((0.0, "connect"), (1.0, "opened"), (20.0, "lost"), (20.0, "recover"))


class TestAttempts:
    def test_an_attempt_that_was_called_off_was_not_made(self) -> None:
        """Its line ends where the wait ended, with a hollow mark that says so."""
        history = history_of([*LOST, (25.0, "close")], [announced(20.0, 1, 40.0)])
        picture = drawn(history, now=70.0)
        (mark,) = marks(picture)
        assert mark.get("fill") == "white"
        assert titles(mark, "attempt 1, not made: its wait of 40.0 s ended after 5.0 s")
        right = max(
            float(bar.get("x", "")) + float(bar.get("width", ""))
            for bar in picture.iter(f"{SVG}rect")
            if titles(bar, "reconnecting")
        )
        assert float(mark.get("cx", "")) == pytest.approx(right, abs=0.1)
        assert "not made" in texts(picture)

    def test_an_attempt_that_is_still_waited_for_is_not_yet_made(self) -> None:
        """The picture's end is not the attempt."""
        picture = drawn(history_of(LOST, [announced(20.0, 1, 40.0)]), now=50.0)
        (mark,) = marks(picture)
        assert mark.get("fill") == "white"
        assert titles(mark, "attempt 1, not yet made: due in 10.0 s")
        assert "not made" in texts(picture)

    def test_attempts_that_were_made_are_filled(self) -> None:
        """One whose failure led to the next, and one that succeeded."""
        events = [announced(20.0, 1, 4.0), announced(24.5, 2, 8.0)]
        picture = drawn(history_of([*LOST, (33.0, "opened")], events))
        assert [mark.get("fill") for mark in marks(picture)] == ["#a87400", "#a87400"]
        assert len(titles(picture, "attempt 1, after a wait of 4.0 s: why")) == 1
        assert "not made" not in texts(picture)

    @pytest.mark.parametrize("back", [24.0, 35.0])
    def test_a_hurried_wait_is_not_an_attempt(self, back: float) -> None:
        """When the network is back attempts are counted anew; the one waited for was not made."""
        events = [
            announced(20.0, 2, 10.0),
            event(_Type.NETWORK_CHANGED, 23.0, is_connected=False),
            announced(back, 1, 0.0),
        ]
        picture = drawn(history_of([*LOST, (36.0, "opened")], events))
        assert [mark.get("fill") for mark in marks(picture)] == ["white", "#a87400"]
        assert len(titles(picture, "attempt 2, not made")) == 1

    def test_an_attempt_just_before_a_wish_to_hurry_was_made(self) -> None:
        """Also if those after it are counted anew."""
        events = [announced(20.0, 2, 10.0), announced(31.0, 1, 0.0)]
        picture = drawn(history_of([*LOST, (36.0, "opened")], events))
        assert [mark.get("fill") for mark in marks(picture)] == ["#a87400", "#a87400"]

    def test_what_is_announced_while_nobody_reconnects_is_no_attempt(self) -> None:
        """An application may record what it likes."""
        history = history_of([(0.0, "connect"), (1.0, "opened")], [announced(5.0, 1, 1.0)])
        assert marks(drawn(history, now=10.0)) == []
