"""What stands between a client's connection and the handlers: one for each session.

Everything that changes something (bytes that came, a handler that has finished, room to write, a
timer) asks for a turn, and a turn does all there is to do: handle, acknowledge, write, one batch of
each; then the next channel has its turn. So nothing here waits, and no task belongs to a session.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tunnel.gateway.answering import Requests
from tunnel.gateway.connection import GatewayConnection
from tunnel.gateway.dispatch import Dispatcher
from tunnel.gateway.handlers import GatewaySession, MessageHandling, RequestHandling
from tunnel.gateway.outbox import Outbox
from tunnel.gateway.pool import Pool
from tunnel.gateway.settings import GatewaySettings

BATCH_MESSAGES = 512
BATCH_BYTES = 64 * 1024
"""What is written in one turn at most; one message alone may be longer."""


@dataclass(frozen=True)
class Surroundings:
    """What all channels of a gateway share."""

    settings: GatewaySettings
    messages: MessageHandling
    requests: RequestHandling
    message_pool: Pool
    request_pool: Pool


class Channel:
    """What is common to sessions and plain connections. For the event loop's thread.

    Args:
        identity: Of the session.
        user: Whose it is.
        surroundings: Of the gateway.
        on_turn: Called after each turn.

    Attributes:
        link: The connection that carries it; None while there is none.
        user: Whose it is.
        name: Stands for it in logs.
        dispatcher: Knows the handlers.
        outbox: What the handlers have sent.
        answers: What they have answered to requests.
        is_draining: Nothing new is taken from the client.
        is_over: Nothing is sent to it any more.
    """

    link: GatewayConnection | None

    def __init__(
        self,
        identity: bytes,
        user: str,
        surroundings: Surroundings,
        on_turn: Callable[[Channel], None],
    ) -> None:
        settings = surroundings.settings
        self._loop = asyncio.get_running_loop()
        self._on_turn = on_turn
        self._is_due = False  # a turn is coming
        self._is_woken = False  # a thread has asked for one
        self._is_ending = False  # the handler wants no more of it
        self.is_draining = False
        self.is_over = False
        self.link = None
        self.identity = identity
        self.user = user
        self.name = identity.hex()[:8]
        self.outbox = Outbox(
            settings.max_outgoing,
            settings.max_outgoing_bytes,
            threading.get_ident(),
            self.wake_soon,
        )
        session = GatewaySession(
            identity.hex(), user, self.outbox, lambda: self.max_size, self._end_soon
        )
        # Apart, so that answers need not wait until the client has taken what was sent before.
        self.answers = Outbox(
            settings.max_outgoing,
            settings.max_outgoing_bytes,
            threading.get_ident(),
            self.wake_soon,
        )
        requests = Requests(
            surroundings.requests,
            session,
            self.answers,
            surroundings.request_pool,
            settings,
            self.wake,
        )
        self.dispatcher = Dispatcher(
            surroundings.messages,
            requests,
            session,
            self.outbox,
            surroundings.message_pool,
            self.wake_soon,
        )

    @property
    def max_size(self) -> int | None:
        """Bytes that the client takes in one message; None: it has not said."""
        raise NotImplementedError

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way, so that nothing is lost if the gateway stops now."""
        raise NotImplementedError

    def _advance(self) -> None:
        """Handle, acknowledge and write what can be."""
        raise NotImplementedError

    def drain(self) -> None:
        """Take nothing new from the client any more."""
        self.is_draining = True
        self.wake()

    def end(self) -> None:
        """Finish what is under way, then end."""
        self._is_ending = True
        self.drain()

    def wake(self) -> None:
        """Something has changed: have a turn."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def wake_soon(self) -> None:
        """The same, from any thread."""
        if not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):  # the loop is closed: nothing has to be done any more
                self._loop.call_soon_threadsafe(self._wake_from_thread)

    def _wake_from_thread(self) -> None:
        self._is_woken = False
        self.wake()

    def _end_soon(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.end)

    def _turn(self) -> None:
        self._is_due = False
        self._advance()
        self._on_turn(self)

    def finish(self) -> None:
        """Nothing is sent any more; what has arrived is still handled."""
        self.is_over = True
        self.outbox.close()
        self.answers.close()
        self.wake()

    def drop(self) -> None:
        """Nothing is sent and nothing handled any more."""
        self.dispatcher.close()
        self.finish()


class PlainChannel(Channel):
    """A connection without a session: messages come and go at most once."""

    def __init__(
        self,
        identity: bytes,
        link: GatewayConnection,
        surroundings: Surroundings,
        on_turn: Callable[[Channel], None],
    ) -> None:
        super().__init__(identity, link.user, surroundings, on_turn)
        self._settings = surroundings.settings
        self._reader: asyncio.Future[None] | None = None  # waits for room
        self.link = link
        link.on_writable = self.wake

    @property
    def max_size(self) -> int | None:
        """See `Channel.max_size`."""
        return None

    @property
    def is_quiet(self) -> bool:
        """See `Channel.is_quiet`."""
        return self.dispatcher.is_idle and (self.link is None or not self.outbox)

    async def receive(self, message: str | bytes) -> None:
        """Take a message; waits while too many wait to be handled."""
        if self.is_draining or self.is_over:
            return
        self.dispatcher.add((message,), 0)
        self.wake()
        while self._is_full:
            assert self.link is not None
            self.link.is_held = True
            self._reader = self._loop.create_future()
            await self._reader
            self.link.is_held = False

    def lost_link(self) -> None:
        """The connection is gone."""
        self.link = None
        self.finish()

    @property
    def _is_full(self) -> bool:
        dispatcher, settings = self.dispatcher, self._settings
        return (
            dispatcher.waiting >= settings.max_unacknowledged
            or dispatcher.held >= settings.max_unacknowledged_bytes
        )

    def _advance(self) -> None:
        self.dispatcher.pump()
        if self._reader is not None and not self._is_full:
            if not self._reader.done():
                self._reader.set_result(None)
            self._reader = None
        link = self.link
        if link is None or not link.is_writable:
            return
        items = self.outbox.take(BATCH_MESSAGES, BATCH_BYTES, math.inf)
        if items:
            link.write(items)
            self.wake()
        elif self._is_ending and self.dispatcher.is_idle:
            link.start_closing(1000, "")
