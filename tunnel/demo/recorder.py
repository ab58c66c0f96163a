"""Listens to a tunnel while the demo runs: keeps its books, and lets others wait for a change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from statemachine import Record
from tunnel.demo.journal import Attempt, Journal
from tunnel.demo.ledger import Ledger, Tally
from tunnel.demo.report import Report
from tunnel.events import ConnectionEvent, ConnectionEventType

_Type = ConnectionEventType


@dataclass(frozen=True)
class Status:
    """How things stand at one moment.

    Attributes:
        seconds: Since the beginning.
        scene: What the demo is doing.
        state: The tunnel's.
        progress: Where an attempt to reconnect stands, in words; empty while there is none.
        queued: Messages in the queue.
        tally: What was sent and came back.
        states: The path through the states so far.
    """

    seconds: float
    scene: str
    state: str
    progress: str
    queued: int
    tally: Tally
    states: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """Something that happened, to be shown.

    Attributes:
        text: What it was.
        status: How things stood then.
        by_demo: Whether the demo did it, rather than the tunnel.
    """

    text: str
    status: Status
    by_demo: bool


class Recorder:
    """Keeps ledger and journal of one run. Safe to use from any thread.

    Args:
        queue_size: Tells how many messages are queued.
        show: Called with each note, in the thread in which it arises.
    """

    def __init__(self, queue_size: Callable[[], int], show: Callable[[Note], None]) -> None:
        self._queue_size = queue_size
        self._show = show
        self._began = time.monotonic()
        # Guards all below, and is notified of each change. Nobody is called while it is held.
        self._changed = threading.Condition()
        self._ledger = Ledger()
        self._journal = Journal()
        self._scene = "connecting"

    # Told by the tunnel

    def on_message(self, message: str | bytes) -> None:
        """A message came back."""
        with self._changed:
            self._ledger.receive(message)
            self._changed.notify_all()

    def on_state_change(self, record: Record) -> None:
        """The tunnel has entered a state."""
        queued = self._queue_size()
        with self._changed:
            self._journal.change(record.dest, queued, time.monotonic())
            self._changed.notify_all()

    def on_event(self, event: ConnectionEvent) -> None:
        """Something has happened to the connection."""
        text = event.message
        if event.type is _Type.RECONNECTING:
            attempt = self._announce(event)
            text = f"attempt {attempt.number} of {attempt.maximum}"
            text = f"{text}, next in {event.metadata['delay']:.1f} s: {event.metadata['reason']}"
        elif event.type is _Type.RECONNECTED:
            text = self._told_back()
        self._note(text, by_demo=False)

    # Told by the demo

    def next_message(self) -> str:
        """Return the next message to send."""
        with self._changed:
            return self._ledger.next_message()

    def scene(self, title: str) -> None:
        """Something else begins."""
        with self._changed:
            self._scene = title
        self._note(title, by_demo=True)

    def note(self, text: str) -> None:
        """Show what the demo has done."""
        self._note(text, by_demo=True)

    def cut(self, name: str) -> None:
        """The link is about to be cut."""
        with self._changed:
            self._journal.cut(name, time.monotonic())

    # What is known

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition on this recorder holds; asked after each change, with the lock.

        Returns:
            Whether it does; False: the time was up.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout)
