"""Which streams commands draw on."""

from __future__ import annotations

import io

import pytest

from tunnel.commands import terminal


class Stream(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("tty", "encoding", "term", "lively"),
    [
        (True, "utf-8", "xterm", True),
        (True, "UTF8", "xterm", True),
        (False, "utf-8", "xterm", False),
        (True, "latin-1", "xterm", False),
        (True, None, "xterm", False),
        (True, "utf-8", "dumb", False),
    ],
)
def test_only_able_terminals_are_drawn_on(
    tty: bool, encoding: str | None, term: str, lively: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pipes, dumb terminals and those that know no Unicode get plain lines."""
    stream = Stream()
    monkeypatch.setattr(stream, "encoding", encoding)
    monkeypatch.setattr(stream, "isatty", lambda: tty)
    monkeypatch.setenv("TERM", term)
    assert terminal.is_lively(stream) is lively


def test_without_rich_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(terminal, "find_spec", lambda name: None)
    assert not terminal.is_lively(Stream())
