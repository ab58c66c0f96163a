"""Curves as SVG files, each the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000", "#56b4e9")
"""Told apart also by people who do not see all colours (Okabe and Ito, 2008)."""

_STYLE: Any = {
    "svg.hashsalt": "resilient-tunnel",
    "svg.fonttype": "path",  # the same everywhere, whatever fonts there are
    "font.family": "DejaVu Sans",  # which matplotlib brings along
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Curves: TypeAlias = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""By name: the x and the y values. NaN leaves a gap. One colour for each."""


@dataclass(frozen=True)
class Panel:
    """Curves over one another, with axes.

    Attributes:
        curves: What to draw; named in a legend if there are several.
        x_label: What is to the right, with its unit.
        y_label: What is upwards, with its unit.
        x_log: Whether x is drawn logarithmically.
        y_log: Whether y is.
        has_points: Whether the values themselves are marked, for curves of few values.
        levels: By name: y values that are drawn as thin grey lines from side to side.
        limits: ``xlim`` or ``ylim``: the least and the greatest value that is shown.
        x_ticks: Where x is marked, and with what; empty: where matplotlib likes it.
    """

    curves: Curves
    x_label: str
    y_label: str
    x_log: bool = False
    y_log: bool = False
    has_points: bool = False
    levels: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    x_ticks: Mapping[float, str] = field(default_factory=dict)


def save(path: Path, title: str, *panels: Panel) -> None:
    """Draw panels side by side.

    Args:
        path: Where to; ends in ``.svg``.
        title: Above the picture.
        *panels: From left to right.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    with mpl.rc_context(_STYLE):
        figure, grid = pyplot.subplots(
            1, len(panels), figsize=(8, 4.5), layout="constrained", squeeze=False
        )
        for axes, panel in zip(grid[0], panels, strict=True):
            _draw(axes, panel)
        figure.suptitle(title)
        figure.patch.set_facecolor("white")  # legible on a dark page, too
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def _draw(axes: Axes, panel: Panel) -> None:
    for name, level in panel.levels.items():
        axes.axhline(level, color="#888888", linewidth=1, linestyle=(0, (2, 2)), label=name)
    for colour, (name, (x, y)) in zip(COLOURS, panel.curves.items(), strict=False):
        marker = "o" if panel.has_points else None
        axes.plot(x, y, label=name, color=colour, linewidth=1.5, marker=marker, markersize=4)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.set_xscale("log" if panel.x_log else "linear")
    axes.set_yscale("log" if panel.y_log else "linear")
    if panel.x_ticks:
        axes.set_xticks(list(panel.x_ticks), panel.x_ticks.values(), rotation=45, ha="right")
        axes.set_xticks([], minor=True)
    axes.set(**panel.limits)
    if len(panel.curves) + len(panel.levels) > 1:
        axes.legend(frameon=False)
