"""How calls of the application wait for a tunnel: until it is connected, flushed, or closed.

Who waits for a tunnel without a thread does its work meanwhile (`Worker.wait`). Who is interrupted,
by Ctrl-C, leaves nothing behind that nobody wants any more. None of these is for the tunnel's own
thread, unless it says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from tunnel.clock import Clock
from tunnel.driver import Driver
from tunnel.errors import ConnectTimeoutError, TunnelError
from tunnel.interruptible import Event
from tunnel.request_queue import RequestQueue
from tunnel.requests import CancelConnect, Close, Connect, Reconnect
from tunnel.timers import timers_of

_GRACE = 1.0  # seconds beyond a time-out that the tunnel's thread gets to end by itself


def connect(
    driver: Driver, request: Connect, clock: Clock, timeout: float | None, *, wait: bool
) -> None:
    """Ask for a connection, and wait for it. On the tunnel's own thread, it is only asked for.

    Args:
        driver: The tunnel's.
        request: What to ask for.
        clock: Measures the time-out.
        timeout: Seconds to wait; None: as long as it takes.
        wait: Whether to wait.

    Raises:
        InvalidStateError: There is a connection already, or about to be.
        ConnectTimeoutError: The time was up; nobody goes on trying.
        TunnelError: The connection failed for good.
    """
    try:
        driver.post(request)
        if wait and not driver.worker.is_own_thread:
            _await(driver, request, clock, timeout)
    except TunnelError:
        raise
    except BaseException:  # Ctrl-C: it may be posted nevertheless, and nobody wants it any more
        _give_up(driver, request)
        raise


def _await(driver: Driver, request: Connect, clock: Clock, timeout: float | None) -> None:
    outcome, worker = request.outcome, driver.worker
    try:
        with _due(driver, clock, timeout, lambda: _give_up(driver, request)):
            worker.wait(event_of(outcome), timeout)
    finally:
        _give_up(driver, request)  # the time is up; else too late
    if outcome.cancelled():
        worker.join(_GRACE)
        message = f"not connected within {timeout:g} s"
        raise ConnectTimeoutError(message) from driver.last_error
    error = outcome.exception()
    if error is not None:
        worker.join(_GRACE)
        raise error


def _give_up(driver: Driver, request: Connect) -> None:
    if request.outcome.cancel():  # too late if the connection is there, or has failed
        driver.post(CancelConnect(request))


@contextmanager
def _due(
    driver: Driver, clock: Clock, timeout: float | None, callback: Callable[[], None]
) -> Iterator[None]:
    """Call back at the end of a time-out, if the waiting thread itself is to do the work.

    It cannot do it when it has waited, as it can with a thread that works: its wait may be a
    recovery, which is one step.
    """
    if timeout is None or driver.worker.is_threaded:
        yield
        return
    timer = timers_of(clock).call_at(clock.monotonic() + timeout, callback)
    try:
        yield
    finally:
        timer.cancel()


def reconnect(driver: Driver, timeout: float | None) -> bool:
    """Ask for another link, and wait for it. On the tunnel's own thread, it is only asked for.

    Args:
        driver: The tunnel's.
        timeout: Seconds to wait; None: as long as it takes.

    Returns:
        Whether it is there.
    """
    request = Reconnect()
    driver.post(request)
    if driver.worker.is_own_thread:
        return False
    settled = event_of(request.outcome)
    return driver.worker.wait(settled, timeout) and request.outcome.exception() is None


def close(driver: Driver, clock: Clock, graceful: bool, timeout: float) -> None:
    """Ask for the end, and wait for it. On the tunnel's own thread, it is only asked for.

    Args:
        driver: The tunnel's.
        clock: Measures the time-out.
        graceful: Whether to drain the link before, and to wait for callbacks.
        timeout: Seconds for all of that; on a dead link, too.
    """
    worker = driver.worker
    request = Close(graceful, clock.monotonic() + timeout)
    driver.post(request)
    if worker.is_own_thread:
        return
    link = driver.link
    # An observer that blocks would keep the thread from its deadline.
    if not worker.wait(request.done, timeout) and link is not None:
        link.abort()
    worker.join(_GRACE)
    if graceful:
        worker.join_superseded(request.deadline - clock.monotonic())


def flush(driver: Driver, queue: RequestQueue, clock: Clock, timeout: float | None) -> bool:
    """Wait until everything is written; with a resuming peer: acknowledged.

    Args:
        driver: The tunnel's.
        queue: What has to be written.
        clock: Measures the time-out.
        timeout: Seconds to wait; None: as long as it takes.

    Returns:
        Whether it is; False also if a session was lost meanwhile.
    """
    channel = driver.channel
    losses = channel.losses
    if driver.worker.is_threaded:
        is_done = _wait_until_flushed(driver, queue, clock, timeout)
    else:
        is_done = driver.worker.drive(lambda: not (queue.size or channel.unacknowledged), timeout)
    return is_done and channel.losses == losses


def _wait_until_flushed(
    driver: Driver, queue: RequestQueue, clock: Clock, timeout: float | None
) -> bool:
    deadline = None if timeout is None else clock.monotonic() + timeout

    def remaining() -> float | None:
        return None if deadline is None else max(0.0, deadline - clock.monotonic())

    channel = driver.channel
    while True:
        returns = channel.returns
        if not queue.wait_until_empty(remaining()):
            return False
        if not channel.unacknowledged:
            if channel.returns == returns:  # else the queue may not be empty any more
                return True
            continue
        link = driver.link
        if link is not None:
            link.ask()
        if not channel.wait_until_settled(remaining()):
            return False


def event_of(outcome: Future[Any]) -> threading.Event:
    """An event that is set when there is an outcome. From any thread."""
    event = Event()
    outcome.add_done_callback(lambda _: event.set())
    return event
