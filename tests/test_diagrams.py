"""The diagrams in the repository are what the declarations say now."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from draw_diagrams import DECLARATIONS  # setup.cfg puts docs/ on the path
from draw_examples import pictures as example_pictures

from statemachine import Declaration, diagram

ROOT = Path(__file__).parent.parent
DIAGRAMS = ROOT / "diagrams"

every_machine = pytest.mark.parametrize("place", DECLARATIONS)


def declaration(place: str) -> Declaration:
    """The declaration that MODULE:NAME stands for."""
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Declaration)
    return found


@pytest.mark.requirement("12.5")
@every_machine
def test_the_diagrams_are_current(place: str) -> None:
    """The four files are there, and each source is byte by byte what the engine draws now."""
    command = [sys.executable, "-m", "statemachine", place]
    command += ["--format=all", f"--output={DIAGRAMS}", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stderr}run: make diagrams"


@pytest.mark.requirement("12.5")
@every_machine
def test_the_picture_shows_every_state(place: str) -> None:
    """The SVG in the repository has a shape for each state of the declaration."""
    machine = declaration(place)
    texts = _texts((DIAGRAMS / f"{machine.name}.svg").read_text("utf-8"))
    assert [state for state in machine.states if state not in texts] == []


@pytest.mark.usefixtures("dot")
@every_machine
def test_the_picture_says_what_a_new_one_would(place: str) -> None:
    """Drawn anew, the SVG has the same texts; where they stand depends on Graphviz's version."""
    machine = declaration(place)
    drawn = _texts((DIAGRAMS / f"{machine.name}.svg").read_text("utf-8"))
    assert drawn == _texts(diagram.render(machine, "svg")), "stale; run: make diagrams"


def test_every_declaration_is_drawn() -> None:
    """Each `Declaration` that a module of `tunnel` assigns to a name is in the list."""
    found = {
        f"{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}:{ast.unparse(target)}"
        for path in (ROOT / "tunnel").rglob("*.py")
        for statement in ast.parse(path.read_text("utf-8")).body
        if isinstance(statement, (ast.Assign, ast.AnnAssign))
        and isinstance(statement.value, ast.Call)
        and ast.unparse(statement.value.func).rpartition(".")[2] == "Declaration"
        for target in (
            statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        )
    }
    assert found == set(DECLARATIONS)


@pytest.mark.parametrize("name", ["run-diagram.svg", "run-timeline.svg"])
def test_the_examples_are_what_would_be_drawn_now(name: str) -> None:
    """The pictures of one tunnel in the documentation come from the code as it is."""
    text = (ROOT / "docs" / "pictures" / name).read_text("utf-8")
    assert text == example_pictures()[name], "stale; run: make diagrams"


def test_nothing_else_is_in_the_folder() -> None:
    """diagrams/ holds four files for each machine; those of a machine that is gone are removed."""
    expected = {
        f"{declaration(place).name}.{extension}"
        for place in DECLARATIONS
        for extension in diagram.EXTENSIONS.values()
    }
    assert {path.name for path in DIAGRAMS.iterdir()} == expected


@pytest.mark.requirement("12.5")
@every_machine
def test_every_machine_is_in_the_documentation(place: str) -> None:
    """The page of the machines includes the table and shows the picture of each."""
    page = (ROOT / "docs" / "state-machines.rst").read_text("utf-8")
    for extension in ("rst", "svg"):
        assert f"../diagrams/{declaration(place).name}.{extension}" in page


def _texts(svg: str) -> Counter[str]:
    """What an SVG says: its texts, titles and tooltips."""
    said: Counter[str] = Counter()
    for element in ElementTree.fromstring(svg).iter():
        said.update(text for text in (element.text or "").splitlines() if text.strip())
        said.update(value for key, value in element.attrib.items() if key.endswith("}title"))
    return said
