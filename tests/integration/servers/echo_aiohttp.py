"""An echo server by `aiohttp`, in a process of its own; ends when its standard input does."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

from aiohttp import WSMsgType, web


async def _echo(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(max_msg_size=64 * 2**20, compress=False)
    await connection.prepare(request)
    async for message in connection:
        if message.type is WSMsgType.TEXT:
            await connection.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await connection.send_bytes(message.data)
    return connection


async def _main(port: int) -> None:
    application = web.Application()
    application.router.add_get("/{path:.*}", _echo)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().create_future()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_main(int(sys.argv[1])))
