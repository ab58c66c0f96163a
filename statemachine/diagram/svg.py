"""SVG, drawn by Graphviz."""

from __future__ import annotations

from statemachine.declaration import Declaration
from statemachine.diagram.dot import render_dot
from statemachine.errors import DiagramError


def render_svg(declaration: Declaration) -> str:
    """Return the picture of `render_dot`'s graph. Runs the program `dot`.

    Raises:
        DiagramError: If the package ``graphviz`` or the program is missing, or if it fails.
    """
    try:
        import graphviz  # type: ignore[import-untyped]  # the extra "diagrams", needed here alone
    except ImportError as error:
        raise DiagramError(
            "drawing SVG needs the Python package graphviz: "
            "pip install 'resilient-tunnel[diagrams]'"
        ) from error
    try:
        drawn: str = graphviz.Source(render_dot(declaration)).pipe("svg", encoding="utf-8")
    except graphviz.ExecutableNotFound as error:
        raise DiagramError(
            "drawing SVG needs Graphviz's program `dot` on the path: "
            "apt-get install graphviz, brew install graphviz, or https://graphviz.org/download/"
        ) from error
    except graphviz.CalledProcessError as error:
        raise DiagramError(f"Graphviz could not draw {declaration.name!r}: {error}") from error
    return drawn.replace("\r\n", "\n")
