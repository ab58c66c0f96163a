"""Mermaid, as GitHub, GitLab and many editors show it.

Only the plainest part of the grammar is used, for every version of Mermaid draws it alike: an arrow
with a label that consists of names, brackets and ``<br/>``. The sentences are comments.
"""

from __future__ import annotations

from statemachine.declaration import Declaration
from statemachine.diagram.arrows import arrows, label

# Words that begin a statement or end a block, in any case of letters. A state may be called so all
# the same: it then has another identifier and shows its name as a label.
_RESERVED = frozenset(
    {"accdescr", "acctitle", "as", "class", "classdef", "click", "default", "direction", "end"}
    | {"hide", "href", "left", "note", "of", "right", "scale", "state", "statediagram", "style"}
    | {"title"}
)


def render_mermaid(declaration: Declaration) -> str:
    """Return a ``stateDiagram-v2`` of the declaration."""
    identifiers = _identifiers(declaration)
    lines = [
        "stateDiagram-v2",
        f"    %% {declaration.name}: generated from its declaration; edit that instead",
        "    direction TB",
    ]
    for state, sentence in declaration.states.items():
        comment = f"{state}: {sentence}" if sentence else state
        lines += ["", f"    %% {_comment(comment)}"]
        if identifiers[state] != state:
            lines.append(f'    state "{state}" as {identifiers[state]}')
        if state == declaration.initial:
            lines.append(f"    [*] --> {identifiers[state]}")
        for (source, dest), rows in arrows(declaration).items():
            if source == state:
                lines += [f"    %% - {_comment(f'{label(row)}: {row.doc}')}" for row in rows]
                labels = "<br/>".join(label(row) for row in rows)
                lines.append(f"    {identifiers[source]} --> {identifiers[dest]} : {labels}")
        if state in declaration.final:
            lines.append(f"    {identifiers[state]} --> [*]")
    return "\n".join(lines) + "\n"


def _identifiers(declaration: Declaration) -> dict[str, str]:
    found: dict[str, str] = {}
    for state in declaration.states:
        identifier = state
        while identifier.lower() in _RESERVED or (
            identifier != state and identifier in declaration.states
        ):
            identifier += "_"
        found[state] = identifier
    return found


def _comment(text: str) -> str:
    # Mermaid looks for a directive, percent signs and a brace, even within comments.
    return text.replace("%%", "% %")
