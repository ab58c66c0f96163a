from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from statemachine import Declaration, Transition
from statemachine.diagram.dot import render_dot

pytestmark = pytest.mark.requirement("12.5")

NASTY = r'"quoted", \N \n back\ <b> &lt; & {a|b} %s ä €'


def read(text: str, dot: str) -> Any:
    """What Graphviz makes of a graph, without laying it out."""
    done = subprocess.run(
        [dot, "-Tdot_json"], input=text.encode(), capture_output=True, check=True, timeout=50
    )
    assert done.stderr == b""
    return json.loads(done.stdout)


def test_states_and_rows_are_there(breaker: Declaration, dot: str) -> None:
    """Each state is a node, each pair of states with rows an arrow; both have their sentences."""
    graph = read(render_dot(breaker), dot)
    names = {node["_gvid"]: node["name"] for node in graph["objects"]}
    nodes = {node["name"]: node for node in graph["objects"]}
    assert graph["name"] == "breaker"
    assert set(nodes) == {"[initial]", *breaker.states}
    assert nodes["open"]["tooltip"] == "open: Calls fail at once."
    arrows = {(names[edge["tail"]], names[edge["head"]]): edge for edge in graph["edges"]}
    assert set(arrows) == {(row.source, row.dest) for row in breaker.transitions} | {
        ("[initial]", "closed")
    }
    assert arrows["closed", "open"]["label"] == "  failed [too_many]  "
    for tooltip in ("tooltip", "labeltooltip"):
        assert arrows["closed", "open"][tooltip] == (
            "failed [too_many]: The fifth failure in a row."
        )


def test_final_states_have_a_double_border(breaker: Declaration, dot: str) -> None:
    """Only final states have two borders."""
    nodes = read(render_dot(breaker), dot)["objects"]
    assert [node["name"] for node in nodes if node.get("peripheries") == "2"] == ["retired"]


def test_the_main_path_is_straight(breaker: Declaration) -> None:
    """The arrows of the main path, and the one from the initial marker, are heavy."""
    heavy = [line for line in render_dot(breaker).splitlines() if "weight=8" in line]
    assert len(heavy) == 3


def test_parallel_rows_share_an_arrow() -> None:
    """Rows between the same two states stand on lines of one label and of one tooltip."""
    rows = [Transition("t", "a", "b", guard="g", doc="One."), Transition("u", "a", "b", doc="Two.")]
    text = render_dot(Declaration("d", ["a", "b"], "a", ["b"], rows))
    assert r'label="  t [g]  \n  u  "' in text
    assert r'tooltip="t [g]: One.\nu: Two."' in text


def test_names_may_be_words_of_the_language(dot: str) -> None:
    """States and declarations may be called like keywords of DOT."""
    rows = [Transition("edge", "node", "graph", doc="x")]
    graph = read(
        render_dot(Declaration("digraph", ["node", "graph"], "node", ["graph"], rows)), dot
    )
    assert {node["name"] for node in graph["objects"]} == {"[initial]", "node", "graph"}


def test_states_without_sentences_show_their_names(dot: str) -> None:
    """A state without a sentence has its name for a tooltip."""
    declaration = Declaration("d", ["a"], "a", ["a"])
    nodes = {node["name"]: node for node in read(render_dot(declaration), dot)["objects"]}
    assert nodes["a"]["tooltip"] == "a"


def test_sentences_are_shown_as_they_are(dot: str) -> None:
    """Quotes, backslashes and entities in a sentence reach the picture unharmed."""
    rows = [Transition("go", "a", "b", doc=NASTY)]
    text = render_dot(Declaration("d", {"a": NASTY, "b": "x"}, "a", ["b"], rows))
    done = subprocess.run(
        [dot, "-Tsvg"], input=text.encode(), capture_output=True, check=True, timeout=50
    )
    picture = ElementTree.fromstring(done.stdout)
    titles = {
        link.get("{http://www.w3.org/1999/xlink}title", "").replace("\u2060", "")
        for link in picture.iter("{http://www.w3.org/2000/svg}a")
    }
    assert {f"a: {NASTY}", f"go: {NASTY}"} <= titles


def test_what_goes_wrong_is_told_apart(dot: str) -> None:
    """Failures are dashed, also between two states that other rows connect; the usual way heavy."""
    rows = [
        Transition("start", "a", "b", doc="x"),
        Transition("stop", "b", "a", doc="x"),
        Transition("crash", "b", "a", doc="x"),
    ]
    graph = read(
        render_dot(Declaration("d", ["a", "b"], "a", ["a"], rows, failures=["crash"])), dot
    )
    drawn = {edge["label"].strip(): edge for edge in graph["edges"] if "label" in edge}
    assert len({edge.get("color") for edge in drawn.values()}) == 3
    assert [name for name, edge in drawn.items() if "penwidth" in edge] == ["start"]
    assert [name for name, edge in drawn.items() if edge.get("style") == "dashed"] == ["crash"]


def test_the_usual_way_ends_where_something_goes_wrong(declare: Callable[..., Declaration]) -> None:
    """What comes after a failure is no usual way, though it is on the main path."""
    text = render_dot(declare(failures=["failed"]))
    assert 'class="main"' not in text
    assert "the usual way" not in text


def test_groups_have_colours_and_the_legend_names_them(
    declare: Callable[..., Declaration], dot: str
) -> None:
    """States of one group share a colour that no other state has; the legend escapes the names."""
    text = render_dot(declare(groups={"up & well": ["closed"], "down": ["open", "half_open"]}))
    fills = {node["name"]: node.get("fillcolor") for node in read(text, dot)["objects"]}
    assert fills["open"] == fills["half_open"]
    assert len({fills["open"], fills["closed"], fills["retired"]}) == 3
    assert "up &amp; well" in text
    assert "down" in text
