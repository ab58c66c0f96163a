"""Stopping: what is under way is finished, clients are told, and nothing is left behind."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest
from gateway_client import TunnelClient
from peers import DEADLINE, Collector
from websockets.asyncio.client import connect

from tunnel.errors import ConfigurationError, InvalidStateError
from tunnel.gateway import Gateway, GatewaySession, GatewayThread
from tunnel.session_frames import Limits


def test_what_is_under_way_is_finished() -> None:
    """Messages and requests that arrived are handled, answered, acknowledged; then 1012."""
    gate, begun = threading.Event(), Collector()

    def handler(session: GatewaySession, item: Any) -> str:
        begun(item)
        gate.wait(DEADLINE)
        return "done"

    async def scenario() -> None:
        gateway = Gateway(handler)
        await gateway.start()
        async with TunnelClient(gateway.url) as client, connect(gateway.url) as plain:
            client.send("one", "two", "three")
            client.request(1)
            await plain.send("plain")
            answer = asyncio.create_task(plain.recv())
            assert await asyncio.to_thread(begun.wait, 3)
            stopping = asyncio.create_task(gateway.stop())
            await asyncio.sleep(0)
            client.send("too late")
            await plain.send("too late")
            gate.set()
            await client.until_closed()
            assert client.close_code == 1012
            assert len(client.received) == 4
            assert client.session.acknowledged == 4
            assert await answer == "done"
            await plain.wait_closed()
            assert plain.protocol.close_code == 1012
            await stopping
            assert "too late" not in begun.items
            with pytest.raises(OSError):
                await client.dial()

    asyncio.run(scenario())


def test_it_waits_until_clients_have_acknowledged() -> None:
    """Answers that are on their way are waited for, also those that had no room before."""

    async def scenario() -> None:
        gateway = Gateway("echo")
        await gateway.start()
        client = TunnelClient(gateway.url, limits=Limits(2, 1000, 1000))
        await client.connect()
        client.takes = False
        client.send(*map(str, range(10)))
        await client.until_received(2)
        stopping = asyncio.create_task(gateway.stop())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        client.takes = True
        client.session.take(2)
        client.flush()
        assert await client.until_received(10) == [str(number) for number in range(10)]
        await client.until_closed()
        assert client.session.unacknowledged == 0
        await stopping
        await client.close()

    asyncio.run(scenario())


def test_it_does_not_wait_for_ever() -> None:
    """A handler that does not return, and a client that does not read, cost the time limit."""
    gate, begun = threading.Event(), threading.Event()

    def handler(session: GatewaySession, message: str) -> None:
        begun.set()
        gate.wait(DEADLINE)

    async def scenario() -> None:
        gateway = Gateway(handler, drain_timeout=0.1)
        await gateway.start()
        async with TunnelClient(gateway.url) as client:
            client.send("one")
            await asyncio.to_thread(begun.wait, DEADLINE)
            await gateway.stop()
            await client.until_closed()
            assert client.close_code == 1012
            assert client.session.unacknowledged == 1
        gate.set()

    asyncio.run(scenario())


def test_a_drain_can_be_cut_short() -> None:
    """A second `stop`, which does not want to wait, ends the first."""
    gate, begun = threading.Event(), threading.Event()

    def handler(session: GatewaySession, message: str) -> None:
        begun.set()
        gate.wait(DEADLINE)

    async def scenario() -> None:
        gateway = Gateway(handler, drain_timeout=100.0)
        await gateway.start()
        async with TunnelClient(gateway.url) as client:
            client.send("one")
            await asyncio.to_thread(begun.wait, DEADLINE)
            first = asyncio.create_task(gateway.stop())
            await asyncio.sleep(0)
            second = asyncio.create_task(gateway.stop(drain=False))
            await client.until_closed()
            gate.set()
            await asyncio.gather(first, second)

    asyncio.run(scenario())


@pytest.mark.parametrize("drain", [True, False])
def test_nothing_is_left_behind(drain: bool) -> None:
    """Connections in every stage, detached sessions, idle threads: all are gone afterwards."""

    async def scenario(url: str, port: int) -> None:
        detached = TunnelClient(url)
        await detached.connect()
        await detached.cut()
        client, silent = TunnelClient(url), TunnelClient(url)
        await client.connect()
        client.send(*map(str, range(1000)))
        client.request(1)
        half_open = await silent.dial()
        plain = await connect(url)
        raw = socket.create_connection(("127.0.0.1", port))
        await client.until_received(1)
        await asyncio.to_thread(gateway.stop, drain=drain)
        await client.until_closed()
        for ws in (half_open, plain):
            await ws.close()
        raw.close()
        await client.close()

    with GatewayThread(lambda session, item: "x") as gateway:
        asyncio.run(scenario(gateway.url, gateway.port))
        assert gateway.statistics() == {}
    gateway.stop()  # once more does no harm


def test_a_plain_client_that_is_held_up_does_not_keep_it() -> None:
    """A reader that waits for room is let go."""
    gate = threading.Event()

    def handler(session: GatewaySession, message: bytes) -> None:
        gate.wait(DEADLINE)

    async def scenario(gateway: GatewayThread) -> None:
        async with connect(gateway.url) as ws:
            for _ in range(3):
                await ws.send(b"x" * 2000)
            await ws.ping()
            stopping = asyncio.create_task(asyncio.to_thread(gateway.stop, drain=False))
            await ws.wait_closed()
            gate.set()
            await stopping

    with GatewayThread(handler, max_unacknowledged_bytes=1000) as gateway:
        asyncio.run(scenario(gateway))


def test_it_can_be_started_again_on_its_port() -> None:
    """Another gateway takes the same port at once; sessions of the first are gone."""

    async def scenario(client: TunnelClient) -> str:
        answer = type(await client.connect()).__name__
        client.send("hello")
        await client.until_received(1)
        client.received.clear()
        await client.close()
        return answer

    with GatewayThread() as first:
        client = TunnelClient(first.url)
        assert asyncio.run(scenario(client)) == "Opened"
    with GatewayThread(port=first.port) as second:
        assert second.url == first.url
        assert asyncio.run(scenario(client)) == "Gone"


def test_a_port_that_is_taken_is_a_sentence() -> None:
    """Whoever starts a gateway where another listens is told so."""
    with GatewayThread() as first, pytest.raises(OSError, match="cannot listen on"):
        GatewayThread(port=first.port).start()


def test_mistakes_are_told_at_once() -> None:
    """Settings that make no sense, and starting twice."""
    with pytest.raises(ConfigurationError, match="max_sessions must be more than 0 and at most 2"):
        GatewayThread(max_sessions=0)
    with pytest.raises(ConfigurationError, match="ping_interval must be a number"):
        GatewayThread(ping_interval="20")
    with GatewayThread() as gateway, pytest.raises(InvalidStateError):
        gateway.start()


def test_serving_until_cancelled() -> None:
    """`serve` runs until `stop`, and stops when it is cancelled."""

    async def scenario() -> None:
        assert Gateway().statistics() == {}
        await Gateway().stop()
        for stops in (True, False):
            gateway = Gateway()
            serving = asyncio.create_task(gateway.serve())
            while gateway.port == 0:
                await asyncio.sleep(0)
            async with TunnelClient(gateway.url) as client:
                client.send("hello")
                await client.until_received(1)
                if stops:
                    await gateway.stop()
                    await serving
                else:
                    serving.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await serving
                await client.until_closed()

    asyncio.run(scenario())
