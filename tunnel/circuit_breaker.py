"""Calls to a peer that keeps failing are refused for a while, so that it can recover.

Theory of operation
-------------------

While the circuit is *closed*, all calls pass. After so many failures in a row it *opens*, and calls
are refused at once instead of waiting for one more time-out each (requirement 5.7). When the reset
time-out is over, the next call that asks finds it *half open* and passes on trial, alone; its
success closes the circuit, its failure opens it for another time-out (requirement 5.8). No timer is
needed: nothing changes until somebody asks.

A call gets a `Permit` and its result is reported with it. A permit is good for the *era* in which
it was given, and each opening begins a new one. So what a call that began before the circuit opened
brings, however late, neither closes nor opens it; and a result that is reported twice counts once.

A result is a success, a failure, or neither (`CircuitBreaker.record_ignored`): then a trial only
gives its place back. A permit that is dropped without a word counts as that too, so a lost trial
cannot keep the circuit half open for ever.

`Circuit` decides and has neither lock nor clock; `CircuitBreaker` is its shell.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from enum import Enum

from loguru import logger

from statemachine import Declaration, Record, StateMachine, Transition
from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import CircuitOpenError, ConfigurationError
from tunnel.log_context import LogContext

_TRIAL_HINT = 1.0
"""Seconds after which to ask again while a trial is under way: nobody knows how long it takes."""


class CircuitState(str, Enum):
    """Where a circuit stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


_S = CircuitState

_NO_CALL = "No call of this era is under way; results of earlier ones were dropped before."

BREAKER = Declaration(
    name="circuit_breaker",
    states={
        _S.CLOSED: "Calls pass, and failures in a row are counted.",
        _S.OPEN: "The last calls all failed: none passes until the reset time-out is over.",
        _S.HALF_OPEN: "One call at a time passes on trial, and its result decides.",
    },
    initial=_S.CLOSED,
    final=(_S.CLOSED,),
    transitions=(
        Transition(
            "failure",
            _S.CLOSED,
            _S.OPEN,
            guard="is_exhausted",
            doc="So many calls in a row have failed that the peer is taken to be down.",
        ),
        Transition(
            "call",
            _S.OPEN,
            _S.HALF_OPEN,
            guard="is_rested",
            doc="The reset time-out is over, and somebody asks: the call goes on trial.",
        ),
        Transition("success", _S.HALF_OPEN, _S.CLOSED, doc="The trial succeeded."),
        Transition(
            "failure", _S.HALF_OPEN, _S.OPEN, doc="The trial failed: wait another reset time-out."
        ),
        Transition(
            "no_result",
            _S.HALF_OPEN,
            _S.HALF_OPEN,
            doc="The trial was given up or says nothing: its place is free for another.",
        ),
    ),
    failures=("failure",),
    ignored={
        (_S.CLOSED, "call"): "It passes.",
        (_S.CLOSED, "success"): "The count of failures begins anew; nothing else changes.",
        (_S.CLOSED, "no_result"): "It says nothing about the peer.",
        (_S.HALF_OPEN, "call"): "It passes on trial, or is refused while another is on trial.",
    },
    illegal={
        (_S.OPEN, "success"): _NO_CALL,
        (_S.OPEN, "failure"): _NO_CALL,
        (_S.OPEN, "no_result"): _NO_CALL,
    },
    complete=True,
)
"""The machine of a circuit breaker; `diagrams/circuit_breaker.*` are drawn from it."""


class Permit:
    """Leave for one call, with which its result is reported. Means nothing to another breaker."""

    __slots__ = ("__weakref__", "_era", "_is_reported")

    def __init__(self, era: object) -> None:
        self._era = era
        self._is_reported = False


class Circuit:
    """The decisions of a circuit breaker. Pure; not thread-safe.

    All points in time are seconds on one monotonic clock.

    Args:
        failure_threshold: Failures in a row that open the circuit; at least 1.
        reset_timeout: Seconds that it stays open; more than 0.
        time: For the times in the machine's history: seconds since the Unix epoch.

    Attributes:
        machine: Runs `BREAKER`.

    Raises:
        ConfigurationError: A number is out of bounds.
    """

    def __init__(
        self, failure_threshold: int, reset_timeout: float, *, time: Callable[[], float]
    ) -> None:
        if isinstance(failure_threshold, bool) or not isinstance(failure_threshold, int):
            raise TypeError(f"failure_threshold must be an int, not {failure_threshold!r}")
        if failure_threshold < 1:
            raise ConfigurationError(
                f"failure_threshold must be at least 1, not {failure_threshold}"
            )
        if not 0 < reset_timeout < math.inf:
            raise ConfigurationError(
                f"reset_timeout must be finite and more than 0 s, not {reset_timeout!r}"
            )
        self._threshold = failure_threshold
        self._reset_timeout = reset_timeout
        self._now = 0.0  # of the present call, for the guard and for entering a state
        self._era = object()  # since the circuit opened last
        self._is_closed = True  # as the machine says, too; asked for each call
        self._failures = 0  # in a row, while closed
        self._retry_at = 0.0  # while open
        self._trial: weakref.ref[Permit] | None = None  # while half open
        self.machine = StateMachine(BREAKER, self, time=time, state_attribute="machine_state")

    def call(self, now: float) -> Permit:
        """Ask whether a call may pass.

        Raises:
            CircuitOpenError: It may not.
        """
        if self._is_closed:  # as the table has it: it passes, and nothing changes
            return Permit(self._era)
        self._now = now
        self.machine.fire("call")
        state = self.machine.state
        if state == _S.OPEN:
            raise _refusal("the circuit is open after failures in a row", self._retry_at - now)
        permit = Permit(self._era)
        if state == _S.HALF_OPEN:
            if self._trial is not None and self._trial() is not None:
                hint = min(_TRIAL_HINT, self._reset_timeout)
                raise _refusal("the circuit is half open, and another call is on trial", hint)
            self._trial = weakref.ref(permit)
        return permit

    def report(self, permit: Permit, trigger: str, now: float) -> None:
        """Say how a call ended: "success", "failure" or "no_result"."""
        if permit._is_reported or permit._era is not self._era:
            return
        permit._is_reported = True
        self._now = now
        if trigger == "success":
            self._failures = 0
            if self._is_closed:  # likewise
                return
        elif trigger == "failure":
            self._failures += 1
        self.machine.fire(trigger)

    @property
    def is_exhausted(self) -> bool:
        """Guard: whether as many calls in a row have failed as it takes."""
        return self._failures >= self._threshold

    @property
    def is_rested(self) -> bool:
        """Guard: whether the circuit has been open for the reset time-out."""
        return self._now >= self._retry_at

    def on_enter_closed(self) -> None:
        """Begin to count."""
        self._is_closed = True
        self._failures = 0

    def on_enter_open(self) -> None:
        """Begin to wait; permits that were given before mean nothing any more."""
        self._is_closed = False
        self._era = object()
        self._retry_at = self._now + self._reset_timeout

    def on_enter_half_open(self) -> None:
        """Offer the place of the trial."""
        self._trial = None


class CircuitBreaker:
    """Refuses calls to a peer that keeps failing. Safe to use from any thread, for any calls.

    ::

        permit = breaker.allow()  # CircuitOpenError: not now
        try:
            call()
        except OSError:
            breaker.record_failure(permit)
            raise
        else:
            breaker.record_success(permit)

    Args:
        failure_threshold: Failures in a row that open the circuit (requirement 5.7).
        reset_timeout: Seconds after which an open circuit lets a call try again (requirement 5.8).
        clock: The source of time; None: the system's.
        log_context: What its log lines carry; None: nothing.

    Raises:
        ConfigurationError: `failure_threshold` is less than 1, or `reset_timeout` is not finite or
            not more than 0.
        TypeError: `failure_threshold` is no integer.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        reset_timeout: float = 60.0,
        *,
        clock: Clock | None = None,
        log_context: LogContext | None = None,
    ) -> None:
        self._clock: Clock = SYSTEM_CLOCK if clock is None else clock
        self._log_context = LogContext() if log_context is None else log_context
        self._lock = threading.Lock()  # guards all below, with the machine; nobody is told under it
        self._circuit = Circuit(failure_threshold, reset_timeout, time=self._clock.time)
        self._subscribers: tuple[tuple[Callable[[Record], object]], ...] = ()
        self._untold: list[Record] = []
        self._is_telling = False
        self._circuit.machine.subscribe(self._untold.append)

    @property
    def state(self) -> CircuitState:
        """Where the circuit stands. It is `OPEN` until a call asks, though its time may be over."""
        return CircuitState(self.machine.state)

    @property
    def machine(self) -> StateMachine:
        """The machine, for its state and history; its own observers would run under the lock."""
        return self._circuit.machine

    def allow(self) -> Permit:
        """Ask whether a call may pass. Does not wait.

        Returns:
            A permit, with which the call's result has to be reported.

        Raises:
            CircuitOpenError: It may not. `retry_after` says in how many seconds to ask again: the
                rest of the reset time-out; or, while another call is on trial, one second.
        """
        try:
            with self._lock:
                return self._circuit.call(self._clock.monotonic())
        finally:
            if self._untold:
                self._tell()

    def record_success(self, permit: Permit) -> None:
        """The call has succeeded: failures before it do not count any more."""
        self._report(permit, "success")

    def record_failure(self, permit: Permit) -> None:
        """The call has failed."""
        self._report(permit, "failure")

    def record_ignored(self, permit: Permit) -> None:
        """The call has ended in a way that says nothing about the peer: it was cancelled, say."""
        self._report(permit, "no_result")

    def subscribe(self, callback: Callable[[Record], object]) -> Callable[[], None]:
        """Have `callback` called with each change of state from now on, one at a time, in order.

        It is called without a lock, by the thread that makes the change or by one that is telling
        of an earlier one. What it raises is logged. A trial that gives its place back is a record
        too, which leads from `half_open` to itself.

        Returns:
            A function that ends the subscription. A call that has begun is not waited for.
        """
        subscriber = (callback,)  # one of its own, so that a callback may subscribe twice
        with self._lock:
            self._subscribers += (subscriber,)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)

        return unsubscribe

    def _report(self, permit: Permit, trigger: str) -> None:
        with self._lock:
            self._circuit.report(permit, trigger, self._clock.monotonic())
        if self._untold:
            self._tell()

    def _tell(self) -> None:
        """Tell of all changes that nobody was told of, unless another call is about it already."""
        while self._untold:  # nearly always empty; what another thread adds now, that thread tells
            with self._lock:
                if self._is_telling or not self._untold:
                    return
                self._is_telling = True
                record, subscribers = self._untold.pop(0), self._subscribers
            try:
                level = "WARNING" if record.dest == _S.OPEN else "INFO"
                self._log_context.logger.log(
                    level, "circuit {} -> {}: {}", record.source, record.dest, record.trigger
                )
                for (callback,) in subscribers:
                    _call(callback, record)
            finally:
                with self._lock:
                    self._is_telling = False


def _refusal(because: str, seconds: float) -> CircuitOpenError:
    return CircuitOpenError(f"{because}; ask again in {seconds:.3g} s", retry_after=seconds)


def _call(callback: Callable[[Record], object], record: Record) -> None:
    try:
        callback(record)
    except Exception:
        logger.exception("a subscriber failed at the circuit's change to {}", record.dest)
