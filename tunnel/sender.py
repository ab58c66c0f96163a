"""The way of a message out: past the queue if the link is idle, else through it.

The decision to write directly is made under the write lock (`tunnel.writer`): the link is up,
nothing is queued, nothing is half-written. In every other case the message joins the queue, and
whoever writes takes it from there; so the order within a priority is that of the calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from itertools import islice
from typing import Final, Protocol, TypeAlias

from tunnel.clock import Clock
from tunnel.errors import InvalidStateError, MessageTooBigError, PayloadTypeError, QueueFullError
from tunnel.frames import encode_text
from tunnel.link import Link
from tunnel.outbox import Message
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.session_frames import Parcel
from tunnel.worker import Worker


class Patience(Enum):
    """The `timeout` of a send that was not given one: wait for room while connected, only then."""

    WHILE_CONNECTED = "while connected"


WHILE_CONNECTED: Final = Patience.WHILE_CONNECTED

SendTimeout: TypeAlias = float | Patience | None
"""Seconds to wait for room in a full queue; None: for ever; 0: not at all."""

_CHUNK = 256  # messages of `send_many` that are checked and queued at once
_CALLBACK_BACKLOG = 16 * 2**20  # bytes that callbacks may queue past the bound; they cannot wait
_OVERHEAD = 64  # what a message costs beside its payload, roughly; so empty ones count too


class LinkOwner(Protocol):
    """What a sender needs to know; `tunnel.driver.Driver` says what each means."""

    @property
    def max_message_size(self) -> int: ...  # noqa: D102
    @property
    def link(self) -> Link | None: ...  # noqa: D102
    @property
    def worker(self) -> Worker: ...  # noqa: D102
    @property
    def greeting(self) -> Link | None: ...  # noqa: D102
    @property
    def is_closing(self) -> bool: ...  # noqa: D102


class Sender:
    """Takes messages from any thread.

    Args:
        owner: Knows the link, and which thread is the tunnel's.
        queue: Where messages wait.
        clock: Measures time-outs.
    """

    def __init__(self, owner: LinkOwner, queue: RequestQueue, clock: Clock) -> None:
        self._owner = owner
        self._queue = queue
        self._clock = clock

    def send(
        self,
        data: Message | bytearray | memoryview,
        priority: RequestPriority,
        expires_in: float | None,
        timeout: SendTimeout,
    ) -> None:
        """See `TunnelService.send`."""
        message = self._checked(data, is_encoded_now=False)
        if (
            expires_in is not None
            or timeout is not WHILE_CONNECTED
            or type(priority) is not RequestPriority
        ):
            _check_terms(priority, expires_in, timeout)
        self._send(message, priority, expires_in, timeout)

    def send_parcel(self, parcel: Parcel, priority: RequestPriority, timeout: float | None) -> None:
        """Send a request, or its cancellation, as `send` sends messages.

        Args:
            parcel: What to send.
            priority: Which of the queued goes first.
            timeout: Seconds to wait for room; 0: never wait.

        Raises:
            QueueFullError: There was no room in time.
            MessageTooBigError: It is longer than the peer takes.
        """
        self._check_size(len(parcel))
        self._send(parcel, priority, None, timeout)

    def _send(
        self,
        message: Message,
        priority: RequestPriority,
        expires_in: float | None,
        timeout: SendTimeout,
    ) -> None:
        owner = self._owner
        link = owner.link
        try:
            # Before the greeting has ended the writer refuses: it is not open.
            if (
                link is not None
                and self._queue.due_sender is not self
                and link.writer.write_directly(message, priority, expires_in)
            ):
                if link.writer.is_stalled:
                    may_wait = timeout != 0 and not owner.worker.is_own_thread
                    self._write(may_wait=may_wait, deadline=self._deadline(timeout))
                return
            _check_encodable(message)
            if not owner.worker.is_own_thread:
                is_accepted, is_ours_to_write = self._queue.put(message, priority, expires_in, self)
                if not is_accepted:
                    self._queue_all([message], priority, expires_in, timeout)
                elif is_ours_to_write:
                    self._write(may_wait=timeout != 0, deadline=self._deadline(timeout))
            elif (greeting := owner.greeting) is not None:
                greeting.send_first(message)
                self._write(may_wait=False)  # others may have relied on us a moment ago
            else:
                self._queue_in_callback(message, priority, expires_in)
        except BaseException:  # Ctrl-C, perhaps, when others have relied on this thread to write
            self._write(may_wait=False)
            raise

    def send_many(
        self,
        messages: Iterable[Message | bytearray | memoryview],
        priority: RequestPriority,
        expires_in: float | None,
        timeout: SendTimeout,
    ) -> int:
        """See `TunnelService.send_many`."""
        if isinstance(messages, (str, bytes, bytearray, memoryview)):
            raise PayloadTypeError(f"send_many takes several messages, not one {_kind(messages)}")
        _check_terms(priority, expires_in, timeout)
        accepted = 0
        iterator = iter(messages)
        while chunk := [self._checked(data) for data in islice(iterator, _CHUNK)]:
            if self._owner.worker.is_own_thread:
                accepted = self._send_in_callback(chunk, priority, expires_in, accepted)
                continue
            try:
                accepted = self._queue_all(chunk, priority, expires_in, timeout, accepted)
            except BaseException:  # Ctrl-C, perhaps: what is queued by now has to be written
                self._write(may_wait=False)
                raise
        return accepted

    def _checked(self, data: object, *, is_encoded_now: bool = True) -> Message:
        """The message to send, unchangeable, if it may be sent.

        To encode a long text takes long. Who does so in any case, for the wire, need not do it here
        for a text that is short enough whatever is in it.
        """
        message: Message
        if type(data) is bytes or isinstance(data, str):
            message = data
        elif isinstance(data, (bytes, bytearray, memoryview)):
            message = bytes(data)
        else:
            raise PayloadTypeError(f"a message is str or bytes-like, not {_kind(data)}")
        owner = self._owner
        limit = owner.max_message_size
        if type(message) is bytes:
            size = len(message)
        elif not is_encoded_now and 4 * len(message) <= limit:
            size = 0
        else:
            size = _size(message)
        if size > limit:
            self._check_size(size)
        if owner.is_closing and not (owner.worker.is_own_thread and owner.greeting):
            raise InvalidStateError("the tunnel is closing and takes no more messages")
        return message

    def check(self, item: object) -> None:
        """See that what somebody else puts into the queue can be sent.

        Raises:
            PayloadTypeError, MessageTooBigError, ValueError: It cannot; see `TunnelService.send`.
        """
        if not isinstance(item, (str, bytes)):
            raise PayloadTypeError(f"a tunnel's queue holds str and bytes, not {_kind(item)}")
        self._check_size(_size(item))

    def _check_size(self, size: int) -> None:
        limit = self._owner.max_message_size
        if size > limit:
            raise MessageTooBigError(
                f"the message has {size} bytes, and max_message_size is {limit}",
                size=size,
                limit=limit,
            )

    def _queue_all(
        self,
        messages: list[Message],
        priority: RequestPriority,
        expires_in: float | None,
        timeout: SendTimeout,
        accepted: int = 0,
    ) -> int:
        """Queue the messages as room permits, and see to it that somebody writes them."""
        deadline = self._deadline(timeout)
        while True:
            number = self._queue.enqueue_many(messages, priority, expires_in, is_checked=True)
            accepted += number
            messages = messages[number:]
            self._write(may_wait=timeout != 0, deadline=deadline)
            if not messages:
                return accepted
            if not number and not self._wait_for_room(timeout, deadline):
                raise self._queue.refusal(messages, priority, accepted=accepted)

    def _send_in_callback(
        self,
        messages: list[Message],
        priority: RequestPriority,
        expires_in: float | None,
        accepted: int,
    ) -> int:
        """Send one after the other, on the tunnel's thread; see `_queue_all` for `accepted`."""
        for number, message in enumerate(messages):
            try:
                self.send(message, priority, expires_in, 0)
            except QueueFullError as error:
                refused = messages[number:]
                raise self._queue.refusal(refused, priority, accepted=accepted) from error
            accepted += 1
        return accepted

    def _write(self, *, may_wait: bool, deadline: float | None = None) -> None:
        link = self._owner.link
        if link is not None and not link.writer.is_helping:
            remaining = None if deadline is None else deadline - self._clock.monotonic()
            may_wait = may_wait and (remaining is None or remaining > 0)
            link.writer.flush(may_wait=may_wait, timeout=remaining)

    def _deadline(self, timeout: SendTimeout) -> float | None:
        if isinstance(timeout, (int, float)):
            return self._clock.monotonic() + timeout
        return None

    def _wait_for_room(self, timeout: SendTimeout, deadline: float | None) -> bool:
        """Wait for room as long as the terms allow; True: try again."""
        if self._owner.is_closing:
            raise InvalidStateError("the tunnel is closing and takes no more messages")
        if timeout is WHILE_CONNECTED:
            is_room = self._queue.wait_to_send(self, None, unless=self._is_without_link)
            self._write(may_wait=False)  # before subscribers are called: others rely on it
            return is_room
        remaining = None if deadline is None else deadline - self._clock.monotonic()
        if remaining is not None and remaining <= 0:
            return False
        # Interrupted when the link is lost, the wait begins anew: a timeout counts across losses.
        self._queue.wait_to_send(self, remaining)
        self._write(may_wait=False)
        return True

    def _is_without_link(self) -> bool:
        return self._owner.link is None

    def _queue_in_callback(
        self, message: Message, priority: RequestPriority, expires_in: float | None
    ) -> None:
        """Queue without waiting, on the tunnel's thread.

        While connected, past the bound if need be: the thread that could make room is this one. Up
        to a limit in bytes; beyond that the peer does not read, and something has to give.
        """
        if not self._queue.enqueue_many([message], priority, expires_in, is_checked=True):
            backlog = self._queue.waiting_bytes + _OVERHEAD * self._queue.waiting
            if self._owner.link is None or backlog + len(message) > _CALLBACK_BACKLOG:
                raise self._queue.refusal([message], priority)
            self._queue.enqueue_beyond(message, priority, expires_in, is_checked=True)
        self._write(may_wait=False)


def _check_terms(priority: RequestPriority, expires_in: float | None, timeout: SendTimeout) -> None:
    if not isinstance(priority, RequestPriority):
        raise TypeError(f"priority must be a RequestPriority, not {priority!r}")
    if expires_in is not None and not expires_in > 0:
        raise ValueError(f"expires_in must be more than 0 seconds, not {expires_in!r}")
    if timeout is not None and not isinstance(timeout, Patience) and not timeout >= 0:
        raise ValueError(f"timeout must be at least 0 seconds, not {timeout!r}")


def _check_encodable(message: Message) -> None:
    """Refuse at the call what could not go out later."""
    if isinstance(message, str) and not message.isascii():
        encode_text(message)


def _size(message: Message) -> int:
    """Bytes of the payload."""
    if isinstance(message, str) and not message.isascii():
        return len(encode_text(message))
    return len(message)


def _kind(data: object) -> str:
    return type(data).__name__
