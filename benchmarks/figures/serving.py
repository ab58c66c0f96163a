"""What runs in the process of a server: ``python -m benchmarks.figures.serving KIND ...``.

The one line that it prints is its port. It ends with its parent, or a minute after its last client
came: a measurement takes less, so something is stuck, and whoever waits for the server is set free.
What only some of the servers need is imported there, since each figure waits for its servers.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from benchmarks.figures.serving_frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    frame,
    read_frame,
    upgrade,
)
from benchmarks.figures.serving_socketio import EVENT, event, greet, is_event, is_socketio

if TYPE_CHECKING:
    from tunnel.gateway import GatewaySession

PATIENCE = 60.0
"""Seconds after its last client came in which a server ends by itself, whatever it does."""

_AT_ONCE = 64 * 1024  # bytes that a blaster hands to the system in one call

_clients = threading.Event()  # one has come


def main(kind: str, *arguments: str) -> None:
    """Serve, until it is killed.

    Args:
        kind: "blast SIZE COUNT", "count", "session SIZE COUNT", "echo [CERTIFICATE]", "socketio",
            or "gateway HANDLER".
        *arguments: What follows the kind.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if kind != "gateway":  # whose clients are tunnels, with time limits of their own
        threading.Thread(target=_end_when_stuck, daemon=True).start()
    if kind == "blast":
        size, count = map(int, arguments)
        _listen(lambda client, path: blast(client, path, size, count))
    elif kind == "count":
        _listen(count_bytes)
    elif kind == "session":
        from benchmarks.figures import serving_sessions as sessions

        size, count = map(int, arguments)
        frames = sessions.batches(size, count)
        _listen(lambda client, path: sessions.keep(client, path, size, frames), sessions.HEADERS)
    elif kind == "gateway":
        asyncio.run(serve_gateway(*arguments))
    elif kind == "echo":
        _new_loop().run_until_complete(echo(*arguments))
    elif kind == "socketio":
        _new_loop().run_until_complete(echo_events())
    else:
        raise ValueError(f"there is no server {kind!r}")


def blast(client: socket.socket, path: str, size: int, count: int) -> None:
    """For each message of the client, send it `count` frames of `size` bytes.

    To a client of Socket.IO these are events with a text, since one with bytes takes two frames.
    """
    speaks_socketio = is_socketio(path)
    message = frame(TEXT, event("x" * size)) if speaks_socketio else frame(BINARY, b"x" * size)
    many = max(1, _AT_ONCE // len(message))
    batch, rest = message * many, message * (count % many)
    with client.makefile("rb") as stream:
        while (received := read_frame(stream.read)) is not None:
            opcode, payload = received
            if opcode in (TEXT, BINARY):
                if speaks_socketio and not is_event(payload):
                    continue
                for _ in range(count // many):
                    client.sendall(batch)
                client.sendall(rest)
            elif opcode == PING:
                client.sendall(frame(PONG, payload))
            elif opcode == CLOSE:
                client.sendall(frame(CLOSE, payload))
                return


def count_bytes(client: socket.socket, path: str) -> None:
    """Read; answer a text message for each as many bytes as the path's query says."""
    query = re.search(r"[?&]bytes=([0-9]+)", path)
    expected = int(query[1]) if query else 0
    answer = frame(TEXT, event("done") if is_socketio(path) else b"done")
    memory, count = memoryview(bytearray(2**20)), 0
    while received := client.recv_into(memory):
        count += received
        while 0 < expected <= count:
            count -= expected
            client.sendall(answer)


def blast_in_session(session: GatewaySession, message: str | bytes) -> None:
    """A gateway's handler: send back as many messages of 64 bytes as the message says."""
    for _ in range(int(message)):
        session.send(b"x" * 64)


async def serve_gateway(handler: str) -> None:
    """A gateway with the default settings."""
    from tunnel.gateway import Gateway

    gateway = Gateway(handler)
    await gateway.start()
    print(gateway.port, flush=True)
    await gateway.wait_stopped()


async def echo(certificate: str | None = None) -> None:
    """Send each message back, without compression and without limits."""
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed

    async def handle(client: ServerConnection) -> None:
        _clients.set()
        with suppress(ConnectionClosed):
            while True:
                await client.send(await client.recv())

    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    async with serve(
        handle,
        "127.0.0.1",
        0,
        ssl=context,
        compression=None,
        max_size=None,
        ping_interval=None,
    ) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


async def echo_events() -> None:
    """Acknowledge each event with its argument: python-socketio's own server, on aiohttp."""
    import socketio  # type: ignore[import-untyped]
    from aiohttp import web

    events = socketio.AsyncServer(async_mode="aiohttp", ping_interval=60, logger=False)

    @events.on(EVENT)  # type: ignore[untyped-decorator]
    async def acknowledge(client: str, argument: str) -> str:
        _clients.set()
        return argument

    application = web.Application()
    events.attach(application)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # as on Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def _end_when_stuck() -> None:
    while _clients.wait(PATIENCE):
        _clients.clear()
    os._exit(3)


def _listen(serve: Callable[[socket.socket, str], None], headers: bytes = b"") -> None:
    """Accept clients, and serve each in a thread."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            client, _ = server.accept()
            _clients.set()
            threading.Thread(target=_serve, args=(client, serve, headers), daemon=True).start()


def _serve(
    client: socket.socket, serve: Callable[[socket.socket, str], None], headers: bytes
) -> None:
    with client, suppress(OSError):  # clients leave without a word
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        path = upgrade(client, headers)
        if is_socketio(path):
            greet(client)
        serve(client, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
