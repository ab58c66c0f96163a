"""The end that the application wants, on a link that only notes what is done to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunnel.callback_lane import CallbackLane
from tunnel.closing import HUNG_UP, Closing
from tunnel.closing_handshake import LinkEnd
from tunnel.errors import ConnectionLostError
from tunnel.request_queue import RequestQueue
from tunnel.requests import Close
from tunnel.testing import FakeClock

CLEAN = LinkEnd(None, clean=True)


class Bench:
    """A link, its session, and a `Closing` of both."""

    def __init__(self, graceful: bool = True, within: float = 10.0) -> None:
        self.clock = FakeClock()
        self.queue = RequestQueue(clock=self.clock)
        self.lane = CallbackLane()
        self.log: list[str] = []
        self.ends: list[LinkEnd | None] = []
        self.has_work = False
        # Of the session
        self.session: object | None = None
        self.unacknowledged = 0
        self.is_ended = False
        this: Any = self
        self.closing = Closing(self.queue, this, this, self.lane, self.clock)
        self.request = Close(graceful, within)
        self.closing.want(self.request)
        self.closing.begin()

    @property
    def writer(self) -> Bench:
        return self

    def ask(self) -> None:
        self.log.append("ask")

    def end(self) -> bytes | None:
        if self.session is None:
            return None
        self.is_ended = True
        return b"end"

    def end_session(self, frame: bytes) -> None:
        self.log.append(frame.decode())

    def close(self, code: int) -> None:
        self.log.append(f"close {code}")

    def run(self, deadline: float) -> LinkEnd | None:
        self.log.append(f"until {deadline:g}")
        return self.ends.pop(0) if self.ends else None

    def step(self, has_greeted: bool = True) -> LinkEnd | None:
        link: Any = self
        return self.closing.run(link, has_greeted)


def test_closes_at_once_what_has_nothing_to_say() -> None:
    """The close frame goes out, and the peer's answer is a clean end."""
    bench = Bench()
    bench.ends = [None, CLEAN]
    assert bench.step() is None
    assert bench.log == ["close 1000"]
    assert bench.step() is None
    assert bench.step() is CLEAN
    assert bench.log == ["close 1000", "until 10", "until 10"]


def _drains(begin: Callable[[Bench], object], end: Callable[[Bench], object], log: str) -> None:
    bench = Bench()
    begin(bench)
    assert bench.step() is None
    assert bench.step() is None
    assert bench.log == log.split("; ")
    end(bench)
    assert bench.step() is None
    assert bench.log[-1] == "close 1000"


def test_waits_for_the_queue() -> None:
    """What is queued goes out before the close frame."""
    _drains(lambda b: b.queue.enqueue("a"), lambda b: b.queue.clear(), "until 10; until 10")


def test_waits_for_what_is_being_written() -> None:
    """Also if it was taken out of the queue."""
    _drains(
        lambda b: setattr(b, "has_work", True),
        lambda b: setattr(b, "has_work", False),
        "until 10; until 10",
    )


def test_waits_for_acknowledgements_and_asks_once() -> None:
    """The peer of a session is asked to acknowledge now."""
    _drains(
        lambda b: setattr(b, "unacknowledged", 1),
        lambda b: setattr(b, "unacknowledged", 0),
        "ask; until 10; until 10",
    )


def test_waits_for_the_greeting() -> None:
    """`on_connected` may still say something; but not beyond the deadline."""
    bench = Bench()
    assert bench.step(has_greeted=False) is None
    assert bench.log == ["until 10"]
    bench.clock.advance(10.0)
    assert bench.step(has_greeted=False) is None
    assert bench.log[-1] == "close 1000"


def test_a_session_ends_after_the_callbacks() -> None:
    """The peer would count what they have not had as not delivered."""
    bench = Bench()
    bench.session = object()
    bench.lane.add(lambda: None)
    assert bench.step() is None
    assert bench.log == ["until 10"]
    bench.lane.run()
    assert bench.step() is None
    assert bench.log[1:] == ["end", "close 1000"]


def test_what_is_queued_after_the_end_of_a_session_is_too_late() -> None:
    """It holds nothing up; the end itself has to be written."""
    bench = Bench()
    bench.session, bench.has_work = object(), True
    assert bench.step() is None
    assert bench.log == ["end", "until 10"]
    bench.queue.enqueue("late")
    assert bench.step() is None
    bench.has_work = False
    assert bench.step() is None
    assert bench.log[-1] == "close 1000"


def test_a_peer_that_closes_first_is_a_loss() -> None:
    """It may not have had all; after our close frame it has."""
    bench = Bench()
    bench.queue.enqueue("a")
    error = ConnectionLostError("closed")
    bench.ends = [LinkEnd(error, clean=True)]
    assert bench.step() == LinkEnd(error, clean=False)


def test_hangs_up_at_the_deadline() -> None:
    """A peer that does not answer the close frame is not waited for any longer."""
    bench = Bench()
    bench.step()
    assert bench.step() is None
    bench.clock.advance(10.0)
    assert bench.step() is HUNG_UP
    assert bench.log == ["close 1000", "until 10"]


def test_without_grace_nothing_is_waited_for() -> None:
    """Neither the queue nor the peer; and the strictest terms hold."""
    bench = Bench()
    bench.queue.enqueue("a")
    bench.closing.want(Close(False, 20.0))
    assert bench.step() is None
    assert bench.step() is HUNG_UP
    assert bench.log == ["close 1000"]


def test_tells_all_who_wait() -> None:
    """Each of them once; the next end is another one."""
    bench = Bench()
    other = Close(True, 5.0)
    bench.closing.want(other)
    bench.queue.enqueue("a")
    bench.step()
    assert bench.log == ["until 5"]
    bench.closing.finish()
    assert bench.request.done.is_set()
    assert other.done.is_set()
    bench.closing.want(Close(True, 30.0))
    bench.closing.begin()
    bench.step()
    assert bench.log[-1] == "until 30"
