"""The files of a declaration's diagrams, ``NAME.mmd`` and so on: write them, or find stale ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from statemachine.declaration import Declaration
from statemachine.diagram.rendering import EXTENSIONS, render


def write(declaration: Declaration, formats: Iterable[str], folder: Path) -> list[Path]:
    """Write the diagrams of a declaration, named after it; make the folder if it is missing.

    Returns:
        The files written.

    Raises:
        DiagramError: If SVG is among the formats and cannot be drawn here. Nothing is written.
        OSError: If a file cannot be written.
    """
    drawn = {_path(declaration, format, folder): render(declaration, format) for format in formats}
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in drawn.items():
        path.write_bytes(text.encode())  # bytes: the same on every system
    return list(drawn)


def stale(declaration: Declaration, formats: Iterable[str], folder: Path) -> list[Path]:
    """Return the files that are missing or are not what `write` would write now.

    An SVG file need only be there: it depends on the version of Graphviz, and its source is DOT.
    """
    found = []
    for format in formats:
        path = _path(declaration, format, folder)
        if not path.is_file() or (
            format != "svg" and path.read_bytes() != render(declaration, format).encode()
        ):
            found.append(path)
    return found


def _path(declaration: Declaration, format: str, folder: Path) -> Path:
    return folder / f"{declaration.name}.{EXTENSIONS[format]}"
