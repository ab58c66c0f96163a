"""One function for every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from statemachine.declaration import Declaration
from statemachine.diagram.dot import render_dot
from statemachine.diagram.mermaid import render_mermaid
from statemachine.diagram.svg import render_svg
from statemachine.diagram.table import render_table

_RENDERERS: Mapping[str, Callable[[Declaration], str]] = MappingProxyType(
    {"mermaid": render_mermaid, "dot": render_dot, "svg": render_svg, "rst": render_table}
)

EXTENSIONS: Mapping[str, str] = MappingProxyType(
    {"mermaid": "mmd", "dot": "dot", "svg": "svg", "rst": "rst"}
)
"""The formats, and for each the extension of its files."""


def render(declaration: Declaration, format: str) -> str:
    """Draw a declaration.

    Args:
        declaration: What to draw.
        format: "mermaid", "dot", "svg" or "rst".

    Returns:
        The whole file as text, ending with a line feed.

    Raises:
        ValueError: If there is no such format.
        DiagramError: If SVG cannot be drawn here; the message says what to install.
    """
    if format not in _RENDERERS:
        raise ValueError(f"there is no format {format!r}, only {', '.join(_RENDERERS)}")
    return _RENDERERS[format](declaration)
