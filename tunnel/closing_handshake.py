"""How one link ends: the close frames, and the verdict that stands when they are out.

Theory of operation
-------------------

Whoever begins, both ends send a close frame, and then the server closes the connection (RFC 6455,
section 7.1.1). So a link whose end is decided, by the peer's close frame, its mistake, or the end
of its session, *lingers* for a moment, in which the peer can take our close frame and hang up
first. What happens to the connection from then on does not change the verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tunnel.clock import Clock
from tunnel.config import TunnelConfig
from tunnel.errors import (
    ConnectionLostError,
    MessageTooBigError,
    ProtocolError,
    TunnelError,
    error_for_close,
)
from tunnel.frames import Close, FrameEncoder, ProtocolViolation

_LINGER = 1.0  # seconds that the peer gets to close the connection once we have nothing more to say


class LinkEnd(NamedTuple):
    """Why a link has ended.

    Attributes:
        error: What went wrong; None if we closed it ourselves and the peer agreed.
        clean: Both close frames were exchanged (RFC 6455, section 7.1.4).
    """

    error: TunnelError | None
    clean: bool


class ClosingHandshake:
    """The closing handshake of one link, and its verdict. For the tunnel's thread.

    Args:
        encoder: Makes our close frame.
        write: Takes its bytes. Must not wait.
        config: Which close codes are fatal, and the limit that a message was too big for.
        clock: Measures the lingering.

    Attributes:
        end: Why the link ends, once that is decided; None before.
    """

    __slots__ = (
        "_clock",
        "_encoder",
        "_fatal_close_codes",
        "_is_begun",
        "_linger_until",
        "_max_message_size",
        "_write",
        "end",
    )

    def __init__(
        self,
        encoder: FrameEncoder,
        write: Callable[[bytes], object],
        config: TunnelConfig,
        clock: Clock,
    ) -> None:
        self._encoder = encoder
        self._write = write
        self._fatal_close_codes = config.fatal_close_codes
        self._max_message_size = config.max_message_size
        self._clock = clock
        self._is_begun = False  # our close frame is out
        self._linger_until = 0.0
        self.end: LinkEnd | None = None

    def begin(self, code: int | None, reason: str = "") -> None:
        """Send our close frame, if that was not done (RFC 6455, section 7.1.2).

        Args:
            code: What it says; None: nothing.
            reason: The same for people.
        """
        if not self._is_begun:
            self._is_begun = True
            self._write(self._encoder.close(code, reason))

    def answer(self, frame: Close) -> None:
        """Answer the peer's close frame with its code (RFC 6455, section 5.5.1)."""
        if self.end is not None:
            return  # the answer to ours, which has said what was wrong
        if self._is_begun:
            error = None
        else:
            error = error_for_close(frame.code, frame.reason, self._fatal_close_codes)
            self.begin(None if frame.code == 1005 else frame.code)
        self.decide(LinkEnd(error, clean=True))

    def fail(self, violation: ProtocolViolation) -> None:
        """Fail the connection (RFC 6455, section 7.1.7)."""
        message = f"the peer broke the protocol: {violation.reason}"
        error: TunnelError
        if violation.close_code == 1009:
            error = MessageTooBigError(message, limit=self._max_message_size)
        else:
            error = ProtocolError(message, close_code=violation.close_code)
        self.begin(violation.close_code, violation.reason)
        self.decide(LinkEnd(error, clean=False))

    def decide(self, end: LinkEnd) -> None:
        """This is why the link ends; the peer gets time to close the connection first."""
        self.end = end
        self._linger_until = self._clock.monotonic() + _LINGER

    def earlier(self, deadline: float | None) -> float | None:
        """The deadline, on the clock's `monotonic()`, or the end of the lingering before that."""
        if self.end is None:
            return deadline
        return self._linger_until if deadline is None else min(deadline, self._linger_until)

    def is_time_up(self, deadline: float | None) -> bool:
        """Whether the deadline has passed, or the lingering is over."""
        if self.end is not None:
            deadline = self.earlier(deadline)
        return deadline is not None and self._clock.monotonic() >= deadline

    @property
    def outcome(self) -> LinkEnd | None:
        """The verdict, once the lingering is over; None before."""
        if self.end is not None and self._clock.monotonic() >= self._linger_until:
            return self.end
        return None

    def broken(self, cause: Exception | None) -> LinkEnd:
        """Why the link ends whose stream has ended.

        Args:
            cause: The failed read or write; None: the peer has hung up.
        """
        if self.end is not None:
            return self.end
        if cause is None:
            return LinkEnd(error_for_close(1006), clean=False)
        lost = TunnelError.from_exception(cause)
        if not isinstance(lost, ConnectionLostError):
            lost = ConnectionLostError(f"the connection broke: {lost.message}")
            lost.__cause__ = cause
        return LinkEnd(lost, clean=False)
