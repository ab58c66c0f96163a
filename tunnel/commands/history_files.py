"""Reading a saved history, and writing a picture: what the commands about pictures share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from secrets import token_hex

from tunnel.errors import ConfigurationError
from tunnel.history import History


def read_history(path: str) -> History:
    """Read a history from a file, or from standard input if it is called ``-``.

    Raises:
        ConfigurationError: The file cannot be read, or what is in it is no history.
    """
    where = "standard input" if path == "-" else path
    try:
        text = _text(path)
    except OSError as error:
        raise ConfigurationError(f"{where} cannot be read: {error.strerror or error}") from error
    try:
        return History.from_json(text)
    except ValueError as error:
        if _is_status(text):
            raise ConfigurationError(
                f"{where} holds how tunnels stand, and no history: take one with `tunnel status "
                "--history NAME`"
            ) from error
        raise ConfigurationError(
            f"{where} holds no history of a tunnel: {error}",
            suggestion="Write it with `tunnel status --history NAME`, "
            "ConnectionStateTracker.to_json() or Recording.save().",
        ) from error


def _text(path: str) -> str:
    return sys.stdin.read() if path == "-" else Path(path).read_bytes().decode("utf-8", "replace")


def _is_status(text: str) -> bool:
    """Whether it is what `tunnel status --json` prints, a line for each program."""
    try:
        data = json.loads(text.partition("\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "tunnels" in data


def write_picture(picture: str, path: Path | None) -> None:
    """Write a picture into a file, or to standard output.

    A file is replaced as a whole, so that whoever looks at it never sees half a picture.

    Raises:
        ConfigurationError: The file cannot be written.
        OSError: Standard output cannot be written to.
    """
    if path is None:
        sys.stdout.buffer.write(picture.encode())
        return
    try:
        _replace(path, picture)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from error


def _replace(path: Path, picture: str) -> None:
    # A name that nobody can foresee, and a new file: others could have put a link there.
    unfinished = path.with_name(f".{path.name}.{token_hex(8)}")
    with unfinished.open("x", encoding="utf-8") as file:
        try:
            file.write(picture)
            file.close()
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink()
            raise
