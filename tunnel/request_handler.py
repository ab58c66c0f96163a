"""What becomes of the requests that other threads post to a tunnel's thread.

Theory of operation
-------------------

A request takes effect in up to three ways. Between two steps of the thread it is *obeyed*: it fires
a trigger, or hurries a recovery. But a dial is one long step, and so is a recovery with all its
waits. So a request is also *poked* into the recovery at the moment when it is posted; and the dial
and the recovery look into the mailbox themselves, and *absorb* what is about just them: what came
in between is not missed. One lock goes around posting and poking, so that a recovery hears of the
requests in the order in which they stand in the mailbox and never of one that was obeyed before it
began.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from typing import Protocol

from loguru import logger

from tunnel.clock import Clock
from tunnel.closing import Closing
from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.errors import InvalidStateError, TunnelError
from tunnel.events import ConnectionEventType
from tunnel.lifecycle import TunnelConnectionState, TunnelTrigger
from tunnel.link import Link
from tunnel.network_follower import ObservedChange
from tunnel.reconnecting import Reconnecting
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
from tunnel.waker import Waker
from tunnel.worker import Worker

_S = TunnelConnectionState
_T = TunnelTrigger
_AT_REST = (_S.DISCONNECTED, _S.ERROR)


class Connection(Protocol):
    """What requests are about; `tunnel.driver.Driver` says what each means."""

    @property
    def link(self) -> Link | None: ...  # noqa: D102
    @property
    def last_error(self) -> TunnelError | None: ...  # noqa: D102
    @property
    def is_exhausted(self) -> bool: ...  # noqa: D102
    def connect_to(self, target: Target) -> None: ...  # noqa: D102
    def open_queue(self, link: Link) -> None: ...  # noqa: D102


class RequestHandler:
    """Takes requests and obeys them. Unless it says otherwise, a method is for the tunnel's thread.

    Args:
        connection: What they are about.
        tracker: Fires their triggers.
        worker: Has the mailbox.
        waker: Ends what the thread waits in.
        reconnecting: Is told at once what changes a recovery.
        closing: Is told who wants the end.
        clock: The source of time.
    """

    __slots__ = (
        "_begun",
        "_clock",
        "_closing",
        "_connection",
        "_posting",
        "_reconnecting",
        "_tracker",
        "_waiting",
        "_waker",
        "_worker",
    )

    def __init__(
        self,
        connection: Connection,
        tracker: ConnectionStateTracker,
        worker: Worker,
        waker: Waker,
        reconnecting: Reconnecting,
        closing: Closing,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._tracker = tracker
        self._worker = worker
        self._waker = waker
        self._reconnecting = reconnecting
        self._closing = closing
        self._clock = clock
        self._posting = threading.Lock()  # guards the order of posting, poking and absorbing
        # The last that was not refused. Whoever still can cancel it holds it; else it can go, with
        # its outcome, while the connection lives.
        self._begun: weakref.ref[Connect] | None = None
        self._waiting: list[Future[None]] = []  # for the connection

    def post(self, request: Request) -> None:
        """Have a request obeyed, at once also by a recovery that is under way. From any thread.

        Raises:
            InvalidStateError: A connection is there already, or being worked on.
            ResourceExhaustedError: No thread can be started; nothing has changed.
        """
        with self._posting:
            if isinstance(request, Connect) and self._tracker.state not in _AT_REST:
                raise self._occupied()
            self._worker.post(request)
            self._poke(request)
        self._waker.wake()  # once more: what `_poke` has changed is to be looked at

    def connected(self) -> None:
        """Tell those who wait for the connection that it is there."""
        waiting, self._waiting = self._waiting, []
        for outcome in waiting:
            _settle(outcome)

    def disappoint(self) -> None:
        """There will be no connection for those who wait for one."""
        waiting, self._waiting = self._waiting, []
        for outcome in waiting:
            error = self._connection.last_error
            _settle(outcome, error or InvalidStateError("the connection was called off"))

    # Between two steps

    def obey(self, request: Request) -> None:
        """Do what was asked. Must not block.

        Raises:
            BaseException: What a callback has raised elsewhere (`CallbackFailed`), or a bug.
        """
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
            self._connection.open_queue(request.link)
        elif isinstance(request, CallbackFailed):
            raise request.error
        else:
            self._change_network(request)

    def _begin(self, request: Connect) -> None:
        if self._tracker.state not in _AT_REST:
            self._refuse(request)
            return
        self.disappoint()  # whoever waited for the connection before this one
        self._begun = weakref.ref(request)
        self._waiting.append(request.outcome)
        self._connection.connect_to(request.target)

    def _has_begun(self, connect: Connect) -> bool:
        """Whether it is the one that is, or was last, worked on. From any thread."""
        return self._begun is not None and self._begun() is connect

    def _refuse(self, request: Connect) -> None:
        """Two called `connect` at the same time, or one did while a loss was being noticed."""
        error = self._occupied()
        logger.warning("connect() came too late: {}", error.message)
        _settle(request.outcome, error)

    def _occupied(self) -> InvalidStateError:
        state = self._tracker.state.value
        return InvalidStateError(f"the tunnel is {state} already; disconnect it first")

    def _cancel(self) -> None:
        """The caller of `connect` was told that there is no connection; so there must be none."""
        if self._tracker.state is _S.CONNECTED:
            self._close(Close(graceful=False, deadline=self._clock.monotonic()))
        else:
            self._tracker.fire(_T.CANCEL, message="the connection was not there in time")

    def _close(self, request: Close) -> None:
        self._closing.want(request)
        self._tracker.fire(_T.CLOSE, message="closed by the application")
        if self._tracker.state is _S.DISCONNECTED:
            self._closing.finish()

    def _reconnect(self, request: Reconnect) -> None:
        if self._tracker.state is _S.CONNECTED:
            self._tracker.fire(_T.LOST, message="given up by the application, to reconnect")
        self._waiting.append(request.outcome)
        self._recover_at_once(manual=True)

    def _change_network(self, request: NetworkChange) -> None:
        self._record_network(request)
        is_doubtful = request.is_connected  # the route of a live link may be another one now
        if isinstance(request, ObservedChange):
            is_doubtful = not request.is_reminder  # or gone
        is_down = self._tracker.state is _S.RECONNECTING or self._connection.is_exhausted
        link = self._connection.link
        if link is not None:
            if is_doubtful:
                link.challenge()
        elif is_down and self._reconnecting.is_return(request):
            self._recover_at_once(manual=False)

    def _recover_at_once(self, *, manual: bool) -> None:
        """Dial without a delay; `manual`: whatever the settings say."""
        if self._tracker.state is _S.RECONNECTING:
            self._reconnecting.is_urgent = True  # the recovery is about to begin
        elif self._begun is not None and self._tracker.state in _AT_REST:
            self._reconnecting.is_urgent = self._tracker.fire(_T.RECOVER, manual=manual, quiet=True)

    def _record_network(self, change: NetworkChange) -> None:
        message = "the network is back" if change.is_connected else "the network is gone"
        if isinstance(change, ObservedChange):
            if change.is_reminder:
                return
            message = change.message
        self._tracker.record(
            ConnectionEventType.NETWORK_CHANGED,
            message,
            {"is_connected": change.is_connected, "network_type": change.network_type},
        )

    # While a dial or a recovery is under way

    def _poke(self, request: Request) -> None:
        """Tell a recovery that is under way at once. Needs the lock. From any thread."""
        if not isinstance(request, CancelConnect) or self._has_begun(request.connect):
            self._reconnecting.hear(request)

    def absorb(self) -> bool:
        """Obey, in the midst of a dial or a recovery, what is about just that.

        Returns:
            Whether the dial under way has lost its purpose.
        """
        mailbox = self._worker.mailbox
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
                self._record_network(request)
                interrupted |= self._reconnecting.note(request)
            else:
                interrupted = True
            if isinstance(request, Reconnect):
                self._waiting.append(request.outcome)
                self._reconnecting.is_urgent = True
        return interrupted


def _settle(outcome: Future[None], error: TunnelError | None = None) -> None:
    """Say how it went, unless whoever waited for that has given up."""
    if outcome.set_running_or_notify_cancel():
        if error is None:
            outcome.set_result(None)
        else:
            outcome.set_exception(error)
