"""The entries of a queue, through the queue, against a model made of plain lists."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tunnel.backpressure import BackpressureSignal
from tunnel.queue_entries import QueueEntries
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.testing import FakeClock

PAUSES = st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0])
EXPIRIES = st.none() | st.sampled_from([0.5, 1.0, 2.5, math.inf])
PRIORITIES = st.sampled_from(RequestPriority)
LENGTHS = st.integers(0, 4)
COUNTS = st.integers(1, 7)


class QueueModel(RuleBasedStateMachine):
    """Every rule lets some time pass, does one thing to both, and compares what came out."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.bound = 6
        self.queue = RequestQueue(self.bound, clock=self.clock)
        self.restored: list[tuple[str, float]] = []
        self.lines: dict[str, list[tuple[str, float]]] = {"high": [], "normal": [], "low": []}
        self.taken: list[tuple[str, float]] = []
        self.expired = 0
        self.made = 0
        self.signals: list[BackpressureSignal] = []
        self.queue.subscribe(self.signals.append)

    def in_order(self) -> list[list[tuple[str, float]]]:
        return [self.restored, *self.lines.values()]

    def pass_time(self, pause: float) -> None:
        self.clock.advance(pause)
        for line in self.in_order():
            alive = [entry for entry in line if entry[1] > self.clock.monotonic()]
            self.expired += len(line) - len(alive)
            line[:] = alive

    def new(self, length: int, expires_in: float | None) -> tuple[str, float]:
        self.made += 1
        end = math.inf if expires_in is None else self.clock.monotonic() + expires_in
        return f"{self.made:03}" + "x" * length, end

    def waiting(self) -> int:
        return sum(map(len, self.in_order()))

    def pop(
        self, limit: int, max_bytes: float = math.inf, max_first: float = math.inf
    ) -> list[tuple[str, float]]:
        popped: list[tuple[str, float]] = []
        for line in self.in_order():
            while line and len(popped) < limit:
                length = sum(len(item) for item, _ in [*popped, line[0]])
                if length > (max_bytes if popped else max(max_bytes, max_first)):
                    return popped
                popped.append(line.pop(0))
        return popped

    @rule(
        pause=PAUSES,
        lengths=st.lists(LENGTHS, max_size=5),
        priority=PRIORITIES,
        expires_in=EXPIRIES,
    )
    def enqueue_many(
        self, pause: float, lengths: list[int], priority: RequestPriority, expires_in: float | None
    ) -> None:
        self.pass_time(pause)
        new = [self.new(length, expires_in) for length in lengths]
        fitting = new[: max(0, self.bound - self.waiting() - len(self.taken))]
        accepted = self.queue.enqueue_many([item for item, _ in new], priority, expires_in)
        assert accepted == len(fitting)
        self.lines[priority.value] += fitting

    @rule(pause=PAUSES, length=LENGTHS, priority=PRIORITIES, expires_in=EXPIRIES)
    def adopt(
        self, pause: float, length: int, priority: RequestPriority, expires_in: float | None
    ) -> None:
        self.pass_time(pause)
        new = self.new(length, expires_in)
        self.queue.adopt(new[0], priority, expires_in)
        self.taken.append(new)

    @rule(pause=PAUSES)
    def dequeue(self, pause: float) -> None:
        self.pass_time(pause)
        popped = self.pop(1)
        assert self.queue.dequeue() == (popped[0][0] if popped else None)

    @rule(
        pause=PAUSES,
        limit=COUNTS,
        max_bytes=st.none() | st.integers(0, 20),
        max_first=st.none() | st.integers(0, 8),
    )
    def take(self, pause: float, limit: int, max_bytes: int | None, max_first: int | None) -> None:
        self.pass_time(pause)
        popped = self.pop(limit, *(math.inf if m is None else m for m in (max_bytes, max_first)))
        items = self.queue.take_many(limit, max_bytes, max_first=max_first)
        assert items == [item for item, _ in popped]
        self.taken += popped

    @precondition(lambda self: self.taken)
    @rule(pause=PAUSES, data=st.data())
    def hand_over_and_get_back(self, pause: float, data: Any) -> None:
        self.pass_time(pause)
        count = data.draw(st.integers(0, len(self.taken)))
        self.queue.hand_over(count)
        back = [item for item, _ in self.taken[count // 2 : count]]
        del self.taken[:count]
        self.queue.put_back(back, range(len(back)))
        self.restored[:0] = [(item, math.inf) for item in back]

    @precondition(lambda self: self.taken)
    @rule(pause=PAUSES, data=st.data())
    def confirm(self, pause: float, data: Any) -> None:
        self.pass_time(pause)
        count = data.draw(st.integers(0, len(self.taken)))
        self.queue.confirm(count)
        del self.taken[:count]

    @rule(pause=PAUSES)
    def restore(self, pause: float) -> None:
        self.pass_time(pause)
        self.queue.restore()
        self.restored[:0] = self.taken
        self.taken.clear()
        self.pass_time(0.0)

    @rule(pause=PAUSES)
    def clear(self, pause: float) -> None:
        self.pass_time(pause)
        assert self.queue.clear() == [item for item, _ in self.pop(self.waiting())]

    @rule(pause=PAUSES, bound=COUNTS)
    def resize(self, pause: float, bound: int) -> None:
        self.pass_time(pause)
        self.queue.resize(bound)
        self.bound = bound

    @invariant()
    def both_hold_the_same(self) -> None:
        everything = [self.taken, *self.in_order()]
        held = sum(map(len, everything))
        assert self.queue.snapshot() == tuple(item for line in everything for item, _ in line)
        assert (self.queue.size, self.queue.waiting) == (held, held - len(self.taken))
        waiting = [item for line in everything[1:] for item, _ in line]
        assert self.queue.waiting_bytes == sum(map(len, waiting))
        assert self.queue.next_length == (len(waiting[0]) if waiting else None)
        assert self.queue.is_empty == (held == len(self.taken))
        assert self.queue.is_full == (held >= self.bound)
        assert self.queue.expired == self.expired
        assert self.queue.wait_for_room(0) == (held < self.bound)

    @invariant()
    def the_last_signal_is_what_holds(self) -> None:
        throttle = [signal.should_throttle for signal in self.signals]
        assert throttle == [number % 2 == 0 for number in range(len(throttle))]
        assert (self.queue.fill >= 0.8) == (bool(throttle) and throttle[-1])


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_lines_are_made_when_first_used() -> None:
    """A queue that only knows one priority pays for one line."""
    entries = QueueEntries()
    assert not entries.lines
    entries.add(["x"], 2, math.inf)
    entries.add(["y"], 1, math.inf)
    assert list(entries.lines) == [1, 2]


def test_a_length_is_never_less_than_the_bytes_on_the_wire() -> None:
    """Texts that are not ASCII count four bytes a character, whatever they take."""
    entries = QueueEntries()
    for text, length in [("abc", 3), ("é", 4), ("a\U0001f600", 8), ("", 0)]:
        entries.add([text], 1, math.inf)
        assert entries.next_length() == entries.waiting_bytes == length >= len(text.encode())
        entries.pop(1)


def test_a_text_is_taken_by_what_it_may_be_long() -> None:
    """So a batch is never longer than was asked for."""
    entries = QueueEntries()
    entries.add(["é", "é", b"x"], 1, math.inf)
    assert entries.pop(9, 3, 3) == []
    assert [item for item, _, _ in entries.pop(9, 8)] == ["é", "é"]
