"""Whether a client is still there: pinged after a silence, given up after another. Pure.

Any byte from a client is a sign of life, not only a pong. So is that its end of the connection
takes bytes: while what we write piles up here because the network's buffers are full, and the pile
shrinks, the client acknowledges it, and our ping is only waiting its turn behind a long message.
While we ourselves do not read what it sends, its silence means nothing.

Requirements 1.6 (a stale connection is removed within 60 s) and 6.1 (pings).
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What to do about a connection."""

    FINE = "fine"
    PING = "ping"
    GIVE_UP = "give up"


class Liveness:
    """The signs of life of one connection. For one thread.

    Args:
        interval: Seconds of silence after which it is pinged.
        timeout: Seconds after that until it is given up.
        now: The present time, in seconds, on the clock that the other methods use.
    """

    __slots__ = ("_flushed", "_heard_at", "_interval", "_is_pinged", "_is_stuck", "_timeout")

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._heard_at = now
        self._is_pinged = False
        self._is_stuck = False
        self._flushed = 0

    def heard(self, now: float) -> None:
        """Something came from the client."""
        self._heard_at = now
        self._is_pinged = False

    def forgive(self, now: float) -> None:
        """We were not there to hear it; its time to answer a ping begins now."""
        self._heard_at = max(self._heard_at, now - self._interval)
        self._is_pinged = False

    def look(self, now: float, written: int, pending: int) -> Verdict:
        """Judge; to be called now and then.

        Args:
            now: The present time.
            written: Bytes that were ever written to the connection.
            pending: How many of them the network has not taken yet.
        """
        flushed = written - pending
        if self._is_stuck and flushed > self._flushed:
            self.heard(now)
        self._is_stuck, self._flushed = pending > 0, flushed
        silence = now - self._heard_at
        if self._is_pinged and silence >= self._interval + self._timeout:
            return Verdict.GIVE_UP
        if silence >= self._interval and not self._is_pinged:
            self._is_pinged = True
            return Verdict.PING
        return Verdict.FINE
