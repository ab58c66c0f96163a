"""What ``tunnel connect`` shows on a terminal: the lines in colours, and a row with the state.

The row stands at the bottom, below the region that scrolls (DECSTBM), and is drawn with the cursor
saved and restored. So it disturbs neither messages that are written to the same terminal, nor what
somebody is typing there.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import TextIO

from rich.console import Console
from rich.text import Text

from tunnel.commands.connect_view import ConnectStatus, Out, PlainView
from tunnel.commands.terminal import STATE_COLOURS

_COLOURS = {**STATE_COLOURS, "reconnected": "green", "session_lost": "bold red"}
"""What a row or line shows each state, or kind of event, in."""

_SAVE, _RESTORE = "\0337", "\0338"
_LEAST_ROWS = 4  # of a terminal that has room for the row


class TerminalView(PlainView):
    """Draws on a terminal.

    Args:
        out: As for `PlainView`.
        server: As for `PlainView`.
        terminal: Where that leads to.
    """

    wants_round_trip = True

    def __init__(self, out: Out, server: str, terminal: TextIO) -> None:
        super().__init__(out, server)
        self._terminal = terminal
        self._console = Console(file=terminal, highlight=False)
        self._size: os.terminal_size | None = None  # for which the row has its place; None: none

    def refresh(self, status: ConnectStatus) -> None:
        """Draw the row anew; not on a terminal that is held up, where it would be old at once."""
        if self._out.is_behind:
            return
        try:
            size = os.get_terminal_size(self._terminal.fileno())
        except OSError:  # the terminal has gone away; the conversation goes on
            return
        if size.lines < _LEAST_ROWS:
            return
        text = Text.assemble(
            (f" ● {status.state} ", f"reverse {_COLOURS.get(status.state, '')}"),
            f"  {status.text(time.monotonic())}",
        )
        placed = "" if size == self._size else self._place(size)
        row = self._rendered(text, size.columns - 1)
        self._out.write(f"{placed}{_SAVE}\033[{size.lines};1H\033[2K{row}{_RESTORE}")

    def close(self) -> None:
        """Give the row back."""
        if self._size is not None:
            self._out.write(f"{_SAVE}\033[r\033[{self._size.lines};1H\033[2K{_RESTORE}")
            self._size = None

    def _place(self, size: os.terminal_size) -> str:
        """What takes the last row out of the region that scrolls."""
        # At first the cursor may be in the last row, which must become free.
        make_room, go_back = ("\n", "\033[1A") if self._size is None else ("", "")
        self._size = size
        return f"{make_room}{_SAVE}\033[1;{size.lines - 1}r{_RESTORE}{go_back}"

    def _say(self, moment: datetime, kind: str, text: str) -> None:
        clock = (f"{moment.astimezone():%H:%M:%S} ", "dim")
        line = Text.assemble(clock, (text, _COLOURS.get(kind, "")))
        self._out.write(self._rendered(line, None) + "\n")

    def _rendered(self, text: Text, width: int | None) -> str:
        """As the terminal understands it; with a width in one row, which is cut to it."""
        with self._console.capture() as capture:
            if width is None:
                self._console.print(text, end="", soft_wrap=True)
            else:
                self._console.print(
                    text, end="", width=width, no_wrap=True, overflow="ellipsis", crop=True
                )
        return capture.get()
