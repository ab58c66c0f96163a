"""Tells the peer of a session what the application has taken: at once if due, and soon if not.

Theory of operation
-------------------

The tunnel's thread looks whenever something has arrived, and acknowledges what is due by count or
by bytes. For the rest there is a timer, from the arrival of a message on, since a callback may hold
the tunnel's thread for long. It goes on as long as anything is untold or in the application's
hands. Messages that only lie in the inbox need none: whoever takes the first of them wakes the
tunnel's thread, so a tunnel whose messages nobody reads is as idle as any other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tunnel.clock import Clock
from tunnel.delivery import Delivery
from tunnel.session_channel import SessionChannel
from tunnel.timers import TimerHandle, timers_of

DELAY = 0.2
"""Seconds after which what is untold is told; the protocol allows one."""


class Acknowledger:
    """Looks after the acknowledgements of one link. Safe to use from any thread.

    Args:
        channel: Knows what is owed.
        delivery: Knows what was taken.
        write: Writes a frame of the session, without waiting or taking long: the timers of all
            tunnels share a thread.
        clock: Measures the delay.
    """

    def __init__(
        self,
        channel: SessionChannel,
        delivery: Delivery,
        write: Callable[[bytes], None],
        clock: Clock,
    ) -> None:
        self._channel = channel
        self._delivery = delivery
        self._write = write
        self._clock = clock
        # Guards the fields below, and that nothing is acknowledged on this link once it is over:
        # it would be lost, and the session would think that it was told.
        self._lock = threading.Lock()
        self._timer: TimerHandle | None = None
        self._is_stopped = False

    def expect(self) -> None:
        """Messages are about to be delivered, and `look` may be long in coming."""
        with self._lock:
            if self._timer is None:  # as it seldom is; and this is asked for each message
                self._start_timer()

    def look(self) -> None:
        """Acknowledge what is due; see to it that the rest is before long."""
        channel, delivery = self._channel, self._delivery
        with self._lock:
            if self._is_stopped:
                return
            frame = channel.acknowledgement(delivery.taken, is_late=False)
            if channel.has_untaken:
                delivery.tell_after(channel.takes_until_due)
                # What was taken in between may have told nobody.
                frame = channel.acknowledgement(delivery.taken, is_late=False) or frame
            if self._timer is None and channel.is_owing:
                self._start_timer()
        if frame is not None:
            self._write(frame)

    def tell(self) -> None:
        """Acknowledge all that was taken, due or not."""
        with self._lock:
            frame = self._late_frame()
        if frame is not None:
            self._write(frame)

    def stop(self) -> None:
        """The link is over."""
        with self._lock:
            self._is_stopped = True
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _late_frame(self) -> bytes | None:
        """Needs the lock."""
        if self._is_stopped:
            return None
        return self._channel.acknowledgement(self._delivery.taken, is_late=True)

    def _start_timer(self) -> None:
        """Needs the lock."""
        if not self._is_stopped:
            when = self._clock.monotonic() + DELAY
            self._timer = timers_of(self._clock).call_at(when, self._expire)

    def _expire(self) -> None:
        with self._lock:
            if self._is_stopped:
                return
            # In this order: what is not acknowledged below is taken later, and told.
            is_told = self._delivery.tell_after(0)
            frame = self._late_frame()
            self._timer = None
            if not is_told and self._channel.is_owing:
                self._start_timer()
        if frame is not None:
            self._write(frame)
