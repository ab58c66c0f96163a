"""A conversation over a tunnel: two threads carry messages, the main thread decides when to end.

One thread reads standard input and sends (`tunnel.commands.connect_input`), one takes what comes
and writes it to standard output; a message counts as taken when it is written. The main thread
waits: for the end of standard input, for the tunnel to give up, for a signal; and shows meanwhile
how things stand.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from statemachine import Record
from tunnel.commands.connect_input import ByteSplitter, InputError, InputReader, LineSplitter
from tunnel.commands.connect_output import OutputWriter
from tunnel.commands.connect_view import ConnectStatus, PlainView, Summary
from tunnel.commands.countdown import Attempt
from tunnel.config import TunnelConfig
from tunnel.errors import (
    ConfigurationError,
    ConnectionClosedByPeerError,
    ConnectionLostError,
    QueueFullError,
    SessionLostError,
    TunnelError,
)
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.interruptible import Event
from tunnel.lifecycle import TunnelConnectionState
from tunnel.outbox import Message
from tunnel.service import TunnelService

_S = TunnelConnectionState
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_TICK = 0.1
"""Seconds between two looks at how things stand."""

_GOODBYE = 10.0
"""Seconds to send what was read, and to close with care, when it is to end (requirement 8.1)."""

_PING = 1.0
"""Seconds for the answer to a ping that is only there to be shown."""

_PATIENCE = 0.5
"""Seconds between two looks of a sender that waits for room, whether it is over."""


class Conversation:
    """Talks until there is nothing more to say. Used once, by the main thread.

    Args:
        config: Of the tunnel.
        view: Shows what happens.
        input: The descriptor of standard input.
        splitter: Makes messages of what is read there.
        output: Where messages are written to.
        wait: Seconds without a message, after the end of standard input, after which to end.
    """

    def __init__(
        self,
        config: TunnelConfig,
        view: PlainView,
        input: int,
        splitter: LineSplitter | ByteSplitter,
        output: OutputWriter,
        wait: float,
    ) -> None:
        self._view = view
        self._output = output
        self._wait = wait
        self._news = Event()  # something has happened that the main thread should look at
        self._service = TunnelService(
            config, on_state_change=self._on_state_change, on_session_lost=self._on_session_lost
        )
        self._service.subscribe(self._on_event)
        self._reader = InputReader(input, splitter, self._send, self._news.set)
        self._receiver = threading.Thread(target=self._receive, name="tunnel-stdout", daemon=True)
        self._signal = 0
        self._received = 0
        self._is_writing = False
        self._last_heard = 0.0
        self._attempt: Attempt | None = None
        self._round_trip: float | None = None
        self._is_fresh = False  # a link is up that was not pinged yet
        self._failure: TunnelError | None = None  # why the tunnel rests
        self._gave_up = False
        self._is_ended = False  # nothing more is sent
        self._output_error: OSError | None = None
        self._lost = 0  # messages of sessions that were lost

    def run(self, url: str, options: dict[str, Any]) -> int:
        """Talk.

        Args:
            url: The server.
            options: Further arguments of `TunnelService.connect`.

        Returns:
            The exit code.

        Raises:
            KeyboardInterrupt: There was a second signal, while it was ending because of the first.
            BrokenPipeError: Nobody reads standard output any more.
            TunnelError: The connection was given up, or never came about.
            OSError: Standard input cannot be read, or standard output not be written to.
        """
        with self._signals():
            self._service.connect(url, wait=False, **options)
            try:
                self._receiver.start()
                self._reader.start()
                self._until(lambda: not self._reader.is_running)
                self._until(lambda: self._service.flush(_TICK))
                self._last_heard = time.monotonic()  # what was sent last may be answered yet
                self._until(self._is_quiet)
                summary = self._end()
            except BaseException:
                self._service.disconnect(graceful=False, timeout=_TICK)
                raise
        self._view.summary(summary)
        return self._exit_code(summary)

    # The main thread

    @property
    def _is_over(self) -> bool:
        """Whether there is no point in going on."""
        return bool(self._signal or self._output_error) or not self._receiver.is_alive()

    def _until(self, is_done: Callable[[], bool]) -> None:
        """Wait, and show how things stand."""
        while not self._is_over and not is_done():
            self._news.wait(_TICK)
            self._news.clear()
            self._ping_once()
            self._view.refresh(self._status())

    def _is_quiet(self) -> bool:
        """Whether nothing has come for long enough, on a link that could have brought it."""
        numbers = self._service.statistics()
        if self._is_writing or numbers["messages_waiting"]:
            return False  # whoever reads standard output takes its time
        is_up = numbers["connection_state"] == _S.CONNECTED
        return is_up and time.monotonic() - self._last_heard >= self._wait

    def _end(self) -> Summary:
        """Send what was read, and say goodbye."""
        service, reader = self._service, self._reader
        self._gave_up = not self._receiver.is_alive()
        deadline = time.monotonic() + _GOODBYE
        may_send = service.state is _S.CONNECTED
        reader.stop(_GOODBYE if may_send else 0.0)
        self._is_ended = True
        report = service.disconnect(timeout=max(0.0, deadline - time.monotonic()))
        self._receiver.join(max(0.0, deadline - time.monotonic()))
        return Summary(
            reader.sent - len(report.unsent),
            self._received,
            service.statistics()["reconnections"],
            unsent=len(report.unsent) + reader.held,
            unknown=len(report.unacknowledged) + self._lost,
        )

    def _exit_code(self, summary: Summary) -> int:
        """The exit code; or what `tunnel.cli` makes one of."""
        if self._output_error is not None:
            raise self._output_error
        if self._signal:
            return 128 + self._signal
        error = self._reader.error
        if isinstance(error, InputError):
            raise ConfigurationError(str(error))
        if self._gave_up and not self._was_hung_up():
            raise self._failure or ConnectionLostError("the connection has ended")
        if error is not None:
            raise error
        return 0 if summary.is_complete else 1

    def _was_hung_up(self) -> bool:
        """Whether the server has ended it in the ordinary way, and is not to be dialled again."""
        failure = self._failure
        return isinstance(failure, ConnectionClosedByPeerError) and failure.close_code == 1000

    def _status(self) -> ConnectStatus:
        numbers = self._service.statistics()
        return ConnectStatus(
            state=numbers["connection_state"],
            attempt=self._attempt,
            queued=numbers["queued_requests"],
            unacknowledged=numbers["unacknowledged"],
            round_trip=numbers["round_trip"] or self._round_trip,
            sent=max(0, self._reader.sent - numbers["queued_requests"]),
            received=self._received,
        )

    def _ping_once(self) -> None:
        """Know the round trip of a new link, long before the heartbeat does."""
        if not (self._is_fresh and self._view.wants_round_trip):
            return
        self._is_fresh = False
        began = time.monotonic()
        if self._service.test_connection(_PING):
            self._round_trip = time.monotonic() - began

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let the first signal end it with care, and a second one at once."""

        def on_signal(number: int, frame: object) -> None:
            if self._signal:
                raise KeyboardInterrupt
            self._signal = number
            self._news.set()

        before = {
            number: signal.signal(number, on_signal)
            for number in _SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # Other threads

    def _send(self, messages: Sequence[Message]) -> int:
        """Wait for room, however long it takes, unless it is over; how many were accepted."""
        while True:
            try:
                return self._service.send_many(messages, timeout=_PATIENCE)
            except QueueFullError as error:
                if error.accepted:
                    return error.accepted
                if self._is_ended:
                    raise

    def _receive(self) -> None:
        try:
            for message in self._service.messages():
                if self._output_error is None:  # else it is read all the same: nothing must wait
                    self._write(message)
        finally:
            self._news.set()

    def _write(self, message: Message) -> None:
        self._is_writing = True
        try:
            self._output.write(message)
            self._received += 1
            self._last_heard = time.monotonic()
        except OSError as error:
            self._output_error = error
            self._news.set()
        finally:
            self._is_writing = False

    def _on_event(self, event: ConnectionEvent) -> None:
        number = event.metadata.get("attempt")
        if event.type is ConnectionEventType.RECONNECTING and number:
            due = time.monotonic() + event.metadata["delay"]
            self._attempt = Attempt(number, event.metadata["max_attempts"], due)
        self._view.event(event)
        self._news.set()

    def _on_state_change(self, record: Record) -> None:
        if record.dest != _S.RECONNECTING:
            self._attempt = None
        if record.dest == _S.CONNECTED:
            self._failure = None
            self._last_heard = time.monotonic()
            self._is_fresh = True
        error = record.data.get("error")
        if isinstance(error, TunnelError):
            self._failure = error
        self._news.set()

    def _on_session_lost(self, error: SessionLostError) -> None:
        self._lost += len(error.unacknowledged)
