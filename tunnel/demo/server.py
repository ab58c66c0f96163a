"""The demo's WebSocket server, a process of its own: ``python -m tunnel.demo.server --port 0``.

It sends every message back. The first line of its standard output is its port; at the end of its
standard input it closes its connections with 1001 (going away) and ends, so it never outlives the
program that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
from collections.abc import Sequence

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

_PATIENCE = 2.0  # seconds that a client gets for a handshake, be it the first or the last


async def _echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass  # the demo cuts connections all the time


async def _serve(port: int) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait_for_the_end() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(ended.set)

    async with serve(
        _echo,
        "127.0.0.1",
        port,
        compression=None,
        open_timeout=_PATIENCE,
        close_timeout=_PATIENCE,
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        threading.Thread(target=wait_for_the_end, name="stdin", daemon=True).start()
        await ended.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until standard input ends.

    Args:
        argv: The arguments; those of the process if not given.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that started us
    parser = argparse.ArgumentParser(prog="python -m tunnel.demo.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    asyncio.run(_serve(parser.parse_args(argv).port))


if __name__ == "__main__":  # pragma: no cover  # the demo runs it in a process of its own
    main()
