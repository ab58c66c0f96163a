"""What commands have in common that show things in a terminal."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TextIO

STATE_COLOURS = {
    "disconnected": "red",
    "connecting": "yellow",
    "connected": "green",
    "reconnecting": "yellow",
    "closing": "cyan",
    "error": "bold red",
}
"""What rich shows each state of a tunnel in."""


def is_lively(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can be drawn on, and rich is there to do it.

    That is one that can move its cursor, and show more than ASCII.
    """
    encoding = (stream.encoding or "").lower().replace("-", "")
    is_able = os.environ.get("TERM", "dumb") != "dumb" and encoding == "utf8"
    return stream.isatty() and is_able and find_spec("rich") is not None
