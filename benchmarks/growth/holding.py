"""Curves over what is held: a history of events, and tunnels in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.figures.clients import tunnel
from benchmarks.figures.servers import EchoServer
from benchmarks.growth.countdown import Countdown
from benchmarks.growth.curve import Curve, Spent
from tunnel import ConnectionStateTracker, TunnelConnectionState

_ROUNDS = 3000  # of changes of state; that is more than any history is long
_BRIEF_ROUNDS = 30
_CYCLE = (
    TunnelConnectionState.CONNECTING,
    TunnelConnectionState.CONNECTED,
    TunnelConnectionState.CLOSING,
    TunnelConnectionState.DISCONNECTED,
)


@contextmanager
def _history(length: int, brief: bool) -> Iterator[Callable[[], Spent]]:
    rounds = _BRIEF_ROUNDS if brief else _ROUNDS

    def work() -> Spent:
        start = time.perf_counter()
        tracker = ConnectionStateTracker(length)
        for _ in range(rounds):
            for state in _CYCLE:
                tracker.update_state(state)
        if len(tracker.events) != length:
            raise ValueError(f"it remembers {len(tracker.events)} events instead of {length}")
        return Spent(time.perf_counter() - start, rounds * len(_CYCLE))

    yield work


@contextmanager
def _tunnels(count: int, brief: bool) -> Iterator[Callable[[], Spent]]:
    with EchoServer() as server:
        yield lambda: _connect(server.url, count)


def _connect(url: str, count: int) -> Spent:
    """Connect so many tunnels, one after the other, and wait until each has had an echo."""
    with ExitStack() as stack:
        start = time.perf_counter()
        for _ in range(count):
            echo = Countdown()
            echo.start(1)
            service = stack.enter_context(tunnel(url, partial(_note, echo)))
            service.send("hello")
            echo.wait()
        return Spent(time.perf_counter() - start, count)


def _note(echo: Countdown, message: object) -> None:
    echo.note()


HOLDING = (
    Curve(
        "history",
        "changes of state, with a history of the latest",
        "events remembered (max_event_history)",
        "changes/s",
        (10, 100, 1000, 10_000),
        (10, 100),
        _history,
        "An event is appended to a ring, which costs the same however long it is: {time[10]} a "
        "change with 10 events, {time[10000]} with 10,000, callbacks of the machine included. "
        "Memory is that of the events that are kept, {memory[10]} and {memory[10000]}.",
        is_per_item=True,
    ),
    Curve(
        "tunnels",
        "connecting tunnels in one process, each with an echo",
        "tunnels",
        "tunnels/s",
        (1, 4, 16, 64, 256),
        (4,),
        _tunnels,
        "Each has a thread, a socket and a machine of its own, and they share one thread for all "
        "timers: so connecting one costs much the same whether it is alone, {time[1]}, or the last "
        "of many: 256 take {time[256]}, {throughput[256]} a second. Memory is that of a tunnel, so "
        "many times: {memory[1]} for the first with all that is made once, {memory[256]} for 256.",
    ),
)
