"""One watched connection, for programs that do not want it to come back by itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from ssl import SSLContext
from types import TracebackType
from typing import Any

from loguru import logger

from tunnel.addresses import TunnelUrl, validate_headers, validate_subprotocols
from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.config import TunnelConfig
from tunnel.delivery import Inbox
from tunnel.dial import DialInterrupted
from tunnel.errors import (
    ConnectionLostError,
    InvalidStateError,
    NotConnectedError,
    QueueFullError,
    TunnelError,
)
from tunnel.exits import disconnect_at_exit
from tunnel.forks import disown, is_inherited, register
from tunnel.link import Link
from tunnel.log_context import LogContext
from tunnel.metrics_collector import MetricsCollector
from tunnel.outbox import Message
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.requests import Close, Request
from tunnel.sender import WHILE_CONNECTED, Sender
from tunnel.transport import DialRequest, Transport, WebSocketTransport
from tunnel.waker import Waker
from tunnel.websocket_heartbeat import HeartbeatStatus, PingMode
from tunnel.worker import Worker


class HeartbeatWebSocket:
    """A WebSocket connection that is watched by a heartbeat, and whose messages are its own.

    Pings and pongs never show up among the messages, in text mode neither. It ends once, by
    `close`, by the peer, or by silence, and does not come back: that is what `tunnel.connect` is
    for. Safe to use from any thread; a context manager that starts and closes it.

    Args:
        url_or_transport: Where to connect; or a connection that exists: a `Transport` that was
            opened, or a connected `websocket.WebSocket`, which is of no use by itself any more.
        ping_interval: Seconds between pings (requirement 6.1).
        pong_timeout: Seconds of silence after which the connection is lost (requirement 6.2); None:
            1.5 times the interval.
        mode: `"frame"` for ping frames, `"text"` for messages `ping` and `pong`.
        on_connection_lost: Called with the error when the connection is lost, by silence or
            otherwise, but not when it was closed by `close`. On the connection's own thread.
        on_log: Called with a line for each thing that happens.
        clock: The source of time; on any but the system's no thread is started (`tunnel.testing`).
        headers: Further headers of the upgrade.
        subprotocols: Offered in this order.
        ssl_context: For wss; None: one that verifies against the system's certificates.
        **settings: Of `TunnelConfig`, as far as they are about one connection: `connect_timeout`,
            `max_message_size`, `max_fragments`, `max_header_size`, `receive_high_water`,
            `max_queue_size`.

    Raises:
        ConfigurationError, TypeError: An argument is wrong.
    """

    def __init__(
        self,
        url_or_transport: object,
        *,
        ping_interval: float = 30.0,
        pong_timeout: float | None = None,
        mode: PingMode = "frame",
        on_connection_lost: Callable[[TunnelError], object] | None = None,
        on_log: Callable[[str], object] | None = None,
        clock: Clock | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        subprotocols: Iterable[str] | None = None,
        ssl_context: SSLContext | None = None,
        **settings: Any,
    ) -> None:
        config = TunnelConfig(
            ping_interval=ping_interval, pong_timeout=pong_timeout, ping_mode=mode, **settings
        )
        self._clock: Clock = SYSTEM_CLOCK if clock is None else clock
        self._transport, self._request = _opened_or_request(url_or_transport)
        if self._request is not None:
            self._request = DialRequest(
                self._request.url,
                validate_headers(headers),
                validate_subprotocols(subprotocols),
                ssl_context,
                config.connect_timeout,
                config.max_header_size,
            )
        self._queue = RequestQueue(config.max_queue_size, clock=self._clock)
        self._inbox = Inbox(config.receive_high_water, self._transport.waker.wake)
        self._watch = _Watch(
            self._transport,
            config,
            self._queue,
            self._inbox,
            self._clock,
            on_connection_lost,
            on_log,
        )
        self._sender = Sender(self._watch, self._queue, self._clock)
        register(self)
        disconnect_at_exit(self)

    def __enter__(self) -> HeartbeatWebSocket:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not is_inherited(self):  # a forked child has nothing to end
            self.close()

    def start(self) -> None:
        """Connect, if that is not done, and begin to read and to watch.

        Raises:
            InvalidStateError: It was started, or closed, before; or is closed meanwhile.
            TunnelError: The connection cannot be made.
        """
        self._watch.begin(self._request)

    def send(self, data: Message | bytearray | memoryview) -> None:
        """Send a message; waits while the peer does not read, but not on the connection's thread.

        Raises:
            NotConnectedError: The connection has not begun, or has ended.
            PayloadTypeError, MessageTooBigError, ValueError, QueueFullError: As for
                `TunnelService.send`.
        """
        if self._watch.link is not None:
            try:
                self._sender.send(data, RequestPriority.NORMAL, None, WHILE_CONNECTED)
                return
            except QueueFullError:
                if self._watch.link is not None:
                    raise
        raise NotConnectedError("the connection has not begun, or has ended")

    def messages(self) -> Iterator[Message]:
        """Iterate over what is received; ends when the connection is closed or lost."""
        return iter(self._inbox)

    def close(self, timeout: float = 10.0) -> None:
        """Write what is queued, then close with code 1000; closing twice does nothing.

        Args:
            timeout: Seconds for all of that.
        """
        worker = self._watch.worker
        self._watch.call_off()
        if not worker.is_running:
            return
        request = Close(True, self._clock.monotonic() + timeout)
        worker.post(request)
        if not worker.is_own_thread:
            if not worker.wait(request.done, timeout):
                self._transport.abort()
            worker.join(timeout)

    @property
    def error(self) -> TunnelError | None:
        """Why the connection was lost; None while it lasts, and if `close` ended it properly."""
        return self._watch.error

    @property
    def worker(self) -> Worker:
        """The connection's thread; for `tunnel.testing.drive`."""
        return self._watch.worker

    def left_unreported(self) -> str:
        """Nothing: what is sent is written before the call returns; for `tunnel.exits`."""
        return ""

    def post_close(self, request: Close) -> None:
        """Ask for the end, and do not wait for it; for `tunnel.exits`."""
        self._watch.call_off()
        self._watch.worker.post(request)

    def leave_to_parent(self) -> None:
        """This is a forked child now, and the connection is the parent's; for `tunnel.forks`."""
        for part in (self._watch.worker, self._watch, self):
            disown(part)

    def get_heartbeat_stats(self) -> dict[str, Any]:
        """The statistics of the heartbeat: see `WebSocketHeartbeat.get_stats`."""
        return self._watch.heartbeat_stats()


class _Watch:
    """The work of the connection's thread, and what a `Sender` asks about."""

    greeting = None

    def __init__(
        self,
        transport: Transport,
        config: TunnelConfig,
        queue: RequestQueue,
        inbox: Inbox,
        clock: Clock,
        on_connection_lost: Callable[[TunnelError], object] | None,
        on_log: Callable[[str], object] | None,
    ) -> None:
        self._transport = transport
        self._queue = queue
        self._inbox = inbox
        self._clock = clock
        self._on_connection_lost = on_connection_lost
        self._on_log = on_log
        self._log_context = LogContext()
        self._log_context.name(id := os.urandom(16).hex(), f"{id}-1")
        self.worker = Worker(self, clock, transport.waker, within=self._log_context.within)
        self.config = config
        self.link: Link | None = None
        self._lock = threading.Lock()  # guards the beginning, and the two below
        self._was_started = False
        self.is_closing = False
        self.error: TunnelError | None = None
        self._closing: list[Close] = []
        self._last_stats: dict[str, Any] | None = None

    def begin(self, request: DialRequest | None) -> None:
        """Open the transport, if there is something to dial, and use it."""
        with self._lock:
            if self._was_started:
                raise InvalidStateError("a HeartbeatWebSocket is started once, and not after close")
            self._was_started = True
        try:
            if request is not None:
                self._transport.open(request, lambda: self.is_closing)
            with self._lock:
                if self.is_closing:
                    raise DialInterrupted("closed meanwhile")
                self._use_transport()
        except BaseException as error:
            self._give_up()
            if isinstance(error, DialInterrupted):
                raise InvalidStateError("it was closed while it was starting") from None
            raise

    def call_off(self) -> None:
        """From now on the end is wanted; what has not begun does not begin. From any thread."""
        with self._lock:
            self.is_closing = True
            has_begun, self._was_started = self._was_started, True
        if has_begun:
            self._transport.waker.wake()  # out of a dial
        else:
            self._give_up()

    def _use_transport(self) -> None:
        link = Link(
            self._transport,
            queue=self._queue,
            delivery=self._inbox,
            config=self.config,
            metrics=MetricsCollector(clock=self._clock),
            clock=self._clock,
            waker=self._transport.waker,
            on_activity=lambda: None,
        )
        link.watch(self.config, self._log_context)
        self.link = link
        link.open_queue()
        self._log("connected")
        self.worker.start()

    def _give_up(self) -> None:
        """There will be no thread that could clean up."""
        link, self.link = self.link, None
        if link is not None:
            link.dispose()
        self._transport.abort()
        self._transport.close()
        self._transport.waker.close()
        self._inbox.close()

    @property
    def max_message_size(self) -> int:
        """See `tunnel.sender.LinkOwner`."""
        return self.config.max_message_size

    def obey(self, request: Request) -> None:
        """See `tunnel.worker.Work`."""
        assert isinstance(request, Close)  # nothing else is posted here
        self._closing.append(request)
        if self.link is not None:
            self.link.writer.on_drained = self._transport.waker.wake

    def act(self) -> bool:
        """See `tunnel.worker.Work`."""
        if self.link is None:
            return False
        try:
            self._run(self.link)
        except BaseException as error:
            self._survive(error)
        return True

    def _survive(self, error: BaseException) -> None:
        """A bug, ours or the transport's, must end the connection, not leave it half alive.

        The same goes for a callback that wants to end its thread, as `sys.exit` does.
        """
        logger.opt(exception=error).error("the connection failed")
        if self.link is not None:
            if isinstance(error, Exception):
                self._finish(TunnelError.from_exception(error))
            else:
                self._finish(TunnelError(f"{type(error).__name__} was raised"))
        if not self.worker.is_threaded:
            raise error  # whoever drives the connection, a test, wants to know

    def _run(self, link: Link) -> None:
        deadline = self._closing[0].deadline if self._closing else None
        if deadline is not None and not self._queue.size:
            link.close(1000)
        end = link.run(deadline)
        if end is not None:
            self._finish(None if self._closing and end.clean else end.error)
        elif deadline is not None and self._clock.monotonic() >= deadline:
            self._finish(ConnectionLostError("the peer did not answer the close frame in time"))

    def rest(self) -> None:
        """See `tunnel.worker.Work`."""
        self._transport.waker.close()
        for request in self._closing:
            request.done.set()

    def heartbeat_stats(self) -> dict[str, Any]:
        """The heartbeat's statistics, also after its end."""
        link = self.link
        if link is not None and link.heartbeat is not None:
            return link.heartbeat.get_stats()
        return self._last_stats or dict(_NO_STATS)

    def _finish(self, error: TunnelError | None) -> None:
        assert self.link is not None
        self.error = error
        self._last_stats = self.heartbeat_stats() | {
            "is_healthy": False,
            "status": HeartbeatStatus.STOPPED.value,
        }
        link, self.link = self.link, None
        link.dispose()
        self._queue.interrupt()  # whoever waits for room waits in vain
        self._inbox.close()
        self._log("closed" if error is None else f"lost: {error.message}")
        if error is not None and not self._closing and self._on_connection_lost is not None:
            try:
                self._on_connection_lost(error)
            except Exception:
                logger.exception("on_connection_lost raised")

    def _log(self, line: str) -> None:
        self._log_context.logger.info("{}", line)
        if self._on_log is not None:
            try:
                self._on_log(line)
            except Exception:
                logger.exception("on_log raised")


_NO_STATS = {
    "pings_sent": 0,
    "pongs_received": 0,
    "missed_pongs": 0,
    "last_ping_sent": None,
    "last_pong_received": None,
    "round_trip": None,
    "is_healthy": False,
    "status": HeartbeatStatus.STOPPED.value,
}


def _opened_or_request(source: Any) -> tuple[Transport, DialRequest | None]:
    if isinstance(source, str):
        return WebSocketTransport(Waker()), DialRequest(TunnelUrl.parse(source))
    if hasattr(source, "waker") and hasattr(source, "receive"):
        return source, None
    if hasattr(source, "sock") and hasattr(source, "connected"):
        transport = WebSocketTransport(Waker())
        transport.adopt(source)
        return transport, None
    raise TypeError(
        "a HeartbeatWebSocket is made of a URL, an opened Transport, or a connected "
        f"websocket.WebSocket, not of {type(source).__name__}"
    )
