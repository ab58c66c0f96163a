"""What a tunnel's thread does: it fires the triggers and runs what a state is about.

Theory of operation
-------------------

Only this thread fires the lifecycle's machine, so the machine needs no lock and no queue. The
callback of a state (`on_enter_...`) takes up what the state owns and picks its *activity*; it does
not block. The thread then runs the activity in steps, and how it ends is the next trigger. Other
threads post a request (`tunnel.worker`) and wake whatever the activity waits in: a clock, a dial,
or a socket.

A recovery is one long step, in which no mail is read. So a request is also *poked* into the
recovery when it is posted (`_poke`), and the recovery looks into the mailbox itself before each
wait and in each dial (`_absorb`): what came in between is not missed. One lock goes around posting
and poking, so that a recovery hears of the requests in the order in which they stand in the mailbox
and never of one that was obeyed before it began.
"""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from random import Random
from typing import Any

from loguru import logger

from tunnel.callback_lane import CallbackLane
from tunnel.clock import Clock
from tunnel.closing_handshake import LinkEnd
from tunnel.config import TunnelConfig
from tunnel.connection_recovery import ConnectionRecovery
from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.delivery import Delivery
from tunnel.dial import DialInterrupted
from tunnel.errors import (
    InvalidStateError,
    MaxReconnectAttemptsExceededError,
    ResourceExhaustedError,
    SessionLostError,
    TokenExpiredError,
    TunnelError,
)
from tunnel.events import ConnectionEventType
from tunnel.lifecycle import TunnelConnectionState, TunnelTrigger
from tunnel.link import Link
from tunnel.log_context import LogContext
from tunnel.metrics_collector import MetricsCollector
from tunnel.network_follower import NetworkFollower, ObservedChange
from tunnel.network_watch import NetworkWatch, watch_of
from tunnel.reconnection_manager import ReconnectionAttempt, ReconnectionManager
from tunnel.request_queue import RequestQueue
from tunnel.requests import (
    CallbackFailed,
    CancelConnect,
    Close,
    Connect,
    Greeted,
    NetworkChange,
    Reconnect,
    Request,
    Target,
)
from tunnel.secrets import bare
from tunnel.session_channel import SessionChannel
from tunnel.session_frames import Parcel
from tunnel.session_handshake import SessionHandshake
from tunnel.session_keeper import SessionKeeper
from tunnel.state_effects import StateEffects
from tunnel.transport import DialRequest, Transport
from tunnel.turnstile import give, take
from tunnel.waker import Waker
from tunnel.worker import Worker

_S = TunnelConnectionState
_T = TunnelTrigger
_AT_REST = (_S.DISCONNECTED, _S.ERROR)


class Driver(StateEffects):
    """The work of one tunnel's thread. Unless it says otherwise, a method is for that thread.

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
        "_activity",
        "_attempt",
        "_begun",
        "_clock",
        "_closing",
        "_delivery",
        "_greeted",
        "_greeter",
        "_handshake",
        "_has_asked",
        "_has_greeted",
        "_hurry",
        "_is_asked_to_wait",
        "_keeper",
        "_lane",
        "_log_context",
        "_manager",
        "_metrics",
        "_network",
        "_new_transport",
        "_offline",
        "_on_connected",
        "_on_rest",
        "_on_session_lost",
        "_opened",
        "_posting",
        "_queue",
        "_recovery_config",
        "_rng",
        "_target",
        "_waiting",
        "_waker",
        "channel",
        "config",
        "is_closing",
        "last_error",
        "link",
        "recovery",
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
        on_connected: Callable[[bool], None] | None,
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
        self._lane = lane
        self._metrics = metrics
        self._clock = clock
        self._rng = rng
        self._new_transport = new_transport
        self._waker = waker
        self._on_connected = on_connected
        self._on_session_lost = on_session_lost
        self._on_rest = on_rest
        self._posting = threading.Lock()  # guards the order of posting, poking and absorbing
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
        self._handshake: SessionHandshake | None = None  # of the transport that is opened
        self.worker = Worker(self, clock, waker, on_start, self._log_context.within)
        self.tracker = ConnectionStateTracker(config.max_event_history, clock=clock, effects=self)
        self.link: Link | None = None
        self.is_closing = False
        self.last_error: TunnelError | None = None
        # The last that was not refused. Whoever still can cancel it holds it; else it can go, with
        # its outcome, while the connection lives.
        self._begun: weakref.ref[Connect] | None = None
        self._target: Target | None = None
        self._activity: Callable[[], None] | None = None
        self._opened: Transport | None = None  # dialled, and not a link yet
        self._waiting: list[Future[None]] = []  # for the connection
        self._greeted: Link | None = None  # the link on which the application goes, or went, first
        self._greeter: tuple[int, Link] | None = None  # the thread that is in `on_connected`
        self._has_greeted = False  # it has gone first on the present link
        self._closing: list[Close] = []  # who waits for its end; the strictest terms hold
        self._hurry = False  # the next dial of a recovery is wanted at once
        self._has_asked = False  # the peer of a session, to acknowledge before the end
        self._offline = False  # the application has said so; guarded by the lock
        self._is_asked_to_wait = False  # by the server, when the last dial failed
        self._network = NetworkFollower(
            self.post, clock, watch or watch_of(clock), self._log_context
        )
        self._attempt: ReconnectionAttempt | None = None
        self.configure(config)
        self.recovery = self._make_recovery()

    # Requests

    def post(self, request: Request) -> None:
        """Have a request obeyed, at once also by a recovery that is under way. From any thread.

        Raises:
            InvalidStateError: A connection is there already, or being worked on.
            ResourceExhaustedError: No thread can be started; nothing has changed.
        """
        with self._posting:
            if isinstance(request, Connect) and self.tracker.state not in _AT_REST:
                raise self._occupied()
            self.worker.post(request)
            self._poke(request)
        self._waker.wake()  # once more: what `_poke` has changed is to be looked at

    def obey(self, request: Request) -> None:
        """See `tunnel.worker.Work`."""
        try:
            if isinstance(request, Connect):
                self._begin(request)
            elif isinstance(request, CancelConnect):
                if self._has_begun(request.connect):  # else it was refused, or never came here
                    self._cancel()
            elif isinstance(request, Close):
                self._close(request)
            elif isinstance(request, Reconnect):
                self._reconnect(request)
            elif isinstance(request, Greeted):
                self._open_queue(request.link)
            elif isinstance(request, CallbackFailed):
                raise request.error
            else:
                self._change_network(request)
        except BaseException as error:
            self._survive(error)

    def _begin(self, request: Connect) -> None:
        if self.tracker.state not in _AT_REST:
            self._refuse(request)
            return
        self._disappoint()  # whoever waited for the connection before this one
        self._begun = weakref.ref(request)
        self._target = request.target
        self._waiting.append(request.outcome)
        self.last_error = None
        target = request.target
        self._keeper.head_for(target.url.redacted, self.config)
        id = os.urandom(16).hex()
        self._log_context.name(id, None)
        self.tracker.initialize_connection(id, target.user_id, target.url.redacted)

    def _has_begun(self, connect: Connect) -> bool:
        """Whether it is the one that is, or was last, worked on. From any thread."""
        return self._begun is not None and self._begun() is connect

    def _refuse(self, request: Connect) -> None:
        """Two called `connect` at the same time, or one did while a loss was being noticed."""
        error = self._occupied()
        logger.warning("connect() came too late: {}", error.message)
        _settle(request.outcome, error)

    def _occupied(self) -> InvalidStateError:
        state = self.tracker.state.value
        return InvalidStateError(f"the tunnel is {state} already; disconnect it first")

    def _cancel(self) -> None:
        """The caller of `connect` was told that there is no connection; so there must be none."""
        if self.tracker.state is _S.CONNECTED:
            self._close(Close(graceful=False, deadline=self._clock.monotonic()))
        else:
            self.tracker.fire(_T.CANCEL, message="the connection was not there in time")

    def _close(self, request: Close) -> None:
        self._closing.append(request)
        self.tracker.fire(_T.CLOSE, message="closed by the application")
        if self.tracker.state is _S.DISCONNECTED:
            self._finish_closing()

    def _reconnect(self, request: Reconnect) -> None:
        if self.tracker.state is _S.CONNECTED:
            self.tracker.fire(_T.LOST, message="given up by the application, to reconnect")
        self._waiting.append(request.outcome)
        self._recover_at_once(manual=True)

    def _change_network(self, request: NetworkChange) -> None:
        self._record_network(request)
        is_doubtful = request.is_connected  # the route of a live link may be another one now
        if isinstance(request, ObservedChange):
            is_doubtful = not request.is_reminder  # or gone
        is_down = self.tracker.state is _S.RECONNECTING or self._is_exhausted()
        if self.link is not None:
            if is_doubtful:
                self.link.challenge()
        elif is_down and self._is_return(request):
            self._recover_at_once(manual=False)

    def _is_return(self, change: NetworkChange) -> bool:
        """Whether it is time for an attempt, since there is a network again.

        What is seen counts less than what the application says, and what the server has asked for.
        """
        if isinstance(change, ObservedChange) and (self._offline or self._is_asked_to_wait):
            return False
        return change.is_connected

    def _recover_at_once(self, *, manual: bool) -> None:
        """Dial without a delay; `manual`: whatever the settings say."""
        if self.tracker.state is _S.RECONNECTING:
            self._hurry = True  # the recovery is about to begin
        elif self._target is not None and self.tracker.state in _AT_REST:
            self._hurry = self.tracker.fire(_T.RECOVER, manual=manual, quiet=True)

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

    def _make_recovery(self) -> ConnectionRecovery:
        config = self._recovery_config = self.config
        self._manager = ReconnectionManager(
            config.max_reconnect_attempts,
            config.reconnect_base_delay,
            config.reconnect_max_delay,
            config.jitter,
            stable_after=config.stable_after,
            clock=self._clock,
            rng=self._rng,
        )
        return ConnectionRecovery(
            self._manager,
            self.tracker,
            self._dial_again,
            self._queue,
            ping=self._ping,
            before_wait=self._before_wait,
        )

    def _ping(self, timeout: float) -> bool:
        """Whether the peer answers a ping in time. From any thread but the tunnel's."""
        link = self.link
        if link is None:
            return False
        probe = link.probe()
        self.worker.wait(probe.done, timeout)
        return probe.answered

    # Requests while a recovery is under way

    def _poke(self, request: Request) -> None:
        """Tell a recovery that is under way at once. Needs the lock. From any thread."""
        if isinstance(request, Close):
            self._manager.cancel()
        elif isinstance(request, CancelConnect):
            if self._has_begun(request.connect):
                self._manager.cancel()
        elif isinstance(request, Reconnect):
            self._manager.retry_now()
        elif isinstance(request, NetworkChange):
            if not isinstance(request, ObservedChange):
                self._offline = not request.is_connected
            if self._is_return(request):
                self._manager.retry_now()
            elif self._offline:
                self._manager.pause()

    def _absorb(self) -> bool:
        """Obey, in the midst of a dial or a recovery, what is about just that.

        Returns:
            Whether the dial under way has lost its purpose.
        """
        mailbox = self.worker.mailbox
        with self._posting:
            requests = tuple(mailbox)
            for request in requests:
                self._poke(request)
                if isinstance(request, (Connect, NetworkChange, Reconnect)):
                    mailbox.remove(request)  # the others are for after the dial
        interrupted = False
        for request in requests:
            if isinstance(request, (Greeted, CallbackFailed)):
                continue
            if isinstance(request, CancelConnect) and not self._has_begun(request.connect):
                continue
            if isinstance(request, Connect):
                self._refuse(request)
            elif isinstance(request, NetworkChange):
                interrupted |= self._take_note(request)
            else:
                interrupted = True
            if isinstance(request, Reconnect):
                self._waiting.append(request.outcome)
                self._hurry = True
        return interrupted

    def _take_note(self, change: NetworkChange) -> bool:
        """Returns whether a dial under way has lost its purpose."""
        self._record_network(change)
        is_return = self._is_return(change)
        if is_return or not isinstance(change, ObservedChange):
            self._hurry = is_return
        return is_return and not (isinstance(change, ObservedChange) and change.is_reminder)

    # Activities

    def act(self) -> bool:
        """See `tunnel.worker.Work`."""
        try:
            self._tell_of_loss()
            if not self._lane.is_ready:
                if self._activity is None:
                    return False
                self._activity()
            if self._lane.is_ready:
                self.worker.call(self._lane.run)
                if self.worker.is_superseded:  # whoever reads now can acknowledge, or end a session
                    self._waker.wake()
        except BaseException as error:
            if self.worker.is_superseded:
                self._post_from_lane(CallbackFailed(error))
            else:
                self._survive(error)
        return True

    def _post_from_lane(self, request: Greeted | CallbackFailed) -> None:
        """Tell the tunnel's thread, which may be another one by now, or have ended."""
        try:
            self.worker.post(request)
        except ResourceExhaustedError as error:  # at the end of the program, perhaps
            logger.warning("{} comes too late: {}", type(request).__name__, error)

    def _survive(self, error: BaseException) -> None:
        """A bug of ours must end the link, not leave it half alive; nor the mail unread.

        The same goes for a callback that wants to end its thread, as `sys.exit` does.
        """
        logger.opt(exception=error).error("the tunnel failed")
        failure = TunnelError(f"a callback raised {type(error).__name__}")
        if isinstance(error, Exception):
            with suppress(BaseException):  # its __str__ may raise anything
                failure = TunnelError.from_exception(error)
        try:
            self._fail(failure)
        except Exception:  # the state has changed even so, and the thread has to go on
            logger.exception("the tunnel could not give everything back")
        if not self.worker.is_threaded:
            raise error  # whoever drives the tunnel, a test, wants to know

    def rest(self) -> None:
        """See `tunnel.worker.Work`."""
        self._waker.close()
        if not self._is_exhausted():  # else the network may bring the connection back
            self._network.end()
        self._disappoint()
        if self._target is not None:  # until the first connect it may still come
            self._on_rest()

    def _disappoint(self) -> None:
        """There will be no connection for those who wait for one."""
        waiting, self._waiting = self._waiting, []
        for outcome in waiting:
            error = self.last_error or InvalidStateError("the connection was called off")
            _settle(outcome, error)

    def _take_turn(self) -> None:
        """Work in turns with other tunnels, until the next wait, callback or link; see `give`."""
        if self.worker.is_threaded:
            take(self._waker.event.is_set)

    def _dial_first(self) -> None:
        self._take_turn()
        try:
            self._opened = self._dial()
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

    def _dial(self) -> Transport:
        """Dial, and remember why that failed."""
        self._hurry = self._is_asked_to_wait = False  # this is the dial that was wanted
        self.tracker.begin_dial()
        connection = self.tracker.connection
        assert connection is not None
        self._log_context.name(connection.id, connection.dial_id)
        try:
            return self._open()
        except DialInterrupted:
            raise
        except TunnelError as error:
            self.last_error = bare(error)  # its frames hold what was said in the handshake
            self._is_asked_to_wait = error.retry_after is not None
            raise

    def _open(self) -> Transport:
        """Dial; once more if the token had expired and there is another one."""
        assert self._target is not None
        request = self._dial_request(self._target)
        try:
            return self._open_as(request)
        except TokenExpiredError:
            renewed = self._renewed(self._target, request)
            if renewed is None:
                raise
        logger.info("the token has expired; trying the next one")
        return self._open_as(renewed)

    def _dial_request(self, target: Target) -> DialRequest:
        config = self.config
        return target.dial_request(
            config.connect_timeout,
            wants_session=config.resume != "off",
            max_header_size=config.max_header_size,
        )

    def _renewed(self, target: Target, refused: DialRequest) -> DialRequest | None:
        """The same with another token; None: there is only the one that was refused."""
        if not callable(target.token):
            return None
        request = self._dial_request(target)
        return None if request.headers == refused.headers else request

    def _open_as(self, request: DialRequest) -> Transport:
        config = self.config
        deadline = self._clock.monotonic() + config.connect_timeout
        transport = self._new_transport(self._waker)
        transport.open(request, self._absorb)
        try:
            self._handshake = self._keeper.agree(transport, config, deadline, self._absorb)
        except BaseException as error:
            self._keeper.detach()
            transport.abort()
            transport.close()
            if isinstance(error, OSError):
                raise TunnelError.from_exception(error) from error
            raise
        return transport

    def _greet(self) -> None:
        """The application goes first (log in, subscribe again), then the queue; once on each link.

        On a link that is to be closed at once too: what is queued goes out before that.
        """
        link = self._greeted = self.link
        assert link is not None
        on_connected, is_resumed = self._on_connected, self._keeper.is_resumed
        if on_connected is None:  # then the queue need not wait for another callback that is slow
            self._open_queue(link)
            return

        def greet() -> None:
            self._greeter = threading.get_ident(), link
            try:
                on_connected(is_resumed)
            except Exception:
                logger.exception("on_connected raised; the queue is flushed all the same")
            finally:
                self._greeter = None
            if link is self.link:  # else it may be that nobody is there who could hear of it
                self._post_from_lane(Greeted(link))

        self._lane.add(greet)

    @property
    def greeting(self) -> Link | None:
        """The link for which the calling thread is in `on_connected`; None: it is not."""
        greeter, link = self._greeter or (None, None)
        return link if greeter == threading.get_ident() else None

    def _open_queue(self, link: Link) -> None:
        if link is not self.link:
            return  # lost meanwhile; there will be another greeting
        self._has_greeted = True
        link.open_queue()
        waiting, self._waiting = self._waiting, []
        for outcome in waiting:
            _settle(outcome)

    def _tell_of_loss(self) -> None:
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

    def _read(self) -> None:
        assert self.link is not None
        if self._greeted is not self.link:
            self._greet()
            return
        end = self.link.run()
        if end is not None:
            self._lose(end)

    def _lose(self, end: LinkEnd) -> None:
        self._take_turn()
        error = self.last_error = end.error
        self._is_asked_to_wait = error is not None and error.retry_after is not None
        if error is not None:
            self._metrics.record_error(error.code)
        if error is not None and not error.is_retryable:
            self.tracker.fire(_T.FAIL, error=error)
            return
        self.tracker.fire(_T.LOST, error=error)
        self.tracker.fire(_T.RECOVER, quiet=True)

    def _recover(self) -> None:
        self._take_turn()
        error = self.last_error
        if error is None or self._hurry:
            self.recovery.attempt_recovery()
        else:
            self.recovery.attempt_recovery(error.message, error)

    def _dial_again(self) -> None:
        """One attempt of a recovery."""
        if self._absorb():
            raise DialInterrupted("called off before it began")
        attempt = self._attempt
        assert attempt is not None
        try:
            self._opened = self._dial()
        finally:
            success = self._opened is not None
            self._metrics.record_reconnection(attempt.attempt, success, attempt.delay)

    def _before_wait(self, attempt: ReconnectionAttempt) -> None:
        self._attempt = attempt
        self._absorb()
        if self._hurry:
            self._manager.retry_now()
        elif self._offline:
            self._manager.pause()

    def _drain(self) -> None:
        """What is queued goes out before the close frame."""
        assert self.link is not None
        if self._greeted is not self.link:
            self._greet()
            return
        if not self._is_drained() and not self._is_time_to_hang_up():
            end = self.link.run(self._deadline())
            if end is not None:
                self._lost_while_closing(end)
            return
        self.link.close(1000)
        self._activity = self._shake_hands

    def _is_drained(self) -> bool:
        """Whether all is written; with a session, all acknowledged, and its end told."""
        assert self.link is not None
        if not self._has_greeted:  # `on_connected` is slow, and may still say something
            return False
        if self.channel.is_ended:  # what is queued now came too late
            return not self.link.writer.has_work
        if self._queue.size:
            return False
        if self.channel.unacknowledged:
            if not self._has_asked:
                self._has_asked = True
                self.link.ask()
            return False
        if self.channel.session is not None and not self._lane.is_idle:
            return False  # callbacks have what the peer would count as not delivered
        frame = self._keeper.end()
        if frame is not None:
            self.link.end_session(frame)
        return not self.link.writer.has_work

    def _note_settled(self) -> None:
        if self.is_closing:
            self._waker.wake()

    def _shake_hands(self) -> None:
        """The peer answers the close frame."""
        assert self.link is not None
        end = None if self._is_time_to_hang_up() else self.link.run(self._deadline())
        if end is not None and end.clean:
            self.tracker.fire(_T.CLOSED)
        elif end is not None:
            self._lost_while_closing(end)
        elif self._is_time_to_hang_up():
            self.tracker.fire(_T.CLOSED, message="closed without waiting for the peer")

    def _deadline(self) -> float:
        return min(request.deadline for request in self._closing)

    def _is_time_to_hang_up(self) -> bool:
        if not all(request.graceful for request in self._closing):
            return True
        return self._clock.monotonic() >= self._deadline()

    def _lost_while_closing(self, end: LinkEnd) -> None:
        self.last_error = end.error
        self.tracker.fire(_T.LOST, error=end.error)

    def _fail(self, error: TunnelError) -> None:
        self.last_error = error  # the tracker keeps a copy, which does not know its cause
        if self.tracker.state is _S.CLOSING:
            self.tracker.fire(_T.LOST, error=error)
        elif self.tracker.state in (_S.CONNECTING, _S.CONNECTED, _S.RECONNECTING):
            self.tracker.fire(_T.FAIL, error=error)

    # What a state owns; see `tunnel.state_effects`

    def on_enter_connecting(self, **data: Any) -> None:
        """The first dial."""
        self._follow_network()
        self._activity = self._dial_first

    def on_enter_connected(self, **data: Any) -> None:
        """A link: its socket, its heartbeat, its writer."""
        assert self._opened is not None
        self.link = Link(
            self._opened,
            queue=self._queue,
            delivery=self._delivery,
            config=self.config,
            metrics=self._metrics,
            clock=self._clock,
            waker=self._waker,
            on_activity=self.tracker.touch,
            channel=self.channel if self._handshake is not None else None,
            handshake=self._handshake,
            log_context=self._log_context,
        )
        self._network.connected(self._opened)
        self._opened = self._handshake = None
        self._metrics.record_connected()
        self.last_error = None
        self._activity = self._read

    def on_enter_reconnecting(self, **data: Any) -> None:
        """The backoff: waits and dials."""
        if self._recovery_config is not self.config:
            self.recovery = self._make_recovery()
        self._follow_network()
        self._activity = self._recover

    def on_enter_closing(self, **data: Any) -> None:
        """The link a while longer, to drain it and to close it properly."""
        assert self.link is not None
        self.is_closing = True
        self._has_asked = False
        self.link.writer.on_drained = self._waker.wake
        self._activity = self._drain

    def on_enter_disconnected(self, **data: Any) -> None:
        """Nothing."""
        self.is_closing = False
        try:
            self._let_go()
        finally:
            self._finish_closing()

    def on_enter_error(self, **data: Any) -> None:
        """Nothing."""
        error = data.get("error")
        if isinstance(error, MaxReconnectAttemptsExceededError):
            exhausted = copy.copy(error)  # the tracker's own is to hold on to nothing
            exhausted.__cause__ = self.last_error
            self.last_error = exhausted
        self._let_go()

    def _let_go(self) -> None:
        self._activity = None
        self._network.lost()
        link, self.link = self.link, None
        self._greeted, self._has_greeted = None, False
        try:
            if link is not None:
                self._metrics.record_disconnected()
                link.dispose()
        finally:
            if link is not None:
                self._queue.interrupt()  # whoever waits for room while connected waits no longer
            if self._opened is not None:  # dialled, and called off before it was a link
                self._opened.abort()
                self._opened.close()
                self._opened = self._handshake = None
            self._keeper.detach()

    def _finish_closing(self) -> None:
        closing, self._closing = self._closing, []
        for request in closing:
            request.done.set()

    def _is_exhausted(self) -> bool:
        is_exhausted = isinstance(self.last_error, MaxReconnectAttemptsExceededError)
        return is_exhausted and self.tracker.state is _S.ERROR

    def _follow_network(self) -> None:
        if self._target is not None and self.config.watch_network:
            self._network.follow(self._target.url.host)

    def _record_network(self, change: NetworkChange) -> None:
        message = "the network is back" if change.is_connected else "the network is gone"
        if isinstance(change, ObservedChange):
            if change.is_reminder:
                return
            message = change.message
        self.tracker.record(
            ConnectionEventType.NETWORK_CHANGED,
            message,
            {"is_connected": change.is_connected, "network_type": change.network_type},
        )


def _settle(outcome: Future[None], error: TunnelError | None = None) -> None:
    """Say how it went, unless whoever waited for that has given up."""
    if outcome.set_running_or_notify_cancel():
        if error is None:
            outcome.set_result(None)
        else:
            outcome.set_exception(error)
