"""The circuit breaker: its table, its rules under a clock that stands still, and its threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from statemachine import InvalidTransition, Record, replay
from tunnel.circuit_breaker import BREAKER, Circuit, CircuitBreaker, CircuitState, Permit
from tunnel.errors import CircuitOpenError, ConfigurationError
from tunnel.testing import FakeClock

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker(clock=clock)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


def fail(breaker: CircuitBreaker, times: int = 5) -> None:
    for _ in range(times):
        breaker.record_failure(breaker.allow())


def refused(breaker: CircuitBreaker) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as caught:
        breaker.allow()
    return caught.value


def on_trial(breaker: CircuitBreaker, clock: FakeClock) -> Permit:
    """Open the circuit, let its time pass, and get the trial."""
    fail(breaker)
    clock.advance(60.0)
    permit = breaker.allow()
    assert breaker.state is HALF_OPEN
    return permit


# The table


def test_every_cell_is_decided() -> None:
    """The declaration leaves no cell open, and rests closed."""
    assert BREAKER.complete
    assert BREAKER.name == "circuit_breaker"
    assert BREAKER.initial == CLOSED
    assert set(BREAKER.states) == {"closed", "open", "half_open"}


def test_a_result_while_open_is_a_mistake(breaker: CircuitBreaker) -> None:
    """No call passes an open circuit, so the machine takes no result there."""
    fail(breaker)
    for trigger in ("success", "failure", "no_result"):
        with pytest.raises(InvalidTransition):
            breaker.machine.fire(trigger)


# Opening


@pytest.mark.requirement("5.7")
def test_five_failures_in_a_row_open_the_circuit(breaker: CircuitBreaker) -> None:
    """The fifth, and not the fourth; from then on calls are refused."""
    fail(breaker, 4)
    assert breaker.state is CLOSED
    fail(breaker, 1)
    assert breaker.state is OPEN
    refused(breaker)


@pytest.mark.requirement("5.7")
def test_a_success_in_between_starts_the_count_anew(breaker: CircuitBreaker) -> None:
    """Failures have to be consecutive."""
    fail(breaker, 4)
    breaker.record_success(breaker.allow())
    fail(breaker, 4)
    assert breaker.state is CLOSED
    fail(breaker, 1)
    assert breaker.state is OPEN


@pytest.mark.requirement("5.7")
def test_what_is_ignored_does_not_count(breaker: CircuitBreaker) -> None:
    """It is no failure, and no success either."""
    fail(breaker, 4)
    breaker.record_ignored(breaker.allow())
    assert breaker.state is CLOSED
    fail(breaker, 1)
    assert breaker.state is OPEN


@pytest.mark.requirement("5.7")
def test_calls_may_overlap(breaker: CircuitBreaker) -> None:
    """What counts is the order of the results, not that of the calls."""
    permits = [breaker.allow() for _ in range(20)]
    for permit in permits[:5]:
        breaker.record_failure(permit)
    assert breaker.state is OPEN


def test_a_threshold_of_one() -> None:
    """The first failure opens."""
    breaker = CircuitBreaker(1, 0.5, clock=FakeClock())
    fail(breaker, 1)
    assert refused(breaker).retry_after == 0.5


# Waiting


@pytest.mark.requirement("5.7", "5.8")
def test_a_refusal_says_how_long(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """`retry_after` is what is left of the 60 seconds."""
    fail(breaker)
    assert refused(breaker).retry_after == 60.0
    clock.advance(45.0)
    error = refused(breaker)
    assert error.retry_after == 15.0
    assert "ask again in 15 s" in error.message
    assert error.is_retryable


@pytest.mark.requirement("5.8")
def test_refusals_do_not_put_the_trial_off(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """The circuit is half open to whoever asks 60 s after it opened, not earlier."""
    fail(breaker)
    for _ in range(59):
        clock.advance(1.0)
        refused(breaker)
    clock.advance(0.999)
    refused(breaker)
    clock.advance(0.001)
    assert breaker.state is OPEN, "nobody has asked yet"
    breaker.allow()
    assert breaker.state is HALF_OPEN


# On trial


@pytest.mark.requirement("5.8")
def test_one_trial_at_a_time(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """While one call is on trial, others are refused, for a second."""
    permit = on_trial(breaker, clock)
    for _ in range(3):
        error = refused(breaker)
        assert error.retry_after == 1.0
        assert "half open" in error.message
    clock.advance(3600.0)
    refused(breaker)
    breaker.record_success(permit)
    breaker.allow()


def test_the_hint_is_never_longer_than_the_reset_time_out() -> None:
    """With a reset time-out of 0.1 s nobody is told to wait for a second."""
    clock = FakeClock()
    breaker = CircuitBreaker(1, 0.1, clock=clock)
    fail(breaker, 1)
    clock.advance(0.1)
    permit = breaker.allow()
    assert refused(breaker).retry_after == 0.1
    breaker.record_success(permit)


@pytest.mark.requirement("5.8")
def test_a_trial_that_succeeds_closes_the_circuit(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    """After that it takes five failures again."""
    breaker.record_success(on_trial(breaker, clock))
    assert breaker.state is CLOSED
    fail(breaker, 4)
    assert breaker.state is CLOSED
    fail(breaker, 1)
    assert breaker.state is OPEN


@pytest.mark.requirement("5.8")
def test_a_trial_that_fails_opens_it_for_another_minute(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    """One failure is enough, and the time counts from there."""
    permit = on_trial(breaker, clock)
    clock.advance(30.0)
    breaker.record_failure(permit)
    assert breaker.state is OPEN
    assert refused(breaker).retry_after == 60.0
    clock.advance(60.0)
    breaker.record_success(breaker.allow())
    assert breaker.state is CLOSED


@pytest.mark.requirement("5.8")
def test_a_trial_without_a_result_gives_its_place_back(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    """The next call that asks is the trial; the circuit stays half open."""
    breaker.record_ignored(on_trial(breaker, clock))
    assert breaker.state is HALF_OPEN
    permit = breaker.allow()
    refused(breaker)
    breaker.record_success(permit)
    assert breaker.state is CLOSED


def test_a_trial_that_is_forgotten_gives_its_place_back(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    """A permit that nobody holds any more cannot keep the circuit half open for ever."""
    permit = on_trial(breaker, clock)
    refused(breaker)
    del permit
    breaker.record_success(breaker.allow())
    assert breaker.state is CLOSED


# Late results


@pytest.mark.requirement("5.8")
@pytest.mark.parametrize(
    "report",
    [
        CircuitBreaker.record_success,
        CircuitBreaker.record_failure,
        CircuitBreaker.record_ignored,
    ],
)
def test_late_results_change_nothing(
    breaker: CircuitBreaker, clock: FakeClock, report: Callable[[CircuitBreaker, Permit], None]
) -> None:
    """What began before the circuit opened counts neither while open, nor on trial, nor after."""
    late = [breaker.allow() for _ in range(30)]
    fail(breaker)
    for _ in range(8):
        report(breaker, late.pop())
    assert breaker.state is OPEN
    clock.advance(60.0)
    permit = breaker.allow()
    for _ in range(8):
        report(breaker, late.pop())
    assert breaker.state is HALF_OPEN
    refused(breaker)
    breaker.record_success(permit)
    fail(breaker, 4)
    for _ in range(8):
        report(breaker, late.pop())
    assert breaker.state is CLOSED
    fail(breaker, 1)
    assert breaker.state is OPEN, "a late success is no success of now"


def test_a_result_counts_once(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """What is reported of a call again is dropped."""
    permit = breaker.allow()
    for _ in range(10):
        breaker.record_failure(permit)
    assert breaker.state is CLOSED
    breaker.record_success(breaker.allow())
    trial = on_trial(breaker, clock)
    breaker.record_ignored(trial)
    second = breaker.allow()
    breaker.record_success(trial)
    assert breaker.state is HALF_OPEN
    refused(breaker)
    breaker.record_success(second)


def test_permits_of_another_breaker_mean_nothing(breaker: CircuitBreaker) -> None:
    """Five results of calls elsewhere do not open this circuit."""
    other = CircuitBreaker()
    for _ in range(5):
        breaker.record_failure(other.allow())
    assert breaker.state is CLOSED


# What it takes


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_is_at_least_one(threshold: int) -> None:
    """Otherwise nothing would ever pass."""
    with pytest.raises(ConfigurationError, match="failure_threshold must be at least 1"):
        CircuitBreaker(threshold)


@pytest.mark.parametrize("threshold", [True, 2.0, "5"])
def test_a_threshold_is_an_integer(threshold: int) -> None:
    """Other types are mistakes."""
    with pytest.raises(TypeError, match="failure_threshold must be an int"):
        CircuitBreaker(threshold)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_reset_time_out_is_a_time(seconds: float) -> None:
    """Nothing, less than nothing and for ever are refused."""
    with pytest.raises(ConfigurationError, match="reset_timeout must be finite and more than 0"):
        CircuitBreaker(5, seconds)


def test_the_defaults() -> None:
    """Five failures, a minute, and the system's clock (requirements 5.7 and 5.8)."""
    breaker = CircuitBreaker()
    fail(breaker)
    error = refused(breaker)
    assert error.retry_after is not None
    assert 50.0 < error.retry_after <= 60.0


# Being told


def test_subscribers_are_told_of_each_change(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """In order, and the history obeys the table."""
    told: list[Record] = []
    unsubscribe = breaker.subscribe(told.append)
    breaker.record_failure(on_trial(breaker, clock))
    clock.advance(60.0)
    breaker.record_ignored(breaker.allow())
    breaker.record_success(breaker.allow())
    assert [(r.source, r.dest) for r in told] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("open", "half_open"),
        ("half_open", "half_open"),
        ("half_open", "closed"),
    ]
    assert told == list(breaker.machine.history)
    assert told[1].time - told[0].time == 60.0
    replay(BREAKER, breaker.machine.history)
    unsubscribe()
    unsubscribe()
    fail(breaker)
    assert len(told) == 6


def test_a_subscriber_may_use_the_breaker(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """It is told without a lock; what it causes is told after what it was told of."""
    told: list[str] = []

    def use(record: Record) -> None:
        told.append(f"begin {record.dest}")
        if record.dest == "closed":
            fail(breaker)
        else:
            refused(breaker)
        told.append(f"end {record.dest}")

    trial = on_trial(breaker, clock)
    breaker.subscribe(use)
    breaker.record_success(trial)
    assert told == ["begin closed", "end closed", "begin open", "end open"]
    clock.advance(60.0)
    breaker.allow()
    assert told[4:] == ["begin half_open", "end half_open"]


def test_a_subscriber_that_raises_harms_nobody(breaker: CircuitBreaker, logged: list[str]) -> None:
    """It is logged; the others are told, and the caller hears nothing of it."""
    told: list[Record] = []
    breaker.subscribe(lambda record: 1 / 0)
    breaker.subscribe(told.append)
    fail(breaker)
    assert [record.dest for record in told] == ["open"]
    assert any("ERROR a subscriber failed at the circuit's change to open" in li for li in logged)


def test_an_interrupt_in_a_subscriber_does_not_end_the_telling(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    """A KeyboardInterrupt goes through, and the next change is told."""
    told: list[str] = []

    def interrupted(record: Record) -> None:
        told.append(record.dest)
        if record.dest == "open":
            raise KeyboardInterrupt

    breaker.subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        fail(breaker)
    clock.advance(60.0)
    breaker.record_success(breaker.allow())
    assert told == ["open", "half_open", "closed"]


def test_changes_are_logged(breaker: CircuitBreaker, clock: FakeClock, logged: list[str]) -> None:
    """An opening as a warning, others for information."""
    breaker.record_success(on_trial(breaker, clock))
    assert [line.strip() for line in logged] == [
        "WARNING circuit closed -> open: failure",
        "INFO circuit open -> half_open: call",
        "INFO circuit half_open -> closed: success",
    ]


# Any order of events, against a model in a few lines


class Model:
    """The rules again, as a list of permits and what is known of them."""

    def __init__(self) -> None:
        self.state, self.failures, self.opened, self.trial = CLOSED, 0, 0.0, -1
        self.current: set[int] = set()

    def allow(self, number: int, now: float) -> bool:
        if self.state is OPEN and now >= self.opened + 60.0:
            self.state, self.trial = HALF_OPEN, -1
        if self.state is OPEN or (self.state is HALF_OPEN and self.trial >= 0):
            return False
        if self.state is HALF_OPEN:
            self.trial = number
        self.current.add(number)
        return True

    def report(self, number: int, result: str, now: float) -> None:
        if number not in self.current:
            return
        self.current.discard(number)
        if self.state is HALF_OPEN:
            self.trial = -1
            if result == "success":
                self.move(CLOSED, now)
            elif result == "failure":
                self.move(OPEN, now)
        elif result == "success":
            self.failures = 0
        elif result == "failure":
            self.failures += 1
            if self.failures == 5:
                self.move(OPEN, now)

    def move(self, state: CircuitState, now: float) -> None:
        self.state, self.failures, self.opened = state, 0, now
        self.current.clear()


steps = st.one_of(
    st.just(("allow", 0)),
    st.tuples(st.just("pass"), st.sampled_from([1, 20, 60])),
    st.tuples(st.sampled_from(["success", "no_result"]), st.integers(0, 7)),
    st.tuples(st.just("failure"), st.integers(0, 7)),
    st.tuples(st.just("failure"), st.integers(0, 1)),
)


@pytest.mark.requirement("5.7", "5.8")
@given(st.lists(steps, max_size=60))
def test_any_order_of_events(events: list[tuple[str, int]]) -> None:
    """However calls, results and time follow each other, the circuit does what the rules say."""
    circuit, model = Circuit(5, 60.0, time=lambda: 0.0), Model()
    permits: list[Permit] = []
    now = 0.0
    for name, value in events:
        if name == "pass":
            now += value
        elif name == "allow":
            may_pass = model.allow(len(permits), now)
            try:
                permits.append(circuit.call(now))
            except CircuitOpenError:
                assert not may_pass
            else:
                assert may_pass
        elif value < len(permits):
            number = len(permits) - 1 - value
            model.report(number, name, now)
            circuit.report(permits[number], name, now)
        assert circuit.machine.state == model.state


# Threads


@pytest.mark.requirement("5.8")
def test_of_many_threads_one_gets_the_trial(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """However many ask at once, one passes; the others are refused."""
    fail(breaker)
    clock.advance(60.0)
    permits: list[Permit] = []
    refusals: list[CircuitOpenError] = []
    barrier = threading.Barrier(16)

    def ask() -> None:
        barrier.wait(10.0)
        try:
            permits.append(breaker.allow())
        except CircuitOpenError as error:
            refusals.append(error)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert (len(permits), len(refusals)) == (1, 15)


def test_threads_are_told_in_order() -> None:
    """With many threads that open and close it, each change follows from the one before."""
    breaker = CircuitBreaker(1, 1e-6)
    told: list[Record] = []
    breaker.subscribe(told.append)

    def call(thread: int) -> None:
        for number in range(200):
            try:
                permit = breaker.allow()
            except CircuitOpenError:
                continue
            (breaker.record_failure, breaker.record_success, breaker.record_ignored)[
                (thread + number) % 3
            ](permit)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert told
    assert all(a.dest == b.source for a, b in itertools.pairwise(told))
    assert told[0].source == "closed"
    assert told[-1].dest == breaker.state
