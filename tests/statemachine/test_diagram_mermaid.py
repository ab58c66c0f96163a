from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from statemachine import Declaration, Transition
from statemachine.diagram.mermaid import render_mermaid

pytestmark = pytest.mark.requirement("12.5")

# The plain part of Mermaid's grammar, which is all that may be used.
STATEMENT = re.compile(
    r"    (%% .*|direction TB"
    r'|state "(?P<shown>\w+)" as (?P<alias>\w+)'
    r"|(\[\*\]|\w+) --> (\[\*\]|\w+)"
    r"|(?P<source>\w+) --> (?P<dest>\w+) : (?P<label>\w+( \[\w+\])?(<br/>\w+( \[\w+\])?)*))"
)
# Each of these breaks Mermaid 11 as a state's plain name.
BREAKING = [
    "Note", "State", "accDescr", "accTitle", "class", "classDef", "click", "default", "href",
    "note", "scale", "state", "stateDiagram", "style",
]  # fmt: skip


def test_the_picture_of_the_breaker(breaker: Declaration) -> None:
    """Initial and final markers, one arrow for each pair of states, sentences as comments."""
    assert (
        render_mermaid(breaker)
        == """\
stateDiagram-v2
    %% breaker: generated from its declaration; edit that instead
    direction TB

    %% closed: Calls go through.
    [*] --> closed
    %% - failed [too_many]: The fifth failure in a row.
    closed --> open : failed [too_many]
    %% - failed: One of fewer than five failures.
    closed --> closed : failed
    %% - retire: The program ends.
    closed --> retired : retire

    %% open: Calls fail at once.
    %% - waited: 60 s have passed.
    open --> half_open : waited
    %% - retire: The program ends.
    open --> retired : retire

    %% half_open: One call is let through, to see.
    %% - failed: The trial call failed, too.
    half_open --> open : failed
    %% - succeeded: The trial call came back.
    half_open --> closed : succeeded

    %% retired: Nobody calls any more.
    retired --> [*]
"""
    )


def test_parallel_rows_share_an_arrow() -> None:
    """Rows between the same two states stand on lines of one label."""
    rows = [
        Transition(name, "a", "b", guard=guard, doc="x")
        for name, guard in (("t", "g"), ("u", None))
    ]
    text = render_mermaid(Declaration("d", ["a", "b"], "a", ["b"], rows))
    assert "    a --> b : t [g]<br/>u\n" in text


@pytest.mark.parametrize("word", [*BREAKING, "end", "END"])
def test_reserved_words_may_be_states(word: str) -> None:
    """A state named like a word of Mermaid's gets another identifier and shows its name."""
    rows = [Transition("go", "a", word, doc="x"), Transition("back", word, "a", doc="x")]
    text = render_mermaid(
        Declaration(
            "d",
            ["a", word, f"{word}_"],
            "a",
            [word],
            [
                *rows,
                Transition("go", word, f"{word}_", doc="x"),
                Transition("go", f"{word}_", "a", doc="x"),
            ],
        )
    )
    assert f'    state "{word}" as {word}__\n' in text
    assert f"    a --> {word}__ : go\n" in text
    assert f"    {word}__ --> [*]\n" in text


@example(doc="%%{init: {'theme': 'dark'}}%%")
@given(doc=st.text(min_size=1).filter(str.strip))
def test_sentences_stay_comments(doc: str) -> None:
    """Whatever a sentence says, it is a comment on one line, and never a directive."""
    rows = [Transition("go", "a", "b", doc=doc)]
    text = render_mermaid(Declaration("d", {"a": doc, "b": "x"}, "a", ["b"], rows))
    header, *statements = [line for line in text.split("\n") if line]
    assert header == "stateDiagram-v2"
    for line in statements:
        assert STATEMENT.fullmatch(line), line
        assert "%%" not in line.replace("%%", "", 1)
    assert len(statements) == 8
