"""What happens to a connection, as values.

An event is recorded once and then only read: it is frozen, and its metadata is checked and copied
when it is made, so that it always survives the way to JSON and back. Which change of state is
recorded as which event, `tunnel.connection_state_tracker` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from types import MappingProxyType, NoneType
from typing import Any

_MAX_DEPTH = 100  # of metadata; deeper nesting is taken for a circle
_IDS = ("connection_id", "dial_id")


class ConnectionEventType(str, Enum):
    """What kind of thing has happened. The value is what JSON, logs and metrics show."""

    CONNECTING = "connecting"  # the first dial begins
    CONNECTED = "connected"  # ... and succeeded
    DISCONNECTED = "disconnected"  # the link is gone, or was never made
    RECONNECTING = "reconnecting"  # metadata: attempt, max_attempts, delay (before that attempt)
    RECONNECTED = "reconnected"  # an attempt succeeded; metadata: attempts
    CLOSING = "closing"  # the application asked for the end
    ERROR = "error"  # something went wrong; metadata: error
    HEALTH_CHECK = "health_check"  # the link was tested; metadata: healthy
    CONFIG_CHANGED = "config_changed"  # the configuration was updated
    NETWORK_CHANGED = "network_changed"  # metadata: is_connected, network_type
    SESSION_LOST = "session_lost"  # the peer no longer knows the session


@dataclass(frozen=True)
class ConnectionEvent:
    """One thing that happened to a connection, at one time.

    Args:
        type: What kind of thing; its value will do.
        timestamp: When; an aware datetime, kept as UTC.
        message: A sentence for people.
        metadata: Facts for programs: what JSON can hold, under string keys. It is copied (tuples
            become lists, as they would on the way through JSON), and cannot be changed afterwards.
        connection_id: The connection that it happened to, if there was one.
        dial_id: The dial of it that had begun last, and so the link that it made; None before the
            first.

    Raises:
        TypeError: The message or an id is no string, or the metadata holds what JSON cannot; the
            text names the key.
        ValueError: The type is unknown, the timestamp naive, or the metadata holds a number that
            JSON cannot (NaN, infinity) or a circle.
    """

    type: ConnectionEventType
    timestamp: datetime
    message: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    connection_id: str | None = None
    dial_id: str | None = None

    def __post_init__(self) -> None:
        if self.timestamp.tzinfo is None:
            raise ValueError("an event's timestamp has to be aware: give it a tzinfo")
        if not isinstance(self.message, str):
            raise TypeError(f"an event's message is a str, not {self.message!r}")
        for name in _IDS:
            if not isinstance(getattr(self, name), (str, NoneType)):
                raise TypeError(f"an event's {name} is a str, not {getattr(self, name)!r}")
        object.__setattr__(self, "type", ConnectionEventType(self.type))
        object.__setattr__(self, "timestamp", self.timestamp.astimezone(timezone.utc))
        object.__setattr__(self, "metadata", MappingProxyType(checked_metadata(self.metadata)))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON; a copy that may be changed. Without ids of None."""
        ids = {name: getattr(self, name) for name in _IDS}
        return {
            "type": self.type.value,
            "timestamp": self.timestamp.isoformat(),
            "message": self.message,
            "metadata": checked_metadata(self.metadata),
            **{name: id for name, id in ids.items() if id is not None},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ConnectionEvent:
        """Return the event that `to_dict` made `data` from.

        Raises:
            ValueError: `data` is nothing that `to_dict` makes.
        """
        try:
            return cls(
                ConnectionEventType(data["type"]),
                datetime.fromisoformat(data["timestamp"]),
                data["message"],
                data["metadata"],
                *(data.get(name) for name in _IDS),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise ValueError(f"this is not an event: {exc!r}") from exc

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy can neither be pickled nor copied; a dict can.
        ids = self.connection_id, self.dial_id
        return type(self), (self.type, self.timestamp, self.message, dict(self.metadata), *ids)


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Copy metadata into what JSON gives back unchanged: dicts, lists, str, numbers, bool, None.

    Raises:
        TypeError: A value or key is of a type that JSON cannot hold; the text names the key.
        ValueError: A number is not finite, or the nesting is a circle; the text names the key.
    """
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata is a mapping, not {metadata!r}")
    return {key: _plain(metadata[key], where) for key, where in _keys(metadata, "metadata")}


def _keys(mapping: Mapping[Any, Any], where: str) -> Iterator[tuple[str, str]]:
    for key in mapping:
        if not isinstance(key, str):
            raise TypeError(f"{where} has the key {key!r}; JSON takes only strings as keys")
        yield key, f"{where}[{key!r}]"


def _plain(value: Any, where: str, depth: int = 1) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where[:200]} is nested too deeply, or contains itself")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # a member of a str enumeration becomes its value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value!r}, a number that JSON cannot hold")
        return float(value)
    if isinstance(value, Mapping):
        return {key: _plain(value[key], place, depth + 1) for key, place in _keys(value, where)}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{n}]", depth + 1) for n, item in enumerate(value)]
    raise TypeError(f"{where} is of type {type(value).__name__}, which JSON cannot hold")
