"""The first words on a link of a peer that can resume: a greeting, and its answer.

They are exchanged while the dial is still under way, under its deadline, so a link that is up has a
session, and what fails here is a dial that failed. What arrives behind the answer, in the same
bytes, is for the link.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable

from tunnel.clock import Clock
from tunnel.config import TunnelConfig
from tunnel.dial import DialInterrupted
from tunnel.errors import (
    ConnectionLostError,
    ConnectTimeoutError,
    MessageTooBigError,
    ProtocolError,
    error_for_close,
)
from tunnel.frames import Close, FrameDecoder, FrameEncoder, Incoming, Ping
from tunnel.session_frames import (
    Answer,
    End,
    FrameKind,
    Greeting,
    SessionViolation,
    encode,
    max_frame_size,
    read_answer,
)
from tunnel.transport import Transport

_READ_SIZE = 64 * 1024
_OF_A_SESSION = {bytes([kind]) for kind in FrameKind if kind <= FrameKind.ASK}


class SessionHandshake:
    """Asks, and waits for the answer. For the tunnel's thread.

    Args:
        transport: Opened.
        clock: Measures the deadline.
        deadline: When the answer must be there, on the clock's `monotonic()`.
        interrupted: Asked after each wake-up: has the dial lost its purpose?
        config: The longest message, without what a session adds to it; and what a close code means.

    Attributes:
        decoder: Has read the answer, and goes on with the link.
        backlog: What arrived behind it, oldest first.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        deadline: float,
        interrupted: Callable[[], bool],
        config: TunnelConfig,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._deadline = deadline
        self._interrupted = interrupted
        self._fatal_close_codes = config.fatal_close_codes
        self._max_message_size = config.max_message_size
        self._encoder = FrameEncoder()
        self._unsent = b""
        self._has_left = False
        self._pong = b""  # the answer to the latest ping, which is enough (RFC 6455, 5.5.3)
        self.decoder = FrameDecoder(
            max_message_size=max_frame_size(config.max_message_size),
            max_fragments=config.max_fragments,
        )
        self.backlog: deque[Incoming] = deque()

    def ask(self, greeting: Greeting) -> Answer:
        """Send a greeting, and return the answer.

        Raises:
            DialInterrupted: The dial was called off.
            ConnectTimeoutError: The answer did not come in time.
            ConnectionLostError: The connection ended before it.
            ProtocolError: It was none, or too long (`MessageTooBigError`).
            TunnelError: The peer closed the connection; see `error_for_close`.
            OSError: The connection broke.
        """
        self._unsent += self._encoder.message(encode(greeting))
        while True:
            answer = self._read_backlog()
            if answer is not None:
                self._complete_pongs()
                return answer
            self._exchange()

    def leave(self) -> None:
        """Give up the session that the server has just resumed; another greeting may follow.

        What the server sends of that session meanwhile is skipped.
        """
        self._unsent += self._encoder.message(encode(End("")))
        self._has_left = True

    def _read_backlog(self) -> Answer | None:
        while self.backlog:
            item = self.backlog.popleft()
            if isinstance(item, bytes):
                if self._has_left and item[:1] in _OF_A_SESSION:
                    continue
                try:
                    return read_answer(item)
                except SessionViolation as violation:
                    raise self.refused(1002, str(violation)) from None
            if isinstance(item, str):
                raise self.refused(1002, "a text message within a session")
            if isinstance(item, Close):
                self._close(None if item.code == 1005 else item.code)
                raise error_for_close(item.code, item.reason, self._fatal_close_codes)
            if isinstance(item, Ping):
                self._pong = self._encoder.pong(item.payload)
        if self.decoder.violation is not None:
            raise self.refused(self.decoder.violation.close_code, self.decoder.violation.reason)
        return None

    def _exchange(self) -> None:
        """Write what there is to write, and read something; wait if nothing can be done."""
        remaining = self._remaining()
        self._write()
        chunk = self._transport.receive(_READ_SIZE)
        if chunk:
            self.backlog.extend(self.decoder.feed(chunk))
        elif chunk is not None:
            raise ConnectionLostError("the connection ended while a session was being opened")
        else:
            self._transport.wait(read=True, write=bool(self._unsent), timeout=remaining)

    def _complete_pongs(self) -> None:
        """Write what is left: the link must not begin behind a part of a frame."""
        while self._unsent or self._pong:
            remaining = self._remaining()
            self._write()
            if self._unsent:
                self._transport.wait(read=False, write=True, timeout=remaining)

    def _write(self) -> None:
        if not self._unsent:
            self._unsent, self._pong = self._pong, b""
        if self._unsent:
            self._unsent = self._unsent[self._transport.send(self._unsent) :]

    def _remaining(self) -> float:
        """Seconds up to the deadline. Raises if there are none, or the dial was called off."""
        self._check()
        remaining = self._deadline - self._clock.monotonic()
        if remaining <= 0:  # also of a peer that never stops talking about something else
            raise ConnectTimeoutError("the peer did not open a session in time")
        return remaining

    def _check(self) -> None:
        waker = self._transport.waker
        if waker.event.is_set():
            waker.clear()
            if self._interrupted():
                raise DialInterrupted("the dial was called off")

    def refused(self, code: int, reason: str) -> ProtocolError:
        """Fail the connection (RFC 6455, section 7.1.7), and make the error that says so."""
        self._close(code, reason)
        message = f"the peer broke the protocol: {reason}"
        if code == 1009:
            return MessageTooBigError(message, limit=self._max_message_size)
        return ProtocolError(message, close_code=code)

    def _close(self, code: int | None, reason: str = "") -> None:
        """Send a close frame if it can be done at once; the connection is over either way."""
        if not self._unsent:
            with contextlib.suppress(OSError):
                self._transport.send(self._encoder.close(code, reason))
