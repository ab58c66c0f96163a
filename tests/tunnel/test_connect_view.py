"""What `tunnel connect` tells on standard error."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone
from typing import Any

import pytest
from loguru import logger

from tunnel.commands.connect_view import ConnectStatus, JsonView, PlainView, Summary, sentence
from tunnel.commands.countdown import Attempt
from tunnel.errors import InvalidCredentialsError
from tunnel.events import ConnectionEvent, ConnectionEventType

T = ConnectionEventType
NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)


def event(type: ConnectionEventType, message: str, **metadata: Any) -> ConnectionEvent:
    return ConnectionEvent(type, NOON, message, metadata)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (event(T.CONNECTING, "connecting"), "connecting to ws://h/"),
        (event(T.CONNECTED, "connected"), "connected"),
        (event(T.DISCONNECTED, "connection reset"), "disconnected: connection reset"),
        (event(T.RECONNECTING, "reconnecting", attempt=0), None),
        (
            event(T.RECONNECTING, "attempt 1 of 2 in 3.0 s: lost", attempt=1),
            "reconnecting: attempt 1 of 2 in 3.0 s: lost",
        ),
        (event(T.HEALTH_CHECK, "healthy"), None),
        (
            event(T.ERROR, "no", error=InvalidCredentialsError("no").to_dict()),
            "error: no. Check the token or password; it was not merely expired.",
        ),
    ],
)
def test_events_are_sentences(told: ConnectionEvent, text: str | None) -> None:
    """Each says what has happened; an error says what to do as well; some are not worth a line."""
    assert sentence(told, "ws://h/") == text


@pytest.mark.requirement("1.5")
def test_the_status_counts_down() -> None:
    """Attempt n of m, next in s; queue, what is unacknowledged, and the round trip, if known."""
    status = ConnectStatus("reconnecting", Attempt(3, 10, 107.4), queued=2, sent=5, received=4)
    assert status.text(100.0) == "attempt 3 of 10, next in 7.4 s  queue 2  sent 5  received 4"
    status = ConnectStatus("connected", unacknowledged=1, round_trip=0.0123)
    assert status.text(0) == "queue 0  unacknowledged 1  round trip 12 ms  sent 0  received 0"


def test_the_summary_tells_what_is_missing() -> None:
    """What was not sent, and what perhaps has not arrived."""
    assert Summary(3, 2, 1, 0, 0).text() == "sent 3, received 2, reconnections 1"
    assert Summary(3, 2, 1, 0, 0).is_complete
    short = Summary(3, 2, 1, 4, 5)
    assert short.text().endswith("; not sent: 4; perhaps not arrived: 5")
    assert not short.is_complete


class Out(io.StringIO):
    """Is never held up."""

    is_behind = False


def tell_all(view: PlainView) -> None:
    sink = logger.add(view.log, level="WARNING")
    try:
        view.event(event(T.CONNECTED, "connected", n=1))
        view.event(event(T.HEALTH_CHECK, "healthy"))
        logger.warning("mind {}", "the gap")
        view.refresh(ConnectStatus("connected"))
        view.summary(Summary(1, 2, 0, 0, 0))
        view.close()
    finally:
        logger.remove(sink)


def test_lines_begin_with_the_time() -> None:
    """And go on with the sentence."""
    out = Out()
    tell_all(PlainView(out, "ws://h/"))
    lines = out.getvalue().splitlines()
    assert [line[9:] for line in lines] == [
        "connected",
        "warning: mind the gap",
        "sent 1, received 2, reconnections 0",
    ]
    assert lines[0][:8] == f"{NOON.astimezone():%H:%M:%S}"


def test_json_lines_hold_everything() -> None:
    """Each is an object with timestamp, type, message and metadata."""
    out = Out()
    tell_all(JsonView(out, "ws://h/"))
    objects = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [found["type"] for found in objects] == ["connected", "health_check", "log", "summary"]
    for found in objects:
        assert found.keys() == {"type", "timestamp", "message", "metadata"}
        assert datetime.fromisoformat(found["timestamp"]).tzinfo is not None
    assert objects[0]["metadata"] == {"n": 1}
    assert objects[2]["metadata"]["level"] == "WARNING"
    assert objects[3]["metadata"]["received"] == 2
