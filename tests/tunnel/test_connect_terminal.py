"""The row that `tunnel connect` shows at the bottom of a terminal."""

from __future__ import annotations

import io
import os
from datetime import datetime, timezone

import pytest

from tunnel.commands.connect_terminal import TerminalView
from tunnel.commands.connect_view import ConnectStatus
from tunnel.events import ConnectionEvent, ConnectionEventType

STATUS = ConnectStatus("connected", queued=3)


class Screen(io.StringIO):
    """A terminal of a size that can change, which may be held up."""

    is_behind = False

    def fileno(self) -> int:
        return 7

    def isatty(self) -> bool:
        return True

    def take(self) -> str:
        """What was written since the last call."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


class Resizable:
    """Says how big the terminal is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size = os.terminal_size((80, 24))
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setattr(os, "get_terminal_size", lambda descriptor=0: self.size)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Resizable:
    return Resizable(monkeypatch)


def test_the_row_is_taken_once_and_given_back(terminal: Resizable) -> None:
    """It is outside what scrolls, drawn with the cursor saved, and empty at the end."""
    screen = Screen()
    view = TerminalView(screen, "ws://h/", screen)
    view.refresh(STATUS)
    first = screen.take()
    assert first.startswith("\n\0337\033[1;23r\0338\033[1A\0337\033[24;1H\033[2K")
    assert "connected" in first
    assert "queue 3" in first
    assert first.endswith("\0338")
    view.refresh(STATUS)
    assert screen.take().startswith("\0337\033[24;1H\033[2K")
    view.close()
    assert screen.take() == "\0337\033[r\033[24;1H\033[2K\0338"
    view.close()
    assert screen.take() == ""


def test_the_row_follows_the_size(terminal: Resizable) -> None:
    """A terminal that has become larger has it at its new end; a tiny one has none."""
    screen = Screen()
    view = TerminalView(screen, "ws://h/", screen)
    view.refresh(STATUS)
    screen.take()
    terminal.size = os.terminal_size((20, 30))
    view.refresh(STATUS)
    text = screen.take()
    assert text.startswith("\0337\033[1;29r\0338\0337\033[30;1H\033[2K")
    assert "\u2026" in text  # what does not fit
    terminal.size = os.terminal_size((80, 3))
    view.refresh(STATUS)
    assert screen.take() == ""


def test_a_terminal_that_has_gone_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversation goes on without a row."""

    def fail(descriptor: int) -> os.terminal_size:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "get_terminal_size", fail)
    screen = Screen()
    view = TerminalView(screen, "ws://h/", screen)
    view.refresh(STATUS)
    view.close()
    assert screen.take() == ""


def test_nothing_is_drawn_while_it_is_held_up(terminal: Resizable) -> None:
    """What was drawn a hundred times meanwhile would flash past when it goes on."""
    screen = Screen()
    view = TerminalView(screen, "ws://h/", screen)
    screen.is_behind = True
    view.refresh(STATUS)
    assert screen.take() == ""
    screen.is_behind = False
    view.refresh(STATUS)
    assert "connected" in screen.take()


def test_events_are_lines_above_it(terminal: Resizable) -> None:
    """With their time; a text in brackets is no markup."""
    screen = Screen()
    view = TerminalView(screen, "ws://h/", screen)
    now = datetime.now(timezone.utc)
    view.event(ConnectionEvent(ConnectionEventType.DISCONNECTED, now, "[Errno 1] [red]no"))
    view.event(ConnectionEvent(ConnectionEventType.HEALTH_CHECK, now, "well"))
    text = screen.take()
    assert "disconnected: [Errno 1] [red]no" in text
    assert text.count("\n") == 1
