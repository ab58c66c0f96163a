"""What came of a simulation: as a table, as figures for JSON, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.herd.simulation import Outcome
from benchmarks.pictures import Panel, save

_HEADINGS = (
    "policy",
    "worst second",
    "after return",
    "half back",
    "99 % back",
    "all back",
    "gave up",
    "attempts",
)
_SHOWN = 180.0  # seconds after the return


def figures(outcome: Outcome) -> dict[str, float | None]:
    """The numbers of the table, by name."""
    return {
        "worst_second": outcome.first_wave,
        "worst_second_after_return": outcome.peak,
        "half_back": outcome.seconds_until(0.5),
        "nearly_all_back": outcome.seconds_until(0.99),
        "all_back": outcome.seconds_until(1.0),
        "gave_up": int(outcome.given_up[-1]),
        "attempts": outcome.attempts,
    }


def table(outcomes: Sequence[Outcome]) -> str:
    """All of them, for a terminal."""
    rows: list[tuple[str, ...]] = [_HEADINGS]
    for outcome in outcomes:
        times = (outcome.seconds_until(share) for share in (0.5, 0.99, 1.0))
        rows.append(
            (
                outcome.policy,
                f"{outcome.first_wave:,}/s",
                f"{outcome.peak:,}/s",
                *("never" if time is None else f"{time:.0f} s" for time in times),
                f"{int(outcome.given_up[-1]):,}",
                f"{outcome.attempts:,}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def draw(path: Path, outcomes: Sequence[Outcome]) -> None:
    """The attempts in each second, all policies over one another."""
    scenario = outcomes[0].scenario
    shown = int(min(scenario.horizon, scenario.outage + _SHOWN))
    seconds = np.arange(shown) - scenario.outage
    curves = {}
    for outcome in outcomes:
        arrivals = outcome.arrivals[:shown].astype(np.float64)
        arrivals[arrivals == 0] = np.nan  # a logarithm has no place for them
        curves[outcome.policy] = (seconds.tolist(), arrivals.tolist())
    save(
        path,
        f"{scenario.clients:,} clients lose their server for {scenario.outage:g} s; "
        f"back again, it takes {scenario.capacity:,}/s",
        Panel(
            curves,
            "seconds since the server is back",
            "attempts in a second",
            y_log=True,
            levels={"capacity": float(scenario.capacity)},
            limits={
                "xlim": (-scenario.outage, shown - scenario.outage),
                "ylim": (1.0, 1.5 * scenario.clients),
            },
        ),
    )
