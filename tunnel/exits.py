"""The end of the program, while tunnels live that nobody has disconnected.

Python's own order at the end: it waits for threads that are no daemons, then runs what was
registered with `atexit`, last come first served, and then freezes all daemons wherever they are. A
tunnel's threads are daemons, so that a forgotten one keeps no program alive; and by then they must
be gone, for one that is frozen in the midst of a line on standard error aborts the interpreter.

So at the end all tunnels are disconnected, together and in `PATIENCE` seconds: what is queued goes
out as far as that is possible. What does not is on disk, if the queue is durable, and is lost with
the process otherwise; how much that is, is logged. The application's own `atexit` handlers run
before that and find their tunnels as they were, if they were registered after the import of this
package.
"""

from __future__ import annotations

import atexit
import weakref
from contextlib import suppress
from typing import Protocol

from loguru import logger

from tunnel.clock import SYSTEM_CLOCK
from tunnel.errors import TunnelError
from tunnel.forks import is_inherited
from tunnel.requests import Close
from tunnel.worker import Worker

PATIENCE = 2.0
"""Seconds that all tunnels together get at the end of the program."""


class Leaver(Protocol):
    """What is disconnected at the end of the program."""

    @property
    def worker(self) -> Worker:
        """Its thread."""
        ...

    def post_close(self, request: Close) -> None:
        """Ask for the end. Must not wait."""
        ...

    def left_unreported(self) -> str:
        """What has not gone out, and nobody was told; nothing, if that is so."""
        ...


_leavers: weakref.WeakSet[Leaver] = weakref.WeakSet()


def disconnect_at_exit(leaver: Leaver) -> None:
    """Have something disconnected at the end of the program, if it still lives then. Any thread."""
    _leavers.add(leaver)


def disconnect_all() -> None:
    """Disconnect everything that is connected, or working on it. Does not raise."""
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE
    leavers = [each for each in _leavers if not is_inherited(each) and each.worker.is_threaded]
    workers = []
    for leaver in leavers:
        if not leaver.worker.is_running:
            continue
        try:
            leaver.post_close(Close(True, deadline))
        except TunnelError:  # it has just ended by itself, and no thread can be started any more
            continue
        workers.append(leaver.worker)
    for worker in workers:
        worker.join(max(0.0, deadline - SYSTEM_CLOCK.monotonic()))
    for leaver in leavers:
        _tell_what_is_left(leaver)


def _tell_what_is_left(leaver: Leaver) -> None:
    with suppress(Exception):  # a closed standard error, perhaps: it is too late to complain
        left = leaver.left_unreported()
        if left:
            logger.warning("the program ends; messages of {!r} are left: {}", leaver, left)


atexit.register(disconnect_all)
