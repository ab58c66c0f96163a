"""The tunnel as an application sees it: connect, send, receive, and stay connected.

A `TunnelService` is a front for three parts: the queue and the writer of the live link, for what
goes out; the delivery, for what comes in; and the driver on the tunnel's thread, for all that
happens to the connection. Every public method may be called from any thread. On the tunnel's own
thread, that is, in a callback, nothing waits: see `TunnelService`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from random import Random
from types import TracebackType
from typing import Any

from loguru import logger

from statemachine import Record
from tunnel import waits
from tunnel.addresses import TunnelUrl, validate_headers, validate_subprotocols
from tunnel.arguments import (
    check_callbacks,
    check_messages,
    checked_config,
    checked_context,
    checked_limit,
    checked_seconds,
    checked_text,
    checked_token,
)
from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.config import TunnelConfig
from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.delivery import Inbox
from tunnel.dial_options import SocketOption, checked_dial_options
from tunnel.errors import (
    InvalidStateError,
    NotConnectedError,
    SessionLostError,
    TunnelError,
    WouldDeadlockError,
)
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.exits import disconnect_at_exit
from tunnel.forks import disown, is_inherited, register
from tunnel.lifecycle import TunnelConnectionState
from tunnel.metrics_collector import MetricsCollector, TunnelHealthMetrics
from tunnel.outbox import Message
from tunnel.parts import Parts
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.requests import (
    AuthToken,
    Close,
    Connect,
    NetworkChange,
    Target,
)
from tunnel.responses import TunnelResponse
from tunnel.roll import enrol
from tunnel.secrets import raises_bare
from tunnel.sender import WHILE_CONNECTED, SendTimeout
from tunnel.session_frames import Parcel
from tunnel.state_watch import StateWatches
from tunnel.tls import TlsSettings, chosen_context
from tunnel.transport import Transport, WebSocketTransport
from tunnel.waker import Waker
from tunnel.worker import Worker

_S = TunnelConnectionState
_CONNECT_OPTIONS = (
    "user_id",
    "wait",
    "headers",
    "subprotocols",
    "ssl_context",
    "tls",
    "proxy",
    "unix_socket",
    "socket_options",
)


@dataclass(frozen=True)
class DrainReport:
    """What a `disconnect` could not get out (requirement 8.1).

    Attributes:
        unsent: Messages that were not written whole, in their order. They are still in the queue:
            they go out after a later `connect`, unless the queue is cleared.
        unacknowledged: Messages that a resuming peer has not acknowledged, in their order. The
            session is kept: they go out after a later `connect`, if the peer has kept it as well.
            Always empty with a plain peer, which does not acknowledge.
    """

    unsent: tuple[Message, ...] = ()
    unacknowledged: tuple[Message, ...] = ()

    @property
    def count(self) -> int:
        """How many messages that are."""
        return len(self.unsent) + len(self.unacknowledged)

    def __str__(self) -> str:
        """For example ``3 not sent, 1 not acknowledged``."""
        return f"{len(self.unsent)} not sent, {len(self.unacknowledged)} not acknowledged"


class TunnelService:
    """A WebSocket connection that comes back, and a queue for the time in between.

    Safe to use from any thread, and a context manager that disconnects at its end. Callbacks run on
    the tunnel's own thread, one at a time; there `connect`, `reconnect` and `disconnect` return at
    once, `send` never waits, and what would have to wait for the tunnel itself raises
    `WouldDeadlockError`. A callback that raises is logged and harms nothing.

    `on_message`, `on_connected` and `on_session_lost` may block: after a moment another thread
    becomes the tunnel's, which reads, answers pings and reconnects meanwhile. What it has read
    waits for the callback, up to `receive_high_water`; then reading pauses, and a peer that hears
    nothing for long may give up. Observers (`on_state_change`, `subscribe`) must not block: they
    are called in the midst of what they observe.

    Args:
        config: The settings; None: the defaults.
        request_queue: Where messages wait while there is no link; None: one of the configured size.
            A given one takes the configured size, and must hold nothing but `str` and `bytes`.
        on_message: Called with each message, `str` or `bytes`. Without it, read `messages()`.
        on_state_change: Called with the machine's record of each change of state.
        on_connected: Called as ``on_connected(service, resumed)`` on each new link. What it sends
            goes before everything that is queued: log in, subscribe again. `resumed`: the session
            goes on, nothing was lost, and the peer still knows what it was told; always False with
            a plain peer. With a plain peer what it sends belongs to this link alone. In a session
            it is kept over links as other messages are; but if the session is lost before it was
            acknowledged, it is handed back, written or not, since this callback speaks again.
        on_session_lost: Called with a `SessionLostError` before `on_connected`, when the peer did
            not know the session any more. What is in its `unacknowledged` may or may not have
            arrived and is not sent again; what was never written is still queued, but for what
            `on_connected` had sent, which is at the end of `unacknowledged`.
        clock: The source of time; on any but the system's no thread is started (`tunnel.testing`).
        rng: The source of jitter; None: the system's.
        new_transport: Makes the transport of each dial; None: one over websocket-client.

    Raises:
        TypeError: An argument is of the wrong type.
    """

    def __init__(
        self,
        config: TunnelConfig | None = None,
        *,
        request_queue: RequestQueue | None = None,
        on_message: Callable[[Message], object] | None = None,
        on_state_change: Callable[[Record], object] | None = None,
        on_connected: Callable[[TunnelService, bool], object] | None = None,
        on_session_lost: Callable[[SessionLostError], object] | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
        new_transport: Callable[[Waker], Transport] | None = None,
    ) -> None:
        config = checked_config(config)
        check_callbacks(
            on_message=on_message,
            on_state_change=on_state_change,
            on_connected=on_connected,
            on_session_lost=on_session_lost,
        )
        self._clock: Clock = SYSTEM_CLOCK if clock is None else clock
        if request_queue is None:
            request_queue = RequestQueue(config.max_queue_size, clock=self._clock)
        check_messages("request_queue", request_queue.snapshot())
        self._queue = request_queue
        self._parts = parts = Parts(
            config,
            queue=request_queue,
            on_message=on_message,
            on_connected=None if on_connected is None else partial(on_connected, self),
            on_session_lost=on_session_lost,
            clock=self._clock,
            rng=rng,
            new_transport=new_transport or WebSocketTransport,
        )
        self._driver = parts.driver
        self._sender = parts.sender
        self._metrics = parts.metrics
        self._requests = parts.requests
        self._inbox = parts.inbox
        self._watches = StateWatches(self._driver.tracker.machine)
        self._reported = ""  # what `disconnect` has said last, if there was no `connect` since
        if on_state_change is not None:
            self._driver.tracker.machine.subscribe(parts.guarded(on_state_change))
        # Bound to this: the thread of a tunnel that nobody holds keeps it, and so it is not lost to
        # those below.
        self._driver.tracker.subscribe(self._log_event)
        register(self)
        disconnect_at_exit(self)
        enrol(self)

    def __repr__(self) -> str:
        """For example ``<TunnelService connected to wss://example.com/, 3 queued>``."""
        if is_inherited(self):
            return "<TunnelService of another process>"
        connection = self.tracker.connection
        where = f" to {connection.server_url}" if connection is not None else ""
        return f"<TunnelService {self.state.value}{where}, {self._queue.size} queued>"

    def __enter__(self) -> TunnelService:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if is_inherited(self):  # a forked child has nothing to end
            return
        left = self.disconnect()
        # Nobody sees the report. On the tunnel's own thread it says what is there at the beginning.
        if left.count and not self._driver.worker.is_own_thread:
            logger.warning("the block ends; messages of {!r} are left: {}", self, left)

    # The connection

    @raises_bare
    def connect(
        self,
        server_url: str,
        auth_token: AuthToken = None,
        *,
        user_id: str | None = None,
        timeout: float | None = None,
        wait: bool = True,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        subprotocols: Iterable[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        tls: TlsSettings | None = None,
        proxy: str | None = "auto",
        unix_socket: str | os.PathLike[str] | None = None,
        socket_options: Iterable[SocketOption] = (),
    ) -> None:
        """Connect, and stay connected from then on.

        A first dial that fails is repeated by the policy of the configuration, as long as the error
        is retryable and automatic reconnection is on. If the call raises, nobody goes on trying.

        Args:
            server_url: ``ws://`` or ``wss://``.
            auth_token: A bearer token (RFC 6750), or what is asked for one before every attempt.
            user_id: Whose connection it is, for the records.
            timeout: Seconds for all attempts together; None: as many as the policy gives.
            wait: False: return at once, and go on in the background.
            headers: Further headers of the upgrade.
            subprotocols: Offered in this order (RFC 6455, section 1.9).
            ssl_context: For wss; None: one that verifies against the system's certificates. TLS 1.2
                is the least that is accepted, whatever the context allows.
            tls: In place of a context: own authorities, a client certificate, pins.
            proxy: ``http``, ``https``, ``socks4``, ``socks4a``, ``socks5`` or ``socks5h`` URL, with
                credentials if it wants any; ``"auto"``: what the environment says at this moment
                (`https_proxy` for wss, `http_proxy` for ws, `all_proxy`, `no_proxy`), never for
                this machine itself; None: none. Needs the extra ``proxy``.
            unix_socket: The path of a Unix socket to connect to; the URL gives all but the address.
            socket_options: Level, name and value of each, set before connecting, such as
                ``(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)``.

        Raises:
            ConfigurationError, TypeError: An argument is wrong; nothing has changed.
            InvalidStateError: The tunnel is connected, or about to be; nothing has changed.
            ConnectTimeoutError: The time was up; its cause is the error of the last attempt.
            TunnelError: The connection failed for good: the error that ended the attempts.
        """
        url = TunnelUrl.parse(server_url)
        request = Connect(
            Target(
                url=url,
                user_id=checked_text("user_id", user_id),
                token=checked_token(auth_token),
                headers=validate_headers(headers),
                subprotocols=validate_subprotocols(subprotocols),
                ssl_context=chosen_context(
                    tls, checked_context(ssl_context), is_secure=url.is_secure
                ),
                options=checked_dial_options(
                    url,
                    proxy=proxy,
                    unix_socket=unix_socket,
                    socket_options=socket_options,
                    tls=tls,
                ),
            )
        )
        timeout = checked_seconds("timeout", timeout)
        self._reported = ""
        waits.connect(self._driver, request, self._clock, timeout, wait=wait)

    def reconnect(self, *, timeout: float | None = None) -> bool:
        """Give the link up, if there is one, and dial at once, whatever the backoff had left.

        Args:
            timeout: Seconds to wait for the new link; None: as many as the policy gives.

        Returns:
            Whether the tunnel is connected again. False: not in time, or the attempts were given
            up or called off; on the tunnel's thread always, since nothing waits there.

        Raises:
            InvalidStateError: There was no `connect` yet.
        """
        if self.tracker.connection is None:
            raise InvalidStateError("there is nothing to reconnect to: connect first")
        timeout = checked_seconds("timeout", timeout)
        return waits.reconnect(self._driver, timeout)

    def disconnect(self, graceful: bool = True, timeout: float = 10.0) -> DrainReport:
        """End the connection with close code 1000 (requirements 8.1 and 8.3).

        While not connected it waits for nothing but callbacks: call `flush` before, to wait for the
        link. Messages that are not out by then stay in the queue; requests that are not answered by
        then fail. A session whose messages were all acknowledged ends; another one is kept for a
        later `connect`.

        Args:
            graceful: Write what is queued first, with a resuming peer until it is acknowledged, and
                wait for the peer's close frame and for callbacks that are running. A session does
                not end before those have had all that came; without the time for that it is kept.
            timeout: Seconds for all of that; it is kept on a dead link, too.

        Returns:
            What could not be sent; on the tunnel's thread, what is unsent at this moment.
        """
        seconds = checked_limit("timeout", timeout)
        worker = self._driver.worker
        if worker.is_running or self.state is not _S.DISCONNECTED:
            waits.close(self._driver, self._clock, graceful, seconds)
        channel = self._driver.channel
        if channel.session is None or not worker.is_own_thread:
            self._requests.fail_all(InvalidStateError("the tunnel was disconnected"))
        self._queue.deliver_signals()
        left = self._left()
        if not worker.is_own_thread:  # there it is what may go out yet
            self._reported = str(left)
        return left

    def handle_network_change(self, is_connected: bool, network_type: str | None = None) -> None:
        """Tell the tunnel that the machine's network went away or came back (requirement 1.8).

        Gone: a countdown stops. Back: a hanging dial is given up and the next attempt made at once,
        also if the attempts had been used up; a live link is tested.

        Args:
            is_connected: Whether there is a network.
            network_type: What kind, such as "wifi"; for the records.
        """
        checked_text("network_type", network_type)
        self._driver.post(NetworkChange(bool(is_connected), network_type))

    def test_connection(self, timeout: float = 5.0) -> bool:
        """Send a ping and wait for its pong (requirement 6.3); recorded as a health check.

        Args:
            timeout: Seconds for the answer.

        Returns:
            Whether it came; False while not connected.

        Raises:
            WouldDeadlockError: On the tunnel's thread.
        """
        self._refuse_own_thread("test_connection")
        return self._driver.recovery.test_connection(checked_limit("timeout", timeout))

    # Messages

    def send(
        self,
        data: Message | bytearray | memoryview,
        *,
        priority: RequestPriority = RequestPriority.NORMAL,
        expires_in: float | None = None,
        timeout: SendTimeout = WHILE_CONNECTED,
    ) -> None:
        """Send a message, or queue it while there is no link or others are before it.

        When the call returns the message is accepted: it goes out in the order of the calls within
        its priority, now or after a reconnection. Before the first `connect`, after `disconnect`
        and when the connection was given up (`error`), that is after another `connect`. What the
        kernel had taken when a link was lost is lost with it, if the peer cannot resume (see
        "Delivery promises" in the documentation).

        Args:
            data: `str` goes as a text message, anything bytes-like as a binary one.
            priority: Which of the queued messages goes first (requirement 5.2).
            expires_in: Seconds after which it is not worth sending any more; None: always.
            timeout: Seconds to wait for room when the queue is full. Not given: wait while
                connected, raise at once while not. None: for ever. 0: never wait.

        Raises:
            QueueFullError: There was no room in time; the message was not accepted.
            PayloadTypeError: `data` is neither `str` nor bytes-like.
            MessageTooBigError: It is longer than `max_message_size`.
            ValueError: The text has a lone surrogate, or an argument is out of bounds.
            InvalidStateError: The tunnel is closing.
        """
        self._sender.send(data, priority, expires_in, timeout)

    def send_many(
        self,
        messages: Iterable[Message | bytearray | memoryview],
        *,
        priority: RequestPriority = RequestPriority.NORMAL,
        expires_in: float | None = None,
        timeout: SendTimeout = WHILE_CONNECTED,
    ) -> int:
        """Send many messages with few writes; the fast way for small ones.

        Args:
            messages: As for `send`; an iterator is consumed as room permits.
            priority: As for `send`.
            expires_in: As for `send`, from the moment that a message is queued.
            timeout: As for `send`, for each part that finds no room.

        Returns:
            How many were accepted: all.

        Raises:
            QueueFullError: There was no room in time; its `accepted` says how many were accepted.
            PayloadTypeError, MessageTooBigError, ValueError, InvalidStateError: As for `send`. The
                messages before the wrong one may have been accepted, if there are hundreds.
        """
        return self._sender.send_many(messages, priority, expires_in, timeout)

    def messages(self) -> Iterator[Message]:
        """Iterate over what is received, waiting for each message.

        The iterator ends once nobody works on a connection any more and all was read. Several
        iterators share the messages. While nobody takes messages, reading pauses at
        `receive_high_water`.

        Raises:
            InvalidStateError: Messages go to `on_message`.
            WouldDeadlockError: On the tunnel's thread.
        """
        if self._inbox is None:
            raise InvalidStateError("messages go to on_message; there is nothing to iterate over")
        self._refuse_own_thread("messages")
        if self._driver.worker.is_threaded:
            return iter(self._inbox)
        return self._driven(self._inbox)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything that was accepted is written; with a resuming peer: acknowledged.

        Args:
            timeout: Seconds to wait at most; None: as long as it takes.

        Returns:
            Whether all is written, or acknowledged; False also if a session was lost meanwhile,
            with messages of which nobody knows.

        Raises:
            WouldDeadlockError: On the tunnel's thread.
        """
        self._refuse_own_thread("flush")
        timeout = checked_seconds("timeout", timeout)
        return waits.flush(self._driver, self._queue, self._clock, timeout)

    # Requests

    def request(
        self,
        payload: Message | bytearray | memoryview,
        *,
        method: str = "POST",
        path: str = "/",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        priority: RequestPriority = RequestPriority.NORMAL,
        timeout: float | None = None,
    ) -> TunnelResponse:
        """Ask the peer, and wait for its answer; it survives a lost link as messages do.

        Needs a peer that resumes sessions, such as ``tunnel gateway``. Requests run concurrently
        there, so their answers come in any order.

        Args:
            payload: The body; `str` goes as UTF-8.
            method: As in HTTP.
            path: As in HTTP, with the query.
            headers: As in HTTP.
            priority: As for `send`.
            timeout: Seconds for everything (requirement 5.6); None: `request_timeout` of the
                configuration.

        Returns:
            The answer, whatever its status is.

        Raises:
            RequestTimeoutError: There was no answer in time; whether the peer has acted is unknown.
            CircuitOpenError: Five requests have failed in a row; for a minute none is sent
                (requirements 5.7 and 5.8).
            SessionLostError: The session was lost before the answer.
            QueueFullError: There was no room in time; the request was not sent.
            NotConnectedError: There has been no connection yet; or there is none, and nobody tries
                to make one: after `disconnect`, or when the connection was given up.
            InvalidStateError: The peer is a plain WebSocket server; or the tunnel is closing.
            WouldDeadlockError: On the tunnel's thread; `submit` does not wait.
            ConfigurationError, PayloadTypeError, MessageTooBigError: An argument is wrong.
        """
        self._refuse_own_thread("request")
        future = self.submit(
            payload, method=method, path=path, headers=headers, priority=priority, timeout=timeout
        )
        try:
            self._driver.worker.wait(waits.event_of(future), None)
            return future.result(0)
        finally:
            future.cancel()  # after a KeyboardInterrupt: nobody wants the answer any more

    def submit(
        self,
        payload: Message | bytearray | memoryview,
        *,
        method: str = "POST",
        path: str = "/",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        priority: RequestPriority = RequestPriority.NORMAL,
        timeout: float | None = None,
    ) -> Future[TunnelResponse]:
        """Ask the peer, and do not wait: a future has the answer, or the error, of `request`.

        Its `cancel` tells the peer not to bother. Its callbacks must not block: they run on the
        thread that brings its end, the tunnel's or that of all timers.

        Args:
            payload: As for `request`.
            method: As for `request`.
            path: As for `request`.
            headers: As for `request`.
            priority: As for `request`.
            timeout: As for `request`.

        Raises:
            TunnelError: As for `request`, as far as it is known at once.
        """
        driver = self._driver
        if driver.channel.session is None:
            if self.state is _S.CONNECTED:
                raise InvalidStateError(
                    "the peer is a plain WebSocket server: it answers no requests"
                )
            raise NotConnectedError("there has been no connection yet that could answer requests")
        if driver.is_closing:
            raise InvalidStateError("the tunnel is closing and takes no more requests")
        if not driver.worker.is_running:
            raise NotConnectedError(
                "the tunnel is not connected, and nobody tries to: call connect"
            )
        return self._requests.submit(
            payload, method=method, path=path, headers=headers, priority=priority, timeout=timeout
        )

    @property
    def position(self) -> tuple[bytes, int] | None:
        """Which received message is being handled, or was last: its session's id and its number.

        A process that was killed gets again, in the same session, what it had not acknowledged. One
        that stores the position together with what a message has caused can tell what it has had:
        messages of the same session up to the stored number. Meant for `on_message`; None before
        the first session. While a slow callback is at a message of a session that was lost, and of
        which nothing comes again, the number is that of the last one before any of this session.
        """
        return self._driver.channel.position(self._parts.delivery.taken)

    # What is known

    @property
    def state(self) -> TunnelConnectionState:
        """Where the connection stands."""
        return self.tracker.state

    def wait_for(self, *states: TunnelConnectionState, timeout: float | None = None) -> bool:
        """Wait until the connection is, or since the call began was, in one of `states`.

        Args:
            *states: One or more.
            timeout: Seconds to wait at most; None: for ever.

        Returns:
            Whether it was; False: the time was up.

        Raises:
            WouldDeadlockError: On the tunnel's thread.
        """
        if not states:
            raise TypeError("wait_for needs at least one state")
        self._refuse_own_thread("wait_for")
        timeout = checked_seconds("timeout", timeout)
        with self._watches.watch(*states, also_now=True) as watch:
            return self._driver.worker.wait(watch.seen, timeout)

    def subscribe(self, callback: Callable[[ConnectionEvent], object]) -> Callable[[], None]:
        """Have `callback` called with every event from now on, in order, one at a time.

        Mostly on the tunnel's thread; but the calls of `update_config` and `test_connection` are
        recorded, and told, by the thread that makes them.

        Returns:
            A function that ends the subscription.
        """
        return self.tracker.subscribe(self._parts.guarded(callback))

    @property
    def tracker(self) -> ConnectionStateTracker:
        """The state, the events and their history. To be read; the tunnel alone fires."""
        return self._driver.tracker

    @property
    def metrics(self) -> MetricsCollector:
        """What was counted: see `MetricsCollector.snapshot`."""
        self._metrics.record_queue_size(self._queue.size)
        return self._metrics

    @property
    def health(self) -> TunnelHealthMetrics:
        """How good the connection is (requirement 3.5)."""
        return self.metrics.health()

    @property
    def last_error(self) -> TunnelError | None:
        """Why the last link, or the last attempt at one, failed; None once there is a new link."""
        return self._driver.last_error

    @property
    def config(self) -> TunnelConfig:
        """The present settings."""
        return self._driver.config

    def update_config(self, config: TunnelConfig) -> None:
        """Use other settings from now on.

        Queue size and automatic reconnection change at once, attempts and delays with the next
        recovery, heartbeat and message size with the next link; `receive_high_water` and
        `max_event_history` stay as they were.

        Raises:
            TypeError: It is no `TunnelConfig`.
        """
        if config is None:
            raise TypeError("config must be a TunnelConfig, not None")
        before = self._driver.config
        self._driver.configure(checked_config(config))
        old, new = before.to_dict(), config.to_dict()
        changed = {name: value for name, value in new.items() if old[name] != value}
        self.tracker.record_config_change(metadata=changed)

    def statistics(self) -> dict[str, Any]:
        """All numbers in one dictionary, ready for JSON."""
        metrics = self.metrics.snapshot()
        link, channel = self._driver.link, self._driver.channel
        heartbeat = link.heartbeat if link is not None else None
        return {
            "connection_state": self.state.value,
            "queued_requests": self._queue.size,
            "expired_requests": self._queue.expired,
            "unacknowledged": channel.unacknowledged,
            "messages_sent": metrics.messages_sent,
            "messages_received": metrics.messages_received,
            "messages_waiting": self._inbox.size if self._inbox is not None else 0,
            "reconnections": metrics.reconnection_count,
            "reconnect_attempts": self.tracker.reconnect_attempts,
            "replayed": channel.replayed,
            "duplicates_dropped": channel.duplicates,
            "outstanding_requests": self._requests.outstanding,
            "circuit_state": self._requests.circuit_state.value,
            "uptime": metrics.uptime,
            "round_trip": heartbeat.round_trip if heartbeat is not None else None,
        }

    @property
    def worker(self) -> Worker:
        """The tunnel's thread; for `tunnel.testing.drive`."""
        return self._driver.worker

    def post_close(self, request: Close) -> None:
        """Ask for the end, and do not wait for it; for `tunnel.exits`."""
        self._driver.post(request)

    def left_unreported(self) -> str:
        """What has not gone out, if `disconnect` has not said so; for `tunnel.exits`."""
        left = self._left()
        return str(left) if left.count and str(left) != self._reported else ""

    def leave_to_parent(self) -> None:
        """This is a forked child now, and the connection is the parent's; for `tunnel.forks`."""
        self._driver.leave_to_parent()
        disown(self._parts)
        disown(self)

    # Inside

    def _left(self) -> DrainReport:
        """What has not gone out at this moment."""
        unsent = (item for item in self._queue.snapshot() if not isinstance(item, Parcel))
        return DrainReport(tuple(unsent), self._driver.channel.unacknowledged_messages())

    def _driven(self, inbox: Inbox) -> Iterator[Message]:
        """What is received, by doing the work of the tunnel between any two messages."""
        worker = self._driver.worker
        while worker.drive(lambda: inbox.size > 0 or not worker.is_running, None) and inbox.size:
            with closing(iter(inbox)) as received:
                yield next(received)
            # Whoever asks for the next has taken this one, whether there is a next one or not.

    def _refuse_own_thread(self, call: str) -> None:
        if self._driver.worker.is_own_thread:
            raise WouldDeadlockError(f"{call}() on the tunnel's own thread would wait for itself")

    def _log_event(self, event: ConnectionEvent) -> None:
        level = _level_of(event)
        if logger.level(level).no < logger.level(self.config.log_level).no:
            return
        connection = self.tracker.connection
        logger.bind(
            event=event.type.value,
            connection_id=event.connection_id,
            dial_id=event.dial_id,
            server_url=connection.server_url if connection is not None else None,
            metadata=event.to_dict()["metadata"],
        ).log(level, "{}: {}", event.type.value, event.message)


@raises_bare
def connect(
    url: str,
    *,
    config: TunnelConfig | None = None,
    auth_token: AuthToken = None,
    on_message: Callable[[Message], object] | None = None,
    timeout: float | None = None,
    **options: Any,
) -> TunnelService:
    """Open a tunnel: connected on return, and a context manager.

    Args:
        url: ``ws://`` or ``wss://``.
        config: The settings; None: the defaults.
        auth_token: As for `TunnelService.connect`.
        on_message: As for `TunnelService`.
        timeout: As for `TunnelService.connect`.
        **options: Further arguments of `TunnelService.connect` (such as `headers`) and of
            `TunnelService` (such as `on_connected`).

    Raises:
        TypeError: An option is not known, or of the wrong type.
        TunnelError: As for `TunnelService.connect`; no thread is left behind.
    """
    terms = {name: options.pop(name) for name in _CONNECT_OPTIONS if name in options}
    service = TunnelService(config, on_message=on_message, **options)
    service.connect(url, auth_token, timeout=timeout, **terms)
    return service


def _level_of(event: ConnectionEvent) -> str:
    """A loss stands out, and giving up even more; an end that was wanted does not."""
    if event.type is ConnectionEventType.ERROR:
        return "ERROR"
    is_loss = event.type is ConnectionEventType.DISCONNECTED and "error" in event.metadata
    return "WARNING" if is_loss else "INFO"
