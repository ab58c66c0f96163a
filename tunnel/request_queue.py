"""Work that waits for the link: bounded, in order, and never dropped in silence.

Rules
-----

Items leave in the order high, normal, low priority, first in first out within one (requirement
5.2). A consumer that may fail *takes* items and *confirms* them when they are done; until then the
queue keeps them, and `restore` puts them back in front of everything else, so that a message whose
write failed is the first to go out on the next connection, whatever its priority.

What is taken still fills the queue until it is confirmed. A full queue refuses (requirement 5.4);
it never drops. Only what can be refused no more goes past the bound: `adopt`, `put_back`,
`enqueue_beyond`, and what a queue finds in its file. The one way an item leaves without being
handed out is its own expiry, and that is counted in `expired`. Expiry counts while an item waits;
one that was taken is the consumer's, and is judged again on `restore`.

Backpressure (requirement 5.3) is signalled when at least 80 % of the bound is in use, and again
when it is less. There is no second, lower threshold: what a subscriber was told last is what holds.

Every method may be called from any thread. `take`, `confirm`, `restore` and `adopt` are meant for
one consumer, because `confirm` counts from the oldest that was taken; several consumers use
`dequeue`. A service that sends what is queued is such a consumer: `bind` makes it known.

On disk
-------

With a `path` the queue is *durable*: what it has accepted outlives the process, however that ends,
until it is confirmed, acknowledged or handed out for good (requirement 5.9). A loss of power can
take what was accepted in the last moments before it, but nothing older, and never half a message.
`tunnel.queue_journal` says what is on file when, and what a full disk does.

A session (`tunnel.session`) keeps its messages itself. It takes them with a number, and has them
handed over; on file they stay, numbered, until the peer has acknowledged them. So the process that
opens the file next can go on with the session where this one ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from tunnel.backpressure import BackpressureSignal
from tunnel.clock import Clock
from tunnel.errors import QueueStorageError
from tunnel.forks import disown, is_inherited, register
from tunnel.queue_entries import NEVER, NO_ROW, ClosedEntries, Entry
from tunnel.queue_intake import QueueIntake, RequestPriority
from tunnel.session import Ticket

if TYPE_CHECKING:
    from tunnel.queue_contents import QueueContents, SavedSession

__all__ = ["BackpressureSignal", "RequestPriority", "RequestQueue"]


class RequestQueue(QueueIntake):
    """A bounded queue with priorities and expiry; see the module's text for its rules.

    A context manager: leaving it closes the queue.

    Args:
        max_size: How many items may be held, those taken but not confirmed included.
        path: A file, made if there is none, that keeps the items; then they must be str or bytes.
            None: they are kept in memory only, and may be anything.
        persist: What goes on file: "all", or "high" for high priority alone.
        clock: Judges expiry and does the waiting; the system's if not given. What is on file
            expires in wall time, whether a process has it open or not.

    Raises:
        ValueError: `max_size` is less than 1, or `persist` is wrong.
        TypeError: `max_size` is not an integer.
        QueueInUseError: Another queue has the file open, in this or another process.
        QueueStorageError: The file cannot be used: it is none of ours, there is no permission, ...
            It is as it was. A damaged file is no such case; see `skipped`.
    """

    def __init__(
        self,
        max_size: int = 100,
        *,
        path: str | os.PathLike[str] | None = None,
        persist: Literal["all", "high"] = "all",
        clock: Clock | None = None,
    ) -> None:
        super().__init__(max_size, clock)
        register(self)
        if path is None:
            return
        try:  # only for a file: SQLite and all about it
            from tunnel.queue_journal import QueueJournal
        except (ImportError, OSError) as error:  # without descriptors, or rights to the library
            raise QueueStorageError(f"the queue's file {path}: {error}") from error
        self._journal = QueueJournal(path, persist, self._clock)
        self._locked(self._load, self._journal.take_contents())

    def _load(self, contents: QueueContents) -> None:
        for rank, (item, deadline, row) in contents.entries:
            self._entries.add((item,), rank, deadline, (row,))
        self._entries.expired += contents.expired

    # Handing out

    def dequeue(self) -> Any:
        """Hand out the next item for good: `take` and `confirm` in one.

        Returns:
            The item, or None if nothing is waiting.

        Raises:
            QueueStorageError: it cannot be taken from the file; it is still there.
        """
        entries = self._pop(1)
        return entries[0] if entries else None

    def clear(self) -> list[Any]:
        """Drop all that waits; what is taken stays with its consumer, who confirms or restores.

        Returns:
            What was dropped, in the order in which it would have gone out.

        Raises:
            QueueStorageError: as for `dequeue`.
        """
        return self._pop(None)

    def discard(self, items: Iterable[Any]) -> list[Any]:
        """Drop those of the items that wait: nobody wants them any more.

        Args:
            items: The very objects that were put in; equal ones do not count.

        Returns:
            Those that were dropped. The others are taken, or were never here.

        Raises:
            InvalidStateError: The queue is closed.
        """
        entries = self._locked(self._entries.discard, items)
        if self._journal is not None:
            self._journal.forget(entries)
        return [entry[0] for entry in entries]

    def _pop(self, limit: int | None) -> list[Any]:
        if limit is None:
            entries = self._locked(self._entries.clear)
        else:
            entries = self._locked(self._entries.pop, limit)
        if self._journal is not None:
            try:
                self._journal.delete(entries)
            except BaseException:
                self._locked(self._return, entries)
                raise
        self.deliver_signals()
        return [entry[0] for entry in entries]

    def take(self) -> Any:
        """Hand out the next item, and keep it until it is confirmed.

        Returns:
            The item, or None if nothing is waiting.
        """
        items = self.take_many(1)
        return items[0] if items else None

    def take_many(
        self,
        limit: int,
        max_bytes: int | None = None,
        *,
        max_first: int | None = None,
        number: int | None = None,
    ) -> list[Any]:
        """Hand out the next items, and keep them until they are confirmed.

        Args:
            limit: How many at most.
            max_bytes: How long they may be together, counted as for `waiting_bytes`; items that
                are neither str nor bytes-like count nothing. The first alone may be longer.
            max_first: How long that one may be, or none is handed out; None: however long.
            number: The first item's number in a session; the next ones get the following. On file
                that is committed before the call returns.

        Returns:
            The items in order; none if nothing is waiting, or the next is longer than `max_first`.

        Raises:
            ValueError: `limit` is less than 1.
            QueueStorageError: the numbers cannot be written to the file; nothing was taken.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        entries = self._locked(self._entries.take, limit, max_bytes, max_first)
        if number is not None and entries and self._journal is not None:
            try:
                self._journal.number(number, entries)
            except BaseException:
                self._locked(self._untake, len(entries))
                raise
        return [entry[0] for entry in entries]

    def confirm(self, count: int = 1) -> None:
        """Forget the oldest taken items: they are done.

        Args:
            count: How many.

        Raises:
            ValueError: so many are not taken; nothing was confirmed.
        """
        entries = self._locked(self._entries.confirm, count)
        if self._journal is not None:
            self._journal.forget(entries)

    def restore(self) -> None:
        """Put all items that are taken but not confirmed back, in their order, before all others.

        Those that have expired meanwhile are dropped and counted.
        """
        entries = self._locked(self._untake, None)
        if self._journal is not None:
            self._journal.forget_numbers(entries)

    def _untake(self, count: int | None) -> list[Entry]:
        entries = self._entries.untake(count)
        self._expire()
        return entries

    def _return(self, entries: Sequence[Entry]) -> None:
        self._entries.put_in_front(entries)
        self._expire()

    def _expire(self) -> None:
        """Look what has expired of what came back, and what is the next to expire."""
        self._entries.expire(self._clock.monotonic())
        self._note_expired()
        self._wake()  # even without room: who waits has to know the next expiry

    # For a session, which keeps what it has numbered

    def hand_over(self, count: int) -> None:
        """Forget the oldest taken items in memory: the session keeps them. On file they stay.

        Args:
            count: How many.

        Raises:
            ValueError: so many are not taken.
        """
        self._locked(self._entries.confirm, count)

    def record_number(self, number: int) -> None:
        """Note on file that a session has given this number to what never was in the queue.

        Without that, a process that goes on with the session would give it again, and the peer
        would take what has it for something that it had already.

        Args:
            number: The last number given.

        Raises:
            QueueStorageError: it cannot be written to the file.
        """
        if self._journal is not None:
            self._journal.number(number + 1, ())

    def acknowledge(self, number: int) -> None:
        """Take from the file what the peer has acknowledged. Does not raise.

        Args:
            number: The number of the last item that it has acknowledged.
        """
        if self._journal is not None:
            self._journal.acknowledge(number)

    def put_back(self, items: Sequence[Any], numbers: Sequence[int]) -> None:
        """Take back what a lost session had numbered and never written: it goes before all others.

        It is accepted above the bound too. Its expiry counts again if it is on file; else it is
        not known any more.

        Args:
            items: The items in their order.
            numbers: The number that each of them had.
        """
        if self._journal is None:
            entries = [(item, NEVER, NO_ROW) for item in items]
        else:
            entries = self._journal.put_back(items, numbers)
        self._locked(self._return, entries)

    def save_session(self, server: str, ticket: Ticket) -> None:
        """Keep on file what another process needs to go on with a session that was opened.

        Args:
            server: The address of the server, for whom alone the ticket is.
            ticket: The session's. It holds the token: the file is for its owner's eyes only.
        """
        if self._journal is not None:
            self._journal.save_session(server, ticket)

    def forget_session(self) -> None:
        """The session is over: take it from the file, and all that still has a number in it."""
        if self._journal is not None:
            self._journal.forget_session()

    def saved_session(self) -> SavedSession | None:
        """The session that the file held when the queue was opened, with its messages.

        None once it goes on here (`acknowledge`), is forgotten or replaced.
        """
        return None if self._journal is None else self._journal.saved_session()

    # The file

    @property
    def path(self) -> str | None:
        """The file, as an absolute path; None: there is none."""
        return None if self._journal is None else self._journal.path

    @property
    def persist(self) -> Literal["all", "high"]:
        """What goes on file."""
        return "all" if self._journal is None else self._journal.persist

    @property
    def is_durable(self) -> bool:
        """Whether there is a file: then nothing may be sent that the queue has not accepted."""
        return self._journal is not None

    @property
    def skipped(self) -> int:
        """How many damaged records were left out when the file was opened."""
        return 0 if self._journal is None else self._journal.skipped

    def close(self) -> None:
        """Give the file back. What the queue holds can still be looked at, but not changed.

        To change it raises `InvalidStateError` from now on. Harmless to repeat.
        """
        with self._lock:
            self._entries = ClosedEntries(self._entries)
            for waiter in self._waiters:
                waiter.interrupted = True
            self._wake()
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> RequestQueue:
        """The queue itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the queue; in a forked child, leave it to the parent."""
        if not is_inherited(self):
            self.close()

    def leave_to_parent(self) -> None:
        """This is a forked child now: the file is the parent's, and so are those who wait.

        What is in memory alone is the child's as well.
        """
        if self._journal is not None:
            disown(self)
        else:
            self._waiters, self._due = [], None
