from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from datetime import datetime, timezone

import pytest
from loguru import logger

from tunnel.event_log import STREAM_LIMIT, EventLog, EventStream
from tunnel.events import ConnectionEvent, ConnectionEventType

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def event(name: object) -> ConnectionEvent:
    return ConnectionEvent(ConnectionEventType.CONFIG_CHANGED, NOON, str(name))


def put(log: EventLog, *names: object) -> None:
    for name in names:
        log.record(event(name))
    log.deliver()


def messages(events: list[ConnectionEvent] | tuple[ConnectionEvent, ...]) -> list[str]:
    return [e.message for e in events]


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_the_history_is_bounded() -> None:
    """Only the latest events are kept, oldest first."""
    log = EventLog(3)
    put(log, *range(5))
    assert messages(log.events) == ["2", "3", "4"]
    assert log.max_history == 3
    assert EventLog(0).max_history == 0


def test_a_log_may_begin_with_a_history() -> None:
    """Saved events are there from the start, and subject to the bound."""
    assert messages(EventLog(2, [event(n) for n in range(3)]).events) == ["1", "2"]


def test_subscribers_get_what_comes_after_them_until_they_leave() -> None:
    """Nothing from before the subscription, nothing after its end; ending it twice is harmless."""
    log = EventLog(10)
    one: list[ConnectionEvent] = []
    two: list[ConnectionEvent] = []
    put(log, "a")
    leave = log.subscribe(one.append)
    put(log, "b")
    log.subscribe(two.append)
    put(log, "c")
    leave()
    leave()
    put(log, "d")
    assert messages(one) == ["b", "c"]
    assert messages(two) == ["c", "d"]


def test_a_callback_subscribed_twice_is_called_twice() -> None:
    """Subscriptions are told apart, even of the same callback."""
    log = EventLog(10)
    got: list[ConnectionEvent] = []
    leave, _ = log.subscribe(got.append), log.subscribe(got.append)
    put(log, "a")
    leave()
    put(log, "b")
    assert messages(got) == ["a", "a", "b"]


def test_an_event_from_before_a_subscription_is_not_told_to_it() -> None:
    """What counts is when the event was recorded, not when it is delivered."""
    log = EventLog(10)
    got: list[ConnectionEvent] = []
    log.subscribe(lambda e: None)
    log.record(event("early"))
    log.subscribe(got.append)
    log.deliver()
    assert got == []


def test_a_subscriber_that_leaves_hears_nothing_that_was_still_to_be_told() -> None:
    """Also when it leaves in a callback of the same event."""
    log = EventLog(10)
    got: list[ConnectionEvent] = []
    log.subscribe(lambda e: leave())
    leave = log.subscribe(got.append)
    put(log, "a", "b")
    assert got == []


def test_a_subscriber_that_raises_is_logged_and_harms_nobody() -> None:
    """The others are told, and the recording thread notices nothing."""
    log = EventLog(10)
    got: list[ConnectionEvent] = []
    logged: list[str] = []
    log.subscribe(lambda e: 1 // 0)
    log.subscribe(got.append)
    logger.enable("tunnel")
    sink = logger.add(lambda message: logged.append(str(message)), level="ERROR")
    try:
        put(log, "a", "b")
    finally:
        logger.remove(sink)
        logger.disable("tunnel")
    assert messages(got) == ["a", "b"]
    assert len(logged) == 2
    assert "ZeroDivisionError" in logged[0]


def test_an_interrupt_in_a_subscriber_passes_and_the_rest_is_told_later() -> None:
    """What is no Exception reaches the recording thread, and the log works on."""
    log = EventLog(10)
    got: list[ConnectionEvent] = []
    interrupts = [KeyboardInterrupt()]

    def subscriber(e: ConnectionEvent) -> None:
        if interrupts:
            raise interrupts.pop()
        got.append(e)

    log.subscribe(subscriber)
    with pytest.raises(KeyboardInterrupt):
        put(log, "a", "b")
    put(log, "c")
    assert messages(got) == ["b", "c"]


class InterruptedOnce:
    """A lock; Ctrl-C comes when it is left for the time that a test says."""

    def __init__(self, number: int) -> None:
        self._lock = threading.Lock()
        self._left = number

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *args: object) -> None:
        self._lock.release()
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


def test_an_interrupt_between_two_steps_does_not_silence_the_log() -> None:
    """It costs the event that was about to be told; the next ones are."""
    log = EventLog(10)
    got: list[ConnectionEvent] = []
    log.subscribe(got.append)
    log.record(event("a"))
    log._lock = InterruptedOnce(1)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        log.deliver()
    put(log, "b")
    assert messages(got) == ["b"]


def test_what_a_subscriber_records_comes_after() -> None:
    """Each subscriber sees every event in the order of recording, even those made on the way."""
    log = EventLog(10)
    got: list[ConnectionEvent] = []

    def answer(e: ConnectionEvent) -> None:
        if e.message == "question":
            put(log, "answer")

    log.subscribe(answer)
    log.subscribe(got.append)
    put(log, "question", "other")
    assert messages(got) == ["question", "other", "answer"]


def test_events_arrive_in_one_order_whoever_records_them() -> None:
    """Four threads record at once: every subscriber and the history agree on one order."""
    log = EventLog(2000)
    got: list[list[ConnectionEvent]] = [[], []]
    busy: list[int] = []

    def alone(e: ConnectionEvent) -> None:
        busy.append(1)
        assert len(busy) == 1
        got[0].append(e)
        busy.pop()

    log.subscribe(alone)
    log.subscribe(got[1].append)
    with log.stream() as stream:
        threads = [
            in_thread(lambda n=n: [put(log, f"{n}:{i}") for i in range(100)]) for n in range(4)
        ]
        for thread in threads:
            thread.join()
    put(log, "last")  # and whatever another thread had left to the one that was delivering
    assert tuple(got[0]) == tuple(got[1]) == log.events
    assert tuple(stream) == log.events[:-1]
    for n in range(4):
        mine = [m for m in messages(got[0]) if m.startswith(f"{n}:")]
        assert mine == [f"{n}:{i}" for i in range(100)]


def test_a_stream_gives_the_events_from_now_on() -> None:
    """Iterating waits for each event; after the end, what had arrived is handed out first."""
    log = EventLog(10)
    put(log, "before")
    stream = log.stream()
    put(log, "a", "b")
    assert next(stream).message == "a"
    assert not stream.closed
    stream.close()
    stream.close()
    put(log, "after")
    assert stream.closed
    assert messages(list(stream)) == ["b"]
    assert list(stream) == []
    assert stream.missed == 0


def test_a_waiting_reader_is_woken_by_an_event_and_by_the_end() -> None:
    """A thread that iterates gets each event as it comes, and ends when the stream is closed."""
    log = EventLog(10)
    got: list[str] = []
    arrived = threading.Semaphore(0)
    stream = log.stream()

    def read() -> None:
        for e in stream:
            got.append(e.message)
            arrived.release()

    thread = in_thread(read)
    for name in ("a", "b", "c"):
        put(log, name)
        assert arrived.acquire(timeout=10)
    stream.close()
    thread.join(10)
    assert not thread.is_alive()
    assert got == ["a", "b", "c"]


def test_a_stream_closes_itself_as_a_context_manager() -> None:
    """Leaving the block ends the stream."""
    with EventLog(1).stream() as stream:
        assert isinstance(stream, EventStream)
    assert stream.closed


def test_an_unread_stream_is_bounded_and_counts_what_it_lost() -> None:
    """Nobody reads: the oldest events go, and the reader can know how many."""
    log = EventLog(1)
    stream = log.stream()
    put(log, *range(STREAM_LIMIT + 7))
    stream.close()
    assert stream.missed == 7
    assert messages(list(stream)) == [str(n) for n in range(7, STREAM_LIMIT + 7)]


def test_forgotten_and_closed_streams_are_let_go() -> None:
    """A stream that nobody holds any more, or that was closed, costs the log nothing."""
    log = EventLog(1)
    kept, closed, forgotten = log.stream(), log.stream(), log.stream()
    closed.close()
    del forgotten
    gc.collect()
    put(log, "a")
    assert len(log._streams) == 1
    assert next(kept).message == "a"
