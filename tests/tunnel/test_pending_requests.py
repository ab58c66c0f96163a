"""Requests on the client's side: each ends once, in the right way, and leaves nothing behind."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import queue
import random
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from tunnel.circuit_breaker import CircuitBreaker, CircuitState, Permit
from tunnel.clock import SystemClock
from tunnel.errors import (
    CircuitOpenError,
    ConfigurationError,
    InvalidStateError,
    PayloadTypeError,
    QueueFullError,
    RequestTimeoutError,
    SessionLostError,
    TunnelError,
)
from tunnel.metrics_collector import MetricsCollector
from tunnel.pending_requests import Outstanding, Pending, PendingRequests
from tunnel.request_frames import decode_cancel, decode_request, encode_response
from tunnel.request_queue import RequestPriority
from tunnel.responses import Headers, TunnelResponse
from tunnel.session_frames import FrameKind, Parcel, SessionViolation
from tunnel.testing import FakeClock
from tunnel.timers import SystemTimers, TimerHandle

LONG = 30.0
"""Seconds that something may take which is certain to happen."""

Answer = Future[TunnelResponse]


class Bench:
    """Pending requests on a clock that stands still, and what they post."""

    def __init__(self, seed: int = 1) -> None:
        self.clock = FakeClock()
        self.metrics = MetricsCollector(clock=self.clock)
        self.breaker = CircuitBreaker(clock=self.clock)
        self.posted: list[tuple[Parcel, RequestPriority, float]] = []
        self.queued: list[Parcel] = []
        self.cancels: list[Parcel] = []
        self.is_linked = True  # what is posted gets its number at once
        self.on_cancel: Callable[[Parcel], object] = lambda parcel: None
        self.on_post: Callable[[Parcel], object] = lambda parcel: None
        self.default_timeout = 30.0
        self.requests = PendingRequests(
            clock=self.clock,
            metrics=self.metrics,
            breaker=self.breaker,
            post=self.post,
            discard=self.discard,
            cancel=self.cancel,
            default_timeout=lambda: self.default_timeout,
            rng=random.Random(seed),
        )

    def post(self, parcel: Parcel, priority: RequestPriority, timeout: float) -> None:
        self.on_post(parcel)
        self.posted.append((parcel, priority, timeout))
        if not self.is_linked:
            self.queued.append(parcel)
        else:
            parcel.claim()

    def discard(self, parcels: Sequence[Parcel]) -> list[Parcel]:
        unwanted = set(map(id, parcels))
        discarded = [parcel for parcel in self.queued if id(parcel) in unwanted]
        self.queued = [parcel for parcel in self.queued if id(parcel) not in unwanted]
        return discarded

    def cancel(self, parcel: Parcel) -> None:
        self.on_cancel(parcel)
        self.cancels.append(parcel)

    def submit(self, payload: str | bytes = b"", **options: Any) -> Answer:
        return self.requests.submit(payload, **options)

    @property
    def asked(self) -> list[Parcel]:
        return [p for p, _, _ in self.posted if p.kind is FrameKind.REQUEST]

    @property
    def cancelled(self) -> list[int]:
        return [decode_cancel(parcel) for parcel in self.cancels]

    def id(self, number: int = -1) -> int:
        return decode_request(self.asked[number]).request_id

    def answer(self, number: int = -1, status: int = 200, payload: bytes = b"") -> None:
        self.requests.answered(answer_to(self.asked[number], status, payload))

    def state(self) -> CircuitState:
        return self.breaker.state

    def trial(self) -> None:
        """Open the circuit, and let its time pass: the next request is on trial."""
        for _ in range(5):
            self.breaker.record_failure(self.breaker.allow())
        self.clock.advance(60.0)

    def assert_nothing_is_left(self) -> None:
        assert self.requests.outstanding == 0
        assert not self.clock._timers


def answer_to(parcel: Parcel, status: int = 200, payload: bytes = b"") -> Parcel:
    request_id = decode_request(parcel).request_id
    answer = TunnelResponse(request_id, status, Headers({"a": "b"}), payload)
    return Parcel(FrameKind.RESPONSE, encode_response(answer))


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


# Asking


def test_a_request_is_posted_whole(bench: Bench) -> None:
    """Method, path, headers and body, with the priority, and the time that there is."""
    bench.submit(
        b"body",
        method="PUT",
        path="/a?b",
        headers=[("X", "1"), ("X", "2")],
        priority=RequestPriority.LOW,
        timeout=7.0,
    )
    ((parcel, priority, timeout),) = bench.posted
    request = decode_request(parcel)
    assert (request.method, request.path, request.payload) == ("PUT", "/a?b", b"body")
    assert request.headers.multi_items() == (("X", "1"), ("X", "2"))
    assert (parcel.kind, priority, timeout) == (FrameKind.REQUEST, RequestPriority.LOW, 7.0)
    assert not parcel.is_withdrawn


def test_defaults(bench: Bench) -> None:
    """POST to the root, normal priority, no headers."""
    bench.submit("ä")
    request = decode_request(bench.asked[0])
    assert (request.method, request.path, len(request.headers)) == ("POST", "/", 0)
    assert request.payload == "ä".encode()
    assert bench.posted[0][1:] == (RequestPriority.NORMAL, 30.0)


@pytest.mark.parametrize("payload", [b"ab", bytearray(b"ab"), memoryview(b"ab"), "ab"])
def test_payloads(bench: Bench, payload: Any) -> None:
    """Bytes of any kind go as they are, text as UTF-8."""
    bench.submit(payload)
    assert decode_request(bench.asked[0]).payload == b"ab"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"payload": 1}, PayloadTypeError, "str or bytes-like, not int"),
        ({"payload": None}, PayloadTypeError, "not NoneType"),
        ({"payload": "a\ud800"}, ValueError, "character 1 is a lone surrogate"),
        ({"method": "G T"}, ConfigurationError, "method is not a token"),
        ({"path": "x"}, ConfigurationError, "path must begin with /"),
        ({"headers": {"a": "\n"}}, ConfigurationError, "control character"),
        ({"headers": {"a": "x" * 70_000}}, ConfigurationError, "at most"),
        ({"headers": {"a": 1}}, TypeError, "must be a str"),
        ({"timeout": -1.0}, ConfigurationError, "timeout must be finite and at least 0"),
        ({"timeout": float("inf")}, ConfigurationError, "timeout must be finite"),
        ({"timeout": float("nan")}, ConfigurationError, "timeout must be finite"),
        ({"timeout": "1"}, TypeError, "timeout must be a number"),
        ({"priority": "high"}, TypeError, "priority must be a RequestPriority"),
    ],
)
def test_mistakes(bench: Bench, options: dict[str, Any], error: type[Exception], text: str) -> None:
    """A wrong argument raises at the call; nothing is posted, and no trial is used up."""
    bench.trial()
    with pytest.raises(error, match=text):
        bench.submit(**{"payload": b"", **options})
    assert not bench.posted
    bench.assert_nothing_is_left()
    assert bench.state() is CircuitState.OPEN, "the breaker was not even asked"


def test_ids_count_from_anywhere() -> None:
    """The first is random within 63 bits, so that no two processes share any; then they count."""
    benches = [Bench(seed) for seed in range(20)]
    for bench in benches:
        for _ in range(3):
            bench.submit()
        assert [bench.id(number) - bench.id(0) for number in range(3)] == [0, 1, 2]
    firsts = {bench.id(0) for bench in benches}
    assert len(firsts) == 20
    assert all(first < 2**63 for first in firsts)
    assert max(firsts) > 2**60


def test_ids_are_random_by_themselves(bench: Bench) -> None:
    """Without a generator the system's gives the first."""

    def first() -> int:
        posted: list[Parcel] = []
        requests = PendingRequests(
            clock=bench.clock,
            metrics=bench.metrics,
            breaker=bench.breaker,
            post=lambda parcel, priority, timeout: posted.append(parcel),
            discard=lambda parcels: [],
            cancel=lambda parcel: None,
            default_timeout=lambda: 30.0,
        )
        requests.submit(b"")
        return decode_request(posted[0]).request_id

    assert len({first() for _ in range(5)}) == 5


# Answers


def test_an_answer_completes_its_request(bench: Bench) -> None:
    """Each future gets the answer to its own request, with the time that it took."""
    first, second = bench.submit(), bench.submit()
    bench.clock.advance(1.5)
    bench.answer(1, payload=b"two")
    assert not first.done()
    response = second.result(0)
    assert (response.status_code, response.payload, response.latency) == (200, b"two", 1.5)
    assert response.request_id == bench.id(1)
    assert response.headers["A"] == "b"
    bench.clock.advance(1.0)
    bench.answer(0, status=404)
    assert (first.result(0).status_code, first.result(0).latency) == (404, 2.5)
    bench.assert_nothing_is_left()


def test_an_answer_that_comes_before_post_returns_is_not_lost(bench: Bench) -> None:
    """The request is registered before it is posted."""

    def answer_at_once(parcel: Parcel) -> None:
        bench.requests.answered(answer_to(parcel, payload=b"quick"))

    bench.on_post = answer_at_once
    assert bench.submit().result(0).payload == b"quick"
    bench.assert_nothing_is_left()


def test_a_late_answer_is_dropped(bench: Bench) -> None:
    """An answer after the time-out, one that comes again, and one that nobody asked for."""
    future = bench.submit(timeout=1.0)
    bench.clock.advance(1.0)
    bench.answer()
    assert isinstance(future.exception(0), RequestTimeoutError)
    assert bench.requests.late == 1
    bench.submit()
    bench.answer()
    bench.answer()
    assert bench.requests.late == 2
    stranger = TunnelResponse(12345, 200)
    bench.requests.answered(Parcel(FrameKind.RESPONSE, encode_response(stranger)))
    assert bench.requests.late == 3
    assert bench.metrics.snapshot().total_requests == 2


@pytest.mark.parametrize("payload", [b"", b"x" * 40, b"\0" * 12])
def test_a_malformed_answer_is_a_violation(bench: Bench, payload: bytes) -> None:
    """The peer broke the protocol; what is outstanding stays so until somebody decides."""
    future = bench.submit()
    with pytest.raises(SessionViolation, match="a malformed RESPONSE: "):
        bench.requests.answered(Parcel(FrameKind.RESPONSE, payload))
    assert not future.done()
    assert bench.requests.outstanding == 1
    bench.answer()
    assert future.done()


# Time-outs


@pytest.mark.requirement("5.6")
def test_a_request_times_out(bench: Bench) -> None:
    """After 30 s, not earlier; the caller gets a clear error that says how long it was."""
    future = bench.submit()
    bench.clock.advance(29.999)
    assert not future.done()
    bench.clock.advance(0.001)
    error = future.exception(0)
    assert isinstance(error, RequestTimeoutError)
    assert error.timeout == 30.0
    assert "not answered within 30 s" in str(error)
    bench.assert_nothing_is_left()


@pytest.mark.requirement("5.6")
def test_the_default_is_asked_for_each_time(bench: Bench) -> None:
    """So that it can be changed while the tunnel runs."""
    old = bench.submit()
    bench.default_timeout = 2.0
    new = bench.submit()
    bench.clock.advance(2.0)
    assert (old.done(), new.done()) == (False, True)
    bench.clock.advance(28.0)
    assert old.done()


@pytest.mark.requirement("5.6")
def test_time_outs_come_in_the_order_of_their_deadlines(bench: Bench) -> None:
    """Whatever the order of the calls, each at its time."""
    ended: list[tuple[float | None, float]] = []

    def note(future: Answer) -> None:
        error = future.exception(0)
        assert isinstance(error, RequestTimeoutError)
        ended.append((error.timeout, bench.clock.monotonic()))

    for timeout in (5.0, 1.0, 3.0, 2.0, 4.0):
        bench.submit(timeout=timeout).add_done_callback(note)
    bench.clock.advance(10.0)
    assert ended == [(t, t) for t in (1.0, 2.0, 3.0, 4.0, 5.0)]


def test_waiting_for_room_takes_from_the_time(bench: Bench) -> None:
    """The time-out counts from the call: what was waited for room is gone."""
    bench.on_post = lambda parcel: bench.clock.advance(8.0)
    future = bench.submit(timeout=10.0)
    bench.on_post = lambda parcel: None
    assert not future.done()
    bench.clock.advance(2.0)
    assert isinstance(future.exception(0), RequestTimeoutError)


def test_a_request_whose_time_went_with_waiting_times_out_at_once(bench: Bench) -> None:
    """Posted in the last moment, it ends at its deadline all the same, and is cancelled after."""
    bench.on_post = lambda parcel: bench.clock.advance(11.0)
    future = bench.submit(timeout=10.0)
    bench.clock.advance(0.0)
    assert isinstance(future.exception(0), RequestTimeoutError)
    assert (len(bench.asked), bench.cancelled) == (1, [bench.id()])


def test_a_time_out_cancels(bench: Bench) -> None:
    """The peer is told of a request that may have been sent, so that it need not answer it."""
    bench.submit(timeout=1.0, priority=RequestPriority.HIGH)
    bench.clock.advance(1.0)
    assert not bench.asked[0].is_withdrawn
    assert bench.cancelled == [bench.id(0)]


@pytest.mark.parametrize("end", ["time-out", "cancel", "loss", "interrupt"])
def test_what_was_never_sent_leaves_nothing_behind(bench: Bench, end: str) -> None:
    """Without a link a request that ends leaves the queue, and no CANCEL is made for it."""
    bench.is_linked = False
    if end == "interrupt":

        def interrupted(parcel: Parcel) -> None:
            bench.queued.append(parcel)
            raise KeyboardInterrupt

        bench.on_post = interrupted
        with pytest.raises(KeyboardInterrupt):
            bench.submit()
    else:
        futures = [bench.submit(timeout=1.0) for _ in range(60)]
        assert len(bench.queued) == 60
        if end == "time-out":
            bench.clock.advance(1.0)
        elif end == "cancel":
            assert all(future.cancel() for future in futures)
        else:
            bench.requests.fail_all(SessionLostError())
        assert all(parcel.is_withdrawn for parcel in bench.asked)
    assert bench.queued == []
    assert bench.cancelled == []
    bench.assert_nothing_is_left()


def test_withdrawn_before_it_is_queued(bench: Bench) -> None:
    """A loss that comes while the request is on its way to the queue: it does not stay there."""
    bench.is_linked = False
    bench.on_post = lambda parcel: bench.requests.fail_all(SessionLostError())
    assert isinstance(bench.submit().exception(0), SessionLostError)
    assert bench.queued == []


def test_a_request_that_returned_to_the_queue_is_not_cancelled(bench: Bench) -> None:
    """An interrupted writer has given it back: it never was on the wire, whatever was planned."""
    bench.is_linked = False
    bench.submit(timeout=1.0)
    assert bench.queued[0].claim()
    bench.clock.advance(1.0)
    assert (bench.queued, bench.cancelled) == ([], [])


def test_a_queue_that_is_closed_harms_no_request(bench: Bench, logged: list[str]) -> None:
    """Requests end in their way even if they cannot be taken out of the queue."""

    def closed(parcels: Sequence[Parcel]) -> list[Parcel]:
        raise InvalidStateError("the queue is closed")

    bench.requests._discard = closed
    bench.is_linked = False
    futures = [bench.submit(timeout=1.0) for _ in range(2)]
    bench.clock.advance(1.0)
    assert all(isinstance(f.exception(0), RequestTimeoutError) for f in futures)
    assert "still queued: the queue is closed" in logged[0]
    assert bench.cancelled == []


def test_a_cancellation_that_cannot_be_sent_is_no_trouble(bench: Bench, logged: list[str]) -> None:
    """It is best effort: logged, and other time-outs of the same moment are not held up."""
    futures = [bench.submit(timeout=1.0) for _ in range(3)]

    def full(parcel: Parcel) -> None:
        raise QueueFullError("no {room}")

    bench.on_cancel = full
    bench.clock.advance(1.0)
    assert all(isinstance(f.exception(0), RequestTimeoutError) for f in futures)
    expected = "DEBUG a request's cancellation was not sent: no {room} (TUNNEL_006)"
    assert [line.strip() for line in logged] == [expected] * 3
    bench.assert_nothing_is_left()


# What cannot be posted


def test_nothing_remains_of_what_was_not_posted(bench: Bench) -> None:
    """The error reaches the caller; the trial's place is free, and nothing is counted."""
    bench.trial()

    def full(parcel: Parcel) -> None:
        assert bench.requests.outstanding == 1
        with pytest.raises(CircuitOpenError):
            bench.breaker.allow()
        raise QueueFullError

    bench.on_post = full
    with pytest.raises(QueueFullError):
        bench.submit()
    bench.assert_nothing_is_left()
    assert bench.metrics.snapshot().total_requests == 0
    assert bench.breaker.machine.history[-1].trigger == "no_result"
    bench.on_post = lambda parcel: None
    bench.submit()
    bench.answer()
    assert bench.state() is CircuitState.CLOSED


def test_no_room_until_the_end_is_no_failure_of_the_peer(bench: Bench) -> None:
    """A request that waited for room all its time was not sent: it is not counted as timed out."""

    def full(parcel: Parcel) -> None:
        bench.clock.advance(30.0)
        raise QueueFullError

    bench.on_post = full
    for _ in range(10):
        with pytest.raises(QueueFullError):
            bench.submit()
    assert bench.state() is CircuitState.CLOSED
    assert bench.metrics.snapshot().total_requests == 0
    assert not bench.posted


def test_an_interrupt_while_posting(bench: Bench) -> None:
    """KeyboardInterrupt while waiting for room leaves nothing registered either."""

    def interrupted(parcel: Parcel) -> None:
        raise KeyboardInterrupt

    bench.on_post = interrupted
    with pytest.raises(KeyboardInterrupt):
        bench.submit()
    bench.assert_nothing_is_left()


def test_a_loss_while_posting(bench: Bench) -> None:
    """If all fail while one is being posted, that one is withdrawn, and ends with the others."""
    parcels: list[Parcel] = []

    def lose(parcel: Parcel) -> None:
        parcels.append(parcel)
        bench.requests.fail_all(SessionLostError())

    bench.on_post = lose
    assert isinstance(bench.submit().exception(0), SessionLostError)
    assert parcels[0].is_withdrawn
    bench.assert_nothing_is_left()

    def lose_and_raise(parcel: Parcel) -> None:
        lose(parcel)
        raise QueueFullError

    bench.on_post = lose_and_raise
    with pytest.raises(QueueFullError):
        bench.submit()
    bench.assert_nothing_is_left()


def test_without_a_timer_there_is_no_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started for the timers, the caller hears of it, and may try again."""

    def fail(*arguments: object) -> TimerHandle:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(bench.clock, "call_at", fail)
        with pytest.raises(RuntimeError, match="new thread"):
            bench.submit()
    bench.assert_nothing_is_left()
    future = bench.submit(timeout=1.0)
    bench.clock.advance(1.0)
    assert future.done()


# Cancelling


def test_a_caller_may_cancel(bench: Bench) -> None:
    """The peer is told, and nothing is counted."""
    future = bench.submit(priority=RequestPriority.LOW)
    assert future.cancel()
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result(0)
    assert bench.cancelled == [bench.id(0)]
    assert bench.metrics.snapshot().total_requests == 0
    bench.assert_nothing_is_left()


def test_a_cancelled_request_has_ended_when_its_callbacks_run(bench: Bench) -> None:
    """They may wait for it, or ask again: also a request that was on trial is over."""
    bench.trial()
    future = bench.submit()
    seen: list[object] = []

    def look(cancelled: Future[Any]) -> None:
        seen.append(bench.requests.outstanding)
        seen.append(concurrent.futures.wait([cancelled], 0).not_done)
        seen.append(bench.submit().cancel())

    future.add_done_callback(look)
    assert future.cancel()
    assert seen == [0, set(), True]


def test_whoever_waits_for_it_sees_a_cancellation(bench: Bench) -> None:
    """`concurrent.futures.wait` and `as_completed` return."""
    future, other = bench.submit(), bench.submit()
    seen: list[object] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        seen.extend(concurrent.futures.as_completed([future, other], LONG))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(LONG)
    future.cancel()
    done, _ = concurrent.futures.wait([future], LONG)
    assert done == {future}
    bench.answer(1)
    thread.join(LONG)
    assert seen == [future, other]


def test_what_is_answered_cannot_be_cancelled(bench: Bench) -> None:
    """`cancel` says no, and tells nobody."""
    future = bench.submit()
    bench.answer()
    assert not future.cancel()
    assert not bench.cancelled


def test_cancellations_are_no_failures(bench: Bench) -> None:
    """However many, the circuit stays closed; a trial that is cancelled gives its place back."""
    for _ in range(20):
        bench.submit().cancel()
    assert bench.state() is CircuitState.CLOSED
    bench.trial()
    bench.submit().cancel()
    assert bench.state() is CircuitState.HALF_OPEN
    bench.submit()
    bench.answer()
    assert bench.state() is CircuitState.CLOSED


def cancel_when_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each caller cancel in the very moment in which its request has been taken out."""
    for name in ("take", "take_due", "take_all"):
        original = getattr(Outstanding, name)

        def taking(self: Outstanding, *arguments: Any, original: Any = original) -> Any:
            taken = original(self, *arguments)
            for request in taken if isinstance(taken, list) else filter(None, [taken]):
                # In a thread: the lock is held here, as it would be by the one who takes.
                thread = threading.Thread(target=request.future.cancel)
                thread.start()
                while not request.future.cancelled():
                    thread.join(0.001)
            return taken

        monkeypatch.setattr(Outstanding, name, taking)


@pytest.mark.parametrize(
    "end",
    [
        lambda bench: bench.answer(),
        lambda bench: bench.clock.advance(30.0),
        lambda bench: bench.requests.fail_all(SessionLostError()),
    ],
    ids=["answer", "time-out", "loss"],
)
def test_a_cancellation_at_the_very_moment_wins(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, end: Callable[[Bench], None]
) -> None:
    """Who ends a request and finds it cancelled leaves it so, raises nothing and counts nothing."""
    bench.trial()
    future = bench.submit()
    cancel_when_taken(bench, monkeypatch)
    end(bench)
    assert concurrent.futures.wait([future], LONG).done == {future}
    assert future.cancelled()
    assert bench.metrics.snapshot().total_requests == 0
    assert bench.breaker.machine.history[-1].trigger == "no_result", "the place is free again"
    assert bench.state() is CircuitState.HALF_OPEN
    bench.assert_nothing_is_left()


def test_a_future_that_its_owner_completes_harms_nobody(bench: Bench) -> None:
    """It is not meant to be done; the answer is dropped, and the others get theirs."""
    futures = [bench.submit() for _ in range(3)]
    futures[0].set_result(TunnelResponse(0, 200))
    futures[1].set_exception(ValueError())
    for number in range(3):
        bench.answer(number)
    assert futures[2].result(0).status_code == 200
    bench.assert_nothing_is_left()


# A loss


def test_all_fail_at_once(bench: Bench) -> None:
    """Each with an error of its own that says the same; none is cancelled."""
    futures = [bench.submit() for _ in range(3)]
    error = SessionLostError("gone", unacknowledged=["a"])
    bench.requests.fail_all(error)
    errors = [future.exception(0) for future in futures]
    assert all(isinstance(e, SessionLostError) and e.unacknowledged == ("a",) for e in errors)
    assert {str(e) for e in errors} == {str(error)}
    assert len({id(e) for e in [*errors, error]}) == 4
    assert not bench.cancelled
    bench.assert_nothing_is_left()
    bench.requests.fail_all(error)
    assert bench.metrics.snapshot().error_counts == {"TUNNEL_032": 3}


@pytest.mark.requirement("5.7")
@pytest.mark.parametrize(
    ("error", "state"),
    [
        (SessionLostError(), CircuitState.OPEN),
        (InvalidStateError("the tunnel was disconnected"), CircuitState.CLOSED),
    ],
)
def test_only_a_lost_session_is_a_failure_of_the_peer(
    bench: Bench, error: TunnelError, state: CircuitState
) -> None:
    """A tunnel that is closed says nothing about the peer."""
    for _ in range(5):
        bench.submit()
    bench.requests.fail_all(error)
    assert bench.state() is state
    assert bench.metrics.snapshot().failed_requests == 5


# The circuit, and the metrics


@pytest.mark.requirement("5.7", "5.8")
def test_time_outs_open_the_circuit(bench: Bench) -> None:
    """After the fifth no request is posted for a minute; then one goes on trial."""
    for _ in range(5):
        bench.submit(timeout=1.0)
        bench.clock.advance(1.0)
    posted = len(bench.posted)
    with pytest.raises(CircuitOpenError) as caught:
        bench.submit()
    assert caught.value.retry_after == 60.0
    assert len(bench.posted) == posted
    bench.assert_nothing_is_left()
    bench.clock.advance(60.0)
    future = bench.submit()
    with pytest.raises(CircuitOpenError):
        bench.submit()
    bench.answer()
    assert future.result(0).status_code == 200
    bench.submit()


@pytest.mark.requirement("5.7")
@pytest.mark.parametrize(
    ("status", "is_failure"),
    [
        *((status, True) for status in (502, 503, 504)),
        *((status, False) for status in (200, 204, 302, 400, 404, 413, 429, 500, 501, 505, 599)),
    ],
)
def test_what_an_answer_counts_for(bench: Bench, status: int, is_failure: bool) -> None:
    """502 to 504 say that there was no answer; all else is one, and ends a row of failures."""
    for _ in range(4):
        bench.submit()
        bench.answer(status=503)
    future = bench.submit()
    bench.answer(status=status)
    assert future.result(0).status_code == status
    assert (bench.state() is CircuitState.OPEN) == is_failure
    if not is_failure:
        bench.submit()
        bench.answer(status=503)
        assert bench.state() is CircuitState.CLOSED


@pytest.mark.requirement("5.8")
def test_any_answer_closes_a_circuit_on_trial(bench: Bench) -> None:
    """A peer that says 404 is there: the circuit does not stay half open because of it."""
    bench.trial()
    bench.submit()
    bench.answer(status=404)
    assert bench.state() is CircuitState.CLOSED


def test_metrics(bench: Bench) -> None:
    """Latency of all that ended, success of those that were answered, errors by their codes."""
    for status in (200, 404, 500):
        bench.submit()
        bench.clock.advance(1.0)
        bench.answer(status=status)
    for status in (502, 503):
        bench.submit()
        bench.answer(status=status)
    bench.submit(timeout=4.0)
    bench.clock.advance(4.0)
    bench.submit()
    bench.requests.fail_all(InvalidStateError())
    bench.submit().cancel()
    metrics = bench.metrics.snapshot()
    assert (metrics.successful_requests, metrics.failed_requests) == (3, 4)
    assert metrics.total_latency == 7.0
    assert metrics.error_counts == {
        "HTTP 502": 1,
        "HTTP 503": 1,
        "TUNNEL_007": 1,
        "TUNNEL_028": 1,
    }


def test_outcomes_are_counted_before_the_caller_knows(bench: Bench) -> None:
    """Who has seen a request fail finds the circuit and the metrics as it left them."""
    seen: list[tuple[int, CircuitState]] = []

    def look(future: Answer) -> None:
        seen.append((bench.metrics.snapshot().total_requests, bench.state()))

    for _ in range(4):
        bench.submit()
        bench.answer(status=502)
    bench.submit().add_done_callback(look)
    bench.answer(status=502)
    assert seen == [(5, CircuitState.OPEN)]


def test_a_clock_that_was_turned_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latency is 0 then, and the reading thread goes on."""
    bench.clock.advance(10.0)
    future = bench.submit()
    monkeypatch.setattr(bench.clock, "monotonic", lambda: 5.0)
    bench.answer()
    assert future.result(0).latency == 0.0


# Callbacks


def test_a_callback_that_raises_harms_nobody(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """`concurrent.futures` logs it; the reading thread and the timers go on."""
    futures = [bench.submit(timeout=1.0), bench.submit(timeout=1.0), bench.submit()]
    for future in futures:
        future.add_done_callback(lambda _: 1 / 0)
    bench.answer(2)
    bench.clock.advance(1.0)
    assert all(future.done() for future in futures)
    assert len(caplog.records) == 3
    bench.assert_nothing_is_left()


@pytest.mark.parametrize(
    "end",
    [
        lambda bench: bench.clock.advance(1.0),
        lambda bench: bench.requests.fail_all(InvalidStateError("over")),
    ],
)
def test_all_end_though_a_callback_ends_its_thread(
    bench: Bench, end: Callable[[Bench], object]
) -> None:
    """`SystemExit` in a future's callback is raised, but not before the others have ended too."""
    futures = [bench.submit(b"", timeout=1.0) for _ in range(3)]
    for future in futures:
        future.add_done_callback(lambda _: sys.exit())
    with pytest.raises(SystemExit):
        end(bench)
    assert all(future.done() for future in futures)
    bench.assert_nothing_is_left()


def test_a_callback_may_ask_cancel_and_fail(bench: Bench) -> None:
    """No lock is held while a future is completed."""
    second, third = bench.submit(), bench.submit()
    asked: list[Answer] = []

    def callback(_: Answer) -> None:
        asked.append(bench.submit())
        second.cancel()
        bench.requests.fail_all(SessionLostError())

    bench.submit().add_done_callback(callback)
    bench.answer(2)
    assert second.cancelled()
    assert isinstance(third.exception(0), SessionLostError)
    assert isinstance(asked[0].exception(0), SessionLostError)
    bench.assert_nothing_is_left()


def test_nothing_is_kept_of_what_has_ended(bench: Bench) -> None:
    """Response and request go with their last reference, not when the garbage is collected."""
    gc.collect()
    gc.disable()
    try:
        ends: list[Callable[[Answer], object]] = [
            lambda _: bench.answer(),
            lambda _: bench.clock.advance(30.0),
            lambda _: bench.requests.fail_all(InvalidStateError()),
            lambda future: future.cancel(),
        ]
        for end in ends:
            future = bench.submit(b"x" * 1000)
            reference = weakref.ref(future)
            end(future)
            assert future.done()
            del future
            assert reference() is None
    finally:
        gc.enable()


# Timers


def test_many_requests_have_one_timer(bench: Bench) -> None:
    """It is set for the earliest deadline; the others cost nothing while they wait."""
    for number in range(10_000):
        bench.submit(timeout=30.0 + number % 7)
    assert bench.requests.outstanding == 10_000
    assert [timer.when for timer in bench.clock._timers] == [30.0]
    assert bench.requests._timers_set == 1
    bench.submit(timeout=5.0)
    assert [timer.when for timer in bench.clock._timers] == [5.0]
    bench.clock.advance(33.0)
    assert bench.requests.outstanding == sum(1 for n in range(10_000) if n % 7 > 3)
    bench.requests.fail_all(InvalidStateError())
    bench.assert_nothing_is_left()


def test_deadlines_of_what_was_answered_do_not_pile_up(bench: Bench) -> None:
    """With one request that stays and is due first, thousands that are answered leave no trace."""
    waiting = bench.submit(timeout=20.0)
    for _ in range(5_000):
        bench.posted.clear()
        bench.submit()
        bench.answer()
    assert len(bench.requests._outstanding._deadlines) < 100
    assert len(bench.clock._timers) == 1
    bench.clock.advance(20.0)
    assert waiting.done()
    bench.assert_nothing_is_left()


def test_an_interruption_takes_nobody_elses_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a request sees to an earlier timer leaves the one that was there."""
    bench = Bench()
    future = bench.submit(timeout=10.0)

    def interrupted(when: float, callback: Callable[[], object]) -> TimerHandle:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bench.clock, "call_at", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.submit(timeout=5.0)
    bench.clock.advance(10.0)
    assert isinstance(future.exception(0), RequestTimeoutError)
    bench.assert_nothing_is_left()


def test_a_timer_that_was_cancelled_too_late_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was about to run: it finds nothing due, and leaves the timer that took its place."""
    bench = Bench()
    begun: list[Callable[[], object]] = []
    original = bench.clock.call_at

    def call_at(when: float, callback: Callable[[], object]) -> TimerHandle:
        begun.append(callback)
        return original(when, callback)

    monkeypatch.setattr(bench.clock, "call_at", call_at)
    bench.submit(timeout=10.0).cancel()
    future = bench.submit(timeout=10.0)
    begun[0]()
    assert len(bench.clock._timers) == 1
    assert not future.done()
    bench.clock.advance(10.0)
    assert future.done()
    bench.assert_nothing_is_left()


# The register


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 20)),
            st.tuples(st.just("take"), st.integers(0, 40)),
            st.tuples(st.just("due"), st.integers(0, 30)),
            st.tuples(st.just("all"), st.just(0)),
        ),
        max_size=200,
    )
)
def test_the_register(events: list[tuple[str, int]]) -> None:
    """Whatever is added and taken, it gives out what is due, each once, by the deadlines."""
    register, model = Outstanding(), dict[int, float]()
    ids = itertools.count()
    for name, value in events:
        if name == "add":
            request_id = next(ids)
            request = pending(request_id, float(value))
            register.add(request)
            if value:
                register.watch(request)
            model[request_id] = float(value) or float("inf")
        elif name == "take":
            taken = register.take(value)
            assert (None if taken is None else taken.request_id) == (
                value if model.pop(value, None) else None
            )
        elif name == "due":
            expected = sorted(
                (deadline, key) for key, deadline in model.items() if deadline <= value
            )
            assert [request.request_id for request in register.take_due(value)] == [
                model.pop(key) and key for _, key in expected
            ]
        else:
            assert [request.request_id for request in register.take_all()] == list(model)
            model.clear()
        assert len(register) == len(model)
        assert len(register._deadlines) <= 2 * len(model) + 65
        due = min(model.values(), default=float("inf"))
        assert register.next_due() == (None if due == float("inf") else due)


def test_what_has_ended_is_never_due() -> None:
    """A request that was answered before it is watched is not put back."""
    register = Outstanding()
    request = pending(1, 5.0)
    register.add(request)
    register.take(1)
    register.watch(request)
    assert register.take_due(10.0) == []
    register.watch(request)
    assert register.next_due() is None


def pending(request_id: int, timeout: float) -> Pending:
    parcel = Parcel(FrameKind.REQUEST, b"")
    future: Answer = Future()
    permit = Permit(object())
    return Pending(request_id, parcel, future, permit, 0.0, timeout)


# Threads


class TimedClock(SystemClock):
    """The system's time, with timers of its own that can be looked into."""

    def __init__(self) -> None:
        self.timers = SystemTimers()

    def call_at(self, when: float, callback: Callable[[], None]) -> TimerHandle:
        return self.timers.call_at(when, callback)


class Peer:
    """Answers on one thread, like the one that reads: sometimes late, sometimes twice or never."""

    def __init__(self, clock: SystemClock, seed: int) -> None:
        self.mailbox: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        self.requests = PendingRequests(
            clock=clock,
            metrics=MetricsCollector(),
            breaker=CircuitBreaker(failure_threshold=10**9),
            post=lambda parcel, priority, timeout: self.mailbox.put(parcel),
            discard=lambda parcels: [],
            cancel=self.mailbox.put,
            default_timeout=lambda: LONG,
        )
        self.random = random.Random(seed)
        self.answers = self.cancelled = 0
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        try:
            while (parcel := self.mailbox.get()) is not None:
                if parcel.kind is FrameKind.CANCEL:
                    self.cancelled += 1
                elif parcel.claim() and self.random.random() < 0.9:
                    payload = decode_request(parcel).payload
                    for _ in range(self.random.choice((1, 1, 1, 2))):
                        self.requests.answered(answer_to(parcel, payload=payload))
                        self.answers += 1
        except BaseException as error:
            self.errors.append(error)


def ask_many(peer: Peer, name: int, count: int, ends: Counter[str], futures: list[Answer]) -> None:
    """Ask in all manners, and count for each future how often it ends."""
    chance = random.Random(name)
    for number in range(count):
        payload = f"{name}-{number}".encode()
        timeout = chance.choice((LONG, 0.0, 0.001, 0.005))
        if timeout == LONG and chance.random() < 0.5:
            timeout = 0.01
        future = peer.requests.submit(payload, timeout=timeout)
        ends[payload.decode()] = 0

        def ended(future: Answer, payload: bytes = payload) -> None:
            ends[payload.decode()] += 1
            if not future.cancelled() and future.exception() is None:
                assert future.result().payload == payload

        future.add_done_callback(ended)
        futures.append(future)
        if chance.random() < 0.2:
            future.cancel()


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.requirement("5.6")
def test_every_request_ends_exactly_once() -> None:
    """8 threads ask 500 times each, with answers, time-outs and cancellations at once."""
    clock = TimedClock()
    peer = Peer(clock, seed=time.monotonic_ns())
    peer.thread.start()
    ends: Counter[str] = Counter()
    lists: list[list[Answer]] = [[] for _ in range(8)]
    threads = [
        threading.Thread(target=ask_many, args=(peer, name, 500, ends, lists[name]))
        for name in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    futures = list(itertools.chain(*lists))
    # Those that are never answered and have all the time are given up.
    peer.mailbox.put(None)
    peer.thread.join(LONG)
    peer.requests.fail_all(InvalidStateError())
    done, missing = concurrent.futures.wait(futures, LONG)
    assert not peer.errors
    assert not missing
    assert len(done) == len(ends) == 4000
    assert set(ends.values()) == {1}
    assert peer.requests.outstanding == 0
    assert not clock.timers._live
    answered = sum(not f.cancelled() and f.exception() is None for f in futures)
    assert answered <= peer.answers
    metrics = peer.requests._metrics.snapshot()
    assert metrics.successful_requests == answered
    assert metrics.failed_requests == sum(
        not f.cancelled() and f.exception() is not None for f in futures
    )


@pytest.mark.usefixtures("no_leaks")
def test_answer_time_out_and_cancellation_at_the_same_moment() -> None:
    """Three threads end one request at once, again and again: it ends once, nobody raises."""
    bench = Bench()
    errors: list[BaseException] = []

    def run(action: Callable[[], object], barrier: threading.Barrier) -> None:
        try:
            barrier.wait(LONG)
            action()
        except BaseException as error:
            errors.append(error)

    pool = concurrent.futures.ThreadPoolExecutor(4)
    with pool:
        for _ in range(300):
            calls: list[object] = []
            bench.breaker = CircuitBreaker()
            future = bench.submit(timeout=1.0)
            future.add_done_callback(calls.append)
            barrier = threading.Barrier(4)
            actions: list[Callable[[], object]] = [
                bench.answer,
                lambda: bench.clock.advance(1.0),
                future.cancel,
                lambda: bench.requests.fail_all(InvalidStateError()),
            ]
            concurrent.futures.wait([pool.submit(run, action, barrier) for action in actions])
            assert future.done()
            assert calls == [future]
            bench.assert_nothing_is_left()
            bench.posted.clear()
    assert not errors
