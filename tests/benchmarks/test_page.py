"""What the documentation shows of measurements is what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.figures.catalogue import FIGURES
from benchmarks.growth.catalogue import CURVES
from benchmarks.page import command, render

MACHINE = {
    "processor": "Some processor",
    "processors": 2,
    "system": "Linux 6",
    "temporary files": "ext4",
    "load before": 0.0625,
    "python": "3.12.1",
    "libraries": {"websockets": "16.0", "uvloop": "0.22"},
}
FIGURE = {
    "title": "some figure",
    "unit": "messages/s",
    "more_is_better": True,
    "values": {"tunnel": [1000, 2000, 3000], "a": [500, 800, 1000]},
    "medians": {"tunnel": 2000, "a": 800},
    "ratios": [2.0, 2.5, 3.0],
    "ratio": 2.5,
    "goal": ">= 2 x",
    "limit": None,
    "reached": True,
    "failures": {},
}


def measured(*figures: dict[str, Any]) -> dict[str, Any]:
    return {"machine": MACHINE, "rounds": 5, "notes": ["No uvloop."], "figures": figures}


def kept(name: str) -> Any:
    return json.loads((command.FOLDER / f"{name}.json").read_text("utf-8"))


def test_the_documentation_is_current() -> None:
    """docs/measured/ has what the command makes of the measurements that are kept there."""
    assert main(["page", "--check"]) == 0


def test_everything_is_measured() -> None:
    """The documentation has each figure and each curve, with its picture, and no other."""
    assert [row["name"] for row in kept("figures")["figures"]] == [row.name for row in FIGURES]
    assert [row["name"] for row in kept("growth")["curves"]] == [row.name for row in CURVES]
    for curve in CURVES:
        assert (command.FOLDER.parent / "pictures" / f"growth-{curve.name}.svg").is_file()
    assert "?" not in (command.FOLDER / "growth.inc").read_text("utf-8")


def test_the_table_of_figures() -> None:
    """Each figure is a row; a goal that is missed is in bold, and the goals are counted."""
    failed = {"values": {}, "medians": {}, "ratios": [], "ratio": None, "reached": False}
    aimless = {**FIGURE, "goal": None, "reached": None}
    text = render.figures(measured(FIGURE, {**FIGURE, **failed}, aimless))
    assert (
        "   * - some figure\n     - >= 2 x\n     - 2.50 x\n     - 2.00 to 3.00\n"
        "     - messages/s: tunnel 2,000, a 800\n" in text
    )
    assert "     - **failed**\n" in text
    assert "   * - some figure\n     -\n" in text
    assert "\n1 of 2 goals are reached.\n" in text
    assert "\nNo uvloop.\n" in text


def test_where_it_was_measured() -> None:
    """Machine, system, versions and load are named, as far as they are known."""
    text = " ".join(render.where(measured()).split())
    assert text == (
        "Measured in 5 rounds, on 2 processors (Some processor), Linux 6, temporary files on ext4, "
        "a load of 0.06 before it began; Python 3.12.1, websockets 16.0, uvloop 0.22."
    )
    unknown = {**measured(), "machine": {**MACHINE, "temporary files": None, "load before": None}}
    assert "Linux 6; Python" in " ".join(render.where(unknown).split())


@pytest.mark.parametrize("is_fine", [True, False])
def test_a_curve(is_fine: bool) -> None:
    """Each curve has a title, a picture and its explanation, with a word if it is too steep."""
    seconds = {10: 1e-5, 100: 1e-5, 1000: 1e-5 if is_fine else 1e-3, 10_000: 1e-5}
    points = [{"x": x, "seconds": s, "throughput": 1 / s, "kib": 9.0} for x, s in seconds.items()]
    points[3]["seconds"] = 1.2e-5 if is_fine else 1.0
    curve = {"name": "history", "points": points}
    text = render.growth({"machine": MACHINE, "rounds": 3, "curves": [curve]})
    title = "Changes of state, with a history of the latest"
    picture = ".. image:: pictures/growth-history.svg\n"
    assert f"\n{title}\n{'~' * len(title)}\n\n{picture}" in text
    assert "10 us a change with 10 events" in " ".join(text.split())
    assert "of memory: 0.00." in text
    assert ("**Steeper than linear.**" in text) is not is_fine


def test_a_stale_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To check writes nothing, and says which file is to be made anew."""
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(command, "RENDERERS", {"some": lambda found: found["text"]})
    (tmp_path / "some.json").write_text('{"text": "new"}')
    assert main(["page", "--check"]) == 1
    assert "some.inc is stale" in capsys.readouterr().err
    assert main(["page"]) == 0
    assert (tmp_path / "some.inc").read_text() == "new"
    assert main(["page", "--check"]) == 0
