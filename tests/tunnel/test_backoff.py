from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.backoff import Backoff, check_number

SEED = Backoff(base_delay=2.0, max_delay=60.0, jitter=0.3)

policies = st.builds(
    lambda base, factor, jitter: Backoff(base, base * factor, jitter),
    st.floats(min_value=1e-3, max_value=1e3),
    st.floats(min_value=1, max_value=1e4),
    st.floats(min_value=0, max_value=1),
)
parts = st.floats(min_value=-1, max_value=1)
attempts = st.integers(min_value=1, max_value=5000)


@pytest.mark.requirement("1.1")
@pytest.mark.parametrize(("attempt", "delay"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0), (5, 32.0)])
def test_delays_double_below_the_cap(attempt: int, delay: float) -> None:
    """Without a draw the delays are the seed's: 2, 4, 8, 16, 32 s; with one, up to 30 % off."""
    assert SEED.delay(attempt) == delay
    assert SEED.delay(attempt, 0.3) == pytest.approx(delay * 1.3)
    assert SEED.delay(attempt, -0.3) == pytest.approx(delay * 0.7)


@pytest.mark.requirement("1.1")
@pytest.mark.parametrize("attempt", [7, 8, 100, 1024, 1025, 5000, 10**6])
def test_delays_at_the_cap_keep_their_jitter(attempt: int) -> None:
    """However late the attempt: the delay is spread over the 30 % below the cap, and no more."""
    assert SEED.delay(attempt, 0.3) == 60.0
    assert SEED.delay(attempt, 0.0) == pytest.approx(60.0 * 0.85)
    assert SEED.delay(attempt, -0.3) == pytest.approx(60.0 * 0.7)


@pytest.mark.requirement("1.1")
def test_where_only_some_draws_are_clipped_the_others_keep_the_formula() -> None:
    """Attempt 6 (64 s): draws that stay below 60 s give the formula, the others are spread."""
    assert SEED.delay(6, -0.2) == pytest.approx(64 * 0.8)
    assert SEED.delay(6, -0.0625) == 60.0
    assert SEED.delay(6, 0.1) == pytest.approx(60 * (1 - (0.3 - 0.1) / 2))


@given(policies, attempts, parts)
def test_a_delay_is_the_formula_or_below_the_cap(
    policy: Backoff, attempt: int, part: float
) -> None:
    """Never negative, never above the cap, and equal to the formula wherever that is below it."""
    draw = part * policy.jitter
    delay = policy.delay(attempt, draw)
    formula = policy.base_delay * 2.0 ** min(attempt - 1, 1000) * (1 + draw)
    assert 0 <= delay <= policy.max_delay
    if formula <= policy.max_delay:
        assert delay == formula
    else:
        assert delay == policy.max_delay * (1 - (policy.jitter - draw) / 2)
        assert delay >= policy.max_delay * (1 - policy.jitter) * (1 - 1e-12)


@given(policies, parts, parts)
def test_a_larger_draw_waits_longer_at_the_cap(policy: Backoff, one: float, two: float) -> None:
    """Where every draw would be clipped, the delay grows with the draw, and ends at the cap."""
    if policy.jitter == 1:
        return  # the least draw is never above the cap: its formula is 0
    low, high = sorted((one * policy.jitter, two * policy.jitter))
    assert policy.delay(5000, low) <= policy.delay(5000, high)
    assert policy.delay(5000, policy.jitter) == policy.max_delay


@given(policies, attempts, attempts)
def test_delays_never_shrink_from_attempt_to_attempt(policy: Backoff, one: int, two: int) -> None:
    """For the same draw, here none, a later attempt below the cap waits at least as long."""
    early, late = sorted((one, two))
    if policy.base_delay * 2.0 ** min(late - 1, 1000) <= policy.max_delay:
        assert policy.delay(early) <= policy.delay(late)


def test_a_herd_is_spread_evenly_at_the_cap() -> None:
    """Of many clients at the cap, no second of the 18 gets much more than its share."""
    rng = random.Random(7)
    seconds = [0] * 18
    for _ in range(36_000):
        delay = SEED.delay(9, rng.uniform(-0.3, 0.3))
        seconds[min(17, int(delay - 42.0))] += 1
    assert all(1_700 < count < 2_300 for count in seconds)


def test_without_jitter_it_is_the_plain_formula() -> None:
    """With jitter 0 the cap simply clips."""
    plain = Backoff(1.0, 10.0, 0)
    assert [plain.delay(n) for n in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_full_jitter_is_allowed() -> None:
    """With jitter 1 a delay may be anything from nothing to the cap, however late the attempt."""
    full = Backoff(1.0, 10.0, 1)
    assert full.delay(5000, -1.0) == 0.0
    assert full.delay(5000, 1.0) == 10.0
    assert Backoff(1e300, 1e300, 1).delay(5000, -1.0) == 0.0


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_are_counted_from_one(attempt: int) -> None:
    """There is no attempt before the first."""
    with pytest.raises(ValueError, match="counted from 1"):
        SEED.delay(attempt)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"base_delay": 0}, "base_delay is more than 0"),
        ({"base_delay": -1.0}, "base_delay is a finite number"),
        ({"base_delay": math.nan}, "base_delay is a finite number"),
        ({"max_delay": math.inf}, "max_delay is a finite number"),
        ({"base_delay": 5.0, "max_delay": 4.0}, r"max_delay is at least base_delay \(5.0\)"),
        ({"jitter": 1.1}, "jitter is a part of the delay"),
        ({"jitter": -0.1}, "jitter is a finite number"),
    ],
)
def test_absurd_arguments_are_refused(arguments: dict[str, float], text: str) -> None:
    """The text names the argument, its bound and its value."""
    with pytest.raises(ValueError, match=text):
        Backoff(**arguments)


@pytest.mark.parametrize("value", ["2", None, True])
def test_what_is_no_number_is_refused(value: Any) -> None:
    """Neither texts nor truth values are taken for numbers."""
    with pytest.raises(TypeError, match="base_delay is a number"):
        Backoff(base_delay=value)
    with pytest.raises(TypeError, match="anything is a number"):
        check_number("anything", value)
