"""Time and waiting, as one seam that tests replace.

Everything in this package that asks what time it is, or waits, asks a `Clock`. The system's is
`SYSTEM_CLOCK`; `tunnel.testing.FakeClock` is the one for tests, where waiting moves virtual time on
and nobody really waits.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What a tunnel needs to know about time. Implementations are safe to call from any thread."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes backwards; only differences mean something."""
        ...

    def time(self) -> float:
        """Seconds since the Unix epoch, for timestamps that people and other processes read."""
        ...

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Wait until `event` is set, `timeout` seconds at most (None: for ever).

        Returns:
            True if the event is set, False if the time was up first.
        """
        ...


class SystemClock:
    """The clock of the operating system.

    The functions of `time` are looked up at each call, so that a test which freezes them is obeyed.
    """

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def time(self) -> float:
        """See `Clock.time`."""
        return time.time()

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """See `Clock.wait`. Waits in real time, whatever is frozen."""
        return event.wait(timeout)


SYSTEM_CLOCK = SystemClock()
"""The one instance; a tunnel on any other clock starts no thread (see `tunnel.testing`)."""
