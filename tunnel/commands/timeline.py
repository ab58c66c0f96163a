"""``tunnel timeline HISTORY``: a saved run as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "timeline",
        help="draw a saved run: states, attempts, queue and round trips over time",
        description="Draw a saved run of one tunnel as SVG, over one axis of time: its states, the "
        "attempts to reconnect, and what went wrong; and the queue's length and the round trips, "
        "if they were recorded.",
        epilog="Exit codes: 0 done; 2 it could not be done, and why is said; 130 it was "
        "interrupted.",
    )
    parser.add_argument(
        "history",
        metavar="HISTORY",
        help="a file that Recording.save(), or a tracker's to_json(), has written; - is standard "
        "input",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to; else to standard output"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw it.

    Returns:
        The exit code: 0.

    Raises:
        ConfigurationError: The file is no history.
        OSError: A file cannot be read or written.
    """
    from tunnel.commands.history_files import read_history, write_picture
    from tunnel.pictures import draw_timeline

    write_picture(draw_timeline(read_history(arguments.history)), arguments.output)
    return 0
