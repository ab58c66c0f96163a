"""Sessions with the gateway over real sockets: opening, resuming, refusing, forgetting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from gateway_client import LIMITS, TunnelClient
from websockets.exceptions import ConnectionClosed

from tunnel.gateway import GatewayThread
from tunnel.secrets import Secret
from tunnel.session_frames import (
    End,
    FrameKind,
    Gone,
    Limits,
    Open,
    Opened,
    Resume,
    Resumed,
    encode,
    numbered_header,
    read_answer,
)
from tunnel.testing import FakeClock

USERS = {"alpha-token": "alpha", "beta-token": "beta"}


def authenticate(token: str | None, headers: object) -> str:
    return USERS[token or ""]


async def until_detached(gateway: GatewayThread, count: int) -> None:
    """Wait until so many sessions have no link."""
    while gateway.statistics()["detached"] != count:
        await asyncio.sleep(0.001)


def run(scenario: Callable[[GatewayThread], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a scenario against a gateway of its own."""
    with GatewayThread(**options) as gateway:
        asyncio.run(scenario(gateway))


def test_messages_come_back() -> None:
    """Texts stay texts and bytes stay bytes, from empty ones to a mebibyte, in order."""
    messages = ["", b"", "grün", b"\x00\xff", "x" * 2**20, b"y" * 2**20, "end"]

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send(*messages)
            assert await client.until_received(len(messages)) == messages
            await client.until(lambda: client.session.unacknowledged == 0)
            client.flush()
            assert gateway.statistics()["sessions"] == 1

    run(scenario)


def test_what_is_acknowledged_late_is_acknowledged_soon_enough() -> None:
    """A single message is acknowledged within a second without being asked for."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send("one")
            await client.until(lambda: client.session.unacknowledged == 0)

    run(scenario, handler="sink")


def test_an_acknowledgement_that_is_asked_for_comes_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ASK is answered without waiting for the timer."""
    monkeypatch.setattr("tunnel.gateway.resumable.ACKNOWLEDGE_AFTER", 3600.0)

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send("one")
            await client.ask()
            await client.until(lambda: client.session.unacknowledged == 0)

    run(scenario, handler="sink")


def test_acknowledgements_come_by_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many messages are acknowledged without a timer, so that the client's window opens."""
    monkeypatch.setattr("tunnel.gateway.resumable.ACKNOWLEDGE_AFTER", 3600.0)

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send(*(str(number) for number in range(5000)))
            await client.until(lambda: client.session.acknowledged >= 4900)

    run(scenario, handler="sink", max_unacknowledged=100)


@pytest.mark.requirement("1.7")
def test_a_session_is_resumed() -> None:
    """After a cut both ends go on where they were; what was not acknowledged is sent again."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send("before")
            await client.until_received(1)
            identity = client.session.id
            await client.cut()
            client.send("between")
            assert isinstance(await client.connect(), Resumed)
            client.send("after")
            assert await client.until_received(3) == ["before", "between", "after"]
            assert client.session.id == identity

    run(scenario)


@pytest.mark.requirement("1.7")
def test_what_the_client_missed_is_replayed_once() -> None:
    """Messages that were sent into a dead link come after the resume; those it had do not."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.takes = False  # so nothing is acknowledged
            client.send(*map(str, range(10)))
            await client.until_received(10)
            await client.cut()
            # Forget the last four, as if they had not come.
            del client.received[6:]
            client.session.received -= 4
            await client.connect()
            assert await client.until_received(10) == list(map(str, range(10)))
            assert gateway.statistics()["replayed"] == 4

    run(scenario)


def test_the_newest_link_wins() -> None:
    """RESUME while the old link looks alive closes that one, and its frames count no more."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.send("one")
            await client.until_received(1)
            old, session = client.ws, client.session
            assert old is not None
            assert session.token is not None
            new = await client.dial()
            await new.send(encode(Resume(session.id, session.token, session.received)))
            assert read_answer(await new.recv()) == Resumed(1, session.received)
            with contextlib.suppress(ConnectionClosed):
                await old.send(numbered_header(FrameKind.TEXT, 2) + b"too late")
            await new.send(numbered_header(FrameKind.TEXT, 2) + b"two")
            await client.until_closed()
            assert client.close_code == 4001
            answers = [await new.recv(), await new.recv()]
            assert numbered_header(FrameKind.TEXT, 2) + b"two" in answers
            await new.close()

    run(scenario)


def test_one_answer_for_all_that_is_not_yours() -> None:
    """Unknown id, wrong token, another's session: all the same GONE, and OPEN may follow."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url, token="alpha-token") as client:
            session = client.session
            assert session.token is not None
            wrong = Secret("00" * 32)
            answers = []
            for token, greeting in (
                ("alpha-token", Resume(b"?" * 16, session.token, 0)),
                ("alpha-token", Resume(session.id, wrong, 0)),
                ("beta-token", Resume(session.id, session.token, 0)),
            ):
                other = TunnelClient(gateway.url, token=token)
                ws = await other.dial()
                await ws.send(encode(greeting))
                answers.append(await ws.recv())
                await ws.send(encode(Open(LIMITS)))
                assert isinstance(read_answer(await ws.recv()), Opened)
                await ws.close()
            assert isinstance(read_answer(answers[0]), Gone)
            assert len(set(answers)) == 1
            client.send("still mine")
            await client.until_received(1)

    run(scenario, authenticate=authenticate)


def test_nobody_may_try_tokens_on_one_link() -> None:
    """After GONE only OPEN is taken."""

    async def scenario(gateway: GatewayThread) -> None:
        client = TunnelClient(gateway.url)
        ws = await client.dial()
        guess = encode(Resume(b"?" * 16, Secret("00" * 32), 0))
        await ws.send(guess)
        await ws.recv()
        await ws.send(guess)
        await ws.wait_closed()
        assert (ws.protocol.close_code, ws.protocol.close_reason) == (1002, "RESUME after GONE")

    run(scenario)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("ping", "a text message where OPEN or RESUME belongs"),
        (b"", "an empty frame"),
        (numbered_header(FrameKind.TEXT, 1), "TEXT where OPEN or RESUME belongs"),
        (encode(Open(LIMITS))[:-1], "OPEN of 20 bytes, not 21"),
    ],
)
def test_a_wrong_beginning_is_refused(first: str | bytes, reason: str) -> None:
    """What is neither OPEN nor RESUME ends the link with 1002, and says why."""

    async def scenario(gateway: GatewayThread) -> None:
        ws = await TunnelClient(gateway.url).dial()
        await ws.send(first)
        await ws.wait_closed()
        assert (ws.protocol.close_code, ws.protocol.close_reason) == (1002, reason)
        assert gateway.statistics()["sessions"] == 0

    run(scenario)


def test_silence_at_the_beginning_is_ended() -> None:
    """A link on which no session was asked for in time is closed."""

    async def scenario(gateway: GatewayThread) -> None:
        ws = await TunnelClient(gateway.url).dial()
        await ws.wait_closed()
        assert (ws.protocol.close_code, ws.protocol.close_reason) == (
            1002,
            "no OPEN or RESUME within 0.05 s",
        )

    run(scenario, open_timeout=0.05)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("hello", "a text message within a session"),
        (numbered_header(FrameKind.TEXT, 2) + b"gap", "number 2 after 0"),
        (numbered_header(FrameKind.TEXT, 1) + b"\xff", "a text that is no UTF-8"),
        (b"\x7f" + bytes(4), "a frame of kind 0x7f, which does not belong here"),
        (numbered_header(FrameKind.RESPONSE, 1), "RESPONSE, which does not belong here"),
        (numbered_header(FrameKind.REQUEST, 1) + b"short", "a request without an id"),
        (numbered_header(FrameKind.CANCEL, 1) + b"short", "CANCEL of 5 bytes, not 8"),
        (encode(Open(LIMITS)), "a frame of kind 0x10, which does not belong here"),
    ],
)
def test_a_violation_ends_link_and_session(frame: str | bytes, reason: str) -> None:
    """Who breaks the session's protocol is told how, by 1002, and the session is gone."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            assert client.ws is not None
            await client.ws.send(frame)
            await client.until_closed()
            assert (client.close_code, client.close_reason) == (1002, reason)
            await client.close()
            assert isinstance(await client.connect(), Gone)

    run(scenario)


def test_a_client_that_claims_too_much_is_refused() -> None:
    """RESUME with a count of frames that were never sent is a violation; the session stays."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            token = client.session.token
            assert token is not None
            ws = await client.dial()
            await ws.send(encode(Resume(client.session.id, token, 5)))
            await ws.wait_closed()
            assert ws.protocol.close_code == 1002
            client.send("still here")
            await client.until_received(1)

    run(scenario)


def test_the_client_ends_its_session() -> None:
    """After END the gateway forgets the session and closes the link."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            assert client.ws is not None
            await client.ws.send(encode(End("")))
            await client.until_closed()
            assert client.close_code == 1000
            assert gateway.statistics()["sessions"] == 0

    run(scenario)


def test_a_client_that_leaves_what_was_resumed() -> None:
    """END as the first frame after RESUMED, then OPEN: the old session is gone, a new one is there.

    What the gateway replays of the old one comes before OPENED.
    """

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            client.takes = False
            client.send("echo")
            await client.until_received(1)
            token = client.session.token
            assert token is not None
            await client.cut()
            ws = await client.dial()
            await ws.send(encode(Resume(client.session.id, token, 0)))
            await ws.send(encode(End("")))
            await ws.send(encode(Open(LIMITS)))
            frames = []
            while not frames or frames[-1][0] != FrameKind.OPENED:
                frame = await asyncio.wait_for(ws.recv(), 20.0)
                assert isinstance(frame, bytes)
                frames.append(frame)
            opened = read_answer(frames[-1])
            assert isinstance(opened, Opened)
            assert opened.id != client.session.id
            assert isinstance(read_answer(frames[0]), Resumed)
            assert gateway.statistics()["sessions"] == 1
            await ws.send(numbered_header(FrameKind.TEXT, 1) + b"new")
            while (await asyncio.wait_for(ws.recv(), 20.0))[5:] != b"new":
                pass
            await ws.close()

    run(scenario)


@pytest.mark.parametrize(
    ("frame", "code"), [(None, 1000), ("text", 1002), (encode(End("")), 1002), (b"", 1002)]
)
def test_after_the_end_of_what_was_resumed(frame: str | bytes | None, code: int) -> None:
    """Nothing but OPEN belongs there; a client that says no more is let go."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            token = client.session.token
            assert token is not None
            await client.cut()
            ws = await client.dial()
            await ws.send(encode(Resume(client.session.id, token, 0)))
            await ws.send(encode(End("")))
            if frame is not None:
                await ws.send(frame)
            await asyncio.wait_for(ws.wait_closed(), 20.0)
            assert ws.protocol.close_code == code
            assert gateway.statistics()["sessions"] == 0

    run(scenario, open_timeout=0.2 if frame is None else 20.0)


@pytest.mark.parametrize("kind", ["session", "greeting"])
def test_unread_frames_do_not_keep_a_close_from_the_client(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whatever a client has sent behind a violation, its answer to the close frame is read."""
    monkeypatch.setattr("tunnel.gateway.server._CLOSE_TIMEOUT", 600.0)

    async def scenario(gateway: GatewayThread) -> None:
        client = TunnelClient(gateway.url)
        ws = await client.dial()
        if kind == "session":
            await ws.send(encode(Open(LIMITS)))
            await ws.recv()
        for _ in range(50):  # all at once, whatever comes meanwhile
            ws.protocol.send_binary(numbered_header(FrameKind.BINARY, 9) + bytes(100_000))
        ws.send_data()
        await asyncio.wait_for(ws.wait_closed(), 20.0)
        assert ws.protocol.close_code == 1002
        assert ws.protocol.close_exc.rcvd_then_sent
        while gateway.statistics()["connections"]:
            await asyncio.sleep(0.001)

    run(scenario)


@pytest.mark.requirement("6.3")
def test_text_pings_are_answered() -> None:
    """The heartbeat in text messages works within a session, before and after a resume."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            for count in (1, 2):
                assert client.ws is not None
                await client.ws.send("ping")
                assert await client.until_received(count) == ["pong"] * count
                await client.cut()
                await client.connect()

    run(scenario)


def test_a_session_is_not_kept_for_ever() -> None:
    """Once its time is over a session is gone, even if nobody has looked."""
    clock = FakeClock()

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            opened = client.session
            assert opened.kept_for == 600
            await client.cut()
            await until_detached(gateway, 1)
            clock.advance(599.0)
            assert isinstance(await client.connect(), Resumed)
            clock.advance(599.0)  # with a link it is kept for ever
            client.send("still here")
            await client.until_received(1)
            await client.cut()
            await until_detached(gateway, 1)
            clock.advance(599.0)
            assert isinstance(await client.connect(), Resumed)
            await client.cut()
            await until_detached(gateway, 1)
            clock.advance(600.0)
            assert isinstance(await client.connect(), Gone)
            client.send("anew")
            await client.until_received(2)

    run(scenario, clock=clock)


def test_expired_sessions_are_cleared_away() -> None:
    """Nobody has to ask for a session for it to be forgotten in time."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as client:
            await client.cut()
            while gateway.statistics()["sessions"]:
                await asyncio.sleep(0.001)

    run(scenario, session_keep=0.05)


def test_the_longest_detached_session_makes_room() -> None:
    """At the bound a newcomer takes the place of the session that has been detached longest."""

    async def scenario(gateway: GatewayThread) -> None:
        first, second = TunnelClient(gateway.url), TunnelClient(gateway.url)
        for count, client in enumerate((first, second), 1):
            await client.connect()
            await client.cut()
            await until_detached(gateway, count)
        async with TunnelClient(gateway.url):
            assert isinstance(await second.connect(), Resumed)
            await second.close()
            await until_detached(gateway, 1)
            assert isinstance(await first.connect(), Gone)  # its new session took second's place
            await first.close()

    run(scenario, max_sessions=2)


def test_attached_sessions_make_no_room() -> None:
    """If all sessions have a link, the newcomer is told to come again later."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url) as one, TunnelClient(gateway.url) as two:
            ws = await TunnelClient(gateway.url).dial()
            await ws.send(encode(Open(LIMITS)))
            await ws.wait_closed()
            reason = "the gateway has as many sessions as it can"
            assert (ws.protocol.close_code, ws.protocol.close_reason) == (1013, reason)
            for client in (one, two):
                client.send("still here")
                await client.until_received(1)

    run(scenario, max_sessions=2)


def test_detached_sessions_hold_a_bounded_number_of_bytes() -> None:
    """When sessions without a link hold too much, those detached longest are given up."""

    async def scenario(gateway: GatewayThread) -> None:
        clients = [TunnelClient(gateway.url) for _ in range(3)]
        for count, client in enumerate(clients, 1):
            await client.connect()
            client.takes = False
            client.send(b"x" * 1000)
            await client.until_received(1)
            await client.cut()
            await until_detached(gateway, min(count, 2))
        assert gateway.statistics()["detached_bytes"] == 2000
        assert gateway.statistics()["held_bytes"] == 2000
        assert isinstance(await clients[0].connect(), Gone)
        await clients[0].close()
        assert isinstance(await clients[1].connect(), Resumed)
        await clients[1].close()

    run(scenario, max_detached_bytes=2500)


def test_each_user_has_a_bound() -> None:
    """One user's sessions do not take the room of another's."""

    async def scenario(gateway: GatewayThread) -> None:
        async with TunnelClient(gateway.url, token="alpha-token"):
            ws = await TunnelClient(gateway.url, token="alpha-token").dial()
            await ws.send(encode(Open(LIMITS)))
            await ws.wait_closed()
            assert ws.protocol.close_code == 1013
            async with TunnelClient(gateway.url, token="beta-token") as other:
                other.send("in")
                await other.until_received(1)

    run(scenario, authenticate=authenticate, max_sessions_per_user=1)


def test_a_client_that_does_not_read_stops_itself() -> None:
    """What is held for a client that takes nothing is bounded, and then it can send no more."""

    async def scenario(gateway: GatewayThread) -> None:
        client = TunnelClient(gateway.url, limits=Limits(10, 10_000, 2**20))
        await client.connect()
        client.takes = False
        client.send(*(b"x" * 100 for _ in range(1000)))
        # 8 are sent, with 2 places reserved for answers; 20 wait for that, 50 are received and not
        # handled: the window is shut.
        await client.until(lambda: client.session.acknowledged == 28)
        assert len(client.received) == 8
        assert client.session.unacknowledged == 50
        client.takes = True
        client.session.take(8)
        client.flush()
        await client.until_received(1000)
        await client.until(lambda: client.session.unacknowledged == 0)
        await client.close()

    run(scenario, max_outgoing=20, max_unacknowledged=50)
