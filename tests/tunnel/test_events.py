from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import FrozenInstanceError
from datetime import datetime, timedelta, timezone
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.events import ConnectionEvent, ConnectionEventType, checked_metadata

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def event(**metadata: Any) -> ConnectionEvent:
    return ConnectionEvent(ConnectionEventType.ERROR, NOON, "text", metadata)


def test_the_types_are_those_of_the_seed_and_more() -> None:
    """The seed's seven types are there; values are the names in lower case."""
    seed = {"connected", "disconnected", "reconnecting", "reconnected", "error"}
    assert seed | {"health_check", "config_changed"} < {t.value for t in ConnectionEventType}
    assert all(t.value == t.name.lower() for t in ConnectionEventType)


def test_an_event_cannot_be_changed() -> None:
    """Neither its fields nor its metadata; and what it was made from does not matter any more."""
    source = {"list": [1]}
    made = ConnectionEvent(ConnectionEventType.CONNECTED, NOON, "hello", source)
    source["list"].append(2)
    source["more"] = []
    assert made.metadata == {"list": [1]}
    with pytest.raises(FrozenInstanceError):
        made.message = "bye"  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.metadata["more"] = 1  # type: ignore[index]


def test_message_and_metadata_may_be_left_out() -> None:
    """A type and a time are enough."""
    bare = ConnectionEvent(ConnectionEventType.CONNECTED, NOON)
    assert bare.message == ""
    assert bare.metadata == {}


def test_timestamps_are_utc() -> None:
    """An aware timestamp of any zone is kept as the same moment in UTC; a naive one is refused."""
    there = timezone(timedelta(hours=5, minutes=30))
    made = ConnectionEvent(ConnectionEventType.ERROR, NOON.astimezone(there))
    assert made.timestamp == NOON
    assert made.timestamp.tzinfo is timezone.utc
    with pytest.raises(ValueError, match="aware"):
        ConnectionEvent(ConnectionEventType.ERROR, datetime(2026, 1, 1))


def test_types_and_messages_are_checked() -> None:
    """The value of a type will do; what is no type, and what is no text, is refused."""
    assert ConnectionEvent("error", NOON).type is ConnectionEventType.ERROR  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="explosion"):
        ConnectionEvent("explosion", NOON)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="message is a str"):
        ConnectionEvent(ConnectionEventType.ERROR, NOON, b"text")  # type: ignore[arg-type]


class Colour(str, Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


def test_metadata_is_brought_into_the_form_that_json_gives_back() -> None:
    """Members of enumerations become their values and tuples lists: nothing differs later."""
    made = event(colour=Colour.RED, level=Level.HIGH, pair=(1, (2,)), flag=True, nothing=None)
    assert made.metadata == {
        "colour": "red",
        "level": 3,
        "pair": [1, [2]],
        "flag": True,
        "nothing": None,
    }
    assert type(made.metadata["colour"]) is str
    assert type(made.metadata["level"]) is int
    assert made.metadata["flag"] is True


circle: dict[str, Any] = {}
circle["again"] = [circle]


@pytest.mark.parametrize(
    ("metadata", "error", "text"),
    [
        ({"when": NOON}, TypeError, r"metadata\['when'\] is of type datetime"),
        ({"a": {"b": [0, {1, 2}]}}, TypeError, r"metadata\['a'\]\['b'\]\[1\] is of type set"),
        ({"data": b"raw"}, TypeError, r"metadata\['data'\] is of type bytes"),
        ({1: "one"}, TypeError, r"metadata has the key 1"),
        ({"a": {None: 0}}, TypeError, r"metadata\['a'\] has the key None"),
        ({"x": math.nan}, ValueError, r"metadata\['x'\] is nan"),
        ({"x": [-math.inf]}, ValueError, r"metadata\['x'\]\[0\] is -inf"),
        (circle, ValueError, r"metadata\['again'\]\[0\].* contains itself"),
        (["a", "b"], TypeError, "metadata is a mapping"),
    ],
)
def test_metadata_that_json_cannot_hold_is_refused(
    metadata: Any, error: type[Exception], text: str
) -> None:
    """The text names the key under which it was found."""
    with pytest.raises(error, match=text):
        ConnectionEvent(ConnectionEventType.ERROR, NOON, "text", metadata)
    with pytest.raises(error, match=text):
        checked_metadata(metadata)


@given(st.sampled_from(ConnectionEventType), st.text(), st.dictionaries(st.text(), json_values))
def test_events_survive_json_without_loss(
    type: ConnectionEventType, message: str, metadata: dict[str, Any]
) -> None:
    """To a dict, to text and back again gives an equal event, to the microsecond."""
    made = ConnectionEvent(type, NOON, message, metadata)
    text = json.dumps(made.to_dict(), allow_nan=False)
    assert ConnectionEvent.from_dict(json.loads(text)) == made
    assert made.metadata == metadata


def test_to_dict_gives_a_copy() -> None:
    """Whoever changes the dict does not change the event."""
    made = event(inner={"list": []})
    made.to_dict()["metadata"]["inner"]["list"].append(1)
    assert made.metadata == {"inner": {"list": []}}
    assert made.to_dict() == {
        "type": "error",
        "timestamp": "2026-03-01T12:00:00.123456+00:00",
        "message": "text",
        "metadata": {"inner": {"list": []}},
    }


def test_ids_survive_json_pickles_and_copies() -> None:
    """An event's ids come back from wherever it was put; without them they are not mentioned."""
    named = ConnectionEvent(ConnectionEventType.ERROR, NOON, "text", {}, "c", "c-1")
    assert named.to_dict()["connection_id"] == "c"
    assert named.to_dict()["dial_id"] == "c-1"
    assert ConnectionEvent.from_dict(named.to_dict()) == named
    assert pickle.loads(pickle.dumps(named)) == copy.deepcopy(named) == named
    assert named != event()
    with pytest.raises(TypeError, match=r"dial_id is a str, not 1"):
        ConnectionEvent(ConnectionEventType.ERROR, NOON, dial_id=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"connection_id": 5},
        {"type": "explosion"},
        {"timestamp": "noon"},
        {"timestamp": "2026-03-01T12:00:00"},
        {"timestamp": 5},
        {"message": None},
        {"metadata": [1]},
        {"metadata": {"x": math.nan}},
    ],
)
def test_damaged_dicts_are_refused(change: dict[str, Any]) -> None:
    """What to_dict never makes is a ValueError, whatever is wrong with it."""
    with pytest.raises(ValueError, match="not an event"):
        ConnectionEvent.from_dict({**event().to_dict(), **change})


@pytest.mark.parametrize("missing", ["type", "timestamp", "message", "metadata"])
def test_incomplete_dicts_are_refused(missing: str) -> None:
    """Every key is needed."""
    data = event().to_dict()
    del data[missing]
    with pytest.raises(ValueError, match=missing):
        ConnectionEvent.from_dict(data)
    with pytest.raises(ValueError, match="not an event"):
        ConnectionEvent.from_dict([])  # type: ignore[arg-type]


def test_events_can_be_copied_pickled_and_put_into_sets() -> None:
    """An event is a value like any other."""
    made = event(inner={"list": [1]})
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made
    assert len({made, copy.copy(made)}) == 1
