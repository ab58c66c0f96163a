"""Clients that have vanished, and those that only seem so."""

from __future__ import annotations

import asyncio

import pytest
from gateway_client import TunnelClient
from websockets.asyncio.client import connect

from tunnel.gateway import GatewayThread
from tunnel.session_frames import Resumed
from tunnel.testing import FaultProxy

QUICK = {"ping_interval": 0.1, "ping_timeout": 0.2}


def test_the_default_notices_within_a_minute() -> None:
    """20 s of silence, 20 s for an answer, and looking every 5 s is less than 60 s."""
    settings = GatewayThread()._gateway.settings
    assert settings.ping_interval + settings.ping_timeout + 2 * 5.0 < 60.0


@pytest.mark.requirement("1.6")
def test_a_stale_connection_is_removed() -> None:
    """A client that answers no ping loses its connection; its session waits for it."""

    async def scenario(gateway: GatewayThread, proxy: FaultProxy) -> None:
        client = TunnelClient(f"ws://127.0.0.1:{proxy.port}/")
        await client.connect()
        client.send("one")
        await client.until_received(1)
        with proxy.silent():
            while gateway.statistics()["connections"]:
                await asyncio.sleep(0.005)
            assert gateway.statistics()["detached"] == 1
        await client.until_closed()
        client.url = gateway.url
        assert isinstance(await client.connect(), Resumed)
        await client.close()

    with GatewayThread(**QUICK) as gateway, FaultProxy(gateway.port) as proxy:
        asyncio.run(scenario(gateway, proxy))


def test_a_plain_one_too() -> None:
    """Without a session it is removed the same way."""

    async def scenario(gateway: GatewayThread, proxy: FaultProxy) -> None:
        async with connect(f"ws://127.0.0.1:{proxy.port}/"):
            with proxy.silent():
                while gateway.statistics()["connections"]:
                    await asyncio.sleep(0.005)
            assert gateway.statistics()["sessions"] == 0

    with GatewayThread(**QUICK) as gateway, FaultProxy(gateway.port) as proxy:
        asyncio.run(scenario(gateway, proxy))


@pytest.mark.requirement("6.3")
def test_a_quiet_client_that_answers_pings_stays() -> None:
    """One that says nothing but pong is alive; and its own pings are answered at once."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            assert client.ws is not None
            for _ in range(5):
                await asyncio.sleep(0.1)
                latency = await asyncio.wait_for(await client.ws.ping(), 5)
                assert latency < 5
            assert client.close_code is None

    with GatewayThread(**QUICK) as gateway:
        asyncio.run(scenario(gateway))
