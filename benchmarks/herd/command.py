"""The command ``python -m benchmarks herd``: its options, its table, its picture."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.extras import require
from benchmarks.herd.scenario import Scenario

_PATIENCE = 900.0  # seconds that are simulated after the server's return


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the herd."""
    usual = Scenario()
    parser.add_argument(
        "--clients",
        type=int,
        default=usual.clients,
        metavar="N",
        help=f"how many lose their server (default: {usual.clients:,})",
    )
    parser.add_argument(
        "--outage",
        type=float,
        default=usual.outage,
        metavar="S",
        help=f"for how many seconds (default: {usual.outage:g})",
    )
    parser.add_argument(
        "--capacity",
        type=int,
        metavar="C",
        help="connections that the server takes in a second (default: a fiftieth of the clients)",
    )
    parser.add_argument(
        "--retry-after",
        type=float,
        default=usual.retry_after,
        metavar="S",
        help="what the server asks of those that it turns away, in seconds (default: nothing)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of chance (default: 1)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the attempts as SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")


def run(arguments: argparse.Namespace) -> int:
    """Simulate all policies, and print what came of it.

    Returns:
        0; 2: the options make no sense.
    """
    require("numpy", *(["matplotlib"] if arguments.picture else []))
    import numpy as np

    from benchmarks.herd import report
    from benchmarks.herd.policies import POLICIES
    from benchmarks.herd.simulation import simulate

    capacity = arguments.capacity
    try:
        scenario = Scenario(
            clients=arguments.clients,
            outage=arguments.outage,
            capacity=max(1, arguments.clients // 50) if capacity is None else capacity,
            retry_after=arguments.retry_after,
            horizon=arguments.outage + _PATIENCE,
        )
    except ValueError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    outcomes = [
        simulate(policy, scenario, np.random.default_rng(arguments.seed)) for policy in POLICIES
    ]
    print(report.table(outcomes))
    if arguments.json is not None:
        policies = {outcome.policy: report.figures(outcome) for outcome in outcomes}
        figures = {"scenario": asdict(scenario), "seed": arguments.seed, "policies": policies}
        arguments.json.write_text(json.dumps(figures, indent=1), "utf-8")
    if arguments.picture is not None:
        report.draw(arguments.picture, outcomes)
    return 0
