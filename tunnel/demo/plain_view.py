"""The demo as plain lines, one for each event: for files, pipes and terminals without rich."""

from __future__ import annotations

import textwrap
import threading
from types import TracebackType
from typing import TextIO

from tunnel.demo.recorder import Note
from tunnel.demo.report import Report, counts, path

_HEAD = "    s  state        sent back queue  event"
_WIDTH = 100


def line(note: Note) -> str:
    """Return a note as a line; what the demo does is marked with an asterisk.

    A text that needs several lines is indented.
    """
    status, tally = note.status, note.status.tally
    mark = "* " if note.by_demo else ""
    head = (
        f"{status.seconds:5.2f}  {status.state:<12}{tally.sent:>5}{tally.received:>5}"
        f"{status.gauges.queued:>6}  "
    )
    return textwrap.fill(head + mark + note.text, _WIDTH, subsequent_indent=" " * len(head))


def summary(report: Report) -> str:
    """Return the end of the run as several lines."""
    numbers = (f"{name} {number}" for name, number in report.session_numbers.items())
    sums = f"{counts(report.tally)}; reconnections {len(report.recoveries)}"
    lines = ["", sums, ", ".join(numbers), ""]
    if report.recoveries:
        lines.append(
            f"{'cut':<16}{'noticed after':>15}{'back after':>12}{'attempts':>10}{'queued':>8}"
            f"{'session':>9}{'replayed':>10}"
        )
    for recovery in report.recoveries:
        lines.append(
            f"{recovery.cut:<16}{recovery.noticed_after:>13.2f} s{recovery.back_after:>10.2f} s"
            f"{recovery.attempts:>10}{recovery.queued:>8}{recovery.session:>9}"
            f"{recovery.replayed:>10}"
        )
    way = textwrap.fill(f"path: {path(report.states)}", _WIDTH, subsequent_indent="      ")
    return "\n".join([*lines, "", way, "", report.verdict])


class PlainView:
    """Writes lines. Safe to use from any thread.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # guards the stream: one line at a time

    def __enter__(self) -> PlainView:
        self._write(_HEAD)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def note(self, note: Note) -> None:
        """Show something that happened."""
        self._write(line(note))

    def summary(self, report: Report) -> None:
        """Show the end."""
        self._write(summary(report))

    def _write(self, text: str) -> None:
        with self._lock:
            print(text, file=self._stream, flush=True)
