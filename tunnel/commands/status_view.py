"""Tunnels in a terminal, with rich: a table that is shown once, or drawn again and again."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tunnel.commands.status_table import HEADINGS, row, title
from tunnel.commands.terminal import STATE_COLOURS
from tunnel.status import ProcessStatus

_FOLDED = ("name", "attempt")  # where the terminal is narrow


def table(process: ProcessStatus) -> Group:
    """Return the tunnels of a process as a table in colours; errors, which are long, below it."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS[:-1]:
        drawn.add_column(heading, overflow="fold", no_wrap=heading not in _FOLDED)
    errors = []
    for tunnel in process.tunnels:
        name, state, *rest, error = row(tunnel, process.time)
        drawn.add_row(Text(name), Text(state, style=STATE_COLOURS[state]), *map(Text, rest))
        if tunnel.last_error is not None:
            errors.append(Padding(Text(f"{name}: {error}", style="dim"), (0, 0, 0, 1)))
    head = Text(title(process), style="bold")
    return Group(head, drawn, *errors) if process.tunnels else Group(head)


def show(process: ProcessStatus) -> None:
    """Show it once, on standard output."""
    Console().print(table(process))


def live() -> Live:
    """Return a place on standard output where a table is drawn again and again."""
    return Live(console=Console(), auto_refresh=False)
