"""Figures of what happens after a loss, and of what is kept for the time after it."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import websocket

from benchmarks.figures import socketio_client as socketio
from benchmarks.figures.cutting import CuttableCounter
from benchmarks.figures.measure import TUNNEL, Contenders, Figure, Goal
from benchmarks.figures.restart_trial import restart
from tunnel import (
    ConnectionEvent,
    ConnectionEventType,
    RequestQueue,
    TunnelConfig,
    TunnelConnectionState,
    TunnelService,
)

_TIMEOUT = 20.0  # seconds for anything
_SIZE = 1024
_MESSAGE = b"x" * _SIZE
_FLUSHED = 10_000
_KEPT = 20_000
_THREADS = 8
_HANDSHAKES = 200
_DELAY = 0.01  # seconds before each of them


@contextmanager
def _restart(brief: bool) -> Iterator[Contenders]:
    count, delay = (20, 0.1) if brief else (1000, 2.0)

    def later() -> float:
        late = restart(count, delay)
        return max(late["first"], late["last"])

    yield {TUNNEL: later}


# Flushing


@contextmanager
def _flushing(brief: bool) -> Iterator[Contenders]:
    count = 200 if brief else _FLUSHED
    with CuttableCounter() as server:
        yield {
            TUNNEL: lambda: _flush(server, count),
            "send_many": lambda: _pipeline(server, count),
        }


def _flush(server: CuttableCounter, count: int) -> float:
    """Messages per second, from the new link to the last byte at the server."""
    with _sender(count, server.url_of(count, _SIZE)) as (service, done):
        server.cut()
        if not service.wait_for(TunnelConnectionState.DISCONNECTED, timeout=_TIMEOUT):
            raise TimeoutError("the loss was not noticed")
        service.send_many([_MESSAGE] * count)
        connected: list[float] = []
        service.subscribe(lambda event: _note_connected(event, connected))
        service.reconnect(timeout=_TIMEOUT)
        _await(done)
        return count / (time.perf_counter() - connected[0])


def _pipeline(server: CuttableCounter, count: int) -> float:
    """The same without a loss."""
    with _sender(count, server.url_of(count, _SIZE)) as (service, done):
        start = time.perf_counter()
        service.send_many([_MESSAGE] * count)
        _await(done)
        return count / (time.perf_counter() - start)


@contextmanager
def _sender(count: int, url: str) -> Iterator[tuple[TunnelService, threading.Event]]:
    """A connected tunnel with room for so many messages, and what the server's answer sets."""
    done = threading.Event()
    config = TunnelConfig(max_queue_size=count, enable_auto_reconnect=False)
    service = TunnelService(config, on_message=lambda message: done.set())
    service.connect(url, timeout=_TIMEOUT)
    try:
        yield service, done
    finally:
        service.disconnect(graceful=False)


def _note_connected(event: ConnectionEvent, times: list[float]) -> None:
    if event.type is ConnectionEventType.RECONNECTED:
        times.append(time.perf_counter())


def _await(event: threading.Event) -> None:
    if not event.wait(_TIMEOUT):
        raise TimeoutError("not all arrived")


# The durable queue


@contextmanager
def _keeping(brief: bool) -> Iterator[Contenders]:
    count = 400 if brief else _KEPT
    with tempfile.TemporaryDirectory(prefix="queue-") as folder:
        names = map(str, range(1_000_000))

        def ours() -> float:
            config = TunnelConfig(max_queue_size=count)
            with RequestQueue(count, path=Path(folder) / next(names)) as queue:
                service = TunnelService(config, request_queue=queue)
                return _accepted(service.send, count)

        def theirs() -> float:
            with closing(_BareFile(Path(folder) / next(names))) as file:
                return _accepted(file.put, count)

        yield {TUNNEL: ours, "sqlite3": theirs}


def _accepted(accept: Callable[[bytes], object], count: int) -> float:
    """Messages per second that are accepted, from several threads at once."""
    ready = threading.Barrier(_THREADS + 1)

    def work() -> None:
        ready.wait(_TIMEOUT)
        for _ in range(count // _THREADS):
            accept(_MESSAGE)

    with ThreadPoolExecutor(_THREADS) as pool:
        parts = [pool.submit(work) for _ in range(_THREADS)]
        ready.wait(_TIMEOUT)
        start = time.perf_counter()
        for part in parts:
            part.result(_TIMEOUT)
        return count / (time.perf_counter() - start)


class _BareFile:
    """The least that gives the same promise: a table, and a commit for all who wait."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("PRAGMA wal_autocheckpoint=4096")
        self._connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, content BLOB)")
        self._pending: deque[tuple[bytes, threading.Event]] = deque()
        self._lock = threading.Lock()

    def put(self, message: bytes) -> None:
        """Returns when it is on file."""
        is_done = threading.Event()
        self._pending.append((message, is_done))
        with self._lock:
            if is_done.is_set():
                return
            changes = [self._pending.popleft() for _ in range(len(self._pending))]
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT INTO messages (content) VALUES (?)", [(change[0],) for change in changes]
            )
            self._connection.execute("COMMIT")
            for _, event in changes:
                event.set()

    def close(self) -> None:
        self._connection.close()


# Handshakes


@contextmanager
def _reconnecting(brief: bool) -> Iterator[Contenders]:
    count = 10 if brief else _HANDSHAKES
    with CuttableCounter() as server:
        yield {
            TUNNEL: lambda: _slowest(_reconnections(server, count)),
            "websocket-client": lambda: _slowest(_handshakes(server, count)),
            socketio.NAME: lambda: _slowest(
                socketio.reconnections(server.url, server.cut, count // 4, _DELAY)
            ),
        }


def _reconnections(server: CuttableCounter, count: int) -> list[float]:
    """Seconds from the end of each delay to the state `connected`."""
    due, seconds = [0.0], []
    back = threading.Event()

    def on_event(event: ConnectionEvent) -> None:
        now = time.perf_counter()
        if event.type is ConnectionEventType.RECONNECTING and "delay" in event.metadata:
            due[0] = now + event.metadata["delay"]
        elif event.type is ConnectionEventType.RECONNECTED:
            seconds.append(now - due[0])
            back.set()

    config = TunnelConfig(reconnect_base_delay=_DELAY, jitter=0, stable_after=0)
    with TunnelService(config) as service:
        service.subscribe(on_event)
        service.connect(server.url, timeout=_TIMEOUT)
        for _ in range(count):
            back.clear()
            server.cut()
            _await(back)
        service.disconnect(graceful=False)
    return seconds


def _handshakes(server: CuttableCounter, count: int) -> list[float]:
    """Seconds from the end of the same delay to the end of the handshake.

    The end is the planned one, as for the tunnel: that a wait ends late counts for both.
    """
    seconds = []
    pause = threading.Event()
    for _ in range(count):
        due = time.perf_counter() + _DELAY
        pause.wait(_DELAY)
        client: Any = websocket.create_connection(server.url)
        seconds.append(time.perf_counter() - due)
        client.shutdown()
        server.cut()
    return seconds


def _slowest(seconds: list[float]) -> float:
    """Microseconds of the 95th percentile."""
    return sorted(seconds)[int(0.95 * len(seconds))] * 1e6


FIGURES: tuple[Figure, ...] = (
    Figure(
        "restart",
        "1,000 tunnels, gateway restarted: beyond the policy",
        "s",
        _restart,
        limit=3,
        more_is_better=False,
    ),
    Figure(
        "flush",
        "flush of 10,000 messages of 1 KiB after a reconnect",
        "messages/s",
        _flushing,
        goal=Goal(0.9, peers=("send_many",)),
    ),
    Figure(
        "durable-queue",
        "durable queue: accepts from 8 threads, 1 KiB",
        "messages/s",
        _keeping,
        limit=20_000,
    ),
    Figure(
        "reconnect-p95",
        "from the end of the delay to connected: p95",
        "us",
        _reconnecting,
        goal=Goal(1.2, at_least=False, peers=("websocket-client",)),
        more_is_better=False,
    ),
)
"""What the time after a loss brings."""
