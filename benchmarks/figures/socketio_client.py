"""python-socketio's client, where it has what is measured: events, acknowledgements, reconnecting.

It stands upon websocket-client (with wsaccel, if that is there), and is given the WebSocket at
once, without the long polling that it begins with by default. What it does is not quite the same:

- Messages are events, in JSON with a name. Here their argument is a text of as many characters as
  the others send bytes; bytes would take a second frame for each.
- Each event that arrives has its handler called in a thread of its own, in no order.
- `emit` puts the event into a queue without a bound, and another thread writes it.
"""

from __future__ import annotations

import importlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from socket import SHUT_RDWR
from typing import Any

from benchmarks.figures.clients import LIMIT
from benchmarks.figures.serving_socketio import EVENT, event

NAME = "socketio"
"""What the contender is called."""

_TRANSPORTS = ["websocket"]


def new_client(kind: str = "Client", **options: Any) -> Any:
    """A client that leaves Ctrl-C alone.

    Args:
        kind: "Client" or "SimpleClient".
        **options: Of its constructor.
    """
    return getattr(importlib.import_module("socketio"), kind)(handle_sigint=False, **options)


@contextmanager
def connected(client: Any, url: str) -> Iterator[None]:
    """Connect a client of either kind; in the end the connection is dropped.

    Args:
        client: What is to connect.
        url: Of the server.
    """
    client.connect(url, transports=_TRANSPORTS, wait_timeout=LIMIT)
    try:
        yield
    finally:
        inner = getattr(client, "client", client)
        inner.reconnection = False
        with suppress(OSError):
            inner.eio.ws.sock.shutdown(SHUT_RDWR)
        inner.eio.wait()  # for the thread that reads, which is the last to end


def receive_by_handler(url: str, count: int) -> float:
    """Messages a second that come to the handler of an event."""
    client, numbers, all_there = new_client(), itertools.count(1), threading.Event()

    def on_event(argument: str) -> None:
        if next(numbers) == count:  # one step, whatever other handlers do meanwhile
            all_there.set()

    client.on(EVENT, on_event)
    with connected(client, url):
        start = time.perf_counter()
        client.emit(EVENT, "go")
        _await(all_there)
        return count / (time.perf_counter() - start)


def receive_by_simple_client(url: str, count: int) -> float:
    """Messages a second from `SimpleClient.receive`, in another thread than those of handlers."""
    client = new_client("SimpleClient")
    with connected(client, url):
        start = time.perf_counter()
        client.emit(EVENT, "go")
        for _ in range(count):
            client.receive(LIMIT)
        return count / (time.perf_counter() - start)


def size_of(size: int) -> int:
    """Bytes of a message whose argument has so many."""
    return len(event("x" * size))


def emit(
    url: str, count: int, size: int, repeat: Callable[[Callable[[str], object], str, int], None]
) -> float:
    """Messages a second that a peer has which counts them.

    Args:
        url: Of the peer, which answers when it has all.
        count: How many.
        size: Of the argument of each.
        repeat: Calls a function with the argument so many times, in as many threads as it likes.
    """
    client, done = new_client(), threading.Event()
    client.on(EVENT, lambda argument: done.set())
    with connected(client, url):
        start = time.perf_counter()
        repeat(partial(client.emit, EVENT), "x" * size, count)
        _await(done)
        return count / (time.perf_counter() - start)


def reconnections(url: str, cut: Callable[[], object], count: int, delay: float) -> list[float]:
    """Seconds from the end of each delay to the event "connect".

    The delay counts from the event "disconnect", right after which it begins.

    Args:
        url: Of the server.
        cut: Ends the connection.
        count: How often.
        delay: Before each attempt; without jitter.
    """
    client = new_client(reconnection_delay=delay, randomization_factor=0)
    seconds, attempts = [], []
    due, back = 0.0, threading.Event()
    start = client.start_background_task  # which it uses for nothing but to reconnect

    def note(*arguments: Any) -> Any:
        attempts.append(start(*arguments))
        return attempts[-1]

    client.start_background_task = note

    def on_disconnect(reason: str) -> None:
        nonlocal due
        due = time.perf_counter() + delay

    def on_connect() -> None:
        if due:
            seconds.append(time.perf_counter() - due)
            back.set()

    client.on("disconnect", on_disconnect)
    client.on("connect", on_connect)
    with connected(client, url):
        for _ in range(count):
            back.clear()
            cut()
            _await(back)
            attempts[-1].join(LIMIT)  # a loss before its end would not be noticed
    return seconds


def _await(event: threading.Event) -> None:
    if not event.wait(LIMIT):
        raise TimeoutError(f"nothing came within {LIMIT:g} s")
