"""A session at the server's end, over links that a test holds in its hands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tunnel.gateway.channel import Channel, Surroundings
from tunnel.gateway.handlers import handling_of
from tunnel.gateway.pool import Pool
from tunnel.gateway.resumable import ACKNOWLEDGE_AFTER, REPLACED, ResumableChannel
from tunnel.gateway.settings import GatewaySettings
from tunnel.secrets import Secret
from tunnel.session_frames import (
    FrameKind,
    Limits,
    Open,
    Resume,
    Resumed,
    SessionViolation,
    encode,
    numbered_header,
    read_answer,
)

LIMITS = Limits(100, 100_000, 10_000)


class Link:
    """A connection that only remembers."""

    def __init__(self) -> None:
        self.written: list[str | bytes] = []
        self.closed: list[tuple[int, str]] = []
        self.is_writable = True
        self.on_writable: Callable[[], None] | None = None
        self.pending = 0

    def write(self, messages: list[str | bytes]) -> None:
        assert self.is_writable
        self.written += messages

    def start_closing(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))

    def frames(self) -> list[tuple[int, int, bytes]]:
        """Kind, number and payload of what was written since the answer to the greeting."""
        written = [frame for frame in self.written[1:] if isinstance(frame, bytes)]
        return [(f[0], int.from_bytes(f[1:5], "big"), f[5:]) for f in written]


class Stage:
    """A channel with a first link, opened."""

    def __init__(self, handler: str = "echo", **settings: Any) -> None:
        messages, requests = handling_of(handler)
        pool = Pool(1, "never-started")
        surroundings = Surroundings(GatewaySettings(**settings), messages, requests, pool, pool)
        self.turns: list[Channel] = []
        self.channel = ResumableChannel(os.urandom(16), "user", surroundings, self.turns.append)
        self.token = Secret("ab" * 32)
        self.link = Link()
        self.channel.open(Open(LIMITS), self.token, self.link)  # type: ignore[arg-type]

    def receive(self, kind: FrameKind, number: int, payload: bytes = b"") -> bool:
        frame = numbered_header(kind, number) + payload
        return self.channel.receive(self.link, frame)  # type: ignore[arg-type]

    def resume(self, received: int) -> Link:
        link = Link()
        greeting = Resume(self.channel.identity, self.token, received)
        self.channel.resume(greeting, link)  # type: ignore[arg-type]
        return link


async def settle() -> None:
    """Let all turns that are due happen."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_a_message_goes_round() -> None:
    """It is handled in the next turn, and what the handler returns is written in it."""

    async def scenario() -> None:
        stage = Stage()
        assert stage.receive(FrameKind.TEXT, 1, b"one")
        assert stage.link.frames() == []
        await settle()
        assert stage.link.frames() == [(FrameKind.TEXT, 1, b"one")]
        assert stage.turns

    run(scenario)


def test_an_old_link_counts_no_more() -> None:
    """Once another carries the session nothing from the old one is taken, and it is closed."""

    async def scenario() -> None:
        stage = Stage()
        new = stage.resume(0)
        ((code, reason),) = stage.link.closed
        assert code == REPLACED
        assert "another connection" in reason
        assert not stage.receive(FrameKind.TEXT, 1, b"late")
        assert stage.link.on_writable is None
        await settle()
        assert stage.channel.session.received == 0
        assert [read_answer(new.written[0])] == [Resumed(0, 0)]
        assert not stage.channel.detach(stage.link)  # type: ignore[arg-type]
        assert stage.channel.link is new

    run(scenario)


def test_a_congested_link_is_left_alone() -> None:
    """Nothing is numbered for it until it takes more; then everything goes out."""

    async def scenario() -> None:
        stage = Stage()
        stage.link.is_writable = False
        stage.receive(FrameKind.TEXT, 1, b"one")
        await settle()
        assert stage.channel.session.last_number == 0
        stage.link.is_writable = True
        assert stage.link.on_writable is not None
        stage.link.on_writable()
        await settle()
        assert stage.link.frames() == [(FrameKind.TEXT, 1, b"one")]

    run(scenario)


def test_what_was_missed_goes_first() -> None:
    """After a resume the replay comes before what is new, and only what is missing."""

    async def scenario() -> None:
        stage = Stage()
        for number in (1, 2, 3):
            stage.receive(FrameKind.TEXT, number, b"%d" % number)
        await settle()
        assert stage.channel.detach(stage.link)  # type: ignore[arg-type]
        stage.channel.outbox.put("new")
        new = stage.resume(2)
        await settle()
        sent = [frame for frame in new.frames() if frame[0] == FrameKind.TEXT]
        assert sent == [(FrameKind.TEXT, 3, b"3"), (FrameKind.TEXT, 4, b"new")]

    run(scenario)


@pytest.mark.parametrize("is_draining", [False, True])
def test_acknowledgements_wait_a_little(is_draining: bool) -> None:
    """A single message is acknowledged by a timer; at once if the gateway stops."""

    async def scenario() -> None:
        stage = Stage("sink")
        stage.receive(FrameKind.TEXT, 1, b"one")
        if is_draining:
            stage.channel.drain()
        await settle()
        acknowledged = [(FrameKind.ACK, 1, b"")]
        assert stage.link.frames() == (acknowledged if is_draining else [])
        await asyncio.sleep(2 * ACKNOWLEDGE_AFTER)
        assert stage.link.frames() == acknowledged

    run(scenario)


def test_the_timer_of_a_lost_session_does_nothing() -> None:
    """What was to be acknowledged dies with the session."""

    async def scenario() -> None:
        stage = Stage("sink")
        stage.receive(FrameKind.TEXT, 1, b"one")
        await settle()
        stage.channel.lose("for a test")
        await asyncio.sleep(2 * ACKNOWLEDGE_AFTER)
        assert stage.link.frames() == []
        assert stage.channel.is_over
        assert stage.channel.held == 0

    run(scenario)


def test_a_stopping_gateway_takes_nothing_new() -> None:
    """Messages are ignored, acknowledgements and questions are not."""

    async def scenario() -> None:
        stage = Stage()
        stage.receive(FrameKind.TEXT, 1, b"one")
        await settle()
        stage.channel.drain()
        await settle()
        assert not stage.channel.is_quiet
        assert stage.receive(FrameKind.TEXT, 2, b"two")
        assert stage.channel.session.received == 1
        assert stage.receive(FrameKind.ACK, 1)
        await settle()
        assert stage.channel.is_quiet

    run(scenario)


def test_pings_in_text() -> None:
    """However many came since the last turn, one pong answers them; no other text is allowed."""

    async def scenario() -> None:
        stage = Stage()
        for _ in range(3):
            assert stage.channel.receive(stage.link, "ping")  # type: ignore[arg-type]
        await settle()
        assert stage.link.written[1:] == ["pong"]
        with pytest.raises(SessionViolation):
            stage.channel.receive(stage.link, "pong")  # type: ignore[arg-type]

    run(scenario)


def test_the_end_by_the_client() -> None:
    """After END nothing more is read from the link."""

    async def scenario() -> None:
        stage = Stage()
        assert not stage.channel.receive(stage.link, encode_end())  # type: ignore[arg-type]
        stage.channel.end_by_client()
        await settle()
        assert stage.channel.is_over

    run(scenario)


def encode_end() -> bytes:
    return bytes([FrameKind.END])


def test_an_opening_is_answered() -> None:
    """With the id, the token, the time for which it is kept, and our limits."""

    async def scenario() -> None:
        stage = Stage(session_keep=7.9, max_unacknowledged=50, max_message_size=1234)
        opened = read_answer(stage.link.written[0])  # type: ignore[arg-type]
        expected = stage.channel.session
        assert encode(opened) == stage.link.written[0]
        assert (opened.id, opened.token) == (expected.id, stage.token)  # type: ignore[union-attr]
        assert opened.kept_for == 7  # type: ignore[union-attr]
        assert opened.limits == Limits(50, 4 * 2**20, 1234)  # type: ignore[union-attr]

    run(scenario)


def test_a_short_time_is_not_told_as_none() -> None:
    """Whole seconds are told, and 0 would mean that the session is not kept at all."""

    async def scenario() -> None:
        opened = read_answer(Stage(session_keep=0.5).link.written[0])  # type: ignore[arg-type]
        assert opened.kept_for == 1  # type: ignore[union-attr]

    run(scenario)
