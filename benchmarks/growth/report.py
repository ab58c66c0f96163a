"""What came of the curves: as a table for terminals, and in sentences with their numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from benchmarks.figures.report import shown
from benchmarks.growth.curve import Growth

_WIDTH = 100


class _Measured(dict[int, str]):
    """By x; what a brief run has not measured is a question mark."""

    def __missing__(self, x: int) -> str:
        return "?"


def explain(growth: Growth) -> str:
    """Why the curves are as they are, with the numbers of this run."""
    points = growth.points
    return growth.curve.explanation.format(
        time=_Measured({point.x: in_seconds(point.seconds) for point in points}),
        throughput=_Measured({point.x: shown(point.throughput) for point in points}),
        mib=_Measured({point.x: f"{shown(point.mib_a_second)} MiB/s" for point in points}),
        memory=_Measured({point.x: in_bytes(point.kib) for point in points}),
    )


def in_seconds(seconds: float) -> str:
    """A time with a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def in_bytes(kib: float) -> str:
    """An amount of memory with a unit that suits it."""
    return f"{shown(kib / 1024)} MiB" if kib >= 1024 else f"{shown(kib)} KiB"


def table(growths: Sequence[Growth]) -> str:
    """All points of all curves, and the verdicts, for a terminal."""
    parts = []
    for growth in growths:
        curve = growth.curve
        rows = [[curve.x_label, curve.items, "MiB/s", "time", "KiB"]]
        for point in growth.points:
            mib = f"{point.mib_a_second:,.4g}" if point.mib_a_second else ""
            values = (point.throughput, point.seconds * 1e6, point.kib)
            throughput, time, kib = (f"{value:,.4g}" for value in map(_rounded, values))
            rows.append([f"{point.x:,}", throughput, mib, f"{time} us", kib])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        verdict = "at most linear" if growth.is_at_most_linear else "STEEPER THAN LINEAR"
        slopes = f"slope of time {growth.time_slope:.2f}, of memory {growth.memory_slope:.2f}"
        text = textwrap.fill(explain(growth), _WIDTH)
        parts.append("\n".join([curve.title, *lines, f"{slopes}: {verdict}", text]))
    return "\n\n".join(parts)


def _rounded(value: float) -> float:
    """A large number without a fraction, which then is shown in full."""
    return float(round(value)) if value >= 1000 else value
