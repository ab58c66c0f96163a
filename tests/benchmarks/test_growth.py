"""The curves of growing work: that they can be measured, and that a bad one would be noticed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.growth.catalogue import CURVES
from benchmarks.growth.countdown import Countdown
from benchmarks.growth.curve import Curve, Growth, Point, Spent, measure, slope
from benchmarks.growth.drawing import decades, tick
from benchmarks.growth.report import explain, in_bytes, in_seconds, table


def grown(time: float, memory: float, *, start: float = 1.0) -> Growth:
    """A curve whose time and memory grow with these powers of x."""
    xs = (1, 4, 16, 64, 256)
    points = (Point(x, start + x**time, 1.0, x**memory) for x in xs)
    return Growth(curve(lambda x: Spent(1.0, x)), tuple(points))


def curve(work: Callable[[int], Spent], *, is_per_item: bool = False) -> Curve:
    """A curve without a tunnel."""

    @contextmanager
    def context(x: int, brief: bool) -> Iterator[Callable[[], Spent]]:
        yield lambda: work(x)

    xs = (1, 10, 100, 1000)
    return Curve("name", "title", "x", "items/s", xs, (1, 2), context, "why", is_per_item)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_slope(power: float) -> None:
    """The slope is the power by which something grows, whatever it costs at the beginning."""
    assert slope([(3, 7 * 3**power)]) == 0
    assert slope([(x, 7 * x**power) for x in (1, 10, 100)]) == pytest.approx(power)
    assert slope([(1, 900), (10, 900), (100, 1), (1000, 10**power), (10_000, 100**power)]) == (
        pytest.approx(power)
    )


@pytest.mark.parametrize(
    ("time", "memory", "is_fine"),
    [(1.0, 1.0, True), (0.0, 1.0, True), (1.5, 1.0, False), (1.0, 1.5, False), (2.0, 0.0, False)],
)
def test_the_verdict(time: float, memory: float, is_fine: bool) -> None:
    """What is steeper than linear, in time or in memory, is named so."""
    growth = grown(time, memory, start=0.0)
    assert growth.is_at_most_linear is is_fine
    assert ("STEEPER" in table([growth])) is not is_fine
    assert growth.to_dict()["at_most_linear"] is is_fine


def test_the_fastest_counts() -> None:
    """Of several rounds the fastest counts; time is that of an item, or of all."""
    # At each point the first one warms up; and in the last round, one more is traced.
    rounds = [[0.1, 5.0] * 4, [0.1, 2.0] * 4, [0.1, 3.0, 0.1] * 4]
    seconds = (second for some in rounds for second in some)
    found = measure(curve(lambda x: Spent(next(seconds), x, 2**20)), 3)
    assert next(seconds, None) is None
    assert [point.seconds for point in found.points] == [2.0] * 4
    assert [point.throughput for point in found.points] == [0.5, 5, 50, 500]
    assert [point.mib_a_second for point in found.points] == [0.5, 5, 50, 500]
    found = measure(curve(lambda x: Spent(2.0, x), is_per_item=True), 1)
    assert [point.seconds for point in found.points] == [2.0, 0.2, 0.02, 0.002]
    assert found.time_slope == pytest.approx(-1)


def test_memory_is_what_was_held_at_once() -> None:
    """The memory at a point is the most that was held during the work."""

    def hold(x: int) -> Spent:
        held = bytes(x * 100_000)
        return Spent(1.0, len(held))

    found = measure(curve(hold), 1)
    assert [point.kib for point in found.points] == pytest.approx(
        [x * 100_000 / 1024 for x in (1, 10, 100, 1000)], rel=0.1
    )
    assert found.memory_slope == pytest.approx(1, abs=0.05)


def test_what_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement whose answers do not come ends with an error that says how many are missing."""
    monkeypatch.setattr("benchmarks.growth.countdown.LIMIT", 0.01)
    countdown = Countdown()
    countdown.start(3)
    countdown.note()
    with pytest.raises(TimeoutError, match="2 are missing"):
        countdown.wait()


def test_all_curves_can_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each curve has a name of its own, can be measured, and is explained."""
    file = tmp_path / "growth.json"
    assert main(["growth", "--brief", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert all(curve.title in shown for curve in CURVES)
    assert all(curve.explanation.split("{")[0][:40] in shown for curve in CURVES)
    found = json.loads(file.read_text("utf-8"))["curves"]
    assert [growth["name"] for growth in found] == [curve.name for curve in CURVES]
    assert len({curve.name for curve in CURVES}) == len(CURVES)
    for growth in found:
        assert all(point["throughput"] > 0 and point["kib"] > 1 for point in growth["points"])


def test_an_explanation_has_the_numbers_of_the_run() -> None:
    """What was measured is filled in; what a brief run has not measured is a question mark."""
    text = "{time[10]}, {throughput[10]}/s, {mib[10]}, {memory[10]}; {time[11]}"
    points = (Point(10, 0.0123456, 81234.5, 2048.0, 1.5),)
    growth = Growth(replace(curve(lambda x: Spent(1.0, x)), explanation=text), points)
    assert explain(growth) == "12.3 ms, 81,234/s, 1.5 MiB/s, 2 MiB; ?"


def test_units_suit_the_amount() -> None:
    """Times and amounts are shown with at most three digits before the unit grows."""
    assert [in_seconds(s) for s in (2.5e-7, 1e-3, 12.0)] == ["0.25 us", "1 ms", "12 s"]
    assert [in_bytes(kib) for kib in (0.5, 1023, 1024)] == ["0.5 KiB", "1,023 KiB", "1 MiB"]


def test_axes() -> None:
    """Values lie within whole decades, so what is nearly constant looks so; sizes have units."""
    assert decades([200, 310]) == (100, 1000)
    assert decades([100]) == (100, 1000)
    assert decades([0.5, 20]) == pytest.approx((0.1, 100))
    sizes = (16, 2048, 2**24)
    assert [tick(x, in_bytes=True) for x in sizes] == ["16 B", "2 KiB", "16 MiB"]
    assert tick(65_536, in_bytes=False) == "65,536"


def test_a_picture(tmp_path: Path) -> None:
    """A curve is drawn as SVG, in a file with its name."""
    pytest.importorskip("matplotlib")
    assert main(["growth", "--brief", "--only", "history", "--pictures", str(tmp_path)]) == 0
    assert (tmp_path / "growth-history.svg").read_bytes().startswith(b"<?xml")


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    """Names can be listed, and one that does not exist is refused."""
    assert main(["growth", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CURVES)
    assert main(["growth", "--only", "nothing"]) == 2
    assert "--list" in capsys.readouterr().err
