"""What a request queue holds, in its order. Pure: no lock, no clock, no thread."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Any, NoReturn

from tunnel.errors import InvalidStateError

NEVER = math.inf
"""The moment of expiry of what does not expire."""

PUT_BACK = 0
"""The rank of what was taken and came back; it goes before all others, which are greater."""

NO_ROW = 0
"""Stands for the row of an item that is not on file."""

Entry = tuple[Any, float, int]
"""An item, when it expires, and the id of its row on file.

A plain tuple: an object with fields takes five times as long.
"""

_NO_ROWS = repeat(NO_ROW)


class QueueEntries:
    """Lines of entries, one for each rank, and those taken from them that are not done yet.

    Its owner has the lock and the clock, and knows the bound.
    """

    __slots__ = (
        "expired",
        "expired_rows",
        "lines",
        "next_expiry",
        "reserved",
        "taken",
        "waiting",
        "waiting_bytes",
    )

    is_closed = False

    def __init__(self) -> None:
        self.lines: dict[int, deque[Entry]] = {}  # by rank, in order of rank
        self.taken: list[Entry] = []  # oldest first
        self.waiting = 0  # how many the lines hold
        self.waiting_bytes = 0  # how long they are together at most, as `pop` counts
        self.reserved = 0  # how many are on their way into the lines
        self.expired = 0  # how many were dropped
        self.expired_rows: list[int] = []  # their rows, for the owner to take
        self.next_expiry = NEVER  # nothing in the lines expires earlier, though perhaps later

    def held(self) -> int:
        """Waiting and taken."""
        return self.waiting + len(self.taken)

    def used(self) -> int:
        """How much of the bound is in use: what is held, and what has its room reserved."""
        return self.waiting + len(self.taken) + self.reserved

    def next_length(self) -> int | None:
        """How many bytes the next item has at most; None: nothing waits."""
        return next((_length(line[0][0]) for line in self.lines.values() if line), None)

    def line(self, rank: int) -> deque[Entry]:
        """The line of this rank, made when first used: an empty deque takes 0.6 KiB."""
        line = self.lines.get(rank)
        if line is None:
            line = deque()
            self.lines = dict(sorted({**self.lines, rank: line}.items()))
        return line

    def add(
        self, items: Sequence[Any], rank: int, deadline: float, rows: Iterable[int] = _NO_ROWS
    ) -> None:
        """Append to the line of this rank."""
        self.line(rank).extend(zip(items, repeat(deadline), rows))
        count = len(items)
        self.waiting += count
        self.waiting_bytes += _length(items[0]) if count == 1 else sum(map(_length, items))
        if deadline < self.next_expiry:
            self.next_expiry = deadline

    def append(self, item: Any, rank: int) -> None:
        """The same for one item that never expires and is not on file."""
        line = self.lines.get(rank)
        if line is None:
            line = self.line(rank)
        line.append((item, NEVER, NO_ROW))
        self.waiting += 1
        self.waiting_bytes += len(item) if type(item) is bytes else _length(item)

    def reserve(self, count: int) -> None:
        """Keep room for what is on its way to the file, and then to its line."""
        self.reserved += count

    def admit(self, items: Sequence[Any], rank: int, deadline: float, rows: Sequence[int]) -> None:
        """Append to the line of this rank, now that the rows are on file."""
        self.add(items, rank, deadline, rows)

    def pop(
        self, limit: int, max_bytes: int | None = None, max_first: int | None = None
    ) -> list[Entry]:
        """Remove the next ones.

        Args:
            limit: How many at most.
            max_bytes: How long they may be together; the first alone may be longer.
            max_first: How long that one may be.
        """
        popped: list[Entry] = []
        self._move(popped, limit, max_bytes, max_first)
        return popped

    def _move(
        self, target: list[Entry], limit: int, max_bytes: int | None, max_first: int | None
    ) -> None:
        left = NEVER if max_bytes is None else max_bytes
        count = 0
        for line in self.lines.values():
            while line and count < limit and left >= 0:
                length = _length(line[0][0])
                left -= length
                if left < 0 and (count or (max_first is not None and length > max_first)):
                    break
                target.append(line[0])  # in this order: an interruption must not lose it
                line.popleft()
                count += 1
                self.waiting_bytes -= length
        self.waiting -= count

    def take(
        self, limit: int, max_bytes: int | None = None, max_first: int | None = None
    ) -> list[Entry]:
        """Move the next ones from the lines to the taken."""
        before = len(self.taken)
        self._move(self.taken, limit, max_bytes, max_first)
        return self.taken[before:]

    def adopt(self, item: Any, deadline: float, row: int) -> None:
        """Add to the taken what was in no line."""
        self.taken.append((item, deadline, row))

    def confirm(self, count: int) -> list[Entry]:
        """Forget the oldest of the taken."""
        if not 0 <= count <= len(self.taken):
            raise ValueError(f"cannot confirm {count} items: {len(self.taken)} are taken")
        confirmed = self.taken[:count]
        del self.taken[:count]
        return confirmed

    def untake(self, count: int | None = None) -> list[Entry]:
        """Undo the taking of the newest of the taken; of all, if it is not said of how many."""
        start = 0 if count is None else len(self.taken) - count
        returned = self.taken[start:]
        del self.taken[start:]
        self.put_in_front(returned)
        return returned

    def put_in_front(self, entries: Sequence[Entry]) -> None:
        """Put before all that waits. The next expiry is not known until `expire` has looked."""
        self.line(PUT_BACK).extendleft(reversed(entries))
        self.waiting += len(entries)
        self.waiting_bytes += sum(_length(item) for item, _, _ in entries)

    def discard(self, items: Iterable[Any]) -> list[Entry]:
        """Remove from the lines what is one of these very objects."""
        unwanted = set(map(id, items))
        discarded: list[Entry] = []
        for line in self.lines.values():
            found = [entry for entry in line if id(entry[0]) in unwanted]
            if found:
                kept = [entry for entry in line if id(entry[0]) not in unwanted]
                line.clear()
                line.extend(kept)
                discarded += found
        self.waiting -= len(discarded)
        self.waiting_bytes -= sum(_length(item) for item, _, _ in discarded)
        return discarded

    def expire(self, now: float) -> None:
        """Drop from the lines what has expired, and find out what expires next."""
        self.next_expiry = NEVER
        for line in self.lines.values():
            kept = [entry for entry in line if entry[1] > now]
            if len(kept) < len(line):
                self._drop([entry for entry in line if entry[1] <= now])
                line.clear()
                line.extend(kept)
            next_expiry = min((deadline for _, deadline, _ in kept), default=NEVER)
            self.next_expiry = min(self.next_expiry, next_expiry)

    def _drop(self, entries: Sequence[Entry]) -> None:
        self.waiting -= len(entries)
        self.waiting_bytes -= sum(_length(item) for item, _, _ in entries)
        self.expired += len(entries)
        self.expired_rows += [row for _, _, row in entries if row != NO_ROW]

    def recount(self) -> None:
        """Have the books agree with what is there, after an operation was interrupted by Ctrl-C."""
        for line in self.lines.values():
            if line and self.taken and line[0] is self.taken[-1]:
                line.popleft()
        self.waiting = sum(map(len, self.lines.values()))
        waiting = chain.from_iterable(self.lines.values())
        self.waiting_bytes = sum(_length(item) for item, _, _ in waiting)

    def all(self) -> list[Entry]:
        """Every entry, in the order in which it would go out."""
        return [*self.taken, *(entry for line in self.lines.values() for entry in line)]

    def clear(self) -> list[Entry]:
        """Empty the lines; the taken stay."""
        return self.pop(self.waiting)


class ClosedEntries(QueueEntries):
    """What a queue held when it was closed. It can be looked at, and stays as it is."""

    __slots__ = ()

    is_closed = True

    def __init__(self, entries: QueueEntries) -> None:
        super().__init__()
        self.lines, self.taken = entries.lines, entries.taken
        self.waiting, self.waiting_bytes = entries.waiting, entries.waiting_bytes
        self.reserved, self.expired = entries.reserved, entries.expired

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise InvalidStateError("the queue is closed")

    add = append = reserve = pop = take = adopt = confirm = put_in_front = clear = discard = _refuse

    def untake(self, count: int | None = None) -> list[Entry]:
        """Nothing: what was taken is still here to be looked at, and goes nowhere."""
        return []

    def admit(self, items: Sequence[Any], rank: int, deadline: float, rows: Sequence[int]) -> None:
        """Nothing, for what got onto the file just in time: it is accepted."""
        if NO_ROW in rows:
            self._refuse()


def _length(item: Any) -> int:
    """How many bytes an item has on the wire, at most: a text is not encoded to know that."""
    if type(item) is bytes:  # as almost always
        return len(item)
    if isinstance(item, str):
        return len(item) if item.isascii() else 4 * len(item)
    return len(item) if isinstance(item, (bytes, bytearray, memoryview)) else 0
