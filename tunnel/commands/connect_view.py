"""What ``tunnel connect`` shows on standard error: lines for what happens, as text or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

from tunnel.commands.countdown import Attempt
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.pictures.words import round_trip

if TYPE_CHECKING:
    from loguru import Message as LogMessage

_T = ConnectionEventType
_UNTOLD = {_T.HEALTH_CHECK, _T.CONFIG_CHANGED}


@dataclass(frozen=True)
class ConnectStatus:
    """How things stand. Immutable.

    Attributes:
        state: Of the tunnel.
        attempt: What is counted down to, or None.
        queued: Messages that wait to be written.
        unacknowledged: Messages that a resuming server has not acknowledged.
        round_trip: Seconds that the last ping took; None: there was none yet.
        sent: Messages of standard input that were written.
        received: Messages written to standard output.
    """

    state: str
    attempt: Attempt | None = None
    queued: int = 0
    unacknowledged: int = 0
    round_trip: float | None = None
    sent: int = 0
    received: int = 0

    def text(self, now: float) -> str:
        """All of it but the state, in a line.

        Args:
            now: On the clock of the attempt.
        """
        parts = [] if self.attempt is None else [self.attempt.progress(now)]
        parts.append(f"queue {self.queued}")
        if self.unacknowledged:
            parts.append(f"unacknowledged {self.unacknowledged}")
        if self.round_trip is not None:
            parts.append(f"round trip {round_trip(self.round_trip)}")
        return "  ".join([*parts, f"sent {self.sent}", f"received {self.received}"])


@dataclass(frozen=True)
class Summary:
    """How it ended. Immutable.

    Attributes:
        sent: Messages of standard input that were written.
        received: Messages written to standard output.
        reconnections: How often the link came back.
        unsent: Messages that were read from standard input, and never written.
        unknown: Messages that were written, and of which nobody knows whether they arrived.
    """

    sent: int
    received: int
    reconnections: int
    unsent: int
    unknown: int

    @property
    def is_complete(self) -> bool:
        """Whether everything has arrived, as far as the server can tell."""
        return not (self.unsent or self.unknown)

    def text(self) -> str:
        """The same as a sentence."""
        text = f"sent {self.sent}, received {self.received}, reconnections {self.reconnections}"
        if self.unsent:
            text += f"; not sent: {self.unsent}"
        if self.unknown:
            text += f"; perhaps not arrived: {self.unknown}"
        return text


def sentence(event: ConnectionEvent, server: str) -> str | None:
    """What an event says to people; None: nothing worth a line."""
    facts = event.metadata
    if event.type in _UNTOLD:
        return None
    if event.type is _T.RECONNECTING and not facts.get("attempt"):
        return None  # the countdown of the first attempt follows at once
    text = f"{event.type.value}: {event.message}"
    if event.message == event.type.value:
        text = event.message
    if event.type is _T.CONNECTING:
        text += f" to {server}"
    suggestion = (facts.get("error") or {}).get("suggestion")
    if event.type is _T.ERROR and suggestion:
        text += f". {suggestion}"
    return text


class Out(Protocol):
    """Where a view writes to; from any thread, and without waiting."""

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be written."""

    def write(self, text: str) -> object:
        """Have it written."""


class PlainView:
    """Writes lines with the time of day. `event` and `log` are for any thread.

    Args:
        out: Where to.
        server: Its address, as it may be shown.
    """

    wants_round_trip = False
    """Whether it shows what a ping takes, so that one is worth being sent for it alone."""

    def __init__(self, out: Out, server: str) -> None:
        self._out = out
        self._server = server

    def event(self, event: ConnectionEvent) -> None:
        """Something has happened."""
        text = sentence(event, self._server)
        if text is not None:
            self._say(event.timestamp, event.type.value, text)

    def log(self, message: LogMessage) -> None:
        """The library has something to say; a sink for loguru."""
        record = message.record
        self._say(record["time"], "log", f"{record['level'].name.lower()}: {record['message']}")

    def summary(self, summary: Summary) -> None:
        """It is over."""
        self._say(datetime.now(timezone.utc), "summary", summary.text())

    def refresh(self, status: ConnectStatus) -> None:
        """This is how things stand now. Here lines say only what has happened."""

    def close(self) -> None:
        """Nothing more comes."""

    def _say(self, moment: datetime, kind: str, text: str) -> None:
        self._out.write(f"{moment.astimezone():%H:%M:%S} {text}\n")


class JsonView(PlainView):
    """Writes one object a line, each with `timestamp`, `type`, `message` and `metadata`."""

    def event(self, event: ConnectionEvent) -> None:
        """See `PlainView.event`."""
        self._tell(event.timestamp, event.type.value, event.message, event.to_dict()["metadata"])

    def log(self, message: LogMessage) -> None:
        """See `PlainView.log`."""
        record = message.record
        facts = {"level": record["level"].name, "logger": record["name"]}
        self._tell(record["time"].astimezone(timezone.utc), "log", record["message"], facts)

    def summary(self, summary: Summary) -> None:
        """See `PlainView.summary`."""
        self._tell(datetime.now(timezone.utc), "summary", summary.text(), asdict(summary))

    def _tell(self, moment: datetime, kind: str, text: str, metadata: dict[str, Any]) -> None:
        line = {
            "type": kind,
            "timestamp": moment.isoformat(),
            "message": text,
            "metadata": metadata,
        }
        self._out.write(json.dumps(line) + "\n")
