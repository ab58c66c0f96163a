"""Reading a saved history, and writing a picture: what the commands about pictures share."""

from __future__ import annotations

import sys
from pathlib import Path
from secrets import token_hex

from tunnel.errors import ConfigurationError
from tunnel.history import History


def read_history(path: str) -> History:
    """Read a history from a file, or from standard input if it is called ``-``.

    Raises:
        OSError: The file cannot be read.
        ConfigurationError: What is in it is no history.
    """
    text = sys.stdin.read() if path == "-" else Path(path).read_bytes().decode("utf-8", "replace")
    try:
        return History.from_json(text)
    except ValueError as error:
        where = "standard input" if path == "-" else path
        raise ConfigurationError(
            f"{where} holds no history of a tunnel: {error}",
            suggestion="Write it with ConnectionStateTracker.to_json() or Recording.save().",
        ) from error


def write_picture(picture: str, path: Path | None) -> None:
    """Write a picture into a file, or to standard output.

    A file is replaced as a whole, so that whoever looks at it never sees half a picture.

    Raises:
        OSError: It cannot be written.
    """
    if path is None:
        sys.stdout.buffer.write(picture.encode())
        return
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
