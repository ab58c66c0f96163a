"""What came of the figures: as a table for terminals, and as JSON; and where they were measured."""

from __future__ import annotations

import os
import platform
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.figures.measure import Result
from tunnel.masking import MASKER

WIDTH = 100
"""Columns of the table, at most."""

_LIBRARIES = (
    "websocket-client",
    "wsaccel",
    "websockets",
    "python-socketio",
    "transitions",
    "tenacity",
    "loguru",
    "uvloop",
    "aiohttp",
)
_HEADINGS = ("figure", "measured", "spread", "goal", "")


def machine() -> dict[str, object]:
    """What it is measured on; asked before anything is measured, for the sake of the load."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "temporary files": _file_system(Path(tempfile.gettempdir()).resolve()),
        "load before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
    }


def notes() -> list[str]:
    """What is missing here that would make figures better, in sentences."""
    found = []
    if MASKER != "websockets":
        found.append(
            "websockets has no masker in C here (extra fast), so the tunnel masks with "
            f"{MASKER}: large messages are sent more slowly."
        )
    if _version("uvloop") is None:
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
        "figures": [{**result.to_dict(), **line(result.to_dict())} for result in results],
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
        "spread": f"{digits(min(shown_values))}-{digits(max(shown_values))}"
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


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (text.partition(":")[2].strip() for text in lines if text.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _file_system(folder: Path) -> str | None:
    """The kind of file system that a folder is in; None: the system does not tell."""
    try:
        mounts = [text.split() for text in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:  # not Linux
        return None
    around = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    return max(around, key=lambda mount: len(mount[1]))[2] if around else None
