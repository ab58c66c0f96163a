"""The command ``python -m benchmarks growth``: its options, its table, its pictures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.extras import require
from benchmarks.growth.catalogue import CURVES
from benchmarks.growth.curve import measure
from benchmarks.growth.drawing import draw
from benchmarks.growth.report import table
from benchmarks.machine import machine


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the growth."""
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="curves whose names begin like this"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="how often at each point (default: 3)"
    )
    parser.add_argument("--brief", action="store_true", help="once and small: see that it works")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw each curve as SVG there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there, too")
    parser.add_argument("--list", action="store_true", help="print the names, and measure nothing")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the table on standard output.

    Returns:
        0; 1: a curve is steeper than linear, which a brief run cannot tell; 2: no curve has such a
        name.
    """
    chosen = [
        curve
        for curve in CURVES
        if not arguments.only or curve.name.startswith(tuple(arguments.only))
    ]
    if not chosen:
        print("no curve has such a name; see --list", file=sys.stderr)
        return 2
    if arguments.list:
        print("\n".join(f"{curve.name:<16} {curve.title}" for curve in chosen))
        return 0
    if arguments.pictures is not None:
        require("matplotlib")
    require("websockets", "trustme")
    where = machine()
    rounds = 1 if arguments.brief else max(1, arguments.rounds)
    growths = [measure(curve, rounds, brief=arguments.brief) for curve in chosen]
    print(table(growths))
    if arguments.json is not None:
        report = {
            "machine": where,
            "rounds": rounds,
            "curves": [growth.to_dict() for growth in growths],
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if arguments.pictures is not None:
        for growth in growths:
            draw(arguments.pictures / f"growth-{growth.curve.name}.svg", growth)
    return 0 if arguments.brief or all(growth.is_at_most_linear for growth in growths) else 1
