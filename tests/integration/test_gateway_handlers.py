"""Handlers of one's own: order, threads, failures, sending by themselves, and plain clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import websockets
from gateway_client import LIMITS, TunnelClient
from peers import DEADLINE, Collector
from websockets.asyncio.client import connect

from tunnel.errors import InvalidStateError, MessageTooBigError, PayloadTypeError
from tunnel.gateway import GatewaySession, GatewayThread
from tunnel.session_frames import Gone, Limits, Resumed


def run(
    scenario: Callable[[GatewayThread], Coroutine[Any, Any, None]], handler: Any, **options: Any
) -> None:
    """Run a scenario against a gateway of its own."""
    with GatewayThread(handler, **options) as gateway:
        asyncio.run(scenario(gateway))


def test_messages_are_handled_one_after_the_other() -> None:
    """A handler has one message of a session at a time, in order, off the event loop."""
    inside: list[Any] = []
    seen: list[Any] = []
    threads: set[str] = set()

    def handler(session: GatewaySession, message: str) -> str:
        assert not inside
        inside.append(message)
        threads.add(threading.current_thread().name)
        seen.append(inside.pop())
        return message.upper()

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            words = [f"word{number}" for number in range(3000)]
            client.send(*words)
            assert await client.until_received(3000) == [word.upper() for word in words]
            assert seen == words

    run(scenario, handler)
    assert all(name.startswith("tunnel-gateway-messages") for name in threads)


def test_a_slow_session_does_not_stop_others() -> None:
    """While one session's handler waits, another's messages are handled."""
    gate = threading.Event()

    def handler(session: GatewaySession, message: str) -> str:
        if message == "wait":
            gate.wait(DEADLINE)
        return message

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as slow, TunnelClient(gateway.url) as quick:
            slow.send("wait", "behind it")
            quick.send("one", "two")
            assert await quick.until_received(2) == ["one", "two"]
            assert slow.received == []
            gate.set()
            assert await slow.until_received(2) == ["wait", "behind it"]

    run(scenario, handler, workers=2)


def test_a_busy_session_leaves_its_thread_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer threads than busy sessions each has its turn."""
    monkeypatch.setattr("tunnel.gateway.dispatch._SLICE", 0.0)
    others = threading.Event()

    def handler(session: GatewaySession, message: str) -> str:
        if message == "begin":
            others.wait(DEADLINE)
        return message

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as first, TunnelClient(gateway.url) as second:
            first.send("begin", *map(str, range(500)))
            second.send("hello")
            await asyncio.to_thread(lambda: None)
            others.set()
            await second.until_received(1)
            await first.until_received(501)

    run(scenario, handler, workers=1)


def test_an_answer_does_not_wait_for_the_next_message() -> None:
    """What the handler returned goes out while it has the next message."""
    gate = threading.Event()

    def handler(session: GatewaySession, message: str) -> str:
        if message == "slow":
            gate.wait(DEADLINE)
        return message

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send("quick", "slow")
            assert await client.until_received(1) == ["quick"]
            gate.set()
            await client.until_received(2)

    run(scenario, handler)


def test_answers_that_nobody_takes_stop_the_handler() -> None:
    """Once enough waits to be sent, no more messages are handled."""
    handled = Collector()

    def handler(session: GatewaySession, message: str) -> str:
        handled(message)
        return message

    async def scenario(gateway: GatewayThread) -> None:
        client = TunnelClient(gateway.url, limits=Limits(10, 10_000, 1000))
        client.takes = False
        await client.connect()
        client.send(*map(str, range(40)))
        # 8 are sent, with 2 places reserved for answers to requests; 5 wait.
        await client.until(lambda: client.session.acknowledged == 13)
        assert len(handled.items) == 13
        client.takes = True
        client.session.take(8)
        client.flush()
        await client.until_received(40)
        await client.close()

    run(scenario, handler, max_outgoing=5)


def test_a_message_counts_as_taken_when_its_handler_has_returned() -> None:
    """It is not acknowledged before, even if that is asked for."""
    gate = threading.Event()
    entered = threading.Event()

    def handler(session: GatewaySession, message: str) -> None:
        entered.set()
        gate.wait(DEADLINE)

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            assert client.ws is not None
            client.send("one")
            await asyncio.to_thread(entered.wait, DEADLINE)
            await client.ask()
            await client.ws.send("ping")
            await client.until_received(1)
            assert client.session.unacknowledged == 1
            gate.set()
            await client.until(lambda: client.session.unacknowledged == 0)

    run(scenario, handler)


@pytest.mark.parametrize("wrong", ["raise", "type", "size"])
def test_a_handler_that_fails_is_survived(wrong: str) -> None:
    """What raises, or returns what cannot be sent, costs its own message's answer and no more."""

    def handler(session: GatewaySession, message: str) -> object:
        if message != "bad":
            return message
        if wrong == "raise":
            raise RuntimeError("on purpose")
        return 5 if wrong == "type" else "x" * 2000

    async def scenario(gateway: GatewayThread) -> None:
        client = TunnelClient(gateway.url, limits=Limits(100, 10_000, 1000))
        await client.connect()
        client.send("good", "bad", "fine")
        assert await client.until_received(2) == ["good", "fine"]
        await client.until(lambda: client.session.unacknowledged == 0)
        await client.close()

    run(scenario, handler)


def test_a_handler_sends_by_itself() -> None:
    """`session.send` comes before what is returned, and works from any thread, any time."""
    sessions = Collector()

    def handler(session: GatewaySession, message: str) -> bytearray:
        sessions(session)
        session.send(f"{session.user} said {message}")
        return bytearray(b"returned")

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send("hello")
            assert await client.until_received(2) == ["default said hello", b"returned"]
            session = sessions.items[0]
            assert isinstance(session, GatewaySession)
            assert repr(session) == f"<GatewaySession {session.id[:8]} of default>"
            await client.cut()
            session.send("while you were away")
            await client.connect()
            await client.until_received(3)
            for message, error in ((5, PayloadTypeError), ("x" * 2**24 + "x", MessageTooBigError)):
                with pytest.raises(error):
                    session.send(message)  # type: ignore[arg-type]

    run(scenario, handler)


def test_sending_waits_for_room() -> None:
    """A handler that sends more than the client takes waits, and then goes on."""
    count = 300

    def handler(session: GatewaySession, message: str) -> None:
        for number in range(count):
            session.send(str(number))

    async def scenario(gateway: GatewayThread) -> None:
        client = TunnelClient(gateway.url, limits=Limits(10, 10_000, 1000))
        client.takes = False
        await client.connect()
        client.send("begin")
        await client.until_received(8)  # two places are reserved for answers
        assert client.session.unacknowledged == 1
        client.takes = True
        client.session.take(8)
        client.flush()
        assert await client.until_received(count) == [str(number) for number in range(count)]
        await client.close()

    run(scenario, handler, max_outgoing=5)


def test_a_session_that_is_over_is_told_to_who_sends() -> None:
    """A handler that waits for room in a session that ends gets an exception, as do later ones."""
    outcomes = Collector()

    def handler(session: GatewaySession, message: str) -> None:
        for _ in range(2):
            try:
                while True:
                    session.send("more")
            except InvalidStateError as error:
                outcomes(str(error))

    async def scenario(gateway: GatewayThread) -> None:
        client = TunnelClient(gateway.url, limits=Limits(10, 10_000, 1000))
        client.takes = False
        await client.connect()
        client.send("begin")
        await client.until_received(8)
        await client.close()
        assert await asyncio.to_thread(outcomes.wait, 2)
        assert outcomes.items == ["the session is over (TUNNEL_028)"] * 2

    run(scenario, handler, max_outgoing=5, session_keep=0.05)


def test_a_handler_ends_a_session() -> None:
    """`session.close` sends what is waiting, then ends the session for good."""

    def handler(session: GatewaySession, message: str) -> str:
        session.send("last words")
        session.close()
        return "the very last"

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send("bye")
            await client.until_closed()
            assert client.close_code == 1000
            assert client.received == ["last words", "the very last"]
            assert client.session.ended_by_peer == "the gateway's handler ended the session"
            await client.close()
            assert isinstance(await client.connect(), Gone)

    run(scenario, handler)


def test_what_arrived_before_the_end_is_handled() -> None:
    """END after messages that were not handled yet: their handler still gets them."""
    gate, seen = threading.Event(), Collector()

    def handler(session: GatewaySession, message: str) -> None:
        gate.wait(DEADLINE)
        seen(message)

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            assert client.ws is not None
            client.send("one", "two")
            await client.ws.send(b"\x15")
            await client.until_closed()
            gate.set()
            assert await asyncio.to_thread(seen.wait, 2)

    run(scenario, handler)
    assert seen.items == ["one", "two"]


def test_a_session_comes_back_to_a_slow_handler() -> None:
    """Handlers go on while there is no link; the answer is there after the resume."""
    gate = threading.Event()

    def handler(session: GatewaySession, message: str) -> str:
        gate.wait(DEADLINE)
        return message

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send("question")
            await client.until(lambda: True)
            await client.cut()
            gate.set()
            assert isinstance(await client.connect(), Resumed)
            assert await client.until_received(1) == ["question"]

    run(scenario, handler)


# Plain clients


def test_a_plain_client_is_served() -> None:
    """A client that knows nothing of sessions gets its messages back, "ping" too."""

    async def scenario(gateway: GatewayThread) -> None:
        async with connect(gateway.url) as ws:
            assert ws.response is not None
            assert "Tunnel-Resume" not in ws.response.headers
            assert "Sec-WebSocket-Extensions" not in ws.response.headers
            for message in ("text", b"bytes", "grün", "ping", ""):
                await ws.send(message)
                assert await ws.recv() == message
            await ws.ping()
            assert gateway.statistics()["sessions"] == 1

    run(scenario, "echo")


def test_another_version_of_sessions_is_not_negotiated() -> None:
    """A client that asks for a version we do not know is served without a session."""

    async def scenario(gateway: GatewayThread) -> None:
        async with connect(gateway.url, additional_headers={"Tunnel-Resume": "2"}) as ws:
            assert ws.response is not None
            assert "Tunnel-Resume" not in ws.response.headers
            await ws.send("plain")
            assert await ws.recv() == "plain"

    run(scenario, "echo")


def test_one_of_several_versions_is_negotiated() -> None:
    """A client that offers our version among others gets it."""

    async def scenario(gateway: GatewayThread) -> None:
        async with connect(gateway.url, additional_headers={"Tunnel-Resume": "2, 1"}) as ws:
            assert ws.response is not None
            assert ws.response.headers["Tunnel-Resume"] == "1"

    run(scenario, "echo")


def test_a_plain_client_has_the_same_handlers() -> None:
    """In order, in threads, with a session of its own that the handler can close."""

    def handler(session: GatewaySession, message: str) -> str:
        if message == "close":
            session.close()
        return f"{session.user} {message}"

    async def scenario(gateway: GatewayThread) -> None:
        async with connect(gateway.url) as ws:
            for number in range(100):
                await ws.send(str(number))
            answers = [await ws.recv() for _ in range(100)]
            assert answers == [f"default {number}" for number in range(100)]
            await ws.send("close")
            assert await ws.recv() == "default close"
            await ws.wait_closed()
            assert ws.protocol.close_code == 1000

    run(scenario, handler)


def test_what_a_plain_client_sent_before_it_left_is_handled() -> None:
    """The handler gets it all, though nobody hears its answers any more."""
    gate, seen = threading.Event(), Collector()

    def handler(session: GatewaySession, message: str) -> str:
        gate.wait(DEADLINE)
        seen(message)
        return message

    async def scenario(gateway: GatewayThread) -> None:
        async with connect(gateway.url) as ws:
            for number in range(10):
                await ws.send(str(number))
        gate.set()
        assert await asyncio.to_thread(seen.wait, 10)
        assert seen.items == [str(number) for number in range(10)]

    run(scenario, handler)


def test_a_plain_client_that_floods_a_slow_handler_is_held_up() -> None:
    """What is not handled is not read, so it stays bounded; once it is, all of it comes."""
    gate, seen = threading.Event(), Collector()

    def handler(session: GatewaySession, message: bytes) -> None:
        gate.wait(DEADLINE)
        seen(None)

    async def scenario(gateway: GatewayThread) -> None:
        async with connect(gateway.url) as ws:
            sending = asyncio.create_task(flood(ws))
            done, _ = await asyncio.wait([sending], timeout=0.3)
            assert not done
            gate.set()
            await sending
            assert await asyncio.to_thread(seen.wait, 100)

    async def flood(ws: websockets.ClientConnection) -> None:
        for _ in range(100):
            await ws.send(b"x" * 2**18)

    run(scenario, handler, max_unacknowledged_bytes=2**18)


def test_a_plain_client_that_does_not_read_is_held_up() -> None:
    """Answers that nobody reads stay bounded too: nothing more is handled or read."""
    handled = Collector()

    def handler(session: GatewaySession, message: bytes) -> bytes:
        handled(None)
        return message

    async def scenario(gateway: GatewayThread) -> None:
        async with connect(gateway.url, max_queue=1) as ws:

            async def flood() -> None:
                for _ in range(200):
                    await ws.send(b"x" * 2**18)

            sending = asyncio.create_task(flood())
            await asyncio.wait([sending], timeout=0.3)
            assert not sending.done()
            assert len(handled.items) < 150
            for _ in range(200):
                await ws.recv()
            await sending

    run(scenario, handler, max_unacknowledged_bytes=2**18, max_outgoing_bytes=2**18)


def test_plain_clients_count_too() -> None:
    """At the bound a plain client is told to come again later."""

    async def scenario(gateway: GatewayThread) -> None:
        async with connect(gateway.url):
            async with connect(gateway.url) as second:
                await second.wait_closed()
                assert second.protocol.close_code == 1013
            client = TunnelClient(gateway.url, limits=LIMITS)
            ws = await client.dial()
            await ws.close()

    run(scenario, "echo", max_sessions=1)


def test_a_message_that_is_too_long_is_refused() -> None:
    """Longer ones than the gateway takes end the connection with 1009."""

    async def scenario(gateway: GatewayThread) -> None:
        async with connect(gateway.url) as ws:
            await ws.send("x" * 1100)
            await ws.wait_closed()
            assert ws.protocol.close_code == 1009
        async with TunnelClient(gateway.url) as client:
            assert client.session.peer_limits is not None
            assert client.session.peer_limits.message_size == 1000
            client.send("x" * 1000)
            await client.until_received(1)

    run(scenario, "echo", max_message_size=1000)
