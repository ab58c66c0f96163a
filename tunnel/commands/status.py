"""``tunnel status [PATH]``: what the tunnels of a running program are doing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tunnel.commands.terminal import is_lively

if TYPE_CHECKING:
    from tunnel.history import History
    from tunnel.status import ProcessStatus

_T = TypeVar("_T")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "status",
        help="show what the tunnels of a running program are doing",
        description="Show what the tunnels of a running program are doing. The program allows that "
        "by calling tunnel.status.serve().",
        epilog="Exit codes: 0 done; 2 nobody could be asked, or there is no such tunnel, and why "
        "is said; 130 it was interrupted.",
    )
    add_path(parser, "all programs of yours that gave none")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="one line of JSON for each program, for other programs"
    )
    form.add_argument(
        "--history",
        metavar="NAME",
        help="write what one tunnel went through, as JSON for `tunnel timeline` and `tunnel "
        "diagram --history`; NAME is what the table calls it, or its number",
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
        ConfigurationError: No tunnel is called so, or several are.
    """
    from tunnel.commands.status_table import plain

    if arguments.history is not None:
        print(history_of(arguments.history, _ask_all(arguments.path, histories=True)).to_json())
        return 0
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


def history_of(name: str, processes: Iterable[ProcessStatus]) -> History:
    """Return what one tunnel went through.

    Args:
        name: Its name, or its number if none is called so.
        processes: With histories.

    Raises:
        ConfigurationError: There is no such tunnel, or there are several.
    """
    from tunnel.errors import ConfigurationError

    known = [
        (tunnel, process, history)
        for process in processes
        for tunnel, history in zip(process.tunnels, process.histories, strict=True)
    ]
    found = [entry for entry in known if entry[0].name == name]
    found = found or [entry for entry in known if str(entry[0].number) == name]
    if not found:
        names = ", ".join(sorted({tunnel.name for tunnel, *_ in known}))
        raise ConfigurationError(
            f"no tunnel is called {name!r}; there {f'are: {names}' if names else 'is none'}"
        )
    if len(found) > 1:
        which = ", ".join(f"number {t.number} of process {p.pid}" for t, p, _ in found)
        raise ConfigurationError(
            f"several tunnels are called {name!r}: {which}; give the number, or the path that the "
            "program has given to status.serve()"
        )
    return found[0][2]


def _ask_all(path: Path | None, *, histories: bool = False) -> list[ProcessStatus]:
    from tunnel.status import StatusClient

    def ask(path: Path) -> ProcessStatus:
        with StatusClient(path) as client:
            return client.ask(histories=histories)

    return ask_each("status", ask) if path is None else [ask(path)]
