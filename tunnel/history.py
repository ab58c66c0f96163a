"""What one tunnel went through, as it can be saved, sent and drawn.

A history is a tracker's JSON (`ConnectionStateTracker.to_json`) with three things more, each of
which may be missing: the steps of the machine, whether earlier ones were dropped, and samples of
queue and round trip. So a tracker's own
JSON is a history, and a tracker can be made from a history.

Without steps they are inferred from the events: the state that an event tells of is entered by a
row of the lifecycle, one by which something goes wrong if the event has an error. An event that no
row explains is no change of state, but only something that was noted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from statemachine import Record
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState
from tunnel.tracker_snapshot import TrackerSnapshot

__all__ = ["History", "Sample", "Step"]

REMEMBERED = 100
"""Changes of state that a tunnel remembers by itself; if there are so many, there may be more."""

_Type = ConnectionEventType
_S = TunnelConnectionState
_END = 253_402_300_800  # of the year 9999, in seconds since the Unix epoch
_STATE_OF = {
    _Type.CONNECTING: _S.CONNECTING,
    _Type.CONNECTED: _S.CONNECTED,
    _Type.RECONNECTED: _S.CONNECTED,
    _Type.DISCONNECTED: _S.DISCONNECTED,
    _Type.RECONNECTING: _S.RECONNECTING,
    _Type.CLOSING: _S.CLOSING,
    _Type.ERROR: _S.ERROR,
}


@dataclass(frozen=True)
class Step:
    """One change of state.

    Attributes:
        time: Seconds since the Unix epoch.
        trigger: What caused it.
        source: The state that was left.
        dest: The state that was entered.
    """

    time: float
    trigger: str
    source: str
    dest: str


@dataclass(frozen=True)
class Sample:
    """What was measured at one moment.

    Attributes:
        time: Seconds since the Unix epoch.
        queued: Messages in the queue.
        round_trip: Seconds that the heartbeat's last answered ping took; None: none was answered on
            the present link, or there is none.
    """

    time: float
    queued: int
    round_trip: float | None = None


@dataclass(frozen=True)
class History:
    """A tunnel's past, oldest first.

    Attributes:
        tracker: State, connection and events.
        steps: Its changes of state.
        samples: What was measured; empty if nothing was.
        has_dropped: Whether whoever kept it has dropped earlier steps.
    """

    tracker: TrackerSnapshot
    steps: tuple[Step, ...] = ()
    samples: tuple[Sample, ...] = ()
    has_dropped: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether there were earlier steps, which are not known any more."""
        if not self.steps:
            return self.has_dropped or self.tracker.state.value != LIFECYCLE.initial
        first = self.steps[0]
        return self.has_dropped or (first.source, first.trigger) != (LIFECYCLE.initial, "connect")

    @property
    def period(self) -> tuple[float, float] | None:
        """When the first and the last of it was, in seconds since the Unix epoch; None: nothing."""
        times = [step.time for step in self.steps] + [sample.time for sample in self.samples]
        times += [event.timestamp.timestamp() for event in self.tracker.events]
        return (min(times), max(times)) if times else None

    def to_json(self) -> str:
        """Return it as JSON, plain ASCII on one line."""
        data = json.loads(self.tracker.to_json())
        data["steps"] = [[s.time, s.trigger, s.source, s.dest] for s in self.steps]
        data["samples"] = [[s.time, s.queued, s.round_trip] for s in self.samples]
        data["has_dropped"] = self.has_dropped
        return json.dumps(data, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> History:
        """Return what `to_json` made `text` from, or `ConnectionStateTracker.to_json`.

        Raises:
            ValueError: The text is damaged, or of a version that is not known here.
        """
        tracker = TrackerSnapshot.from_json(text)
        data = json.loads(text)
        try:
            steps = tuple(_step(*row) for row in data.get("steps", ()))
            samples = tuple(_sample(*row) for row in data.get("samples", ()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"a history cannot be read from this: damaged ({error})") from error
        has_dropped = data.get("has_dropped", False)
        if not isinstance(has_dropped, bool):
            raise ValueError(f"a history cannot be read from this: damaged ({has_dropped!r})")
        if "steps" not in data:
            has_dropped = len(tracker.events) >= tracker.max_event_history
            steps = inferred_steps(tracker.events, None if has_dropped else _S.DISCONNECTED)
        return cls(tracker, steps, samples, has_dropped)


def steps_of(records: Iterable[Record]) -> tuple[Step, ...]:
    """Return a machine's records as steps, without their data."""
    return tuple(Step(r.time, r.trigger, r.source, r.dest) for r in records)


def inferred_steps(
    events: Iterable[ConnectionEvent], state: TunnelConnectionState | None
) -> tuple[Step, ...]:
    """Return the steps that events tell of.

    Args:
        events: Oldest first.
        state: The state before the first; None: not known.
    """
    steps: list[Step] = []
    for event in events:
        dest = _STATE_OF.get(event.type)
        if dest is None or dest is state:
            continue
        if state is not None:
            trigger = _trigger(state, dest, event.metadata)
            if trigger is None:
                continue
            steps.append(Step(event.timestamp.timestamp(), trigger, state.value, dest.value))
        state = dest
    return tuple(steps)


def _trigger(
    source: TunnelConnectionState, dest: TunnelConnectionState, metadata: Mapping[str, Any]
) -> str | None:
    """The row that fits best; a failure if there is an error."""
    fitting = [
        row.trigger
        for row in LIFECYCLE.transitions
        if (row.source, row.dest) == (source.value, dest.value)
    ]
    went_wrong = "error" in metadata
    fitting.sort(key=lambda trigger: (trigger in LIFECYCLE.failures) is not went_wrong)
    return fitting[0] if fitting else None


def _step(time: Any, trigger: Any, source: Any, dest: Any) -> Step:
    if not LIFECYCLE.rows(source, trigger):
        raise ValueError(f"{trigger!r} does not leave {source!r}")
    if dest not in LIFECYCLE.states:
        raise ValueError(f"there is no state {dest!r}")
    return Step(_moment(time), trigger, source, dest)


def _sample(time: Any, queued: Any, round_trip: Any) -> Sample:
    if isinstance(queued, bool) or not isinstance(queued, int) or queued < 0:
        raise ValueError(f"{queued!r} is no length of a queue")
    return Sample(_moment(time), queued, None if round_trip is None else _moment(round_trip))


def _moment(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _END:
        raise ValueError(f"{value!r} is no number of seconds")
    return float(value)


def attempt_of(event: ConnectionEvent) -> tuple[int, float] | None:
    """The attempt that an event announces.

    Returns:
        Its number, and the seconds before it; None: the event is about something else.
    """
    if event.type is not ConnectionEventType.RECONNECTING:
        return None
    number_, delay = event.metadata.get("attempt"), event.metadata.get("delay")
    if not isinstance(number_, int) or not isinstance(delay, (int, float)) or number_ < 1:
        return None  # what an application has recorded, or the change of state itself
    return number_, max(0.0, float(delay))
