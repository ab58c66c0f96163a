"""What is read back from a file or a variable and was damaged, or made up, since it was written."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunnel.config import TunnelConfig
from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.errors import ConfigurationError
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.queue_log import hidden_pages
from tunnel.queue_rows import Row, counter_row, message_row, number_row
from tunnel.queue_salvage import PAGE_SIZE, mended_header, salvage
from tunnel.request_queue import RequestQueue
from tunnel.testing import FakeClock

moments = st.sampled_from(
    [
        *("2026-01-02T03:04:05+00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
        *("2026-01-02T03:04:05", "2026-W01-1", "12:00", ""),
    ]
)
states = st.sampled_from(["connected", "reconnecting", "error", "closing"])
plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), moments, states
)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def written_state() -> dict[str, Any]:
    """What a tracker has written that has seen something."""
    tracker = ConnectionStateTracker(5, clock=FakeClock())
    tracker.initialize_connection("c", "u", "ws://host/")
    data: dict[str, Any] = json.loads(tracker.to_json())
    moment = "2026-01-02T03:04:05+00:00"
    data["events"].append(
        {"type": "connected", "timestamp": moment, "message": "m", "metadata": {"a": [1, None]}}
    )
    data["connection"]["connected_at"] = moment
    return data


WRITTEN = written_state()


def places(data: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to everything in some JSON."""
    inner = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    return [way] * bool(way) + [p for key, value in inner for p in places(value, (*way, key))]


@st.composite
def damaged_states(draw: st.DrawFn) -> str:
    """The JSON of a tracker with some values replaced, or gone; or with a changed character."""
    data = json.loads(json.dumps(WRITTEN))
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from(places(WRITTEN)))
        with contextlib.suppress(KeyError, IndexError, TypeError):
            inner = functools.reduce(lambda value, key: value[key], way, data)
            if draw(st.booleans()):
                inner[last] = draw(anything)
            else:
                del inner[last]
    text = json.dumps(data)
    if draw(st.booleans()):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.text(max_size=2)) + text[place + draw(st.integers(0, 2)) :]
    return text


def saved_with(place: str, value: object) -> str:
    """The JSON of a tracker with another value at one place."""
    data = json.loads(json.dumps(WRITTEN))
    *way, last = place.split(".")
    functools.reduce(lambda inner, key: inner[key], way, data)[last] = value
    return json.dumps(data)


@pytest.mark.fault("any-saved-state")
@example(saved_with("connection.connected_at", "0001-01-01T00:00:00+14:00"))
@example(saved_with("max_event_history", 10**30))
@given(damaged_states() | anything.map(json.dumps) | st.text())
def test_a_tracker_is_read_or_refused(text: str) -> None:
    """Any text is refused with a ValueError, or is a tracker that writes what it has read."""
    try:
        tracker = ConnectionStateTracker.from_json(text, clock=FakeClock())
    except ValueError:
        return
    written = tracker.to_json()
    assert ConnectionStateTracker.from_json(written, clock=FakeClock()).to_json() == written


@pytest.mark.fault("any-saved-state")
@example(
    {
        "type": "connected",
        "timestamp": "9999-12-31T23:59:59-14:00",
        "message": "",
        "metadata": {},
    }
)
@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(ConnectionEventType) | plain, "timestamp": moments | anything},
        optional={"message": anything, "metadata": anything},
    )
)
def test_an_event_is_read_or_refused(data: dict[str, Any]) -> None:
    """Any mapping is refused with a ValueError, or is an event that writes what it has read."""
    try:
        event = ConnectionEvent.from_dict(data)
    except ValueError:
        return
    assert ConnectionEvent.from_dict(event.to_dict()) == event


NAMES = sorted(TunnelConfig().to_dict())
values = st.one_of(
    anything,
    st.integers(0, 100),
    st.floats(),
    st.sampled_from(["off", "frame", "info", "None", 10**400, "9" * 5000, "1_0", "٣", b"1", {1}]),
    st.lists(st.integers(999, 5000), max_size=3),
)


@pytest.mark.fault("any-saved-state")
@given(st.dictionaries(st.sampled_from(NAMES) | plain, values, max_size=5))
def test_settings_are_read_or_refused(settings: dict[str, Any]) -> None:
    """Any mapping is refused by the documented error, or is a configuration that JSON can hold."""
    try:
        config = TunnelConfig.from_mapping(settings)
    except ConfigurationError:
        return
    assert TunnelConfig.from_mapping(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.fault("any-saved-state")
@given(
    st.dictionaries(
        st.sampled_from(NAMES).map("TUNNEL_{}".format).map(str.upper) | st.text(max_size=9),
        values.map(str),
        max_size=5,
    )
)
def test_variables_are_read_or_refused(environ: dict[str, str]) -> None:
    """The same holds for variables of the environment."""
    with contextlib.suppress(ConfigurationError):
        TunnelConfig.from_env(environ=environ)


@functools.cache
def written_queue() -> tuple[bytes, set[Row]]:
    """The file of a queue with messages of all lengths, of which some are gone; and its rows."""
    rows = [message_row(n, bytes([n]) * (n * 397 % 5000), 1, 1e9) for n in range(1, 30)]
    numbers = [number_row(n, n) for n in range(1, 20)]
    facts = [counter_row(2, 7)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "queue.db"
        RequestQueue(path=path).close()
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA secure_delete=FAST")
            connection.executemany("INSERT INTO messages VALUES (?,?,?,?,?,?)", rows)
            connection.executemany("INSERT INTO numbers VALUES (?,?,?)", numbers)
            connection.executemany("INSERT INTO facts VALUES (?,?,?)", facts)
            connection.execute("DELETE FROM messages WHERE id BETWEEN 8 AND 18")
        return path.read_bytes(), {*rows, *numbers, *facts}


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """The file of a queue with bytes changed, often in its structure, pages moved, or cut."""
    file = bytearray(written_queue()[0])
    pages = len(file) // PAGE_SIZE
    some_page = st.integers(0, pages - 1)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(some_page) * PAGE_SIZE
        kind = draw(st.sampled_from(["bytes", "bytes", "number", "page", "cut"]))
        if kind == "bytes":
            place = start + draw(st.integers(0, 40) | st.integers(0, PAGE_SIZE - 9))
            new = draw(st.binary(min_size=1, max_size=8))
            file[place : place + len(new)] = new
        elif kind == "number":  # of a page, where one may stand
            place = start + draw(st.sampled_from([0, 4, 8, 12, 16, 32, 36]))
            file[place : place + 4] = draw(some_page).to_bytes(4, "big")
        elif kind == "page":
            other = draw(some_page) * PAGE_SIZE
            file[start : start + PAGE_SIZE] = file[other : other + PAGE_SIZE]
        else:
            del file[draw(st.integers(0, len(file))) :]
            file.extend(bytes(max(0, pages * PAGE_SIZE - len(file))))
    return bytes(file)


@pytest.mark.fault("any-saved-state")
@settings(max_examples=1 + settings().max_examples // 5)  # a page without order takes long
@given(damaged_files() | st.binary(max_size=9000))
def test_a_damaged_queue_gives_only_what_was_put_in(file: bytes) -> None:
    """Whatever became of a queue's file, reading it raises nothing and invents nothing."""
    mended_header(file[:100].ljust(100, b"\0"), len(file))
    found = salvage(file, {})
    assert {row for rows in found.rows.values() for row in rows} <= written_queue()[1]


@pytest.mark.fault("any-saved-state")
@given(
    st.binary(min_size=32, max_size=32),
    st.lists(st.tuples(st.binary(min_size=24, max_size=24), st.integers(0, 255)), max_size=4),
    st.integers(0, 4),
)
def test_a_damaged_log_gives_nothing(
    header: bytes, frames: list[tuple[bytes, int]], n: int
) -> None:
    """The log beside a queue's file may hold anything; what no sum proves is not taken from it."""
    log = header + b"".join(head + bytes([fill]) * PAGE_SIZE for head, fill in frames)
    assert hidden_pages(log, min(n, len(frames))) == {}
