"""The requests of one session: how many run, which are cancelled, and that each gets one answer.

A request runs in a thread, at the same time as others. It is over once it is answered, cancelled,
or late; what its thread brings after that is dropped. Its thread and its share of the session's
bounds are occupied until the thread is done with it, so nobody gets more by cancelling.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from loguru import logger

from tunnel.errors import ConfigurationError
from tunnel.gateway.handlers import (
    Call,
    GatewaySession,
    RequestFailed,
    RequestHandling,
    failure,
)
from tunnel.gateway.outbox import Outbox
from tunnel.gateway.pool import Pool
from tunnel.gateway.settings import GatewaySettings
from tunnel.request_frames import (
    MalformedRequest,
    decode_cancel,
    decode_request,
    encode_response,
)
from tunnel.responses import TunnelResponse
from tunnel.session_frames import FrameKind, Parcel, SessionViolation

_ID_SIZE = 8
_SURPLUS = 4  # times the outbox's bytes, answers included


class _Run:
    """One request, from its arrival to the end of its thread."""

    __slots__ = ("call", "is_over", "key", "payload", "size", "timer")

    def __init__(self, key: bytes, payload: Parcel, max_size: int) -> None:
        self.key = key
        self.payload: Parcel | None = payload
        self.size = len(payload)
        self.call = Call(max_size)
        self.is_over = False
        self.timer: asyncio.TimerHandle | None = None

    def failed(self, status: int, sentence: str) -> Parcel:
        """An answer that is only a sentence."""
        return _parcel(failure(int.from_bytes(self.key, "big"), status, sentence))


class Requests:
    """Answers the requests of a session. For the event loop's thread.

    Args:
        handling: Makes the answers.
        session: Whose requests they are.
        outbox: Where answers go.
        pool: The threads in which they are made.
        settings: The bounds.
        wake: Called when a thread has finished one.
    """

    def __init__(
        self,
        handling: RequestHandling,
        session: GatewaySession,
        outbox: Outbox,
        pool: Pool,
        settings: GatewaySettings,
        wake: Callable[[], None],
    ) -> None:
        self._handling = handling
        self._session = session
        self._outbox = outbox
        self._pool = pool
        self._settings = settings
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Run] = deque()
        self._runs: dict[bytes, _Run] = {}  # by id: those that are not over
        self._running = 0
        self._running_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether every request has been answered, or was cancelled."""
        return not self._runs

    def add(self, payload: Parcel, max_size: int) -> None:
        """Take a request that has arrived; `pump` begins it.

        Args:
            payload: As it arrived.
            max_size: Bytes that the client takes in one answer.

        Raises:
            SessionViolation: It has no id of its own, so no answer could be found by it.
        """
        key = bytes(payload[:_ID_SIZE])
        if len(key) < _ID_SIZE:
            raise SessionViolation("a request without an id")
        if key in self._runs:
            raise SessionViolation("a request with the id of another")
        run = self._runs[key] = _Run(key, payload, max_size)
        self._waiting.append(run)

    def cancel(self, payload: Parcel) -> None:
        """The answer to a request is not wanted any more; an unknown one may have been answered.

        Raises:
            SessionViolation: It names no request.
        """
        try:
            decode_cancel(payload)
        except MalformedRequest as error:
            raise SessionViolation(f"CANCEL of {error}") from None
        run = self._runs.get(bytes(payload))
        if run is None:
            self._outbox.withdraw(payload)
        else:
            self._end(run)

    def pump(self) -> int:
        """Begin as many requests as may run.

        Returns:
            How many of those that were added are begun now, or need not be any more.
        """
        begun = 0
        while self._waiting and not self._outbox.is_full:
            run = self._waiting[0]
            if not run.is_over and not self._has_room(run):
                break
            self._waiting.popleft()
            begun += 1
            if not run.is_over:
                self._begin(run)
        return begun

    def close(self) -> None:
        """Nobody wants any answer any more."""
        for run in tuple(self._runs.values()):
            self._end(run)
        self._waiting.clear()

    def _has_room(self, run: _Run) -> bool:
        if not self._running:
            return True
        size = self._running_bytes + run.size
        return (
            self._running < self._settings.max_requests
            and size <= self._settings.max_unacknowledged_bytes
        )

    def _begin(self, run: _Run) -> None:
        if self._handling.is_quick:
            self._reply(run, self._answer(run))
            return
        if self._pool.waiting >= self._settings.max_waiting_requests:
            self._refuse(run, 503, "The gateway is busy: too many requests are waiting.")
            return
        self._running += 1
        self._running_bytes += run.size
        timeout = self._settings.request_timeout
        run.timer = self._loop.call_later(timeout, self._time_out, run)
        self._pool.submit(partial(self._work, run))

    def _work(self, run: _Run) -> None:
        """Make the answer, in a thread."""
        answer = None if run.is_over else self._answer(run)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._finish, run, answer)

    def _finish(self, run: _Run, answer: Parcel | None) -> None:
        self._running -= 1
        self._running_bytes -= run.size
        if answer is not None and not run.is_over:
            self._reply(run, answer)
        self._wake()

    def _time_out(self, run: _Run) -> None:
        timeout = self._settings.request_timeout
        self._refuse(run, 504, f"There was no answer within {timeout:g} s.")
        run.call.abort()
        self._wake()

    def _refuse(self, run: _Run, status: int, sentence: str) -> None:
        self._reply(run, run.failed(status, sentence))

    def _reply(self, run: _Run, answer: Parcel) -> None:
        limit = _SURPLUS * self._settings.max_outgoing_bytes
        if self._outbox.bytes and self._outbox.bytes + len(answer) > limit:
            answer = run.failed(503, "Too much is waiting to be sent to this client.")
        self._forget(run)
        self._outbox.put(answer)

    def _end(self, run: _Run) -> None:
        self._forget(run)
        run.call.abort()

    def _forget(self, run: _Run) -> None:
        run.is_over = True
        run.payload = None
        del self._runs[run.key]
        if run.timer is not None:
            run.timer.cancel()

    def _answer(self, run: _Run) -> Parcel:
        """The answer to a request, whatever happens; in any thread."""
        payload = run.payload
        try:
            if payload is None:  # cancelled a moment ago
                raise RequestFailed(504, "The request was cancelled.")
            request = decode_request(payload)
            answer = _parcel(self._handling.answer(self._session, request, run.call))
            if len(answer) > run.call.max_size:
                sentence = (
                    f"The answer has {len(answer)} bytes, and the client takes {run.call.max_size}."
                )
                raise RequestFailed(502, sentence)
            return answer
        except MalformedRequest as error:
            status, sentence = 400, f"The request is malformed: {error}."
        except RequestFailed as error:
            status, sentence = error.status, str(error)
        except Exception:
            logger.exception("the handler failed at a request of session {}", self._session.id[:8])
            status, sentence = 500, "The handler of the gateway failed at this request."
        return run.failed(status, sentence)


def _parcel(response: TunnelResponse) -> Parcel:
    try:
        return Parcel(FrameKind.RESPONSE, encode_response(response))
    except ConfigurationError as error:
        raise RequestFailed(502, f"The answer cannot be passed on: {error.message}.") from None
