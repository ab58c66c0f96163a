"""Listens to a tunnel while the demo runs: keeps its books, and lets others wait for a change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from statemachine import Record
from tunnel.demo.journal import Gauges, Journal
from tunnel.demo.ledger import Ledger, Tally
from tunnel.demo.report import Report
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.lifecycle import TunnelConnectionState

_Type = ConnectionEventType
_IN_WORDS = {  # for events that say no more than the state beside them
    "connecting": "the first dial",
    "connected": "the link is up",
    "disconnected": "the link is down",
}


@dataclass(frozen=True)
class Status:
    """How things stand at one moment.

    Attributes:
        seconds: Since the beginning.
        scene: What the demo is doing.
        state: The tunnel's.
        progress: Where an attempt to reconnect stands, in words; empty while there is none.
        gauges: What the tunnel counts.
        tally: What was sent and came back.
        states: The path through the states so far.
    """

    seconds: float
    scene: str
    state: str
    progress: str
    gauges: Gauges
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
        look: Tells what the tunnel counts.
        show: Called with each note, in the thread in which it arises.
    """

    def __init__(self, look: Callable[[], Gauges], show: Callable[[Note], None]) -> None:
        self._look = look
        self._show = show
        self._began = time.monotonic()
        # Guards all below, and is notified of each change. Nobody is called while it is held.
        self._changed = threading.Condition()
        self._ledger = Ledger()
        self._journal = Journal()
        self._scene = "starting a gateway"

    # Told by the tunnel

    def on_message(self, message: str | bytes) -> None:
        """A message came back."""
        with self._changed:
            self._ledger.receive(message)
            self._changed.notify_all()

    def on_state_change(self, record: Record) -> None:
        """The tunnel has entered a state."""
        gauges = self._look()
        with self._changed:
            self._journal.change(record.dest, gauges, time.monotonic())
            self._changed.notify_all()

    def on_event(self, event: ConnectionEvent) -> None:
        """Something has happened to the connection."""
        if event.type is _Type.RECONNECTING:
            text = self._announce(event)
        elif event.type is _Type.RECONNECTED:
            text = self._welcome()
        elif event.type is _Type.SESSION_LOST:
            text = f"the session is lost, messages handed back: {event.metadata['unacknowledged']}"
        else:
            text = _IN_WORDS.get(event.message, _brief(event.message))
        self._tell(text, by_demo=False)

    def _announce(self, event: ConnectionEvent) -> str:
        facts, now = event.metadata, time.monotonic()
        with self._changed:
            self._journal.announce(facts["attempt"], facts["max_attempts"], facts["delay"], now)
            attempt = self._journal.attempt
            self._changed.notify_all()
        assert attempt is not None
        text = attempt.progress(now)
        # Why the first attempt is needed stands in the line above: the loss.
        return text if attempt.number == 1 else f"{text} ({_brief(facts['reason'])})"

    def _welcome(self) -> str:
        with self._changed:
            recoveries = self._journal.recoveries
            if not recoveries:  # it was the first connection that took several attempts
                return "connected"
            latest = recoveries[-1]
        text = f"connected again after {latest.back_after:.2f} s"
        return f"{text}, {latest.queued} queued messages follow" if latest.queued else text

    # Told by the demo

    def next_messages(self, count: int) -> list[str]:
        """Return the next messages to send; they count as sent."""
        with self._changed:
            return [self._ledger.next_message() for _ in range(count)]

    def set_scene(self, scene: str) -> None:
        """Note what the demo is doing from now on."""
        with self._changed:
            self._scene = scene

    def note(self, text: str) -> None:
        """Say what the demo does."""
        self._tell(text, by_demo=True)

    def cut(self, name: str) -> None:
        """Note that the link is about to be cut."""
        with self._changed:
            self._journal.cut(name, time.monotonic())

    def lose_session(self, handed_back: int) -> None:
        """Note that a session could not be resumed, and what it has left unacknowledged."""
        with self._changed:
            self._journal.lose_session(handed_back)

    def send_again(self, handed_back: Iterable[str | bytes]) -> list[str | bytes]:
        """Return those of the messages that have not come back; they count as sent again."""
        with self._changed:
            missing = self._ledger.missing(handed_back)
            self._journal.sent_again += len(missing)
            return missing

    def greet(self, resumed: bool) -> None:
        """Note whether the new link carries the old session."""
        with self._changed:
            self._journal.greet(resumed)

    def sum_up(self) -> None:
        """Say what was sent again since the last recovery."""
        gauges = self._look()
        with self._changed:
            self._journal.count(gauges)
            replayed = self._journal.recoveries[-1].replayed
        self.note(f"replayed: {replayed}; duplicates dropped so far: {gauges.duplicates}")

    def _tell(self, text: str, *, by_demo: bool) -> None:
        self._show(Note(text, self.status(), by_demo))

    # What is known

    @property
    def is_settled(self) -> bool:
        """Whether everything that was sent has come back."""
        with self._changed:
            return self._ledger.is_settled

    @property
    def reconnections(self) -> int:
        """How often the link was lost and came back."""
        with self._changed:
            return len(self._journal.recoveries)

    @property
    def is_recovering(self) -> bool:
        """Whether the lost link is disposed of, and the tunnel works on a new one."""
        with self._changed:
            return self._journal.state == TunnelConnectionState.RECONNECTING

    @property
    def attempt(self) -> int:
        """The number of the attempt to reconnect that is waited for or under way; else 0."""
        with self._changed:
            return 0 if self._journal.attempt is None else self._journal.attempt.number

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition on this recorder holds. It is asked again after each change.

        Returns:
            Whether it holds; False: the time was up.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def status(self) -> Status:
        """Return how things stand."""
        gauges = self._look()
        with self._changed:
            now, attempt = time.monotonic(), self._journal.attempt
            return Status(
                seconds=now - self._began,
                scene=self._scene,
                state=self._journal.state,
                progress="" if attempt is None else attempt.progress(now),
                gauges=gauges,
                tally=self._ledger.tally(),
                states=tuple(self._journal.states),
            )

    def report(self) -> Report:
        """Return what the run has shown."""
        gauges = self._look()
        with self._changed:
            self._journal.count(gauges)
            return Report(
                tally=self._ledger.tally(),
                recoveries=tuple(self._journal.recoveries),
                states=tuple(self._journal.states),
                seconds=time.monotonic() - self._began,
                replayed=gauges.replayed,
                duplicates=gauges.duplicates,
                sessions_lost=self._journal.sessions_lost,
                handed_back=self._journal.handed_back,
                sent_again=self._journal.sent_again,
            )


def _brief(text: str) -> str:
    """What happened, without the details that follow a colon: a line has to hold it."""
    return text.partition(": ")[0]
