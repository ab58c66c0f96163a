"""Follows one tunnel for as long as somebody wants its history, with samples at even intervals."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from statemachine import Record
from tunnel.clock import Clock
from tunnel.events import ConnectionEvent
from tunnel.history import REMEMBERED, History, Sample, Step, steps_of
from tunnel.service import TunnelService
from tunnel.timers import TimerHandle, timers_of
from tunnel.tracker_snapshot import TrackerSnapshot

__all__ = ["Recording"]

_T = TypeVar("_T")
_KEPT = 10_000  # of events, steps and samples each; some hundred bytes each


class Recording:
    """Records what a tunnel goes through; a context manager that stops at its end.

    It begins with what the tunnel itself still remembers. The latest 10,000 events, steps and
    samples are kept, which takes some megabytes at most. Safe to use from any thread.

    Args:
        service: The tunnel.
        interval: Seconds between two samples of queue and round trip, taken on the thread of all
            timers; one is taken with each event, too.
        clock: Where the samples' times come from; None: the service's own, as those of its events.

    Raises:
        ValueError: `interval` is not more than 0.
    """

    def __init__(
        self, service: TunnelService, interval: float = 0.25, *, clock: Clock | None = None
    ) -> None:
        if not interval > 0:
            raise ValueError(f"interval must be more than 0 seconds, not {interval}")
        self._service = service
        self._interval = interval
        self._clock = service._clock if clock is None else clock
        # Appended to by the threads that change the tunnel and by that of the timers; a deque needs
        # no lock for that, and is copied until it was not changed meanwhile.
        self._events: deque[ConnectionEvent] = deque(service.tracker.events, _KEPT)
        before = service.tracker.machine.history
        self._has_dropped = len(before) >= REMEMBERED  # there may be no more than that
        self._steps: deque[Step] = deque(steps_of(before), _KEPT)
        self._samples: deque[Sample] = deque(maxlen=_KEPT)
        self._timer: TimerHandle | None = None
        self._is_stopped = False
        self._ends: tuple[Callable[[], None], ...] = (
            service.subscribe(self._on_event),
            service.tracker.machine.subscribe(self._on_record),
        )
        self._tick()

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Record no more; what was recorded is kept. Stopping again does nothing."""
        self._is_stopped = True
        for end in self._ends:
            end()
        if self._timer is not None:
            self._timer.cancel()

    def history(self) -> History:
        """Return what was recorded so far."""
        tracker = self._service.tracker
        events = _copied(self._events)
        snapshot = TrackerSnapshot(
            state=tracker.state,
            reconnect_attempts=tracker.reconnect_attempts,
            auto_reconnect=tracker.auto_reconnect,
            max_event_history=_KEPT,
            connection=copy.copy(tracker.connection),
            events=events,
        )
        return History(snapshot, _copied(self._steps), _copied(self._samples), self._has_dropped)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the history as JSON, for `tunnel timeline` and `tunnel diagram --history`.

        Raises:
            OSError: The file cannot be written.
        """
        Path(path).write_text(self.history().to_json() + "\n", encoding="ascii")

    def _on_event(self, event: ConnectionEvent) -> None:
        self._events.append(event)
        self._sample()

    def _on_record(self, record: Record) -> None:
        self._has_dropped = self._has_dropped or len(self._steps) == self._steps.maxlen
        self._steps.extend(steps_of((record,)))

    def _tick(self) -> None:
        if self._is_stopped:
            return
        self._sample()
        when = self._clock.monotonic() + self._interval
        self._timer = timers_of(self._clock).call_at(when, self._tick)

    def _sample(self) -> None:
        numbers = self._service.statistics()
        self._samples.append(
            Sample(self._clock.time(), numbers["queued_requests"], numbers["round_trip"])
        )


def _copied(items: deque[_T]) -> tuple[_T, ...]:
    while True:
        try:
            return tuple(items)
        except RuntimeError:  # something was added in the middle; take the longer one
            continue
