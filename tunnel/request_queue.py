"""Work that waits for the link: bounded, in order, and never dropped in silence.

Rules
-----

Items leave in the order high, normal, low priority, first in first out within one (requirement
5.2). A consumer that may fail *takes* items and *confirms* them when they are done; until then the
queue keeps them, and `restore` puts them back in front of everything else, so that a message whose
write failed is the first to go out on the next connection, whatever its priority.

What is taken still fills the queue until it is confirmed. A full queue refuses (requirement 5.4);
it never drops. Only `adopt`, which registers what is already half out, and `enqueue_beyond` may go
past the bound. The one way an item leaves without being handed out is its own expiry, and that is
counted in `expired`. Expiry counts while an item waits; one that was taken is the consumer's, and
is judged again on `restore`.

Backpressure (requirement 5.3) is signalled when at least 80 % of the bound is in use, and again
when it is less. There is no second, lower threshold: what a subscriber was told last is what holds.

Every method may be called from any thread. `take`, `confirm`, `restore` and `adopt` are meant for
one consumer, because `confirm` counts from the oldest that was taken; several consumers use
`dequeue`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, TypeVar

from tunnel.backpressure import Backpressure, BackpressureSignal
from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import QueueFullError
from tunnel.queue_entries import NEVER, PUT_BACK, QueueEntries

__all__ = ["BackpressureSignal", "RequestPriority", "RequestQueue"]

_R = TypeVar("_R")


class RequestPriority(str, Enum):
    """How urgent an item is (requirement 5.2): interactive, batch or background work."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    # Equal strings have equal hashes, as everywhere; and it spares a Python call at each look-up.
    __hash__ = str.__hash__


_RANKS = {priority: rank for rank, priority in enumerate(RequestPriority, start=PUT_BACK + 1)}


class RequestQueue:
    """A bounded queue with priorities and expiry; see the module's text for its rules.

    Args:
        max_size: How many items may be held, those taken but not confirmed included.
        clock: Judges expiry and does the waiting; the system's if not given.

    Raises:
        ValueError: `max_size` is less than 1.
        TypeError: `max_size` is not an integer.
    """

    def __init__(self, max_size: int = 100, *, clock: Clock | None = None) -> None:
        self._clock = SYSTEM_CLOCK if clock is None else clock
        # The lock guards all that follows. Callbacks and the log are called without it; setting an
        # event is neither, and happens with it.
        self._lock = threading.Lock()
        self._max_size = _checked_bound(max_size)
        self._entries = QueueEntries()
        self._backpressure = Backpressure(self._lock, max_size)
        self._waiters: list[_Waiter] = []

    def __repr__(self) -> str:
        """For example ``<RequestQueue 3 of 100, 1 taken>``."""
        with self._lock:
            held, taken = self._entries.held(), len(self._entries.taken)
        return f"<RequestQueue {held} of {self._max_size}, {taken} taken>"

    # Putting in

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
        """
        rank, deadline = self._admission((item,), priority, expires_in)
        if not self._locked(self._add, (item,), rank, deadline):
            raise self.refusal((item,), priority)

    def enqueue_many(
        self,
        items: Iterable[Any],
        priority: RequestPriority = RequestPriority.NORMAL,
        expires_in: float | None = None,
    ) -> int:
        """Put in as many of the items as fit, in order and with nothing in between.

        Args:
            items: The items; an iterator is read to its end first.
            priority: As for `enqueue`.
            expires_in: As for `enqueue`.

        Returns:
            How many were accepted: the first so many. The caller decides about the rest; `refusal`
            makes the error.

        Raises:
            TypeError, ValueError: an argument is wrong; the queue is untouched.
        """
        if isinstance(items, (str, bytes, bytearray, memoryview)):
            raise TypeError(f"items must be several items, not one {type(items).__name__}")
        several = items if isinstance(items, (list, tuple)) else tuple(items)
        rank, deadline = self._admission(several, priority, expires_in)
        return self._locked(self._add, several, rank, deadline)

    def adopt(
        self,
        item: Any,
        priority: RequestPriority = RequestPriority.NORMAL,
        expires_in: float | None = None,
    ) -> None:
        """Register an item as taken that never was in a line: its writing has begun.

        It is accepted above the bound too, because it can be refused no more.

        Args:
            item: As for `enqueue`.
            priority: As for `enqueue`.
            expires_in: As for `enqueue`.

        Raises:
            TypeError, ValueError: an argument is wrong; the queue is untouched.
        """
        _, deadline = self._admission((item,), priority, expires_in)
        self._locked(self._entries.adopt, item, deadline)

    def enqueue_beyond(
        self,
        item: Any,
        priority: RequestPriority = RequestPriority.NORMAL,
        expires_in: float | None = None,
    ) -> None:
        """Put an item in past the bound: for a caller who cannot wait, and keeps a bound himself.

        Args:
            item: As for `enqueue`.
            priority: As for `enqueue`.
            expires_in: As for `enqueue`.

        Raises:
            TypeError, ValueError: an argument is wrong; the queue is untouched.
        """
        rank, deadline = self._admission((item,), priority, expires_in)
        self._locked(self._entries.add, (item,), rank, deadline)

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

    def _add(self, items: Sequence[Any], rank: int, deadline: float) -> int:
        room = self._max_size - self._entries.held()
        if len(items) > room:
            items = items[: max(0, room)]
        self._entries.add(items, rank, deadline)
        return len(items)

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

    # Handing out

    def dequeue(self) -> Any:
        """Hand out the next item for good: `take` and `confirm` in one.

        Returns:
            The item, or None if nothing is waiting.
        """
        entries = self._locked(self._entries.pop, 1)
        return entries[0][0] if entries else None

    def take(self) -> Any:
        """Hand out the next item, and keep it until it is confirmed.

        Returns:
            The item, or None if nothing is waiting.
        """
        items = self.take_many(1)
        return items[0] if items else None

    def take_many(self, limit: int, max_bytes: int | None = None) -> list[Any]:
        """Hand out the next items, and keep them until they are confirmed.

        Args:
            limit: How many at most.
            max_bytes: How long they may be together, by `len` of a str or bytes-like item; others
                count nothing. The first item is handed out however long it is.

        Returns:
            The items in order; none if nothing is waiting.

        Raises:
            ValueError: `limit` is less than 1.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        entries = self._locked(self._entries.take, limit, max_bytes)
        return [item for item, _ in entries]

    def confirm(self, count: int = 1) -> None:
        """Forget the oldest taken items: they are done.

        Args:
            count: How many.

        Raises:
            ValueError: so many are not taken; nothing was confirmed.
        """
        self._locked(self._entries.confirm, count)

    def restore(self) -> None:
        """Put all items that are taken but not confirmed back, in their order, before all others.

        Those that have expired meanwhile are dropped and counted.
        """
        self._locked(self._restore)

    def _restore(self) -> None:
        self._entries.put_back()
        self._entries.expire(self._clock.monotonic())
        self._wake()  # even without room: what was put back may be the next to expire

    # Looking, and taking away

    def snapshot(self) -> tuple[Any, ...]:
        """All that is not done, in the order in which it would go out: the taken first."""
        return tuple(item for item, _ in self._locked(self._entries.all))

    def clear(self) -> list[Any]:
        """Drop all that waits; what is taken stays with its consumer, who confirms or restores.

        Returns:
            What was dropped, in the order in which it would have gone out.
        """
        return [item for item, _ in self._locked(self._entries.clear)]

    def resize(self, max_size: int) -> None:
        """Change the bound. Nothing is dropped: a queue above its bound refuses until it is below.

        Args:
            max_size: As for the class.

        Raises:
            TypeError, ValueError: as for the class; the bound is unchanged.
        """
        self._locked(self._set_bound, _checked_bound(max_size))

    @property
    def max_size(self) -> int:
        """How many items may be held."""
        return self._max_size

    @property
    def size(self) -> int:
        """How many items are held: waiting, or taken and not confirmed."""
        return self._locked(self._entries.held)

    @property
    def waiting(self) -> int:
        """How many items wait to be taken. Cheap while no item with an expiry is held."""
        if self._entries.next_expiry != NEVER:
            self._locked(self._entries.held)
        return self._entries.waiting

    @property
    def waiting_bytes(self) -> int:
        """How long those are together, by `len` of a str or bytes-like item."""
        return self._entries.waiting_bytes

    @property
    def expired(self) -> int:
        """How many items were dropped so far because they had expired."""
        self._locked(self._entries.held)
        return self._entries.expired

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return self.waiting == 0

    @property
    def is_full(self) -> bool:
        """Whether an item would be refused now."""
        return self.size >= self._max_size

    @property
    def fill(self) -> float:
        """The part of the bound that is in use, 0 to 1."""
        return min(1.0, self.size / self._max_size)

    # Waiting

    def wait_for_room(
        self, timeout: float | None = None, *, unless: Callable[[], bool] | None = None
    ) -> bool:
        """Wait until an item would be accepted. All who wait are woken; the quickest gets the room.

        Args:
            timeout: How many seconds to wait at most; None: for ever, 0: not at all.
            unless: Asked before each wait, without the lock; if it is true there is no waiting.
                Whoever makes it true and then calls `interrupt` ends every wait, also one that is
                only about to begin.

        Returns:
            True: there is room now. False: the time was up, or the wait was interrupted.
        """
        return self._wait_until(
            lambda: self._entries.held() < self._max_size, timeout, unless, is_for_room=True
        )

    def wait_until_empty(self, timeout: float | None = None) -> bool:
        """Wait until nothing is held any more: all is confirmed, dropped or expired.

        Args:
            timeout: As for `wait_for_room`; `interrupt` does not end this wait.

        Returns:
            Whether the queue was empty in time.
        """
        return self._wait_until(lambda: self._entries.held() == 0, timeout, is_for_room=False)

    def _wait_until(
        self,
        condition: Callable[[], bool],
        timeout: float | None,
        unless: Callable[[], bool] | None = None,
        *,
        is_for_room: bool,
    ) -> bool:
        deadline = NEVER if timeout is None else self._clock.monotonic() + timeout
        waiter = _Waiter(condition, is_for_room)
        with self._lock:
            self._waiters.append(waiter)
        try:
            while not self._locked(self._look, waiter):
                if waiter.interrupted or (unless is not None and unless()):
                    return False
                now = self._clock.monotonic()
                if now >= deadline:
                    return False
                pause = max(0.0, min(deadline, waiter.next_expiry) - now)
                self._clock.wait(
                    waiter.event, None if pause == NEVER else min(pause, threading.TIMEOUT_MAX)
                )
            return True
        finally:
            with self._lock:
                self._waiters.remove(waiter)

    def _look(self, waiter: _Waiter) -> bool:
        # Cleared under the lock that guards what is looked at: a later wake-up is not lost.
        waiter.event.clear()
        waiter.next_expiry = self._entries.next_expiry
        return waiter.condition()

    def interrupt(self) -> None:
        """End the waits for room that are under way, as when the link is lost."""
        with self._lock:
            for waiter in self._waiters:
                waiter.interrupted = waiter.is_for_room
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.event.set()

    # Backpressure

    def subscribe(self, callback: Callable[[BackpressureSignal], object]) -> Callable[[], None]:
        """Be told when the queue becomes at least 80 % full, and when it is not any more.

        The callback runs without the lock, in the thread whose call made the difference or in one
        that was delivering already; signals arrive in order, one at a time. What it raises is
        logged.

        Args:
            callback: Called with each signal.

        Returns:
            A function that ends the subscription; a signal on its way may still arrive.
        """
        return self._backpressure.subscribe(callback)

    def _set_bound(self, max_size: int) -> None:
        self._max_size = max_size
        self._backpressure.set_bound(max_size)

    def _locked(self, operation: Callable[..., _R], *args: Any) -> _R:
        """Drop what has expired, run an operation under the lock, then tell whoever has to know."""
        entries, backpressure = self._entries, self._backpressure
        with self._lock:
            if entries.next_expiry != NEVER:
                now = self._clock.monotonic()
                if now >= entries.next_expiry:
                    entries.expire(now)
            result = operation(*args)
            held = entries.waiting + len(entries.taken)
            if (held >= backpressure.threshold) is not backpressure.is_on:
                backpressure.turn(held)
            for waiter in self._waiters:
                if waiter.condition():
                    waiter.event.set()
        if backpressure.pending:
            backpressure.deliver()
        return result


class _Waiter:
    """One thread that waits. Its fields are guarded by the queue's lock."""

    __slots__ = ("condition", "event", "interrupted", "is_for_room", "next_expiry")

    def __init__(self, condition: Callable[[], bool], is_for_room: bool) -> None:
        self.condition = condition  # needs the lock
        self.is_for_room = is_for_room
        self.event = threading.Event()
        self.interrupted = False
        self.next_expiry = NEVER


def _checked_bound(max_size: Any) -> int:
    if not isinstance(max_size, int) or isinstance(max_size, bool):
        raise TypeError(f"max_size must be an integer, not {max_size!r}")
    if max_size < 1:
        raise ValueError(f"max_size must be at least 1, not {max_size}")
    return max_size


def _described(item: Any) -> str:
    """What it is, without its contents: they may be secret, and go to logs."""
    if isinstance(item, str):
        return f"a text of {len(item)} characters"
    if isinstance(item, (bytes, bytearray, memoryview)):
        return f"a message of {len(item)} bytes"
    return f"an item of type {type(item).__name__}"
