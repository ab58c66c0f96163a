"""How received messages get from the tunnel's thread to the application.

Either by callbacks (`CallbackDelivery`, in the tunnel by way of `tunnel.callback_lane`), or by an
iterator in another thread (`Inbox`). Both are bounded: above the high-water mark the tunnel pauses
reading, the kernel's buffers fill, and the peer has to wait (requirement: a slow consumer neither
makes memory grow nor makes a live link look dead).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from operator import length_hint
from typing import Protocol

from loguru import logger

from tunnel.forks import disown, register
from tunnel.outbox import Message

_OVERHEAD = 64
"""Bytes that a message costs beside its payload, roughly; so empty ones count too."""

_NEVER = -2
_IN_VAIN = -1  # when somebody asks for a message and there is none


class Delivery(Protocol):
    """Where the tunnel's thread puts what it has read.

    Attributes:
        delivered: How many messages were handed over so far.
    """

    delivered: int

    @property
    def has_callbacks(self) -> bool:
        """Whether callbacks wait until the tunnel's thread has come out of its link."""
        ...

    @property
    def taken(self) -> int:
        """How many of them the application has finished with; perhaps less than it has. Any thread.

        All before so many have been taken; of those after it some may be.
        """
        ...

    def tell_after(self, count: int) -> bool:
        """Wake the tunnel's thread, once, when about `count` more messages have been taken.

        Also when less are there and all of them have been. 0: as soon as somebody is at one. Any
        thread; the last call counts.

        Returns:
            Whether it is certain to. False: the application is at a message just now, and may be
            done with it without a word.
        """
        ...

    @property
    def is_full(self) -> bool:
        """Whether reading should pause."""
        ...

    def note_pause(self) -> None:
        """Reading has paused because of `is_full`."""
        ...

    def deliver(self, messages: list[Message], size: int) -> None:
        """Hand over some messages, in order; `size` is their bytes on the wire, about."""
        ...


class CallbackDelivery:
    """Calls `on_message` for each message, at once.

    A callback that raises has taken its message: the error is logged and harms nothing.
    """

    has_callbacks = False
    is_full = False

    def __init__(self, on_message: Callable[[Message], object]) -> None:
        self._on_message = on_message
        self._rest: Iterator[Message] | None = None  # of the messages that are being delivered
        self._left: list[Message] = []  # of those that were broken off
        self.delivered = 0  # counted after `_rest` was set

    @property
    def taken(self) -> int:
        """See `Delivery.taken`."""
        delivered = self.delivered  # before `_rest` is looked at, else it may be too many
        rest = self._rest
        return delivered - (0 if rest is None else length_hint(rest) + 1)

    def tell_after(self, count: int) -> bool:
        """See `Delivery.tell_after`. It never is: callbacks hold the thread that is to be told."""
        return False

    def note_pause(self) -> None:
        """See `Delivery.note_pause`. Never happens: a callback that is slow holds the thread."""

    def deliver(self, messages: list[Message], size: int) -> None:
        """See `Delivery.deliver`.

        A callback that wants to end the thread has its way; the messages behind its own are the
        first of the next call.
        """
        on_message, count = self._on_message, len(messages)
        if self._left:
            messages, self._left = [*self._left, *messages], []
        # What is left of the iterator is what is not taken: so there is nothing to count.
        self._rest = rest = iter(messages)
        self.delivered += count
        try:
            for message in rest:
                try:
                    on_message(message)
                except Exception:
                    logger.exception("on_message raised; its message counts as taken")
        except BaseException:
            self._left = messages[len(messages) - length_hint(rest) :]
            raise
        finally:
            self._rest = iter(self._left) if self._left else None


class Inbox:
    """Messages on their way from one reading thread to any number of consuming threads.

    Args:
        high_water: Bytes held from which on reading should pause; it goes on at half of that.
        on_room: Called by a consumer's thread when a pause may end.
    """

    has_callbacks = False

    def __init__(self, high_water: int, on_room: Callable[[], None]) -> None:
        self._high_water = high_water
        self._on_room = on_room
        # The reading thread appends and consumers pop, each atomic; everything else is arranged so
        # that neither needs a lock on its way (see `deliver` and `_wait`).
        self._messages: deque[Message] = deque()
        self._lock = threading.Lock()  # guards the changes of the two below
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        self._is_open = True
        self._asked = False  # somebody iterates, or has done so
        self._warned = False
        # The reading thread's books: how many messages of what size were put in, by batch. A list,
        # since it is short, and an empty deque takes 0.7 KiB.
        self._batches: list[tuple[int, int]] = []
        self._batched = 0
        self._held = 0
        self._paused = False
        self._resume_at = 0  # messages left at which a pause ends
        self._mark = _NEVER  # messages left at which to call `on_room`, which uses the mark up
        self.delivered = 0  # counted after they were put in
        # What each iterator has handed out last and was not asked beyond: how many messages had
        # been handed out before it. Set before it is handed out, see `taken`.
        self._held_out: dict[object, int] = {}
        register(self)

    @property
    def is_full(self) -> bool:
        """Whether reading should pause. For the reading thread."""
        if not self._paused:
            if self._held < self._high_water:
                return False
            self._settle()
            if self._held < self._high_water:
                return False
            self._paused = True
            self._resume_at = len(self._messages) // 2
        self._mark = self._resume_at  # each time: it may have been used up for an earlier pause
        # A consumer that passed the mark before it was set has woken nobody, so look here.
        if len(self._messages) > self._resume_at:
            return True
        self._paused = False
        self._mark = _NEVER
        return False

    @property
    def size(self) -> int:
        """How many messages are waiting."""
        return len(self._messages)

    @property
    def taken(self) -> int:
        """See `Delivery.taken`. A message is taken when the next is asked for."""
        # In this order: what is handed out meanwhile is not counted, or it is held out by then.
        handed_out = self.delivered - len(self._messages)
        return min([handed_out, *self._held_out.values()])

    def tell_after(self, count: int) -> bool:
        """See `Delivery.tell_after`."""
        is_idle = not self._held_out
        # The first message that is handed out, when all are in here, leaves none taken.
        self._mark = max(_IN_VAIN, len(self._messages) - count - is_idle)
        # Who holds no message by now gets one, or asks for one in vain, after the mark was set.
        return not self._held_out

    def note_pause(self) -> None:
        """See `Delivery.note_pause`."""
        if not self._asked and not self._warned:
            self._warned = True
            logger.warning(
                "{} messages wait and nobody reads them: give on_message or use messages()",
                len(self._messages),
            )

    def deliver(self, messages: list[Message], size: int) -> None:
        """See `Delivery.deliver`. For the reading thread; never blocks."""
        self._held += size + _OVERHEAD * len(messages)
        self._batched += len(messages)
        self._batches.append((len(messages), size + _OVERHEAD * len(messages)))
        self._messages.extend(messages)
        self.delivered += len(messages)
        if len(self._batches) > 64:
            self._settle()  # only now: it takes messages that are not there for consumed
        if self._waiting:  # read after the messages were put in; see `_wait`
            with self._lock:
                self._changed.notify_all()

    def open(self) -> None:
        """Messages may come again, after a `close`."""
        with self._lock:
            self._is_open = True

    def close(self) -> None:
        """No more messages will come: iterators end once they have had those that are here."""
        with self._lock:
            self._is_open = False
            self._changed.notify_all()

    def leave_to_parent(self) -> None:
        """This is a forked child now: the messages are the parent's, for iterators too."""
        self._messages.clear()
        disown(self)

    def __iter__(self) -> Generator[Message, None, None]:
        """Take messages, waiting for each, until the inbox is closed and empty."""
        self._asked = True
        messages, held_out, this = self._messages, self._held_out, object()
        one_by_one: Iterator[Message] = iter(messages.popleft, None)
        try:
            while True:
                held_out[this] = self.delivered - len(messages)  # in this order; never too many
                try:
                    # By a loop, and not by a call: Ctrl-C never comes between taking and keeping.
                    for message in one_by_one:  # noqa: B007
                        break
                except IndexError:
                    del held_out[this]
                    if self._mark != _NEVER:  # looked at after that, see `tell_after`
                        self._tell()
                    if self._wait():
                        continue
                    return
                try:
                    if len(messages) <= self._mark:
                        self._tell()
                except BaseException:
                    messages.appendleft(message)
                    raise
                yield message
        finally:
            held_out.pop(this, None)

    def _tell(self) -> None:
        self._mark = _NEVER
        self._on_room()

    def _wait(self) -> bool:
        """Wait for a message; False if there will be none."""
        with self._lock:
            self._waiting += 1
            try:
                # Asked after `_waiting` was counted: a message that is put in later notifies.
                while not self._messages:
                    if not self._is_open:
                        return False
                    self._changed.wait()
                return True
            finally:
                self._waiting -= 1

    def _settle(self) -> None:
        """Strike the batches off that have been consumed whole."""
        consumed = self._batched - len(self._messages)
        while self._batches and self._batches[0][0] <= consumed:
            count, size = self._batches.pop(0)
            consumed -= count
            self._batched -= count
            self._held -= size
