"""The frame of a tunnel's work: mail, activity, callbacks, and what happens if one raises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tunnel.callback_lane import CallbackLane
from tunnel.clock import SYSTEM_CLOCK
from tunnel.errors import ResourceExhaustedError, TunnelError
from tunnel.log_context import LogContext
from tunnel.requests import CallbackFailed, Reconnect, Request
from tunnel.testing import FakeClock
from tunnel.thread_work import ThreadWork
from tunnel.waker import Waker


class Bench:
    """Work without a thread, and a log of what is done."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.failures: list[TunnelError] = []
        self.lane = CallbackLane()
        self.waker = Waker()
        self.activity: Callable[[], None] | None = None
        self.on_obey: Callable[[], object] = lambda: None
        self.work = ThreadWork(self, self.lane, FakeClock(), self.waker, lambda: None, LogContext())

    def obey(self, request: Request) -> None:
        self.log.append("obey")
        self.on_obey()

    def tell_of_loss(self) -> None:
        self.log.append("loss")

    def fail(self, error: TunnelError) -> None:
        self.failures.append(error)

    def rest(self) -> None:
        self.log.append("rest")

    def does(self, word: str) -> Callable[[], None]:
        return lambda: self.log.append(word)


def test_the_activity_and_then_its_callbacks() -> None:
    """A loss is told before, and what the activity has put into the lane is called in the step."""
    bench = Bench()
    bench.activity = lambda: bench.lane.add(bench.does("callback"))
    assert bench.work.act()
    assert bench.log == ["loss", "callback"]


def test_callbacks_that_wait_come_first() -> None:
    """The activity has its turn in the next step."""
    bench = Bench()
    bench.activity = bench.does("activity")
    bench.lane.add(bench.does("callback"))
    assert bench.work.act()
    assert bench.work.act()
    assert bench.log == ["loss", "callback", "loss", "activity"]


def test_nothing_to_do() -> None:
    """Without an activity and callbacks the work is over, and rests."""
    bench = Bench()
    assert not bench.work.act()
    bench.work.rest()
    assert bench.log == ["loss", "rest"]


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), SystemExit(3)])
@pytest.mark.parametrize("where", ["obey", "activity", "callback"])
def test_whatever_raises_ends_the_link(where: str, error: BaseException) -> None:
    """It is no end of the work; but who drives it by hand, a test, is told."""

    def fail() -> None:
        raise error

    bench = Bench()
    if where == "obey":
        bench.on_obey = fail
    elif where == "activity":
        bench.activity = fail
    else:
        bench.lane.add(fail)
    step = partial(bench.work.obey, Reconnect()) if where == "obey" else bench.work.act
    with pytest.raises(type(error)):
        step()
    assert len(bench.failures) == 1
    assert bench.lane.is_idle


def test_a_failure_that_cannot_be_ended_cleanly() -> None:
    """What ending the link raises is logged; the first error is the one that counts."""
    bench = Bench()
    bench.fail = lambda error: 1 // 0  # type: ignore[assignment, method-assign]
    bench.activity = lambda: [][0]
    with pytest.raises(IndexError):
        bench.work.act()


def test_a_word_of_a_callback_that_comes_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of the program no thread may be had to hear it: then it is only logged."""
    bench = Bench()

    def refuse(request: Request) -> None:
        raise ResourceExhaustedError("no thread")

    monkeypatch.setattr(bench.work.worker, "post", refuse)
    bench.work.post_from_lane(CallbackFailed(SystemExit(1)))


def test_only_a_thread_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever drives a tunnel by hand waits for nobody."""
    asked: list[object] = []
    monkeypatch.setattr("tunnel.thread_work.take", asked.append)
    bench = Bench()
    bench.work.take_turn()
    assert not asked
    work = ThreadWork(bench, bench.lane, SYSTEM_CLOCK, bench.waker, lambda: None, LogContext())
    work.take_turn()
    assert len(asked) == 1
