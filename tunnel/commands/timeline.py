"""``tunnel timeline HISTORY``: a saved run as a picture."""

from __future__ import annotations

import argparse
import math
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
        "--last",
        type=_seconds,
        metavar="SECONDS",
        help="draw only the last so many seconds of it",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to; else to standard output"
    )
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Draw it.

    Returns:
        The exit code: 0.

    Raises:
        ConfigurationError: A file cannot be read or written, or is no history.
        OSError: Standard output cannot be written to.
    """
    from tunnel.commands.history_files import read_history, write_picture
    from tunnel.pictures import draw_timeline

    history = read_history(arguments.history)
    begin = None
    if arguments.last is not None and history.period is not None:
        begin = history.period[1] - arguments.last
    write_picture(draw_timeline(history, begin=begin), arguments.output)
    return 0
