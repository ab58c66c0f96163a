"""A session that outlives its links, at the server's end.

The rules are those of `tunnel.session`. What is new to a link goes out in this order: what has to
be replayed, then answers to requests, for which a part of the window is reserved, then what
handlers have sent. Acknowledgements go out when the session says that they are due, and otherwise
`ACKNOWLEDGE_AFTER` seconds after something was finished with.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from loguru import logger

from tunnel.gateway.channel import BATCH_BYTES, BATCH_MESSAGES, Channel, Surroundings
from tunnel.gateway.connection import GatewayConnection
from tunnel.gateway.outbox import Outbox
from tunnel.secrets import Secret
from tunnel.session import Session
from tunnel.session_frames import (
    End,
    FrameKind,
    Limits,
    Open,
    Opened,
    Resume,
    Resumed,
    SessionViolation,
    encode,
)

ACKNOWLEDGE_AFTER = 0.2
"""Seconds; the protocol allows one."""

REPLACED = 4001
"""The close code for a link whose session was resumed on another."""

_RESERVED = 0.25
"""The share of the client's window that only answers may use.

Else a client that asks in the midst of handling messages would wait for an answer that waits until
the messages behind are taken.
"""

_ACCEPTS = (FrameKind.REQUEST, FrameKind.CANCEL)
# What is still obeyed while the gateway stops: nothing that would have to be handled.
_WITHOUT_ITEMS = (FrameKind.ACK, FrameKind.ASK, FrameKind.END)


class ResumableChannel(Channel):
    """A session and the link that carries it now. For the event loop's thread.

    Args:
        identity: Of the session.
        user: Whose it is.
        surroundings: Of the gateway.
        on_turn: Called after each turn.

    Attributes:
        session: The pure core.
    """

    def __init__(
        self,
        identity: bytes,
        user: str,
        surroundings: Surroundings,
        on_turn: Callable[[Channel], None],
    ) -> None:
        super().__init__(identity, user, surroundings, on_turn)
        settings = surroundings.settings
        limits = Limits(
            settings.max_unacknowledged,
            settings.max_unacknowledged_bytes,
            settings.max_message_size,
        )
        self._keep = settings.max_unacknowledged, settings.max_unacknowledged_bytes
        self.session = Session(limits, keep=self._keep, accepts=_ACCEPTS)
        self._kept_for = max(1, int(settings.session_keep))  # 0 would say: not at all
        self._timer: asyncio.TimerHandle | None = None  # for an acknowledgement
        self._pongs = 0

    @property
    def max_size(self) -> int | None:
        """See `Channel.max_size`."""
        limits = self.session.peer_limits
        return None if limits is None else limits.message_size

    @property
    def held(self) -> int:
        """Bytes that are held for the client, roughly."""
        waiting = self.outbox.bytes + self.answers.bytes
        return self.session.unacknowledged_bytes + waiting + self.dispatcher.held

    @property
    def _has_waiting(self) -> bool:
        return bool(self.outbox or self.answers)

    @property
    def is_quiet(self) -> bool:
        """See `Channel.is_quiet`. Without a link it is quiet once everything was handled."""
        if not self.dispatcher.is_idle:
            return False
        session = self.session
        return self.link is None or not (
            self._has_waiting or session.unacknowledged or session.has_untold
        )

    # Links

    def open(self, greeting: Open, token: Secret, link: GatewayConnection) -> None:
        """Begin, on a first link."""
        answer = self.session.open(greeting, self.identity, token, self._kept_for)
        self._attach(link, answer)

    def resume(self, greeting: Resume, link: GatewayConnection) -> None:
        """Go on, on another link; one that is still there is closed.

        Raises:
            SessionViolation: The client claims what cannot be; nothing was changed.
        """
        answer = self.session.resume(greeting)
        old = self.link
        if old is not None:
            old.on_writable = None
            old.start_closing(REPLACED, "the session was resumed on another connection")
        self._attach(link, answer)

    def _attach(self, link: GatewayConnection, answer: Opened | Resumed) -> None:
        self.link = link
        self._pongs = 0
        link.on_writable = self.wake
        link.write([encode(answer)])
        self.wake()

    def detach(self, link: GatewayConnection) -> bool:
        """A link is gone. Returns whether it was the one that carried the session."""
        link.on_writable = None
        if link is not self.link:
            return False
        self.link = None
        self.session.detach()
        self.wake()
        return True

    def end_by_client(self) -> None:
        """The client will not come back. What has arrived is still handled."""
        self._lose("the client ended it")
        self.finish()

    def lose(self, reason: str) -> None:
        """The session cannot be resumed, and nothing of it is handled any more."""
        self._lose(reason)
        self.drop()

    def _lose(self, reason: str) -> None:
        loss = self.session.lose(reason)
        left = len(loss.unacknowledged) + len(loss.unwritten) + len(self.outbox) + len(self.answers)
        logger.info("session {} is over: {}; {} not delivered", self.name, reason, left)
        if self._timer is not None:
            self._timer.cancel()

    # What comes from the client

    def receive(self, link: GatewayConnection, frame: str | bytes) -> bool:
        """Take one WebSocket message from a link.

        Returns:
            Whether the link still carries the session, and more can come.

        Raises:
            SessionViolation: The client broke the protocol.
        """
        if link is not self.link:
            return False
        if isinstance(frame, str):
            if frame != "ping":
                raise SessionViolation("a text message within a session")
            self._pongs = 1  # one answers all that came meanwhile
            self.wake()
            return True
        if self.is_draining and frame and frame[0] not in _WITHOUT_ITEMS:
            return True
        session = self.session
        items = session.receive((frame,))
        if items:
            self.dispatcher.add(items, self.max_size or 0)
        if session.violation is not None:
            raise session.violation
        self.wake()
        return session.ended_by_peer is None

    # A turn

    def _advance(self) -> None:
        settled = self.dispatcher.pump()
        if self.is_over:
            return
        self.session.take(settled)
        link = self.link
        if link is None or not link.is_writable:
            return
        if self._pongs:
            self._pongs = 0
            link.write(["pong"])
        if self._write(link):
            if self._is_unfinished:
                self.wake()
        elif self._is_ending and self.dispatcher.is_idle and not self._has_waiting:
            link.write([encode(End("the gateway's handler ended the session"))])
            link.start_closing(1000, "")
            self.lose("the handler ended it")

    @property
    def _is_unfinished(self) -> bool:
        """Whether there may be more to do, without anybody who asks for another turn.

        What a write has made room for may be written, or handled; or it was the last.
        """
        if self._has_waiting or self.session.has_replay:
            return True
        return self._is_ending or not self.dispatcher.is_idle

    def _write(self, link: GatewayConnection) -> bool:
        """Write a batch. Returns whether there was something to write."""
        session = self.session
        frames: list[bytes] = []
        is_late = self.is_draining and session.has_untold
        if session.is_acknowledgement_due or is_late:
            frames.append(session.acknowledgement())
        elif session.has_untold and self._timer is None:
            self._timer = self._loop.call_later(ACKNOWLEDGE_AFTER, self._acknowledge)
        if session.has_replay:
            numbered = session.replay(BATCH_MESSAGES, BATCH_BYTES)
        elif self._has_waiting:
            numbered = self._number(self.answers, 0.0)
            numbered += self._number(self.outbox, _RESERVED)
            if not numbered and session.may_ask:
                frames.append(session.ask())
        else:
            numbered = []
        frames += numbered
        if not frames:
            return False
        link.write(frames)
        session.confirm(len(numbered))
        return True

    def _number(self, outbox: Outbox, reserved: float) -> list[bytes]:
        """Number a batch, for which there is room beside the share of it that is reserved."""
        if not outbox:
            return []
        session = self.session
        messages, room = session.room()
        peer = session.peer_limits
        assert peer is not None
        messages -= int(reserved * min(self._keep[0], peer.messages))
        room -= int(reserved * min(self._keep[1], peer.bytes))
        if messages <= 0 or room < 0:
            return []
        first = room if session.unacknowledged else math.inf
        return session.send(
            outbox.take(min(messages, BATCH_MESSAGES), min(room, BATCH_BYTES), first)
        )

    def _acknowledge(self) -> None:
        """Some time ago something was finished with."""
        self._timer = None
        link = self.link
        if self.session.has_untold and link is not None and link.is_writable and not self.is_over:
            link.write([self.session.acknowledgement()])
            self.wake()
