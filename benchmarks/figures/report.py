"""What came of the figures: as a table for terminals, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.measure import Result
from benchmarks.machine import version_of
from tunnel.masking import MASKER

WIDTH = 100
"""Columns of the table, at most."""

_HEADINGS = ("figure", "measured", "spread", "goal", "")


def notes() -> list[str]:
    """What is missing here that would make figures better, in sentences."""
    found = []
    if MASKER != "websockets":
        found.append(
            "websockets has no masker in C here (extra fast), so the tunnel masks with "
            f"{MASKER}: large messages are sent more slowly."
        )
    if version_of("uvloop") is None:
        found.append("There is no uvloop, so the servers that echo are slower, for everybody.")
    return found


def to_dict(
    results: Sequence[Result], where: Mapping[str, object], rounds: int
) -> dict[str, object]:
    """As JSON has it."""
    return {
        "machine": where,
        "rounds": rounds,
        "notes": notes(),
        "figures": [result.to_dict() for result in results],
    }


def line(figure: Mapping[str, Any]) -> dict[str, str]:
    """What stands in the columns of a figure, and below them, from `Result.to_dict`.

    A figure that is compared is shown by its ratio, any other by its value.
    """
    values, unit = figure["values"], figure["unit"]
    is_compared = figure["goal"] is not None or (figure["limit"] is None and figure["ratios"])
    shown_values = figure["ratios"] if is_compared else values.get("tunnel", [])
    mark, digits = (" x", "{:.2f}".format) if is_compared else ("", shown)
    middle = figure["ratio"] if is_compared else figure["medians"].get("tunnel")
    aims = [figure["goal"]] if figure["goal"] else []
    if figure["limit"] is not None:
        aims.append(f"{'>=' if figure['more_is_better'] else '<='} {shown(figure['limit'])}")
    contenders = [f"{name} {shown(value)}" for name, value in figure["medians"].items()]
    contenders += [f"{name} failed {len(them)} times" for name, them in figure["failures"].items()]
    return {
        "measured": "" if middle is None else digits(middle) + mark,
        "spread": f"{digits(min(shown_values))}..{digits(max(shown_values))}"
        if shown_values
        else "",
        "aim": ", ".join(aims),
        "verdict": {True: "reached", False: "MISSED", None: ""}[figure["reached"]],
        "contenders": f"{unit}: {', '.join(contenders)}",
    }


def table(results: Sequence[Result]) -> str:
    """What was measured against the goals, and below each the medians of all contenders."""
    rows, details = [list(_HEADINGS)], [""]
    for result in results:
        found = line(result.to_dict())
        columns = (found[name] for name in ("measured", "spread", "aim", "verdict"))
        rows.append([result.figure.title, *columns])
        details.append(_folded(found["contenders"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, detail in zip(rows, details, strict=True):
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]
        lines += ["  ".join(cells).rstrip(), *([detail] if detail else [])]
    verdicts = [result.is_reached for result in results]
    judged = len(verdicts) - verdicts.count(None)
    return "\n".join([*lines, "", f"{verdicts.count(True)} of {judged} goals are reached."])


def shown(value: float) -> str:
    """A number with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _folded(text: str) -> str:
    """Lines that are indented; none of them ends within a contender."""
    whole = text.replace(", ", ",\n").replace(" ", "\xa0")
    lines = textwrap.fill(
        whole, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    return lines.replace("\xa0", " ")
