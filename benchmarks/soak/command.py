"""The command ``python -m benchmarks soak``: its options, its course, its report."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from loguru import logger

from benchmarks.soak.run import Soak

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the soak."""
    parser.add_argument(
        "--seconds", type=float, default=60.0, metavar="N", help="how long (default: 60)"
    )
    parser.add_argument(
        "--seed", type=int, metavar="S", help="what the faults are drawn from (default: by chance)"
    )
    parser.add_argument(
        "--tunnels", type=int, default=8, metavar="K", help="how many at once (default: 8)"
    )
    parser.add_argument("--json", action="store_true", help="report as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Soak, and report on standard output; progress goes to standard error.

    Returns:
        0: all promises were kept; 1: one was not; 130: interrupted, and none was broken before.
    """
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", file=sys.stderr)
    logger.remove()  # what the tunnels log is looked at, not shown
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(arguments.seconds, seed, max(1, arguments.tunnels), Path(folder))
        soak.run()
        report = soak.report()
    repeat = f"python -m benchmarks soak --seed {seed} --seconds {arguments.seconds:g}"
    report["repeat"] = f"{repeat} --tunnels {arguments.tunnels}"
    print(json.dumps(report) if arguments.json else _table(report))
    if report["violation"] is not None:
        return 1
    return _INTERRUPTED if report["interrupted"] else 0


def _table(report: dict[str, object]) -> str:
    lines = []
    for name, value in report.items():
        if isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"  {key:<32} {_shown(item)}" for key, item in value.items()]
        else:
            lines.append(f"{name:<34} {_shown(value)}")
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else str(value)
