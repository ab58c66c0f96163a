"""Requests to the gateway's handlers: answers, bounds, failures, cancellation, time."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from gateway_client import TunnelClient
from peers import DEADLINE, Collector

from tunnel.gateway import GatewaySession, GatewayThread, Headers, TunnelRequest, TunnelResponse
from tunnel.session_frames import FrameKind, Limits, Parcel

TEXT = [["Content-Type", "text/plain; charset=utf-8"]]


def run(
    scenario: Callable[[GatewayThread], Coroutine[Any, Any, None]], handler: Any, **options: Any
) -> None:
    """Run a scenario against a gateway of its own."""
    with GatewayThread(handler, **options) as gateway:
        asyncio.run(scenario(gateway))


async def answer(client: TunnelClient, number: int) -> tuple[int, list[list[str]], bytes]:
    """Wait for the answer to a request."""
    await client.until(lambda: number in client.answers)
    return client.answers[number]


def test_echo_and_sink_answer() -> None:
    """`echo` returns the body with its type and 200; `sink` says 204."""

    async def echo(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            fields = {"Content-Type": "image/png", "X-Other": "no"}
            client.request(1, body=b"\x00\xff", headers=fields)
            client.request(2, "/path?query")
            assert await answer(client, 1) == (200, [["Content-Type", "image/png"]], b"\x00\xff")
            assert await answer(client, 2) == (200, [], b"")

    async def sink(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.request(1, body=b"body")
            assert await answer(client, 1) == (204, [], b"")

    run(echo, "echo")
    run(sink, "sink")


def test_a_handler_answers_in_several_ways() -> None:
    """A body alone, status with headers and body, or a response; what is no answer is 500."""
    results: dict[str, object] = {
        "/text": "grün",
        "/bytes": bytearray(b"\x01"),
        "/tuple": (404, {"X-One": "1"}, "no"),
        "/pairs": (200, [("Content-Type", "a/b"), ("X", "1"), ("X", "2")], b"c"),
        "/response": TunnelResponse(0, 418, Headers({"X": "teapot"}), b"short and stout"),
        "/nothing": None,
        "/number": 5,
        "/status": (20_000, None, b""),
    }
    requests: list[TunnelRequest] = []

    def handler(session: GatewaySession, request: TunnelRequest) -> object:
        requests.append(request)
        if request.path == "/raise":
            raise RuntimeError("on purpose")
        return results[request.path]

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            for number, path in enumerate([*results, "/raise"]):
                client.request(number, path, method="PUT", headers={"X": "y"}, body=b"b")
            await client.until_received(9)
            answers = client.answers
            assert answers[0] == (200, TEXT, "grün".encode())
            assert answers[1] == (200, [["Content-Type", "application/octet-stream"]], b"\x01")
            assert answers[2] == (404, [["X-One", "1"], *TEXT], b"no")
            fields = [["Content-Type", "a/b"], ["X", "1"], ["X", "2"]]
            assert answers[3] == (200, fields, b"c")
            assert answers[4] == (418, [["X", "teapot"]], b"short and stout")
            sentence = b"The handler of the gateway does not answer requests."
            assert answers[5] == (501, TEXT, sentence)
            for number in (6, 7, 8):
                assert answers[number][0] == 500
            request = next(r for r in requests if r.path == "/text")
            assert (request.method, request.payload) == ("PUT", b"b")
            assert request.headers.multi_items() == (("X", "y"),)

    run(scenario, handler)


def test_requests_run_at_the_same_time() -> None:
    """Requests wait neither for each other nor for the messages before them."""
    barrier = threading.Barrier(4)

    def handler(session: GatewaySession, item: object) -> str:
        barrier.wait(DEADLINE)
        return "done"

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send("a message first")
            for number in range(3):
                client.request(number)
            await client.until_received(4)
            await client.until(lambda: client.session.unacknowledged == 0)

    run(scenario, handler)


def test_requests_are_acknowledged_in_order_with_messages() -> None:
    """A request that has begun is acknowledged only after the messages before it were handled."""
    gate, begun = threading.Event(), threading.Event()

    def handler(session: GatewaySession, item: object) -> str | None:
        if isinstance(item, TunnelRequest):
            begun.set()
            return "done"
        gate.wait(DEADLINE)
        return None

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.request(1)
            client.send("slow")
            client.request(2)
            await client.until_received(2)
            await client.ask()
            await client.until(lambda: client.session.acknowledged == 1)
            assert client.ws is not None
            await client.ws.send("ping")
            await client.until_received(3)
            assert client.session.acknowledged == 1
            gate.set()
            await client.until(lambda: client.session.acknowledged == 3)

    run(scenario, handler)


def test_so_many_requests_run_and_no_more() -> None:
    """Beyond the bound a request waits and is not acknowledged; later it has its turn."""
    gate, begun = threading.Event(), Collector()

    def handler(session: GatewaySession, request: TunnelRequest) -> str:
        begun(request.request_id)
        gate.wait(DEADLINE)
        return "done"

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            for number in range(5):
                client.request(number)
            assert await asyncio.to_thread(begun.wait, 2)
            await client.ask()
            await client.until(lambda: client.session.acknowledged == 2)
            assert sorted(begun.items) == [0, 1]
            gate.set()
            await client.until_received(5)
            await client.until(lambda: client.session.unacknowledged == 0)

    run(scenario, handler, max_requests=2)


def test_the_bodies_of_requests_are_bounded_too() -> None:
    """Requests that are large together run one after the other; one alone may be larger."""
    running, most, lock = [0], [0], threading.Lock()

    def handler(session: GatewaySession, request: TunnelRequest) -> str:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.01)
        with lock:
            running[0] -= 1
        return "done"

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            for number in range(4):
                client.request(number, body=b"x" * 20_000)
            await client.until_received(4)

    run(scenario, handler, max_unacknowledged_bytes=10_000)
    assert most == [1]


def test_a_gateway_that_is_too_busy_says_so() -> None:
    """If too many requests of all sessions wait for a thread, more are refused with 503."""
    gate, begun = threading.Event(), Collector()

    def handler(session: GatewaySession, request: TunnelRequest) -> str:
        begun(None)
        gate.wait(DEADLINE)
        return "done"

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.request(0)
            assert await asyncio.to_thread(begun.wait, 1)
            client.request(1)
            client.request(2)
            sentence = b"The gateway is busy: too many requests are waiting."
            assert await answer(client, 2) == (503, TEXT, sentence)
            gate.set()
            assert (await answer(client, 1))[0] == 200

    run(scenario, handler, workers=1, max_waiting_requests=1)


def test_a_request_that_takes_too_long_gets_an_answer() -> None:
    """At the time limit the answer is 504, whatever the handler does; its own comes too late."""
    gate = threading.Event()

    def handler(session: GatewaySession, request: TunnelRequest) -> str:
        if request.path == "/slow":
            gate.wait(DEADLINE)
        return "done"

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.request(1, "/slow")
            assert await answer(client, 1) == (504, TEXT, b"There was no answer within 0.05 s.")
            gate.set()
            client.request(2, "/quick")
            await answer(client, 2)
            assert len(client.received) == 2

    run(scenario, handler, request_timeout=0.05, workers=1)


def test_a_cancelled_request_has_no_answer() -> None:
    """One that runs ends in silence, one that waits is not begun, and others go on."""
    gate, begun = threading.Event(), Collector()

    def handler(session: GatewaySession, request: TunnelRequest) -> str:
        begun(request.request_id)
        gate.wait(DEADLINE)
        return "done"

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            for number in (1, 2, 3):
                client.request(number)
            assert await asyncio.to_thread(begun.wait, 1)
            for number in (1, 2, 77):
                client.cancel(number)
            await client.until(lambda: client.session.acknowledged == 2)  # both need nothing more
            gate.set()
            assert (await answer(client, 3))[0] == 200
            assert begun.items == [1, 3]
            assert len(client.received) == 1
            await client.until(lambda: client.session.unacknowledged == 0)

    run(scenario, handler, max_requests=1)


def test_an_answer_that_was_not_sent_yet_is_withdrawn() -> None:
    """CANCEL while the answer waits for room: it is never sent."""

    async def scenario(gateway: GatewayThread) -> None:
        client = TunnelClient(gateway.url, limits=Limits(1, 10_000, 1000))
        await client.connect()
        client.takes = False
        client.send("fills the window")
        await client.until_received(1)
        client.request(1, body=b"first")
        client.request(2, body=b"second")
        await client.until(lambda: client.session.unacknowledged == 0)
        client.cancel(1)
        await client.until(lambda: client.session.unacknowledged == 0)
        client.takes = True
        client.session.take(1)
        client.flush()
        await client.until_received(2)
        assert list(client.answers) == [2]
        await client.close()

    run(scenario, "echo")


def test_an_answer_survives_a_cut() -> None:
    """A request that was acknowledged is answered after the resume."""
    gate = threading.Event()

    def handler(session: GatewaySession, request: TunnelRequest) -> str:
        gate.wait(DEADLINE)
        return "done"

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.request(1)
            await client.ask()
            await client.until(lambda: client.session.unacknowledged == 0)
            await client.cut()
            gate.set()
            await client.connect()
            assert (await answer(client, 1))[0] == 200

    run(scenario, handler)


def test_an_answer_too_large_for_the_client_is_replaced() -> None:
    """It gets 502 and a sentence in place of what it could not take."""

    async def scenario(gateway: GatewayThread) -> None:
        client = TunnelClient(gateway.url, limits=Limits(100, 10_000, 500))
        await client.connect()
        client.request(1)
        status, fields, body = await answer(client, 1)
        assert (status, fields) == (502, TEXT)
        assert re.fullmatch(rb"The answer has 50\d\d bytes, and the client takes 500\.", body)
        await client.close()

    run(scenario, lambda session, request: (200, {"Content-Type": "a/b"}, b"x" * 5000))


def test_answers_for_a_client_that_is_away_are_bounded() -> None:
    """Requests that have begun may be answered beyond the bound, but not without end."""
    gate, begun = threading.Event(), Collector()

    def handler(session: GatewaySession, request: TunnelRequest) -> bytes:
        begun(None)
        gate.wait(DEADLINE)
        return b"x" * 3000

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            for number in range(8):
                client.request(number)
            assert await asyncio.to_thread(begun.wait, 8)
            await client.cut()
            while gateway.statistics()["detached"] == 0:
                await asyncio.sleep(0.001)
            gate.set()
            while gateway.statistics()["detached_bytes"] < 3 * 3000 + 5 * 100:
                await asyncio.sleep(0.001)
            await client.connect()
            await client.until_received(8)
            statuses = [status for status, _, _ in client.answers.values()]
            assert sorted(statuses) == [200] * 3 + [503] * 5

    run(scenario, handler, max_outgoing_bytes=3000)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (bytes(8), b"The request is malformed: "),
        (bytes(11) + b"\x02{]", b"The request is malformed: "),
    ],
)
def test_a_malformed_request_gets_400(payload: bytes, reason: bytes) -> None:
    """A request that has an id, and is otherwise broken, is told so."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send(Parcel(FrameKind.REQUEST, payload))
            status, fields, body = await answer(client, 0)
            assert (status, fields) == (400, TEXT)
            assert body.startswith(reason)

    run(scenario, "echo")


def test_two_requests_with_one_id_are_a_violation() -> None:
    """While the first is under way the second could not be told from it."""
    gate = threading.Event()

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.request(1)
            client.request(1)
            await client.until_closed()
            assert client.close_code == 1002
            assert client.close_reason == "a request with the id of another"
            gate.set()

    run(scenario, lambda session, request: gate.wait(DEADLINE))
