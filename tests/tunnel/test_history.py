from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.errors import ConnectionLostError, MaxReconnectAttemptsExceededError
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.history import History, Sample, Step, inferred_steps, steps_of
from tunnel.lifecycle import TunnelConnectionState
from tunnel.testing import FakeClock

_S = TunnelConnectionState
_Type = ConnectionEventType
BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


def tracker_after(*triggers: str, max_events: int = 100) -> ConnectionStateTracker:
    """A tracker that went through so many changes, one a second."""
    clock = FakeClock()
    tracker = ConnectionStateTracker(max_events, clock=clock)
    for trigger in triggers:
        clock.advance(1.0)
        error = ConnectionLostError("gone") if trigger == "lost" else None
        if trigger == "exhausted":
            error = MaxReconnectAttemptsExceededError(attempts=1)
        tracker.fire(trigger, **({} if error is None else {"error": error}))
    return tracker


ALL = ("connect", "opened", "lost", "recover", "opened", "close", "closed")


def event(type: _Type, second: float = 0.0, **metadata: Any) -> ConnectionEvent:
    return ConnectionEvent(type, BEGIN + timedelta(seconds=second), "text", metadata)


def test_a_trackers_json_is_a_history() -> None:
    """Its events tell the same steps that its machine has recorded."""
    tracker = tracker_after(*ALL)
    history = History.from_json(tracker.to_json())
    assert history.steps == steps_of(tracker.machine.history)
    assert [step.trigger for step in history.steps] == list(ALL)
    assert history.tracker.state is _S.DISCONNECTED
    assert history.samples == ()


def test_the_beginning_of_a_cut_history_is_not_made_up() -> None:
    """When older events were dropped, the state before the first that is left is not known."""
    tracker = tracker_after(*ALL, max_events=4)
    history = History.from_json(tracker.to_json())
    assert [step.trigger for step in history.steps] == ["opened", "close", "closed"]


def test_what_is_no_change_of_state_is_no_step() -> None:
    """An error that was only noted, a health check and another attempt leave the state alone."""
    events = [
        event(_Type.CONNECTING),
        event(_Type.CONNECTED),
        event(_Type.DISCONNECTED, error={"code": "X"}),
        event(_Type.ERROR, error={"code": "X"}),
        event(_Type.RECONNECTING, attempt=1),
        event(_Type.HEALTH_CHECK),
        event(_Type.RECONNECTING, attempt=2),
        event(_Type.RECONNECTED),
    ]
    steps = inferred_steps(events, _S.DISCONNECTED)
    assert [step.trigger for step in steps] == ["connect", "opened", "lost", "recover", "opened"]


@pytest.mark.parametrize(("metadata", "trigger"), [({"error": {}}, "dial_failed"), ({}, "cancel")])
def test_an_error_tells_a_failure_from_a_wish(metadata: dict[str, Any], trigger: str) -> None:
    """Of two rows between the same states, an event with an error means the failure."""
    (step,) = inferred_steps([event(_Type.DISCONNECTED, **metadata)], _S.CONNECTING)
    assert step.trigger == trigger


def test_a_history_survives_json() -> None:
    """Steps and samples come back as they were, and a tracker can be made of it, too."""
    tracker = tracker_after("connect", "opened")
    saved = History.from_json(tracker.to_json())
    history = History(
        saved.tracker,
        (Step(1.5, "connect", "disconnected", "connecting"),),
        (Sample(1.0, 0), Sample(2.0, 7, 0.05)),
    )
    assert History.from_json(history.to_json()) == history
    assert ConnectionStateTracker.from_json(history.to_json()).state is _S.CONNECTED


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps": [[1.0, "fly", "disconnected", "connecting"]]}, "no trigger 'fly'"),
        ({"steps": [[1.0, "lost", "disconnected", "connecting"]]}, "does not leave"),
        ({"steps": [[1.0, "connect", "disconnected", "moon"]]}, "no state 'moon'"),
        ({"steps": [[True, "connect", "disconnected", "connecting"]]}, "no number of seconds"),
        ({"steps": [[1.0]]}, "damaged"),
        ({"steps": 5}, "damaged"),
        ({"samples": [[1.0, -1, None]]}, "no length of a queue"),
        ({"samples": [["x", 1, None]]}, "no number of seconds"),
        ({"samples": [[1e300, 1, None]]}, "no number of seconds"),
        ({"samples": [[float("nan"), 1, None]]}, "no number of seconds"),
        ({"samples": [[1.0, 1, -0.1]]}, "no number of seconds"),
        ({"steps": [], "has_dropped": 1}, "damaged"),
        ({"version": 99}, "version"),
    ],
)
def test_damage_is_named(change: dict[str, Any], text: str) -> None:
    """What is no history is refused with a sentence that says what is wrong in it."""
    data = json.loads(tracker_after().to_json()) | change
    with pytest.raises(ValueError, match=text):
        History.from_json(json.dumps(data))


def test_a_history_knows_whether_it_is_cut() -> None:
    """By what was dropped, by its first step, or by its state if there is no step."""
    assert not History.from_json(tracker_after().to_json()).is_cut
    assert not History.from_json(tracker_after(*ALL).to_json()).is_cut
    for kept in range(len(ALL)):
        history = History.from_json(tracker_after(*ALL, max_events=kept).to_json())
        assert history.is_cut
        assert History.from_json(history.to_json()) == history
    whole = History.from_json(tracker_after(*ALL).to_json())
    assert History(whole.tracker, whole.steps[1:]).is_cut
    up = History.from_json(tracker_after("connect", "opened").to_json())
    assert History(up.tracker, ()).is_cut


def test_its_period_is_that_of_all_that_is_known() -> None:
    """Of steps, events and samples."""
    history = History.from_json(tracker_after("connect", "opened").to_json())
    begin, end = BEGIN.timestamp() + 1, BEGIN.timestamp() + 2
    assert history.period == (begin, end)
    longer = History(history.tracker, history.steps, (Sample(end + 9.0, 0),))
    assert longer.period == (begin, end + 9.0)
    assert History.from_json(tracker_after().to_json()).period is None
