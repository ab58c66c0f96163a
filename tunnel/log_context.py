"""The ids by which the log lines of one tunnel can be told from those of another.

Each `connect` has a `connection_id`, which all dials and links share until the next `connect`; each
dial has a `dial_id`, which is also that of the link that it makes. On the tunnel's threads they are
put into loguru's context, so that every line has them in its ``extra``, also the lines of the
application's callbacks. What is logged for the tunnel on other threads goes to `LogContext.logger`.

Nothing is done for a message: the context is entered once for a thread, and changed once for a
dial.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from loguru import logger

if TYPE_CHECKING:
    from loguru import Logger


class LogContext:
    """What the log lines of one tunnel carry. Safe to use from any thread."""

    __slots__ = ("_entered", "_ids")

    def __init__(self) -> None:
        self._ids: dict[str, str | None] = {}  # never changed, only replaced
        # By thread, each written by that thread alone: the tunnel's, and those of slow callbacks.
        # With the ids that were entered.
        self._entered: dict[int, tuple[AbstractContextManager[None], object]] = {}

    def name(self, connection_id: str, dial_id: str | None) -> None:
        """Have lines carry these ids from now on: the calling thread's, if it is within.

        Args:
            connection_id: Of what one `connect` has begun.
            dial_id: Of the dial that begins now, and of its link; None before the first.
        """
        self._ids = {"connection_id": connection_id, "dial_id": dial_id}
        self.renew()

    def renew(self) -> None:
        """Have the calling thread, if it is within, carry the present ids.

        For a thread whose callback was slow: another has become the tunnel's, and has dialled.
        """
        thread = threading.get_ident()
        entered = self._entered.get(thread)
        if entered is not None and entered[1] is not self._ids:
            del self._entered[thread]
            entered[0].__exit__(None, None, None)
            self._enter(thread)

    def within(self) -> AbstractContextManager[None]:
        """Have all that the calling thread logs carry the ids; within itself it does nothing."""
        return _Within(self)

    def enter(self) -> int | None:
        """Begin to. Returns the thread, for `leave`; None: it had begun before."""
        thread = threading.get_ident()
        if thread in self._entered:
            return None
        self._enter(thread)
        return thread

    def leave(self, thread: int) -> None:
        """The end of `enter`."""
        self._entered.pop(thread)[0].__exit__(None, None, None)

    @property
    def logger(self) -> Logger:
        """Loguru's logger, whose lines carry the ids. For lines of threads that are not within."""
        return logger.bind(**self._ids)

    def _enter(self, thread: int) -> None:
        ids = self._ids
        context = logger.contextualize(**ids)
        context.__enter__()
        self._entered[thread] = context, ids


class _Within(AbstractContextManager[None]):
    """Smaller than a generator, which would stay on each tunnel's thread for as long as it runs."""

    __slots__ = ("_context", "_thread")

    def __init__(self, context: LogContext) -> None:
        self._context = context
        self._thread: int | None = None

    def __enter__(self) -> None:
        self._thread = self._context.enter()

    def __exit__(self, *exc: object) -> None:
        if self._thread is not None:
            self._context.leave(self._thread)
