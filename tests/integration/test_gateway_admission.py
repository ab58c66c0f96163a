"""Who comes in, and what the others are told; TLS."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_client import TunnelClient
from loguru import logger
from peers import DEADLINE
from websockets.exceptions import InvalidStatus

from tunnel.errors import (
    AuthenticationFailedError,
    InvalidCredentialsError,
    TokenExpiredError,
    TunnelError,
)
from tunnel.gateway import GatewayThread, TokenFile
from tunnel.handshake_errors import error_for_status

SECRET = "s3cret-token"


def refusal(url: str, **headers: str) -> tuple[InvalidStatus, TunnelError]:
    """How a client is refused: the answer, and what our own client makes of it."""

    async def dial() -> None:
        client = TunnelClient(url)
        client.headers = headers
        await client.dial()

    with pytest.raises(InvalidStatus) as info:
        asyncio.run(dial())
    response = info.value.response
    return info.value, error_for_status(response.status_code, dict(response.headers.raw_items()))


def served(url: str, token: str | None) -> None:
    """A client with this token is served."""

    async def talk() -> None:
        async with TunnelClient(url, token=token) as client:
            client.send("hello")
            await client.until_received(1)

    asyncio.run(talk())


@pytest.fixture
def log() -> list[str]:
    """What is logged meanwhile."""
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lines.append, level=0)
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


@pytest.mark.requirement("2.9")
def test_wrong_expired_and_missing_are_told_apart(log: list[str]) -> None:
    """Our client sees from the answer whether its token is wrong, has expired, or is missing."""

    def authenticate(token: str | None, headers: object) -> str:
        if token == SECRET + "-old":
            raise TokenExpiredError(f"the token {token} has expired")
        if token is None:
            raise AuthenticationFailedError("no token")
        raise InvalidCredentialsError(f"the token {token} is wrong")

    with GatewayThread(authenticate=authenticate) as gateway:
        for headers, expected in (
            ({}, AuthenticationFailedError),
            ({"Authorization": f"Bearer {SECRET}-old"}, TokenExpiredError),
            ({"Authorization": f"bearer  {SECRET}"}, InvalidCredentialsError),
            ({"Authorization": f"Basic {SECRET}"}, AuthenticationFailedError),
            ({"Authorization": "Bearer"}, AuthenticationFailedError),
        ):
            answer, error = refusal(gateway.url, **headers)
            assert answer.response.status_code == 401
            assert type(error) is expected
            assert SECRET.encode() not in (answer.response.body or b"")
    assert SECRET not in "".join(log)
    assert "was refused" in "".join(log)


@pytest.mark.parametrize("wrong", ["raises", "returns"])
def test_a_check_that_fails_is_no_refusal(wrong: str, log: list[str]) -> None:
    """If tokens cannot be checked the answer is 503, so that clients come again."""

    def authenticate(token: str | None, headers: object) -> str:
        if wrong == "raises":
            raise RuntimeError(f"database down, asked for {token}")
        return None  # type: ignore[return-value]

    with GatewayThread(authenticate=authenticate) as gateway:
        answer, error = refusal(gateway.url, Authorization=f"Bearer {SECRET}")
        assert answer.response.status_code == 503
        assert error.is_retryable
    assert SECRET not in "".join(log)


def test_a_slow_check_holds_up_nobody() -> None:
    """It runs in a thread of its own; and it sees the request's headers."""
    gate, entered, seen = threading.Event(), threading.Event(), []

    def authenticate(token: str | None, headers: dict[str, str]) -> str:
        if token == "slow":
            seen.append((headers["tunnel-resume"], repr(headers)))
            entered.set()
            gate.wait(DEADLINE)
        return "user"

    with GatewayThread(authenticate=authenticate) as gateway:
        slow = threading.Thread(target=served, args=(gateway.url, "slow"))
        slow.start()
        assert entered.wait(DEADLINE)
        served(gateway.url, "quick")
        gate.set()
        slow.join()
    assert seen[0][0] == "1"
    assert "slow" not in seen[0][1]


def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    """A token that is added is good at once, one that is removed is not any more."""
    path = tmp_path / "tokens"
    path.write_text("alice:first\n")
    with GatewayThread(authenticate=TokenFile(path)) as gateway:
        served(gateway.url, "first")
        assert isinstance(
            refusal(gateway.url, Authorization="Bearer second")[1], InvalidCredentialsError
        )
        path.write_text("# now another\n\nalice:second\n")
        served(gateway.url, "second")
        assert isinstance(
            refusal(gateway.url, Authorization="Bearer first")[1], InvalidCredentialsError
        )


def test_what_is_no_upgrade_is_refused() -> None:
    """A plain HTTP request gets an HTTP error, and leaves nothing behind."""

    async def ask(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return answer

    with GatewayThread() as gateway:
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        assert b" 426 " in asyncio.run(ask(gateway.port, request))
        assert asyncio.run(ask(gateway.port, b"nonsense\r\n\r\n")) == b""  # closed, no more
        served(gateway.url, None)


def test_a_connection_that_says_nothing_is_closed() -> None:
    """Who opens a connection and sends no request is not waited for."""

    async def wait(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        got = await asyncio.wait_for(reader.read(), DEADLINE)
        writer.close()
        return got

    with GatewayThread(open_timeout=0.05) as gateway:
        asyncio.run(wait(gateway.port))


def test_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """Over wss everything works as over ws: long messages, resuming, stopping."""

    async def scenario(url: str) -> None:
        assert url.startswith("wss://")
        client = TunnelClient(url, ssl_context=client_tls)
        await client.connect()
        messages = ["x" * 10, os.urandom(2**20), *map(str, range(2000))]
        client.send(*messages)
        assert await client.until_received(len(messages)) == messages
        await client.cut()
        client.send("again")
        await client.connect()
        await client.until_received(len(messages) + 1)
        await client.close()

    with GatewayThread(ssl_context=server_tls) as gateway:
        asyncio.run(scenario(gateway.url))


def test_a_token_is_shown_nowhere(log: list[str], tmp_path: Path) -> None:
    """Not in the log at its finest, nor in the text of anything."""
    path = tmp_path / "tokens"
    path.write_text(f"alice:{SECRET}\n")
    check: Callable[..., str] = TokenFile(path)
    with GatewayThread(authenticate=check) as gateway:
        served(gateway.url, SECRET)
        assert SECRET not in repr(vars(gateway))
    assert SECRET not in "".join(log)
    assert "alice" in "".join(log)
