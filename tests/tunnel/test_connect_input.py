"""Standard input as messages."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence

import pytest

from tunnel.commands.connect_input import (
    CHUNK,
    ByteSplitter,
    InputError,
    InputReader,
    LineSplitter,
)
from tunnel.errors import InvalidStateError, MessageTooBigError
from tunnel.outbox import Message

TIMEOUT = 20.0

pytestmark = pytest.mark.usefixtures("no_leaks")


def split(data: bytes, size: int, max_size: int = 100) -> list[str]:
    """The messages of data that comes in pieces of so many bytes."""
    splitter = LineSplitter(max_size)
    messages: list[str] = []
    for start in range(0, len(data), size):
        messages += splitter.feed(data[start : start + size])
    return [*messages, *splitter.finish()]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (b"", []),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\n\r\ntwo", ["one", "", "two"]),
        ("gr\u00fc\u00df\n\u20ac".encode(), ["gr\u00fc\u00df", "\u20ac"]),
    ],
)
def test_lines_become_messages(data: bytes, messages: list[str], size: int) -> None:
    """Without their ends, the last one with or without one, however the bytes come."""
    assert split(data, size) == messages


@pytest.mark.parametrize("size", [1, 5, 100])
def test_a_line_may_be_as_long_as_a_message(size: int) -> None:
    """And not longer: what comes before such a line is handed out, and then a sentence says so."""
    assert split(b"12345\n1234", size, max_size=5) == ["12345", "1234"]
    assert split(b"12345\r\n12345\r\n", size, max_size=5) == ["12345", "12345"]
    for data in (b"1\n123456\n", b"1\n123456", b"1\n1234567"):
        with pytest.raises(InputError, match=r"line 2 of standard input has more than 5 bytes"):
            split(data, size, max_size=5)


def test_a_line_that_is_no_text_is_refused() -> None:
    """The sentence names the line, and what to do."""
    with pytest.raises(InputError, match=r"line 2 of standard input is not UTF-8.*--binary"):
        split(b"caf\xc3\xa9\ncaf\xe9\n", 100)


def test_bytes_are_taken_as_they_come() -> None:
    """With nothing left over."""
    splitter = ByteSplitter()
    assert list(splitter.feed(b"a\nb\0")) == [b"a\nb\0"]
    assert list(splitter.finish()) == []


class Pipe:
    """What a reader reads, and what it has sent."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.sent: list[Message] = []
        self.ended = threading.Event()
        self.arrived = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.room = 1000
        self.refusal: Exception | None = None
        self.input = InputReader(self.reader, LineSplitter(100), self._send, self.ended.set)

    def _send(self, messages: Sequence[Message]) -> int:
        self.arrived.set()
        assert self.may_go_on.wait(TIMEOUT)
        if self.refusal is not None:
            raise self.refusal
        if any(len(message) > 5 for message in messages):
            raise MessageTooBigError("too big")
        accepted = messages[: self.room]
        self.sent += accepted
        return len(accepted)

    def write(self, data: bytes) -> None:
        os.write(self.writer, data)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.reader)
    os.close(made.writer)


def test_input_is_sent_to_its_end(pipe: Pipe) -> None:
    """The last line goes out without its end, too; then the end is told."""
    pipe.input.start()
    pipe.write(b"one\ntwo")
    os.close(pipe.writer)
    assert pipe.ended.wait(TIMEOUT)
    assert pipe.sent == ["one", "two"]
    assert (pipe.input.sent, pipe.input.held, pipe.input.error) == (2, 0, None)
    assert pipe.input.stop(TIMEOUT)
    assert not pipe.input.is_running
    pipe.writer = os.dup(pipe.reader)  # for the fixture to close


def test_reading_is_stopped_while_nothing_comes(pipe: Pipe) -> None:
    """At once; a line that is not whole is not sent."""
    pipe.input.start()
    pipe.write(b"one\ntw")
    assert pipe.arrived.wait(TIMEOUT)
    assert pipe.input.stop(TIMEOUT)
    assert pipe.ended.is_set()
    assert pipe.sent == ["one"]


def test_what_was_read_is_sent_after_a_stop(pipe: Pipe) -> None:
    """As far as there is time for that; the others are counted."""
    pipe.may_go_on.clear()
    pipe.write(b"one\ntwo\nthree\n")
    pipe.input.start()
    assert pipe.arrived.wait(TIMEOUT)
    assert not pipe.input.stop(0.01)
    assert pipe.input.held == 3
    pipe.may_go_on.set()
    assert pipe.input.stop(TIMEOUT)
    assert pipe.sent == ["one", "two", "three"]


def test_nothing_is_read_ahead_of_what_can_be_sent(pipe: Pipe) -> None:
    """Beyond one chunk and what the pipe holds, whoever writes to it has to wait."""
    pipe.may_go_on.clear()
    pipe.write(b"line\n")
    pipe.input.start()
    assert pipe.arrived.wait(TIMEOUT)
    os.set_blocking(pipe.writer, False)
    taken = 0
    with contextlib.suppress(BlockingIOError):
        while taken < 100 * CHUNK:
            taken += os.write(pipe.writer, b"line\n" * 1000)
    assert taken < 20 * CHUNK
    os.set_blocking(pipe.writer, True)
    pipe.may_go_on.set()
    assert pipe.input.stop(TIMEOUT)
    assert pipe.sent == ["line"]


def test_a_refused_message_ends_reading(pipe: Pipe) -> None:
    """It counts as held, and so do those behind it."""
    pipe.refusal = InvalidStateError("closing")
    pipe.write(b"one\ntwo\n")
    pipe.input.start()
    assert pipe.ended.wait(TIMEOUT)
    assert pipe.input.stop(TIMEOUT)
    assert pipe.input.error is pipe.refusal
    assert (pipe.input.sent, pipe.input.held) == (0, 2)


def test_what_is_accepted_in_part_is_sent_in_order(pipe: Pipe) -> None:
    """The others follow; and what stands before a message that is too big is sent."""
    pipe.room = 3
    lines = [str(number) for number in range(250)]
    pipe.write(("\n".join(lines) + "\ntoo big\nmore\n").encode())
    pipe.input.start()
    assert pipe.ended.wait(TIMEOUT)
    assert pipe.input.stop(TIMEOUT)
    assert pipe.sent == lines
    assert isinstance(pipe.input.error, MessageTooBigError)
    assert (pipe.input.sent, pipe.input.held) == (250, 2)


def test_what_stands_before_a_mistake_is_sent(pipe: Pipe) -> None:
    """And nothing behind it."""
    pipe.write(b"one\n\xff\ntwo\n")
    pipe.input.start()
    assert pipe.ended.wait(TIMEOUT)
    assert pipe.input.stop(TIMEOUT)
    assert isinstance(pipe.input.error, InputError)
    assert pipe.sent == ["one"]
