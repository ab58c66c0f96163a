"""Many threads, one transaction: whoever finds the file free commits for all who wait.

A commit costs about the same for one change as for ten, so changes are gathered: each thread adds
its own to those pending and looks at the file. If nobody uses it, the thread commits all that is
pending, its own and others'. If somebody does, the thread sleeps until its change is decided, or
until the file is free and it is its turn to use it. Those whose changes were decided together wake
each other, one after the other: all at once, they would only queue up for the interpreter.

Nobody is appointed, so nobody can fail to do what others rely on: a thread that is interrupted
(Ctrl-C) first sees its own change settled, one way or the other, and what it left undone is still
pending for the next. It may fail to wake somebody; so who sleeps looks up now and then.

After an interruption a change may be made twice, always in the same order and before what depends
on it. So each must say how things shall be, and not how they shall change.

A forked child has no part in the file. If its copy of the connection were closed, even by the end
of the interpreter, SQLite would clean up as if the parent had no more use for the file, and delete
the log with what the parent has committed. So the child's copy is never closed.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, TypeAlias

from tunnel.errors import InvalidStateError
from tunnel.forks import disown, register

Statement: TypeAlias = tuple[str, Sequence[tuple[Any, ...]]]
"""SQL, and the rows of parameters to run it with."""

_MOST_INTERRUPTIONS = 100  # more in one commit are none; a thread must not go round for ever
_LOOK_UP = 0.05  # seconds after which a sleeping thread looks whether waking it was forgotten
_SQL = itemgetter(0)
_CLOSED = "the queue is closed"


class Change:
    """What one caller wants to have on file, all of it or nothing.

    Attributes:
        statements: What does it.
        is_settled: Whether it is decided.
        error: Why it is not on file, if it is not.
        next: Whose thread is to be woken by this one's.
    """

    __slots__ = ("_sleep", "error", "is_settled", "next", "statements")

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.statements = statements
        self.is_settled = False
        self.error: Exception | None = None
        self.next: Change | None = None
        self._sleep: threading.Lock | None = None  # held, until its thread is to wake up

    def decide(self, error: Exception | None) -> None:
        """Note how it went, perhaps for the second time."""
        self.error = error
        self.is_settled = True

    def lie_down(self) -> None:
        """From now on `wake` counts; it ends the next `sleep`, also one that is yet to begin."""
        if self._sleep is None:
            sleep = threading.Lock()
            sleep.acquire()
            self._sleep = sleep

    def sleep(self) -> None:
        """Wait to be woken, but not for long."""
        assert self._sleep is not None
        self._sleep.acquire(timeout=_LOOK_UP)

    def wake(self) -> bool:
        """Have its thread look at it again; False: that does not sleep."""
        sleep = self._sleep
        if sleep is None:
            return False
        with suppress(RuntimeError):  # it is awake by now, or another thread has woken it
            sleep.release()
        return True

    def leave(self) -> None:
        """Its thread goes on, and passes on that it was woken."""
        self._sleep = None  # first: who does not see that has set `next` before
        following = self.next
        while following is not None and not following.wake():
            following = following.next

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
        self._usual = 1  # how many changes were gathered the last time
        register(self)

    def post(self, change: Change) -> None:
        """Have a change committed before all that are posted later, by whoever does that."""
        self._pending.append(change)

    def settle(self, change: Change) -> None:
        """Wait until a posted change is decided; look at it then.

        Raises:
            InvalidStateError: The file was closed first.
        """
        try:
            while not change.is_settled:
                self._commit_or_sleep(change)
        except InvalidStateError:
            raise
        except BaseException:  # Ctrl-C can wait for as long as a commit takes
            self._settle_at_last(change)
            raise
        finally:
            change.leave()

    def _settle_at_last(self, change: Change) -> None:
        """Go on after an interruption; further ones are left out."""
        for _ in range(_MOST_INTERRUPTIONS):
            with suppress(BaseException):
                while not change.is_settled and self._connection is not None:
                    self._commit_or_sleep(change)
                break
        self._wake_one()

    def _commit_or_sleep(self, change: Change) -> None:
        if self._file.locked():
            change.lie_down()
            # Looked at once more: whoever still has the file now sees that we sleep, after deciding
            # about the change, and after giving the file back.
            if self._file.locked() and not change.is_settled:
                change.sleep()
            return
        try:
            with self._file:
                if not change.is_settled:
                    self._gather()
                    self._commit_pending()
        finally:
            self._wake_one()

    def _gather(self) -> None:
        """Let others have the interpreter, if fewer have come than the last time."""
        if len(self._pending) < self._usual:
            time.sleep(0)
        self._usual = len(self._pending)

    def _wake_one(self) -> None:
        """If something is pending, have a sleeper see to it. Who is awake does so anyway."""
        if self._pending:
            _wake_first(list(self._pending))

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """What the file says now.

        Raises:
            InvalidStateError: The file is closed.
            sqlite3.Error: It cannot be read.
        """
        try:
            with self._file:
                return self._open_connection().execute(sql, parameters).fetchall()
        finally:
            self._wake_one()

    def close(self) -> None:
        """Give the file back; harmless to repeat. What is pending is not committed any more."""
        with self._file:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        for change in list(self._pending):
            change.wake()

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise InvalidStateError(_CLOSED)
        return self._connection

    def _commit_pending(self) -> None:
        connection = self._open_connection()
        pending = self._pending
        while pending and pending[0].is_settled:  # an interruption may have left some
            pending.popleft()
        changes = list(pending)
        if not changes:
            return
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
        if len(changes) > 1:
            _wake_in_turn(changes)

    def leave_to_parent(self) -> None:
        """This is a forked child now: keep away from the file."""
        import ctypes

        if self._connection is not None:
            # One reference that nobody gives back.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        disown(self)


def _wake_first(changes: Sequence[Change]) -> None:
    any(change.wake() for change in changes)


def _wake_in_turn(changes: Sequence[Change]) -> None:
    """Wake the first that sleeps; it wakes the next when it goes on. All of them are decided."""
    for change, following in pairwise(changes):
        change.next = following
    _wake_first(changes)


def _shorten_log(connection: sqlite3.Connection) -> None:
    """Put what the log holds into the database itself, if there is room for it, and empty the log.

    Then there is room in the log at least, so that messages can be deleted.
    """
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _commit(connection: sqlite3.Connection, changes: Sequence[Change]) -> Exception | None:
    """Commit the changes in one transaction.

    Returns:
        Why that was not possible; None: it was.
    """
    statements = changes[0].statements
    if len(changes) > 1:
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
