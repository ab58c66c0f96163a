"""Many threads, one transaction: whoever finds the file free commits for all who wait.

A commit costs about the same for one change as for ten, so changes are gathered: each thread adds
its own to those pending and asks for the file. The one that gets it commits all that is pending,
its own and others', and these find theirs done when it is their turn. Nobody is appointed, so
nobody can fail to do what others rely on: a thread that is interrupted (Ctrl-C) first sees its own
change settled, one way or the other, and what it left undone is still pending for the next.

After an interruption a change may be made twice, always in the same order and before what depends
on it. So each must say how things shall be, and not how they shall change.

A forked child has no part in the file. If its copy of the connection were closed, even by the end
of the interpreter, SQLite would clean up as if the parent had no more use for the file, and delete
the log with what the parent has committed. So the child's copy is never closed.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

from tunnel.errors import InvalidStateError
from tunnel.forks import disown, register

Statement: TypeAlias = tuple[str, Sequence[tuple[Any, ...]]]
"""SQL, and the rows of parameters to run it with."""

_MOST_INTERRUPTIONS = 100  # more in one commit are none; a thread must not go round for ever
_SQL = itemgetter(0)
_CLOSED = "the queue is closed"


class Change:
    """What one caller wants to have on file, all of it or nothing.

    Attributes:
        statements: What does it.
        is_settled: Whether it is decided.
        error: Why it is not on file, if it is not.
    """

    __slots__ = ("error", "is_settled", "statements")

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.statements = statements
        self.is_settled = False
        self.error: Exception | None = None

    def decide(self, error: Exception | None) -> None:
        """Note how it went, perhaps for the second time."""
        self.error = error
        self.is_settled = True

    @property
    def is_on_file(self) -> bool:
        """Whether it was committed."""
        return self.is_settled and self.error is None


class GroupCommit:
    """The writing end of an SQLite file. Safe to use from any thread.

    Args:
        connection: In autocommit mode (``isolation_level=None``), for any thread; ours from now
            on.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._file = threading.Lock()  # guards the use of the connection
        self._pending: deque[Change] = deque()  # anybody appends; removed with `_file` held
        register(self)

    def post(self, change: Change) -> None:
        """Have a change committed before all that are posted later, by whoever does that."""
        self._pending.append(change)

    def settle(self, change: Change) -> None:
        """Wait until a posted change is decided; look at it then.

        Raises:
            InvalidStateError: The file was closed first.
        """
        interruption: BaseException | None = None
        for _ in range(_MOST_INTERRUPTIONS):
            try:
                while not change.is_settled:
                    with self._file:
                        if not change.is_settled:
                            self._commit_pending()
                break
            except InvalidStateError:
                raise
            except BaseException as exc:  # Ctrl-C can wait for as long as a commit takes
                interruption = exc
        if interruption is not None:
            raise interruption

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """What the file says now.

        Raises:
            InvalidStateError: The file is closed.
            sqlite3.Error: It cannot be read.
        """
        with self._file:
            return self._open_connection().execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Give the file back; harmless to repeat. What is pending is not committed any more."""
        with self._file:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise InvalidStateError(_CLOSED)
        return self._connection

    def _commit_pending(self) -> None:
        connection = self._open_connection()
        pending = self._pending
        while pending[0].is_settled:  # an interruption may have left some
            pending.popleft()
        changes = list(pending)
        error = _commit(connection, changes)
        if isinstance(error, sqlite3.OperationalError):  # the disk is full, for example
            _shorten_log(connection)
            error = _commit(connection, changes)
        for change in changes:
            if error is not None and len(changes) > 1:  # alone it may be possible
                change.decide(_commit(connection, [change]))
            else:
                change.decide(error)
        for _ in changes:
            pending.popleft()

    def leave_to_parent(self) -> None:
        """This is a forked child now: keep away from the file."""
        import ctypes

        if self._connection is not None:
            # One reference that nobody gives back.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        disown(self)


def _shorten_log(connection: sqlite3.Connection) -> None:
    """Put what the log holds into the database itself, if there is room for it, and empty the log.

    Then there is room in the log at least, so that messages can be deleted.
    """
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _commit(connection: sqlite3.Connection, changes: Iterable[Change]) -> Exception | None:
    """Commit the changes in one transaction.

    Returns:
        Why that was not possible; None: it was.
    """
    statements = [statement for change in changes for statement in change.statements]
    try:
        if connection.in_transaction:
            connection.rollback()  # what an interruption left
        if len(statements) == 1 and len(statements[0][1]) == 1:
            connection.execute(statements[0][0], statements[0][1][0])  # commits by itself
            return None
        connection.execute("BEGIN IMMEDIATE")
        for sql, group in groupby(statements, _SQL):
            connection.executemany(sql, [row for _, rows in group for row in rows])
        connection.execute("COMMIT")
    except Exception as error:
        with suppress(sqlite3.Error):
            connection.rollback()
        return error
    return None
