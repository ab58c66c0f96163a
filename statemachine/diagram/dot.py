"""DOT, the source of the picture that Graphviz draws.

Names are quoted, so that a state may be called "node". The sentences are tooltips; the picture as
SVG shows them when the pointer rests on a state or an arrow.
"""

from __future__ import annotations

from statemachine.declaration import Declaration
from statemachine.diagram.arrows import arrows, label, main_path

_INITIAL = "[initial]"
"""The node of the dot that the first arrow comes from; no state can be called so."""

_FONT = 'fontname="Helvetica,Arial,sans-serif"'
_HEAD = f"""\
    graph [rankdir=TB, nodesep=0.6, ranksep=0.7, pad=0.2, {_FONT}]
    node [shape=box, style="rounded,filled", fillcolor="#f3f6fa", color="#4a6785",
          fontcolor="#16283a", {_FONT}, fontsize=13, margin="0.2,0.12"]
    edge [color="#6b7c8f", fontcolor="#33475b", {_FONT}, fontsize=11,
          arrowsize=0.75]
"""


def render_dot(declaration: Declaration) -> str:
    """Return a directed graph of the declaration.

    The initial state has an arrow from a black dot, final states have a double border. The main
    path is drawn straight.
    """
    straight = main_path(declaration)
    lines = [
        f"// {declaration.name}: generated from its declaration; edit that instead",
        f"digraph {_quoted(declaration.name)} {{",
        _HEAD,
        f'    {_quoted(_INITIAL)} [shape=circle, style=filled, fillcolor=black, label="",'
        ' width=0.16, fixedsize=true, tooltip="begins here"]',
    ]
    for state, sentence in declaration.states.items():
        tooltip = f"{state}: {sentence}" if sentence else state
        border = ", peripheries=2" if state in declaration.final else ""
        lines.append(f"    {_quoted(state)} [tooltip={_quoted(tooltip)}{border}]")
    lines += ["", f"    {_quoted(_INITIAL)} -> {_quoted(declaration.initial)} [weight=8]"]
    for (source, dest), rows in arrows(declaration).items():
        # The blanks keep the label off the line.
        text = _quoted("\n".join(f"  {label(row)}  " for row in rows))
        tooltip = _quoted("\n".join(f"{label(row)}: {row.doc}" for row in rows))
        weight = ", weight=8" if (source, dest) in straight else ""
        lines += [
            f"    {_quoted(source)} -> {_quoted(dest)} [",
            f"        label={text}{weight},",
            f"        tooltip={tooltip},",
            f"        labeltooltip={tooltip}",
            "    ]",
        ]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    # Graphviz reads entities (&lt;) and escapes (\N is a node's name) in what it shows. The latter
    # it resolves twice in tooltips of nodes (2.43), so an invisible joiner follows a backslash.
    text = text.replace("&", "&amp;").replace("\\", "\\\\\u2060").replace('"', '\\"')
    return '"' + text.replace("\n", "\\n") + '"'
