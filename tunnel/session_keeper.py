"""Which session a tunnel has: opening it, resuming it, giving it up, and saying so.

A session belongs to one server and outlives links, and with a queue on disk the process too. When
it cannot be resumed, a new one takes its place, and the loss is remembered until the application
can be told: what was written and not acknowledged may or may not have arrived, so it is not sent
again but handed back. What was never written goes out in the new session, first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from loguru import logger

from tunnel.clock import Clock
from tunnel.config import TunnelConfig
from tunnel.delivery import Delivery
from tunnel.errors import (
    InvalidStateError,
    MessageTooBigError,
    ProtocolVersionError,
    SessionLostError,
)
from tunnel.outbox import Message
from tunnel.request_queue import RequestQueue
from tunnel.session import Loss, Session
from tunnel.session_channel import SessionChannel
from tunnel.session_frames import (
    HEADER,
    VERSION,
    Answer,
    FrameKind,
    Greeting,
    Limits,
    Parcel,
    Resumed,
    SessionViolation,
)
from tunnel.session_handshake import SessionHandshake
from tunnel.session_lifecycle import SessionState
from tunnel.transport import Transport

_ACCEPTS = (FrameKind.RESPONSE,)
_MESSAGE_COST = 64
"""Bytes that a received message costs beside its payload, roughly (see `tunnel.delivery`)."""


class SessionKeeper:
    """Keeps the session of one tunnel. For the tunnel's thread.

    Args:
        queue: Where what was never written returns to; on disk it keeps the session, too.
        channel: Carries the session.
        delivery: Counts what was handed over.
        clock: Measures the deadline of a handshake.

    Attributes:
        is_resumed: Whether the present link resumed a session that was there before.
    """

    def __init__(
        self, queue: RequestQueue, channel: SessionChannel, delivery: Delivery, clock: Clock
    ) -> None:
        self._clock = clock
        self._queue = queue
        self._channel = channel
        self._delivery = delivery
        self._server = ""
        self._loss: SessionLostError | None = None
        self._has_looked = False  # whether there is a session on file
        self.is_resumed = False

    def head_for(self, server: str, config: TunnelConfig) -> None:
        """The tunnel is to lead to this server: a session with another one is given up.

        Args:
            server: Its address; the session's token goes nowhere else.
            config: How much the session may keep.
        """
        if self._channel.session is not None and server != self._server:
            self.lose("the tunnel was connected to another server")
        self._server = server
        if not self._has_looked:
            self._has_looked = True
            self._restore(config)

    def _restore(self, config: TunnelConfig) -> None:
        """Go on with the session of the process before this one, if the queue has it on file."""
        saved = self._queue.saved_session()
        if saved is None:
            return
        session = Session.restored(
            saved.ticket,
            keep=_keep(config),
            accepts=_ACCEPTS,
            acknowledged=saved.acknowledged,
            last_number=saved.last_number,
            messages=dict(saved.messages),
        )
        self._channel.carry(session, self._delivery.delivered)
        if saved.server != self._server:
            self.lose("the session on file belongs to another server")

    def agree(
        self,
        transport: Transport,
        config: TunnelConfig,
        deadline: float,
        interrupted: Callable[[], bool],
    ) -> SessionHandshake | None:
        """Open or resume a session on a new link, if the peer can.

        Args:
            transport: Opened.
            config: Whether a session is wanted, and how much it may hold.
            deadline: When it must be done, on the clock's `monotonic()`.
            interrupted: Asked after each wake-up: has the dial lost its purpose?

        Returns:
            The handshake that has succeeded; None: a plain peer, and that will do.

        Raises:
            ProtocolVersionError: The peer resumes no sessions, or in another way.
            MessageTooBigError: Something in the queue is longer than the peer takes. It was queued
                before that was known, and would end every link.
            TunnelError, OSError: See `SessionHandshake.ask`.
        """
        version = transport.response_headers.get(HEADER.lower())
        if config.resume == "off":
            self.lose("the tunnel is to resume no sessions any more")
            return None
        if version is None:
            if config.resume == "required":
                raise ProtocolVersionError("the server does not resume sessions", status=101)
            self.lose("the server does not resume sessions")
            return None
        if version.strip() != VERSION:
            raise ProtocolVersionError("the server resumes sessions in another way", status=101)
        handshake = SessionHandshake(transport, self._clock, deadline, interrupted, config)
        try:
            while not self._answered(answer := handshake.ask(self._greeting(config))):
                # The session is lost, so a new one is asked for.
                if isinstance(answer, Resumed):
                    handshake.leave()
        except SessionViolation as violation:
            raise handshake.refused(1002, str(violation)) from None
        self._check_sizes()
        return handshake

    def _greeting(self, config: TunnelConfig) -> Greeting:
        """What to say on a new link: open a session, or resume the one that there is."""
        session = self._channel.session
        if session is None or session.state in (SessionState.ENDED, SessionState.LOST):
            session = Session(_limits(config), keep=_keep(config), accepts=_ACCEPTS)
            self._channel.carry(session, self._delivery.delivered)
        return session.greeting()

    def _answered(self, answer: Answer) -> bool:
        """Take the server's answer; False: the session is lost, and another has to be opened."""
        session = self._channel.session
        assert session is not None
        was_new = session.state == SessionState.OPENING
        try:
            is_attached = session.answered(answer)
        except SessionViolation:
            self.lose("the server's answer to the session cannot be")
            raise
        if not is_attached:
            if isinstance(answer, Resumed):
                self.lose("the server has received more than the queue's file knows of")
            else:
                self.lose("the server does not know the session any more")
        elif was_new:
            self._queue.save_session(self._server, session.ticket)
        self.is_resumed = is_attached and not was_new
        if is_attached:  # the gateway's log names it in the same way
            how = "resumed" if self.is_resumed else "opened"
            logger.info("session {} is {}", session.id.hex()[:8], how)
        return is_attached

    def _check_sizes(self) -> None:
        """See that the peer takes what is queued; what is sent from now on is checked before."""
        session = self._channel.session
        assert session is not None
        assert session.peer_limits is not None
        limit = session.peer_limits.message_size
        size = max(map(_size, self._queue.snapshot()), default=0)
        if size > limit:
            raise MessageTooBigError(
                f"a message of {size} bytes is queued, and the server takes {limit}",
                size=size,
                limit=limit,
            )

    def detach(self) -> None:
        """The link is gone."""
        self.is_resumed = False
        session = self._channel.session
        if session is None:
            return
        if session.violation is not None:
            self.lose("the peer broke the session's protocol")
        elif session.ended_by_peer is not None:
            self.lose("the server ended the session")
        else:
            session.detach()
            if session.state == SessionState.NEW:
                self._channel.carry(None)

    def end(self) -> bytes | None:
        """The frame that ends the session for good; None: there is none, or it is needed still."""
        frame = self._channel.end()
        if frame is not None:
            self._queue.forget_session()
        return frame

    def lose(self, reason: str) -> None:
        """Give the session up, if there is one, and remember what has to be told."""
        session = self._channel.session
        if session is None or session.state in (SessionState.NEW, SessionState.ENDED):
            self._channel.carry(None)
            return
        loss = self._channel.lose(reason)
        self._remember(loss)
        # Nobody waits for the answers of a lost session, nor could they come.
        requests = [item for item in self._queue.snapshot() if isinstance(item, Parcel)]
        if requests:
            with contextlib.suppress(InvalidStateError):  # of a queue that is closed they stay
                self._queue.discard(requests)
        self._queue.forget_session()

    def _remember(self, loss: Loss) -> None:
        unacknowledged = [item for item in loss.unacknowledged if not isinstance(item, Parcel)]
        if self._loss is not None:  # a second one before the first could be told
            unacknowledged = [*self._loss.unacknowledged, *unacknowledged]
        count = len(unacknowledged)
        text = f"{loss.reason}; {count} message{'' if count == 1 else 's'} unacknowledged"
        self._loss = SessionLostError(text, unacknowledged=unacknowledged)

    def pop_loss(self) -> SessionLostError | None:
        """What was lost since it was asked last."""
        loss, self._loss = self._loss, None
        return loss


def _keep(config: TunnelConfig) -> tuple[int, int]:
    return config.max_unacknowledged, config.max_unacknowledged_bytes


def _limits(config: TunnelConfig) -> Limits:
    """What the receiving side will hold: together what `receive_high_water` allows."""
    room = config.receive_high_water // 2
    return Limits(max(1, room // _MESSAGE_COST), max(1, room), config.max_message_size)


def _size(item: Message) -> int:
    """Bytes of the payload."""
    return len(item.encode()) if isinstance(item, str) and not item.isascii() else len(item)
