"""The timeline where it is not simple: attempts that were not made, crowds, parts of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timezone
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.history import History, Sample, Step
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState
from tunnel.pictures import draw_diagram, draw_timeline
from tunnel.pictures.svg import text_width
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


def flapping(losses: int, length: float = 28_800.0) -> History:
    """A tunnel that is lost so often, at even intervals, and comes back two seconds later."""
    changes, events = [(0.0, "connect"), (0.5, "opened")], []
    for number in range(losses):
        time = length * (number + 0.5) / losses
        changes += [(time, "lost"), (time, "recover"), (time + 2.0, "opened")]
        events.append(announced(time, 1, 2.0))
    return history_of(changes, events)


def bars(picture: Element, state: str) -> list[Element]:
    return [bar for bar in picture.iter(f"{SVG}rect") if titles(bar, f"{state} ")]


def red_lines(picture: Element) -> list[Element]:
    return [line for line in picture.iter(f"{SVG}line") if line.get("stroke") == "#b3261e"]


class TestCrowds:
    def test_many_losses_are_counted_not_drawn_one_by_one(self) -> None:
        """Bars are as high as their share of the time, and numbers say how many were lost."""
        picture = drawn(flapping(500), now=28_800.0)
        assert red_lines(picture) == []
        shares = [float(bar.get("height", "")) / 18 for bar in bars(picture, "reconnecting")]
        assert max(shares) < 0.1
        assert min(float(bar.get("height", "")) for bar in bars(picture, "connected")) > 0.9 * 18
        counted = titles(picture, "lost while connected, ")
        assert 30 < len(counted) < 60
        assert sum(int(title.split(", ")[1].split(" ")[0]) for title in counted) == 500
        assert len(titles(picture, "12 attempts made, in 11 min ")) > 10
        assert any("height" in text for text in texts(picture))

    def test_few_losses_are_drawn_one_by_one(self) -> None:
        """Each with its line, its stays and its attempt."""
        picture = drawn(flapping(40), now=28_800.0)
        assert len(red_lines(picture)) == 40
        assert len(bars(picture, "reconnecting")) == 40
        assert len(marks(picture)) == 40
        assert not any("height" in text for text in texts(picture))

    def test_a_burst_is_counted_where_it_is(self) -> None:
        """What is before and after it is drawn as ever."""
        changes = [(0.0, "connect"), (0.5, "opened"), (500.0, "lost"), (500.0, "recover")]
        changes += [(700.0, "opened")]
        for number in range(30):
            time = 5000.0 + number
            changes += [(time, "lost"), (time, "recover"), (time + 0.5, "opened")]
        picture = drawn(history_of(changes), now=10_000.0)
        assert len(red_lines(picture)) == 1
        assert len(titles(picture, "lost while connected, 30 times in ")) == 1
        assert len(titles(picture, "connected for 1 h 22 min")) == 1  # after the burst
        assert len(titles(picture, "reconnecting for 3 min 20 s")) == 1
        (share,) = titles(picture, "reconnecting 6.1 % of ")
        assert share.endswith("in 30 stays")

    def test_a_stay_that_ends_where_a_crowd_begins_is_not_in_it(self) -> None:
        """Bins of the picture are 10 s here; the crowd begins at 100 s."""
        changes = [(0.0, "connect"), (100.0, "dial_failed"), (100.0, "recover"), (100.5, "opened")]
        for number in range(8):
            time = 101.0 + number
            changes += [(time, "lost"), (time, "recover"), (time + 0.5, "opened")]
        picture = drawn(history_of(changes), now=410.0)
        assert len(titles(picture, "connecting for 1 min 40 s")) == 1
        assert not any(" % of " in title for title in titles(picture, "connecting "))
        assert len(titles(picture, "lost while connected, 8 times; dial_failed")) == 1

    def test_many_attempts_of_one_outage_are_counted(self) -> None:
        """Those that were made, and those that were not."""
        events = [announced(20.0 + 5 * number, number + 1, 4.0) for number in range(2000)]
        picture = drawn(history_of(LOST, events), now=10_016.5)
        assert len(red_lines(picture)) == 1
        (bar,) = bars(picture, "reconnecting")
        assert float(bar.get("height", "")) == 18
        made = titles(picture, "")
        counts = [title for title in made if " attempts made" in title]
        assert sum(int(title.split(" ")[0]) for title in counts) == 1999
        assert len([title for title in counts if "1 not made" in title]) == 1
        assert marks(picture)[0].get("fill") == "#a87400"


class TestPart:
    def test_a_part_can_be_looked_at(self) -> None:
        """Only what was in that time is shown and counted."""
        samples = tuple(Sample(n + 0.5, n % 7, 0.01 + n / 1000) for n in range(100))
        changes = [*LOST, (30.0, "opened"), (60.0, "lost"), (60.0, "recover"), (80.0, "opened")]
        events = [announced(20.0, 1, 10.0), announced(60.0, 1, 20.0)]
        history = history_of(changes, events, samples)
        picture = drawn(history, begin=50.0, end=70.0)
        assert any("20.0 s of 1 min 40 s · connected 50.0 %" in text for text in texts(picture))
        assert any("1 loss" in text for text in texts(picture))
        assert len(red_lines(picture)) == 1
        assert marks(picture) == []
        assert titles(picture, "connected for") == [
            "connected for 30.0 s, from 20.00 s before the beginning"
        ]
        assert titles(picture, "round trip") == ["round trip: 79 ms at most"]
        assert {text for text in texts(picture) if text.endswith(" s")} >= {"0 s", "20 s"}
        (curve,) = (path for path in picture.iter(f"{SVG}path") if titles(path, "queue"))
        assert curve.get("d", "").startswith("M118 ")
        assert "H936V" in curve.get("d", "")
        for element in picture.iter():
            for key in ("x", "x1", "x2", "cx"):
                assert 0 <= float(element.get(key, "0")) <= 960

    def test_a_part_is_one_of_what_is_known(self) -> None:
        """What begins before the history begins with it; where there is none, that is said."""
        history = history_of(LOST)
        assert drawn(history, begin=-50.0, end=1e6, now=100.0).attrib == drawn(history).attrib
        with pytest.raises(ValueError, match="nothing is known of that time"):
            drawn(history, begin=50.0)
        with pytest.raises(ValueError, match="begin must be before end"):
            drawn(history, begin=10.0, end=10.0)


class TestBeginnings:
    @pytest.mark.parametrize("draw", [draw_timeline, draw_diagram])
    def test_a_cut_history_says_so(self, draw: Callable[[History], str]) -> None:
        """What is counted in it is not all."""
        history = history_of([*LOST, (30.0, "opened")])
        said = "the last 4 changes; earlier ones are forgotten"
        assert said not in draw(history)
        assert said in draw(replace(history, steps=history.steps[1:]))

    @pytest.mark.parametrize("draw", [draw_timeline, draw_diagram])
    def test_a_history_without_any_change_left_says_so(
        self, draw: Callable[[History], str]
    ) -> None:
        """The tunnel has a past, of which nothing is known."""
        history = replace(history_of([(0.0, "connect")]), steps=())
        assert "earlier changes are forgotten" in draw(history)
        assert "no change" not in draw(history)
        assert "from the beginning" not in draw(history)

    def test_a_part_without_the_beginning_is_not_cut_there(self) -> None:
        """What came before it is left out, not forgotten."""
        history = history_of([*LOST, (30.0, "opened")])
        cut = replace(history, steps=history.steps[1:])
        assert "forgotten" not in draw_timeline(cut, begin=25.0)

    def test_a_tunnel_that_did_nothing_has_no_times(self) -> None:
        """There is no beginning that could be named, and no axis."""
        history = history_of([])
        picture = drawn(history)
        assert "nothing has happened yet" in texts(picture)
        assert not any("1970" in text or text.endswith(" s") for text in texts(picture))

    def test_what_was_before_the_first_change_is_shown(self) -> None:
        """A recording may have begun long before anybody connected."""
        history = history_of([(30.0, "connect")], samples=(Sample(0.0, 0),))
        assert len(titles(drawn(history, now=40.0), "disconnected for 30.0 s, 0.00 s after")) == 1

    def test_a_single_moment_has_no_length(self) -> None:
        """It is named, and nothing is said of shares."""
        history = history_of([], samples=(Sample(1_767_225_600.0, 0),))
        picture = drawn(history)
        assert any(text.startswith("at 2026-01-01 00:00:00 UTC") for text in texts(picture))
        assert not any("%" in text for text in texts(picture))


def named(user: str, url: str) -> History:
    history = history_of(LOST)
    connection = TunnelConnection("id", user, url)
    return replace(history, tracker=history.tracker._replace(connection=connection))


def head_of(picture: str) -> Element:
    """The title of a picture."""
    (head,) = (
        text
        for text in ElementTree.fromstring(picture).iter(f"{SVG}text")
        if text.get("font-size") in ("14", "15")
    )
    return head


@pytest.mark.parametrize("draw", [draw_timeline, draw_diagram])
class TestTitle:
    def test_it_says_whose_tunnel_it_is(self, draw: Callable[[History], str]) -> None:
        """Two tunnels to one server are told apart."""
        head = head_of(draw(named("prices", "wss://example.com/")))
        assert head.text == "prices · wss://example.com/"

    def test_secrets_are_not_in_it(self, draw: Callable[[History], str]) -> None:
        """Pictures are passed on, also if an application names its tunnels by their tokens."""
        assert "hunter2" not in draw(named("token=hunter2", "wss://a:hunter2@example.com/"))

    @pytest.mark.parametrize("letter", ["a", "W", "界"])
    def test_what_is_too_long_ends_with_an_ellipsis(
        self, draw: Callable[[History], str], letter: str
    ) -> None:
        """All of it is shown while the pointer rests on it."""
        name, url = f"name-{letter * 200}", f"wss://example.com/{letter * 300}"
        head = head_of(draw(named(name, url)))
        text = head.text or ""
        assert text.startswith("name-")
        assert "… · wss://example.com/" in text
        assert text.endswith("…")
        size = float(head.get("font-size", ""))
        assert text_width(text, size) <= {"14": 854, "15": 960}[head.get("font-size", "")] - 32
        assert head.findtext(f"{SVG}title") == f"{name} · {url}"

    def test_a_short_name_leaves_its_room_to_the_address(
        self, draw: Callable[[History], str]
    ) -> None:
        """It is not shortened, and the address has all that is left."""
        text = head_of(draw(named("prices", "wss://e/" + "x" * 999))).text or ""
        assert text.startswith("prices · wss://e/")
        assert len(text) > 80

    def test_a_name_without_an_address_is_cut_too(self, draw: Callable[[History], str]) -> None:
        """And an address without a name."""
        assert "…</" not in draw(named("", "wss://example.com/"))
        head = head_of(draw(named("", "wss://e/" + "x" * 999)))
        assert (head.text or "").endswith("…")


def test_the_diagrams_legend_is_drawn() -> None:
    """Its lines are lines, as fonts have no dashes that all renderers show as such."""
    picture = ElementTree.fromstring(draw_diagram(history_of(LOST)))
    said = texts(picture)
    assert not any(set(text) & set("━╌─▶") for text in said)
    for words, colour, dashes in (
        ("the usual way", "#1f4e79", None),
        ("something goes wrong", "#b3261e", "5,2"),
        ("other ways", "#6b7c8f", None),
    ):
        assert words in said
        (line,) = [line for line in picture.iter(f"{SVG}line") if line.get("stroke") == colour]
        assert line.get("stroke-dasharray") == dashes
