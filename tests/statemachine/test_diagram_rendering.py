from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

from statemachine import Declaration, StateMachine, diagram

SOURCES = ("mermaid", "dot", "rst")
PROGRAM = """
import pickle, sys
from statemachine import diagram
declaration = pickle.loads(sys.stdin.buffer.read())
for format in ("mermaid", "dot", "rst"):
    sys.stdout.buffer.write(diagram.render(declaration, format).encode())
"""


@pytest.mark.parametrize("format", SOURCES)
def test_each_format_names_everything(breaker: Declaration, format: str) -> None:
    """Every state, trigger, guard and sentence of a row is in every format."""
    text = diagram.render(breaker, format)
    for row in breaker.transitions:
        for word in (row.trigger, row.source, row.dest, row.doc, row.guard or ""):
            assert word in text
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_svg_is_a_format(breaker: Declaration, dot: str) -> None:
    """The picture itself is drawn by the same function."""
    pytest.importorskip("graphviz")
    assert "<svg" in diagram.render(breaker, "svg")


def test_an_unknown_format_is_refused(breaker: Declaration) -> None:
    """An unknown format raises and the message lists the known ones."""
    with pytest.raises(ValueError, match="no format 'png', only mermaid, dot, svg, rst"):
        diagram.render(breaker, "png")


def test_every_format_has_an_extension() -> None:
    """The files are named as people expect."""
    assert dict(diagram.EXTENSIONS) == {
        "mermaid": "mmd", "dot": "dot", "svg": "svg", "rst": "rst",
    }  # fmt: skip


@pytest.mark.parametrize("format", SOURCES)
def test_drawing_does_not_depend_on_what_runs(
    breaker: Declaration, model: Any, format: str
) -> None:
    """What is drawn is the table, whatever state a machine is in."""
    before = diagram.render(breaker, format)
    StateMachine(breaker, model).fire("retire")
    assert diagram.render(breaker, format) == before


def test_drawing_does_not_depend_on_the_process(breaker: Declaration) -> None:
    """Processes with different hash seeds draw the same bytes."""
    expected = "".join(diagram.render(breaker, format) for format in SOURCES).encode()
    for seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=pickle.dumps(breaker),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=50,
        )
        assert done.stdout == expected
