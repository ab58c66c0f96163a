from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine import Declaration, Transition
from statemachine.diagram.table import render_table

pytestmark = pytest.mark.requirement("12.5")


def tables(text: str) -> dict[str, list[list[str]]]:
    """The tables by title, each a list of rows of plain text, as docutils reads them."""
    core = pytest.importorskip("docutils.core")
    nodes = pytest.importorskip("docutils.nodes")
    settings = {"report_level": 1, "halt_level": 1, "warning_stream": False}
    document = core.publish_doctree(text, settings_overrides=settings)

    def cell(entry: Any) -> str:
        assert all(isinstance(child, nodes.paragraph) for child in entry.children)
        return str(entry.astext())

    return {
        table.next_node(nodes.title).astext(): [
            [cell(entry) for entry in row.findall(nodes.entry)] for row in table.findall(nodes.row)
        ]
        for table in document.findall(nodes.table)
    }


def test_the_tables_of_the_breaker(breaker: Declaration) -> None:
    """There is a table of states, of rows, of ignored and of illegal cells, ordered by state."""
    found = tables(render_table(breaker))
    assert list(found) == ["States", "Transitions", "Ignored", "Illegal"]
    assert found["States"] == [
        ["State", "Meaning"],
        ["closed (initial)", "Calls go through."],
        ["open", "Calls fail at once."],
        ["half_open", "One call is let through, to see."],
        ["retired (final)", "Nobody calls any more."],
    ]
    assert found["Transitions"][:3] == [
        ["From", "Trigger", "To", "When and why"],
        ["closed", "failed [too_many]", "open", "The fifth failure in a row."],
        ["closed", "failed", "closed", "One of fewer than five failures."],
    ]
    assert [row[0] for row in found["Transitions"][1:]] == (
        ["closed"] * 3 + ["open"] * 2 + ["half_open"] * 2
    )
    assert found["Ignored"][1] == ["closed", "succeeded", "That is what is expected."]
    assert found["Illegal"][-1] == ["retired", "succeeded", "Nobody calls any more."]
    assert len(found["Ignored"]) + len(found["Illegal"]) == 2 + 4 + 5


def test_the_table_as_text() -> None:
    """The source is a list-table that people can read as well."""
    rows = [Transition("go", "a", "b", doc="Onwards.")]
    assert (
        render_table(Declaration("d", ["a", "b"], "a", ["a", "b"], rows))
        == """\
.. d: generated from its declaration; edit that instead

.. list-table:: States
   :header-rows: 1
   :widths: 25 75

   * - State
     - Meaning
   * - ``a`` (initial, final)
     -
   * - ``b`` (final)
     -

.. list-table:: Transitions
   :header-rows: 1
   :widths: 15 20 15 50

   * - From
     - Trigger
     - To
     - When and why
   * - ``a``
     - ``go``
     - ``b``
     - Onwards.

Every trigger in a state for which no table has a row is illegal.
"""
    )


def test_a_complete_table_leaves_nothing_to_say(declare: Any) -> None:
    """Only a declaration that leaves cells open has the sentence about them."""
    illegal = {("retired", "waited"): "Nobody waits any more.", **declare().illegal}
    assert "no table has a row" in render_table(declare())
    assert "no table has a row" not in render_table(declare(illegal=illegal, complete=True))


@pytest.mark.parametrize(
    "sentence",
    [
        "- a list",
        "1. a list",
        "(a) a list",
        "A. Nobody.",
        "x) closing",
        "*stars*, `ticks`, |bars|, ``code``, ref_, anonymous__, _under, a_b, [1]_, \\N, ::",
        "::",
        ":field: x",
        ".. comment",
        "======",
        ">>> 1 + 1",
        "--option  x",
        "| line",
        "#. auto",
        "http://example.org/a_b_ works",
        "ends with ::",
    ],
)
def test_sentences_are_shown_as_they_are(sentence: str) -> None:
    """Whatever looks like markup in a sentence is shown, not obeyed."""
    _assert_shown(sentence)


@given(st.text(st.sampled_from("ab1 _*`|\\:.-+#()[]<>=~^'\"&@"), min_size=1).filter(str.strip))
def test_any_sentence_is_shown_as_it_is(sentence: str) -> None:
    """Sentences made of markup characters in any order are shown as they are, too."""
    _assert_shown(sentence)


def _assert_shown(sentence: str) -> None:
    rows = [Transition("go", "a", "b", doc=sentence)]
    found = tables(render_table(Declaration("d", ["a", "b"], "a", ["b"], rows)))
    assert found["Transitions"][1][3] == re.sub(r"\s+", " ", sentence.strip())
