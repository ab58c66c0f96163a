"""An echo server by `websockets`, in a process of its own; ends when its standard input does.

Paths: ``/flood?count=N&size=B`` sends N numbered messages of B bytes while it reads what comes
back, and ends with a text that says how many came back and whether in order. Any other path echoes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import sys
import threading
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

_LARGEST = 64 * 2**20


async def _flood(connection: ServerConnection, count: int, size: int) -> None:
    async def push() -> None:
        for number in range(count):
            await connection.send(number.to_bytes(4, "big") + bytes(size - 4))

    pushing = asyncio.create_task(push())
    returned, in_order = 0, True
    while returned < count:
        message = await connection.recv()
        in_order = in_order and message[:4] == returned.to_bytes(4, "big") and len(message) == size
        returned += 1
    await pushing
    await connection.send(f"returned {returned}, {'in order' if in_order else 'out of order'}")
    await connection.wait_closed()


async def _serve_one(connection: ServerConnection) -> None:
    path = urlsplit(connection.request.path)
    try:
        if path.path == "/flood":
            terms = {name: int(value[0]) for name, value in parse_qs(path.query).items()}
            await _flood(connection, terms["count"], terms["size"])
            return
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass


async def _main(port: int, certificate: str | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    options = {"max_size": _LARGEST, "compression": None, "ping_interval": None}
    async with serve(_serve_one, "127.0.0.1", port, ssl=context, **options) as server:
        print("ready", next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--certificate")
    arguments = parser.parse_args()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_main(arguments.port, arguments.certificate))
