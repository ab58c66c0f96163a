"""``tunnel diagram``: the tunnel's own state machines, as ``python -m statemachine`` draws them."""

from __future__ import annotations

import argparse
from pathlib import Path

from statemachine.diagram import EXTENSIONS

MACHINES = {
    "lifecycle": "tunnel.lifecycle:LIFECYCLE",
    "heartbeat": "tunnel.websocket_heartbeat:HEARTBEAT",
    "session": "tunnel.session_lifecycle:SESSION",
    "circuit_breaker": "tunnel.circuit_breaker:BREAKER",
}
"""The machines that can be drawn, by name."""

_ALL = "all"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "diagram",
        help="draw a state machine of the tunnel",
        description="Draw a state machine of the tunnel from its table: as Mermaid (.mmd), as "
        "Graphviz's DOT, as an SVG picture, or as tables in reStructuredText (rst).",
        epilog="Exit codes: 0 done, or with --check all files are fresh; 1 with --check some file "
        "is missing or stale; 2 it could not be done, and why is said; 130 it was interrupted.",
    )
    parser.add_argument(
        "name",
        nargs="?",
        default="lifecycle",
        choices=[*MACHINES, _ALL],
        metavar="NAME",
        help=f"which machine: {', '.join(MACHINES)} or {_ALL} (default: lifecycle)",
    )
    parser.add_argument(
        "--format",
        action="append",
        choices=[*EXTENSIONS, _ALL],
        help="what to draw; may be given several times (default: mermaid). svg needs "
        "Graphviz's dot",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write files into this folder, named after the machine; else to standard output",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 and name the files in DIR that are missing or stale "
        "(an SVG file, which depends on Graphviz's version, need only be there)",
    )
    parser.add_argument(
        "--history",
        metavar="FILE",
        help="mark in the lifecycle, as SVG, what one tunnel went through: a file that a tracker's "
        "to_json() or a Recording has written; - is standard input",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw, or check.

    Returns:
        The exit code.
    """
    if arguments.history is not None:
        from tunnel.commands import history_diagram

        return history_diagram.run(arguments)

    from statemachine.__main__ import main as draw

    names = MACHINES if arguments.name == _ALL else [arguments.name]
    options = [MACHINES[name] for name in names]
    options += [f"--format={format}" for format in arguments.format or []]
    if arguments.output is not None:
        options.append(f"--output={arguments.output}")
    if arguments.check:
        options.append("--check")
    return draw(options, prog="tunnel diagram")
