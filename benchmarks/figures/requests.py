"""Figures of requests: 32 outstanding from 8 threads through the gateway, and what bare echoes do.

The bare client has one thread, no names for its requests, and a server in uvloop that does nothing
but echo; the gateway finds the request's handler, and answers in a session that can be resumed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import websocket

from benchmarks.figures.measure import TUNNEL, Contenders, Figure, Goal
from benchmarks.figures.servers import EchoServer, GatewayServer
from tunnel import TunnelResponse, TunnelService

_THREADS = 8
_OUTSTANDING = 32
_COUNT = 8000
_PAYLOAD = b"x" * 64
_TIMEOUT = 20.0  # seconds

Run = tuple[float, list[float]]
"""Requests per second, and how many seconds each took."""


@contextmanager
def _requests(brief: bool, *, value: Callable[[Run], float]) -> Iterator[Contenders]:
    count = 320 if brief else _COUNT
    with GatewayServer("echo") as server, EchoServer() as echo, TunnelService() as service:
        client: Any = websocket.create_connection(echo.url, timeout=_TIMEOUT)
        service.connect(server.url, timeout=_TIMEOUT)
        try:
            yield {
                TUNNEL: lambda: value(_submit(service, count)),
                "websocket-client": lambda: value(_echo(client, count)),
            }
        finally:
            client.shutdown()


def _submit(service: TunnelService, count: int) -> Run:
    with ThreadPoolExecutor(_THREADS) as pool:
        ready = threading.Barrier(_THREADS + 1)
        parts = [
            pool.submit(_submit_part, service, count // _THREADS, ready) for _ in range(_THREADS)
        ]
        ready.wait(_TIMEOUT)
        start = time.perf_counter()
        seconds = [second for part in parts for second in part.result(_TIMEOUT)]
        return len(seconds) / (time.perf_counter() - start), seconds


def _submit_part(service: TunnelService, count: int, ready: threading.Barrier) -> list[float]:
    """The share of one thread."""
    seconds: list[float] = []
    outstanding: deque[Future[TunnelResponse]] = deque()

    def submit() -> None:
        start = time.perf_counter()
        future = service.submit(_PAYLOAD, timeout=_TIMEOUT)
        future.add_done_callback(lambda _: seconds.append(time.perf_counter() - start))
        outstanding.append(future)

    ready.wait(_TIMEOUT)
    for number in range(count):
        if number >= _OUTSTANDING // _THREADS:
            _check(outstanding.popleft())
        submit()
    while outstanding:
        _check(outstanding.popleft())
    return seconds


def _check(future: Future[TunnelResponse]) -> None:
    if future.result(_TIMEOUT).payload != _PAYLOAD:
        raise OSError("a request got another one's answer")


def _echo(client: websocket.WebSocket, count: int) -> Run:
    starts: deque[float] = deque()
    seconds = []
    start = time.perf_counter()
    for number in range(count + _OUTSTANDING):
        if number >= _OUTSTANDING:
            client.recv()
            seconds.append(time.perf_counter() - starts.popleft())
        if number < count:
            starts.append(time.perf_counter())
            client.send_binary(_PAYLOAD)
    return count / (time.perf_counter() - start), seconds


def _rate(run: Run) -> float:
    return run[0]


def _slowest(run: Run) -> float:
    """Milliseconds of the 99th percentile."""
    seconds = sorted(run[1])
    return seconds[int(0.99 * len(seconds))] * 1e3


FIGURES: tuple[Figure, ...] = (
    Figure(
        "requests",
        "requests, 32 outstanding from 8 threads",
        "requests/s",
        partial(_requests, value=_rate),
        goal=Goal(0.5, peers=("websocket-client",)),
    ),
    Figure(
        "requests-p99",
        "requests, 32 outstanding from 8 threads: p99",
        "ms",
        partial(_requests, value=_slowest),
        limit=10,
        more_is_better=False,
    ),
)
"""What goes through a session and comes back."""
