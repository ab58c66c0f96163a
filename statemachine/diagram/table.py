"""Tables in reStructuredText: every state, every row and every other decision, with its sentence.

They are plain ``list-table`` directives without headings, so that any document can include them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from statemachine.declaration import Declaration
from statemachine.diagram.arrows import label


def render_table(declaration: Declaration) -> str:
    """Return up to four tables: states, transitions, ignored triggers, illegal triggers."""
    states = [
        [_code(state) + _role(declaration, state), _text(sentence)]
        for state, sentence in declaration.states.items()
    ]
    order = {state: place for place, state in enumerate(declaration.states)}
    rows = [
        [_code(row.source), _code(label(row)), _code(row.dest), _text(row.doc)]
        for row in sorted(declaration.transitions, key=lambda row: order[row.source])
    ]
    blocks = [
        f".. {declaration.name}: generated from its declaration; edit that instead\n",
        _table("States", ("State", "Meaning"), (25, 75), states),
        _table("Transitions", ("From", "Trigger", "To", "When and why"), (15, 20, 15, 50), rows),
    ]
    for title, cells in (("Ignored", declaration.ignored), ("Illegal", declaration.illegal)):
        found = [
            [_code(state), _code(trigger), _text(sentence)]
            for (state, trigger), sentence in sorted(
                cells.items(), key=lambda cell: order[cell[0][0]]
            )
        ]
        blocks.append(_table(title, ("In", "Trigger", "Because"), (20, 20, 60), found))
    if not declaration.complete:
        blocks.append("Every trigger in a state for which no table has a row is illegal.\n")
    return "\n".join(block for block in blocks if block)


def _role(declaration: Declaration, state: str) -> str:
    roles = ["initial"] if state == declaration.initial else []
    roles += ["final"] if state in declaration.final else []
    return f" ({', '.join(roles)})" if roles else ""


def _table(
    title: str, heads: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[str]]
) -> str:
    """Return a table; nothing if it would have no rows."""
    if not rows:
        return ""
    lines = [
        f".. list-table:: {title}",
        "   :header-rows: 1",
        f"   :widths: {' '.join(str(width) for width in widths)}",
        "",
    ]
    for row in (heads, *rows):
        lines += [
            f"   {'* -' if place == 0 else '  -'} {cell}".rstrip() for place, cell in enumerate(row)
        ]
    return "\n".join(lines) + "\n"


def _code(name: str) -> str:
    return f"``{name}``"


def _text(sentence: str) -> str:
    """Return a sentence so that reStructuredText shows it as it is, and finds no markup in it."""
    escaped = re.sub(r"([\\*`|])", r"\\\1", sentence)
    # foo_ would be a reference, _`foo` a target; the underscore within a name is harmless.
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", escaped)
    escaped = escaped.replace("::", ":\\:")
    # "- ", "1. ", "(a) ", "iv) " and the like would begin a list. An escaped blank is nothing.
    begins = re.match(r"\W|(\d+|[a-zA-Z]|[ivxlcdmIVXLCDM]+)[.)](\s|$)", escaped)
    return rf"\ {escaped}" if begins else escaped
