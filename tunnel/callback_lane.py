"""The application's callbacks: one after the other, and no trouble for the tunnel if one is slow.

Theory of operation
-------------------

What is to be called is put into the lane by the tunnel's thread, and called by it as soon as it is
out of everything else (`tunnel.worker.Work.act`): it holds no lock then, and leaves nothing half
done. So if a callback blocks, another thread can become the tunnel's in its place: it reads and
answers, notices a loss and connects again, and adds to the lane what is to be called next. The
thread that is in the callback calls that too when it gets out, until the lane is empty, and ends.
This is the pattern known as leader and followers, but that a follower is only hired when it is
needed: `tunnel.worker.Worker.call` sees to that. As long as callbacks are quick there is one
thread, and none of this shows.

What has been read for the callbacks meanwhile is bounded (`LaneDelivery.is_full`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

from loguru import logger

from tunnel.delivery import CallbackDelivery
from tunnel.outbox import Message

_OVERHEAD = 64
"""Bytes that a message costs beside its payload, roughly; so empty ones count too."""


class CallbackLane:
    """Calls what it is given, in order, one at a time. Safe to use from any thread.

    Args:
        before_each: Called before each call, by the thread that makes it; None: nothing is.
    """

    def __init__(self, before_each: Callable[[], object] | None = None) -> None:
        self._before_each = before_each
        # Not a deque, which takes 0.7 KiB when it is empty; at most some thousands wait here.
        self._calls: list[Callable[[], object]] = []
        self._turn = threading.Lock()  # held by the thread that makes the calls

    @property
    def is_ready(self) -> bool:
        """Whether `run` would call something. For the tunnel's thread, which alone runs it."""
        return bool(self._calls) and not self._turn.locked()

    @property
    def is_idle(self) -> bool:
        """Whether all that was added has been called, and has returned. From any thread."""
        return not self._calls and not self._turn.locked()

    def add(self, call: Callable[[], object]) -> None:
        """Have something called, after all that was added before."""
        self._calls.append(call)

    def run(self) -> None:
        """Call all that was added, also what is added meanwhile, unless a thread is doing so.

        Raises:
            BaseException: What a callback raised; those behind it remain.
        """
        calls, turn, before_each = self._calls, self._turn, self._before_each
        # Looked at once more when the turn is given up: what was added just before that, others
        # have left to this thread.
        while calls and turn.acquire(False):
            try:
                while calls:
                    if before_each is not None:
                        before_each()
                    calls.pop(0)()
            finally:
                turn.release()


class LaneDelivery:
    """Hands messages to callbacks through the lane; a `tunnel.delivery.Delivery`.

    Args:
        callbacks: Calls them.
        lane: Where they wait for the tunnel's thread, or for a callback that is slow.
        high_water: Bytes that are read ahead of a slow callback before reading pauses; it goes on
            at half of that.
        on_room: Called by the callbacks' thread when a pause may end.

    Attributes:
        delivered: How many messages were put into the lane so far.
    """

    def __init__(
        self,
        callbacks: CallbackDelivery,
        lane: CallbackLane,
        high_water: int,
        on_room: Callable[[], None],
    ) -> None:
        self._callbacks = callbacks
        self._lane = lane
        self._high_water = high_water
        self._on_room = on_room
        self.delivered = 0
        # Each counter is written by one thread at a time, so that neither needs a lock.
        self._put_in = 0  # bytes, by the tunnel's thread
        self._taken_out = 0  # of them, by the thread that is in the callbacks
        self._wants_room = False
        self._warned = False

    @property
    def taken(self) -> int:
        """See `tunnel.delivery.Delivery.taken`."""
        return self._callbacks.taken

    @property
    def has_callbacks(self) -> bool:
        """See `tunnel.delivery.Delivery.has_callbacks`."""
        return self._lane.is_ready

    def tell_after(self, count: int) -> bool:
        """See `tunnel.delivery.Delivery.tell_after`. It never is."""
        return False

    @property
    def is_full(self) -> bool:
        """See `tunnel.delivery.Delivery.is_full`."""
        if self._put_in - self._taken_out < self._high_water:
            return False
        self._wants_room = True
        # Asked again: room that was made before that has told nobody.
        return self._put_in - self._taken_out >= self._high_water

    def note_pause(self) -> None:
        """See `tunnel.delivery.Delivery.note_pause`."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "on_message is slow, and {} messages wait for it: reading pauses",
                self.delivered - self.taken,
            )

    def deliver(self, messages: list[Message], size: int) -> None:
        """See `tunnel.delivery.Delivery.deliver`. Only puts them into the lane."""
        size += _OVERHEAD * len(messages)
        self._put_in += size
        self.delivered += len(messages)
        self._lane.add(functools.partial(self._call, messages, size))

    def _call(self, messages: list[Message], size: int) -> None:
        self._taken_out += size  # what is in the application's hands is not ahead of it
        if self._wants_room and self._put_in - self._taken_out <= self._high_water // 2:
            self._wants_room = False
            self._on_room()
        self._callbacks.deliver(messages, size)
