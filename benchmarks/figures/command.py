"""The command ``python -m benchmarks figures``: its options, its table, its file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.figures.catalogue import FIGURES
from benchmarks.figures.measure import measure, table

_LIBRARIES = ("websocket-client", "websockets", "transitions", "wsaccel", "uvloop")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the figures."""
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="figures whose names begin like this"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="how often each (default: 5)"
    )
    parser.add_argument("--brief", action="store_true", help="once and small: see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there, too")
    parser.add_argument("--list", action="store_true", help="print the names, and measure nothing")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the table on standard output.

    Returns:
        0; 2: no figure has such a name. That a goal is missed is no failure of the command.
    """
    chosen = [
        figure
        for figure in FIGURES
        if not arguments.only or figure.name.startswith(tuple(arguments.only))
    ]
    if not chosen:
        print("no figure has such a name; see --list", file=sys.stderr)
        return 2
    if arguments.list:
        print("\n".join(f"{figure.name:<32} {figure.title}" for figure in chosen))
        return 0
    rounds = 1 if arguments.brief else arguments.rounds
    results = [measure(figure, rounds, brief=arguments.brief) for figure in chosen]
    print(table(results))
    if arguments.json is not None:
        report = {"machine": machine(), "figures": [result.to_dict() for result in results]}
        arguments.json.write_text(json.dumps(report, indent=1), "utf-8")
    return 0


def machine() -> dict[str, object]:
    """What it was measured on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "libraries": {name: version(name) for name in _LIBRARIES if _is_there(name)},
    }


def _is_there(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True
