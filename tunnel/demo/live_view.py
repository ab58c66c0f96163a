"""The demo in a terminal, with rich: events scroll by above a panel that shows how things stand."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tunnel.commands.terminal import STATE_COLOURS
from tunnel.demo.journal import Gauges
from tunnel.demo.ledger import Tally
from tunnel.demo.recorder import Note, Status
from tunnel.demo.report import Report, path

_LATEST = 5  # states of the path that the panel shows
_WIDTH = 96
_MARGIN = 3  # columns that stay free: a terminal writes ^C behind the panel
_QUEUE_BAR = 100  # messages that fill the bar


class LiveView:
    """Draws on a terminal. Safe to use from any thread.

    Args:
        stream: The terminal.
        status: Asked for how things stand, some times a second, in a thread of rich's.
    """

    def __init__(self, stream: TextIO, status: Callable[[], Status]) -> None:
        self._console = Console(file=stream, highlight=False)
        self._live = Live(
            get_renderable=lambda: panel(status(), self._console.width - _MARGIN),
            console=self._console,
            refresh_per_second=12,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def note(self, note: Note) -> None:
        """Show something that happened."""
        self._console.print(event(note), width=_WIDTH)

    def summary(self, report: Report) -> None:
        """Show the end, in the place of the panel."""
        self._live.stop()
        self._console.print(closing(report), width=_WIDTH)


def event(note: Note) -> Table:
    """Return a note as a line, in colours; a text that needs several lines is indented."""
    status = note.status
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(style="dim", width=8, justify="right")
    row.add_column(style=STATE_COLOURS[status.state], width=12)
    row.add_column(style="bold cyan" if note.by_demo else "")
    row.add_row(f"{status.seconds:.2f} s", status.state, note.text)
    return row


def panel(status: Status, width: int) -> Panel:
    """Return how things stand, in a frame of at most so many columns."""
    colour = STATE_COLOURS[status.state]
    state = Text.assemble((f"● {status.state}", f"bold {colour}"))
    if status.progress:
        state.append(f"   {status.progress}")
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim")
    rows.add_row("state", state)
    _add_numbers(rows, status.gauges, status.tally)
    recent = status.states[-_LATEST:]
    rows.add_row("path", ("… → " if len(status.states) > _LATEST else "") + " → ".join(recent))
    return Panel(
        rows,
        title=f"[bold]{status.scene}[/]",
        title_align="left",
        subtitle=f"{status.seconds:.1f} s",
        subtitle_align="right",
        border_style=colour,
        width=min(width, _WIDTH),
    )


def _add_numbers(rows: Table, gauges: Gauges, tally: Tally) -> None:
    queue = Table.grid(padding=(0, 1))
    queue.add_row(
        f"{gauges.queued:>3}",
        ProgressBar(_QUEUE_BAR, min(gauges.queued, _QUEUE_BAR), width=40, complete_style="yellow"),
    )
    messages = {
        "sent": tally.sent,
        "came back": tally.received,
        "doubled": tally.duplicated,
        "reordered": tally.reordered,
    }
    session = {
        "unacknowledged": gauges.unacknowledged,
        "replayed": gauges.replayed,
        "duplicates dropped": gauges.duplicates,
    }
    rows.add_row("queue", queue)
    rows.add_row("messages", _in_line(messages))
    rows.add_row("session", _in_line(session))


def closing(report: Report) -> Group:
    """Return the end of the run: tables of the recoveries and messages, path and verdict."""
    recoveries = Table(box=box.SIMPLE_HEAD)
    recoveries.add_column("cut", no_wrap=True)
    for heading in ("noticed\nafter", "back\nafter", "attempts", "queued", "session", "replayed"):
        recoveries.add_column(heading, justify="right")
    for recovery in report.recoveries:
        recoveries.add_row(
            recovery.cut,
            f"{recovery.noticed_after:.2f} s",
            f"{recovery.back_after:.2f} s",
            str(recovery.attempts),
            str(recovery.queued),
            recovery.session,
            str(recovery.replayed),
        )
    tally = report.tally
    messages = {
        "sent": tally.sent,
        "received": tally.received,
        "lost": tally.lost,
        "doubled": tally.duplicated,
        "reordered": tally.reordered,
        "reconnections": len(report.recoveries),
    }
    return Group(
        recoveries,
        _in_table(messages),
        _in_table(report.session_numbers),
        Padding(f"path: {path(report.states, ' → ')}", (0, 2)),
        Padding(
            Text(report.verdict, style="bold green" if tally.is_perfect else "bold red"), (1, 2)
        ),
    )


def _in_line(numbers: dict[str, int]) -> Text:
    line = Text()
    for name, number in numbers.items():
        line.append(f"{name} ").append(f"{number:<6}", style="bold")
    return line


def _in_table(numbers: dict[str, int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in numbers:
        table.add_column(heading, justify="right")
    table.add_row(*map(str, numbers.values()))
    return table
