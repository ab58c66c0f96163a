"""What a request queue is before anything goes in or out: its lock, its bound, and who watches it.

`tunnel.request_queue` has the rules, and adds what changes the queue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tunnel.backpressure import Backpressure, BackpressureSignal
from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.forks import is_inherited
from tunnel.interruptible import Event
from tunnel.queue_entries import NEVER, QueueEntries

if TYPE_CHECKING:
    from tunnel.queue_journal import QueueJournal

_R = TypeVar("_R")

_MOST_INTERRUPTIONS = 100  # more are none; a thread must not go round for ever


class QueueCore:
    """Looking at a queue, waiting for it to change, and being told that it fills up.

    Args:
        max_size: How many items may be held, those taken but not confirmed included.
        clock: Judges expiry and does the waiting; the system's if not given.
    """

    def __init__(self, max_size: int, clock: Clock | None) -> None:
        self._clock = SYSTEM_CLOCK if clock is None else clock
        # The lock guards all that follows. Callbacks, the log and the file are called without it;
        # setting an event is none of these, and happens with it.
        self._lock = threading.Lock()
        self._max_size = _checked_bound(max_size)
        self._entries = QueueEntries()
        self._backpressure = Backpressure(self._lock, max_size)
        self._waiters: list[_Waiter] = []
        # One of them, a sender that was woken and has not come back: others may rely on it.
        self._due: _Waiter | None = None
        # What the queue keeps on file, if it does; it has a lock of its own, taken after this one.
        self._journal: QueueJournal | None = None
        # Of the service that sends what is queued; see `bind`.
        self._check: Callable[[object], object] | None = None
        self._signal_soon: Callable[[], object] | None = None
        self._is_signal_due = False

    def __repr__(self) -> str:
        """For example ``<RequestQueue 3 of 100, 1 taken>``."""
        if is_inherited(self):
            return f"<{type(self).__name__} of another process>"
        with self._lock:
            held, taken = self._entries.held(), len(self._entries.taken)
        return f"<{type(self).__name__} {held} of {self._max_size}, {taken} taken>"

    # Looking

    def snapshot(self) -> tuple[Any, ...]:
        """All that is not done, in the order in which it would go out: the taken first."""
        return tuple(entry[0] for entry in self._locked(self._entries.all))

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
        """How many bytes those are together at most, on the wire.

        Exact for bytes-like items and ASCII texts; another text counts four bytes a character.
        """
        return self._entries.waiting_bytes

    @property
    def next_length(self) -> int | None:
        """How many bytes the item has at most that would be handed out next; None: there is none.

        Counted as for `waiting_bytes`.
        """
        return self._locked(self._entries.next_length)

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
        return self._locked(self._entries.used) >= self._max_size

    @property
    def fill(self) -> float:
        """The part of the bound that is in use, 0 to 1."""
        return min(1.0, self.size / self._max_size)

    def resize(self, max_size: int) -> None:
        """Change the bound. Nothing is dropped: a queue above its bound refuses until it is below.

        Args:
            max_size: As for the class.

        Raises:
            TypeError, ValueError: as for the class; the bound is unchanged.
        """
        self._locked(self._set_bound, _checked_bound(max_size))
        self.deliver_signals()

    def _set_bound(self, max_size: int) -> None:
        self._max_size = max_size
        self._backpressure.set_bound(max_size)

    # Waiting

    def wait_for_room(
        self, timeout: float | None = None, *, unless: Callable[[], bool] | None = None
    ) -> bool:
        """Wait until an item would be accepted. Those who wait are woken one after the other.

        First who has waited longest; and the next as soon as that one does not wait any more and
        there still is room. Somebody who did not wait may take it before them.

        Args:
            timeout: How many seconds to wait at most; None: for ever, 0: not at all.
            unless: Asked before each wait, without the lock; if it is true there is no waiting.
                Whoever makes it true and then calls `interrupt` ends every wait, also one that is
                only about to begin.

        Returns:
            True: there is room now. False: the time was up, the wait was interrupted, or the queue
            is closed.
        """
        return self._wait_until(_Waiter(self._has_room, is_for_room=True), timeout, unless)

    @property
    def due_sender(self) -> object:
        """Whose wait in `wait_to_send` is about to end; None: nobody's."""
        due = self._due
        return None if due is None else due.sender

    def wait_to_send(
        self,
        sender: object,
        timeout: float | None,
        unless: Callable[[], bool] | None = None,
    ) -> bool:
        """The same for a sender. It may return without room: then somebody has to write.

        While it is about to return, others who put something in for the same sender rely on it to
        see that that is written (`put`). So it has to do that before it does anything else.

        Args:
            sender: Who sends: what stands for one link, and is the same object in all threads.
            timeout: As for `wait_for_room`.
            unless: As for `wait_for_room`.
        """
        return self._wait_until(
            _Waiter(self._has_room, is_for_room=True, sender=sender), timeout, unless
        )

    def _has_room(self) -> bool:
        return self._entries.used() < self._max_size

    def wait_until_empty(self, timeout: float | None = None) -> bool:
        """Wait until nothing is held any more: all is confirmed, dropped or expired.

        Args:
            timeout: As for `wait_for_room`; `interrupt` does not end this wait.

        Returns:
            Whether the queue was empty in time.
        """
        return self._wait_until(_Waiter(lambda: self._entries.held() == 0), timeout)

    def _wait_until(
        self,
        waiter: _Waiter,
        timeout: float | None,
        unless: Callable[[], bool] | None = None,
    ) -> bool:
        try:
            return self._stand_in_line(waiter, timeout, unless)
        finally:
            try:
                self._leave(waiter)
            except BaseException:  # Ctrl-C, perhaps; others rely on who waits
                for _ in range(_MOST_INTERRUPTIONS):  # also if somebody is impatient
                    with suppress(BaseException):
                        self._leave(waiter)
                        break
                raise

    def _stand_in_line(
        self, waiter: _Waiter, timeout: float | None, unless: Callable[[], bool] | None
    ) -> bool:
        deadline = NEVER if timeout is None else self._clock.monotonic() + timeout
        with self._lock:
            waiter.interrupted = self._entries.is_closed  # nothing will come to it
            self._waiters.append(waiter)
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

    def _leave(self, waiter: _Waiter) -> None:
        """It waits no more; harmless to repeat."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if waiter is self._due:
                self._due = None
            self._wake_ready()  # it may have been woken, and leave room for others

    def _look(self, waiter: _Waiter) -> bool:
        # Cleared under the lock that guards what is looked at: a later wake-up is not lost.
        waiter.event.clear()
        waiter.next_expiry = self._entries.next_expiry
        # Who is due goes on in any case, and must not fall asleep: others rely on it, or on being
        # woken after it.
        return waiter is self._due or waiter.condition()

    def interrupt(self) -> None:
        """End the waits for room that are under way, as when the link is lost."""
        with self._lock:
            for waiter in self._waiters:
                waiter.interrupted = waiter.is_for_room
            self._wake()

    def _wake_ready(self) -> None:
        """Wake who has waited longest for room, if there is some, and all who wait for the end.

        One for room is enough: woken all at once, they would find the queue full again but for the
        quickest. Needs the lock.
        """
        entries, due = self._entries, self._due
        if due is not None:
            due.event.set()  # again: an interruption may have come before the first time
        is_room_given = due is not None
        for waiter in self._waiters:
            if waiter.next_expiry > entries.next_expiry:  # it would sleep too long
                waiter.event.set()
            if not (is_room_given and waiter.is_for_room) and waiter.condition():
                if waiter.sender is not None:
                    self._due = waiter
                waiter.event.set()
                is_room_given = is_room_given or waiter.is_for_room

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.event.set()

    # Backpressure

    def subscribe(self, callback: Callable[[BackpressureSignal], object]) -> Callable[[], None]:
        """Be told when the queue becomes at least 80 % full, and when it is not any more.

        The callback runs without the lock, in the thread whose call made the difference or in one
        that was delivering already; signals arrive in order, one at a time. What it raises is
        logged. If a service sends what is queued, only calls that put something in or take it out
        for good make their own thread deliver; else it is the tunnel's, as with all callbacks.

        Args:
            callback: Called with each signal.

        Returns:
            A function that ends the subscription; a signal on its way may still arrive.
        """
        return self._backpressure.subscribe(callback)

    def bind(self, check: Callable[[object], object], signal_soon: Callable[[], object]) -> None:
        """From now on a service sends what is queued. For the service; the last one counts.

        Args:
            check: Called with each item that somebody else puts in; raises if it cannot be sent.
            signal_soon: Called when subscribers have to be told something, by whatever thread; has
                `deliver_signals` called where callbacks may take their time. Whoever writes must
                not wait for a subscriber.
        """
        self._check, self._signal_soon = check, signal_soon

    def deliver_signals(self) -> None:
        """Call the subscribers, if there is something to tell them."""
        self._is_signal_due = False
        if self._backpressure.pending:
            self._backpressure.deliver()

    def _locked(self, operation: Callable[..., _R], *args: Any) -> _R:
        """Drop what has expired, run an operation under the lock, then tell whoever has to know."""
        entries, backpressure = self._entries, self._backpressure
        with self._lock:
            if entries.next_expiry != NEVER:
                now = self._clock.monotonic()
                if now >= entries.next_expiry:
                    entries.expire(now)
                    self._note_expired()
            try:
                result = operation(*args)
            except BaseException:  # Ctrl-C, perhaps, in the midst of it
                entries.recount()
                raise
            held = entries.waiting + len(entries.taken)
            if (held >= backpressure.threshold) is not backpressure.is_on:
                backpressure.turn(held)
            if self._waiters:
                self._wake_ready()
        if backpressure.pending:
            self._signal()
        return result

    def _signal(self) -> None:
        if self._signal_soon is None:
            self._backpressure.deliver()
        elif not self._is_signal_due:
            self._is_signal_due = True
            self._signal_soon()

    def _note_expired(self) -> None:
        """Needs the lock. What has expired is useless on file, too."""
        rows, self._entries.expired_rows = self._entries.expired_rows, []
        if self._journal is not None and rows:
            self._journal.forget_later(rows)


class _Waiter:
    """One thread that waits. Its fields are guarded by the queue's lock."""

    __slots__ = ("condition", "event", "interrupted", "is_for_room", "next_expiry", "sender")

    def __init__(
        self,
        condition: Callable[[], bool],
        *,
        is_for_room: bool = False,
        sender: object = None,
    ) -> None:
        self.condition = condition  # needs the lock
        self.is_for_room = is_for_room
        self.sender = sender
        self.event = Event()
        self.interrupted = False
        self.next_expiry = NEVER


def _checked_bound(max_size: Any) -> int:
    if not isinstance(max_size, int) or isinstance(max_size, bool):
        raise TypeError(f"max_size must be an integer, not {max_size!r}")
    if max_size < 1:
        raise ValueError(f"max_size must be at least 1, not {max_size}")
    return max_size
