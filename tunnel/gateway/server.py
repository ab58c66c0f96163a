"""The gateway: the peer of tunnels, which resumes their sessions and calls handlers.

Theory of operation
-------------------

One event loop in one thread reads and writes all connections. A connection that negotiated sessions
(the header `Tunnel-Resume`) carries a `ResumableChannel`, any other WebSocket client a
`PlainChannel`; a channel calls the handlers and sends what they return. Handlers that may take time
run in pools of threads. Nothing waits without a bound: see `GatewaySettings`.

To stop, the gateway accepts nobody and takes nothing new; it finishes what it has received, sends
the answers, waits until the clients have acknowledged them, and closes with 1012 (service restart).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from contextlib import suppress
from typing import Any

from loguru import logger
from websockets.asyncio.server import Server, ServerConnection, serve

from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.gateway.admission import Admission
from tunnel.gateway.auth import Authenticate, anybody
from tunnel.gateway.channel import Surroundings
from tunnel.gateway.connection import BUFFER_SIZE, GatewayConnection
from tunnel.gateway.forwarding import HttpForwarder
from tunnel.gateway.handlers import Handler, RequestHandling, handling_of
from tunnel.gateway.liveness import Liveness, Verdict
from tunnel.gateway.pool import Pool
from tunnel.gateway.reception import Reception
from tunnel.gateway.resumable import ResumableChannel
from tunnel.gateway.settings import GatewaySettings
from tunnel.session_frames import max_frame_size

SERVICE_RESTART = 1012
_CLOSE_TIMEOUT = 2.0  # seconds that a client has to answer a close frame
_THREADS_END = 1.0  # seconds that threads get to end, at least
_BACKLOG = 2048  # who wait to be accepted; who finds no room tries again in 1 s, in 3 s, in 7 s
_CHECKERS = 8  # threads that check tokens
_LONGEST_NAP = 5.0  # seconds between two looks at connections and sessions
_SHORTEST_NAP = 0.01

# Our own log says what there is to say. What websockets logs at its finest contains tokens.
_SILENCE = logging.Logger("tunnel.gateway.websockets", logging.CRITICAL + 1)


class Gateway:
    """A server for tunnels and plain WebSocket clients.

    All methods belong to the event loop's thread. See `GatewayThread` for programs without a loop.

    Args:
        handler: ``echo``, ``sink``, ``MODULE:NAME``, or a callable; see `tunnel.gateway.handlers`.
        host: Where to listen; an address or a name.
        port: Where to listen; 0: any that is free.
        authenticate: From a token and headers to a user; see `tunnel.gateway.auth`. None: everybody
            comes in.
        ssl_context: For wss.
        forward: The URL of an HTTP service that answers requests, in the handler's place.
        clock: Measures how long sessions are kept.
        **settings: What `GatewaySettings` has.

    Raises:
        ConfigurationError: The handler, the URL or a setting is wrong.
    """

    def __init__(
        self,
        handler: str | Handler = "echo",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        authenticate: Authenticate | None = None,
        ssl_context: ssl.SSLContext | None = None,
        forward: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        **settings: Any,
    ) -> None:
        self.settings = GatewaySettings(**settings)
        messages, requests = handling_of(handler)
        self._forwarder = None
        if forward is not None:
            self._forwarder = HttpForwarder(
                forward,
                timeout=self.settings.request_timeout,
                max_request=self.settings.max_request_size,
            )
            requests = RequestHandling(self._forwarder.answer, False)
        self._message_pool = Pool(self.settings.workers, "tunnel-gateway-messages")
        self._request_pool = Pool(self.settings.workers, "tunnel-gateway-requests")
        self._check_pool = Pool(_CHECKERS, "tunnel-gateway-checks")
        self._surroundings = Surroundings(
            self.settings, messages, requests, self._message_pool, self._request_pool
        )
        self._admission = Admission(authenticate or anybody, self._check_pool)
        self._clock = clock
        self._host, self._port = host, port
        self._ssl_context = ssl_context
        self._connections: set[GatewayConnection] = set()
        self._server: Server | None = None
        self._reception: Reception | None = None
        self._nap: asyncio.TimerHandle | None = None
        self._due_at = 0.0
        self._quiet: asyncio.Event | None = None  # while stopping: nothing is under way any more
        self._hurries = False  # ... and nobody waits for that
        self._stopped: asyncio.Event | None = None
        self._all_lost: asyncio.Event

    @property
    def port(self) -> int:
        """Where it listens; before `start` as given."""
        return self._port

    @property
    def url(self) -> str:
        """What clients connect to."""
        scheme = "ws" if self._ssl_context is None else "wss"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._port}/"

    def statistics(self) -> dict[str, int]:
        """How much there is of what, now and so far."""
        reception = self._reception
        if reception is None:
            return {}
        channels = [c for c in reception.channels if isinstance(c, ResumableChannel)]
        sessions = [channel.session for channel in channels]
        return {
            "connections": len(self._connections),
            "sessions": len(reception.store),
            "detached": reception.store.detached,
            "detached_bytes": reception.store.detached_bytes,
            "held_bytes": sum(channel.held for channel in channels),
            "replayed": reception.replayed + sum(s.replayed for s in sessions),
            "duplicates_dropped": reception.duplicates + sum(s.duplicates for s in sessions),
        }

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address cannot be listened at; a sentence.
        """
        settings = self.settings
        self._stopped, self._all_lost = asyncio.Event(), asyncio.Event()
        self._all_lost.set()
        self._reception = Reception(self._surroundings, self._clock)
        try:
            self._server = await serve(
                self._serve,
                self._host,
                self._port,
                create_connection=self._connection,  # type: ignore[arg-type]  # it makes one
                process_request=self._admission.decide,
                process_response=self._admission.negotiate,
                compression=None,
                server_header=None,
                open_timeout=settings.open_timeout,
                close_timeout=_CLOSE_TIMEOUT,
                ping_interval=None,
                max_size=max_frame_size(settings.max_message_size),
                max_queue=(4, 0),
                write_limit=(BUFFER_SIZE, 0),
                backlog=_BACKLOG,
                logger=_SILENCE,
                ssl=self._ssl_context,
            )
        except OSError as error:
            why = error.strerror or str(error)
            raise OSError(f"cannot listen on {self._host}, port {self._port}: {why}") from None
        self._port = next(iter(self._server.sockets)).getsockname()[1]
        self._due_at = asyncio.get_running_loop().time()
        self._look_after()
        logger.info("listening on {}", self.url)

    async def serve(self) -> None:
        """Listen until `stop` is called; cancelled, it stops at once."""
        await self.start()
        try:
            await self.wait_stopped()
        finally:
            await self.stop(drain=False)

    async def wait_stopped(self) -> None:
        """Wait until `stop` has done its work."""
        assert self._stopped is not None, "it was not started"
        await self._stopped.wait()

    async def stop(self, *, drain: bool = True) -> None:
        """Listen no more, and end all connections. The gateway cannot be started again.

        Args:
            drain: Whether to finish what is under way before, for `drain_timeout` seconds at most.
                Called with False while it is being finished, it ends that.
        """
        if self._server is None or self._stopped is None or self._reception is None:
            return  # it was never started
        server, reception = self._server, self._reception
        deadline = asyncio.get_running_loop().time() + self.settings.drain_timeout
        if self._quiet is not None:
            if not drain:
                self._hurries = True
                self._quiet.set()
            await self._stopped.wait()
            return
        self._quiet = asyncio.Event()
        self._hurries = not drain
        server.close(close_connections=False)
        if drain:
            await self._drain(reception, self._quiet, deadline)
            closing = [c.close(SERVICE_RESTART, "the gateway stops") for c in self._connections]
            await asyncio.gather(*closing, return_exceptions=True)
        for connection in tuple(self._connections):
            connection.abort()
        reception.close()
        if self._nap is not None:
            self._nap.cancel()
        remaining = 0.0 if self._hurries else deadline - asyncio.get_running_loop().time()
        await asyncio.to_thread(self._stop_threads, max(remaining, _THREADS_END))
        await server.wait_closed()
        await self._all_lost.wait()
        self._stopped.set()

    async def _drain(self, reception: Reception, quiet: asyncio.Event, deadline: float) -> None:
        logger.info("stopping: {} connections", len(self._connections))
        for connection in tuple(self._connections):
            if not connection.is_open:
                connection.abort()
        reception.drain(quiet.set)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(quiet.wait(), deadline - asyncio.get_running_loop().time())
            return
        logger.warning("not everything could be finished within {} s", self.settings.drain_timeout)

    def _stop_threads(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        if self._forwarder is not None:
            self._forwarder.close()
        for pool in (self._message_pool, self._request_pool, self._check_pool):
            if not pool.stop(max(0.0, deadline - time.monotonic())):
                logger.warning("a handler does not return; its thread is left behind")

    def _connection(self, *args: Any, **options: Any) -> GatewayConnection:
        now = asyncio.get_running_loop().time()
        liveness = Liveness(self.settings.ping_interval, self.settings.ping_timeout, now)
        return GatewayConnection(
            *args, liveness=liveness, on_made=self._made, on_lost=self._lost, **options
        )

    def _made(self, connection: GatewayConnection) -> None:
        self._connections.add(connection)
        self._all_lost.clear()
        if self._quiet is not None:  # it was accepted just before the gateway began to stop
            connection.abort()

    def _lost(self, connection: GatewayConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_lost.set()

    async def _serve(self, connection: ServerConnection) -> None:
        assert isinstance(connection, GatewayConnection)
        assert self._reception is not None
        try:
            await self._reception.serve(connection)
        except Exception:
            logger.exception("a connection could not be served")
            raise

    def _look_after(self) -> None:
        """Look for connections that are dead, and for sessions whose time is over."""
        assert self._reception is not None
        loop = asyncio.get_running_loop()
        now, timeout = loop.time(), self.settings.ping_timeout
        # A process that was suspended, or a loop that was held up, has not heard what came.
        was_away = now - self._due_at > min(1.0, timeout / 4)
        for connection in tuple(self._connections):
            if connection.is_held or was_away:
                connection.liveness.forgive(now)
            verdict = connection.liveness.look(now, connection.written, connection.pending)
            if verdict is Verdict.PING:
                connection.send_ping()
            elif verdict is Verdict.GIVE_UP:
                logger.info("{} does not answer; its connection is given up", connection.peer)
                connection.abort()
        self._reception.expire()
        settings = self.settings
        nap = min(_LONGEST_NAP, settings.ping_interval / 4, timeout / 4, settings.session_keep)
        expiry = self._reception.store.next_expiry
        if expiry is not None:
            nap = min(nap, expiry - self._clock.monotonic())
        nap = max(nap, _SHORTEST_NAP)
        self._due_at = now + nap
        self._nap = loop.call_later(nap, self._look_after)
