from __future__ import annotations

from pathlib import Path

import pytest

from statemachine import Declaration, DiagramError
from statemachine.diagram import render, stale, write

SOURCES = ("mermaid", "dot", "rst")


def test_files_hold_exactly_what_is_rendered(breaker: Declaration, tmp_path: Path) -> None:
    """Each file is named after the declaration and holds the rendered text, in a new folder too."""
    folder = tmp_path / "new" / "folder"
    written = write(breaker, SOURCES, folder)
    assert written == [folder / "breaker.mmd", folder / "breaker.dot", folder / "breaker.rst"]
    for path, format in zip(written, SOURCES, strict=True):
        assert path.read_bytes() == render(breaker, format).encode()


def test_fresh_files_are_not_stale(breaker: Declaration, tmp_path: Path) -> None:
    """What was just written is fresh."""
    write(breaker, SOURCES, tmp_path)
    assert stale(breaker, SOURCES, tmp_path) == []


def test_missing_and_changed_files_are_stale(breaker: Declaration, tmp_path: Path) -> None:
    """A source that is missing, or differs in one byte, is named."""
    write(breaker, SOURCES, tmp_path)
    (tmp_path / "breaker.mmd").unlink()
    with (tmp_path / "breaker.rst").open("ab") as file:
        file.write(b" ")
    assert stale(breaker, SOURCES, tmp_path) == [tmp_path / "breaker.mmd", tmp_path / "breaker.rst"]


def test_of_an_svg_only_the_presence_counts(breaker: Declaration, tmp_path: Path) -> None:
    """An SVG is stale if it is missing, and fresh whatever Graphviz drew it."""
    assert stale(breaker, ["svg"], tmp_path) == [tmp_path / "breaker.svg"]
    (tmp_path / "breaker.svg").write_text("drawn elsewhere")
    assert stale(breaker, ["svg"], tmp_path) == []


def test_nothing_is_written_if_not_all_can_be_drawn(
    breaker: Declaration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Graphviz the sources are not renewed either, so that files stay of one version."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DiagramError):
        write(breaker, ("mermaid", "svg"), tmp_path)
    assert list(tmp_path.iterdir()) == []
