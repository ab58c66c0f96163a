"""A session's messages and requests to its handlers, and what may be acknowledged of them.

Messages are handled one at a time, in order; requests begin in order and then run at once. A
message is finished with when its handler has returned, a request when it was begun. What is
acknowledged is always a beginning of what arrived, so what was finished early waits for what is
before it.

While enough waits to be sent to the client, nothing more is handled. It is not acknowledged then
either, and the client, whose window is full, sends no more: so a client that does not read stops
itself, and what is held for it stays bounded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from loguru import logger

from tunnel.gateway.answering import Requests
from tunnel.gateway.handlers import GatewaySession, MessageHandling
from tunnel.gateway.outbox import Outbox
from tunnel.gateway.pool import Pool
from tunnel.session import Item
from tunnel.session_frames import FrameKind, Parcel

_SLICE = 0.05  # seconds after which a session leaves its thread to others that wait


class Dispatcher:
    """Gives what arrives to the handlers. For the event loop's thread, but for what says otherwise.

    Args:
        handling: Handles messages.
        requests: Answers requests.
        session: Whose they are.
        outbox: Where what the handler returns goes.
        pool: The threads in which messages are handled.
        wake: Called in such a thread when something was handled, or could not go on.
    """

    def __init__(
        self,
        handling: MessageHandling,
        requests: Requests,
        session: GatewaySession,
        outbox: Outbox,
        pool: Pool,
        wake: Callable[[], None],
    ) -> None:
        self._handling = handling
        self._requests = requests
        self._session = session
        self._outbox = outbox
        self._pool = pool
        self._wake = wake
        self._order: deque[bool] = deque()  # of what is not finished with: is it a request?
        self._handled = 0  # messages that are finished with, and still in `_order`
        self._begun = 0  # requests likewise
        self._messages: deque[str | bytes] = deque()  # appended by the loop's thread alone
        self._arrived = 0  # bytes of messages; likewise
        self._lock = threading.Lock()  # guards all below; the loop's thread and one of the pool
        self._left = 0  # bytes of messages that wait no longer
        self._finished = 0  # messages, since the loop's thread looked last
        self._is_running = False

    @property
    def is_idle(self) -> bool:
        """Whether all that arrived was handled."""
        return not self._order and self._requests.is_idle

    @property
    def held(self) -> int:
        """Bytes of messages that wait to be handled, roughly."""
        return self._arrived - self._left

    @property
    def waiting(self) -> int:
        """How much has arrived and is not finished with."""
        return len(self._order)

    def add(self, items: Iterable[Item], max_size: int) -> None:
        """Take what has arrived.

        Args:
            items: In order.
            max_size: Bytes that the client takes in one message.

        Raises:
            SessionViolation: One of them cannot be.
        """
        for item in items:
            if type(item) is not Parcel:
                self._order.append(False)
                self._arrived += len(item)
                self._messages.append(item)
            elif item.kind is FrameKind.REQUEST:
                self._requests.add(item, max_size)
                self._order.append(True)
            else:
                self._requests.cancel(item)

    def pump(self) -> int:
        """Handle what can be handled now, or see to it that it is.

        Returns:
            How much more may be acknowledged.
        """
        if self._handling.is_quick:
            self._handled += self._handle_here()
        else:
            self._handled += self._collect()
        self._begun += self._requests.pump()
        return self._settle()

    def close(self) -> None:
        """Handle nothing more; one handler may still be running."""
        self._requests.close()
        with self._lock:
            self._messages.clear()
            self._left = self._arrived
        self._order.clear()

    def _settle(self) -> int:
        settled = 0
        order = self._order
        while order:
            if order[0]:
                if not self._begun:
                    break
                self._begun -= 1
            else:
                if not self._handled:
                    break
                self._handled -= 1
            order.popleft()
            settled += 1
        return settled

    def _handle_here(self) -> int:
        """Call a handler that takes no time, so that no thread is needed."""
        messages, outbox, handle = self._messages, self._outbox, self._handling.handle
        handled = 0
        while messages and not outbox.is_full:
            message = messages.popleft()
            self._left += len(message)
            reply = handle(self._session, message)
            if reply is not None:
                self._put(reply)
            handled += 1
        return handled

    def _collect(self) -> int:
        """What a thread has finished with; have one go on if it should."""
        with self._lock:
            finished, self._finished = self._finished, 0
            starts = not self._is_running and bool(self._messages) and not self._outbox.is_full
            self._is_running = self._is_running or starts
        if starts:
            self._pool.submit(self._run)
        return finished

    def _run(self) -> None:
        """Handle messages, in a thread of the pool, until there are none or others want it."""
        until = time.monotonic() + _SLICE
        while (message := self._next(until)) is not None:
            self._handle_one(message)
            with self._lock:
                self._finished += 1
            self._wake()
        # Also if nothing was handled: there may be room again since we looked.
        self._wake()

    def _next(self, until: float) -> str | bytes | None:
        is_over = self._pool.waiting > 0 and time.monotonic() >= until
        with self._lock:
            if not self._messages or self._outbox.is_full or is_over:
                self._is_running = False
                return None
            message = self._messages.popleft()
            self._left += len(message)
            return message

    def _handle_one(self, message: str | bytes) -> None:
        try:
            reply = self._handling.handle(self._session, message)
        except Exception:
            logger.exception("the handler failed at a message of session {}", self._session.id[:8])
            return
        if reply is not None:
            self._put(reply)

    def _put(self, reply: object) -> None:
        """Send what the handler has returned, if it can be sent."""
        try:
            self._outbox.put(self._session.checked(reply))
        except Exception as error:
            name = self._session.id[:8]
            logger.error("what the handler returned to session {} cannot be sent: {}", name, error)
