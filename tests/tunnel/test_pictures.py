"""The pictures of a tunnel, by what is in them; how they look, people have seen."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from statemachine.diagram.arrows import arrows_apart
from tunnel.history import History, Sample, Step
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState
from tunnel.pictures import Picture, as_page, draw_diagram, draw_timeline
from tunnel.pictures.svg import FILLS
from tunnel.pictures.words import duration, percent, round_trip
from tunnel.tracker_snapshot import TrackerSnapshot, TunnelConnection

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
URL = "wss://example.com/<prices>&more"


def history_of(*triggers: str, samples: tuple[Sample, ...] = (), each: float = 10.0) -> History:
    """A history of these triggers, one every ten seconds from 1000 on."""
    state, steps = LIFECYCLE.initial, []
    for number, trigger in enumerate(triggers):
        row = LIFECYCLE.rows(state, trigger)[0]
        steps.append(Step(1000.0 + each * number, trigger, state, row.dest))
        state = row.dest
    connection = TunnelConnection("id", "", URL) if triggers else None
    tracker = TrackerSnapshot(TunnelConnectionState(state), 0, True, 100, connection, ())
    return History(tracker, tuple(steps), samples)


LOST_TWICE = ("connect", "opened", "lost", "recover", "opened", "lost", "recover")


def group(picture: Element, kind: str, title: str) -> Element:
    """The node or the arrow that is called so."""
    (found,) = (
        element
        for element in picture.iter(f"{SVG}g")
        if element.get("class") == kind and element.findtext(f"{SVG}title") == title
    )
    return found


def texts(element: Element) -> list[str]:
    return ["".join(text.itertext()).strip() for text in element.iter(f"{SVG}text")]


def titles(element: Element) -> list[str]:
    return [title.text or "" for title in element.iter(f"{SVG}title")]


class TestDiagram:
    def test_the_template_is_the_picture_of_the_declaration(self) -> None:
        """The copy in the package is the one in diagrams/, and the drawing's colours are its."""
        drawn = (ROOT / "diagrams" / "lifecycle.svg").read_bytes()
        assert (ROOT / "tunnel" / "pictures" / "lifecycle.svg").read_bytes() == drawn, (
            "run: make diagrams"
        )
        picture = ElementTree.fromstring(draw_diagram(history_of()))
        for state, (fill, border) in FILLS.items():
            path = next(group(picture, "node", state).iter(f"{SVG}path"))
            assert path.get("fill") == fill
            assert state == LIFECYCLE.initial or path.get("stroke") == border
        assert set(FILLS) == set(LIFECYCLE.states)

    def test_it_shows_where_the_tunnel_is_and_has_been(self) -> None:
        """The present state is marked; what was neither entered nor taken is faint."""
        picture = ElementTree.fromstring(draw_diagram(history_of(*LOST_TWICE), now=1100.0))
        present = group(picture, "node", "reconnecting")
        assert next(present.iter(f"{SVG}path")).get("stroke-width") == "3.5"
        faint = {
            element.findtext(f"{SVG}title")
            for element in picture.iter(f"{SVG}g")
            if element.get("class") == "node" and element.get("opacity")
        }
        assert faint == {"closing", "error"}
        assert texts(picture).count("now") == 1
        assert any("reconnecting since" in text and "for 40.0 s" in text for text in texts(picture))
        assert any(text.startswith("7 changes: … → ") for text in texts(picture))

    def test_arrows_say_how_often_they_were_taken(self) -> None:
        """Each trigger has its count; wishes and failures between two states are told apart."""
        history = history_of(*LOST_TWICE)
        picture = ElementTree.fromstring(draw_diagram(history))
        lost = group(picture, "edge failure", "connected->disconnected")
        assert texts(lost) == ["lost \u00d72"]
        assert lost.get("opacity") is None
        assert texts(group(picture, "edge main", "disconnected->connecting")) == ["connect \u00d71"]
        cancel = group(picture, "edge other", "connecting->disconnected")
        assert texts(cancel) == ["cancel", "close"]
        assert cancel.get("opacity")
        cut = ElementTree.fromstring(draw_diagram(history_of("connect", "cancel")))
        assert texts(group(cut, "edge other", "connecting->disconnected")) == [
            "cancel \u00d71",
            "close",
        ]

    def test_every_arrow_can_be_found(self) -> None:
        """Each arrow of the declaration is in the picture, as the kind that it is."""
        picture = ElementTree.fromstring(draw_diagram(history_of()))
        for source, dest, is_failure in arrows_apart(LIFECYCLE):
            kinds = ["edge failure"] if is_failure else ["edge main", "edge other"]
            found = [
                element
                for element in picture.iter(f"{SVG}g")
                if element.get("class") in kinds
                and element.findtext(f"{SVG}title") == f"{source}->{dest}"
            ]
            assert len(found) == 1

    def test_a_tunnel_without_a_past_is_drawn_too(self) -> None:
        """It is where it began, and nothing is said that is not known."""
        words = texts(ElementTree.fromstring(draw_diagram(history_of())))
        assert "a tunnel without a connection" in words
        assert "no change of state yet" in words
        once = texts(ElementTree.fromstring(draw_diagram(history_of("connect"))))
        assert "1 change: disconnected → connecting" in once
        assert URL in once


class TestTimeline:
    def test_each_stay_is_a_bar(self) -> None:
        """A bar for each stay, in the row of its state, and only states that were entered."""
        picture = ElementTree.fromstring(draw_timeline(history_of(*LOST_TWICE), now=1100.0))
        bars = [title for title in titles(picture) if " for " in title]
        assert [bar.partition(" for ")[0] for bar in bars] == [
            *["disconnected"] * 2,
            "connecting",
            *["connected"] * 2,
            *["reconnecting"] * 2,
        ]
        words = texts(picture)
        assert "error" not in words
        assert "closing" not in words
        assert any("1 min 40 s long · connected 20.0 % of it · 2 losses" in w for w in words)
        assert [title for title in titles(picture) if title.startswith("lost while")] == [
            "lost while connected",
            "lost while connected",
        ]

    def test_queue_and_round_trips_have_panels_if_they_were_measured(self) -> None:
        """With samples there are curves and their highest values; without, a word about it."""
        samples = (Sample(1000.0, 0), Sample(1005.0, 42, 0.0125), Sample(1010.0, 0, 0.01))
        with_them = texts(
            ElementTree.fromstring(draw_timeline(history_of("connect", samples=samples)))
        )
        assert {"queue", "42", "round trip", "12 ms"} <= set(with_them)
        without = texts(ElementTree.fromstring(draw_timeline(history_of("connect"))))
        assert not {"queue", "round trip"} & set(without)
        assert any("were not recorded" in text for text in without)

    def test_a_round_trip_that_is_not_known_leaves_a_gap(self) -> None:
        """Its curve has as many pieces as there are stretches in which it is known."""
        trips = [None, 0.01, 0.02, None, None, 0.03, None]
        samples = tuple(Sample(1000.0 + n, 0, trip) for n, trip in enumerate(trips))
        picture = ElementTree.fromstring(draw_timeline(history_of("connect", samples=samples)))
        assert len([t for t in titles(picture) if t.startswith("round trip")]) == 2

    def test_attempts_are_dots_at_the_end_of_their_wait(self) -> None:
        """Each attempt that was announced has a dot; what is none, or damaged, has not."""
        text = history_of("connect", "opened", "lost", "recover").to_json()

        data = json.loads(text)
        data["events"] = [
            {
                "type": "reconnecting",
                "timestamp": f"1970-01-01T00:17:{second:02}+00:00",
                "message": "why",
                "metadata": metadata,
            }
            for second, metadata in (
                (10, {"attempt": 0, "delay": 0.0}),
                (10, {"attempt": 1, "delay": 2.0}),
                (10, {"attempt": 2, "delay": 2.01}),
                (15, {"attempt": "x", "delay": 2.0}),
            )
        ]
        data["events"].append(
            data["events"][0] | {"type": "error", "metadata": {"error": {"code": "X"}}}
        )
        picture = ElementTree.fromstring(draw_timeline(History.from_json(json.dumps(data))))
        dots = [title for title in titles(picture) if title.startswith("attempt ")]
        assert [dot.partition(",")[0] for dot in dots] == ["attempt 1", "attempt 2"]
        assert "2.0 s: why" in dots[0]

    @pytest.mark.parametrize("each", [1e-9, 0.001, 1.0, 60.0, 3600.0, 86400.0, 1e7])
    def test_any_length_has_a_readable_axis(self, each: float) -> None:
        """From nanoseconds to years there are a few ticks, with different names."""
        picture = ElementTree.fromstring(draw_timeline(history_of(*LOST_TWICE, each=each)))
        ticks = [
            text.text
            for text in picture.iter(f"{SVG}text")
            if text.get("text-anchor") == "middle" and text.get("font-size") == "11"
        ]
        assert 1 <= len(ticks) <= 12
        assert len(set(ticks)) == len(ticks)

    def test_nothing_at_all_is_drawn_too(self) -> None:
        """An empty history is a picture with one state."""
        picture = ElementTree.fromstring(draw_timeline(history_of()))
        assert "disconnected" in texts(picture)


def test_a_page_needs_nothing_else() -> None:
    """It holds the pictures themselves, escapes what people wrote, and says when to come again."""
    picture = Picture("a & b", "<svg/>", "since <noon>")
    page = as_page("<app>", [picture], notice="<over>", footer="<end>", refresh=2)
    assert "<h1>&lt;app&gt;</h1>" in page
    assert "a &amp; b" in page
    assert "<span>since &lt;noon&gt;</span></figcaption>" in page
    assert "<p>&lt;over&gt;</p>" in page
    assert "&lt;end&gt;" in page
    assert '<meta http-equiv="refresh" content="2">' in page
    assert "refresh" not in as_page("app", [])
    assert "<p>" not in as_page("app", [])
    assert "src=" not in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 s"),
        (0.9996, "1.0 s"),
        (59.96, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (3600, "1 h"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    """As short as they can be without hiding what matters."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00042, "0.42 ms"), (0.0129, "13 ms"), (1.24, "1.2 s")]
)
def test_round_trips_in_words(seconds: float, text: str) -> None:
    """Milliseconds, until they are seconds."""
    assert round_trip(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0 %"), (0.9986, "99.9 %"), (0.9999, "more than 99.9 %"), (1, "100.0 %")],
)
def test_shares_in_words(share: float, text: str) -> None:
    """Not all of it is not called all of it."""
    assert percent(share) == text


def test_what_xml_cannot_hold_is_left_out() -> None:
    """Control characters in an address or in a sentence do not spoil the picture."""
    data = json.loads(history_of("connect", "opened").to_json())
    data["connection"]["server_url"] = "ws://a\x00\x1b.example/"
    data["events"] = [
        {
            "type": "reconnecting",
            "timestamp": "1970-01-01T00:17:00+00:00",
            "message": "\x07 <b>",
            "metadata": {"attempt": 1, "delay": 1.0},
        }
    ]
    history = History.from_json(json.dumps(data))
    for draw in (draw_diagram, draw_timeline):
        ElementTree.fromstring(draw(history))
