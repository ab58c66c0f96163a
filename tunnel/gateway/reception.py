"""Connections that came in: which session each one carries, from its first frame to its end.

A session is found by its id and given to who knows its token and is its user. To anybody else it
does not exist: an unknown id, a wrong token and another's session have one and the same answer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from loguru import logger
from websockets.exceptions import ConnectionClosed

from tunnel.clock import Clock
from tunnel.gateway.admission import wants_session
from tunnel.gateway.channel import Channel, PlainChannel, Surroundings
from tunnel.gateway.connection import GatewayConnection
from tunnel.gateway.resumable import ResumableChannel
from tunnel.gateway.session_store import SessionStore, StoreFull
from tunnel.secrets import Secret
from tunnel.session_frames import (
    ID_SIZE,
    TOKEN_SIZE,
    Gone,
    Greeting,
    Open,
    Resume,
    SessionViolation,
    encode,
    read_greeting,
)

NORMAL_CLOSURE, PROTOCOL_ERROR, TRY_AGAIN_LATER = 1000, 1002, 1013
_GONE = Gone("there is no such session")
_FRAMES_AT_A_TIME = 256  # then others have their turn


class Reception:
    """Serves connections, and knows the sessions. For the event loop's thread.

    Args:
        surroundings: Of the gateway.
        clock: Measures how long sessions are kept.

    Attributes:
        store: The sessions, and plain connections.
        channels: The same, and those that are over while something of them is still handled.
        replayed: Frames sent again, by sessions that are over.
        duplicates: Frames dropped because they had been here, likewise.
    """

    def __init__(self, surroundings: Surroundings, clock: Clock) -> None:
        self._surroundings = surroundings
        self._settings = settings = surroundings.settings
        self.store: SessionStore[Channel] = SessionStore(
            clock,
            keep=settings.session_keep,
            max_sessions=settings.max_sessions,
            max_per_user=settings.max_sessions_per_user,
            max_detached_bytes=settings.max_detached_bytes,
        )
        self.channels: set[Channel] = set()
        self.replayed = 0
        self.duplicates = 0
        self._when_quiet: Callable[[], None] | None = None
        self._nobodys_token = Secret(os.urandom(TOKEN_SIZE).hex())

    async def serve(self, connection: GatewayConnection) -> None:
        """Serve a connection until it is closed."""
        code, reason = NORMAL_CLOSURE, ""
        try:
            if wants_session(connection.request):
                await self._serve_sessions(connection)
            else:
                await self._serve_plain(connection)
        except ConnectionClosed:
            return
        except SessionViolation as violation:
            logger.warning("{} broke the protocol: {}", connection.peer, violation)
            code, reason = PROTOCOL_ERROR, str(violation)
        except StoreFull as error:
            logger.warning("{} of {} was refused: {}", connection.peer, connection.user, error)
            code, reason = TRY_AGAIN_LATER, str(error)
        await connection.finish(code, reason)

    # Sessions

    async def _serve_sessions(self, connection: GatewayConnection) -> None:
        greeting: Greeting | None = await self._first_frame(connection)
        while greeting is not None:
            channel = await self._greet(connection, greeting)
            has_left = await self._serve_session(connection, channel)
            if not (has_left and isinstance(greeting, Resume)):
                return
            greeting = await self._next_greeting(connection)

    async def _serve_session(
        self, connection: GatewayConnection, channel: ResumableChannel
    ) -> bool:
        """Serve a session. Returns whether all that the client did on this link was to end it."""
        try:
            return await self._read(connection, channel)
        except SessionViolation as violation:
            if channel.link is connection:
                self._lose(channel, f"the client broke the protocol: {violation}")
            raise
        finally:
            if channel.detach(connection):
                self._drop_all(self.store.detach(channel.identity, channel.held))

    async def _read(self, connection: GatewayConnection, channel: ResumableChannel) -> bool:
        count = 0
        while channel.receive(connection, await connection.recv()):
            count += 1
            if count % _FRAMES_AT_A_TIME == 0:
                await asyncio.sleep(0)  # `recv` does not wait while there is something to read
        if channel.link is connection:
            self._take_out(channel)
            channel.end_by_client()
            return not count
        return False

    async def _greet(self, connection: GatewayConnection, greeting: Greeting) -> ResumableChannel:
        """Open or resume a session, as the client asks.

        Raises:
            ConnectionClosed: The client has gone.
            SessionViolation: It did not ask in the right way, or in time.
            StoreFull: There are too many sessions.
        """
        if isinstance(greeting, Resume):
            channel = self._find(greeting, connection.user)
            if channel is not None:
                channel.resume(greeting, connection)
                self.store.attach(channel.identity)
                logger.info("session {} is resumed by {}", channel.name, connection.peer)
                return channel
            connection.write([encode(_GONE)])
            greeting = await self._first_frame(connection)
            if isinstance(greeting, Resume):
                raise SessionViolation("RESUME after GONE")
        return self._open(greeting, connection)

    async def _next_greeting(self, connection: GatewayConnection) -> Greeting | None:
        """The OPEN of a client that has not accepted the resumption; None: it wants no more."""
        try:
            frame = await asyncio.wait_for(connection.recv(), self._settings.open_timeout)
        except asyncio.TimeoutError:
            return None
        greeting = read_greeting(frame) if isinstance(frame, bytes) else None
        if not isinstance(greeting, Open):
            raise SessionViolation("another frame than OPEN after END")
        return greeting

    async def _first_frame(self, connection: GatewayConnection) -> Greeting:
        timeout = self._settings.open_timeout
        try:
            frame = await asyncio.wait_for(connection.recv(), timeout)
        except asyncio.TimeoutError:
            raise SessionViolation(f"no OPEN or RESUME within {timeout:g} s") from None
        if isinstance(frame, str):
            raise SessionViolation("a text message where OPEN or RESUME belongs")
        return read_greeting(frame)

    def _find(self, greeting: Resume, user: str) -> ResumableChannel | None:
        channel = self.store.find(greeting.id)
        token = self._nobodys_token  # so that an unknown id takes as long as a wrong token
        if isinstance(channel, ResumableChannel) and channel.session.token is not None:
            token = channel.session.token
            is_own = channel.user == user
        else:
            is_own = False
        return channel if greeting.token == token and is_own else None  # type: ignore[return-value]

    def _open(self, greeting: Open, connection: GatewayConnection) -> ResumableChannel:
        channel = ResumableChannel(
            os.urandom(ID_SIZE), connection.user, self._surroundings, self._after_turn
        )
        self._add(channel)
        channel.open(greeting, Secret(os.urandom(TOKEN_SIZE).hex()), connection)
        logger.info("session {} of {} is opened by {}", channel.name, channel.user, connection.peer)
        return channel

    # Plain connections

    async def _serve_plain(self, connection: GatewayConnection) -> None:
        channel = PlainChannel(
            os.urandom(ID_SIZE), connection, self._surroundings, self._after_turn
        )
        self._add(channel)
        count = 0
        try:
            while True:
                await channel.receive(await connection.recv())
                count += 1
                if count % _FRAMES_AT_A_TIME == 0:
                    await asyncio.sleep(0)
        finally:
            connection.on_writable = None
            self._take_out(channel)
            channel.lost_link()

    # What becomes of them

    def expire(self) -> None:
        """Forget the sessions whose time is over."""
        for channel in self.store.expired():
            self._drop(channel, "its client did not come back in time")

    def drain(self, when_quiet: Callable[[], None]) -> None:
        """Take nothing new from clients.

        Args:
            when_quiet: Called once nothing is under way any more; perhaps now, perhaps never.
        """
        self._when_quiet = when_quiet
        for channel in self.channels:
            channel.drain()
        self._look_for_quiet()

    def close(self) -> None:
        """Handle nothing any more, and forget all."""
        for channel in tuple(self.channels):
            channel.drop()

    def _add(self, channel: Channel) -> None:
        self._drop_all(self.store.add(channel.identity, channel.user, channel))
        self.channels.add(channel)

    def _take_out(self, channel: Channel) -> None:
        if self.store.find(channel.identity) is not None:
            self.store.remove(channel.identity)

    def _lose(self, channel: ResumableChannel, reason: str) -> None:
        self._take_out(channel)
        channel.lose(reason)

    def _drop_all(self, channels: list[Channel]) -> None:
        for channel in channels:
            self._drop(channel, "there was no room for it any more")

    def _drop(self, channel: Channel, reason: str) -> None:
        assert isinstance(channel, ResumableChannel)  # a plain one is never detached
        channel.lose(reason)

    def _after_turn(self, channel: Channel) -> None:
        if isinstance(channel, ResumableChannel):
            if channel.is_over:
                self._take_out(channel)
            elif channel.link is None:
                self._drop_all(self.store.resize(channel.identity, channel.held))
        if channel.is_over and channel.dispatcher.is_idle and channel in self.channels:
            self.channels.discard(channel)
            if isinstance(channel, ResumableChannel):
                self.replayed += channel.session.replayed
                self.duplicates += channel.session.duplicates
        self._look_for_quiet()

    def _look_for_quiet(self) -> None:
        if self._when_quiet is not None and all(channel.is_quiet for channel in self.channels):
            self._when_quiet()
