"""Messages on standard output: a line each, or their bytes with nothing in between."""

from __future__ import annotations

import os
import select

from tunnel.outbox import Message

_SHOWN = "\n\t"


class OutputWriter:
    r"""Writes messages to a descriptor, unbuffered. For one thread.

    Args:
        descriptor: Of standard output.
        binary: Write the bytes of each message alone; else a line end behind each.
        is_terminal: Show control characters as ``\x1b``: a peer must not control the terminal.
    """

    def __init__(self, descriptor: int, *, binary: bool, is_terminal: bool) -> None:
        self._descriptor = descriptor
        self._end = b"" if binary else b"\n"
        self._is_terminal = is_terminal

    def write(self, message: Message) -> None:
        """Write one, and wait until it is written.

        Raises:
            OSError: It cannot be; as `BrokenPipeError`: nobody reads any more.
        """
        if self._is_terminal:
            text = message if isinstance(message, str) else message.decode("utf-8", "replace")
            data = harmless(text).encode()
        else:
            data = message.encode() if isinstance(message, str) else message
        self._write_all(data + self._end)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # somebody has made it non-blocking, as a shared terminal
                select.select([], [self._descriptor], [])


def harmless(text: str) -> str:
    """The text with control characters, but for line ends and tabs, as escapes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in _SHOWN else ascii(char)[1:-1] for char in text
    )
