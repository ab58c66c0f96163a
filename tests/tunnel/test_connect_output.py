"""Messages on standard output."""

from __future__ import annotations

import os
import threading

import pytest

from tunnel.commands.connect_output import OutputWriter, harmless
from tunnel.outbox import Message


def written(messages: list[Message], *, binary: bool = False, is_terminal: bool = False) -> bytes:
    reader, writer = os.pipe()
    output = OutputWriter(writer, binary=binary, is_terminal=is_terminal)
    for message in messages:
        output.write(message)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        return file.read()


def test_a_message_is_a_line() -> None:
    """Text as UTF-8, bytes as they are."""
    assert written(["gr\u00fc\u00df", b"\xff\0", ""]) == "gr\u00fc\u00df\n".encode() + b"\xff\0\n\n"


def test_binary_output_has_nothing_in_between() -> None:
    """So what one end sends is what the other one writes."""
    assert written([b"a", "b", b"\n"], binary=True) == b"ab\n"


def test_a_terminal_is_not_controlled_by_the_peer() -> None:
    """Control characters are shown; what is no UTF-8 is replaced."""
    assert written(["\x1b[31mred\tok"], is_terminal=True) == b"\\x1b[31mred\tok\n"
    assert written([b"\xff"], is_terminal=True) == "\ufffd\n".encode()
    assert harmless("two\nlines \u20ac \u202e") == "two\nlines \u20ac \\u202e"


def test_a_full_pipe_is_waited_for() -> None:
    """Also one that does not block by itself, and every byte is written."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    output = OutputWriter(writer, binary=True, is_terminal=False)
    data = bytes(1_000_000)
    got: list[bytes] = []

    def read() -> None:
        with os.fdopen(reader, "rb") as file:
            got.append(file.read())

    thread = threading.Thread(target=read)
    thread.start()
    output.write(data)
    os.close(writer)
    thread.join()
    assert got == [data]


def test_a_reader_that_is_gone_is_told() -> None:
    """As a broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        OutputWriter(writer, binary=False, is_terminal=False).write("anybody?")
    os.close(writer)
