"""Standard error that nobody may be reading."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from typing import BinaryIO, TextIO

import pytest

from tunnel.commands import background_writer
from tunnel.commands.background_writer import BackgroundWriter

TIMEOUT = 20.0

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, TextIO]]:
    """What is read, and what is written to."""
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb") as source,
        contextlib.suppress(BrokenPipeError),
        os.fdopen(writer, "w", encoding="ascii") as sink,
    ):
        yield source, sink


def fill(sink: TextIO) -> None:
    """Until not a byte more fits."""
    os.set_blocking(sink.fileno(), False)
    for size in (10_000, 1):
        with contextlib.suppress(BlockingIOError):
            while os.write(sink.fileno(), b"." * size):
                pass
    os.set_blocking(sink.fileno(), True)


def test_all_is_written_in_order(pipe: tuple[BinaryIO, TextIO]) -> None:
    """Also what the stream cannot encode, as escapes."""
    source, sink = pipe
    writer = BackgroundWriter(sink)
    for text in ("one\n", "gr\u00fcn\n", "three\n"):
        writer.write(text)
    writer.close(TIMEOUT)
    assert not writer.is_behind
    assert source.peek().splitlines() == [b"one", b"gr\\xfcn", b"three"]  # type: ignore[attr-defined]


def test_a_stream_without_a_descriptor_will_do() -> None:
    """As tests put in place of standard error."""
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8")
    writer = BackgroundWriter(stream)
    writer.write("one")
    writer.close(TIMEOUT)
    assert stream.buffer.getvalue() == b"one"  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_blocking", [True, False])
def test_it_goes_on_when_somebody_reads_again(
    pipe: tuple[BinaryIO, TextIO], is_blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile nobody waits, and of what is too much the newest is kept."""
    monkeypatch.setattr(background_writer, "_MOST", 3)
    source, sink = pipe
    fill(sink)
    os.set_blocking(sink.fileno(), is_blocking)
    writer = BackgroundWriter(sink)
    for number in range(10):
        writer.write(f"<{number}>")
    assert writer.is_behind
    writer.close(0.0)
    found = b""
    while not found.endswith(b"<9>"):
        found = found[-100:] + os.read(source.fileno(), 10_000)
    written = found.rpartition(b".")[2]
    assert written.endswith(b"<7><8><9>")
    assert len(written) <= len("<0><7><8><9>")  # what is being written has left the line


def test_a_reader_that_has_gone_away_is_no_error(pipe: tuple[BinaryIO, TextIO]) -> None:
    """What is said is for nobody then."""
    source, sink = pipe
    source.close()
    writer = BackgroundWriter(sink)
    for _ in range(3):
        writer.write("one\n")
    writer.close(TIMEOUT)
    assert not [one for one in threading.enumerate() if one.name == "tunnel-stderr"]
