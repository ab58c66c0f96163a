"""The client's end of a session in use: what its threads do to it, under one lock.

The channel stands between the queue and the wire. A message gets its number when it leaves the
queue for the wire, and from then on the session keeps it, not the queue; what the session has no
room for stays in the queue, where senders wait. Which session there is, and what becomes of it when
it is lost, is `tunnel.session_keeper`'s business.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import takewhile
from typing import Any, cast

from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import QueueStorageError
from tunnel.interruptible import Condition
from tunnel.log_context import LogContext
from tunnel.metrics_collector import MetricsCollector
from tunnel.outbox import Message
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.session import Item, Loss, Session
from tunnel.session_frames import Parcel, SessionViolation
from tunnel.session_lifecycle import SessionState
from tunnel.timers import timers_of

_MESSAGES = frozenset({str, bytes})
_NOTHING: deque[Any] = deque(maxlen=0)  # for all that have no session: each takes 0.7 KiB
_RETRY_DELAY = 1.0
"""Seconds before numbers that could not be written to the queue's file are given again."""


class SessionChannel:
    """Numbers what goes out and unwraps what comes in, over any number of links.

    Safe to use from any thread, as the methods say.

    Args:
        queue: Where messages wait for their number.
        metrics: Counts what was written.
        on_answer: Called with each answer to a request, by the reading thread; it raises
            `SessionViolation` if it is none.
        on_settled: Called when nothing is unacknowledged any more, by the reading thread.
        on_retry: Called when it is time to write again, after the queue's file could not be.
        clock: Measures the time until then.
        log_context: What its log lines carry; None: nothing.

    Attributes:
        session: The present session; None while there is none.
        delivered_before: What the delivery had got before the session's first message.
        losses: How often something unacknowledged was lost.
        returns: How often a lost session has given back to the queue what was never written. While
            it stays the same, messages only go from the queue to the session.
    """

    def __init__(
        self,
        queue: RequestQueue,
        metrics: MetricsCollector,
        *,
        on_answer: Callable[[Parcel], None],
        on_settled: Callable[[], None],
        on_retry: Callable[[], None] = lambda: None,
        clock: Clock = SYSTEM_CLOCK,
        log_context: LogContext | None = None,
    ) -> None:
        self._clock = clock
        self._log_context = LogContext() if log_context is None else log_context
        self._on_retry = on_retry
        self._retry_at: float | None = None  # numbers could not be written down; not before this
        self._queue = queue
        self._metrics = metrics
        self._on_answer = on_answer
        self._on_settled = on_settled
        # Guards the session and the fields below. The queue is never called with it held.
        self._lock = threading.Lock()
        self._settled = Condition(self._lock)
        # What goes before the queue: what the application says first on a new link, and CANCELs.
        # Each is in a tuple of its own, so that it can be told from an equal one.
        self._first: deque[tuple[Message]] = _NOTHING
        # While one of them gets its number: which, and the last number before.
        self._moving: tuple[tuple[Message], int] | None = None
        self._words: deque[int] = _NOTHING  # the numbers of the application's first words
        self._asides: deque[int] = _NOTHING  # the numbers of what is no message, and not written
        self._is_asking = False  # the batch that is being written is an ASK
        self._taken = 0  # as far as the session was told
        self.losses = self.returns = 0
        self._returning = 0  # messages on their way back to the queue
        self._before_take: int | None = None  # the last number, while messages are in between
        self._replayed = self._duplicates = 0  # of the sessions before this one
        self._is_ended = False  # the peer was told so: nothing is numbered any more
        self.session: Session | None = None
        self.delivered_before = 0

    def carry(self, session: Session | None, delivered_before: int = 0) -> None:
        """From now on it is this session, or none. For the tunnel's thread, without a link."""
        with self._lock:
            self._let_go()
            if session is not None:
                self._first, self._words, self._asides = deque(), deque(), deque()
            self.session = session
            self._taken = 0
            self.delivered_before = delivered_before

    def lose(self, reason: str) -> Loss:
        """Carry no session any more, without a link.

        Messages that were never written are the first in the queue again; unless the application
        said them first on a link, since on the next one it speaks again. Those are handed back with
        what is unacknowledged; and so are all, if the queue cannot take them back.
        """
        with self._lock:
            loss = self._live.lose(reason)
            _hand_back_words(loss, self._words)
            loss.unacknowledged += (message for (message,) in self._first)
            _drop_parcels(loss)
            self._returning = len(loss.unwritten)
            self._let_go()
        try:
            self._queue.put_back(loss.unwritten, loss.unwritten_numbers)
        except Exception as error:
            log = self._log_context.logger
            log.error("what was never written cannot return to the queue: {}", error)
            loss.unacknowledged += loss.unwritten
            loss.unwritten, loss.unwritten_numbers = [], []
        finally:
            with self._lock:
                self.losses += bool(loss.unacknowledged)
                self._returning = 0
                self.returns += 1
                self._settled.notify_all()
        return loss

    def _let_go(self) -> None:
        """Needs the lock."""
        if self.session is not None:
            self._replayed += self.session.replayed
            self._duplicates += self.session.duplicates
        self.session = None
        self._is_ended = False
        self._first = self._words = self._asides = _NOTHING

    # What the outbox asks, by whoever has the write role; see `tunnel.outbox.Source`

    @property
    def waiting(self) -> int:
        """Whether anything can be written now: to be replayed, or waiting with room for it.

        Without the write role the answer may be wrong at once, and on a link that is over it is.
        """
        session = self.session
        if session is None or session.peer_limits is None or self._is_ended:
            return 0
        if session.has_replay:
            return 1
        if not (self._first or self._queue.waiting):  # the common case, and asked for each message
            return 0
        if self._retry_at is not None and self._clock.monotonic() < self._retry_at:
            return 0
        if self._first:
            with self._lock:  # whoever writes may be about to take it
                if self._first:
                    return self._can_go(session, _length(self._first[0][0]))
        if not self._queue.waiting:
            return 0
        length = self._queue.next_length
        return 0 if length is None else self._can_go(session, length)

    def _can_go(self, session: Session, length: int) -> int:
        """Whether there is room; or, if there is not, it can be asked for."""
        return int(session.has_room_for(length) or session.may_ask)

    def take_many(self, limit: int, max_bytes: int) -> Sequence[Message]:
        """The next frames: what has to be replayed, then what gets its number now."""
        session = self._live
        if not (session.has_replay or self._first or self._queue.waiting):
            return []  # asked after each batch; who adds something now has it looked at again
        with self._lock:
            if session.has_replay:
                return session.replay(limit, max_bytes)
            has_first = bool(self._first)
            if has_first and not session.has_room_for(_length(self._first[0][0])):
                return self._ask(session)
            messages, room = session.room()
            is_alone = session.unacknowledged == 0
        if self._is_ended:
            return []
        try:
            if has_first:
                return self._take_first(session)
            max_first = None if is_alone else room
            frames = self._take_from_queue(
                session, min(limit, messages), min(max_bytes, room), max_first
            )
        except QueueStorageError as error:
            self._put_off(error)
            return []
        if frames or not self._queue.waiting:
            return frames
        with self._lock:
            return self._ask(session)

    def _take_from_queue(
        self, session: Session, limit: int, max_bytes: int, max_first: int | None
    ) -> Sequence[Message]:
        if not limit:
            return []
        self._before_take = session.last_number
        items = self._queue.take_many(
            limit, max_bytes, max_first=max_first, number=session.last_number + 1
        )
        has_asides = not _MESSAGES.issuperset(map(type, items))
        with self._lock:
            if not has_asides:
                frames = session.send(items)
            else:
                wanted = _wanted(items)
                kinds = enumerate(map(type, wanted), session.last_number + 1)
                frames = session.send(wanted)
                self._asides += (number for number, kind in kinds if kind not in _MESSAGES)
        self._queue.hand_over(len(items))
        self._before_take = None
        return frames

    def _put_off(self, error: QueueStorageError) -> None:
        """Numbers cannot be written down, as on a full disk: nothing goes out for a while."""
        self._before_take = None  # nothing was taken
        self._log_context.logger.error(
            "messages cannot go out: {}; tried again in {:g} s", error, _RETRY_DELAY
        )
        self._retry_at = self._clock.monotonic() + _RETRY_DELAY
        timers_of(self._clock).call_at(self._retry_at, self._on_retry)

    def _take_first(self, session: Session) -> Sequence[Message]:
        self._queue.record_number(session.last_number + 1)  # it was in no queue, and so in no file
        with self._lock:
            entry = self._first[0]
            self._moving = entry, session.last_number
            frames = session.send(entry)
            self._note_first(entry, session.last_number)
            self._first.popleft()
            self._moving = None
            return frames

    def _note_first(self, entry: tuple[Message], number: int) -> None:
        """Needs the lock."""
        numbers = self._asides if isinstance(entry[0], Parcel) else self._words
        numbers.append(number)

    def _ask(self, session: Session) -> list[Message]:
        """What waits has no room: ask for acknowledgements, once. Needs the lock."""
        if not session.may_ask:
            return []
        self._is_asking = True
        return [session.ask()]

    def send_directly(self, message: Message) -> bytes | None:
        """Number a message past the queue; None if it has to wait. Needs the write role."""
        session = self.session
        assert session is not None
        if self._queue.waiting:  # without room, or it would be there no more
            return None
        is_aside = type(message) is Parcel
        with self._lock:
            if self._first or self._is_ended:
                return None
            if is_aside and not cast("Parcel", message).claim():
                return None
            frame = session.send_one(message)
            if is_aside and frame is not None:
                self._asides.append(session.last_number)
        return frame

    def adopt(self, message: Message, priority: RequestPriority, expires_in: float | None) -> None:
        """Nothing: what was written in part is numbered, and so it is kept."""

    def confirm(self, count: int) -> None:
        """Nothing: written is not acknowledged."""

    def note_written(self, count: int) -> None:
        """The oldest frames so far, so many, were written whole."""
        session = self.session
        assert session is not None
        with self._lock:
            if self._is_asking:  # that was a batch of its own, and has no number
                self._is_asking, count = False, count - 1
            fresh = session.confirm(count)
            if self._asides:
                fresh -= self._count_asides(session.written, fresh)
        if fresh:
            self._metrics.record_messages_sent(fresh)

    def _count_asides(self, written: int, fresh: int) -> int:
        """How many of the last frames that were written are no messages. Needs the lock."""
        count = 0
        while self._asides and self._asides[0] <= written:
            count += self._asides.popleft() > written - fresh
        return count

    def restore(self) -> None:
        """What was not written is replayed on the next link; what has no number yet returns.

        There only is such a thing if an exception, such as Ctrl-C, came in between. Then the
        session may also keep what it has not counted.
        """
        session = self._live
        with self._lock:
            self._is_asking = False
            session.recount()
            self._finish_moving(session)
        before, self._before_take = self._before_take, None
        if before is None or self._queue.size == self._queue.waiting:
            return
        numbered = session.last_number - before
        if numbered:  # and still in the queue's books, too
            self._queue.hand_over(numbered)
        self._queue.restore()

    def _finish_moving(self, session: Session) -> None:
        """What has got its number does not wait for one any more. Needs the lock."""
        moving, self._moving = self._moving, None
        if moving is None:
            return
        entry, before = moving
        if session.last_number > before and self._first and self._first[0] is entry:
            self._note_first(entry, session.last_number)
            self._first.popleft()

    # For the tunnel's thread

    def end(self) -> bytes | None:
        """The frame that ends the session for good; None: there is none, or it is needed still."""
        with self._lock:
            session = self.session
            if session is None or session.state != SessionState.ATTACHED or self._unsettled:
                return None
            self._is_ended = True
            return session.end()

    @property
    def is_ended(self) -> bool:
        """Whether `end` has ended the present session."""
        return self._is_ended

    def send_first(self, message: Message, session: Session | None) -> None:
        """Send before all that is queued; for the application's words on a new link.

        Dropped if `session` is not the present one any more.
        """
        with self._lock:
            if session is not None and session is self.session:
                self._first.append((message,))

    def cancel(self, parcel: Parcel) -> bool:
        """Send a CANCEL before all that is queued, and without room in the queue. Any thread.

        The REQUEST has its number already, so it comes before. With the session that goes, too.

        Returns:
            Whether it waits to be written now; False: there is nobody to be told.
        """
        with self._lock:
            if self.session is None or self._is_ended:
                return False
            self._first.append((parcel,))
            return True

    def receive(self, frames: Sequence[Message]) -> list[Message]:
        """Take what came through the link.

        Returns:
            The messages that are new, in order. `violation` says how the protocol was broken after
            them, if it was.
        """
        session = self.session
        assert session is not None
        with self._lock:
            before = session.acknowledged
            items = _received(session, frames)
            acknowledged = session.acknowledged
            is_settled = acknowledged != before and self._settle(acknowledged)
        if acknowledged != before:
            self._queue.acknowledge(acknowledged)
            if is_settled:
                self._on_settled()
        return self._without_answers(session, items) if Parcel in map(type, items) else items

    def _settle(self, acknowledged: int) -> bool:
        """More was acknowledged: returns whether nothing is unacknowledged now. Needs the lock."""
        while self._words and self._words[0] <= acknowledged:
            self._words.popleft()
        if self._unsettled:
            return False
        self._settled.notify_all()
        return True

    def _without_answers(self, session: Session, items: list[Item]) -> list[Item]:
        for item in items:
            if isinstance(item, Parcel) and session.violation is None:
                try:
                    self._on_answer(item)
                except SessionViolation as violation:
                    session.violation = violation
        return [item for item in items if not isinstance(item, Parcel)]

    # For any thread

    def acknowledgement(self, taken: int, *, is_late: bool) -> bytes | None:
        """The acknowledgement to write now, if one is due.

        Args:
            taken: How many messages the application has finished with, since the tunnel was made.
            is_late: Whether the time is up for whatever is untold.
        """
        session = self.session
        assert session is not None
        with self._lock:
            self._note_taken(session, taken)
            if session.is_acknowledgement_due or (is_late and session.has_untold):
                return session.acknowledgement()
        return None

    def position(self, taken: int) -> tuple[bytes, int] | None:
        """The session's id, and the number of the message in hand or else of the last one.

        While what is in hand came in an earlier session, nothing of this one counts as in hand,
        though it may have arrived.

        Args:
            taken: As for `acknowledgement`.
        """
        with self._lock:
            session = self.session
            if session is None or not session.id:
                return None
            self._note_taken(session, taken)
            is_in_hand = taken >= self.delivered_before and session.taken < session.received
            return session.id, session.taken + is_in_hand

    def _note_taken(self, session: Session, taken: int) -> None:
        count = taken - self.delivered_before - self._taken
        if count > 0:
            self._taken += count
            session.take(count)

    @property
    def has_untaken(self) -> bool:
        """Whether the application has not finished with all that was received. With a link."""
        session = self.session
        assert session is not None
        return session.taken < session.received

    @property
    def is_owing(self) -> bool:
        """Whether an acknowledgement is still to come, for what was taken or will be. So, too."""
        return self.has_untaken or self._live.has_untold

    @property
    def takes_until_due(self) -> int:
        """How many more messages have to be taken before an acknowledgement is due."""
        with self._lock:
            return self._live.takes_until_due

    @property
    def replayed(self) -> int:
        """How many frames were sent again, in all sessions."""
        with self._lock:
            return self._replayed + (self.session.replayed if self.session is not None else 0)

    @property
    def duplicates(self) -> int:
        """How many frames were dropped because they had been here, in all sessions."""
        with self._lock:
            return self._duplicates + (self.session.duplicates if self.session is not None else 0)

    @property
    def unacknowledged(self) -> int:
        """How many frames the peer has not acknowledged.

        Those that wait to be first are included, and those on their way back to the queue.
        """
        with self._lock:
            return self._unsettled

    def unacknowledged_messages(self) -> tuple[Message, ...]:
        """The messages among them, oldest first."""
        with self._lock:
            items = () if self.session is None else self.session.unacknowledged_items()
            first = (message for (message,) in self._first)
            return tuple(item for item in (*items, *first) if not isinstance(item, Parcel))

    def wait_until_settled(self, timeout: float | None) -> bool:
        """Wait until nothing is unacknowledged.

        Returns:
            Whether all was acknowledged; False: `timeout` seconds have passed, or it was lost.
        """
        losses = self.losses
        kept: list[bool] = []

        def is_settled() -> bool:
            if self._unsettled:
                return False
            kept.append(self.losses == losses)
            return True

        return self._settled.wait_for(is_settled, timeout) and kept[0]

    @property
    def _unsettled(self) -> int:
        """Needs the lock."""
        numbered = 0 if self.session is None else self.session.unacknowledged
        return numbered + len(self._first) + self._returning

    @property
    def _live(self) -> Session:
        session = self.session
        assert session is not None, "no session is carried"
        return session


def _received(session: Session, frames: Sequence[Message]) -> list[Item]:
    """Frames are binary; texts are heartbeats, which the link has picked out."""
    if str not in map(type, frames):
        return session.receive(frames)  # type: ignore[arg-type]
    binary = takewhile(lambda frame: isinstance(frame, bytes), frames)
    items = session.receive(cast("Iterator[bytes]", binary))
    session.violation = session.violation or SessionViolation("a text message within a session")
    return items


def _wanted(items: list[Item]) -> list[Item | None]:
    """The items; a request that nobody waits for any more only uses its number up."""
    return [None if isinstance(item, Parcel) and not item.claim() else item for item in items]


def _hand_back_words(loss: Loss, words: Container[int]) -> None:
    """Move what was said first on a link from what is to be sent to what is not."""
    unwritten = [*zip(loss.unwritten, loss.unwritten_numbers, strict=True)]
    loss.unacknowledged += [item for item, number in unwritten if number in words]
    loss.unwritten = [item for item, number in unwritten if number not in words]
    loss.unwritten_numbers = [number for _, number in unwritten if number not in words]


def _drop_parcels(loss: Loss) -> None:
    """A request dies with its session; so does its answer."""
    loss.unacknowledged = [item for item in loss.unacknowledged if not isinstance(item, Parcel)]
    unwritten = [*zip(loss.unwritten, loss.unwritten_numbers, strict=True)]
    loss.unwritten = [item for item, _ in unwritten if not isinstance(item, Parcel)]
    loss.unwritten_numbers = [n for item, n in unwritten if not isinstance(item, Parcel)]


def _length(message: Message) -> int:
    """Bytes of the payload."""
    if isinstance(message, str) and not message.isascii():
        return len(message.encode())
    return len(message)
