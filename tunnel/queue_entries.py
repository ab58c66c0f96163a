"""What a request queue holds, in its order. Pure: no lock, no clock, no thread."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

NEVER = math.inf
"""The moment of expiry of what does not expire."""

PUT_BACK = 0
"""The rank of what was taken and came back; it goes before all others, which are greater."""

Entry = tuple[Any, float]
"""An item, and when it expires. A plain tuple: an object with fields takes five times as long."""


class QueueEntries:
    """Lines of entries, one for each rank, and those taken from them that are not done yet.

    Its owner has the lock and the clock, and knows the bound.
    """

    __slots__ = ("expired", "lines", "next_expiry", "taken", "waiting", "waiting_bytes")

    def __init__(self) -> None:
        self.lines: dict[int, deque[Entry]] = {}  # by rank, in order of rank
        self.taken: list[Entry] = []  # oldest first
        self.waiting = 0  # how many the lines hold
        self.waiting_bytes = 0  # how long they are together, as `pop` counts
        self.expired = 0  # how many were dropped
        self.next_expiry = NEVER  # nothing in the lines expires earlier, though perhaps later

    def held(self) -> int:
        """Waiting and taken."""
        return self.waiting + len(self.taken)

    def line(self, rank: int) -> deque[Entry]:
        """The line of this rank, made when first used: an empty deque takes 0.6 KiB."""
        line = self.lines.get(rank)
        if line is None:
            line = deque()
            self.lines = dict(sorted({**self.lines, rank: line}.items()))
        return line

    def add(self, items: Sequence[Any], rank: int, deadline: float) -> None:
        """Append to the line of this rank."""
        self.line(rank).extend([(item, deadline) for item in items])
        self.waiting += len(items)
        self.waiting_bytes += sum(map(_length, items))
        if deadline < self.next_expiry:
            self.next_expiry = deadline

    def pop(self, limit: int, max_bytes: int | None = None) -> list[Entry]:
        """Remove the next ones; the first of them however long it is."""
        left = NEVER if max_bytes is None else max_bytes
        popped: list[Entry] = []
        for line in self.lines.values():
            while line and len(popped) < limit and left >= 0:
                length = _length(line[0][0])
                left -= length
                if left < 0 and popped:
                    break
                popped.append(line.popleft())
                self.waiting_bytes -= length
        self.waiting -= len(popped)
        return popped

    def take(self, limit: int, max_bytes: int | None) -> list[Entry]:
        """Move the next ones from the lines to the taken."""
        entries = self.pop(limit, max_bytes)
        self.taken += entries
        return entries

    def adopt(self, item: Any, deadline: float) -> None:
        """Add to the taken what was in no line."""
        self.taken.append((item, deadline))

    def confirm(self, count: int) -> None:
        """Forget the oldest of the taken."""
        if not 0 <= count <= len(self.taken):
            raise ValueError(f"cannot confirm {count} items: {len(self.taken)} are taken")
        del self.taken[:count]

    def put_back(self) -> None:
        """Undo the taking. The next expiry is not known until `expire` has looked."""
        self.line(PUT_BACK).extendleft(reversed(self.taken))
        self.waiting += len(self.taken)
        self.waiting_bytes += sum(_length(item) for item, _ in self.taken)
        self.taken.clear()

    def expire(self, now: float) -> None:
        """Drop from the lines what has expired, and find out what expires next."""
        self.next_expiry = NEVER
        for line in self.lines.values():
            kept = [entry for entry in line if entry[1] > now]
            dropped = len(line) - len(kept)
            if dropped:
                self.waiting_bytes -= sum(_length(item) for item, end in line if end <= now)
                line.clear()
                line.extend(kept)
                self.waiting -= dropped
                self.expired += dropped
            self.next_expiry = min(self.next_expiry, min((end for _, end in kept), default=NEVER))

    def all(self) -> list[Entry]:
        """Every entry, in the order in which it would go out."""
        return [*self.taken, *(entry for line in self.lines.values() for entry in line)]

    def clear(self) -> list[Entry]:
        """Empty the lines; the taken stay."""
        return self.pop(self.waiting)


def _length(item: Any) -> int:
    return len(item) if isinstance(item, (str, bytes, bytearray, memoryview)) else 0
