from __future__ import annotations

import sys
from xml.etree import ElementTree

import pytest

from statemachine import Declaration, DiagramError
from statemachine.diagram.svg import render_svg

pytestmark = pytest.mark.requirement("12.5")

graphviz = pytest.importorskip("graphviz")


def test_the_picture_shows_states_triggers_and_sentences(breaker: Declaration, dot: str) -> None:
    """The SVG holds every name as text, and every sentence of a row as a tooltip."""
    picture = ElementTree.fromstring(render_svg(breaker))
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    text = " ".join("".join(picture.itertext()).split())
    titles = " ".join(
        link.get("{http://www.w3.org/1999/xlink}title", "")
        for link in picture.iter("{http://www.w3.org/2000/svg}a")
    )
    for name in (*breaker.states, *breaker.triggers, "failed [too_many]"):
        assert name in text
    for row in breaker.transitions:
        assert row.doc in titles


def test_a_missing_package_is_named(breaker: Declaration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the Python package, the error says which extra installs it."""
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(DiagramError, match=r"pip install 'resilient-tunnel\[diagrams\]'"):
        render_svg(breaker)


def test_a_missing_program_is_named(breaker: Declaration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Graphviz itself, the error says how to install it."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DiagramError, match="apt-get install graphviz"):
        render_svg(breaker)


def test_a_failing_program_is_told(breaker: Declaration, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Graphviz fails, the error says which declaration it could not draw."""

    def fail(*_: object, **__: object) -> str:
        raise graphviz.CalledProcessError(1, ["dot"], stderr="out of ink")

    monkeypatch.setattr(graphviz.Source, "pipe", fail)
    with pytest.raises(DiagramError, match=r"could not draw 'breaker': .*out of ink"):
        render_svg(breaker)
