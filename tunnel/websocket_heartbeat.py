"""Is the other end still there? Pings at an interval, and a verdict from the last byte received.

Theory of operation
-------------------

A ping goes out every `ping_interval` seconds. *Proof of life* is any byte from the peer, not only a
pong: a big message that takes a minute is alive all the while. When the last proof is
`pong_timeout` seconds old, the connection is taken for lost. So a dead link is noticed at most
`pong_timeout` seconds after its last byte (requirement 6.2); a timer that each ping restarts, as in
the original of this design, would never fire, since the time-out is longer than the interval.

`Heartbeat` decides and has neither thread nor socket. `WebSocketHeartbeat` is its shell: it lives
on the timers of its clock, which for the system's clock is one thread for all heartbeats of the
process.
"""

from __future__ import annotations

import functools
import math
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Literal, Protocol

from loguru import logger

from statemachine import Declaration, StateMachine, Transition
from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import ConfigurationError
from tunnel.log_context import LogContext
from tunnel.timers import TimerHandle, timers_of

PingMode = Literal["frame", "text"]

TEXT_PING = "ping"
TEXT_PONG = "pong"

# A peer may answer only the latest ping (RFC 6455, section 5.5.3); older ones count as missed.
_REMEMBERED_PINGS = 8

_LONGEST = 86_400.0
"""Seconds between pings at most, as in `TunnelConfig`."""


class HeartbeatStatus(str, Enum):
    """Where a heartbeat stands."""

    STOPPED = "stopped"
    RUNNING = "running"
    WAITING_FOR_PONG = "waiting_for_pong"
    TIMEOUT = "timeout"


_S = HeartbeatStatus

HEARTBEAT = Declaration(
    name="heartbeat",
    states={
        _S.STOPPED: "Nobody watches: there is no connection, or heartbeats are off.",
        _S.RUNNING: "The peer has given proof of life since the last ping, if there was one.",
        _S.WAITING_FOR_PONG: "A ping is out, and nothing has come from the peer since.",
        _S.TIMEOUT: "The peer has been silent for the pong time-out.",
    },
    initial=_S.STOPPED,
    final=(_S.STOPPED,),
    transitions=(
        Transition("start", _S.STOPPED, _S.RUNNING, doc="A connection is up: watch it."),
        Transition(
            "start",
            _S.TIMEOUT,
            _S.RUNNING,
            doc="Bytes had been waiting for us all the time: begin a full time-out anew.",
        ),
        Transition("ping", _S.RUNNING, _S.WAITING_FOR_PONG, doc="The interval is over: ask."),
        Transition("proof", _S.WAITING_FOR_PONG, _S.RUNNING, doc="Something came: it is alive."),
        Transition("silence", _S.RUNNING, _S.TIMEOUT, doc="No byte for the pong time-out."),
        Transition(
            "silence", _S.WAITING_FOR_PONG, _S.TIMEOUT, doc="No answer, and no other byte either."
        ),
        Transition("stop", _S.RUNNING, _S.STOPPED, doc="The connection is over."),
        Transition("stop", _S.WAITING_FOR_PONG, _S.STOPPED, doc="The connection is over."),
        Transition("stop", _S.TIMEOUT, _S.STOPPED, doc="The lost connection was given up."),
    ),
    failures=("silence",),
    ignored={
        (_S.RUNNING, "start"): "It is running already.",
        (_S.WAITING_FOR_PONG, "start"): "It is running already.",
        (_S.WAITING_FOR_PONG, "ping"): "An earlier ping is unanswered still; one more goes out.",
        (_S.RUNNING, "proof"): "No news.",
        (_S.TIMEOUT, "proof"): "Too late; whoever was told of the silence decides what it means.",
        (_S.STOPPED, "proof"): "A last byte of a connection that nobody watches any more.",
        (_S.STOPPED, "stop"): "There is nothing to stop.",
    },
    illegal={
        (_S.STOPPED, "ping"): "Without a connection there is nobody to ask.",
        (_S.TIMEOUT, "ping"): "The verdict is out; start again first.",
        (_S.STOPPED, "silence"): "Without a connection silence says nothing.",
        (_S.TIMEOUT, "silence"): "The verdict is out already.",
    },
    complete=True,
)
"""The heartbeat's machine; `diagrams/heartbeat.*` are drawn from it."""


class HeartbeatVerdict(Enum):
    """What `Heartbeat.poll` asks its owner to do."""

    NOTHING = "nothing"
    PING = "ping"
    SILENCE = "silence"


class Heartbeat:
    """The decisions of a heartbeat. Pure; not thread-safe, but for `proof`.

    All points in time are seconds on one monotonic clock.

    Args:
        ping_interval: Seconds between pings.
        pong_timeout: Seconds without a byte after which the peer counts as silent; more than
            `ping_interval`. None: 1.5 times the interval.
        prefix: Four bytes that make the pings of this heartbeat unlike those of any other.

    Attributes:
        last_proof: When the last byte came. Writing it is `proof` for a hot path.
        last_ping: When the last ping went out; None before the first.
        last_pong: When the last pong came that answers a ping; None before the first.
        round_trip: What that one took; None before the first.
        pings_sent: How many went out.
        pongs_received: How many of them were answered.
    """

    def __init__(
        self,
        ping_interval: float,
        pong_timeout: float | None = None,
        *,
        prefix: bytes | None = None,
    ) -> None:
        self.ping_interval, self.pong_timeout = _checked(ping_interval, pong_timeout)
        self._prefix = os.urandom(4) if prefix is None else prefix
        self._machine = StateMachine(HEARTBEAT, self, history=0, state_attribute="machine_state")
        self._outstanding: OrderedDict[bytes, float] = OrderedDict()
        self._missed = 0
        self._counted_from = 0.0  # the next ping is due an interval later
        self._planned = 0.0
        self.last_proof = 0.0
        self.last_ping: float | None = None
        self.last_pong: float | None = None
        self.round_trip: float | None = None
        self.pings_sent = 0
        self.pongs_received = 0

    @property
    def status(self) -> HeartbeatStatus:
        """Where the heartbeat stands."""
        status = HeartbeatStatus(self._machine.state)
        # Bytes are only counted when they come; the machine hears of them before the next ping.
        if status is _S.WAITING_FOR_PONG and self._has_news():
            return _S.RUNNING
        return status

    @property
    def missed_pongs(self) -> int:
        """Pings that will not be answered any more; after silence, all that were not."""
        return self._missed + (len(self._outstanding) if self.status is _S.TIMEOUT else 0)

    def start(self, now: float) -> None:
        """Begin to watch; the connection counts as alive at `now`."""
        if self.status is _S.STOPPED:  # after silence it is the same connection: they may answer
            self._outstanding.clear()
        self._machine.fire("start")
        self.last_proof = self._counted_from = now
        self._planned = self._next_due()

    def stop(self) -> None:
        """Watch no more."""
        self._missed = self.missed_pongs
        self._outstanding.clear()
        self._machine.fire("stop")

    def proof(self, now: float) -> None:
        """A byte came from the peer."""
        self.last_proof = now

    def pong(self, payload: bytes | None, now: float) -> float | None:
        """A pong came.

        Args:
            payload: The ping's that it answers; None (text mode) for the oldest unanswered one.
            now: When it came.

        Returns:
            The round trip in seconds; None if it answers no ping of ours (RFC 6455, section 5.5.3).
        """
        self.last_proof = now
        if payload is None:
            payload = next(iter(self._outstanding), b"")
        sent = self._outstanding.get(payload)
        if sent is None:
            return None
        while self._outstanding.popitem(last=False)[0] != payload:
            self._missed += 1  # the peer skipped it, which it may
        self.pongs_received += 1
        self.last_pong = now
        self.round_trip = now - sent
        self._machine.fire("proof")
        return self.round_trip

    def poll(self, now: float) -> HeartbeatVerdict:
        """Decide what is due. Call it at `next_due`, or at any other time.

        A poll that comes much too late says that this process did not run, not that the peer was
        silent: then the watch begins anew, with a ping.
        """
        if self.status not in (_S.RUNNING, _S.WAITING_FOR_PONG):
            return HeartbeatVerdict.NOTHING
        if now - self._planned > max(1.0, self.ping_interval / 2):
            self.last_proof = now
            self._counted_from = -math.inf
        # Both compared as `_next_due` computes them: a difference may round to just below the
        # interval, and the next poll would be due at once, for ever.
        if now >= self.last_proof + self.pong_timeout:
            self._machine.fire("silence")
            return HeartbeatVerdict.SILENCE
        due = now >= self._counted_from + self.ping_interval
        if not due:
            self._planned = self._next_due()
        return HeartbeatVerdict.PING if due else HeartbeatVerdict.NOTHING

    def ping(self, now: float) -> bytes:
        """A ping goes out at `now`: what to put into it, never twice the same."""
        if self._has_news():
            self._machine.fire("proof")
        self._machine.fire("ping")
        self.pings_sent += 1
        payload = self._prefix + struct.pack(">I", self.pings_sent & 0xFFFFFFFF)
        self._outstanding[payload] = now
        if len(self._outstanding) > _REMEMBERED_PINGS:
            self._outstanding.popitem(last=False)
            self._missed += 1
        self.last_ping = self._counted_from = now
        self._planned = self._next_due()
        return payload

    @property
    def next_due(self) -> float:
        """When to `poll` next."""
        return self._planned

    def _has_news(self) -> bool:
        return self.last_ping is not None and self.last_proof > self.last_ping

    def _next_due(self) -> float:
        return min(self._counted_from + self.ping_interval, self.last_proof + self.pong_timeout)


class Pingable(Protocol):
    """What a heartbeat needs of a connection; a connected `websocket.WebSocket` has it too."""

    def ping(self, payload: bytes) -> object:
        """Send a ping frame. Must not block for long: it is called on the timers' thread."""
        ...

    def send(self, data: str) -> object:
        """Send a text message; only used in text mode."""
        ...


class WebSocketHeartbeat:
    """Watches one connection by itself, as the seed's component does.

    Whoever reads the connection reports what came: `on_pong` for pongs, `on_data` for everything
    else. Safe to use from any thread; the callbacks are called on the timers' thread (`on_log` of a
    pong on that of `on_pong`), and what they raise is logged and harms nothing.

    Args:
        transport: The connection to watch.
        ping_interval: Seconds between pings (requirement 6.1).
        pong_timeout: Seconds of silence after which the connection is lost (requirement 6.2); None:
            1.5 times the interval.
        mode: `"frame"` for ping frames (RFC 6455, 5.5.2); `"text"` for messages `ping` and `pong`,
            for servers that answer only those.
        on_connection_lost: Called once when the peer has been silent for too long.
        on_log: Called with a line for each thing that happens.
        clock: The source of time; without it the system's.
        log_context: What its log lines carry; None: nothing.

    Raises:
        ConfigurationError: A duration or the mode is out of bounds.
    """

    def __init__(
        self,
        transport: Pingable,
        *,
        ping_interval: float = 30.0,
        pong_timeout: float | None = None,
        mode: PingMode = "frame",
        on_connection_lost: Callable[[], object] | None = None,
        on_log: Callable[[str], object] | None = None,
        clock: Clock | None = None,
        log_context: LogContext | None = None,
    ) -> None:
        if mode not in ("frame", "text"):
            raise ConfigurationError(f'mode must be "frame" or "text", not {mode!r}')
        self._clock: Clock = clock or SYSTEM_CLOCK
        self._timers = timers_of(self._clock)
        self._transport = transport
        self._mode = mode
        self._on_connection_lost = on_connection_lost
        self._on_log = on_log
        self._log_context = LogContext() if log_context is None else log_context
        self._lock = threading.Lock()  # guards the decisions, but for the time of the last proof
        self._decisions = Heartbeat(ping_interval, pong_timeout)
        self._timer: TimerHandle | None = None
        self._watch = 0  # counts the starts: a beat of an earlier watch may still be on its way

    @property
    def status(self) -> HeartbeatStatus:
        """Where the heartbeat stands."""
        return self._decisions.status

    @property
    def round_trip(self) -> float | None:
        """The last one, in seconds; None before the first pong."""
        return self._decisions.round_trip

    @property
    def missed_pongs(self) -> int:
        """Pings that will not be answered any more."""
        return self._decisions.missed_pongs

    @property
    def silence(self) -> float:
        """Seconds since the last byte from the peer."""
        return self._clock.monotonic() - self._decisions.last_proof

    @property
    def is_silent(self) -> bool:
        """Whether the pong time-out has passed since then; a verdict may be older than a byte."""
        decisions = self._decisions
        return self._clock.monotonic() >= decisions.last_proof + decisions.pong_timeout

    def start(self) -> None:
        """Begin to watch. Starting what runs does nothing."""
        with self._lock:
            if self.status in (_S.RUNNING, _S.WAITING_FOR_PONG):
                return
            self._decisions.start(self._clock.monotonic())
            self._watch += 1
            self._plan()

    def stop(self) -> None:
        """Watch no more; a callback that is running may still finish."""
        with self._lock:
            self._decisions.stop()
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def on_data(self) -> None:
        """Something came from the peer: any bytes, whole message or not."""
        self._decisions.last_proof = self._clock.monotonic()

    def on_pong(self, payload: bytes | None) -> float | None:
        """A pong came: see `Heartbeat.pong`."""
        with self._lock:
            round_trip = self._decisions.pong(payload, self._clock.monotonic())
        if round_trip is not None:
            self._log("pong after {:.1f} ms", round_trip * 1000)
        return round_trip

    def get_stats(self) -> dict[str, Any]:
        """The seed's statistics: counts, aware UTC datetimes or None, `round_trip` in seconds."""
        with self._lock:
            decisions = self._decisions
            status = decisions.status
            return {
                "pings_sent": decisions.pings_sent,
                "pongs_received": decisions.pongs_received,
                "missed_pongs": decisions.missed_pongs,
                "last_ping_sent": self._date(decisions.last_ping if decisions.pings_sent else None),
                "last_pong_received": self._date(decisions.last_pong),
                "round_trip": decisions.round_trip,
                "is_healthy": status in (_S.RUNNING, _S.WAITING_FOR_PONG),
                "status": status.value,
            }

    def _plan(self) -> None:
        beat = functools.partial(self._beat, self._watch)
        self._timer = self._timers.call_at(self._decisions.next_due, beat)

    def _beat(self, watch: int) -> None:
        with self._lock:
            if watch != self._watch:  # stopped and started again while it was about to begin
                return
            now = self._clock.monotonic()
            verdict = self._decisions.poll(now)
            payload = self._decisions.ping(now) if verdict is HeartbeatVerdict.PING else b""
            if self.status in (_S.RUNNING, _S.WAITING_FOR_PONG):
                self._plan()
        if verdict is HeartbeatVerdict.PING:
            self._send_ping(payload)
        elif verdict is HeartbeatVerdict.SILENCE:
            self._log("silence for {:.1f} s: connection lost", self.silence)
            if self._on_connection_lost is not None:
                _call("on_connection_lost", self._on_connection_lost)

    def _send_ping(self, payload: bytes) -> None:
        """A ping that cannot be written counts as no sign of life; the silence will tell."""
        try:
            if self._mode == "frame":
                self._transport.ping(payload)
            else:
                self._transport.send(TEXT_PING)
        except Exception as error:
            self._log("ping not sent: {}", error)
        else:
            self._log("ping sent")

    def _log(self, template: str, *values: object) -> None:
        self._log_context.logger.trace(template, *values)
        if self._on_log is not None:
            _call("on_log", self._on_log, template.format(*values))

    def _date(self, monotonic: float | None) -> datetime | None:
        if monotonic is None:
            return None
        seconds = self._clock.time() - (self._clock.monotonic() - monotonic)
        return datetime.fromtimestamp(seconds, timezone.utc)


def _call(name: str, callback: Callable[..., object], *arguments: object) -> None:
    try:
        callback(*arguments)
    except Exception:
        logger.exception("{} raised", name)


def _checked(ping_interval: float, pong_timeout: float | None) -> tuple[float, float]:
    if not 0 < ping_interval <= _LONGEST:
        raise ConfigurationError(
            f"ping_interval must be more than 0 s and at most a day, not {ping_interval!r}"
        )
    if pong_timeout is None:
        return ping_interval, 1.5 * ping_interval
    if not pong_timeout > ping_interval:
        raise ConfigurationError(
            f"pong_timeout must be more than ping_interval ({ping_interval:g} s), "
            f"not {pong_timeout!r}: an idle link would die before its first ping"
        )
    if pong_timeout > 2 * _LONGEST:
        raise ConfigurationError(f"pong_timeout must be at most two days, not {pong_timeout!r}")
    return ping_interval, pong_timeout
