"""How each tunnel of a process stands, as plain data."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from tunnel.errors import TunnelError
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.history import REMEMBERED, History, attempt_of, steps_of
from tunnel.lifecycle import TunnelConnectionState
from tunnel.roll import enrolled
from tunnel.secrets import scrub
from tunnel.service import TunnelService
from tunnel.status.errors import StatusError
from tunnel.tracker_snapshot import TrackerSnapshot

_A = TypeVar("_A")

_VERSION = 1
_AFTER_AN_ERROR = (
    ConnectionEventType.DISCONNECTED,
    ConnectionEventType.RECONNECTING,
    ConnectionEventType.ERROR,
)


@dataclass(frozen=True)
class LastError:
    """The latest error of a tunnel, which may be over by now.

    Attributes:
        code: Its stable code, such as "TUNNEL_001".
        message: What happened.
        time: When, in seconds since the Unix epoch.
    """

    code: str
    message: str
    time: float


@dataclass(frozen=True)
class TunnelStatus:
    """How one tunnel stands. Times are seconds since the Unix epoch, durations seconds.

    Attributes:
        number: Its own in this process, in the order in which they were made.
        name: Its `user_id`, or "tunnel-1" and so on, by its number.
        server_url: Where it leads, without secrets; None before the first `connect`.
        state: Of the lifecycle.
        since: When that was entered; None: it is as it was made.
        attempt: The attempt to reconnect that is waited for or under way; 0: none is.
        max_attempts: After how many the tunnel gives up; None: never.
        next_attempt: When that attempt is made; None: there is none.
        queued: Messages in the queue.
        max_queued: How many it holds.
        unacknowledged: Messages that were sent and are not acknowledged.
        sent: Messages sent since the beginning.
        received: Messages received since the beginning.
        reconnections: How often it came back.
        round_trip: Of the heartbeat's last answered ping on this link; None: there is none.
        quality: How good the connection is: excellent, good, fair, poor or unknown.
        last_error: The latest error that is remembered; None: there is none.
        connection_id: What its log lines and events carry since the latest `connect`; None before
            the first.
    """

    number: int
    name: str
    server_url: str | None
    state: str
    since: float | None
    attempt: int
    max_attempts: int | None
    next_attempt: float | None
    queued: int
    max_queued: int
    unacknowledged: int
    sent: int
    received: int
    reconnections: int
    round_trip: float | None
    quality: str
    last_error: LastError | None
    connection_id: str | None = None


@dataclass(frozen=True)
class ProcessStatus:
    """What a process answers.

    Attributes:
        pid: Its number.
        program: The name of its file, without its arguments.
        time: When it answered, in seconds since the Unix epoch.
        tunnels: All that live, the oldest first.
        histories: Of each of them in the same order, if that was asked for; else empty.
    """

    pid: int
    program: str
    time: float
    tunnels: tuple[TunnelStatus, ...]
    histories: tuple[History, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "version": _VERSION,
            "pid": self.pid,
            "program": self.program,
            "time": self.time,
            "tunnels": [dataclasses.asdict(tunnel) for tunnel in self.tunnels],
            "histories": [history.to_json() for history in self.histories],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProcessStatus:
        """Return what `to_dict` made `data` from.

        Raises:
            StatusError: The process could not answer, or has another version of this package.
        """
        if "error" in data:
            raise StatusError(f"the program answers: {data['error']}")
        if data.get("version") != _VERSION:
            raise StatusError(
                f"the program answers in version {data.get('version')!r}, and this command knows "
                f"{_VERSION}: use the `tunnel` of its own environment"
            )
        try:
            return cls(
                int(data["pid"]),
                str(data["program"]),
                float(data["time"]),
                tuple(_tunnel(tunnel) for tunnel in data["tunnels"]),
                tuple(History.from_json(text) for text in data["histories"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StatusError(f"what the program answers is no status ({error!r})") from error


def _tunnel(data: Mapping[str, Any]) -> TunnelStatus:
    error = data["last_error"]
    last_error = None if error is None else _of_its_types(LastError(**error))
    status = _of_its_types(TunnelStatus(**{**data, "last_error": last_error}))
    TunnelConnectionState(status.state)
    return status


def _of_its_types(answer: _A) -> _A:
    """What came from another process is what is shown, so it has to be what it says."""
    for name, kind in get_type_hints(type(answer)).items():
        value = getattr(answer, name)
        if isinstance(value, bool) or not isinstance(value, kind):
            is_whole = isinstance(value, int) and isinstance(float(value), kind)  # JSON's 1 for 1.0
            if isinstance(value, bool) or not is_whole:
                raise TypeError(f"{name} is {value!r}")
    return answer


def look(*, histories: bool = False) -> ProcessStatus:
    """Look at all tunnels of this process. From any thread; waits for none of them.

    Args:
        histories: Whether to add what each went through.
    """
    members = enrolled(TunnelService)
    return ProcessStatus(
        os.getpid(),
        os.path.basename(sys.argv[0] if sys.argv else "") or "python",
        time.time(),
        tuple(_look_at(number, service) for number, service in members),
        tuple(_history_of(service) for _, service in members) if histories else (),
    )


def _look_at(number: int, service: TunnelService) -> TunnelStatus:
    tracker, numbers = service.tracker, service.statistics()
    state, records, connection = tracker.state, tracker.machine.history, tracker.connection
    is_recovering = state is TunnelConnectionState.RECONNECTING
    attempt, due = _latest_attempt(tracker.events) if is_recovering else (0, None)
    return TunnelStatus(
        number=number,
        name=(scrub(connection.user_id) if connection is not None else "") or f"tunnel-{number}",
        server_url=scrub(connection.server_url) if connection is not None else None,
        state=state.value,
        since=records[-1].time if records else None,
        attempt=attempt,
        max_attempts=service.config.max_reconnect_attempts,
        next_attempt=due,
        queued=numbers["queued_requests"],
        max_queued=service.config.max_queue_size,
        unacknowledged=numbers["unacknowledged"],
        sent=numbers["messages_sent"],
        received=numbers["messages_received"],
        reconnections=numbers["reconnections"],
        round_trip=numbers["round_trip"],
        quality=service.health.quality.value,
        last_error=_last_error(service.last_error, tracker.events),
        connection_id=connection.id if connection is not None else None,
    )


def _latest_attempt(events: tuple[ConnectionEvent, ...]) -> tuple[int, float | None]:
    """The number of the attempt that was announced last, and when it is due; 0: there is none."""
    for event in reversed(events):
        attempt = attempt_of(event)
        if attempt is not None:
            number, delay = attempt
            return number, event.timestamp.timestamp() + delay
    return 0, None


def _last_error(
    present: TunnelError | None, events: tuple[ConnectionEvent, ...]
) -> LastError | None:
    if present is not None and events:
        # It has led to one of these; what else is recorded, such as health checks, is not its time.
        led_to = [event for event in events if event.type in _AFTER_AN_ERROR] or events
        return LastError(present.code, scrub(present.message), led_to[-1].timestamp.timestamp())
    for event in reversed(events):
        error = event.metadata.get("error")
        if isinstance(error, dict) and isinstance(error.get("code"), str):
            message = str(error.get("message", event.message))
            return LastError(scrub(error["code"]), scrub(message), event.timestamp.timestamp())
    return None


def _history_of(service: TunnelService) -> History:
    """Its steps alone: events may hold what an application has put into them."""
    tracker = service.tracker
    state, attempts, connection = tracker.state, tracker.reconnect_attempts, tracker.connection
    if connection is not None:
        connection = dataclasses.replace(
            connection,
            user_id=scrub(connection.user_id),
            server_url=scrub(connection.server_url),
            state=state,
            reconnect_attempts=attempts,
        )
    snapshot = TrackerSnapshot(state, attempts, tracker.auto_reconnect, 0, connection, ())
    steps = steps_of(tracker.machine.history)
    return History(snapshot, steps, has_dropped=len(steps) >= REMEMBERED)
