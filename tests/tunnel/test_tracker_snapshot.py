from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.lifecycle import TunnelConnectionState
from tunnel.tracker_snapshot import TrackerSnapshot, TunnelConnection

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)
S = TunnelConnectionState

FULL = TrackerSnapshot(
    state=S.RECONNECTING,
    reconnect_attempts=3,
    auto_reconnect=True,
    max_event_history=100,
    connection=TunnelConnection(
        "id", "user", "wss://a.example", NOON, NOON + timedelta(seconds=1), S.RECONNECTING, 3, 7
    ),
    events=(
        ConnectionEvent(ConnectionEventType.ERROR, NOON, "text", {"a": [1, {"b": None}]}),
        ConnectionEvent(ConnectionEventType.ERROR, NOON, "text", {}, "id", "id-7"),
    ),
)


def damaged(**changes: Any) -> str:
    return json.dumps({**json.loads(FULL.to_json()), **changes})


def connection(**changes: Any) -> dict[str, Any]:
    return {**json.loads(FULL.to_json())["connection"], **changes}


@pytest.mark.parametrize(
    "snapshot",
    [
        FULL,
        TrackerSnapshot(S.DISCONNECTED, 0, False, 0, None, ()),
        TrackerSnapshot(S.ERROR, 0, False, 5, TunnelConnection("", "", "", state=S.ERROR), ()),
    ],
    ids=["full", "empty", "young"],
)
def test_nothing_is_lost_on_the_way(snapshot: TrackerSnapshot) -> None:
    """Whatever is in it comes out of the JSON again, and the JSON is plain ASCII."""
    text = snapshot.to_json()
    assert text.isascii()
    assert TrackerSnapshot.from_json(text) == snapshot


def test_what_an_earlier_version_has_saved_is_read() -> None:
    """Without the number of dials a connection was not dialled, as far as is known."""
    saved = json.loads(FULL.to_json())
    del saved["connection"]["dials"]
    read = TrackerSnapshot.from_json(json.dumps(saved))
    assert read.connection is not None
    assert (read.connection.dials, read.connection.dial_id) == (0, None)


def test_times_of_other_zones_are_the_same_moments() -> None:
    """A moment written with another offset is read as UTC."""
    read = TrackerSnapshot.from_json(
        damaged(connection=connection(connected_at="2026-03-01T14:00:00.123456+02:00"))
    )
    assert read.connection is not None
    assert read.connection.connected_at == NOON
    assert read.connection.connected_at.tzinfo is timezone.utc


@pytest.mark.parametrize("text", ["", "{", "nonsense", '"text"', "[]", "{}", "null", "[" * 100_000])
def test_what_is_no_saved_tracker_is_refused(text: str) -> None:
    """A clear ValueError, whatever the text is."""
    with pytest.raises(ValueError, match="cannot be read"):
        TrackerSnapshot.from_json(text)


def test_what_is_no_text_is_refused() -> None:
    """Nor is anything else read."""
    with pytest.raises(ValueError, match="cannot be read"):
        TrackerSnapshot.from_json(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_versions_are_refused(version: Any) -> None:
    """The text names the version that was found and the one that is known."""
    with pytest.raises(ValueError, match=f"version {version!r}.*only of 1"):
        TrackerSnapshot.from_json(damaged(version=version))


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "sleeping"},
        {"state": None},
        {"reconnect_attempts": -1},
        {"reconnect_attempts": 1.5},
        {"reconnect_attempts": True},
        {"auto_reconnect": 1},
        {"max_event_history": None},
        {"events": {}},
        {"events": [1]},
        {"events": [{"type": "error"}]},
        {"connection": []},
        {"connection": {"id": "only"}},
        {"connection": connection(id=5)},
        {"connection": connection(connected_at=5)},
        {"connection": connection(connected_at="noon")},
        {"connection": connection(last_activity_at="2026-03-01T12:00:00")},
    ],
)
def test_damage_is_refused(changes: dict[str, Any]) -> None:
    """A value of the wrong kind anywhere is a ValueError that says so."""
    with pytest.raises(ValueError, match="damaged"):
        TrackerSnapshot.from_json(damaged(**changes))


@pytest.mark.parametrize("key", [k for k in json.loads(FULL.to_json()) if k != "version"])
def test_what_is_missing_is_refused(key: str) -> None:
    """Every key is needed."""
    data = json.loads(FULL.to_json())
    del data[key]
    with pytest.raises(ValueError, match=key):
        TrackerSnapshot.from_json(json.dumps(data))
