"""``python -m statemachine MODULE:NAME``: draw a declaration, or check that its drawings are fresh.

Exit codes: 0 done, or all fresh; 1 some file is stale; 2 it could not be done, and why is said.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from statemachine.declaration import Declaration
from statemachine.diagram import EXTENSIONS, render, stale, write
from statemachine.errors import DiagramError

_DEFAULT_FORMAT = "mermaid"


class _Refused(Exception):
    """Something in the arguments is wrong; the message is one sentence about it."""


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m statemachine") -> int:
    """Run the command.

    Args:
        argv: The arguments; those of the process if not given.
        prog: What the command is called in its help and its errors.

    Returns:
        The exit code.

    Raises:
        SystemExit: By argparse: after ``--help`` with 0, after an unknown option with 2.
    """
    parser = _parser(prog)
    arguments = parser.parse_args(argv)
    formats = [f for f in EXTENSIONS if {f, "all"} & set(arguments.format or [_DEFAULT_FORMAT])]
    try:
        declarations = _load_all(arguments.declaration)
        if arguments.check:
            return _check(declarations, formats, arguments.output)
        if arguments.output is not None:
            for declaration in declarations:
                write(declaration, formats, arguments.output)
        else:  # all of it, or nothing
            _print([render(declaration, f) for declaration in declarations for f in formats])
    except BrokenPipeError:  # the reader of the output has left, as `head` does
        raise
    except (_Refused, DiagramError, OSError) as error:
        print(f"{parser.prog}: error: {_sentence(error)}", file=sys.stderr)
        return 2
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read or written: {error.strerror}"
    return str(error)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Draw declared state machines, or check that their drawings are fresh.",
        epilog="Exit codes: 0 done, or all fresh; 1 some file is stale; 2 it could not be done.",
    )
    parser.add_argument(
        "declaration",
        nargs="+",
        metavar="MODULE:NAME",
        help="where a Declaration is found, such as tunnel.lifecycle:LIFECYCLE",
    )
    parser.add_argument(
        "--format",
        action="append",
        choices=[*EXTENSIONS, "all"],
        help=f"what to draw; may be given several times (default: {_DEFAULT_FORMAT}). svg needs "
        "Graphviz's dot",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write files into this folder, named after the declaration; else to standard output",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 and name the files in DIR that are missing or stale "
        "(an SVG file, which depends on Graphviz's version, need only be there)",
    )
    return parser


def _load_all(places: Iterable[str]) -> list[Declaration]:
    declarations: list[Declaration] = []
    for place in places:
        declaration = _load(place)
        if declaration.name in [other.name for other in declarations]:
            raise _Refused(f"two declarations are named {declaration.name!r}, and so their files")
        declarations.append(declaration)
    return declarations


def _load(place: str) -> Declaration:
    module_name, _, name = place.partition(":")
    if not (module_name and name):
        raise _Refused(f"{place!r} is not of the form MODULE:NAME")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        why = f"{type(error).__name__}: {error}"
        raise _Refused(f"the module {module_name!r} cannot be imported: {why}") from error
    if not hasattr(module, name):
        names = [key for key, value in vars(module).items() if isinstance(value, Declaration)]
        hint = f"; its declarations: {', '.join(names)}" if names else ""
        raise _Refused(f"the module {module_name!r} has no {name!r}{hint}")
    declaration = getattr(module, name)
    if not isinstance(declaration, Declaration):
        raise _Refused(f"{place!r} is of type {type(declaration).__name__}, not a Declaration")
    return declaration


def _check(declarations: Iterable[Declaration], formats: Iterable[str], folder: Path | None) -> int:
    if folder is None:
        raise _Refused("--check compares files; say with --output in which folder they are")
    found = [path for declaration in declarations for path in stale(declaration, formats, folder)]
    for path in found:
        print(f"{path} is stale" if path.is_file() else f"{path} is missing", file=sys.stderr)
    return 1 if found else 0


def _print(texts: Iterable[str]) -> None:
    if sys.stdout is None:
        raise _Refused(f"standard output is closed; to drop what is written, give {os.devnull}")
    for text in texts:  # as bytes: sentences may hold what the terminal's encoding does not
        sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


if __name__ == "__main__":  # pragma: no cover  # its test runs it in a process of its own
    sys.exit(main())
