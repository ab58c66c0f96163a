"""Figures of requests: 32 outstanding from 8 threads through the gateway, and what bare echoes do.

The bare client has one thread, no names for its requests, and a server in uvloop that does nothing
but echo; the gateway finds the request's handler, and answers in a session that can be resumed.
python-socketio's client asks its own server, also in uvloop, for acknowledgements.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from benchmarks.figures import socketio_client as socketio
from benchmarks.figures.clients import CLIENT, bare
from benchmarks.figures.measure import TUNNEL, Contenders, Figure, Goal
from benchmarks.figures.servers import EchoServer, GatewayServer, SocketIOServer
from benchmarks.figures.serving_socketio import EVENT
from tunnel import TunnelService

_THREADS = 8
_OUTSTANDING = 32
_COUNT = 8000
_PAYLOAD = b"x" * 64
_TIMEOUT = 20.0  # seconds

Run = tuple[float, list[float]]
"""Requests per second, and how many seconds each took."""

Submit = Callable[[Callable[[], object]], Callable[[], object]]
"""Sends a request. Called with what is to be called when the answer is there; returns what waits
for it and returns it."""


@contextmanager
def _requests(brief: bool, *, value: Callable[[Run], float]) -> Iterator[Contenders]:
    count, fewer = (320, 80) if brief else (_COUNT, _COUNT // 4)
    with GatewayServer("echo") as gateway, EchoServer() as server, SocketIOServer() as events:
        yield {
            TUNNEL: lambda: value(_submit(gateway.url, count)),
            **{name: partial(_value_of, value, name, server.url, count) for name in CLIENT},
            socketio.NAME: lambda: value(_call(events.url, fewer)),
        }


def _value_of(value: Callable[[Run], float], name: str, url: str, count: int) -> float:
    return value(_echo(name, url, count))


def _submit(url: str, count: int) -> Run:
    def submit(note: Callable[[], object]) -> Callable[[], object]:
        future = service.submit(_PAYLOAD, timeout=_TIMEOUT)
        future.add_done_callback(lambda _: note())
        return lambda: future.result(_TIMEOUT).payload

    with TunnelService() as service:
        service.connect(url, timeout=_TIMEOUT)
        return _in_threads(submit, _PAYLOAD, count)


def _call(url: str, count: int) -> Run:
    argument = _PAYLOAD.decode()

    def submit(note: Callable[[], object]) -> Callable[[], object]:
        future: Future[str] = Future()
        future.add_done_callback(lambda _: note())
        client.emit(EVENT, argument, callback=future.set_result)
        return lambda: future.result(_TIMEOUT)

    client = socketio.new_client()
    with socketio.connected(client, url):
        return _in_threads(submit, argument, count)


def _in_threads(submit: Submit, expected: object, count: int) -> Run:
    """Submit requests from all threads at once, and wait for the answers there."""
    with ThreadPoolExecutor(_THREADS) as pool:
        ready = threading.Barrier(_THREADS + 1)
        share = count // _THREADS
        part = partial(_submit_part, submit, expected, share, ready)
        parts = [pool.submit(part) for _ in range(_THREADS)]
        ready.wait(_TIMEOUT)
        start = time.perf_counter()
        seconds = [second for done in parts for second in done.result(_TIMEOUT)]
        return share * _THREADS / (time.perf_counter() - start), seconds


def _submit_part(
    submit: Submit, expected: object, count: int, ready: threading.Barrier
) -> list[float]:
    """The share of one thread."""
    seconds: list[float] = []
    outstanding: deque[Callable[[], object]] = deque()

    def submit_next() -> None:
        start = time.perf_counter()
        outstanding.append(submit(lambda: seconds.append(time.perf_counter() - start)))

    def check_oldest() -> None:
        if outstanding.popleft()() != expected:
            raise OSError("a request got another one's answer")

    ready.wait(_TIMEOUT)
    for number in range(count):
        if number >= _OUTSTANDING // _THREADS:
            check_oldest()
        submit_next()
    while outstanding:
        check_oldest()
    return seconds


def _echo(name: str, url: str, count: int) -> Run:
    """What a bare client does in one thread."""
    starts: deque[float] = deque()
    seconds = []
    with bare(name, url) as client:
        start = time.perf_counter()
        for number in range(count + _OUTSTANDING):
            if number >= _OUTSTANDING:
                client.receive()
                seconds.append(time.perf_counter() - starts.popleft())
            if number < count:
                starts.append(time.perf_counter())
                client.send_bytes(_PAYLOAD)
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
        goal=Goal(0.5, peers=CLIENT),
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
