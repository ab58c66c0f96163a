"""The command ``tunnel``, also ``python -m tunnel``.

Exit codes of every command: 0 it did what was asked; 1 the answer is no; 2 it could not be done,
and one sentence on standard error says why; 130 it was interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tunnel import __version__
from tunnel.errors import TunnelError

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_EXIT_CODES = "2 it could not be done, and why is said; 130 it was interrupted."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; those of the process if not given.

    Returns:
        The exit code.

    Raises:
        SystemExit: By argparse: after ``--help`` and ``--version`` with 0, after an unknown option
            with 2.
    """
    if sys.stderr is None:  # it was closed; what is said there is for nobody
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end
    if sys.stdout is None:
        sentence = f"standard output is closed; to drop what is written, give {os.devnull}"
        print(f"tunnel: error: {sentence}", file=sys.stderr)
        return 2
    try:
        return _run(_parser().parse_args(argv))
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):  # a name that it cannot encode is still shown
            sys.stdout.reconfigure(errors="backslashreplace")
        code: int = arguments.run(arguments)
        sys.stdout.flush()  # here, where a reader that has gone away can still be handled
        return code
    except BrokenPipeError:
        # Nobody reads any more, as after "| head": nothing more to say, also not while exiting.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return 1
    except (TunnelError, OSError) as error:
        with suppress(OSError):  # a terminal may have gone away
            print(f"tunnel {arguments.command}: error: {_sentence(error)}", file=sys.stderr)
        return 2


def _sentence(error: TunnelError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read or written: {error.strerror}"
    return str(error)


def _parser() -> argparse.ArgumentParser:
    # Here, where Ctrl-C is handled: these imports take a while.
    from tunnel.commands import connect, diagnose, diagram, status, timeline, watch

    parser = argparse.ArgumentParser(
        prog="tunnel",
        description="WebSocket connections that come back by themselves.",
        epilog=f"Exit codes: 0 done; 1 the answer is no; {_EXIT_CODES}",
    )
    parser.add_argument("--version", action="version", version=f"tunnel {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    for command in (connect, diagnose, diagram):
        command.add_to(commands)
    _add_gateway(commands)
    for command in (status, watch, timeline):
        command.add_to(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="lose a live connection in several ways and watch it come back",
        description="Start a server on loopback, send it numbered messages, cut the connection in "
        "several ways, and see every message come back once and in order. Takes some 20 seconds.",
        epilog="Exit codes: 0 nothing was lost, doubled or reordered; 1 something was; "
        + _EXIT_CODES,
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="show everything on standard error, and end with one line of JSON on standard output",
    )
    parser.add_argument(
        "--timeline",
        type=Path,
        metavar="FILE",
        help="draw the run into this file, as SVG: states, attempts, queue and round trips",
    )
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from tunnel import demo  # it takes a while to import, and only this command needs it

    try:
        return demo.run(as_json=arguments.json, timeline=arguments.timeline)
    except demo.DemoError as error:
        print(f"tunnel demo: error: {error}", file=sys.stderr)
        return 2


def _add_gateway(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "gateway",
        help="serve tunnels: the other end, which resumes their sessions",
        description="Serve tunnels and other WebSocket clients, until SIGTERM or SIGINT. The first "
        "line of standard output says where it listens.",
        epilog="Exit codes: 0 it was stopped by a signal; 2 it could not be done, and why is said; "
        "130 Ctrl-C came before it could listen.",
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8765",
        metavar="HOST:PORT",
        help="where; port 0 is any that is free (default: 127.0.0.1:8765)",
    )
    parser.add_argument(
        "--handler",
        default="echo",
        metavar="HANDLER",
        help="what to do with messages: echo, sink, or MODULE:NAME, called as "
        "handler(session, message) (default: echo)",
    )
    parser.add_argument(
        "--forward",
        metavar="URL",
        help="an HTTP service to which requests go, like http://127.0.0.1:11434",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="who may come in: a line each, USER:TOKEN or TOKEN; read again when it changes",
    )
    parser.add_argument(
        "--token-env", metavar="NAME", help="the same, from an environment variable"
    )
    parser.add_argument("--certificate", metavar="FILE", help="for wss: certificates, PEM")
    parser.add_argument("--key", metavar="FILE", help="for wss: the private key, PEM")
    parser.add_argument(
        "--max-message-size",
        type=int,
        metavar="BYTES",
        help="the longest message or request (default: 16 MiB)",
    )
    parser.add_argument(
        "--session-keep",
        type=float,
        metavar="SECONDS",
        help="how long a session is kept after its connection was lost (default: 600)",
    )
    parser.set_defaults(run=_gateway)


def _gateway(arguments: argparse.Namespace) -> int:
    if find_spec("websockets") is None:
        print(
            "tunnel gateway: error: the gateway needs websockets: "
            "pip install 'resilient-tunnel[gateway]'",
            file=sys.stderr,
        )
        return 2
    from tunnel.gateway import command

    return command.run(arguments)
