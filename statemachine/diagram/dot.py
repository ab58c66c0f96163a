"""DOT, the source of the picture that Graphviz draws.

Names are quoted, so that a state may be called "node". The sentences are tooltips; the picture as
SVG shows them when the pointer rests on a state or an arrow. Three kinds of arrows are told apart,
by colour and by line: the main path, what goes wrong, and the rest. They are classes of the SVG.
"""

from __future__ import annotations

from html import escape
from itertools import takewhile

from statemachine.declaration import Declaration
from statemachine.diagram.arrows import arrows_apart, label, main_path

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
_STYLES = {  # of arrows, by kind
    "main": 'class="main", penwidth=2.2, color="#1f4e79", fontcolor="#1f4e79"',
    "failure": 'class="failure", style=dashed, color="#b3261e", fontcolor="#8c1d18"',
    "other": 'class="other"',
}
_LEGEND = (  # kind, colour, what is said of it
    ("main", "#1f4e79", "━━▶ &#160;the usual way"),
    ("failure", "#b3261e", "╌╌▶ &#160;something goes wrong"),
    ("other", "#6b7c8f", "──▶ &#160;other ways"),
)
_COLOURS = (  # of groups, fill and border, in turn; light, so that text is readable
    ("#eef1f5", "#4a6785"),
    ("#fdf0cf", "#a87400"),
    ("#d9f0e1", "#2c7a4b"),
    ("#fbdfdc", "#a8322a"),
    ("#e8e0f5", "#6a4a9c"),
)


def render_dot(declaration: Declaration) -> str:
    """Return a directed graph of the declaration, with a legend.

    The initial state has an arrow from a black dot, final states have a double border. The main
    path is drawn straight.
    """
    lines = [
        f"// {declaration.name}: generated from its declaration; edit that instead",
        f"digraph {_quoted(declaration.name)} {{",
        _HEAD,
        f"    label=<{_legend(declaration)}>",
        f'    {_quoted(_INITIAL)} [shape=circle, style=filled, fillcolor=black, label="",'
        ' width=0.16, fixedsize=true, tooltip="begins here"]',
    ]
    colours = _colours(declaration)
    for state, sentence in declaration.states.items():
        tooltip = f"{state}: {sentence}" if sentence else state
        border = ", peripheries=2" if state in declaration.final else ""
        fill = colours.get(state)
        colour = f', fillcolor="{fill[0]}", color="{fill[1]}"' if fill else ""
        lines.append(f"    {_quoted(state)} [tooltip={_quoted(tooltip)}{border}{colour}]")
    lines += ["", f"    {_quoted(_INITIAL)} -> {_quoted(declaration.initial)} [weight=8]"]
    return "\n".join([*lines, *_edges(declaration), "}", ""])


def _edges(declaration: Declaration) -> list[str]:
    straight, usual = main_path(declaration), _usual_way(declaration)
    lines = []
    for (source, dest, is_failure), rows in arrows_apart(declaration).items():
        # The blanks keep the label off the line.
        text = _quoted("\n".join(f"  {label(row)}  " for row in rows))
        tooltip = _quoted("\n".join(f"{label(row)}: {row.doc}" for row in rows))
        weight = ", weight=8" if (source, dest) in straight else ""
        lines += [
            f"    {_quoted(source)} -> {_quoted(dest)} [",
            f"        label={text}{weight},",
            f"        {_STYLES[_kind(usual, source, dest, is_failure)]},",
            f"        tooltip={tooltip},",
            f"        labeltooltip={tooltip}",
            "    ]",
        ]
    return lines


def _usual_way(declaration: Declaration) -> frozenset[tuple[str, str]]:
    """The main path as far as nothing goes wrong on it."""
    well = {
        (source, dest) for source, dest, is_failure in arrows_apart(declaration) if not is_failure
    }
    return frozenset(takewhile(well.__contains__, main_path(declaration)))


def _kind(usual: frozenset[tuple[str, str]], source: str, dest: str, is_failure: bool) -> str:
    return "failure" if is_failure else "main" if (source, dest) in usual else "other"


def _colours(declaration: Declaration) -> dict[str, tuple[str, str]]:
    return {
        state: _COLOURS[number % len(_COLOURS)]
        for number, states in enumerate(declaration.groups.values())
        for state in states
    }


def _legend(declaration: Declaration) -> str:
    """What colours and lines mean, as Graphviz's kind of HTML: only what the picture has."""
    usual = _usual_way(declaration)
    kinds = {_kind(usual, *ends) for ends in arrows_apart(declaration)}
    entries = [
        f'<td bgcolor="{_COLOURS[number % len(_COLOURS)][0]}" border="1" style="rounded"'
        f' color="{_COLOURS[number % len(_COLOURS)][1]}">  {escape(group)}  </td>'
        for number, group in enumerate(declaration.groups)
    ]
    entries += [
        f'<td border="0"><font color="{colour}">  {text}  </font></td>'
        for kind, colour, text in _LEGEND
        if kind in kinds
    ]
    entries.append('<td border="0">  double border: may rest here  </td>')
    half = (len(entries) + 1) // 2 if len(entries) > 4 else len(entries)
    rows = "".join(f"<tr>{''.join(r)}</tr>" for r in (entries[:half], entries[half:]) if r)
    font = '<font point-size="10" color="#33475b">'
    return f'{font}<table border="0" cellborder="0" cellspacing="6">{rows}</table></font>'


def _quoted(text: str) -> str:
    # Graphviz reads entities (&lt;) and escapes (\N is a node's name) in what it shows. The latter
    # it resolves twice in tooltips of nodes (2.43), so an invisible joiner follows a backslash.
    text = text.replace("&", "&amp;").replace("\\", "\\\\\u2060").replace('"', '\\"')
    return '"' + text.replace("\n", "\\n") + '"'
