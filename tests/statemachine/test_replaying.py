from __future__ import annotations

import json
from typing import Any

import pytest

from statemachine import Declaration, Record, replay


def step(trigger: Any, source: Any, dest: Any) -> Record:
    return Record(0.0, trigger, source, dest, {})


GOOD = [
    step("failed", "closed", "closed"),
    step("failed", "closed", "open"),
    step("waited", "open", "half_open"),
    step("succeeded", "half_open", "closed"),
]


def test_a_true_history_obeys(breaker: Declaration) -> None:
    """A history whose records all stand in the table gives a true verdict and its last state."""
    verdict = replay(breaker, GOOD)
    assert verdict
    assert verdict.state == "closed"
    assert str(verdict) == "the history obeys the table"


def test_an_empty_history_obeys(breaker: Declaration) -> None:
    """Nothing happened: the state is the one in which the history had to begin, if given."""
    assert replay(breaker, ())
    assert replay(breaker, ()).state is None
    assert replay(breaker, (), start="open").state == "open"


def test_mappings_do_as_well(breaker: Declaration) -> None:
    """A history read back from JSON is followed like one of records."""
    text = json.dumps([{"trigger": r.trigger, "source": r.source, "dest": r.dest} for r in GOOD])
    assert replay(breaker, json.loads(text)).state == "closed"
    bad = {"trigger": "waited", "source": "closed", "dest": "open", "time": 3}
    assert replay(breaker, [bad]).record is bad


def test_a_bounded_history_may_begin_anywhere(breaker: Declaration) -> None:
    """The first record may leave any state, unless the caller says in which it has to begin."""
    assert replay(breaker, GOOD[2:])
    verdict = replay(breaker, GOOD[2:], start="closed")
    assert (bool(verdict), verdict.index) == (False, 0)
    assert verdict.reason == "it leaves 'open', but the state was 'closed'."
    assert replay(breaker, GOOD, start="closed")


def test_the_start_must_be_a_state(breaker: Declaration) -> None:
    """A start that is not declared is the caller's mistake."""
    with pytest.raises(ValueError, match="no state 'shut', only closed, open"):
        replay(breaker, GOOD, start="shut")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (step("waited", "closed", "open"), "no row leads by 'waited' from 'closed' to 'open'."),
        (
            step("failed", "closed", "retired"),
            "no row leads by 'failed' from 'closed' to 'retired'.",
        ),
        (
            step("succeeded", "closed", "closed"),
            "no row leads by 'succeeded' from 'closed' to 'closed'.",
        ),
        (step("waited", "open", "half_open"), "it leaves 'open', but the state was 'closed'."),
        (step("push", "closed", "open"), "there is no trigger 'push'."),
        (step("failed", "closed", "shut"), "there is no state 'shut'."),
        (step("failed", "shut", "open"), "there is no state 'shut'."),
        (step(None, "closed", "open"), "it has no trigger."),
        ({"trigger": "failed", "dest": "open"}, "it has no source."),
        ({"trigger": "failed", "source": "closed", "dest": ["open"]}, "it has no dest."),
        (17, "it has no trigger."),
    ],
)
def test_the_first_row_that_does_not_obey_is_named(
    breaker: Declaration, bad: Any, reason: str
) -> None:
    """The verdict is false, and names the record, its place, and what is wrong with it."""
    verdict = replay(breaker, [*GOOD, bad, *GOOD[:1], step("nonsense", "a", "b")])
    assert not verdict
    assert (verdict.index, verdict.record, verdict.reason) == (4, bad, reason)
    assert verdict.state == "closed"
    assert str(verdict) == f"record 4 does not obey the table: {reason}"
