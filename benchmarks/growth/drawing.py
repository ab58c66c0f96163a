"""The pictures of curves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from benchmarks.growth.curve import Growth
from benchmarks.pictures import Panel, save


def draw(path: Path, growth: Growth) -> None:
    """Throughput to the left, memory to the right."""
    curve, points = growth.curve, growth.points
    xs = [float(point.x) for point in points]
    throughput = {curve.items: (xs, [point.throughput for point in points])}
    if curve.is_per_item and points[0].mib_a_second:
        throughput["MiB/s"] = (xs, [point.mib_a_second for point in points])
    memory = {"KiB at most": (xs, [point.kib for point in points])}
    ticks = {float(point.x): tick(point.x, in_bytes="bytes" in curve.x_label) for point in points}
    panels = [
        Panel(
            curves,
            curve.x_label,
            ", ".join(curves),
            x_log=True,
            y_log=True,
            has_points=True,
            limits={"ylim": decades(y for _, ys in curves.values() for y in ys)},
            x_ticks=ticks,
        )
        for curves in (throughput, memory)
    ]
    save(path, curve.title, *panels)


def decades(values: Iterable[float]) -> tuple[float, float]:
    """The powers of ten around values, so that what is nearly constant looks so."""
    exponents = [math.log10(value) for value in values]
    least, most = math.floor(min(exponents)), math.ceil(max(exponents))
    return 10.0**least, 10.0 ** max(most, least + 1)


def tick(x: int, *, in_bytes: bool) -> str:
    """A number below an axis."""
    if not in_bytes:
        return f"{x:,}"
    return f"{x} B" if x < 2**10 else f"{x // 2**10} KiB" if x < 2**20 else f"{x // 2**20} MiB"
