"""A look at each part of the way to a server (requirement 2.5): the steps, and who makes them.

A `TunnelService` does all of it, with a transport that tells how its dial goes; so what is seen
here is what an application would meet. Each step ends in time, whatever the server does.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from statemachine import Record
from tunnel.commands.observed_dial import ObservedTransport
from tunnel.commands.steps import NAMES, Steps, StepStatus
from tunnel.config import TunnelConfig
from tunnel.error_codes import ERROR_CODES
from tunnel.errors import (
    ConnectionLostError,
    ConnectTimeoutError,
    HeartbeatTimeoutError,
    SessionLostError,
    TunnelError,
)
from tunnel.interruptible import Event
from tunnel.outbox import Message
from tunnel.service import TunnelService
from tunnel.transport import Transport, WebSocketTransport
from tunnel.waker import Waker

_PING = 5.0
"""Seconds for the answer to a ping (requirement 6.3)."""

_PINGS = 2
"""The better one counts: the first may find a server that is still busy with the upgrade."""

_ECHO = 2.0
"""Seconds for an echo: a server that sends none must not cost the whole time."""

_GOODBYE = 1.0
"""Seconds to close the connection with care."""

_MORE_TIME = (
    "Check your network connection, and firewalls on the way; on a slow one allow more time with "
    "--timeout."
)
# Of a connection that ends in this step; an application would just try again.
_ENDED = {
    "TLS": ERROR_CODES["TUNNEL_025"].suggestion,
    "upgrade": ERROR_CODES["TUNNEL_009"].suggestion,
}
_CLOSED = "Perhaps the server did not like the message of this test: see whether --no-echo helps."
_ENDED_LATER = "Something ends connections: look at the server's log, and at proxies on the way."


class Diagnosis:
    """One look at one server. Used once, by one thread.

    Args:
        steps: Where the steps are noted.
        timeout: Seconds for everything.
        wants_echo: Whether to send a message, and see whether it comes back.
    """

    def __init__(self, steps: Steps, timeout: float, *, wants_echo: bool) -> None:
        self._steps = steps
        self._deadline = time.monotonic() + timeout
        self._wants_echo = wants_echo
        self._word = f"tunnel diagnose {secrets.token_hex(8)}"
        self._has_dialled = False
        self._answered = Event()  # by an echo, or by the end of the link
        self._is_echoed = False
        self._greeted = Event()
        self._is_resumed = False
        self._error: TunnelError | None = None  # of the link that was lost last
        self._service = TunnelService(
            TunnelConfig(
                connect_timeout=timeout,
                enable_auto_reconnect=False,
                ping_interval=None,
                watch_network=False,
                log_level="CRITICAL",
            ),
            on_message=self._on_message,
            on_connected=self._on_connected,
            on_state_change=self._on_state_change,
            new_transport=self._new_transport,
        )

    def run(self, url: str, **options: Any) -> None:
        """Make all steps that can be made.

        Args:
            url: The server.
            **options: As for `TunnelService.connect`.

        Raises:
            UsageError, TypeError: An argument is wrong; no step was made.
        """
        try:
            if self._connect(url, options) and self._ping():
                self._echo()
                self._resume()
            self._steps.finish()
        finally:
            self._service.disconnect(timeout=_GOODBYE)
        done = {step.name for step in self._steps.done}
        for name in NAMES:
            if name not in done | {"proxy"}:
                self._steps.skip(name, "not reached")

    # The steps

    def _connect(self, url: str, options: dict[str, Any]) -> bool:
        try:
            self._service.connect(url, **options)
        except TunnelError as error:
            if not self._has_dialled:
                raise
            if self._steps.current == "authentication" and not self._steps.is_open:
                self._steps.begin("resume")  # what comes after the upgrade is about sessions
            self._fail(error)
            return False
        self._steps.finish()
        return True

    def _ping(self) -> bool:
        self._steps.begin("ping")
        seconds = min(_PING, self._remaining())
        trips = []
        for _ in range(_PINGS):
            began = time.monotonic()
            if not self._service.test_connection(min(_PING, self._remaining())):
                error = HeartbeatTimeoutError(f"no pong came within {seconds:.1f} s")
                self._fail(self._error or error)
                return False
            trips.append(time.monotonic() - began)
        best = min(trips)
        self._steps.note(f"round trip {best * 1000:.1f} ms", round_trip=round(best, 6))
        return True

    def _echo(self) -> None:
        if not self._wants_echo:
            self._steps.skip("echo", "not asked for")
            return
        self._steps.begin("echo")
        self._service.send(self._word, timeout=0)
        self._answered.wait(min(_ECHO, self._remaining()))
        if self._is_echoed:
            self._steps.note("a message comes back as it was sent")
        elif self._error is not None:
            self._steps.note(self._error.message, StepStatus.WARNING, _CLOSED)
        else:
            self._steps.note("not offered: no echo came", StepStatus.SKIPPED)

    def _resume(self) -> None:
        if self._service.position is None:
            self._steps.skip("resume", "not offered: what a lost link had on the way is lost")
            return
        self._steps.begin("resume")
        self._greeted.clear()
        self._error = None
        if not self._service.reconnect(timeout=self._remaining()):
            self._fail(
                self._error or ConnectTimeoutError("no second connection came about in time")
            )
        elif not (self._greeted.wait(self._remaining()) and self._is_resumed):
            self._fail(SessionLostError("the server did not know the session of a moment ago"))
        else:
            self._steps.note("the session goes on over a second connection")

    def _fail(self, error: TunnelError) -> None:
        if isinstance(error, ConnectTimeoutError):
            error.suggestion = _MORE_TIME
        elif isinstance(error, ConnectionLostError):
            error.suggestion = _ENDED.get(self._steps.current, _ENDED_LATER)
        self._steps.fail(error)

    def _remaining(self) -> float:
        """Seconds; 0 once there are none, with which no step can succeed."""
        return max(0.0, self._deadline - time.monotonic())

    # What the service tells, on the tunnel's thread

    def _new_transport(self, waker: Waker) -> Transport:
        if self._has_dialled:
            return WebSocketTransport(waker)
        self._has_dialled = True
        return ObservedTransport(waker, self._steps)

    def _on_message(self, message: Message) -> None:
        if message == self._word:
            self._is_echoed = True
            self._answered.set()

    def _on_connected(self, service: TunnelService, resumed: bool) -> None:
        self._is_resumed = resumed
        self._greeted.set()

    def _on_state_change(self, record: Record) -> None:
        error = record.data.get("error")
        if isinstance(error, TunnelError):
            self._error = error
            self._answered.set()
