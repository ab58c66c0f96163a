"""The end of a connection that the application wants: drained first, and properly closed.

What is queued goes out, with a peer that can resume until it is acknowledged; then the close frame,
and the peer's answer is waited for. All of that by a deadline.
"""

from __future__ import annotations

from typing import Final

from tunnel.callback_lane import CallbackLane
from tunnel.clock import Clock
from tunnel.closing_handshake import LinkEnd
from tunnel.link import Link
from tunnel.request_queue import RequestQueue
from tunnel.requests import Close
from tunnel.session_channel import SessionChannel
from tunnel.session_keeper import SessionKeeper

HUNG_UP: Final = LinkEnd(None, clean=False)
"""The end without an answer to our close frame, which there was no more time to wait for."""


class Closing:
    """Ends a link as the application has asked. For the tunnel's thread.

    Several may have asked; the strictest terms hold.

    Args:
        queue: What has to go out.
        channel: What has to be acknowledged.
        keeper: Ends the session.
        lane: What callbacks have not had yet.
        clock: Measures the deadline.
    """

    __slots__ = (
        "_channel",
        "_clock",
        "_has_asked",
        "_is_drained",
        "_keeper",
        "_lane",
        "_queue",
        "_requests",
    )

    def __init__(
        self,
        queue: RequestQueue,
        channel: SessionChannel,
        keeper: SessionKeeper,
        lane: CallbackLane,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._channel = channel
        self._keeper = keeper
        self._lane = lane
        self._clock = clock
        self._requests: list[Close] = []  # who waits for the end
        self._has_asked = False  # the peer of a session, to acknowledge before the end
        self._is_drained = False  # and the close frame is out

    def want(self, request: Close) -> None:
        """The application wants the end."""
        self._requests.append(request)

    def begin(self) -> None:
        """There is a link to be closed."""
        self._has_asked = self._is_drained = False

    def run(self, link: Link, has_greeted: bool) -> LinkEnd | None:
        """Make a step.

        Args:
            link: What to close.
            has_greeted: Whether `on_connected` is over; it may be slow, and still say something.

        Returns:
            How the link has ended: clean, or lost while it was closing, or `HUNG_UP`; None if it
            has not.
        """
        if not self._is_drained:
            if self._may_close(link, has_greeted) or self._is_time_to_hang_up():
                link.close(1000)
                self._is_drained = True
                return None
            end = link.run(self._deadline())
            # If the peer was the first to close, it may not have had all: that is a loss.
            return None if end is None else LinkEnd(end.error, clean=False)
        end = None if self._is_time_to_hang_up() else link.run(self._deadline())
        if end is None and self._is_time_to_hang_up():
            return HUNG_UP
        return end

    def finish(self) -> None:
        """Tell whoever waits that this was the end."""
        requests, self._requests = self._requests, []
        for request in requests:
            request.done.set()

    def _deadline(self) -> float:
        return min(request.deadline for request in self._requests)

    def _is_time_to_hang_up(self) -> bool:
        if not all(request.graceful for request in self._requests):
            return True
        return self._clock.monotonic() >= self._deadline()

    def _may_close(self, link: Link, has_greeted: bool) -> bool:
        """Whether all is written; with a session, all acknowledged, and its end told."""
        if not has_greeted:
            return False
        if self._channel.is_ended:  # what is queued now came too late
            return not link.writer.has_work
        if self._queue.size:
            return False
        if self._channel.unacknowledged:
            if not self._has_asked:
                self._has_asked = True
                link.ask()
            return False
        if self._channel.session is not None and not self._lane.is_idle:
            return False  # callbacks have what the peer would count as not delivered
        frame = self._keeper.end()
        if frame is not None:
            link.end_session(frame)
        return not link.writer.has_work
