"""Reading a write-ahead log beyond its first damaged frame."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator

import pytest

from tunnel.queue_log import hidden_pages

HEADER, FRAME = 32, 24 + 4096
COMMITS = 12


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[bytes]]:
    """A log after each of several commits; one of them overtakes the log's own beginning."""
    folder = tmp_path_factory.mktemp("log")
    connection = sqlite3.connect(folder / "t", isolation_level=None)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (x)")
    logs = []
    rng = random.Random(1)
    for _ in range(COMMITS):
        connection.execute("INSERT INTO t VALUES (?)", (rng.randbytes(5000),))
        logs.append((folder / "t-wal").read_bytes())
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    connection.execute("INSERT INTO t VALUES (?)", (b"x",))
    logs.append((folder / "t-wal").read_bytes())
    yield logs
    connection.close()


@pytest.fixture
def log(logs: list[bytes]) -> bytes:
    return logs[COMMITS - 1]


def frames(log: bytes) -> int:
    return (len(log) - HEADER) // FRAME


def last_pages(log: bytes, first: int) -> dict[int, bytes]:
    """The pages in the frames from this one on."""
    pages = {}
    for number in range(first, frames(log)):
        start = HEADER + number * FRAME
        pages[int.from_bytes(log[start : start + 4], "big")] = log[start + 24 : start + FRAME]
    return pages


def damaged(log: bytes, frame: int, offset: int) -> bytes:
    position = HEADER + frame * FRAME + offset
    return log[:position] + bytes([log[position] ^ 0x10]) + log[position + 1 :]


def test_nothing_is_hidden_in_a_whole_log(log: bytes) -> None:
    """SQLite sees all of it, or there is none."""
    assert hidden_pages(log, frames(log)) == {}
    assert hidden_pages(log[:HEADER], 0) == {}
    assert hidden_pages(b"", 0) == {}


def test_what_was_never_committed_is_not_hidden(log: bytes) -> None:
    """A transaction that was cut off is no damage: half a frame, or frames without a commit."""
    assert hidden_pages(log[:-5], frames(log) - 1) == {}
    start = HEADER + (frames(log) - 1) * FRAME
    assert log[start + 4 : start + 8] != bytes(4)
    for length in range(HEADER + FRAME, len(log), FRAME):
        head = log[length - FRAME : length]
        if head[4:8] == bytes(4):  # this prefix ends in the middle of a commit
            assert hidden_pages(log[:length], frames(log[:length]) - 1) == {}


def test_old_frames_behind_the_end_are_not_hidden(logs: list[bytes]) -> None:
    """A log that was begun anew ends where the old frames begin."""
    log = logs[-1]
    assert len(log) == len(logs[-2])
    known = next(n for n in range(frames(log)) if log[16:24] != salts(log, n))
    assert 0 < known < frames(log)
    assert hidden_pages(log, known) == {}


def salts(log: bytes, frame: int) -> bytes:
    start = HEADER + frame * FRAME
    return log[start + 8 : start + 16]


@pytest.mark.requirement("5.10")
@pytest.mark.parametrize("offset", [0, 3, 9, 15, 17, 23])
def test_a_frame_with_a_wrong_head_hides_nothing(log: bytes, offset: int) -> None:
    """Its page, its salts and its sum can be found again, and all pages are as they were."""
    for frame in (0, 3, 7, frames(log) - 2):
        assert hidden_pages(damaged(log, frame, offset), frame) == last_pages(log, frame)


def test_a_last_commit_with_wrong_salts_is_whole(log: bytes) -> None:
    """Its sum goes on from that of the frame before, so it can be no old one."""
    last = frames(log) - 1
    assert hidden_pages(damaged(log, last, 9), last) == last_pages(log, last)


def test_a_frame_with_wrong_contents_hides_nothing_else(log: bytes) -> None:
    """The pages of all other frames are as they were, and its own as it is."""
    for frame in range(frames(log) - 1):
        bad = damaged(log, frame, 1000)
        assert hidden_pages(bad, frame) == last_pages(bad, frame)


@pytest.mark.parametrize("offset", [0, 3, 8, 17, 25, 31])
def test_a_damaged_header_hides_nothing(log: bytes, offset: int) -> None:
    """SQLite takes such a log for empty."""
    bad = log[:offset] + bytes([log[offset] ^ 0x01]) + log[offset + 1 :]
    assert hidden_pages(bad, 0) == last_pages(log, 0)


def test_a_damaged_last_commit_looks_unfinished(log: bytes) -> None:
    """Nobody can tell it from one that the process did not live to finish."""
    last = frames(log) - 1
    assert hidden_pages(damaged(log, last, 1000), last) == {}


def test_a_sector_of_noise_is_survived(log: bytes) -> None:
    """Head and contents of a frame are destroyed: the others are there."""
    noise = random.Random(2).randbytes(512)
    position = HEADER + 5 * FRAME
    bad = log[: position - 100] + noise + log[position + 412 :]
    pages = hidden_pages(bad, 4)
    after = last_pages(log, 6)
    assert {page: pages[page] for page in after} == after
