"""Running a tunnel in the test's own thread."""

from __future__ import annotations

from collections.abc import Callable

from tunnel.heartbeat_websocket import HeartbeatWebSocket
from tunnel.service import TunnelService


def drive(
    service: TunnelService | HeartbeatWebSocket,
    until: Callable[[], bool] | None = None,
    *,
    timeout: float | None = None,
) -> bool:
    """Run a tunnel that is on a fake clock until a condition holds.

    The condition is looked at between steps. A step is short, but for one: a recovery, with all its
    waits and dials, is a single step. To look at, or do something at a certain time within it, use
    `FakeClock.call_at`.

    Args:
        service: The tunnel, made with ``clock=FakeClock()``.
        until: Says whether to stop; None: only the time-out does.
        timeout: Seconds of virtual time to run at most.

    Returns:
        Whether the condition holds; False: the time was up.

    Raises:
        ValueError: Neither a condition nor a time-out was given, or the tunnel has a thread.
        RuntimeError: Without a time-out nothing would ever happen any more.
    """
    if until is None and timeout is None:
        raise ValueError("drive needs a condition, a time-out, or both")
    worker = service.worker
    if worker.is_threaded:
        raise ValueError("this tunnel has a thread of its own: make it with clock=FakeClock()")
    return worker.drive(until or (lambda: False), timeout)
