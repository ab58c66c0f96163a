"""The command ``python -m benchmarks figures``: its options, its table, its file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.extras import require
from benchmarks.figures import report
from benchmarks.figures.catalogue import FIGURES
from benchmarks.figures.measure import TUNNEL, Result, measure
from benchmarks.machine import machine

_NEEDED = ("websockets", "wsaccel", "socketio", "aiohttp", "trustme")


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
        0; that a goal is missed is no failure of the command. 1: the tunnel failed. 2: no figure
        has such a name.

    Raises:
        KeyboardInterrupt: The table has what was measured before; no file has.
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
    require(*_NEEDED)
    where = machine()
    rounds = 1 if arguments.brief else max(1, arguments.rounds)
    results: list[Result] = []
    try:
        for figure in chosen:
            results.append(measure(figure, rounds, brief=arguments.brief))
    except KeyboardInterrupt:
        if results:
            _show(results)
        raise
    _show(results)
    if arguments.json is not None:
        found = report.to_dict(results, where, rounds)
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 1 if any(TUNNEL in result.failures for result in results) else 0


def _show(results: list[Result]) -> None:
    print("\n".join([report.table(results), *report.notes()]))
