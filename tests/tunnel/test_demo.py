from __future__ import annotations

import io
import itertools
import time
from datetime import datetime, timezone

import pytest

from statemachine import Record
from tunnel.demo import live_view, plain_view, recorder
from tunnel.demo.journal import UNEXPECTED, Attempt, Gauges, Journal, Recovery
from tunnel.demo.ledger import Ledger, Tally
from tunnel.demo.recorder import Note, Recorder, Status
from tunnel.demo.report import Report, counts, path
from tunnel.demo.resending import Resending
from tunnel.errors import SessionLostError
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.service import TunnelService

UTC = timezone.utc
LOSS = ("disconnected", "reconnecting", "connected")
STATES = ("disconnected", "connecting", "connected", *LOSS, *LOSS, "closing", "disconnected")
PERFECT = Tally(sent=40, received=40)
RECOVERIES = (
    Recovery("reset", 0.001, 0.5, 1, 9),
    Recovery("silence", 1.98, 3.02, 2, 74, resumed=True, replayed=58),
)
REPORT = Report(
    PERFECT,
    RECOVERIES,
    STATES,
    7.25,
    replayed=60,
    duplicates=1,
    sessions_lost=2,
    handed_back=6,
    sent_again=5,
)
IDLE = Gauges()


# The ledger


def ledger_with(sent: int, *received: str | bytes) -> Tally:
    """The numbers after so many messages and these echoes."""
    ledger = Ledger()
    for _ in range(sent):
        ledger.next_message()
    for message in received:
        ledger.receive(message)
    return ledger.tally()


def test_messages_are_numbered() -> None:
    """Messages count from 1 on, and each counts as sent when it is made."""
    ledger = Ledger()
    assert [ledger.next_message() for _ in range(3)] == ["message 1", "message 2", "message 3"]
    assert ledger.tally() == Tally(sent=3)


def test_everything_back_in_order_is_perfect() -> None:
    """A run in which all came back once and in order has no fault."""
    tally = ledger_with(3, "message 1", "message 2", "message 3")
    assert tally == Tally(sent=3, received=3)
    assert tally.is_perfect
    assert tally.lost == 0


def test_nothing_sent_is_perfect() -> None:
    """Without a message there is nothing to lose."""
    assert ledger_with(0).is_perfect
    assert Ledger().is_settled


def test_what_does_not_come_back_is_lost() -> None:
    """A gap is a loss, but does not make what follows reordered."""
    tally = ledger_with(3, "message 1", "message 3")
    assert (tally.received, tally.lost, tally.reordered) == (2, 1, 0)
    assert not tally.is_perfect


def test_what_comes_back_twice_is_doubled() -> None:
    """A second echo counts as doubled, not as received, wherever it comes."""
    tally = ledger_with(2, "message 1", "message 1", "message 2", "message 1")
    assert (tally.received, tally.duplicated, tally.reordered) == (2, 2, 0)
    assert not tally.is_perfect


def test_what_comes_back_late_is_reordered() -> None:
    """A message behind one that was sent later counts as reordered, and as received."""
    tally = ledger_with(3, "message 2", "message 1", "message 3")
    assert (tally.received, tally.lost, tally.reordered) == (3, 0, 1)
    assert not tally.is_perfect


@pytest.mark.parametrize(
    "message",
    [
        *("message 3", "message 0", "message 01", "message -1", "message \u0661"),  # an Arabic 1
        *("Message 1", "message 1\n", "", b"message 1"),
    ],
)
def test_what_was_never_sent_is_unexpected(message: str | bytes) -> None:
    """Anything but an exact echo is counted apart, and is a fault."""
    tally = ledger_with(2, "message 1", "message 2", message)
    assert tally == Tally(sent=2, received=2, unexpected=1)
    assert not tally.is_perfect


def test_it_is_settled_once_all_are_back() -> None:
    """The ledger is settled exactly while nothing is under way."""
    ledger = Ledger()
    ledger.receive(ledger.next_message())
    assert ledger.is_settled
    late = ledger.next_message()
    assert not ledger.is_settled
    ledger.receive(late)
    assert ledger.is_settled


def test_what_is_missing_is_known() -> None:
    """Of some messages, those are missing that have not come back; what is none of ours, too."""
    ledger = Ledger()
    first, second, third = (ledger.next_message() for _ in range(3))
    ledger.receive(second)
    assert ledger.missing([third, second, first, b"?"]) == [third, first, b"?"]


# The journal


def test_a_recovery_is_measured() -> None:
    """A cut, the notice of it and the way back make one recovery, with attempts and queue."""
    journal = Journal()
    journal.change("connecting", IDLE, now=1.0)
    journal.change("connected", IDLE, now=1.1)
    journal.cut("silence", now=5.0)
    journal.change("disconnected", IDLE, now=7.0)
    journal.change("reconnecting", IDLE, now=7.0)
    journal.announce(1, 10, 0.5, now=7.0)
    journal.announce(2, 10, 1.0, now=7.5)
    journal.change("connected", Gauges(queued=17), now=8.75)
    assert journal.recoveries == [Recovery("silence", 2.0, 1.75, attempts=2, queued=17)]
    assert journal.states == ["disconnected", "connecting", "connected", *LOSS]
    assert journal.state == "connected"
    assert journal.attempt is None


def test_a_loss_without_a_cut_is_unexpected() -> None:
    """A loss that nobody announced is recorded under a name that says so."""
    journal = Journal()
    journal.cut("reset", now=0.0)
    for state in ("connecting", "connected", *LOSS, *LOSS):
        journal.change(state, IDLE, now=1.0)
    assert [recovery.cut for recovery in journal.recoveries] == ["reset", UNEXPECTED]
    assert journal.recoveries[1].noticed_after == 0.0
    assert journal.recoveries[1].attempts == 0


def test_the_first_connection_is_no_recovery() -> None:
    """Attempts before the first connection, and the last goodbye, are not counted."""
    journal = Journal()
    for state in ("connecting", "disconnected", "reconnecting", "connected"):
        journal.change(state, IDLE, now=1.0)
    journal.greet(resumed=False)
    journal.count(IDLE)
    for state in ("closing", "disconnected"):
        journal.change(state, IDLE, now=2.0)
    assert journal.recoveries == []


@pytest.mark.requirement("1.7")
def test_what_is_replayed_belongs_to_the_recovery_before() -> None:
    """A recovery has what was replayed until the next loss, or until it is counted at the end."""
    journal = Journal()
    journal.change("connected", IDLE, now=1.0)
    for replayed in (0, 30):
        for state in LOSS:
            journal.change(state, Gauges(replayed=replayed), now=2.0)
        journal.greet(resumed=True)
    journal.count(Gauges(replayed=35))
    journal.count(Gauges(replayed=37))
    assert [recovery.replayed for recovery in journal.recoveries] == [30, 7]
    assert [recovery.session for recovery in journal.recoveries] == ["resumed", "resumed"]


def test_lost_sessions_are_counted() -> None:
    """Each lost session counts with what it leaves; the recovery has a new one."""
    journal = Journal()
    for state in ("connected", *LOSS):
        journal.change(state, IDLE, now=1.0)
    journal.lose_session(4)
    journal.lose_session(0)
    journal.greet(resumed=False)
    assert (journal.sessions_lost, journal.handed_back) == (2, 4)
    assert journal.recoveries[-1].session == "new"


@pytest.mark.requirement("1.5")
def test_an_attempt_says_where_it_stands() -> None:
    """An attempt is described by its number, and by the seconds left or that it is dialling."""
    journal = Journal()
    journal.announce(2, 10, 1.5, now=100.0)
    assert journal.attempt == Attempt(2, 10, 101.5)
    assert journal.attempt.progress(100.1) == "attempt 2 of 10, next in 1.4 s"
    assert journal.attempt.progress(101.5) == "attempt 2 of 10, dialling"
    assert Attempt(3, None, 5.0).progress(5.0) == "attempt 3, dialling"


# The report


def test_the_verdict_is_good_only_if_nothing_is_wrong() -> None:
    """The sentence at the end names each kind of fault that there was, and no other."""
    assert REPORT.verdict == "Nothing was lost, doubled or reordered."
    faulty = Report(Tally(5, 3, 1, 0, 4), (), ("disconnected",), 1.0)
    assert faulty.verdict == "Messages lost: 2, doubled: 1, never sent, but received: 4."
    assert Report(Tally(5, 5, 0, 2), (), (), 1.0).verdict == "Messages reordered: 2."


def test_programs_get_every_number() -> None:
    """The dictionary has the promised keys, and is made of what JSON has."""
    assert REPORT.to_dict() == {
        "sent": 40,
        "received": 40,
        "lost": 0,
        "duplicated": 0,
        "reordered": 0,
        "unexpected": 0,
        "reconnects": 2,
        "replayed": 60,
        "duplicates_dropped": 1,
        "sessions_lost": 2,
        "handed_back": 6,
        "sent_again": 5,
        "states": list(STATES),
        "recoveries": [
            {"cut": "reset", "noticed_after": 0.001, "back_after": 0.5}
            | {"attempts": 1, "queued": 9, "resumed": False, "replayed": 0},
            {"cut": "silence", "noticed_after": 1.98, "back_after": 3.02}
            | {"attempts": 2, "queued": 74, "resumed": True, "replayed": 58},
        ],
        "seconds": 7.25,
    }


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("disconnected",), "disconnected"),
        (("disconnected", "connecting", "connected"), "disconnected -> connecting -> connected"),
        (
            ("disconnected", "connecting", "connected", *LOSS),
            "disconnected -> connecting -> connected -> disconnected -> reconnecting -> connected",
        ),
        (
            STATES,
            "disconnected -> connecting -> connected -> (disconnected -> reconnecting -> connected)"
            " x 2 -> closing -> disconnected",
        ),
    ],
)
def test_the_path_joins_what_repeats(states: tuple[str, ...], expected: str) -> None:
    """Recoveries that went the same way are told once, with their number."""
    assert path(states) == expected


def test_counts_tell_the_unexpected_only_if_there_is_any() -> None:
    """The line of numbers stays short in a good run."""
    assert counts(PERFECT) == "sent 40, received 40, lost 0, doubled 0, reordered 0"
    assert counts(Tally(1, 1, 0, 0, 2)).endswith(", reordered 0, never sent 2")


# The recorder


@pytest.fixture
def notes() -> list[Note]:
    return []


@pytest.fixture
def listening(notes: list[Note], monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A recorder with 7 messages in the queue, whose time goes on by a second with each look."""
    monkeypatch.setattr(recorder, "time", FakeTime())
    return Recorder(lambda: Gauges(queued=7, replayed=3, duplicates=1), notes.append)


class FakeTime:
    def __init__(self) -> None:
        self._seconds = itertools.count(1000)

    def monotonic(self) -> float:
        return float(next(self._seconds))


def change(listening: Recorder, *states: str) -> None:
    for state in states:
        listening.on_state_change(Record(0.0, "trigger", "source", state, {}))


def event(type: ConnectionEventType, message: str = "", **metadata: object) -> ConnectionEvent:
    return ConnectionEvent(type, datetime(2026, 1, 1, tzinfo=UTC), message, metadata)


def announcement(attempt: int) -> ConnectionEvent:
    facts = {"attempt": attempt, "max_attempts": 10, "delay": 1.5, "reason": "why: at length"}
    return event(ConnectionEventType.RECONNECTING, **facts)


@pytest.mark.requirement("1.5")
def test_attempts_are_noted(listening: Recorder, notes: list[Note]) -> None:
    """Each attempt becomes a line with number and delay; from the second on with the reason."""
    change(listening, "connecting", "connected", "disconnected", "reconnecting")
    assert listening.is_recovering
    listening.on_event(announcement(1))
    assert listening.attempt == 1
    listening.on_event(announcement(2))
    assert [note.text for note in notes] == [
        "attempt 1 of 10, next in 1.5 s",
        "attempt 2 of 10, next in 1.5 s (why)",
    ]
    assert not notes[0].by_demo
    assert notes[1].status.progress.startswith("attempt 2 of 10, ")
    assert listening.attempt == 2


def test_the_way_back_is_noted(listening: Recorder, notes: list[Note]) -> None:
    """A recovery becomes a line with its time and what will be flushed."""
    change(listening, "connecting", "connected")
    listening.cut("reset")
    change(listening, "disconnected", "reconnecting", "connected")
    listening.on_event(event(ConnectionEventType.RECONNECTED))
    assert notes[-1].text == "connected again after 2.00 s, 7 queued messages follow"
    assert listening.reconnections == 1
    assert (listening.attempt, listening.is_recovering) == (0, False)


def test_nothing_queued_is_not_mentioned(notes: list[Note]) -> None:
    """With an empty queue the line says only how long it took."""
    listening = Recorder(Gauges, notes.append)
    change(listening, "connected", *LOSS)
    listening.on_event(event(ConnectionEventType.RECONNECTED))
    assert "follow" not in notes[-1].text


def test_a_late_first_connection_is_noted(listening: Recorder, notes: list[Note]) -> None:
    """A first connection that took several attempts is no return."""
    change(listening, "connecting", "disconnected", "reconnecting", "connected")
    listening.on_event(event(ConnectionEventType.RECONNECTED))
    assert notes[-1].text == "connected"


def test_other_events_are_noted_in_words(listening: Recorder, notes: list[Note]) -> None:
    """An event is shown with its message, or in other words if that only repeats the state."""
    listening.on_event(event(ConnectionEventType.DISCONNECTED, "code 1012: the gateway stops"))
    listening.on_event(event(ConnectionEventType.CONNECTED, "connected"))
    assert [note.text for note in notes] == ["code 1012", "the link is up"]


def test_a_lost_session_is_noted(listening: Recorder, notes: list[Note]) -> None:
    """A lost session becomes a line with what it has handed back."""
    listening.on_event(event(ConnectionEventType.SESSION_LOST, "gone", unacknowledged=4))
    assert [note.text for note in notes] == ["the session is lost, messages handed back: 4"]


@pytest.mark.requirement("1.7")
def test_replays_are_summed_up(notes: list[Note]) -> None:
    """What was replayed since the last recovery is told, with the duplicates of the whole run."""
    gauges = [Gauges(replayed=3, duplicates=1)]
    listening = Recorder(lambda: gauges[-1], notes.append)
    change(listening, "connected", *LOSS)
    gauges.append(Gauges(replayed=8, duplicates=2))
    listening.sum_up()
    assert notes[-1].text == "replayed: 5; duplicates dropped so far: 2"
    assert notes[-1].by_demo


def test_the_books_are_kept(listening: Recorder, notes: list[Note]) -> None:
    """Status and report show what was sent, came back and is queued, and the scene."""
    listening.on_message(*listening.next_messages(1))
    assert listening.is_settled
    listening.next_messages(1)
    assert not listening.is_settled
    listening.set_scene("messages flow")
    listening.note("a cut")
    assert notes[-1].by_demo
    status = notes[-1].status
    assert (status.scene, status.state) == ("messages flow", "disconnected")
    assert status.gauges.queued == 7
    assert status.tally == Tally(sent=2, received=1)
    change(listening, "connecting")
    report = listening.report()
    assert (report.tally, report.states) == (status.tally, ("disconnected", "connecting"))
    assert (report.replayed, report.duplicates) == (3, 1)
    assert report.seconds > status.seconds


def test_a_change_ends_a_wait(notes: list[Note]) -> None:
    """`wait` is true once its condition holds, and false when the time is up."""
    listening = Recorder(Gauges, notes.append)
    (message,) = listening.next_messages(1)
    assert not listening.wait(lambda: listening.is_settled, 0.001)
    listening.on_message(message)
    began = time.monotonic()
    assert listening.wait(lambda: listening.is_settled, 30)
    assert time.monotonic() - began < 10


# What was handed back


class Sent(TunnelService):
    """A tunnel to nowhere that remembers what it is to send."""

    def __init__(self) -> None:
        super().__init__()
        self.messages_sent: list[object] = []

    def send(self, data: object, **terms: object) -> None:
        self.messages_sent.append(data)


def hand_back(resending: Resending, *messages: str) -> None:
    resending.on_session_lost(SessionLostError("gone", unacknowledged=messages))


@pytest.mark.requirement("1.7")
def test_what_cannot_have_arrived_is_sent_again(listening: Recorder, notes: list[Note]) -> None:
    """If all that the gateway took has come back, the rest of what is handed back goes again."""
    resending, service = Resending(listening), Sent()
    first, second, third, fourth = listening.next_messages(4)
    listening.on_message(second)
    resending.vouch()
    hand_back(resending, first, second)
    hand_back(resending, third)
    resending.on_connected(service, False)
    assert service.messages_sent == [first, third]
    assert notes[-1].text == "2 cannot have arrived, and are sent again, first"
    report = listening.report()
    assert (report.sessions_lost, report.handed_back, report.sent_again) == (2, 3, 2)
    hand_back(resending, fourth)  # by the next gateway, for which nobody vouches
    resending.on_connected(service, False)
    assert service.messages_sent == [first, third]


def test_what_may_have_arrived_is_not_sent_again(listening: Recorder, notes: list[Note]) -> None:
    """Without knowing more than the tunnel, the demo sends nothing again, and says so."""
    resending, service = Resending(listening), Sent()
    hand_back(resending, *listening.next_messages(2))
    resending.on_connected(service, False)
    assert service.messages_sent == []
    assert notes[-1].text == "they may have arrived, so they are not sent again"
    assert (listening.report().handed_back, listening.report().sent_again) == (2, 0)


def test_a_resumed_session_hands_nothing_back(listening: Recorder, notes: list[Note]) -> None:
    """A new link without a loss is noted in the books, and nothing is said."""
    change(listening, "connected", *LOSS)
    Resending(listening).on_connected(Sent(), True)
    assert listening.report().recoveries[0].resumed
    assert notes == []


# The views

STATUS = Status(
    seconds=7.25,
    scene="cut 2 of 4: silence",
    state="reconnecting",
    progress="attempt 2 of 10, next in 1.4 s",
    gauges=Gauges(queued=17, unacknowledged=9, replayed=312, duplicates=1),
    tally=Tally(sent=60, received=43),
    states=("disconnected", "connecting", "connected", *LOSS, "disconnected", "reconnecting"),
)
NOTE = Note("no sign of life for 2.0 s", STATUS, by_demo=False)


@pytest.mark.requirement("1.5")
def test_a_plain_line_tells_how_things_stood() -> None:
    """Each line has time, state, sent, received and queue, and marks what the demo did."""
    assert plain_view.line(NOTE) == (
        " 7.25  reconnecting   60   43    17  no sign of life for 2.0 s"
    )
    assert plain_view.line(Note("cut", STATUS, by_demo=True)).endswith("  17  * cut")
    long = plain_view.line(Note("word " * 20, STATUS, by_demo=False)).splitlines()
    assert [line[:42].rsplit("  ", 1)[-1] for line in long] == ["word ", "word "]
    assert max(map(len, long)) <= 100


def test_the_plain_view_writes_lines() -> None:
    """The plain view writes a head, a line for each note, and the summary, all in ASCII."""
    stream = io.StringIO()
    with plain_view.PlainView(stream) as view:
        view.note(NOTE)
        view.summary(REPORT)
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["s", "state", "sent", "back", "queue", "event"]
    assert [lines[0].index(head) for head in ("state", "event")] == [7, 37]
    assert lines[1] == plain_view.line(NOTE)
    assert "sent 40, received 40, lost 0, doubled 0, reordered 0; reconnections 2" in lines
    numbers = "replayed 60, duplicates dropped 1, sessions lost 2, handed back 6, sent again 5"
    assert numbers in lines
    assert (
        "silence                  1.98 s      3.02 s         2      74  resumed        58" in lines
    )
    assert lines[-1] == REPORT.verdict
    assert stream.getvalue().isascii()
    assert max(map(len, lines)) <= 100


def test_the_plain_summary_of_nothing_has_no_table() -> None:
    """A run without a recovery shows no head for recoveries."""
    assert "noticed" not in plain_view.summary(Report(Tally(), (), ("disconnected",), 0.1))


def drawn(*, width: int, tty: bool = True) -> tuple[live_view.LiveView, io.StringIO]:
    stream = Terminal() if tty else io.StringIO()
    view = live_view.LiveView(stream, lambda: STATUS)
    view._console.width = width
    return view, stream


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.mark.requirement("1.5")
@pytest.mark.parametrize("width", [80, 200])
def test_the_panel_shows_everything(width: int) -> None:
    """The live panel has state, countdown, queue, messages and path, and leaves room for ^C."""
    view, stream = drawn(width=width, tty=False)
    view._console.print(live_view.panel(STATUS, width - 3))
    shown = stream.getvalue()
    for text in (STATUS.scene, STATUS.progress, "● reconnecting", " 17 ", "sent 60", "back 43"):
        assert text in shown
    for text in ("unacknowledged 9 ", "replayed 312 ", "duplicates dropped 1 "):
        assert text in shown
    assert max(len(line) for line in shown.splitlines()) == min(width - 3, 96)


def test_the_panel_keeps_its_height() -> None:
    """However long the path, on a wide terminal the panel has as many lines."""
    heights = set()
    for length in range(1, len(STATUS.states) + 1):
        view, stream = drawn(width=120, tty=False)
        status = Status(**{**vars(STATUS), "states": STATUS.states[:length]})
        view._console.print(live_view.panel(status, 117))
        heights.add(len(stream.getvalue().splitlines()))
    assert heights == {7}


def test_a_long_note_is_indented() -> None:
    """What does not fit goes on below itself, not below the time."""
    view, stream = drawn(width=50, tty=False)
    view.note(Note("word " * 12, STATUS, by_demo=True))
    first, *rest = stream.getvalue().splitlines()
    assert first.startswith("  7.25 s  reconnecting  word word")
    assert rest
    assert all(line.startswith(" " * 24 + "word") for line in rest)


@pytest.mark.parametrize("width", [80, 100])
def test_the_summary_fits(width: int) -> None:
    """On a terminal of usual width no number and no name of the summary is cut or broken."""
    view, stream = drawn(width=width, tty=False)
    view.summary(Report(Tally(9999, 9999), (Recovery("server restarted", 1, 1, 1, 1),), (), 1.0))
    lines = stream.getvalue().splitlines()
    assert "…" not in stream.getvalue()
    assert any("server restarted" in line and "1.00 s" in line for line in lines)
    assert max(map(len, lines)) <= width


def test_the_live_view_ends_with_the_summary() -> None:
    """On a terminal the panel is there while it runs; what stays are notes and summary."""
    view, stream = drawn(width=100)
    with view:
        view.note(NOTE)
        view.summary(REPORT)
    shown = stream.getvalue()
    assert STATUS.scene in shown
    end = shown[shown.index("attempts") :]
    for text in ("silence", "3.02 s", "resumed", "handed back", "→ reconnecting", REPORT.verdict):
        assert text in end
    assert STATUS.scene not in end


# The choice of the view
