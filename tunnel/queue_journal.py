"""What a durable queue keeps on file, and when.

Rules
-----

What *accepts or hands out* is on file before the call returns, or it raises and nothing was
accepted or handed out: a message before its sender goes on, a number before its first byte is on
the wire.

What *states a fact* (done, acknowledged, a session opened or over) does not raise: it is true
whether it can be written or not. If not, it is owed, and goes onto the file together with whatever
is numbered next, before that, so that a number never rests on a fact which the file does not know.
Of what is owed when the process dies, messages may be sent again.

Requests, and messages of a priority that is not kept, have no row (`NO_ROW`).
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Literal

from loguru import logger

from tunnel.clock import Clock
from tunnel.errors import InvalidStateError, PayloadTypeError
from tunnel.group_commit import Change, GroupCommit, Statement
from tunnel.queue_contents import QueueContents, SavedSession
from tunnel.queue_entries import NEVER, NO_ROW, PUT_BACK, Entry
from tunnel.queue_file import FAILURES, open_file, storage_error
from tunnel.queue_rows import (
    ACKNOWLEDGED,
    FORGET_NUMBERS,
    LAST_NUMBER,
    Row,
    counter_row,
    insertion,
    message_row,
    number_row,
    ticket_row,
)
from tunnel.session import Ticket
from tunnel.session_frames import Parcel

Persist = Literal["all", "high"]
"""Which messages are kept on file: all, or those of high priority."""

_HIGH = PUT_BACK + 1
_JUMP = 1.0
"""Seconds by which the system's time must be off at once to count as set, not as drifting."""

_PUT_MESSAGE, _PUT_NUMBER, _PUT_FACT = map(insertion, ("messages", "numbers", "facts"))
_DELETE_MESSAGE = "DELETE FROM messages WHERE id = ?"
_ACKNOWLEDGE = (
    "DELETE FROM messages WHERE id IN (SELECT message FROM numbers WHERE number <= ?)",
    "DELETE FROM numbers WHERE number <= ?",
)


class QueueJournal:
    """The file of one queue. Safe to use from any thread.

    Args:
        path: Where it is.
        persist: What is kept in it.
        clock: Converts times of expiry: on file they are seconds since the Unix epoch.

    Attributes:
        path: As given, made absolute.
        persist: As given.
        skipped: How many damaged records were left out then.

    Raises:
        QueueInUseError: Another queue has the file open.
        QueueStorageError: The file cannot be used.
        ValueError: `persist` is neither.
    """

    def __init__(self, path: str | os.PathLike[str], persist: Persist, clock: Clock) -> None:
        if persist not in ("all", "high"):
            raise ValueError(f'persist must be "all" or "high", not {persist!r}')
        self.path = os.path.abspath(os.fsdecode(path))
        self.persist: Persist = persist
        self._clock = clock
        connection, lost = open_file(self.path, clock)
        try:
            self._contents: QueueContents | None = QueueContents(connection, clock)
        except FAILURES as error:
            connection.close()
            raise storage_error(self.path, error) from error
        contents = self._contents
        self._group = GroupCommit(connection)
        # An id is never used twice: what is found in a damaged file must not be taken for another.
        self._ids = count(max(contents.last_id + 1, int(clock.time() * 1e6)))
        # What converts times of expiry, each with the first row for which it was used: the system's
        # time may be set, and what was written before that expires here when it always would have.
        self._offsets: list[tuple[float, float]] = [(-math.inf, self._offset())]
        self._saved = contents.session
        self._lock = threading.Lock()  # guards what is owed, and that it is posted in order
        self._owed: dict[int, Statement] = dict(enumerate(contents.waste))
        self._serials = count(len(self._owed))
        self._is_failing = False
        self.skipped = lost + contents.damaged
        if self.skipped:
            logger.warning(
                "{} damaged records in the queue's file {} are left out", self.skipped, self.path
            )

    def take_contents(self) -> QueueContents:
        """What the file held when it was opened; it is not kept here."""
        contents, self._contents = self._contents, None
        assert contents is not None, "taken already"
        return contents

    # What accepts or hands out

    def check(self, items: Iterable[object]) -> None:
        """See that items are such as can be kept on file.

        Raises:
            PayloadTypeError: One is neither str nor bytes.
        """
        for item in items:
            if not isinstance(item, (str, bytes)):
                raise PayloadTypeError(
                    f"a queue on file holds str or bytes, not {type(item).__name__}"
                )

    def change_for(
        self, items: Sequence[str | bytes], rank: int, deadline: float
    ) -> tuple[Change, list[int]]:
        """What puts items on file, and their rows.

        Args:
            items: The items, checked.
            rank: Their line.
            deadline: When they expire, on the clock's `monotonic()`.

        Raises:
            ValueError: A text has a lone surrogate.
        """
        if self.persist == "high" and rank > _HIGH:
            return Change(()), [NO_ROW] * len(items)
        if deadline != NEVER:
            offset = self._offset()
            if abs(offset - self._offsets[-1][1]) > _JUMP:
                self._offsets.append((next(self._ids), offset))
            deadline += offset
        rows: list[int] = []
        records: list[Row] = []
        for item in items:
            if isinstance(item, Parcel):  # whoever waits for the answer dies with the process
                rows.append(NO_ROW)
                continue
            row = next(self._ids)
            rows.append(row)
            records.append(message_row(row, item, rank, deadline))
        return Change(((_PUT_MESSAGE, records),) if records else ()), rows

    def commit(self, change: Change) -> None:
        """Put a change on file.

        Raises:
            QueueStorageError: That failed, and the file is as it was.
            InvalidStateError: The queue is closed.
        """
        if not change.statements:
            change.decide(None)
            return
        # What is owed is a change of its own here: one can be possible without the other.
        owed = self._post_owed() if self._owed else None
        self._group.post(change)
        try:
            self._group.settle(change)
        finally:
            if owed is not None:
                self._note(*owed)
        self._raise_for(change)

    def delete(self, entries: Iterable[Entry]) -> None:
        """Take from the file what is handed out for good.

        Raises:
            QueueStorageError, InvalidStateError: As for `commit`.
        """
        self.commit(Change([*_deletion(entries)]))

    def number(self, first: int, entries: Iterable[Entry]) -> None:
        """Give each entry its number, from `first` on.

        Raises:
            QueueStorageError, InvalidStateError: As for `commit`.
        """
        last = first - 1
        rows = []
        for last, (_, _, row) in enumerate(entries, first):
            if row != NO_ROW:
                rows.append(number_row(last, row))
        owed = self._post_owed(
            *([(_PUT_NUMBER, rows)] if rows else ()),
            (_PUT_FACT, [counter_row(LAST_NUMBER, last)]),
        )
        self._settle(*owed)
        self._raise_for(owed[0])

    # What states a fact

    def forget(self, entries: Iterable[Entry]) -> None:
        """Nothing is to be done about these any more."""
        deletion = [*_deletion(entries)]
        if deletion:
            self._state(*deletion)

    def forget_later(self, rows: Iterable[int]) -> None:
        """These have expired; it will do to write that with what comes next. Never waits."""
        with self._lock:
            self._owe([(_DELETE_MESSAGE, [(row,) for row in rows])])

    def forget_numbers(self, entries: Iterable[Entry]) -> None:
        """These were numbered perhaps, but never sent."""
        rows = _rows(entries)
        if rows:
            self._state(("DELETE FROM numbers WHERE message = ?", rows))

    def acknowledge(self, number: int) -> None:
        """What is numbered up to this has been acknowledged."""
        self._saved = None
        self._state(
            *((sql, [(number,)]) for sql in _ACKNOWLEDGE),
            (_PUT_FACT, [counter_row(ACKNOWLEDGED, number)]),
        )

    def put_back(self, items: Sequence[Any], numbers: Sequence[int]) -> list[Entry]:
        """These were numbered and never sent: they are not numbered any more.

        Returns:
            Their entries. What is not on file has lost its time of expiry.
        """
        known: dict[int, tuple[float, int]] = {}
        try:
            for number, deadline, row in self._group.read(
                "SELECT numbers.number, deadline, id FROM numbers JOIN messages ON id = message"
            ):
                known[number] = deadline - self._offset_of(row), row
        except sqlite3.Error as error:
            self._note_failure(error)
        if numbers:
            self._state(("DELETE FROM numbers WHERE number = ?", [(n,) for n in numbers]))
        return [
            (item, *known.get(number, (NEVER, NO_ROW)))
            for item, number in zip(items, numbers, strict=True)
        ]

    def _offset(self) -> float:
        """Seconds that the system's time is ahead of the clock's `monotonic()` now."""
        return self._clock.time() - self._clock.monotonic()

    def _offset_of(self, row: int) -> float:
        """The same, when a row was written; or read, if another process has written it."""
        return next(offset for first, offset in reversed(self._offsets) if first <= row)

    def save_session(self, server: str, ticket: Ticket) -> None:
        """A session was opened; no number of it was given yet."""
        self._saved = None
        facts = counter_row(ACKNOWLEDGED, 0), counter_row(LAST_NUMBER, 0)
        self._state((_PUT_FACT, [ticket_row(server, ticket), *facts]))

    def forget_session(self) -> None:
        """The session is over, and whatever has a number in it."""
        self._saved = None
        numbered = "DELETE FROM messages WHERE id IN (SELECT message FROM numbers)"
        self._state((numbered, [()]), *FORGET_NUMBERS)

    def saved_session(self) -> SavedSession | None:
        """The session that was on file at the beginning, until it goes on or is forgotten."""
        return self._saved

    def close(self) -> None:
        """Write what is owed if that is possible, and give the file back. Harmless to repeat."""
        if self._owed:
            self._state()
        self._group.close()

    # The rest

    def _state(self, *statements: Statement) -> None:
        """Owe the statements, and pay if possible."""
        with self._lock:
            self._owe(statements)
        with suppress(InvalidStateError):  # nothing is asked of the file that could be refused
            self._settle(*self._post_owed())

    def _owe(self, statements: Iterable[Statement]) -> None:
        """Needs the lock."""
        for statement in statements:
            self._owed[next(self._serials)] = statement

    def _post_owed(self, *more: Statement) -> tuple[Change, list[int]]:
        """Post what is owed, and more, as one change; with the serials of what is owed."""
        with self._lock:
            change = Change([*self._owed.values(), *more])
            self._group.post(change)
            return change, list(self._owed)

    def _settle(self, change: Change, serials: Iterable[int]) -> None:
        try:
            self._group.settle(change)
        finally:
            self._note(change, serials)

    def _note(self, change: Change, serials: Iterable[int]) -> None:
        """Owe no longer what is on file now."""
        if change.is_on_file:
            self._is_failing = False
            with self._lock:
                for serial in serials:
                    self._owed.pop(serial, None)
        elif change.error is not None:
            self._note_failure(change.error)

    def _note_failure(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "cannot write to the queue's file {}: {}; what is known about messages that were "
                "sent is written when that works again",
                self.path,
                error,
            )

    def _raise_for(self, change: Change) -> None:
        if change.error is not None:
            raise storage_error(self.path, change.error) from change.error


def _deletion(entries: Iterable[Entry]) -> Iterator[Statement]:
    rows = _rows(entries)
    if rows:
        yield _DELETE_MESSAGE, rows


def _rows(entries: Iterable[Entry]) -> list[tuple[int]]:
    return [(row,) for _, _, row in entries if row != NO_ROW]
