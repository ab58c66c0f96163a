"""The file of a durable queue: opening it, refusing it, and mending it when it is damaged.

The file is an SQLite database in WAL mode with ``synchronous=NORMAL``: a commit is handed to the
operating system before it returns, so it outlives the process, killed or not; the disk itself is
waited for only at checkpoints, so a loss of power can take the last moments before it, but never
leaves half a commit.

The lock is SQLite's own, exclusive from the first moment (``locking_mode=EXCLUSIVE``). It goes with
the process that holds it, however that ends. It also goes when that process closes *any* descriptor
of the file: so nothing here opens the file beside SQLite while it may be locked.

A file that is not ours is refused and not touched. A damaged one is copied to a name beside it, and
then replaced, in one transaction, by what `tunnel.queue_salvage` can read of it.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count

from loguru import logger

from tunnel.clock import Clock
from tunnel.errors import QueueInUseError, QueueStorageError
from tunnel.queue_log import hidden_pages
from tunnel.queue_rows import TABLES, insertion
from tunnel.queue_salvage import PAGE_SIZE, ROOTS, mended_header, salvage

FAILURES = (sqlite3.Error, ValueError)
"""What SQLite's module raises on a damaged file; ValueError if an error quotes a damaged name."""

_APPLICATION = 0x54554E51  # "TUNQ"; in the header, it marks the file as ours
_VERSION = 1
_SCHEMA = [
    (f"CREATE TABLE {name} ({', '.join(columns)})".encode(), root)
    for root, (name, columns) in zip(ROOTS, TABLES.items(), strict=True)
]
_LOG_PAGES = 4096  # 16 MiB are written before the disk is waited for
_SIGNS_OF_DAMAGE = ("database disk image", "malformed", "file is not a database")
_PATIENCE = 10  # attempts; two that open a file at the same time can be in each other's way
_PAUSE = 0.05  # seconds at most, between two of them


class _DamagedError(Exception):
    """SQLite finds the file malformed."""


class _ForeignError(Exception):
    """The file is none of ours, or none that this version understands."""


def storage_error(path: str, reason: object) -> QueueStorageError:
    """The error that says which file failed, and why."""
    return QueueStorageError(f"the queue's file {path}: {reason}", context={"path": path})


def open_file(path: str, clock: Clock) -> tuple[sqlite3.Connection, int]:
    """Open the file of a queue, and make it if there is none; mend it if it is damaged.

    Args:
        path: Where it is.
        clock: Measures the pauses while somebody else has it, half a second at most.

    Returns:
        A connection in autocommit mode, for any thread; and how many damaged records were left out.

    Raises:
        QueueInUseError: Another queue has it open, here or in another process.
        QueueStorageError: It cannot be used; it is as it was.
    """
    attempts_left = _PATIENCE
    while True:
        attempts_left -= 1
        try:
            return _opened(path)
        except OSError as error:
            raise storage_error(path, error.strerror or error) from error
        except (_ForeignError, _DamagedError) as error:
            raise storage_error(path, error) from error.__cause__
        except FAILURES as error:
            if str(error) != "database is locked":
                raise storage_error(path, error) from error
            if not attempts_left:
                raise QueueInUseError(
                    f"the queue's file {path} is in use by another queue", context={"path": path}
                ) from None
            clock.wait(threading.Event(), random.uniform(0, _PAUSE))


def _opened(path: str) -> tuple[sqlite3.Connection, int]:
    _create(path)
    connection = _connect(path)
    try:
        try:
            return connection, _mended(connection, path)
        except _DamagedError:  # in a way that SQLite does not even copy: it is the header
            connection.close()
        _mend_header(path)
        connection = _connect(path)
        lost = _mended(connection, path)
    except BaseException:
        connection.close()
        raise
    logger.warning("the header of the queue's file {} was damaged; it is mended", path)
    return connection, lost


def _mended(connection: sqlite3.Connection, path: str) -> int:
    """Make the file ready, and mend it if necessary; how many damaged records are left out."""
    try:
        _prepare(connection)
        is_damaged = False
    except _DamagedError:
        is_damaged = True
    with _seeing_damage():
        connection.rollback()
        hidden = _hidden_pages(connection, path)
        return _replace(connection, path, hidden) if is_damaged or hidden else 0


def _create(path: str) -> bool:
    """Make an empty file that only its owner may read: it will hold the session's token.

    Returns:
        Whether there was none.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return False
    return True


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    connection.text_factory = bytes  # a damaged text must not raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Lock the file, see what it is, and make it ready.

    Raises:
        _DamagedError: It was ours, and SQLite cannot make sense of it.
        _ForeignError: It is not ours.
        sqlite3.Error: It is locked, or cannot be written to.
    """
    with _seeing_damage():
        _lock(connection)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        # Deleted rows are overwritten where that costs no further write.
        connection.execute("PRAGMA secure_delete=FAST")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != b"ok" or _schema(connection) != _SCHEMA:
            raise _DamagedError("it is damaged")


@contextmanager
def _seeing_damage() -> Iterator[None]:
    """Turn what SQLite raises about damage into `_DamagedError`."""
    try:
        yield
    except FAILURES as error:
        if isinstance(error, ValueError) or str(error).startswith(_SIGNS_OF_DAMAGE):
            raise _DamagedError(str(error)) from error
        raise


def _lock(connection: sqlite3.Connection) -> None:
    """Take the lock, for as long as the connection is open; make the tables in a new file."""
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
    connection.execute("BEGIN EXCLUSIVE")  # in a file that may not be written to, it fails here
    application = _header_field(connection, "application_id")
    version = _header_field(connection, "user_version")
    if application != _APPLICATION:
        schema = _schema(connection)
        if not schema and not application and not version:
            _make_tables(connection)
        elif schema != _SCHEMA:
            raise _ForeignError("it is the database of another program")
        _mark(connection)
    elif version != _VERSION:
        raise _ForeignError(f"it is of version {version}, and this program knows {_VERSION}")
    connection.execute("COMMIT")


def _header_field(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _schema(connection: sqlite3.Connection) -> list[tuple[bytes, int]]:
    sql = "SELECT sql, rootpage FROM sqlite_master ORDER BY rootpage"
    return connection.execute(sql).fetchall()


def _make_tables(connection: sqlite3.Connection) -> None:
    for sql, _ in _SCHEMA:
        connection.execute(sql.decode())


def _mark(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id={_APPLICATION}")
    connection.execute(f"PRAGMA user_version={_VERSION}")


# Mending. The connection is closed while the file is opened beside SQLite.


def _mend_header(path: str) -> None:
    """Correct the beginning of the file, if it can be told that it was ours."""
    with open(path, "r+b") as file:
        header = file.read(100)
        size = file.seek(0, os.SEEK_END)
        if int.from_bytes(header[68:72], "big") == _APPLICATION:
            file.seek(0)
            file.write(mended_header(header, size))


def _hidden_pages(connection: sqlite3.Connection, path: str) -> dict[int, bytes]:
    """What the write-ahead log holds and SQLite does not see, because the log is damaged."""
    try:
        with open(f"{path}-wal", "rb") as file:
            log = file.read()
        _, known, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except (FileNotFoundError, *FAILURES):
        return {}  # there is no log; or it cannot be found out: the disk is full, or more is wrong
    return hidden_pages(log, max(0, known))


def _replace(connection: sqlite3.Connection, path: str, newer: dict[int, bytes]) -> int:
    """Replace what is damaged by what can be read of it; keep a copy as it was.

    Args:
        connection: To the file.
        path: Of the file.
        newer: Pages that belong there, by number.

    Returns:
        How many damaged records are known to be left out.
    """
    aside = _copy_aside(connection, path, with_log=bool(newer))
    with open(aside, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        found = salvage(pages, newer)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        fresh.execute(f"PRAGMA page_size={PAGE_SIZE}")
        _make_tables(fresh)
        _mark(fresh)
        for name, rows in found.rows.items():
            fresh.executemany(insertion(name), rows)
        fresh.backup(connection)  # in one transaction, whatever was there
    _prepare(connection)
    logger.warning(
        "the queue's file {} was damaged: {} messages could be read; as it was, it is kept as {}",
        path,
        len(found.rows["messages"]),
        aside,
    )
    return found.damaged


def _copy_aside(connection: sqlite3.Connection, path: str, *, with_log: bool) -> str:
    """Copy the file, as SQLite sees it, to a new one beside it; and the log, if it sees less."""
    names = (f"{path}.damaged-{number}" for number in count(1))
    aside = next(name for name in names if _create(name))
    try:
        with closing(sqlite3.connect(aside)) as copy:
            connection.backup(copy)
        if with_log:
            shutil.copy(f"{path}-wal", f"{aside}-log")
    except BaseException:
        for name in (aside, f"{aside}-log"):
            with suppress(FileNotFoundError):
                os.unlink(name)
        raise
    return aside
