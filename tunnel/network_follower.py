"""What one tunnel makes of the network's changes: it looks, decides, and tells its driver.

A network that is back often needs a moment: an IPv6 address is tentative for a second, the first
packet waits for ARP, a link that is in doubt gets two seconds for a sign of life. An attempt in
that moment may fail, and the backoff before the next one may be a minute. So a change is followed
by *reminders*: a recovery that waits makes its next attempt then; nothing else is disturbed, not
even a dial that is under way. A link that comes up ends them. Together they keep requirement 1.8,
"connected within 5 s".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from tunnel.clock import Clock
from tunnel.errors import ResourceExhaustedError
from tunnel.log_context import LogContext
from tunnel.network_outlook import NetworkOutlook, Verdict
from tunnel.network_routes import RouteTable
from tunnel.network_watch import NetworkWatch
from tunnel.requests import NetworkChange
from tunnel.timers import TimerHandle, timers_of

_REMINDERS = (1.0, 2.5, 4.0)  # seconds after a change; the second, when a challenge has failed


class ObservedChange(NetworkChange):
    """The machine's network has changed for this tunnel, as seen by the watch.

    What the application says by `NetworkChange` is a wish, and stands above it.

    Attributes:
        message: What has changed, for people.
        is_reminder: It was reported before; whoever waits may try again.
    """

    def __init__(
        self,
        is_connected: bool,
        network_type: str | None,
        message: str = "",
        is_reminder: bool = False,
    ) -> None:
        super().__init__(is_connected, network_type)
        self.message = message
        self.is_reminder = is_reminder


class NetworkFollower:
    """Follows the network for one tunnel. Safe to use from any thread.

    Args:
        post: Takes what is to be told to the tunnel's thread. Called without a lock.
        clock: The source of time.
        watch: Says when to look; None: nothing is watched, and every method does nothing.
        log_context: What its log lines carry; None: nothing.
    """

    def __init__(
        self,
        post: Callable[[ObservedChange], object],
        clock: Clock,
        watch: NetworkWatch | None,
        log_context: LogContext | None = None,
    ) -> None:
        self._log_context = LogContext() if log_context is None else log_context
        self._post = post
        self._clock = clock
        self._watch = watch
        self._lock = threading.Lock()  # guards all below
        self._host: str | None = None
        self._outlook: NetworkOutlook | None = None  # while it follows
        self._reminders: list[TimerHandle] = []

    def follow(self, host: str) -> None:
        """Somebody works on a connection to `host`; no news if it is followed already."""
        if self._watch is None:
            return
        with self._lock:
            if self._outlook is not None and self._host == host:
                return
            outlook = NetworkOutlook(host)
            if not outlook.destinations:  # this machine
                return
            self._cancel_reminders()
            self._host, self._outlook = host, outlook
            outlook.judge(self._watch.table.look_up(outlook.destinations))
        self._watch.add(self)

    def end(self) -> None:
        """Nobody works on a connection any more, nor would if the network came back."""
        if self._watch is None:
            return
        with self._lock:
            self._cancel_reminders()
            self._outlook = None
        self._watch.remove(self)

    def connected(self, transport: object) -> None:
        """There is a link.

        Args:
            transport: Its; the addresses are taken from its `Transport.endpoints`.
        """
        if self._watch is None:
            return
        # A transport that a program brings along may know nothing of addresses.
        local, peer = getattr(transport, "endpoints", None) or (None, None)
        with self._lock:
            if self._outlook is None:
                return
            self._cancel_reminders()
            self._outlook.connected(local, peer)
        self.look(self._watch.table)  # the route may have changed while the dial was under way

    def lost(self) -> None:
        """There is no link any more."""
        with self._lock:
            if self._outlook is not None:
                self._outlook.lost()

    def look(self, table: RouteTable) -> None:
        """See what the network is like now, and tell the tunnel if that matters to it."""
        with self._lock:
            if self._outlook is None:
                return
            verdict = self._outlook.judge(table.look_up(self._outlook.destinations))
            if verdict is Verdict.NOTHING:
                return
            self._cancel_reminders()
            if verdict is not Verdict.GONE:
                self._schedule_reminders()
        self._tell(ObservedChange(verdict is not Verdict.GONE, None, verdict.value))

    def _schedule_reminders(self) -> None:
        """Needs the lock."""
        now, timers = self._clock.monotonic(), timers_of(self._clock)
        reminder = ObservedChange(True, None, is_reminder=True)
        with suppress(ResourceExhaustedError):  # no thread for timers: then there are none
            for delay in _REMINDERS:
                self._reminders.append(timers.call_at(now + delay, lambda: self._tell(reminder)))

    def _cancel_reminders(self) -> None:
        """Needs the lock."""
        for timer in self._reminders:
            timer.cancel()
        self._reminders.clear()

    def _tell(self, change: ObservedChange) -> None:
        try:
            self._post(change)
        except ResourceExhaustedError as error:  # there is no thread to act, and none to be had
            self._log_context.logger.warning("a change of the network was not acted on: {}", error)
