"""Tunnels in a terminal, with rich: a table that is shown once, or drawn again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunnel.commands.status_table import HEADINGS, row, title
from tunnel.commands.terminal import STATE_COLOURS
from tunnel.status import ProcessStatus, TunnelStatus

_NAME = 16  # a name keeps so many columns, if it is so long, and others are left out for it
_GAP = 2  # between two columns
_LEFT_OUT = ("quality", "round trip", "for", "reconnects", "queue", "attempt")  # in this order
_AROUND = 4  # lines that are no tunnels: title, headings, rule, and how many are not shown
_RECENT = 60.0  # seconds for which an error makes a tunnel that is connected one to look at
_TROUBLE = ("error", "disconnected", "reconnecting", "connecting", "connected", "closing")


def table(process: ProcessStatus, console: Console, *, fits: bool = False) -> Group:
    """Return the tunnels of a process as a table in colours; errors, which are long, below it.

    Where it is too narrow for all columns, some are left out, and long names end in an ellipsis.

    Args:
        process: How they stand.
        console: Where it is shown.
        fits: Whether it has to fit into the console's height. Where it does not, tunnels in trouble
            come first, an error is one line, and the last line counts what is not shown.
    """
    tunnels, now = process.tunnels, process.time
    head = _line(title(process), "bold")
    if not tunnels:
        return Group(head)
    errors = [_error(tunnel, now) for tunnel in tunnels if tunnel.last_error is not None]
    below = sum(len(error.wrap(console, console.width)) for error in errors)
    if not fits or _AROUND - 1 + len(tunnels) + below <= console.height:
        return Group(head, _rows(tunnels, now, console.width), *errors)
    ordered = sorted(tunnels, key=lambda tunnel: _urgency(tunnel, now))
    shown = _first(ordered, now, console.height - _AROUND)
    return Group(
        head,
        _rows(shown, now, console.width),
        *(_short_error(tunnel, now) for tunnel in shown if _has_news(tunnel, now)),
        _line(_count(ordered[len(shown) :]), "bold"),
    )


def show(process: ProcessStatus) -> None:
    """Show it once, on standard output."""
    console = Console()
    console.print(table(process, console))


def live() -> Live:
    """Return a place on standard output where a table is drawn again and again."""
    return Live(console=Console(), auto_refresh=False)


def _rows(tunnels: Iterable[TunnelStatus], now: float, width: int) -> Table:
    rows = [dict(zip(HEADINGS, row(tunnel, now), strict=True)) for tunnel in tunnels]
    columns = list(HEADINGS[:-1])
    widths = {
        heading: max([cell_len(heading), *(cell_len(cells[heading]) for cells in rows)])
        for heading in columns
    }

    def room() -> int:
        """Columns of the terminal that are left for names."""
        return width - sum(widths[heading] + _GAP for heading in columns[1:])

    for heading in _LEFT_OUT:
        if room() < min(widths["name"], _NAME):
            columns.remove(heading)
    widths["name"] = max(1, min(widths["name"], room()))
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in columns:
        drawn.add_column(heading, width=widths[heading], no_wrap=True, overflow="ellipsis")
    for cells in rows:
        drawn.add_row(
            *(
                Text(cells[heading], STATE_COLOURS[cells["state"]] if heading == "state" else "")
                for heading in columns
            )
        )
    return drawn


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _error(tunnel: TunnelStatus, now: float) -> Text:
    name, *_, error = row(tunnel, now)
    return Text(f"{name}: {error}", "dim")


def _short_error(tunnel: TunnelStatus, now: float) -> Text:
    name, *_, error = row(tunnel, now)
    short = Text(name)
    short.truncate(_NAME, overflow="ellipsis")
    return _line(f"{short}: {error}", "dim")


def _has_news(tunnel: TunnelStatus, now: float) -> bool:
    """Whether there is an error that explains how the tunnel stands, or is recent."""
    error = tunnel.last_error
    return error is not None and (tunnel.state != "connected" or now - error.time < _RECENT)


def _urgency(tunnel: TunnelStatus, now: float) -> tuple[bool, int, int]:
    """Sort tunnels in trouble to the beginning, and otherwise the oldest."""
    is_in_trouble = _has_news(tunnel, now) or tunnel.state in ("error", "reconnecting")
    return not is_in_trouble, is_in_trouble * _TROUBLE.index(tunnel.state), tunnel.number


def _first(ordered: Sequence[TunnelStatus], now: float, lines: int) -> Sequence[TunnelStatus]:
    """As many as there is room for, with their errors."""
    for place, tunnel in enumerate(ordered):
        lines -= 2 if _has_news(tunnel, now) else 1
        if lines < 0:
            return ordered[:place]
    return ordered


def _count(hidden: Sequence[TunnelStatus]) -> str:
    """Say how many are not shown."""
    if not hidden:
        return "errors that are over are left out"
    states = Counter(tunnel.state for tunnel in hidden)
    return f"{len(hidden)} more tunnels: " + ", ".join(
        f"{n} {state}" for state, n in states.items()
    )
