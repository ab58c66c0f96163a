"""What a file holds, sorted: what waits, what belongs to a session, what is useless."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator

import pytest

from tunnel.queue_contents import QueueContents, SavedSession
from tunnel.queue_entries import NEVER, PUT_BACK
from tunnel.queue_rows import (
    ACKNOWLEDGED,
    LAST_NUMBER,
    TABLES,
    Row,
    counter_row,
    insertion,
    message_row,
    number_row,
    ticket_row,
)
from tunnel.secrets import Secret
from tunnel.session import Ticket
from tunnel.session_frames import Limits
from tunnel.testing import FakeClock

LIMITS = Limits(10, 1000, 500)
TICKET = Ticket(b"\x07" * 16, Secret("ab" * 32), LIMITS, LIMITS, 600)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.text_factory = bytes
    for name, columns in TABLES.items():
        connection.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
    yield connection
    connection.close()


def put(connection: sqlite3.Connection, table: str, *rows: Row) -> None:
    connection.executemany(insertion(table), rows)


def put_session(connection: sqlite3.Connection, acknowledged: int, last_number: int) -> None:
    put(
        connection,
        "facts",
        ticket_row("ws://x", TICKET),
        counter_row(ACKNOWLEDGED, acknowledged),
        counter_row(LAST_NUMBER, last_number),
    )


def put_messages(connection: sqlite3.Connection, texts: str, rank: int = 2) -> None:
    """Each letter is a message; its id is its place in the alphabet."""
    rows = [message_row(ord(text) - 96, text, rank, math.inf) for text in texts]
    put(connection, "messages", *rows)


def waiting(contents: QueueContents) -> list[tuple[int, str]]:
    return [(rank, entry[0]) for rank, entry in contents.entries]


def cleaned(connection: sqlite3.Connection) -> QueueContents:
    """What is there once what was useless is away."""
    for sql, rows in QueueContents(connection, FakeClock()).waste:
        connection.executemany(sql, rows)
    contents = QueueContents(connection, FakeClock())
    assert contents.damaged == 0
    return contents


def test_a_file_without_rows_is_an_empty_queue(connection: sqlite3.Connection) -> None:
    """Nothing waits, and there is no session."""
    contents = QueueContents(connection, FakeClock())
    assert (contents.session, contents.entries, contents.last_id) == (None, [], 0)


def test_messages_wait_in_the_order_of_their_acceptance(connection: sqlite3.Connection) -> None:
    """Each goes back to its line, with its row."""
    put_messages(connection, "ca", 2)
    put_messages(connection, "b", 1)
    contents = QueueContents(connection, FakeClock())
    assert contents.entries == [(2, ("a", NEVER, 1)), (1, ("b", NEVER, 2)), (2, ("c", NEVER, 3))]
    assert contents.last_id == 3


def test_expiry_counts_in_wall_time(connection: sqlite3.Connection) -> None:
    """What has expired while no process had the file is useless; the rest keeps its time."""
    clock = FakeClock()
    now = clock.time()
    put(
        connection,
        "messages",
        message_row(1, "late", 2, now),
        message_row(2, "soon", 2, now + 5),
    )
    contents = QueueContents(connection, clock)
    assert waiting(contents) == [(2, "soon")]
    assert contents.entries[0][1][1] == pytest.approx(clock.monotonic() + 5)
    assert contents.expired == 1
    assert contents.last_id == 2
    assert waiting(cleaned(connection)) == [(2, "soon")]


def test_a_session_gets_what_it_has_numbered(connection: sqlite3.Connection) -> None:
    """Numbered messages belong to it, expired or not; numbers without one are known as such."""
    put_session(connection, 3, 7)
    put_messages(connection, "abc")
    put(connection, "messages", message_row(4, "d", 1, 1.0))
    put(connection, "numbers", number_row(5, 1), number_row(7, 4))
    contents = QueueContents(connection, FakeClock())
    assert contents.session == SavedSession("ws://x", TICKET, 3, 7, {5: "a", 7: "d"})
    assert "'a'" not in repr(contents.session)
    assert waiting(contents) == [(2, "b"), (2, "c")]
    assert contents.waste == []


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_without_a_whole_session_nothing_was_sent(
    connection: sqlite3.Connection, missing: int
) -> None:
    """Numbered messages then go first, in the order of their numbers."""
    put_session(connection, 0, 3)
    connection.execute("DELETE FROM facts WHERE key = ?", (missing,))
    put_messages(connection, "abcd")
    put(connection, "numbers", number_row(1, 3), number_row(2, 1))
    contents = QueueContents(connection, FakeClock())
    assert contents.session is None
    in_order = sorted(waiting(contents), key=lambda entry: entry[0])
    assert in_order == [(PUT_BACK, "c"), (PUT_BACK, "a"), (2, "b"), (2, "d")]
    assert waiting(cleaned(connection)) == [(2, "a"), (2, "b"), (2, "c"), (2, "d")]


def test_numbers_beyond_the_session_were_not_sent(connection: sqlite3.Connection) -> None:
    """A session that knows less than the numbers do leaves their messages to be sent."""
    put_session(connection, 0, 1)
    put_messages(connection, "ab")
    put(connection, "numbers", number_row(1, 1), number_row(2, 2))
    contents = QueueContents(connection, FakeClock())
    assert contents.session is not None
    assert contents.session.messages == {1: "a"}
    assert waiting(contents) == [(PUT_BACK, "b")]
    assert waiting(cleaned(connection)) == [(2, "b")]


@pytest.mark.requirement("5.10")
def test_each_damaged_record_is_left_out(connection: sqlite3.Connection) -> None:
    """Message, number and fact: what is damaged is counted and goes; what is healthy stays."""
    put_session(connection, 0, 3)
    put_messages(connection, "abcd")
    put(connection, "numbers", number_row(1, 1), number_row(2, 2), number_row(3, 3))
    connection.execute("UPDATE messages SET payload = 'x' WHERE id = 1")
    connection.execute("UPDATE numbers SET message = 'x' WHERE number = 2")
    contents = QueueContents(connection, FakeClock())
    assert contents.damaged == 2
    assert contents.session is not None
    assert contents.session.messages == {3: "c"}
    assert waiting(contents) == [(2, "b"), (2, "d")]
    connection.execute("UPDATE facts SET value = 'x' WHERE key = 1")
    assert QueueContents(connection, FakeClock()).damaged == 3
    assert waiting(cleaned(connection)) == [(2, "b"), (2, "c"), (2, "d")]
