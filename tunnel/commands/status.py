"""``tunnel status [PATH]``: what the tunnels of a running program are doing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tunnel.commands.terminal import is_lively

if TYPE_CHECKING:
    from tunnel.status import ProcessStatus

_T = TypeVar("_T")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "status",
        help="show what the tunnels of a running program are doing",
        description="Show what the tunnels of a running program are doing. The program allows that "
        "by calling tunnel.status.serve().",
        epilog="Exit codes: 0 done; 2 nobody could be asked, and why is said; "
        "130 it was interrupted.",
    )
    add_path(parser, "all programs of yours that gave none")
    parser.add_argument(
        "--json", action="store_true", help="one line of JSON for each program, for other programs"
    )
    parser.set_defaults(run=run)


def add_path(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Declare which program is asked, and which without that."""
    parser.add_argument(
        "path",
        nargs="?",
        type=Path,
        metavar="PATH",
        help=f"the path that was given to status.serve(); without it, {otherwise}",
    )


def run(arguments: argparse.Namespace) -> int:
    """Show it.

    Returns:
        The exit code: 0.

    Raises:
        StatusError: Nobody could be asked.
    """
    from tunnel.commands.status_table import plain

    for place, process in enumerate(_ask_all(arguments.path)):
        if arguments.json:
            print_json(process)
        elif is_lively(sys.stdout):
            from tunnel.commands.status_view import show

            show(process)
        else:
            print("\n" * bool(place) + plain(process))
    return 0


def print_json(process: ProcessStatus) -> None:
    """Print how a process stands, without the histories of its tunnels, as a line of JSON."""
    answer = process.to_dict()
    del answer["histories"]
    print(json.dumps(answer), flush=True)


def ask_each(command: str, ask: Callable[[Path], _T]) -> list[_T]:
    """Ask all programs that can be found; say on standard error which do not answer, and why.

    Args:
        command: Which says so.
        ask: Called with the socket of each.

    Raises:
        StatusError: No answer came.
    """
    from tunnel.status import StatusError
    from tunnel.status.client import search

    places = search()
    answers, refusals = [], list(places.refusals)
    for path in places.paths:
        try:
            answers.append(ask(path))
        except StatusError as error:
            refusals.append(str(error))
    for refusal in refusals:
        print(f"tunnel {command}: {refusal}", file=sys.stderr)
    if answers:
        return answers
    if places.paths:
        raise StatusError("none of your programs that tell their status has answered")
    raise StatusError(
        f"no program of yours tells its status{_looked_in(places.folders)}: have it call "
        "tunnel.status.serve(), or give the path that it was called with"
    )


def _looked_in(folders: Sequence[Path]) -> str:
    if not folders:
        return ""  # there are no such sockets on this system
    *others, last = map(str, folders)
    return f" in {', '.join(others)} or {last}" if others else f" in {last}"


def _ask_all(path: Path | None) -> list[ProcessStatus]:
    from tunnel.status import StatusClient

    def ask(path: Path) -> ProcessStatus:
        with StatusClient(path) as client:
            return client.ask()

    return ask_each("status", ask) if path is None else [ask(path)]
