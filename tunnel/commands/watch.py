"""``tunnel watch [PATH]``: what the tunnels of a running program are doing, live."""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tunnel.commands.status import add_path, ask_each, print_json
from tunnel.commands.terminal import is_lively

if TYPE_CHECKING:
    from tunnel.commands.watch_diagram import DiagramFile
    from tunnel.status import ProcessStatus, StatusClient, TunnelStatus

_Show = Callable[["ProcessStatus"], None]


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "watch",
        help="show live what the tunnels of a running program are doing",
        description="Show what the tunnels of a running program are doing, until it ends or Ctrl-C "
        "is pressed. In a terminal that is a table; otherwise a line whenever a tunnel's state, "
        "attempt or last error changes, or a tunnel is gone.",
        epilog="Exit codes: 0 the program has ended; 2 it could not be asked, and why is said; "
        "130 it was interrupted.",
    )
    add_path(parser, "it has to be the only program of yours that gave none")
    parser.add_argument(
        "--every",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="how long between two looks (default: 1)",
    )
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON for each look, for other programs"
    )
    parser.add_argument(
        "--diagram",
        type=Path,
        metavar="FILE",
        help="draw the path of each tunnel through its states into this file, anew at each look: "
        ".html for a page that a browser keeps up to date, .svg for the picture of a single tunnel",
    )
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.05 to 3600")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Show it until the program ends.

    Returns:
        The exit code: 0.

    Raises:
        StatusError: The program could not be asked, or does not answer any more.
        ConfigurationError: There can be no such diagram, or it cannot be written.
        OSError: Standard output cannot be written to.
    """
    from tunnel.commands.watch_diagram import DiagramFile
    from tunnel.status import StatusClient

    file = arguments.diagram
    diagram = None if file is None else DiagramFile(file, arguments.every)
    with StatusClient(_path(arguments.path)) as client, ExitStack() as stack:
        show = _view(stack, as_json=arguments.json)
        if diagram is not None:
            stack.enter_context(_closing(diagram))
        for process in _looks(client, arguments.every, histories=diagram is not None):
            show(process)
            if diagram is not None:
                diagram.draw(process)
    print(f"tunnel watch: the program at {client.path} has ended", file=sys.stderr)
    return 0


@contextmanager
def _closing(diagram: DiagramFile) -> Iterator[None]:
    """Have a page that a browser shows say in the end that it is the last one."""
    from tunnel.pictures.words import moment

    try:
        yield
    except BaseException:
        diagram.close(f"Nobody watches since {moment(time.time())}.")
        raise
    diagram.close("The program has ended.")


def _path(path: Path | None) -> Path:
    """Where to ask; without a path there has to be one program, and no doubt which."""
    from tunnel.status import StatusClient, StatusError

    if path is not None:
        return path

    def probed(served: Path) -> Path:
        StatusClient(served).close()
        return served

    alive = ask_each("watch", probed)
    if len(alive) > 1:
        choice = " or ".join(str(found) for found in alive)
        raise StatusError(f"several programs of yours tell their status; say which: {choice}")
    return alive[0]


def _looks(client: StatusClient, every: float, *, histories: bool) -> Iterator[ProcessStatus]:
    """What is answered, until the program has ended; one that never answered is an error."""
    from tunnel.status import StatusEndedError

    yield client.ask(histories=histories)
    pause = threading.Event()
    while True:
        pause.wait(every)
        try:
            process = client.ask(histories=histories)
        except StatusEndedError:
            return
        yield process


def _view(stack: ExitStack, *, as_json: bool) -> _Show:
    if as_json:
        return print_json
    if is_lively(sys.stdout):
        from tunnel.commands.status_view import live, table

        place = stack.enter_context(live())
        return lambda process: place.update(table(process, place.console, fits=True), refresh=True)
    return _Changes().show


class _Changes:
    """Prints a line for a tunnel whenever something about it has changed that is not a number."""

    def __init__(self) -> None:
        self._shown: dict[int, tuple[str, object]] = {}  # by number: its name, and what was shown

    def show(self, process: ProcessStatus) -> None:
        from tunnel.commands.status_table import facts, row
        from tunnel.pictures.words import moment

        clock = moment(process.time)
        gone = self._shown.keys() - {tunnel.number for tunnel in process.tunnels}
        for number in sorted(gone):
            print(f"{clock}  {self._shown.pop(number)[0]}  gone", flush=True)
        for tunnel in process.tunnels:
            name, state, *_ = row(tunnel, process.time)
            shown = name, _gist(tunnel)
            if self._shown.get(tunnel.number) == shown:
                continue
            self._shown[tunnel.number] = shown
            print(f"{clock}  {name}  {state}  {facts(tunnel, process.time)}", flush=True)


def _gist(tunnel: TunnelStatus) -> object:
    return tunnel.state, tunnel.since, tunnel.attempt, tunnel.last_error
