"""The command ``python -m benchmarks NAME``.

To add a benchmark, write a module with `add_options` and `run`, and put it into `BENCHMARKS`. The
exit code is what `run` returns: 0 all is well; 1 it is not; 130 it was interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import command as figures
from benchmarks.growth import command as growth
from benchmarks.herd import command as herd
from benchmarks.page import command as page
from benchmarks.soak import command as soak


@dataclass(frozen=True)
class Benchmark:
    """One of them.

    Attributes:
        summary: What it does, in one line.
        add_options: Adds its options to the parser.
        run: Does it; returns the exit code.
    """

    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


BENCHMARKS: dict[str, Benchmark] = {
    "figures": Benchmark(
        "measure the tunnel and its peers side by side",
        figures.add_options,
        figures.run,
    ),
    "growth": Benchmark(
        "measure how time and memory grow with the work",
        growth.add_options,
        growth.run,
    ),
    "herd": Benchmark(
        "simulate how a fleet of clients comes back to a server that was away",
        herd.add_options,
        herd.run,
    ),
    "page": Benchmark(
        "write what figures and growth have measured into the documentation",
        page.add_options,
        page.run,
    ),
    "soak": Benchmark(
        "random faults for a given time, while everything promised is checked",
        soak.add_options,
        soak.run,
    ),
}
"""By name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; those of the process if not given.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure and strain the tunnel."
    )
    commands = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, benchmark in BENCHMARKS.items():
        options = commands.add_parser(name, help=benchmark.summary, description=benchmark.summary)
        benchmark.add_options(options)
        options.set_defaults(run=benchmark.run)
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    # Whoever asks it to end has its servers ended, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
