"""What a tunnel's thread does: it fires the triggers and runs what a state is about.

Theory of operation
-------------------

Only this thread fires the lifecycle's machine, so the machine needs no lock and no queue. The
callback of a state (`on_enter_...`) takes up what the state owns and picks its *activity*; it does
not block. The thread then runs the activity in steps, and how it ends is the next trigger. Other
threads post a request (`tunnel.worker`) and wake whatever the activity waits in: a clock, a dial,
or a socket.

Here stands what each state owns, and which trigger the end of an activity is. How a tunnel dials,
greets, closes and recovers stands by itself in modules of those names. Around it are two frames:
`tunnel.thread_work` steps through mail, activities and callbacks, and `tunnel.request_handler` says
what a request does to all that.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from random import Random
from typing import Any

from tunnel.callback_lane import CallbackLane
from tunnel.clock import Clock
from tunnel.closing import HUNG_UP, Closing
from tunnel.closing_handshake import LinkEnd
from tunnel.config import TunnelConfig
from tunnel.connection_recovery import ConnectionRecovery
from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.delivery import Delivery
from tunnel.dial import DialInterrupted
from tunnel.dialler import Dialled, Dialler
from tunnel.errors import (
    MaxReconnectAttemptsExceededError,
    SessionLostError,
    TunnelError,
)
from tunnel.events import ConnectionEventType
from tunnel.forks import disown
from tunnel.greeter import Greeter
from tunnel.lifecycle import TunnelConnectionState, TunnelTrigger
from tunnel.link import Link
from tunnel.log_context import LogContext
from tunnel.metrics_collector import MetricsCollector
from tunnel.network_follower import NetworkFollower
from tunnel.network_watch import NetworkWatch, watch_of
from tunnel.reconnecting import Reconnecting
from tunnel.request_handler import RequestHandler
from tunnel.request_queue import RequestQueue
from tunnel.requests import Greeted, Request, Target
from tunnel.secrets import bare
from tunnel.session_channel import SessionChannel
from tunnel.session_frames import Parcel
from tunnel.session_keeper import SessionKeeper
from tunnel.state_effects import StateEffects
from tunnel.thread_work import ThreadWork
from tunnel.transport import Transport
from tunnel.turnstile import give
from tunnel.waker import Waker

_S = TunnelConnectionState
_T = TunnelTrigger


class Driver(StateEffects):
    """What one tunnel's thread works on. Unless it says otherwise, a method is for that thread.

    Args:
        config: The settings to begin with.
        queue: Where messages wait.
        delivery: Where messages go.
        lane: Where callbacks wait for the thread.
        metrics: Counts what happens.
        clock: The source of time.
        rng: The source of jitter; None: the system's.
        new_transport: Makes a transport for each dial.
        on_connected: Called through the lane on each new link before the queue is flushed, with
            whether a session was resumed; None: the application has nothing to say.
        on_session_lost: Called before that, if a session could not be; it must not block.
        on_answer: Called with each answer to a request; see `SessionChannel`.
        on_start: Called when the tunnel's thread begins, perhaps to work on a connection.
        on_rest: Called when nobody works on a connection any more.
        log_context: Is told the ids that log lines carry; None: one of its own.
        watch: Says when the machine's network changes; None: the one that goes with the clock.

    Attributes:
        activity: What the thread is to do in the present state, step by step; None: nothing.
        tracker: The model of the machine. For reading from any thread.
        worker: The thread, and where to post. For any thread.
        link: The live connection, or None. For reading from any thread.
        channel: The session, over all links. For any thread, as its methods say.
        recovery: Brings lost connections back. For asking from any thread.
        config: The present settings. For reading from any thread.
        is_closing: Whether the application has asked for the end. For reading from any thread.
        last_error: Why the last connection, or attempt at one, failed. For reading from any thread.
    """

    __slots__ = (
        "_clock",
        "_closing",
        "_delivery",
        "_dialled",
        "_dialler",
        "_greeter",
        "_keeper",
        "_log_context",
        "_metrics",
        "_network",
        "_on_rest",
        "_on_session_lost",
        "_queue",
        "_reconnecting",
        "_requests",
        "_target",
        "_waker",
        "_work",
        "activity",
        "channel",
        "config",
        "is_closing",
        "last_error",
        "link",
        "tracker",
        "worker",
    )

    def __init__(
        self,
        config: TunnelConfig,
        *,
        queue: RequestQueue,
        delivery: Delivery,
        lane: CallbackLane,
        metrics: MetricsCollector,
        clock: Clock,
        rng: Random | None,
        new_transport: Callable[[Waker], Transport],
        waker: Waker,
        on_connected: Callable[[bool], object] | None,
        on_session_lost: Callable[[SessionLostError], None],
        on_answer: Callable[[Parcel], None],
        on_start: Callable[[], None],
        on_rest: Callable[[], None],
        log_context: LogContext | None = None,
        watch: NetworkWatch | None = None,
    ) -> None:
        self._log_context = LogContext() if log_context is None else log_context
        self._queue = queue
        self._delivery = delivery
        self._metrics = metrics
        self._clock = clock
        self._waker = waker
        self._on_session_lost = on_session_lost
        self._on_rest = on_rest
        self.channel = SessionChannel(
            queue,
            metrics,
            on_answer=on_answer,
            on_settled=self._note_settled,
            on_retry=waker.wake,
            clock=clock,
            log_context=self._log_context,
        )
        self._keeper = SessionKeeper(queue, self.channel, delivery, clock)
        self._work = ThreadWork(self, lane, clock, waker, on_start, self._log_context)
        self.worker = self._work.worker
        self.tracker = ConnectionStateTracker(config.max_event_history, clock=clock, effects=self)
        self.link: Link | None = None
        self.is_closing = False
        self.last_error: TunnelError | None = None
        self._target: Target | None = None
        self.activity: Callable[[], None] | None = None
        self._dialled: Dialled | None = None
        self._network = NetworkFollower(
            self.post, clock, watch or watch_of(clock), self._log_context
        )
        self._dialler = Dialler(self._keeper, new_transport, waker, clock)
        self._greeter = Greeter(lane, on_connected, self._note_greeted)
        self._closing = Closing(queue, self.channel, self._keeper, lane, clock)
        self._reconnecting = Reconnecting(
            config,
            tracker=self.tracker,
            queue=queue,
            metrics=metrics,
            clock=clock,
            rng=rng,
            dial=self._dial,
            ping=self._ping,
            interrupted=self._absorb,
        )
        self._requests = RequestHandler(
            self,
            self.tracker,
            self.worker,
            waker,
            self._reconnecting,
            self._closing,
            clock,
        )
        self.configure(config)

    def leave_to_parent(self) -> None:
        """This is a forked child now, and nothing of this is its own; for `tunnel.forks`."""
        parts = (self._work, self._dialler, self._greeter, self._closing, self._reconnecting)
        for part in (self.worker, *parts, self._requests, self):
            disown(part)

    # Requests

    def post(self, request: Request) -> None:
        """See `RequestHandler.post`. From any thread."""
        self._requests.post(request)

    def obey(self, request: Request) -> None:
        """See `RequestHandler.obey`."""
        self._requests.obey(request)

    def connect_to(self, target: Target) -> None:
        """Begin to work on a connection to there."""
        self._target = target
        self.last_error = None
        self._keeper.head_for(target.url.redacted, self.config)
        id = os.urandom(16).hex()
        self._log_context.name(id, None)
        self.tracker.initialize_connection(id, target.user_id, target.url.redacted)

    # Settings

    @property
    def max_message_size(self) -> int:
        """The longest message that may be sent: ours, and the peer's if it has told. Any thread."""
        session = self.channel.session
        limits = session.peer_limits if session is not None else None
        own = self.config.max_message_size
        return own if limits is None else min(own, limits.message_size)

    def configure(self, config: TunnelConfig) -> None:
        """Use these settings from now on; what is under way keeps the old ones. Any thread."""
        self.config = config
        self._queue.resize(config.max_queue_size)
        self.tracker.auto_reconnect = config.enable_auto_reconnect

    def _ping(self, timeout: float) -> bool:
        """Whether the peer answers a ping in time. From any thread but the tunnel's."""
        link = self.link
        if link is None:
            return False
        probe = link.probe()
        self.worker.wait(probe.done, timeout)
        return probe.answered

    # Activities

    def rest(self) -> None:
        """There is nothing left to do: the thread ends. See `tunnel.worker.Work`."""
        if not self.is_exhausted:  # else the network may bring the connection back
            self._network.end()
        self._requests.disappoint()
        if self._target is not None:  # until the first connect it may still come
            self._on_rest()

    def _dial_first(self) -> None:
        self._work.take_turn()
        try:
            self._dial()
        except DialInterrupted:
            return  # why is in the mailbox; or the network has changed: then dial again
        except TunnelError as error:
            if error.is_retryable:
                self.tracker.fire(_T.DIAL_FAILED, error=error)
                self.tracker.fire(_T.RECOVER, quiet=True)
            else:
                self.tracker.fire(_T.FAIL, error=error)
        else:
            self.tracker.fire(_T.OPENED)

    def _dial(self) -> None:
        """Dial, and remember why that failed."""
        self._reconnecting.note_dial()
        self.tracker.begin_dial()
        connection = self.tracker.connection
        assert connection is not None
        assert self._target is not None
        self._log_context.name(connection.id, connection.dial_id)
        try:
            self._dialled = self._dialler.dial(self._target, self.config, self._absorb)
        except DialInterrupted:
            raise
        except TunnelError as error:
            self.last_error = bare(error)  # its frames hold what was said in the handshake
            self._reconnecting.note_failure(error)
            raise

    def _absorb(self) -> bool:
        return self._requests.absorb()

    def _note_greeted(self, link: Link) -> None:
        """Called by the thread that was in the callback."""
        self._work.post_from_lane(Greeted(link))

    def _greet(self) -> None:
        """The application goes first, then the queue; once on each link.

        On a link that is to be closed at once too: what is queued goes out before that.
        """
        link = self.link
        assert link is not None
        if not self._greeter.begin(link, self._keeper.is_resumed):
            self.open_queue(link)

    @property
    def greeting(self) -> Link | None:
        """The link for which the calling thread is in `on_connected`; None: it is not."""
        return self._greeter.current

    def open_queue(self, link: Link) -> None:
        """The application has greeted on a link: now the queue may follow."""
        if link is not self.link:
            return  # lost meanwhile; there will be another greeting
        self._greeter.has_greeted = True
        link.open_queue()
        self._requests.connected()

    def tell_of_loss(self) -> None:
        """The application hears what became of its messages before it hears anything else.

        Also if there never will be another link, on which it could hear of it.
        """
        error = self._keeper.pop_loss()
        if error is None:
            return
        metadata = {"unacknowledged": len(error.unacknowledged)}
        self.tracker.record(ConnectionEventType.SESSION_LOST, error.message, metadata)
        self._metrics.record_error(error.code)
        give()  # futures may have callbacks
        self._on_session_lost(error)

    def _greet_and_read(self) -> None:
        self.activity = self._read
        self._greet()

    def _read(self) -> None:
        assert self.link is not None
        end = self.link.run()
        if end is not None:
            self._lose(end)

    def _lose(self, end: LinkEnd) -> None:
        self._work.take_turn()
        error = self.last_error = end.error
        self._reconnecting.note_failure(error)
        if error is not None:
            self._metrics.record_error(error.code)
        if error is not None and not error.is_retryable:
            self.tracker.fire(_T.FAIL, error=error)
            return
        self.tracker.fire(_T.LOST, error=error)
        self.tracker.fire(_T.RECOVER, quiet=True)

    def _recover(self) -> None:
        self._work.take_turn()
        self._reconnecting.run(self.last_error)

    def _close(self) -> None:
        link = self.link
        assert link is not None
        if self._greeter.link is not link:
            self._greet()
            return
        end = self._closing.run(link, self._greeter.has_greeted)
        if end is HUNG_UP:
            self.tracker.fire(_T.CLOSED, message="closed without waiting for the peer")
        elif end is not None and end.clean:
            self.tracker.fire(_T.CLOSED)
        elif end is not None:
            self.last_error = end.error
            self.tracker.fire(_T.LOST, error=end.error)

    def _note_settled(self) -> None:
        if self.is_closing:
            self._waker.wake()

    def fail(self, error: TunnelError) -> None:
        """A bug, or a callback that ends its thread, has come in between."""
        self.last_error = error  # the tracker keeps a copy, which does not know its cause
        if self.tracker.state is _S.CLOSING:
            self.tracker.fire(_T.LOST, error=error)
        elif self.tracker.state in (_S.CONNECTING, _S.CONNECTED, _S.RECONNECTING):
            self.tracker.fire(_T.FAIL, error=error)

    # What a state owns; see `tunnel.state_effects`

    def on_enter_connecting(self, **data: Any) -> None:
        """The first dial."""
        self._follow_network()
        self.activity = self._dial_first

    def on_enter_connected(self, **data: Any) -> None:
        """A link: its socket, its heartbeat, its writer."""
        assert self._dialled is not None
        transport, handshake = self._dialled
        link = Link(
            transport,
            queue=self._queue,
            delivery=self._delivery,
            config=self.config,
            metrics=self._metrics,
            clock=self._clock,
            waker=self._waker,
            on_activity=self.tracker.touch,
            channel=self.channel if handshake is not None else None,
            handshake=handshake,
        )
        link.watch(self.config, self._log_context)
        self.link = link
        self._network.connected(transport)
        self._dialled = None
        self._metrics.record_connected()
        self.last_error = None
        self.activity = self._greet_and_read

    def on_enter_reconnecting(self, **data: Any) -> None:
        """The backoff: waits and dials."""
        self._reconnecting.begin(self.config)
        self._follow_network()
        self.activity = self._recover

    def on_enter_closing(self, **data: Any) -> None:
        """The link a while longer, to drain it and to close it properly."""
        assert self.link is not None
        self.is_closing = True
        self._closing.begin()
        self.link.writer.on_drained = self._waker.wake
        self.activity = self._close

    def on_enter_disconnected(self, **data: Any) -> None:
        """Nothing."""
        self.is_closing = False
        try:
            self._let_go()
        finally:
            self._closing.finish()

    def on_enter_error(self, **data: Any) -> None:
        """Nothing."""
        error = data.get("error")
        if isinstance(error, MaxReconnectAttemptsExceededError):
            exhausted = copy.copy(error)  # the tracker's own is to hold on to nothing
            exhausted.__cause__ = self.last_error
            self.last_error = exhausted
        self._let_go()

    def _let_go(self) -> None:
        self.activity = None
        self._network.lost()
        link, self.link = self.link, None
        self._greeter.forget()
        try:
            if link is not None:
                self._metrics.record_disconnected()
                link.dispose()
        finally:
            if link is not None:
                self._queue.interrupt()  # whoever waits for room while connected waits no longer
            dialled, self._dialled = self._dialled, None
            if dialled is not None:  # called off before it was a link
                dialled.abandon()
            self._keeper.detach()

    @property
    def is_exhausted(self) -> bool:
        """Whether the attempts at a connection were used up."""
        is_exhausted = isinstance(self.last_error, MaxReconnectAttemptsExceededError)
        return is_exhausted and self.tracker.state is _S.ERROR

    @property
    def recovery(self) -> ConnectionRecovery:
        """Brings lost connections back. For asking from any thread."""
        return self._reconnecting.recovery

    def _follow_network(self) -> None:
        if self._target is not None and self.config.watch_network:
            self._network.follow(self._target.url.host)
