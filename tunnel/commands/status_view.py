"""Tunnels in a terminal, with rich: a table that is shown once, or drawn again and again."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunnel.commands.status_table import COLOURS, HEADINGS, row, title
from tunnel.status import ProcessStatus


def table(process: ProcessStatus) -> Table:
    """Return the tunnels of a process as a table in colours."""
    drawn = Table(title=Text(title(process)), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in HEADINGS:
        drawn.add_column(heading, overflow="fold", no_wrap=heading not in ("name", "last error"))
    for tunnel in process.tunnels:
        cells = [Text(cell) for cell in row(tunnel, process.time)]
        cells[1].stylize(COLOURS[tunnel.state])
        drawn.add_row(*cells)
    return drawn


def show(process: ProcessStatus) -> None:
    """Show it once, on standard output."""
    Console().print(table(process))


def live() -> Live:
    """Return a place on standard output where a table is drawn again and again."""
    return Live(console=Console(), auto_refresh=False)
