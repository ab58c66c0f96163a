"""Every message exactly once, in order, however often and wherever the link is cut."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

import pytest
import websockets
from gateway_client import TunnelClient

from tunnel.gateway import GatewaySession, GatewayThread
from tunnel.session import Item
from tunnel.session_frames import Resumed
from tunnel.testing import FaultProxy

SEEDS = range(4)


class CuttingProxy:
    """Forwards to a port, and breaks every connection after a random number of bytes.

    Bytes of both directions count, so a cut falls anywhere: into the handshakes, into a frame,
    between two.
    """

    def __init__(self, target: int, rng: random.Random, most: int) -> None:
        self._target = target
        self._rng = rng
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts = 0
        self.cutting = True

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = [self._rng.randrange(self._most)]
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)

        def cut() -> None:
            for end in (writer, far_writer):
                end.transport.abort()

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(4096):
                    if self.cutting:
                        left[0] -= len(data)
                    if left[0] < 0:
                        target.write(data[: left[0]])
                        self.cuts += 1
                        break
                    target.write(data)
                    await target.drain()
            cut()

        ways = ((reader, far_writer), (far_reader, writer))
        tasks = [asyncio.create_task(pass_on(*way)) for way in ways]
        self._tasks.update(tasks)
        try:
            await asyncio.wait(tasks)
        finally:
            self._tasks.difference_update(tasks)
            cut()


def items(rng: random.Random, count: int) -> list[Item]:
    """Numbered messages, text and binary, of sizes over several orders of magnitude."""
    made: list[Item] = []
    for number in range(count):
        size = int(10 ** rng.uniform(0, 3.5))
        text = f"{number}:" + "ü" * size
        made.append(text if rng.random() < 0.5 else text.encode())
    return made


async def talk(client: TunnelClient, done: asyncio.Event) -> tuple[int, int]:
    """Come back after every cut, until `done`. Returns how often it resumed, and could not."""
    resumed = failed = 0
    while not done.is_set():
        try:
            answer = await client.connect()
        except (OSError, websockets.WebSocketException, EOFError):
            client.session.detach()
            failed += 1
            continue
        resumed += isinstance(answer, Resumed)
        closed = asyncio.create_task(client.until_closed())
        finished = asyncio.create_task(done.wait())
        await asyncio.wait((closed, finished), return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        finished.cancel()
    return resumed, failed


@pytest.mark.requirement("1.7")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("handler", ["echo", "thread"])
def test_exactly_once_in_order_through_cuts(handler: str, seed: int) -> None:
    """Thousands of messages through a proxy that cuts anywhere: each comes back once, in order."""
    rng = random.Random(seed)
    sent = items(rng, 2000)
    seen: list[Item] = []

    def own(session: GatewaySession, message: Item) -> Item:
        seen.append(message)
        return message

    async def scenario(port: int) -> None:
        async with CuttingProxy(port, rng, 400_000) as proxy:
            client = TunnelClient(f"ws://127.0.0.1:{proxy.port}/")
            done = asyncio.Event()
            talking = asyncio.create_task(talk(client, done))
            client.send(*sent)
            await client.until(lambda: len(client.received) >= len(sent), 50)
            assert client.received == sent
            done.set()
            resumed, _ = await talking
            assert resumed > 5
            assert proxy.cuts >= resumed
            await client.close()

    with GatewayThread("echo" if handler == "echo" else own) as gateway:
        asyncio.run(scenario(gateway.port))
    if handler == "thread":
        assert seen == sent


@pytest.mark.requirement("1.7")
def test_both_ends_send_at_once_through_cuts() -> None:
    """What handlers send by themselves survives cuts as well as what they return does."""
    rng = random.Random(7)
    ours, theirs = items(rng, 1500), items(rng, 1500)
    seen: list[Item] = []

    def handler(session: GatewaySession, message: Item) -> None:
        if not seen:
            for item in theirs:
                session.send(item)
        seen.append(message)

    async def scenario(port: int) -> None:
        async with CuttingProxy(port, rng, 300_000) as proxy:
            client = TunnelClient(f"ws://127.0.0.1:{proxy.port}/")
            done = asyncio.Event()
            talking = asyncio.create_task(talk(client, done))
            client.send(*ours)
            await client.until(lambda: len(client.received) >= len(theirs), 50)
            await client.until(lambda: client.session.acknowledged >= len(ours), 50)
            assert client.received == theirs
            done.set()
            await talking
            await client.close()

    with GatewayThread(handler, max_outgoing=50) as gateway:
        asyncio.run(scenario(gateway.port))
    assert seen == ours


@pytest.fixture
def silent_proxy() -> Iterator[tuple[GatewayThread, FaultProxy]]:
    """A gateway behind a proxy that can swallow everything."""
    with GatewayThread() as gateway, FaultProxy(gateway.port) as proxy:
        yield gateway, proxy


def test_a_half_open_link_does_not_stand_in_the_way(
    silent_proxy: tuple[GatewayThread, FaultProxy],
) -> None:
    """The gateway has not noticed that the old link is dead; the session is resumed at once."""
    gateway, proxy = silent_proxy

    async def scenario() -> None:
        client = TunnelClient(f"ws://127.0.0.1:{proxy.port}/")
        await client.connect()
        client.send("one")
        await client.until_received(1)
        with proxy.silent():
            client.send("two")
            await client.cut()
            client.url = gateway.url
            assert isinstance(await client.connect(), Resumed)
            assert await client.until_received(2) == ["one", "two"]
        await client.close()

    asyncio.run(scenario())
