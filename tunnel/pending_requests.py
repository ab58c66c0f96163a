"""The client's side of requests: which are outstanding, and how each of them ends.

Theory of operation
-------------------

A request is outstanding from `PendingRequests.submit` until the first of these happens:

=====================  ============================  ===============  ===========================
what ends it           the caller's future           circuit breaker  metrics
=====================  ============================  ===============  ===========================
answer, 502 to 504     the response                  failure          failed, ``HTTP 502`` ...
any other answer       the response                  success          successful
its time is up         `RequestTimeoutError`         failure          failed
the session is lost    `SessionLostError`            failure          failed
the tunnel rests       whatever error that is        not counted      failed
the caller cancels     cancelled                     not counted      not counted
=====================  ============================  ===============  ===========================

502, 503 and 504 are what a gateway says in place of a service that gave no answer. Every other
status, 4xx and 500 too, was somebody's answer, so the way to them works: the breaker judges the
peer by it, and a circuit on trial closes. To the metrics a request is successful if it was
answered in this sense; they tell how the tunnel does, not how the service likes what it is asked.

Whoever takes a request out of the register, under the lock, ends it, alone. An answer to one that
is not there any more is late, and dropped. A caller who cancels has an answer that comes at the
same time against him; the state of the future decides, and it is claimed before it is set.

The register has one timer for all its requests, set for the earliest deadline, and forgets the
deadlines of those that have ended in bulk: ten thousand outstanding ones cost no more each than
ten.

`Outstanding` is the register, without a lock, threads or time; `PendingRequests` is its shell.
"""

from __future__ import annotations

import copy
import functools
import heapq
import itertools
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from tunnel.arguments import checked_limit
from tunnel.circuit_breaker import CircuitBreaker, CircuitState, Permit
from tunnel.clock import Clock
from tunnel.errors import PayloadTypeError, RequestTimeoutError, SessionLostError, TunnelError
from tunnel.frames import encode_text
from tunnel.interruptible import Outcome
from tunnel.log_context import LogContext
from tunnel.metrics_collector import MetricsCollector
from tunnel.request_frames import (
    MalformedRequest,
    TunnelRequest,
    decode_response,
    encode_cancel,
    encode_request,
)
from tunnel.request_queue import RequestPriority
from tunnel.responses import TunnelResponse, headers_of
from tunnel.session_frames import FrameKind, Parcel, SessionViolation
from tunnel.timers import TimerHandle, timers_of

# What a gateway says when there is no answer: bad gateway, unavailable, time-out (RFC 9110, 15.6).
_NO_ANSWER = frozenset({502, 503, 504})

_FORGOTTEN = 64
"""Deadlines of ended requests that may be kept besides as many as there are outstanding ones."""


class Pending(NamedTuple):
    """One request that is outstanding. Times are seconds on the monotonic clock.

    Attributes:
        request_id: Its number.
        parcel: The frame's payload.
        future: The caller's.
        permit: The circuit breaker's.
        started: When it was asked.
        timeout: Seconds from then until it ends without an answer.
    """

    request_id: int
    parcel: Parcel
    future: Future[TunnelResponse]
    permit: Permit
    started: float
    timeout: float


class _Answer(Outcome[TunnelResponse]):
    """What a caller gets: tells by its number that the request was cancelled.

    It does not know the request: they would be part of a reference cycle, and the response would
    stay until the garbage collector comes by.
    """

    def __init__(self, request_id: int, on_cancel: Callable[[int], None]) -> None:
        super().__init__()
        self._done_callbacks.append(_Notice(request_id, on_cancel))  # before those of the caller


class _Notice:
    """The first of a future's callbacks: passes on that it was cancelled."""

    __slots__ = ("_on_cancel", "_request_id")

    def __init__(self, request_id: int, on_cancel: Callable[[int], None]) -> None:
        self._request_id = request_id
        self._on_cancel = on_cancel

    def __call__(self, future: Future[TunnelResponse]) -> None:
        if future.cancelled():
            self._on_cancel(self._request_id)


class Outstanding:
    """The register of requests and their deadlines. Pure; not thread-safe."""

    def __init__(self) -> None:
        self._requests: dict[int, Pending] = {}
        # A heap of deadline and id. Of those that have ended, some are still in it.
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Pending) -> None:
        """Register a request; its time does not run out before `watch`."""
        self._requests[request.request_id] = request

    def watch(self, request: Pending) -> float | None:
        """Give a request its deadline, and return it; None: it has ended meanwhile."""
        if request.request_id not in self._requests:
            return None
        deadline = request.started + request.timeout
        heapq.heappush(self._deadlines, (deadline, request.request_id))
        return deadline

    def take(self, request_id: int) -> Pending | None:
        """Take one out; None if it is not there."""
        request = self._requests.pop(request_id, None)
        if len(self._deadlines) > 2 * len(self._requests) + _FORGOTTEN:
            self._deadlines = [d for d in self._deadlines if d[1] in self._requests]
            heapq.heapify(self._deadlines)
        return request

    def take_due(self, now: float) -> list[Pending]:
        """Take out all whose time is up, by their deadlines."""
        due = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = self._requests.pop(heapq.heappop(self._deadlines)[1], None)
            if request is not None:
                due.append(request)
        return due

    def take_all(self) -> list[Pending]:
        """Take out all, in the order in which they were added."""
        requests = list(self._requests.values())
        self._requests.clear()
        self._deadlines.clear()
        return requests

    def next_due(self) -> float | None:
        """The earliest deadline; None without one."""
        while self._deadlines and self._deadlines[0][1] not in self._requests:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None


class PendingRequests:
    """Asks, and gives each answer to who asked for it. Safe to use from any thread.

    A future is completed, and its callbacks run, on the thread that brings its end: the one that
    reports the answer or the loss, or the timers'. What they raise is logged by
    `concurrent.futures` and harms nobody.

    Args:
        clock: The source of time, and of timers.
        metrics: Gets latency and outcome of each request.
        breaker: Asked before each request, and told how it ended.
        post: Called as ``post(parcel, priority, timeout)`` to send a REQUEST, without a lock; waits
            for room at most `timeout` seconds and raises a `TunnelError` if there is none.
        discard: Called with REQUESTs that nobody wants any more, and returns those that it has
            taken out of the queue. Must not wait: it may be called on the timers' thread.
        cancel: Called with the CANCEL of a REQUEST that may have been sent. Must not wait either.
        default_timeout: Asked for the seconds that a request gets which does not say so itself.
        rng: Where the first number of a request comes from; None: the system's random source.
        log_context: What its log lines carry; None: nothing.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: MetricsCollector,
        breaker: CircuitBreaker,
        post: Callable[[Parcel, RequestPriority, float], object],
        discard: Callable[[Sequence[Parcel]], Sequence[object]],
        cancel: Callable[[Parcel], object],
        default_timeout: Callable[[], float],
        rng: random.Random | None = None,
        log_context: LogContext | None = None,
    ) -> None:
        self._log_context = LogContext() if log_context is None else log_context
        self._clock = clock
        self._timers = timers_of(clock)
        self._metrics = metrics
        self._breaker = breaker
        self._post = post
        self._discard = discard
        self._cancel = cancel
        self._default_timeout = default_timeout
        # From anywhere within 63 bits: an answer to a process that has died, replayed to this one,
        # must not be taken for the answer to another request.
        self._ids = itertools.count((rng or random.SystemRandom()).getrandbits(63))
        self._lock = threading.Lock()  # guards all below
        self._outstanding = Outstanding()
        self._late = 0
        self._timer: TimerHandle | None = None
        self._timer_due = 0.0
        self._timers_set = 0  # counts them: one that was cancelled may be about to run

    @property
    def circuit_state(self) -> CircuitState:
        """Where the circuit breaker stands."""
        return self._breaker.state

    @property
    def outstanding(self) -> int:
        """How many requests have not ended."""
        return len(self._outstanding)

    @property
    def late(self) -> int:
        """How many answers came that nobody waited for any more."""
        return self._late

    def submit(
        self,
        payload: str | bytes | bytearray | memoryview,
        *,
        method: str = "POST",
        path: str = "/",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        priority: RequestPriority = RequestPriority.NORMAL,
        timeout: float | None = None,
    ) -> Future[TunnelResponse]:
        """Ask. Waits only as long as `post` does for room.

        Args:
            payload: The body; `str` goes as UTF-8.
            method: A token of HTTP, such as GET.
            path: Begins with a slash; percent-encoded, with the query if there is one.
            headers: A mapping, or pairs of name and value.
            priority: Its place in the queue.
            timeout: Seconds for everything, from this call on (requirement 5.6); None: the default.

        Returns:
            What will have the response, or the error of the table above. `cancel` ends it until it
            is answered, and tells the peer.

        Raises:
            CircuitOpenError: Too many requests in a row have failed (requirement 5.7).
            ConfigurationError: `method`, `path`, `headers` or `timeout` are not valid.
            PayloadTypeError: `payload` is neither `str` nor bytes-like.
            TypeError: Another argument has the wrong type.
            ValueError: `payload` is text with a lone surrogate, which UTF-8 does not have.
            TunnelError: What `post` raised; the request was not sent and does not count.
        """
        started = self._clock.monotonic()
        if timeout is None:
            timeout = self._default_timeout()
        timeout = checked_limit("timeout", timeout)
        if not isinstance(priority, RequestPriority):
            raise TypeError(f"priority must be a RequestPriority, not {priority!r}")
        body = payload if type(payload) is bytes else _body(payload)
        request_id = next(self._ids)
        asked = TunnelRequest(request_id, method, path, headers_of(headers), body)
        parcel = Parcel(FrameKind.REQUEST, encode_request(asked))
        permit = self._breaker.allow()
        future = _Answer(request_id, self._cancelled)
        self._send(Pending(request_id, parcel, future, permit, started, timeout), priority)
        return future

    def answered(self, parcel: Parcel) -> None:
        """Take a RESPONSE from the peer. An answer that comes late is dropped and counted.

        Raises:
            SessionViolation: It is malformed.
        """
        try:
            response = decode_response(parcel)
        except MalformedRequest as error:
            raise SessionViolation(f"a malformed RESPONSE: {error}") from None
        request = self._take(response.request_id)
        if request is None:
            with self._lock:
                self._late += 1
            return
        if not self._claim(request):
            return
        latency = self._latency(request)
        if response.status_code in _NO_ANSWER:
            self._breaker.record_failure(request.permit)
            self._metrics.record_request(latency, False, f"HTTP {response.status_code}")
        else:
            self._breaker.record_success(request.permit)
            self._metrics.record_request(latency, True)
        vars(response)["latency"] = latency  # it is frozen, but nobody else has it yet
        request.future.set_result(response)

    def fail_all(self, error: TunnelError) -> None:
        """Let all that are outstanding end with an error: no answer to them can come any more.

        Args:
            error: Why; each future gets a copy, since raising an exception changes it. Only a
                `SessionLostError` counts as failure for the circuit breaker.
        """
        with self._lock:
            requests = self._outstanding.take_all()
            self._unplan()
        self._take_back(requests)
        is_failure = isinstance(error, SessionLostError)
        self._fail_each(requests, lambda _: copy.copy(error), is_failure)

    def _send(self, request: Pending, priority: RequestPriority) -> None:
        """Register a request and post it; if that fails, nothing of it remains."""
        with self._lock:
            self._outstanding.add(request)  # first: the answer may come before `post` returns
        try:
            self._post(request.parcel, priority, request.timeout)
            # Only now, or a wait for room that is in vain could count as a failure of the peer.
            with self._lock:
                deadline = self._outstanding.watch(request)
                if deadline is not None:
                    self._plan(deadline)
        except BaseException:
            if self._take(request.request_id) is not None:
                self._take_back([request])
                self._breaker.record_ignored(request.permit)
            raise
        if request.parcel.is_withdrawn:  # perhaps before it was in the queue
            self._take_back([request])

    def _cancelled(self, request_id: int) -> None:
        """A caller has cancelled a future that was not done."""
        request = self._take(request_id)
        if request is not None:  # else whoever took it finds it cancelled
            self._claim(request)
            self._withdraw([request])

    def _on_time(self, number: int) -> None:
        with self._lock:
            if number == self._timers_set:
                self._timer = None
            requests = self._outstanding.take_due(self._clock.monotonic())
            due = self._outstanding.next_due()
            if due is not None:
                self._plan(due)
        try:
            with self._log_context.within():  # callbacks of futures log, too
                self._fail_each(requests, _time_out, True)
        finally:
            self._withdraw(requests)

    def _fail_each(
        self,
        requests: Iterable[Pending],
        error_of: Callable[[Pending], TunnelError],
        is_failure: bool,
    ) -> None:
        """Let requests end, all of them, also if a future's callback raises `SystemExit`.

        `concurrent.futures` lets that through; it is raised when all have ended.
        """
        raised: BaseException | None = None
        for request in requests:
            try:
                self._fail(request, error_of(request), is_failure)
            except BaseException as error:
                raised = raised or error
        if raised is not None:
            try:
                raise raised
            finally:
                raised = None  # else it would refer to itself, by this frame

    def _fail(self, request: Pending, error: TunnelError, is_failure: bool) -> None:
        if not self._claim(request):
            return
        if is_failure:
            self._breaker.record_failure(request.permit)
        else:
            self._breaker.record_ignored(request.permit)
        self._metrics.record_request(self._latency(request), False, error.code)
        request.future.set_exception(error)

    def _claim(self, request: Pending) -> bool:
        """Whether the future is ours to complete: it was not cancelled, and cannot be from now on.

        Also wakes those who wait for one that was cancelled (`concurrent.futures.wait`).
        """
        try:
            is_ours = request.future.set_running_or_notify_cancel()
        except Exception:  # its owner has completed it, which is nobody's loss but his own
            is_ours = False
        if not is_ours:
            self._breaker.record_ignored(request.permit)
        return is_ours

    def _withdraw(self, requests: Sequence[Pending]) -> None:
        """Have requests that nobody waits for not sent; or, if they may have been, cancelled."""
        for request in self._take_back(requests):
            cancel = Parcel(FrameKind.CANCEL, encode_cancel(request.request_id))
            try:
                self._cancel(cancel)
            except Exception as error:  # then the peer works in vain, and its answer is late
                self._log_context.logger.debug("a request's cancellation was not sent: {}", error)

    def _take_back(self, requests: Sequence[Pending]) -> list[Pending]:
        """Have requests not sent, as far as they were not. Returns the others."""
        parcels = [request.parcel for request in requests]
        if not parcels:
            return []
        sent = [request for request in requests if not request.parcel.withdraw()]
        try:
            unsent = set(map(id, self._discard(parcels)))
        except Exception as error:  # they stay, and use up numbers at the most
            self._log_context.logger.debug("requests that nobody wants are still queued: {}", error)
            return sent
        # An interrupted writer may have claimed what is in the queue again.
        return [request for request in sent if id(request.parcel) not in unsent]

    def _take(self, request_id: int) -> Pending | None:
        with self._lock:
            request = self._outstanding.take(request_id)
            if not self._outstanding:
                self._unplan()
        return request

    def _plan(self, deadline: float) -> None:
        """See to it that there is a timer, no later than this. Needs the lock.

        One that is too early stays, also when the request that it was for has ended: it finds
        nothing due, and plans anew. So whoever takes a request out need not look for the next.
        """
        if self._timer is None or deadline < self._timer_due:
            before = self._timer
            number = self._timers_set + 1
            # In this order: an interruption leaves the one before, or one that is superfluous.
            self._timer = self._timers.call_at(deadline, functools.partial(self._on_time, number))
            self._timer_due, self._timers_set = deadline, number
            if before is not None:
                before.cancel()

    def _unplan(self) -> None:
        """There is no timer any more. Needs the lock."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _latency(self, request: Pending) -> float:
        # Not below 0, which the metrics refuse: a test that unfreezes time can turn the clock back.
        return max(0.0, self._clock.monotonic() - request.started)


def _time_out(request: Pending) -> RequestTimeoutError:
    message = f"the request was not answered within {request.timeout:g} s"
    return RequestTimeoutError(message, timeout=request.timeout)


def _body(payload: object) -> bytes:
    if isinstance(payload, str):
        return encode_text(payload)
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise PayloadTypeError(f"a payload is str or bytes-like, not {type(payload).__name__}")
