"""The application goes first on each link (log in, subscribe again), and then the queue."""

from __future__ import annotations

import threading
from collections.abc import Callable

from loguru import logger

from tunnel.callback_lane import CallbackLane
from tunnel.link import Link


class Greeter:
    """Has the application greet, once on each link. For the tunnel's thread, but for `current`.

    Args:
        lane: Where the call waits for the thread.
        on_connected: Called on each new link with whether a session was resumed; None: the
            application has nothing to say.
        on_greeted: Called with the link when it has gone first, by the thread that was in
            `on_connected`.

    Attributes:
        link: On which the application goes, or went, first; None: there is none.
        has_greeted: Whether it has.
    """

    __slots__ = ("_inside", "_lane", "_on_connected", "_on_greeted", "has_greeted", "link")

    def __init__(
        self,
        lane: CallbackLane,
        on_connected: Callable[[bool], object] | None,
        on_greeted: Callable[[Link], None],
    ) -> None:
        self._lane = lane
        self._on_connected = on_connected
        self._on_greeted = on_greeted
        self._inside: tuple[int, Link] | None = None  # the thread that is in `on_connected`
        self.link: Link | None = None
        self.has_greeted = False

    def begin(self, link: Link, is_resumed: bool) -> bool:
        """There is a link.

        Args:
            link: It.
            is_resumed: What to tell the application.

        Returns:
            Whether the queue has to wait until the application has greeted.
        """
        self.link = link
        on_connected = self._on_connected
        if on_connected is None:  # then the queue need not wait for another callback that is slow
            return False

        def greet() -> None:
            self._inside = threading.get_ident(), link
            try:
                on_connected(is_resumed)
            except Exception:
                logger.exception("on_connected raised; the queue is flushed all the same")
            finally:
                self._inside = None
            if link is self.link:  # else it may be that nobody is there who could hear of it
                self._on_greeted(link)

        self._lane.add(greet)
        return True

    def forget(self) -> None:
        """There is no link any more."""
        self.link, self.has_greeted = None, False

    @property
    def current(self) -> Link | None:
        """The link for which the calling thread is in `on_connected`; None: it is not."""
        inside = self._inside
        if inside is None:
            return None
        thread, link = inside
        return link if thread == threading.get_ident() else None
