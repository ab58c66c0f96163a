"""Reading rows from the pages of a file: each healthy one is found, and no deleted one."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tunnel.queue_rows import ACKNOWLEDGED, Row, counter_row, message_row, number_row
from tunnel.queue_salvage import PAGE_SIZE, ROOTS, Salvage, mended_header, salvage
from tunnel.request_queue import RequestQueue

MESSAGES, NUMBERS, FACTS = ROOTS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "queue.db"
    RequestQueue(path=path).close()
    return path


def rows_of_messages(count: int, sizes: tuple[int, ...] = (0, 9, 200, 900, 9000)) -> list[Row]:
    rng = random.Random(count)
    rows = []
    for number in range(1, count + 1):
        item: str | bytes = rng.randbytes(rng.choice(sizes))
        if number % 3 == 0:
            item = "é" * len(item)
        # ids, ranks and times of all widths that SQLite knows
        row_id = number << number % 7 * 8
        rows.append(message_row(row_id, item, number % 3 + 1, rng.choice([1e9, 0.5, 3.0])))
    return sorted(rows)


def write(path: Path, *statements: tuple[str, list[Row]]) -> bytearray:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA secure_delete=FAST")
        for sql, rows in statements:
            connection.executemany(sql, rows)
    return bytearray(path.read_bytes())


def insert(table: str, rows: list[Row]) -> tuple[str, list[Row]]:
    return f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows


def start(page: int) -> int:
    return (page - 1) * PAGE_SIZE


def found(data: bytes | bytearray) -> Salvage:
    return salvage(bytes(data), {})


def messages(data: bytes | bytearray) -> list[Row]:
    return sorted(found(data).rows["messages"])


def page_of_type(data: bytearray, kind: int) -> int:
    """The first page, after the roots, that begins with this byte."""
    return next(n for n in range(5, len(data) // PAGE_SIZE + 1) if data[start(n)] == kind)


def test_all_tables_are_read(path: Path) -> None:
    """Every row comes back as it was, whatever its size; and nothing is damaged."""
    rows = rows_of_messages(200)
    numbers = [number_row(n, n * 5) for n in range(1, 400)]
    facts = [counter_row(ACKNOWLEDGED, 7)]
    data = write(path, insert("messages", rows), insert("numbers", numbers), insert("facts", facts))
    result = found(data)
    assert sorted(result.rows["messages"]) == rows
    assert sorted(result.rows["numbers"]) == numbers
    assert result.rows["facts"] == facts
    assert result.damaged == 0


def test_an_empty_file_has_no_rows(path: Path) -> None:
    """Tables without rows are whole."""
    assert found(write(path)) == Salvage({"messages": [], "numbers": [], "facts": []}, 0)


@pytest.mark.parametrize("size", [4000, 4059, 4060, 4061, 4070, 8152, 8153, 70_000])
def test_a_message_may_end_anywhere_in_its_pages(path: Path, size: int) -> None:
    """The limits between one page and several are SQLite's own."""
    rows = [message_row(1, b"a" * size, 1, 1.0), message_row(2, b"b" * (size + 1), 1, 1.0)]
    assert messages(write(path, insert("messages", rows))) == rows


def test_leaves_are_found_without_their_tree(path: Path) -> None:
    """The root is destroyed, and no message is lost or seen twice."""
    rows = rows_of_messages(200)
    data = write(path, insert("messages", rows))
    data[start(MESSAGES) : start(MESSAGES) + 50] = bytes(50)
    assert messages(data) == rows


def test_a_page_that_misses_its_end_is_read(path: Path) -> None:
    """A file that was cut off has what was not cut off."""
    rows = rows_of_messages(50, (900,))
    data = write(path, insert("messages", rows))
    short = messages(data[:-2000])
    assert set(short) < set(rows)
    assert len(short) >= len(rows) - 5


def test_rows_are_found_on_a_page_that_denies_them(path: Path) -> None:
    """The number of rows, the list of them and the kind of page may be wrong."""
    rows = rows_of_messages(60, (300,))
    data = write(path, insert("messages", rows))
    leaf = start(page_of_type(data, 0x0D))
    for offset, new in [
        (0, b"\x0a"),
        (0, b"\x05"),
        (1, b"\xff\xff"),
        (1, b"\0\x20"),
        (3, b"\0\1"),
        (3, b"\xff\xff"),
        (5, b"\xff"),
        (7, b"\x30"),
        (8, b"\0" * 8),
    ]:
        damaged = bytearray(data)
        damaged[leaf + offset : leaf + offset + len(new)] = new
        assert messages(damaged) == rows, (offset, new)


def test_deleted_rows_do_not_rise_again(path: Path) -> None:
    """Not from free pages, and not from the gaps of a page; with the tree damaged or the list."""
    rows = rows_of_messages(200)
    gone = rows[20:150] + rows[160:170:2]
    left = [row for row in rows if row not in gone]
    data = write(
        path,
        insert("messages", rows),
        ("DELETE FROM messages WHERE id = ?", [(row[0],) for row in gone]),
    )
    trunk = int.from_bytes(data[32:36], "big")
    assert trunk
    assert messages(data) == left
    for offset, new in [
        (start(MESSAGES), bytes(12)),
        (start(MESSAGES) + 12, b"\xff\xff"),
        (32, b"\0\0\xff\xff"),
        (36, b"\0\0\xff\xff"),
        (36, b"\0\0\0\x01"),
        (start(trunk), b"\0\0\xff\xff"),
        (start(trunk), data[32:36]),
        (start(trunk) + 4, b"\0\0\xff\xff"),
    ]:
        damaged = bytearray(data)
        damaged[offset : offset + len(new)] = new
        assert messages(damaged) == left, (offset, new)


def test_a_list_of_gaps_that_goes_round_is_survived(path: Path) -> None:
    """The gaps of a page are listed in it; a list without an end does not hang the program."""
    rows = rows_of_messages(10, (100,))
    data = write(
        path,
        insert("messages", rows),
        ("DELETE FROM messages WHERE id = ?", [(rows[3][0],), (rows[6][0],)]),
    )
    gap = int.from_bytes(data[start(MESSAGES) + 1 : start(MESSAGES) + 3], "big")
    assert gap
    data[start(MESSAGES) + gap : start(MESSAGES) + gap + 2] = gap.to_bytes(2, "big")
    assert messages(data) == [row for row in rows if row not in (rows[3], rows[6])]


def test_with_tree_and_list_damaged_rather_twice_than_never(path: Path) -> None:
    """Then nobody knows which pages are free, and what is there is taken."""
    rows = rows_of_messages(200)
    data = write(
        path,
        insert("messages", rows),
        ("DELETE FROM messages WHERE id = ?", [(row[0],) for row in rows[20:150]]),
    )
    data[32:36] = b"\0\0\xff\xff"
    data[start(MESSAGES) : start(MESSAGES) + 12] = bytes(12)
    assert set(messages(data)) >= set(rows[:20] + rows[150:])


def test_a_pointer_that_leads_elsewhere_hides_nothing(path: Path) -> None:
    """A tree in which two ways lead to one page has lost another one."""
    rows = rows_of_messages(200)
    data = write(path, insert("messages", rows))
    root = start(MESSAGES)
    assert data[root] == 0x05
    cell = int.from_bytes(data[root + 12 : root + 14], "big")
    for wrong in (data[root + 8 : root + 12], b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\2"):
        damaged = bytearray(data)
        damaged[root + cell : root + cell + 4] = wrong
        assert messages(damaged) == rows


def test_a_message_is_not_searched_for_messages(path: Path) -> None:
    """Whoever sends a queue's file as a message does not have its rows taken for ours."""
    inner = write(path, insert("messages", [message_row(77, b"x" * 50, 1, 1.0)]))
    rows = [
        message_row(1, bytes(inner), 1, 1.0),
        message_row(2, bytes(inner[start(2) : start(2) + 4096][-300:]), 1, 1.0),
        message_row(3, b"last", 1, 1.0),
    ]
    data = write(path, ("DELETE FROM messages", [()]), insert("messages", rows))
    data[start(MESSAGES) + 3 : start(MESSAGES) + 5] = b"\0\1"
    assert messages(data) == rows


def test_damaged_records_are_counted(path: Path) -> None:
    """What is listed and not healthy counts, each once; its overflow chain may lead nowhere."""
    rows = rows_of_messages(30, (300, 9000))
    data = write(path, insert("messages", rows))
    result = found(data.replace(rows[4][4][100:140], bytes(40)))
    assert result.damaged == 1
    assert sorted(result.rows["messages"]) == rows[:4] + rows[5:]
    for page in range(5, len(data) // PAGE_SIZE + 1):
        if data[start(page)] == 0 and data[start(page) : start(page) + 4] != b"\0\0\0\0":
            damaged = bytearray(data)
            damaged[start(page) : start(page) + 4] = b"\x0f\0\0\0"
            assert found(damaged).damaged == 1
            break
    else:
        pytest.fail("no row was long enough")


@pytest.mark.requirement("5.10")
def test_any_bytes_at_all_are_survived() -> None:
    """Noise has no rows, and raises nothing."""
    rng = random.Random(1)
    for kind in (0x0D, 0x05, 0x00):
        noise = bytearray(rng.randbytes(6 * PAGE_SIZE))
        for page in range(6):
            noise[page * PAGE_SIZE] = kind
        assert not any(found(noise).rows.values())
    assert not any(found(b"").rows.values())


def test_newer_pages_go_before_those_of_the_file(path: Path) -> None:
    """A page from elsewhere takes its place, also beyond the end."""
    rows = rows_of_messages(3, (10,))
    old = write(path)
    new = write(path, insert("messages", rows))
    page = bytes(new[start(MESSAGES) : start(MESSAGES) + PAGE_SIZE])
    assert salvage(bytes(old), {MESSAGES: page}).rows["messages"] == rows
    assert salvage(bytes(old), {9: page}).rows["messages"] == rows


def test_the_header_of_our_files_is_known(path: Path) -> None:
    """Mending a header that is whole changes nothing."""
    data = write(path, insert("messages", rows_of_messages(5)))
    assert mended_header(bytes(data[:100]), len(data)) == data[:100]
