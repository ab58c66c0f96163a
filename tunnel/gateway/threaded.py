"""A gateway in a thread of its own, for tests, the demo, and programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any

from tunnel.errors import InvalidStateError
from tunnel.gateway.handlers import Handler
from tunnel.gateway.server import Gateway


class GatewayThread:
    """Runs a `Gateway`; a context manager. Thread-safe.

    Args:
        handler: As for `Gateway`.
        **options: As for `Gateway`.

    Raises:
        ConfigurationError: As for `Gateway`.
    """

    def __init__(self, handler: str | Handler = "echo", **options: Any) -> None:
        self._gateway = Gateway(handler, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None
        self._is_ready = threading.Event()

    def __enter__(self) -> GatewayThread:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(drain=exc is None)

    @property
    def url(self) -> str:
        """What clients connect to."""
        return self._gateway.url

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._gateway.port

    def start(self) -> None:
        """Listen; returns once it does.

        Raises:
            InvalidStateError: It was started before.
            OSError: The address cannot be listened at.
        """
        if self._thread is not None:
            raise InvalidStateError("the gateway was started before")
        self._thread = threading.Thread(target=self._run, name="tunnel-gateway", daemon=True)
        self._thread.start()
        self._is_ready.wait()
        if self._problem is not None:
            self._thread.join()
            raise self._problem

    def statistics(self) -> dict[str, int]:
        """See `Gateway.statistics`; empty while it does not run."""
        loop = self._loop
        if loop is None:
            return {}

        async def look() -> dict[str, int]:
            return self._gateway.statistics()

        return asyncio.run_coroutine_threadsafe(look(), loop).result()

    def stop(self, *, drain: bool = True) -> None:
        """Stop it, and wait until it has stopped; see `Gateway.stop`. No harm if it has already."""
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._gateway.stop(drain=drain), loop).result()
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        try:
            await self._gateway.start()
        except BaseException as error:
            self._problem = error
            return
        else:
            self._loop = asyncio.get_running_loop()
        finally:
            self._is_ready.set()
        await self._gateway.wait_stopped()
