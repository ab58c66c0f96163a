"""How items get into a request queue: which are accepted, and how refusal is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from tunnel.errors import QueueFullError
from tunnel.queue_core import QueueCore
from tunnel.queue_entries import NEVER, NO_ROW, PUT_BACK


class RequestPriority(str, Enum):
    """How urgent an item is (requirement 5.2): interactive, batch or background work."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    # Equal strings have equal hashes, as everywhere; and it spares a Python call at each look-up.
    __hash__ = str.__hash__


_RANKS = {priority: rank for rank, priority in enumerate(RequestPriority, start=PUT_BACK + 1)}


class QueueIntake(QueueCore):
    """A queue that can be filled; `tunnel.request_queue` has its rules."""

    def enqueue(
        self,
        item: Any,
        priority: RequestPriority = RequestPriority.NORMAL,
        expires_in: float | None = None,
    ) -> None:
        """Put an item at the end of the line of its priority.

        Args:
            item: Any object but None, which is what `dequeue` returns when there is nothing.
            priority: Which line.
            expires_in: Seconds after which it is no longer handed out; None: never.

        Raises:
            QueueFullError: the bound is reached (requirement 5.4); the error says what was refused.
            TypeError, ValueError: an argument is wrong; the queue is untouched.
            PayloadTypeError, MessageTooBigError: a service sends what is queued, and cannot send
                this; likewise.
            QueueStorageError: it cannot be written to the file; the queue is untouched.
        """
        if not self.enqueue_many((item,), priority, expires_in):
            raise self.refusal((item,), priority)

    def enqueue_many(
        self,
        items: Iterable[Any],
        priority: RequestPriority = RequestPriority.NORMAL,
        expires_in: float | None = None,
        *,
        is_checked: bool = False,
    ) -> int:
        """Put in as many of the items as fit, in order and with nothing in between.

        Args:
            items: The items; an iterator is read to its end first.
            priority: As for `enqueue`.
            expires_in: As for `enqueue`.
            is_checked: For the service that sends what is queued: it knows that it can.

        Returns:
            How many were accepted: the first so many. The caller decides about the rest; `refusal`
            makes the error.

        Raises:
            TypeError, ValueError, PayloadTypeError, MessageTooBigError, QueueStorageError: as for
                `enqueue`.
        """
        if isinstance(items, (str, bytes, bytearray, memoryview)):
            raise TypeError(f"items must be several items, not one {type(items).__name__}")
        several = items if isinstance(items, (list, tuple)) else tuple(items)
        rank, deadline = self._admission(several, priority, expires_in)
        if not is_checked:
            self._check_all(several)
        if self._journal is None:
            accepted = self._locked(self._add, several, rank, deadline)
        else:
            accepted = self._put_on_file(several, rank, deadline)
        self.deliver_signals()
        return accepted

    def put(
        self, item: Any, priority: RequestPriority, expires_in: float | None, sender: object
    ) -> tuple[bool, bool]:
        """Put in one item that the service knows it can send, if there is room: the quick way.

        Args:
            item: As for `enqueue`.
            priority: As for `enqueue`.
            expires_in: As for `enqueue`.
            sender: Who sends; see `wait_to_send`.

        Returns:
            Whether it was accepted, and whether the caller has to see that it is written; else
            another sender is about to (`wait_to_send`).

        Raises:
            QueueStorageError: as for `enqueue`.
        """
        if self._journal is not None or expires_in is not None:
            return bool(self.enqueue_many((item,), priority, expires_in, is_checked=True)), True
        answer = self._locked(self._add_one, item, _RANKS[priority], sender)
        if self._is_signal_due:
            self.deliver_signals()
        return answer

    def enqueue_beyond(
        self,
        item: Any,
        priority: RequestPriority = RequestPriority.NORMAL,
        expires_in: float | None = None,
        *,
        is_checked: bool = False,
    ) -> None:
        """Put an item in past the bound: for a caller who cannot wait, and keeps a bound himself.

        Args:
            item: As for `enqueue`.
            priority: As for `enqueue`.
            expires_in: As for `enqueue`.
            is_checked: As for `enqueue_many`.

        Raises:
            TypeError, ValueError, PayloadTypeError, MessageTooBigError, QueueStorageError: as for
                `enqueue`.
        """
        rank, deadline = self._admission((item,), priority, expires_in)
        if not is_checked:
            self._check_all((item,))
        if self._journal is None:
            self._locked(self._entries.add, (item,), rank, deadline)
        else:
            self._put_on_file((item,), rank, deadline, is_bounded=False)
        self.deliver_signals()

    def adopt(
        self,
        item: Any,
        priority: RequestPriority = RequestPriority.NORMAL,
        expires_in: float | None = None,
    ) -> None:
        """Register an item as taken that never was in a line: its writing has begun.

        It is accepted above the bound too, because it can be refused no more. It does not go on
        file: with a durable queue nothing should be written that was not accepted first.

        Args:
            item: As for `enqueue`.
            priority: As for `enqueue`.
            expires_in: As for `enqueue`.

        Raises:
            TypeError, ValueError: an argument is wrong; the queue is untouched.
        """
        _, deadline = self._admission((item,), priority, expires_in)
        self._locked(self._entries.adopt, item, deadline, NO_ROW)

    def refusal(
        self, refused: Sequence[Any], priority: RequestPriority, *, accepted: int = 0
    ) -> QueueFullError:
        """Make the error that says what was refused: how many, what kind, how long; no contents.

        Args:
            refused: The items that did not fit, in order; at least one.
            priority: What they were to be queued with.
            accepted: How many items of the same call were accepted before them.
        """
        what = _described(refused[0])
        if len(refused) > 1:
            what = f"{len(refused)} items, the first {what}"
        return QueueFullError(
            f"the queue is full ({self._max_size} items): "
            f"refused {what}, {priority.value} priority",
            accepted=accepted,
            context={
                "max_size": self._max_size,
                "refused": len(refused),
                "priority": priority.value,
            },
        )

    def _admission(
        self, items: Sequence[Any], priority: RequestPriority, expires_in: float | None
    ) -> tuple[int, float]:
        """Check what is to be put in. Returns its rank and the moment of its expiry."""
        if not isinstance(priority, RequestPriority):
            raise TypeError(f"priority must be a RequestPriority, not {priority!r}")
        for item in items:
            if item is None:
                raise TypeError("None cannot be queued: it stands for an empty queue")
        if expires_in is None:
            return _RANKS[priority], NEVER
        if not expires_in > 0:
            raise ValueError(f"expires_in must be more than 0 seconds, not {expires_in}")
        return _RANKS[priority], self._clock.monotonic() + expires_in

    def _check_all(self, items: Sequence[Any]) -> None:
        """See that the service, if there is one, can send the items."""
        if self._check is not None:
            for item in items:
                self._check(item)

    def _add(self, items: Sequence[Any], rank: int, deadline: float) -> int:
        room = self._max_size - self._entries.held()
        if len(items) > room:
            items = items[: max(0, room)]
        self._entries.add(items, rank, deadline)
        return len(items)

    def _add_one(self, item: Any, rank: int, sender: object) -> tuple[bool, bool]:
        entries = self._entries
        if entries.waiting + len(entries.taken) >= self._max_size:
            return False, True
        entries.append(item, rank)
        return True, self._due is None or self._due.sender is not sender

    def _put_on_file(
        self, items: Sequence[Any], rank: int, deadline: float, *, is_bounded: bool = True
    ) -> int:
        """Accept as many of the items as fit: on file first, then in their line.

        Room is kept for them meanwhile; and given back, if they do not get onto the file.
        """
        journal = self._journal
        assert journal is not None
        journal.check(items)
        reserved = len(items)
        with self._lock:
            is_sure = not is_bounded or self._entries.used() + reserved <= self._max_size
            if is_sure:
                self._entries.reserve(reserved)
        if not is_sure:
            reserved = self._locked(self._reserve_room, reserved)
            items = items[:reserved]
        change = None
        rows: Sequence[int] = ()
        try:
            change, rows = journal.change_for(items, rank, deadline)
            journal.commit(change)
        finally:
            if change is None or not change.is_on_file:
                items, rows = (), ()
            self._locked(self._admit, items, rows, rank, deadline, reserved)
        return reserved

    def _reserve_room(self, count: int) -> int:
        count = max(0, min(count, self._max_size - self._entries.used()))
        self._entries.reserve(count)
        return count

    def _admit(
        self, items: Sequence[Any], rows: Sequence[int], rank: int, deadline: float, reserved: int
    ) -> None:
        self._entries.reserved -= reserved
        self._entries.admit(items, rank, deadline, rows)


def _described(item: Any) -> str:
    """What it is, without its contents: they may be secret, and go to logs."""
    if isinstance(item, str):
        return f"a text of {len(item)} characters"
    if isinstance(item, (bytes, bytearray, memoryview)):
        return f"a message of {len(item)} bytes"
    return f"an item of type {type(item).__name__}"
