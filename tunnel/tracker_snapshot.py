"""A tracked connection as plain data, to JSON and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

from tunnel.events import ConnectionEvent
from tunnel.lifecycle import TunnelConnectionState

_VERSION = 1


@dataclass(slots=True)
class TunnelConnection:
    """Who is connected to what, since when. The tracker keeps it up to date.

    Attributes:
        id: The connection's name; of the application's choice.
        user_id: Whose connection it is.
        server_url: Where it leads, without credentials.
        connected_at: When the link last came up (UTC); None before the first time. A loss keeps it.
        last_activity_at: When something was last heard (UTC). May be set; see
            `ConnectionStateTracker.touch`.
        state: As `ConnectionStateTracker.state`.
        reconnect_attempts: As `ConnectionStateTracker.reconnect_attempts`.
        dials: How often it was dialled.
    """

    id: str
    user_id: str
    server_url: str
    connected_at: datetime | None = None
    last_activity_at: datetime | None = None
    state: TunnelConnectionState = TunnelConnectionState.DISCONNECTED
    reconnect_attempts: int = 0
    dials: int = 0

    @property
    def dial_id(self) -> str | None:
        """The name of the last dial, and of the link that it made; None before the first."""
        return f"{self.id}-{self.dials}" if self.dials else None


class TrackerSnapshot(NamedTuple):
    """All that a tracker knows at one moment, but for its machine's records and its callbacks."""

    state: TunnelConnectionState
    reconnect_attempts: int
    auto_reconnect: bool
    max_event_history: int
    connection: TunnelConnection | None
    events: tuple[ConnectionEvent, ...]

    def to_json(self) -> str:
        """Return it as JSON, plain ASCII on one line."""
        return json.dumps(
            {
                "version": _VERSION,
                "state": self.state.value,
                "reconnect_attempts": self.reconnect_attempts,
                "auto_reconnect": self.auto_reconnect,
                "max_event_history": self.max_event_history,
                "connection": self.connection and _connection_to_dict(self.connection),
                "events": [event.to_dict() for event in self.events],
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> TrackerSnapshot:
        """Return what `to_json` made `text` from.

        Raises:
            ValueError: The text is damaged, or of a version that is not known here.
        """
        try:
            data = json.loads(text)
        except (TypeError, ValueError, RecursionError) as exc:
            raise ValueError(f"a tracker cannot be read from this: it is no JSON ({exc})") from exc
        if not isinstance(data, dict) or "version" not in data:
            raise ValueError("a tracker cannot be read from this: it was not written by to_json")
        if data["version"] != _VERSION:
            raise ValueError(
                f"a tracker of version {data['version']!r} cannot be read, only of {_VERSION}"
            )
        try:
            return cls._from_dict(data)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise ValueError(f"a tracker cannot be read from this: damaged ({exc!r})") from exc

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> TrackerSnapshot:
        state = TunnelConnectionState(data["state"])
        attempts = _count(data, "reconnect_attempts")
        connection = data["connection"]
        if connection is not None:
            connection = _connection_from_dict(connection, state, attempts)
        return cls(
            state,
            attempts,
            _typed(data, "auto_reconnect", bool),
            _count(data, "max_event_history"),
            connection,
            tuple(ConnectionEvent.from_dict(event) for event in _typed(data, "events", list)),
        )


def _connection_to_dict(connection: TunnelConnection) -> dict[str, Any]:
    # State and attempts are the tracker's; the copies in the connection are made from those.
    return {
        "id": connection.id,
        "user_id": connection.user_id,
        "server_url": connection.server_url,
        "connected_at": connection.connected_at and connection.connected_at.isoformat(),
        "last_activity_at": connection.last_activity_at and connection.last_activity_at.isoformat(),
        "dials": connection.dials,
    }


def _connection_from_dict(
    data: Mapping[str, Any], state: TunnelConnectionState, attempts: int
) -> TunnelConnection:
    return TunnelConnection(
        _typed(data, "id", str),
        _typed(data, "user_id", str),
        _typed(data, "server_url", str),
        _moment(data, "connected_at"),
        _moment(data, "last_activity_at"),
        state,
        attempts,
        _count({"dials": 0, **data}, "dials"),  # it is not in what earlier versions have saved
    )


def _moment(data: Mapping[str, Any], key: str) -> datetime | None:
    if data[key] is None:
        return None
    moment = datetime.fromisoformat(data[key])
    if moment.tzinfo is None:
        raise ValueError(f"{key} has no time zone")
    return moment.astimezone(timezone.utc)


def _count(data: Mapping[str, Any], key: str) -> int:
    count: int = _typed(data, key, int)
    if not 0 <= count <= sys.maxsize:
        raise ValueError(f"{key} is out of bounds")
    return count


def _typed(data: Mapping[str, Any], key: str, kind: type) -> Any:
    if type(data[key]) is not kind:  # a bool is no count
        raise TypeError(f"{key} is not of type {kind.__name__}")
    return data[key]
