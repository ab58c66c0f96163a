"""What is printed and written of the figures; with results that nobody has measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.figures import command, report
from benchmarks.figures.catalogue import FIGURES
from benchmarks.figures.measure import Contenders, Figure, Goal, Result
from benchmarks.figures.report import shown, table

NAMES = ("tunnel", "websocket-client", "wsaccel", "websockets", "socketio")


@contextmanager
def given(brief: bool) -> Iterator[Contenders]:
    yield {"tunnel": lambda: 6.0, "a": lambda: 2.0}


@contextmanager
def interrupted(brief: bool) -> Iterator[Contenders]:
    raise KeyboardInterrupt
    yield {}


SOME = Figure("some", "some figure", "messages/s", given, Goal(2.0))


def words(text: str) -> list[str]:
    return text.split()


def result(of: Figure, **values: list[float]) -> Result:
    return Result(of, dict(values))


def test_the_table_has_a_line_for_each_figure() -> None:
    """Ratios, their spread, goals and verdicts stand in columns, the medians below them."""
    lines = table(
        [
            result(SOME, tunnel=[1000, 2000, 3000], a=[500, 800, 1000]),
            result(replace(SOME, goal=None, limit=0.5), tunnel=[0.25, 0.2, 0.3], a=[1, 1, 1]),
            result(replace(SOME, goal=None), tunnel=[1], b=[4]),
            result(replace(SOME, goal=None), tunnel=[7]),
        ]
    ).splitlines()
    assert lines[0].split() == words("figure measured spread goal")
    assert lines[1].split() == words("some figure 2.50 x 2.00..3.00 >= 2 x reached")
    assert lines[2] == "  messages/s: tunnel 2,000, a 800"
    assert lines[3].split() == words("some figure 0.25 0.2..0.3 >= 0.5 MISSED")
    assert lines[5].split() == words("some figure 0.25 x 0.25..0.25")
    assert lines[7].split() == words("some figure 7 7..7")
    assert lines[1].index("reached") == lines[3].index("MISSED")
    assert lines[-1] == "1 of 2 goals are reached."


def test_failures_are_shown() -> None:
    """Who failed is named, also when nothing was measured."""
    failed = Result(SOME, {"a": [1.0]}, {"tunnel": ["OSError: gone"] * 3})
    lines = table([failed]).splitlines()
    assert lines[1].split() == words("some figure >= 2 x MISSED")
    assert lines[2] == "  messages/s: a 1, tunnel failed 3 times"


def test_a_hundred_columns_are_enough() -> None:
    """No line is longer, whatever is measured; and none breaks within a contender."""
    rows = [
        Result(figure, {name: [123456.7, 234567.8, 345678.9] for name in NAMES})
        for figure in FIGURES
    ]
    lines = table(rows).splitlines()
    assert max(map(len, lines)) <= report.WIDTH
    assert not [text for text in lines if text.endswith(NAMES)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1_234_567.8, "1,234,568"), (100, "100"), (99.94, "99.9"), (0.01234, "0.0123"), (0, "0")],
)
def test_numbers_have_as_many_digits_as_mean_something(value: float, text: str) -> None:
    """Three digits at least, and thousands apart."""
    assert shown(value) == text


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the table, and writes values and machine."""
    monkeypatch.setattr(command, "FIGURES", (SOME,))
    file = tmp_path / "figures.json"
    assert main(["figures", "--rounds", "2", "--json", str(file)]) == 0
    assert "some figure" in capsys.readouterr().out
    found = json.loads(file.read_text("utf-8"))
    assert found["figures"][0]["values"] == {"tunnel": [6.0, 6.0], "a": [2.0, 2.0]}
    assert found["figures"][0]["ratio"] == 3.0
    assert found["machine"]["libraries"]["websocket-client"]
    assert found["rounds"] == 2


def test_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After Ctrl-C there is a table of what was measured before, and no file."""
    monkeypatch.setattr(command, "FIGURES", (SOME, replace(SOME, contend=interrupted)))
    file = tmp_path / "figures.json"
    assert main(["figures", "--json", str(file)]) == 130
    shown = capsys.readouterr()
    assert "some figure" in shown.out
    assert shown.err.endswith("interrupted\n")
    assert not file.exists()


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure that an extra would make better says so; without a peer there is no figure."""
    assert report.notes() == []
    monkeypatch.setattr(report, "MASKER", "python")
    monkeypatch.setattr(report, "version_of", lambda name: None)
    masker, loop = report.notes()
    assert "extra fast" in masker
    assert "uvloop" in loop
    monkeypatch.setattr("benchmarks.extras.find_spec", lambda module: None)
    with pytest.raises(SystemExit, match=r"wsaccel.*pip install 'resilient-tunnel\[bench\]'"):
        main(["figures", "--brief", "--only", "trigger"])


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    """Names can be listed, and one that does not exist is refused."""
    assert main(["figures", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FIGURES)
    assert main(["figures", "--only", "nothing"]) == 2
    assert "--list" in capsys.readouterr().err
