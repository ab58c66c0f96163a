"""A TCP proxy in this process that breaks connections on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any

_HOST = "127.0.0.1"
_READ_SIZE = 64 * 1024
_PATIENCE = 10.0  # seconds for what takes milliseconds
_ROUND = 0.1  # seconds between two looks at what is left to end
_PIECE = 256  # bytes that pass at a time before a cut that was counted out
_PACE = 0.002  # seconds between two of these, so that both directions have their share


class FaultProxy:
    """Passes bytes between clients and a server on 127.0.0.1; a context manager.

    It runs an event loop in a thread of its own. Its methods may be called from any other thread;
    what they ask for has happened when they return.

    Args:
        server_port: Where the server is. Clients are reset while it is gone.

    Attributes:
        port: Where clients connect to; set when the context is entered.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self._server_port = server_port
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        # All below belong to the loop's thread.
        self._listener: asyncio.AbstractServer | None = None
        self._passing = asyncio.Event()  # while it is not set, everything is held back
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._doomed: set[asyncio.StreamWriter] = set()  # open when the silence began
        self._left: int | None = None  # bytes that still pass before everything is reset

    def __enter__(self) -> FaultProxy:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="demo-proxy", daemon=True
        )
        self._thread.start()
        try:
            self._do(self._open)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._do(self._close)
        finally:
            self._end()

    def reset(self) -> None:
        """Reset every connection, on both sides."""
        self._do(self._reset)

    def reset_after(self, size: int) -> None:
        """Let some more bytes pass, slowly, and then reset every connection: in their midst.

        Args:
            size: How many, of both directions together.
        """
        self._do(lambda: self._light(size))

    def silence(self) -> None:
        """Let nothing pass any more, in either direction; the connections stay open.

        New ones can be made, but do not get through before it is over.
        """
        self._do(self._hold)

    def resume(self) -> None:
        """End the silence. What was sent meanwhile on connections from before is lost with them."""
        self._do(self._release)

    def _do(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(action(), self._loop).result(_PATIENCE)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # In the loop's thread

    async def _open(self) -> None:
        self._listener = await asyncio.start_server(self._accept, _HOST, 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._listener is not None
        self._passing.set()
        # What is being accepted has yet to begin, so look again. And close the listener only then:
        # asyncio (3.11) loses a connection whose acceptance it finishes after that.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._reset()
            await asyncio.wait(tasks, timeout=_ROUND)
        self._listener.close()

    async def _hold(self) -> None:
        self._passing.clear()
        self._doomed = set(self._writers)

    async def _release(self) -> None:
        for writer in self._doomed & self._writers:
            _reset(writer)
        self._passing.set()

    async def _light(self, size: int) -> None:
        self._left = size

    async def _reset(self) -> None:
        for writer in tuple(self._writers):
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self._writers.add(client)
        await self._passing.wait()
        try:
            answers, server = await asyncio.open_connection(_HOST, self._server_port)
        except OSError:
            _reset(client)
            await self._end_of(client)
            return
        self._writers.add(server)
        await asyncio.gather(self._pump(reader, server), self._pump(answers, client))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Pass on what comes, and at last that it has ended."""
        with suppress(OSError):
            while chunk := await source.read(_READ_SIZE):
                await self._passing.wait()
                await self._pass_on(chunk, sink)
        await self._passing.wait()
        sink.close()
        await self._end_of(sink)

    async def _pass_on(self, chunk: bytes, sink: asyncio.StreamWriter) -> None:
        while self._left is not None and chunk:
            piece = chunk[: min(_PIECE, self._left)]
            chunk = chunk[len(piece) :]
            self._left -= len(piece)
            sink.write(piece)
            if self._left == 0:
                self._left = None
                await self._reset()
                return
            await asyncio.sleep(_PACE)
        sink.write(chunk)
        await sink.drain()

    async def _end_of(self, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await writer.wait_closed()
        self._writers.discard(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the other side gets a reset instead of an orderly end."""
    connection: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):  # it may be closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
