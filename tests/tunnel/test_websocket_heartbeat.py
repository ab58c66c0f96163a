"""The heartbeat: its decisions alone, and its shell on a fake and on the system's clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

import tunnel.websocket_heartbeat as module
from statemachine import InvalidTransition
from tunnel.errors import ConfigurationError
from tunnel.testing import FakeClock
from tunnel.timers import SystemTimers
from tunnel.websocket_heartbeat import (
    HEARTBEAT,
    Heartbeat,
    HeartbeatStatus,
    HeartbeatVerdict,
    WebSocketHeartbeat,
)

PING, NOTHING, SILENCE = HeartbeatVerdict.PING, HeartbeatVerdict.NOTHING, HeartbeatVerdict.SILENCE
STATUS = HeartbeatStatus


def started(interval: float = 30.0, timeout: float | None = None, *, at: float = 0.0) -> Heartbeat:
    heartbeat = Heartbeat(interval, timeout, prefix=b"test")
    heartbeat.start(at)
    return heartbeat


# The decisions


@pytest.mark.requirement("6.1")
def test_pings_go_out_at_each_interval() -> None:
    """The first ping is due an interval after the start, each further one an interval later."""
    heartbeat = started()
    sent = []
    while len(sent) < 5:
        now = heartbeat.next_due
        assert heartbeat.poll(now - 0.001) is NOTHING
        if heartbeat.poll(now) is PING:
            heartbeat.ping(now)
            sent.append(now)
        heartbeat.proof(now + 1)
    assert sent == [30.0, 60.0, 90.0, 120.0, 150.0]
    assert heartbeat.pings_sent == 5


@pytest.mark.requirement("6.1")
def test_payloads_are_unique() -> None:
    """No ping repeats the payload of another, nor that of another heartbeat (RFC 6455, 5.5.2)."""
    one, other = Heartbeat(1.0), Heartbeat(1.0)
    for heartbeat in (one, other):
        heartbeat.start(0.0)
    payloads = [h.ping(float(n)) for n in range(1, 200) for h in (one, other)]
    assert len(set(payloads)) == len(payloads)
    assert all(len(payload) <= 125 for payload in payloads)
    assert started().ping(1.0) == b"test\x00\x00\x00\x01"


@pytest.mark.requirement("6.2")
@pytest.mark.parametrize(("interval", "timeout"), [(30.0, None), (30.0, 31.0), (0.1, 7.0)])
def test_silence_is_judged_from_the_last_byte(interval: float, timeout: float | None) -> None:
    """The verdict falls exactly one time-out after the last byte, however many pings went out."""
    heartbeat = started(interval, timeout, at=5.0)
    proofs = [5.0 + 0.9 * interval * number for number in range(1, 7)]
    last = proofs[-1]
    verdicts = []
    while not verdicts:
        now = heartbeat.next_due
        while proofs and proofs[0] <= now:
            heartbeat.proof(proofs.pop(0))
        verdict = heartbeat.poll(now)
        if verdict is PING:
            heartbeat.ping(now)
        elif verdict is SILENCE:
            verdicts.append(now)
    assert verdicts == [last + heartbeat.pong_timeout]
    assert heartbeat.status is STATUS.TIMEOUT
    assert heartbeat.poll(last + 1e6) is NOTHING


@pytest.mark.requirement("6.2")
def test_the_default_time_out_is_one_and_a_half_intervals() -> None:
    """An interval of 30 s gives 45 s."""
    assert Heartbeat(30.0).pong_timeout == 45.0


def test_any_byte_is_proof() -> None:
    """Bytes that are no pong keep the link alive, for as long as they come."""
    heartbeat = started()
    for now in range(1, 1000):
        heartbeat.proof(float(now))
        if heartbeat.poll(float(now)) is PING:
            heartbeat.ping(float(now))
    assert heartbeat.pongs_received == 0
    assert heartbeat.pings_sent == 33
    assert heartbeat.status in (STATUS.RUNNING, STATUS.WAITING_FOR_PONG)


def test_a_timer_that_pings_restart_would_never_fire() -> None:
    """Pings that go out do not put the verdict off."""
    heartbeat = started(10.0, 45.0)
    for now in (10.0, 20.0, 30.0, 40.0):
        assert heartbeat.poll(now) is PING
        heartbeat.ping(now)
    assert heartbeat.next_due == 45.0
    assert heartbeat.poll(45.0) is SILENCE


def test_status() -> None:
    """Running, waiting after a ping, running again with the next byte; then over."""
    heartbeat = Heartbeat(30.0)
    assert heartbeat.status is STATUS.STOPPED
    heartbeat.start(0.0)
    assert heartbeat.status is STATUS.RUNNING
    heartbeat.ping(30.0)
    assert heartbeat.status is STATUS.WAITING_FOR_PONG
    heartbeat.proof(31.0)
    assert heartbeat.status is STATUS.RUNNING
    payload = heartbeat.ping(60.0)
    assert heartbeat.status is STATUS.WAITING_FOR_PONG
    heartbeat.ping(70.0)
    assert heartbeat.status is STATUS.WAITING_FOR_PONG
    heartbeat.pong(payload, 70.0)
    assert heartbeat.status is STATUS.RUNNING
    heartbeat.stop()
    assert heartbeat.status is STATUS.STOPPED
    assert heartbeat.poll(1000.0) is NOTHING


def test_a_pong_gives_the_round_trip() -> None:
    """The pong that repeats a payload is counted, and says how long it took."""
    heartbeat = started()
    assert heartbeat.round_trip is None
    payload = heartbeat.ping(30.0)
    assert heartbeat.pong(payload, 30.25) == 0.25
    assert heartbeat.round_trip == 0.25
    assert heartbeat.last_pong == 30.25
    assert heartbeat.last_proof == 30.25
    assert heartbeat.pongs_received == 1
    assert heartbeat.missed_pongs == 0


@pytest.mark.parametrize("payload", [b"", b"stranger", b"test\x00\x00\x00\x07"])
def test_an_unasked_pong_is_only_proof(payload: bytes) -> None:
    """A pong that answers none of our pings is a byte like any other (RFC 6455, 5.5.3)."""
    heartbeat = started()
    heartbeat.ping(30.0)
    assert heartbeat.pong(payload, 31.0) is None
    assert heartbeat.pongs_received == 0
    assert heartbeat.last_proof == 31.0
    assert heartbeat.status is STATUS.RUNNING


def test_a_pong_counts_once() -> None:
    """The same pong again is an unasked one."""
    heartbeat = started()
    payload = heartbeat.ping(30.0)
    assert heartbeat.pong(payload, 31.0) == 1.0
    assert heartbeat.pong(payload, 32.0) is None
    assert heartbeat.pongs_received == 1
    assert heartbeat.last_pong == 31.0


def test_skipped_pings_are_missed() -> None:
    """A peer may answer only the latest ping; those before it are missed."""
    heartbeat = started(1.0, 100.0)
    first, *_, last = [heartbeat.ping(float(now)) for now in range(1, 5)]
    assert heartbeat.pong(last, 4.5) == 0.5
    assert heartbeat.missed_pongs == 3
    assert heartbeat.pong(first, 4.6) is None


def test_without_a_payload_the_oldest_is_answered() -> None:
    """In text mode a pong answers the oldest unanswered ping; without one it is proof alone."""
    heartbeat = started(1.0, 100.0)
    assert heartbeat.pong(None, 0.5) is None
    heartbeat.ping(1.0)
    heartbeat.ping(2.0)
    assert heartbeat.pong(None, 2.5) == 1.5
    assert heartbeat.pong(None, 2.5) == 0.5
    assert heartbeat.missed_pongs == 0


def test_only_so_many_pings_are_remembered() -> None:
    """A peer that sends bytes but never a pong makes no memory grow."""
    heartbeat = started(1.0, 100.0)
    payloads = [heartbeat.ping(float(now)) for now in range(1, 50)]
    assert heartbeat.missed_pongs == 49 - 8
    assert heartbeat.pong(payloads[-9], 50.0) is None
    assert heartbeat.pong(payloads[-8], 50.0) == 8.0


def test_after_silence_all_unanswered_pings_are_missed() -> None:
    """What was out when the peer fell silent counts as missed, also after the stop."""
    heartbeat = started(30.0, 70.0)
    heartbeat.ping(30.0)
    heartbeat.ping(60.0)
    assert heartbeat.missed_pongs == 0
    assert heartbeat.poll(70.0) is SILENCE
    assert heartbeat.missed_pongs == 2
    heartbeat.stop()
    assert heartbeat.missed_pongs == 2


def test_a_stop_in_time_misses_nothing() -> None:
    """A ping that was out when the watch ended properly is not held against the peer."""
    heartbeat = started()
    payload = heartbeat.ping(30.0)
    heartbeat.stop()
    assert heartbeat.missed_pongs == 0
    heartbeat.start(40.0)
    assert heartbeat.pong(payload, 41.0) is None


def test_pings_before_a_wrong_verdict_may_be_answered() -> None:
    """Started again after the verdict, because bytes had been waiting: pongs among them count."""
    heartbeat = started()
    payload = heartbeat.ping(30.0)
    assert heartbeat.poll(45.0) is SILENCE
    heartbeat.start(46.0)
    assert heartbeat.status is STATUS.RUNNING
    assert heartbeat.pong(payload, 46.0) == 16.0
    assert heartbeat.missed_pongs == 0
    assert heartbeat.next_due == 76.0


def test_a_late_poll_begins_anew() -> None:
    """A poll far too late says that this process slept: ask first, and judge a time-out later."""
    heartbeat = started()
    heartbeat.ping(30.0)
    late = 30.0 + 8 * 3600
    assert heartbeat.poll(late) is PING
    heartbeat.ping(late)
    assert heartbeat.next_due == late + 30.0
    assert heartbeat.poll(late + 30.0) is PING
    heartbeat.ping(late + 30.0)
    assert heartbeat.poll(late + 45.0) is SILENCE


@pytest.mark.parametrize(("interval", "late"), [(30.0, 15.0), (0.1, 1.0)])
def test_a_little_late_is_not_too_late(interval: float, late: float) -> None:
    """Half an interval, and in any case a second, is what a busy machine may take."""
    heartbeat = started(interval, 1.1 * interval)
    due = heartbeat.next_due
    assert heartbeat.poll(due + late) is SILENCE
    heartbeat = started(interval, 1.1 * interval)
    assert heartbeat.poll(due + late * 1.01) is PING


@pytest.mark.parametrize(
    ("interval", "timeout", "message"),
    [
        (0, None, "ping_interval must be more than 0 s and at most a day, not 0"),
        (-1.0, None, "not -1.0"),
        (float("nan"), None, "not nan"),
        (float("inf"), None, "not inf"),
        (86_401, None, "not 86401"),
        (30.0, 30.0, r"pong_timeout must be more than ping_interval \(30 s\), not 30.0"),
        (30.0, float("nan"), "not nan"),
        (30.0, float("inf"), "pong_timeout must be at most two days, not inf"),
    ],
)
def test_durations_out_of_bounds(interval: float, timeout: float | None, message: str) -> None:
    """A duration that makes no sense is refused, with its value and the bound."""
    with pytest.raises(ConfigurationError, match=message):
        Heartbeat(interval, timeout)


@given(
    start=st.floats(0, 1e9),
    interval=st.floats(0.001, 86_400),
    factor=st.floats(1.0001, 2),
    fractions=st.lists(st.floats(0, 1), max_size=5),
)
def test_no_busy_loop(start: float, interval: float, factor: float, fractions: list[float]) -> None:
    """Polled whenever it asks for it, the point in time always moves on, until the verdict."""
    heartbeat = started(interval, interval * factor, at=start)
    proofs = iter(fractions)
    for _ in range(20):
        now = heartbeat.next_due
        verdict = heartbeat.poll(now)
        if verdict is SILENCE:
            assert now >= heartbeat.last_proof + heartbeat.pong_timeout
            return
        if verdict is PING:
            heartbeat.ping(now)
        assert heartbeat.next_due > now
        if (fraction := next(proofs, None)) is not None:
            heartbeat.proof(now + (heartbeat.next_due - now) * fraction)
    pytest.fail("the verdict never fell")


@given(now=st.floats(0, 1e9), interval=st.floats(0.01, 100))
def test_no_busy_loop_after_a_late_poll(now: float, interval: float) -> None:
    """Begun anew, the next point in time lies ahead as well."""
    heartbeat = started(interval, at=now)
    late = heartbeat.next_due + 1000
    assert heartbeat.poll(late) is PING
    heartbeat.ping(late)
    assert heartbeat.next_due > late


@pytest.mark.parametrize(("state", "trigger"), HEARTBEAT.illegal)
def test_what_makes_no_sense_is_refused(state: str, trigger: str) -> None:
    """The declaration forbids a ping or a verdict without a watch."""
    heartbeat = Heartbeat(30.0)
    if state == "timeout":
        heartbeat.start(0.0)
        assert heartbeat.poll(45.0) is SILENCE
    with pytest.raises(InvalidTransition):
        heartbeat._machine.fire(trigger)


def test_what_is_ignored() -> None:
    """The declaration is complete, and what it ignores does nothing."""
    assert HEARTBEAT.complete
    heartbeat = Heartbeat(30.0)
    heartbeat.stop()
    heartbeat.pong(b"late", 1.0)
    assert heartbeat.status is STATUS.STOPPED
    heartbeat.start(2.0)
    heartbeat.start(3.0)
    assert heartbeat.status is STATUS.RUNNING
    assert heartbeat.next_due == 33.0


# The shell


class Connection:
    """What a heartbeat is given to watch."""

    def __init__(self) -> None:
        self.pings: list[bytes] = []
        self.texts: list[str] = []
        self.error: Exception | None = None

    def ping(self, payload: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.pings.append(payload)

    def send(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """What is logged as an error."""
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="ERROR")
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


@pytest.mark.requirement("6.1")
def test_the_shell_pings_at_each_interval(clock: FakeClock) -> None:
    """Once started, and not before, a ping with a new payload goes out each interval."""
    connection = Connection()
    heartbeat = WebSocketHeartbeat(connection, clock=clock)
    clock.advance(100)
    assert connection.pings == []
    heartbeat.start()
    clock.advance(29.999)
    assert len(connection.pings) == 0
    clock.advance(0.001)
    assert len(connection.pings) == 1
    for _ in range(9):
        heartbeat.on_data()
        clock.advance(30)
    assert len(set(connection.pings)) == 10


@pytest.mark.requirement("6.2")
def test_the_shell_reports_silence_once(clock: FakeClock) -> None:
    """Exactly 45 s after the last byte the loss is told, once, and no ping follows."""
    told: list[float] = []
    connection = Connection()
    heartbeat = WebSocketHeartbeat(
        connection, on_connection_lost=lambda: told.append(clock.monotonic()), clock=clock
    )
    heartbeat.start()
    clock.advance(40)
    heartbeat.on_data()
    assert not heartbeat.is_silent
    clock.advance(44.9)
    assert told == []
    assert heartbeat.silence == pytest.approx(44.9)
    clock.advance(1000)
    assert told == [85.0]
    assert len(connection.pings) == 2
    assert heartbeat.status is STATUS.TIMEOUT
    assert heartbeat.is_silent


def test_silence_without_a_callback(clock: FakeClock) -> None:
    """Nobody has to be told; the status says it."""
    heartbeat = WebSocketHeartbeat(Connection(), clock=clock)
    heartbeat.start()
    clock.advance(50)
    assert heartbeat.status is STATUS.TIMEOUT
    assert heartbeat.get_stats()["is_healthy"] is False


def test_started_again_after_silence(clock: FakeClock) -> None:
    """It can be started again; the next silence is told, too."""
    told: list[float] = []
    heartbeat = WebSocketHeartbeat(
        Connection(), on_connection_lost=lambda: told.append(clock.monotonic()), clock=clock
    )
    heartbeat.start()
    clock.advance(50)
    heartbeat.start()
    clock.advance(100)
    assert told == [45.0, 95.0]


def test_starting_twice_changes_nothing(clock: FakeClock) -> None:
    """A second start neither doubles the pings nor puts the verdict off."""
    told: list[float] = []
    connection = Connection()
    heartbeat = WebSocketHeartbeat(
        connection, on_connection_lost=lambda: told.append(clock.monotonic()), clock=clock
    )
    heartbeat.start()
    clock.advance(20)
    heartbeat.start()
    clock.advance(100)
    assert told == [45.0]
    assert len(connection.pings) == 1


def test_stopping_ends_the_watch(clock: FakeClock) -> None:
    """After the stop nothing happens any more, and no timer is left; stopping twice is fine."""
    told: list[float] = []
    connection = Connection()
    heartbeat = WebSocketHeartbeat(
        connection, on_connection_lost=lambda: told.append(clock.monotonic()), clock=clock
    )
    heartbeat.stop()
    heartbeat.start()
    heartbeat.stop()
    heartbeat.stop()
    assert clock._timers == []
    clock.advance(1000)
    assert connection.pings == []
    assert told == []


def test_a_beat_of_an_earlier_watch_is_dropped() -> None:
    """A beat that was about to begin during stop and start does not become a second rhythm."""

    class Timers(FakeClock):
        """Lets the callbacks be called by hand."""

        def __init__(self) -> None:
            super().__init__()
            self.planned: list[Callable[[], object]] = []

        def call_at(self, when: float, callback: Callable[[], object]) -> object:  # type: ignore[override]
            self.planned.append(callback)
            return super().call_at(when, lambda: None)

    clock = Timers()
    connection = Connection()
    heartbeat = WebSocketHeartbeat(connection, clock=clock)
    heartbeat.start()
    heartbeat.stop()
    heartbeat.start()
    old, new = clock.planned
    clock.advance(30)
    old()
    assert connection.pings == []
    assert len(clock.planned) == 2
    new()
    assert len(connection.pings) == 1
    assert len(clock.planned) == 3


def test_statistics(clock: FakeClock) -> None:
    """The seed's statistics: counts, aware times, the round trip in seconds, health and status."""
    connection = Connection()
    heartbeat = WebSocketHeartbeat(connection, clock=clock)
    heartbeat.start()
    assert heartbeat.get_stats() == {
        "pings_sent": 0,
        "pongs_received": 0,
        "missed_pongs": 0,
        "last_ping_sent": None,
        "last_pong_received": None,
        "round_trip": None,
        "is_healthy": True,
        "status": "running",
    }
    began = datetime.fromtimestamp(clock.time(), timezone.utc)
    clock.advance(30)
    clock.advance(0.25)
    assert heartbeat.get_stats()["status"] == "waiting_for_pong"
    assert heartbeat.on_pong(connection.pings[0]) == 0.25
    clock.advance(10)
    stats = heartbeat.get_stats()
    assert stats["last_ping_sent"] == began + timedelta(seconds=30)
    assert stats["last_pong_received"] == began + timedelta(seconds=30.25)
    assert stats["round_trip"] == heartbeat.round_trip == 0.25
    assert (stats["pings_sent"], stats["pongs_received"]) == (1, 1)
    assert stats["status"] == "running"
    heartbeat.stop()
    assert heartbeat.get_stats()["status"] == "stopped"
    assert heartbeat.get_stats()["is_healthy"] is False
    assert heartbeat.missed_pongs == 0


def test_a_start_is_no_ping(clock: FakeClock) -> None:
    """Starting again does not change when the last ping was sent."""
    heartbeat = WebSocketHeartbeat(Connection(), clock=clock)
    heartbeat.start()
    clock.advance(30)
    sent = heartbeat.get_stats()["last_ping_sent"]
    clock.advance(5)
    heartbeat.stop()
    heartbeat.start()
    assert heartbeat.get_stats()["last_ping_sent"] == sent


@freeze_time("2026-05-01 12:00:00")
def test_frozen_time_is_what_statistics_show() -> None:
    """Inside `freeze_time` the heartbeat lives in frozen time, and moves it along."""
    clock = FakeClock()
    connection = Connection()
    heartbeat = WebSocketHeartbeat(connection, ping_interval=60.0, clock=clock)
    heartbeat.start()
    clock.advance(60)
    heartbeat.on_pong(connection.pings[0])
    expected = datetime(2026, 5, 1, 12, 1, tzinfo=timezone.utc)
    assert heartbeat.get_stats()["last_ping_sent"] == expected
    assert heartbeat.get_stats()["last_pong_received"] == expected
    assert datetime.now(timezone.utc) == expected


def test_text_mode(clock: FakeClock) -> None:
    """In text mode the message "ping" goes out instead of a frame."""
    connection = Connection()
    heartbeat = WebSocketHeartbeat(connection, mode="text", clock=clock)
    heartbeat.start()
    clock.advance(30)
    assert connection.texts == ["ping"]
    assert connection.pings == []
    clock.advance(0.5)
    assert heartbeat.on_pong(None) == 0.5


def test_a_ping_that_cannot_be_written_is_no_sign_of_life(clock: FakeClock) -> None:
    """A failing write harms nothing; the silence tells."""
    told: list[float] = []
    lines: list[str] = []
    connection = Connection()
    connection.error = ConnectionResetError("reset")
    heartbeat = WebSocketHeartbeat(
        connection,
        on_connection_lost=lambda: told.append(clock.monotonic()),
        on_log=lines.append,
        clock=clock,
    )
    heartbeat.start()
    clock.advance(45)
    assert told == [45.0]
    assert lines == ["ping not sent: reset", "silence for 45.0 s: connection lost"]


@pytest.mark.requirement("6.10")
def test_each_thing_is_told_to_on_log(clock: FakeClock) -> None:
    """There is a line for each ping, pong and loss, braces in values or not."""
    lines: list[str] = []
    connection = Connection()
    heartbeat = WebSocketHeartbeat(connection, on_log=lines.append, clock=clock)
    heartbeat.start()
    clock.advance(30)
    heartbeat.on_pong(connection.pings[0])
    heartbeat.on_pong(b"unasked")
    connection.error = OSError("{0} {")
    clock.advance(45)
    assert lines == [
        "ping sent",
        "pong after 0.0 ms",
        "ping not sent: {0} {",
        "silence for 45.0 s: connection lost",
    ]


def test_callbacks_that_raise_harm_nothing(clock: FakeClock, errors: list[str]) -> None:
    """What `on_log` and `on_connection_lost` raise is logged, and the loss is told all the same."""
    told: list[str] = []

    def on_log(line: str) -> None:
        told.append(line)
        raise RuntimeError("on_log failed")

    def on_connection_lost() -> None:
        told.append("lost")
        raise RuntimeError("on_connection_lost failed")

    connection = Connection()
    heartbeat = WebSocketHeartbeat(
        connection, on_log=on_log, on_connection_lost=on_connection_lost, clock=clock
    )
    heartbeat.start()
    clock.advance(30)
    heartbeat.on_pong(connection.pings[0])
    clock.advance(45)
    assert told == [
        "ping sent",
        "pong after 0.0 ms",
        "ping sent",
        "silence for 45.0 s: connection lost",
        "lost",
    ]
    assert errors == ["on_log raised"] * 4 + ["on_connection_lost raised"]


def test_the_mode_is_checked() -> None:
    """A mode that is neither of the two is refused."""
    with pytest.raises(ConfigurationError, match='mode must be "frame" or "text", not \'both\''):
        WebSocketHeartbeat(Connection(), mode="both")  # type: ignore[arg-type]


def test_on_the_systems_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a clock it lives in real time, on the thread for timers, which ends with it."""
    timers = SystemTimers()
    monkeypatch.setattr(module, "timers_of", lambda clock: timers)
    pinged, lost = threading.Event(), threading.Event()
    threads: list[str] = []

    class Real(Connection):
        def ping(self, payload: bytes) -> None:
            threads.append(threading.current_thread().name)
            pinged.set()

    heartbeat = WebSocketHeartbeat(
        Real(), ping_interval=0.02, pong_timeout=0.05, on_connection_lost=lost.set
    )
    heartbeat.start()
    assert pinged.wait(10)
    assert lost.wait(10)
    assert set(threads) == {"tunnel-timers"}
    assert heartbeat.silence >= 0.05
    heartbeat.stop()


def test_from_many_threads() -> None:
    """Bytes and pongs may be reported, and statistics asked for, while it beats."""
    connection = Connection()
    heartbeat = WebSocketHeartbeat(connection, ping_interval=0.001, pong_timeout=60.0)
    heartbeat.start()
    try:
        stop = threading.Event()
        failures: list[BaseException] = []

        def report() -> None:
            try:
                while not stop.is_set():
                    heartbeat.on_data()
                    for payload in tuple(connection.pings[-2:]):
                        heartbeat.on_pong(payload)
                    stats = heartbeat.get_stats()
                    assert stats["pongs_received"] + stats["missed_pongs"] <= stats["pings_sent"]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=report) for _ in range(4)]
        for thread in threads:
            thread.start()
        enough = threading.Event()
        for _ in range(1000):
            if len(connection.pings) >= 20:
                break
            enough.wait(0.01)
        stop.set()
        for thread in threads:
            thread.join(10)
        assert failures == []
        assert len(set(connection.pings)) == len(connection.pings) >= 20
    finally:
        heartbeat.stop()
