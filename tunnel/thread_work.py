"""The work of a tunnel's thread between two waits, whatever the state: mail, activity, callbacks.

What a callback or a bug raises ends the link, and never the thread or the mail; and a thread that
was superseded while it was in a callback (`tunnel.worker`) leaves what comes of that to the other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from loguru import logger

from tunnel.callback_lane import CallbackLane
from tunnel.clock import Clock
from tunnel.errors import ResourceExhaustedError, TunnelError
from tunnel.log_context import LogContext
from tunnel.requests import CallbackFailed, Greeted, Request
from tunnel.turnstile import take
from tunnel.waker import Waker
from tunnel.worker import Worker


class Activities(Protocol):
    """What there is to do; `tunnel.driver.Driver` says what each means."""

    activity: Callable[[], None] | None

    def obey(self, request: Request) -> None: ...  # noqa: D102
    def tell_of_loss(self) -> None: ...  # noqa: D102
    def fail(self, error: TunnelError) -> None: ...  # noqa: D102
    def rest(self) -> None: ...  # noqa: D102


class ThreadWork:
    """A `tunnel.worker.Work`: the frame around activities. For the tunnel's thread.

    Args:
        activities: What to do.
        lane: Where callbacks wait for the thread.
        clock: On any but the system's there is no thread.
        waker: Ends the waits.
        on_start: Called when the thread begins; see `Worker`.
        log_context: What the thread's log lines carry.

    Attributes:
        worker: The thread, and where to post. For any thread.
    """

    __slots__ = ("_activities", "_lane", "_waker", "worker")

    def __init__(
        self,
        activities: Activities,
        lane: CallbackLane,
        clock: Clock,
        waker: Waker,
        on_start: Callable[[], object],
        log_context: LogContext,
    ) -> None:
        self._activities = activities
        self._lane = lane
        self._waker = waker
        self.worker = Worker(self, clock, waker, on_start, log_context.within)

    def obey(self, request: Request) -> None:
        """See `tunnel.worker.Work`."""
        try:
            self._activities.obey(request)
        except BaseException as error:
            self._survive(error)

    def act(self) -> bool:
        """See `tunnel.worker.Work`."""
        try:
            activities, lane = self._activities, self._lane
            activities.tell_of_loss()
            if not lane.is_ready:
                activity = activities.activity
                if activity is None:
                    return False
                activity()
            if lane.is_ready:
                self.worker.call(lane.run)
                if self.worker.is_superseded:  # whoever reads now can acknowledge, or end a session
                    self._waker.wake()
        except BaseException as error:
            if self.worker.is_superseded:
                self.post_from_lane(CallbackFailed(error))
            else:
                self._survive(error)
        return True

    def rest(self) -> None:
        """See `tunnel.worker.Work`."""
        self._waker.close()
        self._activities.rest()

    def take_turn(self) -> None:
        """Work in turns with other tunnels, until the next wait, callback or link; see `give`."""
        if self.worker.is_threaded:
            take(self._waker.event.is_set)

    def post_from_lane(self, request: Greeted | CallbackFailed) -> None:
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
            self._activities.fail(failure)
        except Exception:  # the state has changed even so, and the thread has to go on
            logger.exception("the tunnel could not give everything back")
        if not self.worker.is_threaded:
            raise error  # whoever drives the tunnel, a test, wants to know
