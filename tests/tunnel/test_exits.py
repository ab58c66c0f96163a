from __future__ import annotations

import pytest
from loguru import logger

from tunnel import exits
from tunnel.clock import SYSTEM_CLOCK
from tunnel.errors import ResourceExhaustedError
from tunnel.forks import disown
from tunnel.requests import Close


class Worker:
    def __init__(self, *, is_threaded: bool = True, is_running: bool = True) -> None:
        self.is_threaded, self.is_running = is_threaded, is_running
        self.joined: list[float] = []

    def join(self, timeout: float) -> None:
        self.joined.append(timeout)


class Leaver:
    def __init__(self, worker: Worker, error: Exception | None = None) -> None:
        self.worker, self.error = worker, error
        self.closed: list[Close] = []
        self.left = ""

    def __repr__(self) -> str:
        return "<a tunnel>"

    def left_unreported(self) -> str:
        if self.left == "broken":
            raise ValueError
        return self.left

    def post_close(self, request: Close) -> None:
        self.closed.append(request)
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "_leavers", set())


def test_all_that_run_are_asked_first_and_waited_for_then() -> None:
    """They share one deadline, and what they have queued goes out first."""
    leavers = [Leaver(Worker()) for _ in range(3)]
    for leaver in leavers:
        exits.disconnect_at_exit(leaver)
    exits.disconnect_all()
    now = SYSTEM_CLOCK.monotonic()
    for leaver in leavers:
        (request,) = leaver.closed
        assert request.graceful
        assert now < request.deadline <= now + exits.PATIENCE
        assert 0 < leaver.worker.joined[0] <= exits.PATIENCE


def test_what_does_not_go_out_is_told() -> None:
    """Also of one that rests; and whatever goes wrong with that, it is the end of the program."""
    told: list[str] = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="WARNING")
    logger.enable("tunnel")
    done, broken, left = Leaver(Worker()), Leaver(Worker()), Leaver(Worker(is_running=False))
    broken.left, left.left = "broken", "3 not sent"
    for leaver in (done, broken, left):
        exits.disconnect_at_exit(leaver)
    exits.disconnect_all()
    logger.disable("tunnel")
    logger.remove(sink)
    assert told == ["the program ends; messages of <a tunnel> are left: 3 not sent"]


def test_what_rests_or_is_anothers_is_left_alone() -> None:
    """No thread is started for what has none, and a forked child ends nothing of its parent's."""
    resting = Leaver(Worker(is_running=False))
    driven = Leaver(Worker(is_threaded=False))
    inherited = Leaver(Worker())
    closed = inherited.closed
    disown(inherited)
    for leaver in (resting, driven, inherited):
        exits.disconnect_at_exit(leaver)
    exits.disconnect_all()
    assert not resting.closed
    assert not driven.closed
    assert not closed


def test_what_has_just_ended_is_not_waited_for() -> None:
    """At the end of the program no thread can be started any more; that is no error here."""
    leaver = Leaver(Worker(), ResourceExhaustedError("no thread"))
    exits.disconnect_at_exit(leaver)
    exits.disconnect_all()
    assert leaver.closed
    assert not leaver.worker.joined
