from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from freezegun import freeze_time
from loguru import logger

from tunnel.errors import (
    AuthenticationFailedError,
    ConnectRefusedError,
    RateLimitedError,
    TunnelError,
)
from tunnel.log_line import LineLog
from tunnel.reconnection_manager import (
    Backoff,
    ReconnectionAttempt,
    ReconnectionManager,
    ReconnectionOutcome,
)
from tunnel.reconnection_run import AttemptFailed, Progress, ReconnectionRun, RunSettings
from tunnel.testing import FakeClock

REFUSED = ConnectionRefusedError("nobody there")


class Server:
    """Answers one attempt after the other as told; then always the last answer again."""

    def __init__(self, clock: FakeClock, *answers: BaseException | None) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.times: list[float] = []

    def connect(self) -> str:
        self.times.append(self.clock.monotonic())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer
        return "ignored"

    @property
    def waits(self) -> list[float]:
        return [b - a for a, b in zip([0.0, *self.times], self.times, strict=False)]


def plain(clock: FakeClock, **arguments: Any) -> ReconnectionManager:
    """A manager without jitter: 2, 4, 8, 16, 32, 60, 60 ... seconds."""
    return ReconnectionManager(**{"jitter": 0, "clock": clock, **arguments})


def at(clock: FakeClock, when: float, *actions: Callable[[], object]) -> None:
    for action in actions:
        clock.call_at(when, action)


# The run


@pytest.mark.requirement("1.1")
def test_it_waits_then_connects_and_repeats() -> None:
    """The first attempt follows the first delay; after a failure comes the next delay."""
    clock = FakeClock()
    server = Server(clock, REFUSED, OSError("still down"), None)
    manager = plain(clock)
    assert manager.attempt_reconnection(server.connect) is True
    assert server.waits == [2.0, 4.0, 8.0]
    assert manager.outcome is ReconnectionOutcome.SUCCEEDED


@pytest.mark.requirement("1.1")
def test_the_example_of_the_seed() -> None:
    """Ten attempts from 2 s on, capped at 60 s, each with up to 30 % of jitter, then False."""
    lines: list[str] = []
    clock = FakeClock()
    server = Server(clock, REFUSED)
    manager = ReconnectionManager(
        max_attempts=10,
        base_delay=2.0,
        max_delay=60.0,
        on_log=lines.append,
        clock=clock,
        rng=random.Random(1),
    )
    assert manager.attempt_reconnection(server.connect) is False
    assert manager.outcome is ReconnectionOutcome.EXHAUSTED
    for wait, expected in zip(server.waits[:5], [2, 4, 8, 16, 32], strict=True):
        assert expected * 0.7 <= wait <= expected * 1.3
    for wait in server.waits[5:]:
        assert 42.0 - 1e-9 <= wait <= 60.0 + 1e-9
    assert len(server.waits) == len({round(wait, 3) for wait in server.waits}) == 10
    assert lines


def test_delay_for_is_a_plain_draw() -> None:
    """The public draw counts from 1, jitters by the given generator, and remembers nothing."""
    one, two = (ReconnectionManager(rng=random.Random(5)) for _ in range(2))
    backoff, rng = Backoff(), random.Random(5)
    for attempt in (1, 2, 3, 6, 7, 5000):
        expected = backoff.delay(attempt, rng.uniform(-0.3, 0.3))
        assert one.delay_for(attempt) == two.delay_for(attempt) == expected
    with pytest.raises(ValueError, match="counted from 1"):
        one.delay_for(0)


def test_two_managers_draw_different_delays() -> None:
    """Without a generator given each manager has chance of its own."""
    assert len({ReconnectionManager().delay_for(9) for _ in range(20)}) > 1


def test_it_never_gives_up_without_a_maximum() -> None:
    """With max_attempts=None the 3,000th attempt still waits for the cap and can succeed."""
    clock = FakeClock()
    server = Server(clock, *[REFUSED] * 2999, None)
    manager = plain(clock, max_attempts=None)
    assert manager.attempt_reconnection(server.connect)
    assert len(server.times) == 3000
    assert server.waits[-1] == pytest.approx(60.0)


@pytest.mark.parametrize("final", [AuthenticationFailedError(), TypeError("a bug")])
def test_what_is_not_retryable_ends_it_at_once(final: Exception) -> None:
    """A failure that trying again does not mend is the last attempt."""
    clock = FakeClock()
    server = Server(clock, REFUSED, final)
    manager = plain(clock)
    assert not manager.attempt_reconnection(server.connect)
    assert manager.outcome is ReconnectionOutcome.NOT_RETRYABLE
    assert len(server.times) == 2
    assert clock.monotonic() == 6.0
    assert manager.last_error is not None
    assert not manager.last_error.is_retryable


def test_errors_are_classified() -> None:
    """The error of the last attempt is one of the tunnel's own; a success forgets it."""
    clock = FakeClock()
    manager = plain(clock, max_attempts=1)
    assert manager.last_error is None
    manager.attempt_reconnection(Server(clock, REFUSED).connect)
    assert isinstance(manager.last_error, ConnectRefusedError)
    assert manager.last_error.__cause__ is REFUSED
    manager.attempt_reconnection(Server(clock, None).connect)
    assert manager.last_error is None


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass_through(interrupt: type[BaseException]) -> None:
    """What is no Exception ends the run, reaches the caller, and leaves the manager usable."""
    clock = FakeClock()
    manager = plain(clock)
    with pytest.raises(interrupt):
        manager.attempt_reconnection(Server(clock, REFUSED, interrupt()).connect)
    assert manager.outcome is None
    assert manager.attempt_reconnection(Server(clock, None).connect)


def test_a_second_run_at_the_same_time_is_refused() -> None:
    """One manager runs once at a time; the run under way is not disturbed."""
    clock = FakeClock()
    manager = plain(clock)

    def connect() -> None:
        with pytest.raises(RuntimeError, match="under way already"):
            manager.attempt_reconnection(connect)

    assert manager.attempt_reconnection(connect)
    assert manager.statistics()["runs"] == 1


# Attempts and their count


def test_the_current_attempt_is_counted() -> None:
    """During a run it is the attempt that is waited for or made; a success resets it."""
    clock = FakeClock()
    manager = plain(clock, max_attempts=2)
    seen: list[int] = []

    def connect() -> None:
        seen.append(manager.current_attempt)
        raise REFUSED

    assert manager.current_attempt == 0
    manager.attempt_reconnection(connect, before_wait=lambda a: seen.append(-a.attempt))
    assert seen == [-1, 1, -2, 2]
    assert manager.current_attempt == 2
    manager.attempt_reconnection(Server(clock, REFUSED, None).connect)
    assert manager.current_attempt == 0


def test_a_success_resets_the_count_against_the_maximum() -> None:
    """Each run has all its attempts, however many the ones before took."""
    clock = FakeClock()
    manager = plain(clock, max_attempts=3)
    for _ in range(5):
        server = Server(clock, REFUSED, REFUSED, None)
        assert manager.attempt_reconnection(server.connect)
        assert len(server.times) == 3


def first_wait(manager: ReconnectionManager) -> float:
    delays: list[float] = []
    manager.attempt_reconnection(lambda: None, before_wait=lambda a: delays.append(a.delay))
    return delays[0]


def test_a_link_that_does_not_hold_keeps_the_exponent() -> None:
    """A server that accepts and hangs up at once is waited for longer and longer."""
    clock = FakeClock()
    manager = plain(clock, stable_after=30.0)
    waits = []
    for _ in range(7):
        waits.append(first_wait(manager))
        clock.advance(29.0)
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_the_exponent_goes_on_from_the_attempt_that_succeeded() -> None:
    """Two failures and a success in one run: the next run begins with the fourth delay."""
    clock = FakeClock()
    manager = plain(clock)
    manager.attempt_reconnection(Server(clock, REFUSED, REFUSED, None).connect)
    assert first_wait(manager) == 16.0


def test_a_stable_link_resets_the_exponent() -> None:
    """After `stable_after` seconds the delays begin at the base again."""
    clock = FakeClock()
    manager = plain(clock, stable_after=30.0)
    manager.attempt_reconnection(Server(clock, REFUSED, REFUSED, None).connect)
    clock.advance(30.0)
    assert first_wait(manager) == 2.0


def test_a_failed_run_leaves_no_exponent() -> None:
    """A run after one that was given up begins at the base: somebody has asked for it."""
    clock = FakeClock()
    manager = plain(clock, max_attempts=2)
    first_wait(manager)
    manager.attempt_reconnection(Server(clock, REFUSED).connect)
    assert first_wait(manager) == 2.0


# Patience


def test_the_next_wait_is_no_shorter_than_asked() -> None:
    """A server's Retry-After holds for the next wait only, also beyond the cap."""
    clock = FakeClock()
    server = Server(clock, RateLimitedError(retry_after=90.0), REFUSED, None)
    assert plain(clock).attempt_reconnection(server.connect)
    assert server.waits == [2.0, 90.0, 8.0]


def test_a_longer_delay_is_kept() -> None:
    """If the backoff waits longer than was asked for, nothing changes."""
    clock = FakeClock()
    server = Server(clock, REFUSED, REFUSED, RateLimitedError(retry_after=3.0), None)
    assert plain(clock).attempt_reconnection(server.connect)
    assert server.waits == [2.0, 4.0, 8.0, 16.0]


def test_patience_is_spread_upwards() -> None:
    """Clients that were all told 100 s come back between 100 and 130 s, none earlier."""
    waits = []
    for seed in range(300):
        clock = FakeClock()
        manager = ReconnectionManager(clock=clock, rng=random.Random(seed))
        server = Server(clock, RateLimitedError(retry_after=100.0), None)
        manager.attempt_reconnection(server.connect)
        waits.append(server.waits[1])
    assert min(waits) >= 100.0
    assert max(waits) <= 130.0 + 1e-9
    assert max(waits) - min(waits) > 28.0


def test_absurd_patience_is_waited_for_in_parts() -> None:
    """A wait longer than threads can wait at once neither fails nor ends early."""

    class Strict(FakeClock):
        def wait(self, event: threading.Event, timeout: float | None) -> bool:
            assert timeout is None or timeout <= threading.TIMEOUT_MAX
            return super().wait(event, timeout)

    clock = Strict()
    server = Server(clock, RateLimitedError(retry_after=3e10), None)
    plain(clock).attempt_reconnection(server.connect)
    assert server.waits[1] == pytest.approx(3e10)


def test_what_ended_the_link_may_ask_for_patience() -> None:
    """The error given for the run holds for its first wait, and is its reason."""
    clock = FakeClock()
    server = Server(clock, None)
    told: list[ReconnectionAttempt] = []
    plain(clock).attempt_reconnection(
        server.connect,
        error=RateLimitedError("slow down", retry_after=20.0),
        before_wait=told.append,
    )
    assert server.waits == [20.0]
    assert told == [ReconnectionAttempt(1, 10, 20.0, "slow down")]


def test_a_date_is_measured_from_the_clock_in_use() -> None:
    """Exceptions are translated with the time of the manager's clock, not the system's."""
    clock = FakeClock()
    seen: list[float | None] = []

    class Late(Exception):
        pass

    original = TunnelError.from_exception

    def from_exception(exc: Exception, *, now: float | None = None) -> TunnelError:
        seen.append(now)
        return original(exc, now=now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TunnelError, "from_exception", from_exception)
        plain(clock, max_attempts=1).attempt_reconnection(Server(clock, Late()).connect)
    assert seen == [clock.time()]


# Observing


@pytest.mark.requirement("1.5")
def test_each_attempt_is_announced_before_its_wait() -> None:
    """Attempt n of m, in so many seconds, because of what: before the countdown begins."""
    clock = FakeClock()
    told: list[tuple[float, ReconnectionAttempt]] = []
    plain(clock, max_attempts=3).attempt_reconnection(
        Server(clock, REFUSED, OSError("no luck"), None).connect,
        reason="heartbeat timeout",
        before_wait=lambda attempt: told.append((clock.monotonic(), attempt)),
    )
    assert told[0] == (0.0, ReconnectionAttempt(1, 3, 2.0, "heartbeat timeout"))
    assert [(when, a.attempt, a.delay) for when, a in told] == [
        (0.0, 1, 2.0),
        (2.0, 2, 4.0),
        (6.0, 3, 8.0),
    ]
    assert "no luck" in told[2][1].reason


def test_what_before_wait_raises_ends_the_run() -> None:
    """The observer is part of the caller: its exception reaches the caller."""
    clock = FakeClock()
    manager = plain(clock)
    with pytest.raises(ZeroDivisionError):
        manager.attempt_reconnection(lambda: None, before_wait=lambda a: 1 // 0)
    assert manager.attempt_reconnection(lambda: None)


@pytest.mark.requirement("1.10")
def test_every_attempt_is_logged_with_time_and_reason() -> None:
    """One line for each attempt says when, which, and why; to on_log and to the log alike."""
    clock = FakeClock()
    lines: list[str] = []
    logged: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lambda message: logged.append(message.record["message"]), level="INFO")
    try:
        plain(clock, max_attempts=2, on_log=lines.append).attempt_reconnection(
            Server(clock, OSError("{no} luck")).connect, reason="peer {gone}"
        )
    finally:
        logger.remove(sink)
        logger.disable("tunnel")
    attempts = [line for line in lines if " attempt " in line and " in " not in line]
    assert attempts[0] == "2026-01-01T00:00:02.000+00:00 reconnection attempt 1 of 2: peer {gone}"
    assert attempts[1].startswith("2026-01-01T00:00:06.000+00:00 reconnection attempt 2 of 2: ")
    assert "{no} luck" in attempts[1]
    assert len(attempts) == 2
    assert lines[0] == (
        "2026-01-01T00:00:00.000+00:00 next reconnection attempt in 2.0 s: peer {gone}"
    )
    assert lines[-1] == "2026-01-01T00:00:06.000+00:00 reconnection: exhausted"
    assert logged == lines


def test_endless_attempts_are_logged_without_a_maximum() -> None:
    """Without a maximum the line counts on, of nothing."""
    lines: list[str] = []
    clock = FakeClock()
    plain(clock, max_attempts=None, on_log=lines.append).attempt_reconnection(lambda: None)
    assert lines[1].endswith("reconnection attempt 1: the connection was lost")


def test_an_on_log_that_raises_is_harmless() -> None:
    """The application's mistake in a log callback does not end the recovery."""
    manager = plain(FakeClock(), on_log=lambda line: 1 // 0)
    assert manager.attempt_reconnection(lambda: None)


def test_statistics_add_up() -> None:
    """Runs by outcome, attempts, failures and the time waited, over all runs, ready for JSON."""
    clock = FakeClock()
    manager = plain(clock, max_attempts=2)
    fresh = manager.statistics()
    assert fresh["runs"] == fresh["attempts"] == fresh["total_delay"] == 0
    assert fresh["last_attempt_time"] is fresh["last_error"] is None
    manager.attempt_reconnection(Server(clock, REFUSED, None).connect)
    clock.advance(60.0)
    manager.attempt_reconnection(Server(clock, REFUSED).connect)
    manager.attempt_reconnection(Server(clock, AuthenticationFailedError()).connect)
    manager.attempt_reconnection(lambda: None, before_wait=lambda a: manager.cancel())
    assert json.loads(json.dumps(manager.statistics())) == {
        "runs": 4,
        "succeeded": 1,
        "cancelled": 1,
        "exhausted": 1,
        "not_retryable": 1,
        "attempts": 5,
        "failures": 4,
        "total_delay": 14.0,
        "current_attempt": 1,
        "max_attempts": 2,
        "last_attempt_time": "2026-01-01T00:01:14+00:00",
        "last_error": "TUNNEL_002",
    }


def test_the_last_attempt_has_its_time() -> None:
    """The time of the attempt itself, as an aware datetime in UTC; frozen time counts."""
    with freeze_time("2026-05-01 10:00:00"):
        clock = FakeClock()
        manager = plain(clock)
        assert manager.last_attempt_time is None
        manager.attempt_reconnection(lambda: None)
        assert manager.last_attempt_time == datetime(2026, 5, 1, 10, 0, 2, tzinfo=timezone.utc)
        assert manager.last_attempt_time.utcoffset() == timedelta(0)
        assert datetime.now(timezone.utc) == manager.last_attempt_time


# Wishes


def test_cancel_ends_a_wait_at_once() -> None:
    """Nothing more is tried, and no time passes after the wish."""
    clock = FakeClock()
    manager = plain(clock)
    server = Server(clock, REFUSED)
    at(clock, 3.0, manager.cancel)
    assert manager.attempt_reconnection(server.connect) is False
    assert manager.outcome is ReconnectionOutcome.CANCELLED
    assert clock.monotonic() == 3.0
    assert server.times == [2.0]


@pytest.mark.parametrize("error", [REFUSED, AuthenticationFailedError()])
def test_cancel_during_an_attempt_makes_it_the_last(error: Exception) -> None:
    """If the attempt fails, in whatever way, the run was cancelled; nothing is announced."""
    manager = plain(FakeClock(), max_attempts=1)
    told: list[ReconnectionAttempt] = []

    def connect() -> None:
        assert manager.cancel()
        raise error

    assert not manager.attempt_reconnection(connect, before_wait=told.append)
    assert manager.outcome is ReconnectionOutcome.CANCELLED
    assert len(told) == 1


def test_an_attempt_that_succeeds_after_cancel_is_a_success() -> None:
    """The link is there: it would be a lie, and a leak, to say it is not."""
    manager = plain(FakeClock())
    assert manager.attempt_reconnection(lambda: manager.cancel())
    assert manager.outcome is ReconnectionOutcome.SUCCEEDED


def test_wishes_concern_only_the_run_under_way() -> None:
    """Before and after a run nobody listens, and the next run is not affected."""
    clock = FakeClock()
    manager = plain(clock)
    wishes = (manager.cancel, manager.retry_now, manager.pause, manager.unpause)
    assert [wish() for wish in wishes] == [False] * 4
    server = Server(clock, None)
    assert manager.attempt_reconnection(server.connect)
    assert server.waits == [2.0]
    assert [wish() for wish in wishes] == [False] * 4
    clock.advance(60)
    server = Server(clock, None)
    assert manager.attempt_reconnection(server.connect)
    assert server.times == [64.0]


@pytest.mark.requirement("1.8")
def test_retry_now_ends_the_wait_and_counts_anew() -> None:
    """The network is back: the attempt is made at once, as the first of all."""
    clock = FakeClock()
    manager = plain(clock, max_attempts=3)
    server = Server(clock, REFUSED, REFUSED, REFUSED, REFUSED, None)
    told: list[tuple[int, float, str]] = []
    at(clock, 7.0, manager.retry_now)
    assert manager.attempt_reconnection(
        server.connect, before_wait=lambda a: told.append((a.attempt, a.delay, a.reason))
    )
    # 2, 6, then hurried at 7 instead of 14; counted anew: 4 s, 8 s
    assert server.times == [2.0, 6.0, 7.0, 11.0, 19.0]
    assert [(n, delay) for n, delay, _ in told] == [
        (1, 2.0),
        (2, 4.0),
        (3, 8.0),
        (1, 0.0),
        (2, 4.0),
        (3, 8.0),
    ]
    assert told[3][2] == "told to try again at once"


def test_retry_now_in_the_first_wait() -> None:
    """The first attempt is announced once more, now without a delay."""
    clock = FakeClock()
    manager = plain(clock)
    server = Server(clock, None)
    told: list[tuple[int, float]] = []
    at(clock, 0.5, manager.retry_now)
    manager.attempt_reconnection(
        server.connect, before_wait=lambda a: told.append((a.attempt, a.delay))
    )
    assert server.times == [0.5]
    assert told == [(1, 2.0), (1, 0.0)]


def test_retry_now_during_an_attempt_that_fails() -> None:
    """The next attempt follows at once, even if the failed one was the last permitted."""
    clock = FakeClock()
    manager = plain(clock, max_attempts=1)
    times: list[float] = []

    def connect() -> None:
        times.append(clock.monotonic())
        if len(times) < 4:
            assert manager.retry_now()
        raise REFUSED

    assert not manager.attempt_reconnection(connect)
    assert times == [2.0, 2.0, 2.0, 2.0]
    assert manager.outcome is ReconnectionOutcome.EXHAUSTED


def test_hurrying_what_is_hurried_already_counts_once() -> None:
    """The attempt that follows at once fulfils both wishes; the next one has its delay."""
    clock = FakeClock()
    manager = plain(clock)
    server = Server(clock, REFUSED, REFUSED, None)
    at(clock, 1.0, manager.retry_now)
    manager.attempt_reconnection(
        server.connect, before_wait=lambda a: a.delay == 0.0 and manager.retry_now()
    )
    assert server.times == [1.0, 5.0, 13.0]


def test_retry_now_during_an_attempt_that_succeeds_is_forgotten() -> None:
    """The wish is fulfilled; the next run knows nothing of it."""
    clock = FakeClock()
    manager = plain(clock)
    assert manager.attempt_reconnection(lambda: manager.retry_now())
    clock.advance(60)
    assert first_wait(manager) == 2.0


def test_retry_now_does_not_help_against_what_is_not_retryable() -> None:
    """Wrong credentials stay wrong."""
    clock = FakeClock()
    manager = plain(clock)

    def connect() -> None:
        manager.retry_now()
        raise AuthenticationFailedError

    assert not manager.attempt_reconnection(connect)
    assert manager.outcome is ReconnectionOutcome.NOT_RETRYABLE


def test_retry_now_resets_the_exponent_of_earlier_runs() -> None:
    """What the delays had grown to before belongs to the old network."""
    clock = FakeClock()
    manager = plain(clock)
    for _ in range(4):
        first_wait(manager)
    now = clock.monotonic()
    server = Server(clock, REFUSED, None)
    at(clock, now + 1.0, manager.retry_now)
    manager.attempt_reconnection(server.connect)
    assert server.times == [now + 1.0, now + 5.0]


def test_pause_stops_the_countdown() -> None:
    """While the network is gone nothing is tried; what was left of the wait is waited for after."""
    clock = FakeClock()
    manager = plain(clock)
    server = Server(clock, None)
    at(clock, 0.5, manager.pause)
    at(clock, 100.0, manager.pause, manager.unpause)
    assert manager.attempt_reconnection(server.connect)
    assert server.times == [101.5]
    assert manager.statistics()["total_delay"] == 101.5


def test_pause_during_an_attempt_holds_the_next_wait() -> None:
    """The countdown begins when the network is back."""
    clock = FakeClock()
    manager = plain(clock)
    server = Server(clock, REFUSED, None)

    def connect() -> None:
        manager.pause()
        server.connect()

    at(clock, 50.0, manager.unpause)
    assert manager.attempt_reconnection(connect)
    assert server.times == [2.0, 54.0]


def test_retry_now_ends_a_pause() -> None:
    """The network is back: no countdown at all."""
    clock = FakeClock()
    manager = plain(clock)
    server = Server(clock, None)
    at(clock, 1.0, manager.pause)
    at(clock, 10.0, manager.retry_now)
    assert manager.attempt_reconnection(server.connect)
    assert server.times == [10.0]


def test_cancel_ends_a_pause() -> None:
    """A paused run can be called off."""
    clock = FakeClock()
    manager = plain(clock)
    at(clock, 1.0, manager.pause)
    at(clock, 10.0, manager.cancel)
    assert not manager.attempt_reconnection(lambda: None)
    assert clock.monotonic() == 10.0


@pytest.mark.parametrize(
    ("then", "time"), [("retry_now", 9.0), ("unpause", 10.0)], ids=["back", "going on"]
)
def test_the_later_wish_counts(then: str, time: float) -> None:
    """Back and gone again in one moment is gone: the countdown stands, with what was left of it."""
    clock = FakeClock()
    manager = plain(clock)
    server = Server(clock, None)
    at(clock, 1.0, lambda: [manager.retry_now(), manager.pause()])
    at(clock, 9.0, lambda: [manager.pause(), getattr(manager, then)()])
    assert manager.attempt_reconnection(server.connect)
    assert server.times == [time]


@pytest.mark.parametrize(
    ("wish", "outcome", "times"),
    [
        ("cancel", ReconnectionOutcome.CANCELLED, []),
        ("retry_now", ReconnectionOutcome.SUCCEEDED, [0.0]),
        ("pause", ReconnectionOutcome.SUCCEEDED, [72.0]),
        ("unpause", ReconnectionOutcome.SUCCEEDED, [2.0]),
    ],
)
def test_wishes_from_before_wait_hold_for_that_wait(
    wish: str, outcome: ReconnectionOutcome, times: list[float]
) -> None:
    """Whoever is told of an attempt can still decide about it."""
    clock = FakeClock()
    manager = plain(clock)
    server = Server(clock, None)
    at(clock, 70.0, manager.unpause)

    def before_wait(attempt: ReconnectionAttempt) -> None:
        assert getattr(manager, wish)()

    manager.attempt_reconnection(server.connect, before_wait=before_wait)
    assert manager.outcome is outcome
    assert server.times == times


@pytest.mark.parametrize(
    ("moment", "late", "maximum"),
    [
        ("next_delay", False, 3),
        ("next_delay", True, 3),
        ("is_over", False, 2),
        ("is_over", True, 2),
        ("is_over", True, 3),
        ("announce", False, 3),
        ("announce", True, 3),
        ("count_down", False, 3),
    ],
)
@pytest.mark.parametrize("wish", ["cancel", "retry_now"])
def test_a_wish_between_two_questions_is_not_lost(
    moment: str, late: bool, maximum: int, wish: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a wish comes after a failure, it is honoured, or told that it is too late."""
    clock = FakeClock()
    manager = plain(clock, max_attempts=maximum)
    server = Server(clock, REFUSED, REFUSED, None)
    accepted: list[bool] = []
    original = getattr(ReconnectionRun, moment)

    def question(run: ReconnectionRun, *args: float) -> object:
        come = len(server.times) == 2 and not accepted
        if come and not late:
            accepted.append(getattr(manager, wish)())
        try:
            return original(run, *args)
        finally:
            if come and late:
                accepted.append(getattr(manager, wish)())

    monkeypatch.setattr(ReconnectionRun, moment, question)
    manager.attempt_reconnection(server.connect)
    if (moment, late, maximum) == ("is_over", True, 2):
        assert accepted == [False]
        assert manager.outcome is ReconnectionOutcome.EXHAUSTED
    else:
        assert accepted == [True]
        wanted = "CANCELLED" if wish == "cancel" else "SUCCEEDED"
        assert manager.outcome is ReconnectionOutcome[wanted]
        assert clock.monotonic() == 6.0


@pytest.mark.parametrize("stop_first", [False, True])
def test_the_order_of_the_questions_does_not_matter(stop_first: bool) -> None:
    """Whether to stop and how long to wait are asked in either order, by tenacity's version."""
    settings = RunSettings(Backoff(jitter=0), 1, FakeClock(), random.Random(), LineLog(None))
    run: ReconnectionRun

    def connect() -> None:
        assert run.hurry()
        raise REFUSED

    run = ReconnectionRun(settings, Progress(), connect, None, None, None)
    with pytest.raises(AttemptFailed):
        run.attempt()
    if stop_first:
        assert not run.is_over()
        assert run.next_delay() == 0.0
    else:
        assert run.next_delay() == 0.0
        assert not run.is_over()


# Real threads


@pytest.mark.parametrize("wish", ["cancel", "retry_now"])
def test_another_thread_ends_a_real_wait_at_once(wish: str) -> None:
    """On the system's clock a wish from another thread ends a wait of an hour."""
    manager = ReconnectionManager(base_delay=3600.0, max_delay=3600.0)
    waiting = threading.Event()
    result: list[bool] = []

    def run() -> None:
        result.append(
            manager.attempt_reconnection(lambda: None, before_wait=lambda a: waiting.set())
        )

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert waiting.wait(10)
    assert getattr(manager, wish)()
    thread.join(10)
    assert result == [wish == "retry_now"]


def test_no_wish_is_lost_whenever_it_comes() -> None:
    """Cancel races with attempts that fail at once: the run always ends, always cancelled."""
    manager = ReconnectionManager(None, 1e-6, 1e-6)
    attempts = threading.Semaphore(0)

    def connect() -> None:
        attempts.release()
        raise REFUSED

    outcomes: list[ReconnectionOutcome | None] = []
    for _ in range(20):
        thread = threading.Thread(
            target=lambda: outcomes.append(
                None if manager.attempt_reconnection(connect) else manager.outcome
            ),
            daemon=True,
        )
        thread.start()
        attempts.acquire()
        assert manager.cancel()
        thread.join(10)
        assert not thread.is_alive()
        assert manager.outcome is ReconnectionOutcome.CANCELLED
    assert len(outcomes) == 20


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_attempts": 0}, ValueError, "max_attempts is at least 1"),
        ({"max_attempts": 2.5}, TypeError, "max_attempts is an integer"),
        ({"max_attempts": True}, TypeError, "max_attempts is an integer"),
        ({"base_delay": -1}, ValueError, "base_delay"),
        ({"max_delay": 1.0}, ValueError, "max_delay is at least base_delay"),
        ({"jitter": 2}, ValueError, "jitter"),
        ({"stable_after": -1}, ValueError, "stable_after"),
        ({"stable_after": "1"}, TypeError, "stable_after"),
    ],
)
def test_absurd_arguments_are_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """The text names the argument."""
    with pytest.raises(error, match=text):
        ReconnectionManager(**arguments)


def test_the_outcomes_are_plain_words() -> None:
    """Outcomes go into JSON as they are."""
    words: Iterable[str] = [outcome.value for outcome in ReconnectionOutcome]
    assert list(words) == ["succeeded", "cancelled", "exhausted", "not_retryable"]
