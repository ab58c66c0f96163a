"""The signal that a bounded queue is filling up, and its way to those who asked for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from loguru import logger


@dataclass(frozen=True)
class BackpressureSignal:
    """What subscribers get when a queue becomes, or ceases to be, at least 80 % full.

    Args:
        fill: The part of the bound that is in use, 0 to 1.
        should_throttle: True when producers should slow down, False when they need not any more.
        message: The same for people.
    """

    fill: float
    should_throttle: bool
    message: str


class Backpressure:
    """Decides when there is something to signal, and delivers it in order.

    There is no second, lower threshold: what a subscriber was told last is what holds
    (requirement 5.3).

    Args:
        lock: The lock of the owner. It guards everything here; callbacks run without it.
        max_size: The bound of the owner.
    """

    def __init__(self, lock: threading.Lock, max_size: int) -> None:
        self._lock = lock
        self._subscribers: tuple[tuple[Callable[[BackpressureSignal], object]], ...] = ()
        self._delivering = False
        self.is_on = False
        """Whether the size is at the threshold or above."""
        self.pending: list[BackpressureSignal] = []
        """What was decided and not delivered yet; if there is some, `deliver` has to be called."""
        self.set_bound(max_size)

    def set_bound(self, max_size: int) -> None:
        """Change the bound, under the lock."""
        self._max_size = max_size
        self.threshold = -(-4 * max_size // 5)
        """The smallest size that is at least 80 %. The owner itself compares, because that is done
        after each change and has to be cheap."""

    def turn(self, size: int) -> None:
        """Note, under the lock, that the owner's size has crossed the threshold, up or down."""
        self.is_on = not self.is_on
        if self._subscribers:
            self.pending.append(_signal(size, self._max_size, self.is_on))

    def deliver(self) -> None:
        """Call the subscribers, without the lock, until nothing is pending.

        If another call is about it already, perhaps further up this very stack, it does the work.
        """
        while True:
            is_mine = False
            try:
                with self._lock:
                    if self._delivering or not self.pending:
                        return
                    self._delivering = is_mine = True
                    signal, subscribers = self.pending.pop(0), self._subscribers
                for (callback,) in subscribers:
                    _call(callback, signal)
            finally:  # also if Ctrl-C comes on the way out of the lock
                if is_mine:
                    self._delivering = False

    def subscribe(self, callback: Callable[[BackpressureSignal], object]) -> Callable[[], None]:
        """See `RequestQueue.subscribe`."""
        subscriber = (callback,)
        with self._lock:
            self._subscribers += (subscriber,)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)

        return unsubscribe


def _call(callback: Callable[[BackpressureSignal], object], signal: BackpressureSignal) -> None:
    try:
        callback(signal)
    except Exception:
        logger.exception("a subscriber of the request queue failed")


def _signal(size: int, max_size: int, should_throttle: bool) -> BackpressureSignal:
    advice = "slow down" if should_throttle else "there is room again"
    return BackpressureSignal(
        fill=min(1.0, size / max_size),
        should_throttle=should_throttle,
        message=f"the queue holds {size} of {max_size} items: {advice}",
    )
