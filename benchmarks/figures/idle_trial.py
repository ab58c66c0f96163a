"""What many idle connections of one kind cost.

A program of its own: ``python -m benchmarks.figures.idle_trial KIND URL COUNT USE [AUTHORITY]``.

The connections before those that count pay for what is there once only: imports, the first thread,
the memory that the allocator takes in advance. All are live: something reads each of them, and
answers the server's pings.
"""

from __future__ import annotations

import gc
import json
import os
import ssl
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from benchmarks.figures.fresh import memory_of

_BEFORE = 20  # connections before those that count, at most
_MESSAGES = 20  # on each, if they are to be used
_MESSAGE = "x" * 1024
_PATIENCE = 20.0  # seconds for anything


class _Connection(Protocol):
    def send(self, message: str, /) -> object: ...


Opener = Callable[[str, "ssl.SSLContext | None", Callable[[], None]], _Connection]
"""Makes a connection that calls back with each message."""


def tunnel(url: str, context: ssl.SSLContext | None, got: Callable[[], None]) -> _Connection:
    """As `TunnelService` has it: with all that is on by default."""
    import tunnel

    service = tunnel.TunnelService(on_message=lambda message: got())
    service.connect(url, ssl_context=context, timeout=_PATIENCE)
    return service


def bare(url: str, context: ssl.SSLContext | None, got: Callable[[], None]) -> _Connection:
    """websocket-client's connection, and a thread that reads it."""
    import websocket

    options = {"context": context} if context is not None else None
    client = websocket.create_connection(url, sslopt=options, enable_multithread=True)

    def read() -> None:
        while True:
            client.recv()
            got()

    threading.Thread(target=read, daemon=True).start()
    return client


def app(url: str, context: ssl.SSLContext | None, got: Callable[[], None]) -> _Connection:
    """websocket-client's `WebSocketApp` with its pings, in a thread."""
    import websocket

    opened = threading.Event()
    client = websocket.WebSocketApp(
        url, on_open=lambda _: opened.set(), on_message=lambda *_: got()
    )
    options = {"context": context} if context is not None else None
    threading.Thread(
        target=lambda: client.run_forever(ping_interval=30, ping_timeout=10, sslopt=options),
        daemon=True,
    ).start()
    if not opened.wait(_PATIENCE):
        raise TimeoutError("the app did not connect")
    return client


def websockets(url: str, context: ssl.SSLContext | None, got: Callable[[], None]) -> _Connection:
    """The connection of `websockets` for threads: its own thread reads, and keeps what comes."""
    from websockets.sync.client import connect

    client = connect(url, ssl=context, compression=None)

    class Reading:
        def send(self, message: str) -> None:
            client.send(message)
            client.recv(_PATIENCE)
            got()

    return Reading()


OPENERS: dict[str, Opener] = {
    "tunnel": tunnel,
    "websocket-client": bare,
    "app": app,
    "websockets": websockets,
}
"""By the kind's name."""


def main(kind: str, url: str, count: str, use: str, authority: str = "") -> None:
    """Print the KiB of memory and the threads that each connection has.

    Args:
        kind: One of `OPENERS`.
        url: Of a server that echoes.
        count: How many connections count.
        use: "used": each sends some messages, and gets them back; "new": nothing is sent.
        authority: The file of the server's authority, for wss.
    """
    context = ssl.create_default_context(cafile=authority) if authority else None
    counted, is_used = int(count), use == "used"
    connections = [_open(kind, url, context, is_used) for _ in range(min(_BEFORE, counted))]
    gc.collect()
    before = memory_of()
    connections += [_open(kind, url, context, is_used) for _ in range(counted)]
    gc.collect()
    memory = (memory_of() - before) / counted
    threads = (threading.active_count() - 1) / len(connections)  # without the main thread
    print(json.dumps({"memory": memory, "threads": threads}), flush=True)
    os._exit(0)  # without a word to anybody: the server takes it


def _open(kind: str, url: str, context: ssl.SSLContext | None, is_used: bool) -> _Connection:
    received = threading.Semaphore(0)
    connection = OPENERS[kind](url, context, received.release)
    if is_used:
        for _ in range(_MESSAGES):
            connection.send(_MESSAGE)
        for _ in range(_MESSAGES):
            if not received.acquire(timeout=_PATIENCE):
                raise TimeoutError(f"{kind}: a message did not come back")
    return connection


if __name__ == "__main__":
    main(*sys.argv[1:])
