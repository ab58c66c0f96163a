"""A program whose main thread is interrupted all the time, as by Ctrl-C, at random moments.

``python interrupted.py URL SEED COUNT QUEUE``: makes COUNT calls, most of which are interrupted;
then sees to it that everything still works. Prints how many were interrupted, how many of which
kind were not, and the messages whose `send` has returned. `QUEUE` is a file for a durable queue, or
empty.

A timer raises `KeyboardInterrupt` in the main thread, between any two instructions of Python.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
import threading
from collections.abc import Callable

from tunnel import (
    CircuitOpenError,
    InvalidStateError,
    NotConnectedError,
    RequestQueue,
    RequestTimeoutError,
    TunnelConfig,
    TunnelConnectionState,
    TunnelService,
)

LONG = 20.0
CONFIG = TunnelConfig(
    reconnect_base_delay=0.001,
    reconnect_max_delay=0.01,
    max_reconnect_attempts=None,
    max_queue_size=10_000,
)


class Interrupter:
    """Calls things, and interrupts them. For the main thread.

    Attributes:
        count: How many calls were interrupted.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._is_calling = False
        self.count = 0
        signal.signal(signal.SIGALRM, self._interrupt)

    def call(self, function: Callable[[], object], longest: float) -> bool:
        """Call a function. Returns whether it returned; False: it was interrupted."""
        try:
            try:
                delay = longest * self._rng.random() ** 2
                self._is_calling = True
                signal.setitimer(signal.ITIMER_REAL, max(2e-6, delay))
                function()
                return True
            finally:
                self._is_calling = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            self._is_calling = False
            self.count += 1
            return False

    def _interrupt(self, number: int, frame: object) -> None:
        """A signal that another thread has got may come when the call is over: too late."""
        if self._is_calling:
            raise KeyboardInterrupt


class Numbers:
    """What was sent.

    Attributes:
        last: The number of the last message.
        certain: Those whose `send` has returned.
    """

    def __init__(self) -> None:
        self.last = 0
        self.certain: list[int] = []

    def next(self) -> str:
        """The next message."""
        self.last += 1
        return f"{self.last}"


def calls(service: TunnelService, numbers: Numbers, rng: random.Random, url: str) -> Calls:
    """What may be interrupted, with how long it may take; and what it has then sent for certain."""
    one = numbers.next()
    several = [numbers.next() for _ in range(rng.randrange(1, 20))]

    def again() -> None:
        service.disconnect(timeout=2)
        service.connect(url, timeout=LONG)

    return {
        "send": (lambda: service.send(one), 2e-4, [one]),
        "send_many": (lambda: service.send_many(several), 5e-4, several),
        "request": (lambda: service.request(b"x", timeout=0.5), 3e-3, []),
        "wait_for": (
            lambda: service.wait_for(TunnelConnectionState.ERROR, timeout=0.001),
            1.5e-3,
            [],
        ),
        "flush": (lambda: service.flush(0.5), 2e-3, []),
        "statistics": (service.statistics, 2e-4, []),
        "to_json": (service.tracker.to_json, 2e-3, []),
        "update_config": (lambda: service.update_config(CONFIG), 3e-4, []),
        "network": (lambda: service.handle_network_change(True), 3e-4, []),
        "test_connection": (lambda: service.test_connection(1), 2e-3, []),
        "reconnect": (lambda: service.reconnect(timeout=LONG), 1e-2, []),
        "again": (again, 1e-2, []),
    }


Calls = dict[str, tuple[Callable[[], object], float, list[str]]]
AT_REST = (TunnelConnectionState.DISCONNECTED, TunnelConnectionState.ERROR)
LEGAL = (InvalidStateError, NotConnectedError, RequestTimeoutError, CircuitOpenError)
"""What a call may raise while the tunnel is closing, or is connecting again."""

WEIGHTS = {"send": 30, "send_many": 15, "request": 15, "flush": 4}


def describe(service: TunnelService) -> str:
    """All that may tell why a message does not go out."""
    return f"{service!r}, {service._queue!r}, {service.statistics()}"


def left_over() -> list[threading.Thread]:
    """Threads that are there after a moment.

    But for those that never began: interrupted in `Thread.start`, the main thread may keep the lock
    of the event by which the new one tells that it runs, and that one then waits for ever.
    """
    threads = []
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            with contextlib.suppress(RuntimeError):  # it cannot be joined before it has begun
                thread.join(5)
                threads.append(thread)
    return [thread for thread in threads if thread.is_alive()]


def connect_and_flush(service: TunnelService, url: str) -> None:
    """See that all gets out. An interrupted `connect` or `disconnect` may still be obeyed first."""
    for _ in range(3):
        while not service.wait_for(TunnelConnectionState.CONNECTED, timeout=1):
            with contextlib.suppress(InvalidStateError):  # it is on its way
                service.connect(url, timeout=LONG)
        if service.flush(5):
            return
        assert service.state in AT_REST, describe(service)
    raise AssertionError(describe(service))


def main() -> None:
    """Interrupt."""
    _, url, seed, count, path = sys.argv
    rng = random.Random(int(seed))
    queue = RequestQueue(10_000, path=path) if path else None
    service = TunnelService(CONFIG, request_queue=queue, on_message=lambda message: None)
    numbers = Numbers()
    interrupter = Interrupter(rng)
    done: dict[str, int] = {}
    service.connect(url, timeout=LONG)
    for _ in range(int(count)):
        try:
            if service.state in AT_REST:
                interrupter.call(lambda: service.connect(url, timeout=LONG), 1e-2)
            if not service.wait_for(TunnelConnectionState.CONNECTED, timeout=0.05):
                continue
            possible = calls(service, numbers, rng, url)
            name = rng.choices(list(possible), [WEIGHTS.get(name, 1) for name in possible])[0]
            function, longest, messages = possible[name]
            if interrupter.call(function, longest):
                numbers.certain += map(int, messages)
                done[name] = done.get(name, 0) + 1
        except LEGAL:
            pass
    connect_and_flush(service, url)
    with contextlib.suppress(CircuitOpenError):
        assert service.request(b"x", timeout=LONG).payload == b"x"
    assert service.disconnect() == service.disconnect()
    if queue is not None:
        queue.close()
    assert not left_over(), threading.enumerate()
    print(json.dumps([interrupter.count, done, numbers.certain]))


if __name__ == "__main__":
    main()
