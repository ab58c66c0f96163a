from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from tunnel.clock import Clock
from tunnel.testing import FakeClock


def noting(clock: FakeClock, log: list[float]) -> Callable[[], None]:
    return lambda: log.append(clock.monotonic())


def test_it_is_a_clock() -> None:
    """A new clock stands at a fixed moment and fits wherever a Clock is taken."""
    clock: Clock = FakeClock()
    assert clock.monotonic() == 0.0
    assert clock.time() == datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()
    assert clock.time() == clock.time()


def test_advance_moves_both_readings() -> None:
    """Monotonic and wall time move on together."""
    clock = FakeClock()
    started = clock.time()
    clock.advance(2.5)
    clock.advance(0)
    assert clock.monotonic() == 2.5
    assert clock.time() - started == 2.5


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_advance_refuses_what_is_no_step(seconds: float) -> None:
    """Time neither goes back nor jumps to infinity."""
    clock = FakeClock()
    with pytest.raises(ValueError, match="0 or more seconds"):
        clock.advance(seconds)
    assert clock.monotonic() == 0.0


def test_timers_run_in_order_of_time_then_registration() -> None:
    """Callbacks run at their own time, and those of one time as they were registered."""
    clock = FakeClock()
    ran: list[tuple[str, float]] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: ran.append((name, clock.monotonic()))

    clock.call_at(3.0, note("c"))
    clock.call_at(1.0, note("a"))
    clock.call_at(3.0, note("d"))
    clock.call_at(2.0, note("b"))
    clock.call_at(9.0, note("later"))
    clock.advance(3.0)
    assert ran == [("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 3.0)]
    assert clock.monotonic() == 3.0


@given(st.lists(st.floats(min_value=0, max_value=1e6)), st.floats(min_value=0, max_value=1e6))
def test_due_timers_and_only_those_run(times: list[float], until: float) -> None:
    """Whatever is registered: exactly what is due runs, in order, at its time."""
    clock = FakeClock()
    ran: list[float] = []
    for when in times:
        clock.call_at(when, noting(clock, ran))
    clock.advance(until)
    assert ran == sorted(when for when in times if when <= until)
    assert clock.monotonic() == until


def test_a_timer_of_the_past_is_due_at_once() -> None:
    """What should have run already runs with the next move, and time does not go back for it."""
    clock = FakeClock()
    clock.advance(5.0)
    ran: list[float] = []
    clock.call_at(1.0, noting(clock, ran))
    assert ran == []
    clock.advance(0)
    assert ran == [5.0]


def test_timers_can_register_and_cancel_timers() -> None:
    """A callback's own timers take part in the same move."""
    clock = FakeClock()
    ran: list[float] = []
    doomed = clock.call_at(4.0, noting(clock, ran))

    def tick() -> None:
        ran.append(clock.monotonic())
        clock.call_at(clock.monotonic() + 1.5, tick)
        doomed.cancel()

    clock.call_at(1.0, tick)
    clock.advance(4.0)
    assert ran == [1.0, 2.5, 4.0]


def test_a_cancelled_timer_does_not_run() -> None:
    """Cancelling touches only that timer; doing it twice or too late does nothing."""
    clock = FakeClock()
    ran: list[float] = []
    timers = [clock.call_at(1.0, noting(clock, ran)) for _ in range(3)]
    assert timers[1].when == 1.0
    timers[1].cancel()
    timers[1].cancel()
    clock.advance(1.0)
    timers[0].cancel()
    assert ran == [1.0, 1.0]


@pytest.mark.parametrize("when", [math.nan, math.inf, -math.inf])
def test_a_timer_needs_a_finite_time(when: float) -> None:
    """A timer that could never come, or not be sorted, is refused."""
    with pytest.raises(ValueError, match="finite"):
        FakeClock().call_at(when, print)


def test_what_a_callback_raises_reaches_the_caller() -> None:
    """The clock stays at the failed callback's time, and later timers still run."""
    clock = FakeClock()
    ran: list[float] = []
    clock.call_at(1.0, lambda: 1 // 0)
    clock.call_at(2.0, noting(clock, ran))
    with pytest.raises(ZeroDivisionError):
        clock.advance(5.0)
    assert clock.monotonic() == 1.0
    clock.advance(1.0)
    assert ran == [2.0]


def test_waiting_for_a_set_event_takes_no_time() -> None:
    """An event that is set already is found so at once, and due timers are left alone."""
    clock = FakeClock()
    event = threading.Event()
    event.set()
    clock.call_at(0.0, pytest.fail)
    assert clock.wait(event, 10.0)
    assert clock.wait(event, None)
    assert clock.monotonic() == 0.0


def test_waiting_in_vain_takes_the_whole_timeout() -> None:
    """Virtual time moves on by the timeout, and nobody really waits."""
    clock = FakeClock()
    started = time.perf_counter()
    assert not clock.wait(threading.Event(), 7 * 86400.0)
    assert clock.monotonic() == 7 * 86400.0
    assert time.perf_counter() - started < 5.0


def test_the_shortest_wait_makes_progress() -> None:
    """A loop that waits for what rounding has left of its time comes to an end."""
    clock = FakeClock()
    clock.advance(1e9)
    before = clock.monotonic()
    assert before + 1e-12 == before
    clock.wait(threading.Event(), 1e-12)
    assert clock.monotonic() > before


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_waiting_for_no_time_runs_what_is_due(timeout: float) -> None:
    """A timeout that is over already moves nothing, but timers that are due run."""
    clock = FakeClock()
    event = threading.Event()
    assert not clock.wait(event, timeout)
    clock.call_at(0.0, event.set)
    assert clock.wait(event, timeout)
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize("timeout", [10.0, 4.0, None])
def test_a_wait_ends_when_a_timer_sets_the_event(timeout: float | None) -> None:
    """The wait returns at the moment of the timer, the last moment of the timeout included."""
    clock = FakeClock()
    event = threading.Event()
    ran: list[float] = []
    clock.call_at(3.0, noting(clock, ran))
    clock.call_at(4.0, event.set)
    clock.call_at(4.0, noting(clock, ran))
    assert clock.wait(event, timeout)
    assert clock.monotonic() == 4.0
    assert ran == [3.0]


def test_a_wait_that_would_never_end_is_refused() -> None:
    """Without timeout and timers nothing could set the event: an error instead of a hang."""
    clock = FakeClock()
    clock.call_at(1.0, int)
    with pytest.raises(RuntimeError, match="never end"):
        clock.wait(threading.Event(), None)
    assert clock.monotonic() == 1.0


@pytest.mark.parametrize("timeout", [math.nan, math.inf])
def test_a_wait_needs_a_finite_timeout(timeout: float) -> None:
    """A timeout that time cannot reach is refused."""
    with pytest.raises(ValueError, match="finite"):
        FakeClock().wait(threading.Event(), timeout)


def test_callbacks_cannot_move_the_clock() -> None:
    """Neither advance nor wait works inside a callback, and both do again after it."""
    clock = FakeClock()

    def move() -> None:
        with pytest.raises(RuntimeError, match="callback"):
            clock.advance(1.0)
        with pytest.raises(RuntimeError, match="callback"):
            clock.wait(threading.Event(), 1.0)

    clock.call_at(1.0, move)
    clock.advance(2.0)
    assert clock.monotonic() == 2.0
    clock.advance(1.0)


def test_two_threads_that_move_the_clock_take_turns() -> None:
    """A second thread's move begins when the first one's is over."""
    clock = FakeClock()
    moved: list[float] = []

    def move() -> None:
        clock.advance(1.0)
        moved.append(clock.monotonic())

    thread = threading.Thread(target=move)

    def start() -> None:
        thread.start()
        assert moved == []

    clock.call_at(5.0, start)
    clock.advance(5.0)
    thread.join()
    assert clock.monotonic() == 6.0
    assert moved == [6.0]


def test_it_reads_and_moves_frozen_time() -> None:
    """In a freeze, code that asks the time module and code that asks the clock agree."""
    with freeze_time("2026-03-01 12:00:00") as frozen:
        clock = FakeClock()
        assert clock.monotonic() == time.monotonic()
        assert clock.time() == time.time()
        clock.advance(90.0)
        assert datetime.now(timezone.utc) == datetime(2026, 3, 1, 12, 1, 30, tzinfo=timezone.utc)
        frozen.tick(timedelta(seconds=30))
        assert clock.monotonic() == time.monotonic()
        assert clock.time() == time.time()
        assert not clock.wait(threading.Event(), 0.25)
        assert time.time() == clock.time() == clock.monotonic() == time.monotonic()


def test_timers_run_at_the_frozen_time_they_are_for() -> None:
    """A timer in a freeze sees its own time on every clock, to the microsecond."""
    with freeze_time("2026-03-01 12:00:00"):
        clock = FakeClock()
        due = clock.monotonic() + 1.23456789
        seen: list[tuple[float, float]] = []
        clock.call_at(due, lambda: seen.append((clock.monotonic(), time.time())))
        clock.advance(10)
        assert seen[0][0] == due
        assert seen[0][1] == pytest.approx(due, abs=1e-6)


def test_frozen_time_that_the_test_moves_makes_timers_due() -> None:
    """After a tick by hand the overdue timer runs with the next move of the clock."""
    with freeze_time("2026-03-01") as frozen:
        clock = FakeClock()
        ran: list[float] = []
        clock.call_at(clock.monotonic() + 5, noting(clock, ran))
        frozen.tick(60)
        clock.advance(0)
        assert ran == [time.monotonic()]


def test_monotonic_survives_a_wall_clock_set_back() -> None:
    """When the frozen time is moved back, `time()` follows and `monotonic()` does not."""
    with freeze_time("2026-03-01 12:00:00") as frozen:
        clock = FakeClock()
        before = clock.monotonic()
        frozen.move_to("2026-03-01 09:00:00")
        assert clock.monotonic() == before
        assert clock.time() == time.time()
        clock.advance(10.0)
        assert clock.monotonic() == before + 10.0
        assert clock.time() == time.time()
        assert datetime.now(timezone.utc).second == 10


def test_monotonic_does_not_jump_when_a_freeze_begins_or_ends() -> None:
    """A clock that is older than the freeze keeps its count, in nested freezes too."""
    clock = FakeClock()
    clock.advance(3.0)
    with freeze_time("2001-01-01"):
        assert clock.monotonic() == 3.0
        clock.advance(1.0)
        with freeze_time("2030-01-01"):
            clock.advance(1.0)
            assert clock.time() == time.time()
        assert clock.monotonic() == 5.0
    clock.advance(1.0)
    assert clock.monotonic() == 6.0
    assert clock.time() == FakeClock().time() + 6.0


def test_ticking_freezes_are_followed() -> None:
    """In a freeze whose time runs on by itself, the clock reads and moves that time."""
    with freeze_time("2026-03-01", tick=True):
        clock = FakeClock()
        before = clock.monotonic()
        clock.advance(3600.0)
        assert clock.monotonic() >= before + 3600.0
        assert time.time() >= before + 3600.0
        clock.advance(3600.0)
        assert time.time() >= before + 7200.0


def test_importing_it_needs_neither_pytest_nor_freezegun() -> None:
    """A program without the test tools can import and use the clock."""
    program = (
        "import sys\n"
        "sys.modules['pytest'] = sys.modules['freezegun'] = None\n"
        "from tunnel.testing import FakeClock\n"
        "clock = FakeClock(); clock.advance(1.0); assert clock.monotonic() == 1.0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_events_set_by_other_threads_count() -> None:
    """Another thread may set the event that the next look at it finds."""
    clock = FakeClock()
    event = threading.Event()

    def let_others_in() -> None:
        thread = threading.Thread(target=event.set)
        thread.start()
        thread.join()

    clock.call_at(1.0, let_others_in)
    assert clock.wait(event, 5.0)
    assert clock.monotonic() == 1.0
