"""The tunnel under each fault of a live link, with a plain peer and with one that resumes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from conversations import Conversation, MakeService, S, message
from peers import DEADLINE, ServerProcess

from tunnel import (
    ConnectionClosedByPeerError,
    ConnectionLostError,
    HeartbeatTimeoutError,
    TunnelError,
    TunnelErrorCategory,
)
from tunnel.gateway import GatewaySession, GatewayThread
from tunnel.testing import DOWN, UP, FaultProxy

AT_ONCE = 1.0  # seconds, of which nearly all are for a machine that is busy
PONG_TIMEOUT = 0.4
QUICK_PINGS = {"ping_interval": 0.1, "pong_timeout": PONG_TIMEOUT}
SLOW_PINGS = {"ping_interval": 0.2, "pong_timeout": 5.0}


@pytest.fixture(params=["plain", "resuming"])
def peer(request: pytest.FixtureRequest, echo_server: ServerProcess) -> Iterator[FaultProxy]:
    """A proxy before a peer that echoes: a plain one, and one that resumes."""
    if request.param == "plain":
        with FaultProxy(echo_server.port) as proxy:
            yield proxy
    else:
        with GatewayThread("echo") as gateway, FaultProxy(gateway.port) as proxy:
            yield proxy


@pytest.fixture
def start(
    request: pytest.FixtureRequest, peer: FaultProxy, make_service: MakeService
) -> Callable[..., Conversation]:
    """Begins a conversation with the peer through the proxy."""
    resumes = "resuming" in request.node.callspec.id

    def start(**settings: object) -> Conversation:
        talk = Conversation(make_service, resumes=resumes, **settings)
        talk.service.connect(f"ws://127.0.0.1:{peer.port}/", timeout=DEADLINE)
        talk.exchange(5)
        return talk

    return start


Strike = Callable[[FaultProxy, Conversation], AbstractContextManager[object]]


def at_once(name: str) -> Strike:
    """A fault that is called and has happened."""

    @contextlib.contextmanager
    def strike(proxy: FaultProxy, talk: Conversation) -> Iterator[None]:
        assert getattr(proxy, name)() == 1
        yield

    return strike


def cut(direction: str, after: int, how: str) -> Strike:
    """A cut in the midst of what is said next."""

    @contextlib.contextmanager
    def strike(proxy: FaultProxy, talk: Conversation) -> Iterator[None]:
        cut = proxy.cut(direction, after, how)
        talk.say(1)
        assert cut.wait()
        yield

    return strike


def lasting(name: str, *arguments: object) -> Strike:
    """A fault that is there for a while."""
    return lambda proxy, talk: getattr(proxy, name)(*arguments)


@pytest.mark.parametrize(
    ("strike", "error", "settings", "bound"),
    [
        pytest.param(
            at_once("reset"),
            ConnectionLostError,
            {},
            AT_ONCE,
            marks=pytest.mark.fault("reset"),
            id="reset",
        ),
        pytest.param(
            at_once("fin"),
            ConnectionLostError,
            {},
            AT_ONCE,
            marks=pytest.mark.fault("fin"),
            id="fin",
        ),
        *(
            pytest.param(
                cut(direction, after, how),
                ConnectionLostError,
                {},
                AT_ONCE,
                marks=pytest.mark.fault("cut-in-a-frame"),
                id=f"cut-{direction}-{after}-{how}",
            )
            for direction in (UP, DOWN)
            for after, how in ((1, "reset"), (1, "fin"), (5, "reset"), (9, "fin"))
        ),
        *(
            pytest.param(
                lasting("silent", *directions),
                HeartbeatTimeoutError,
                QUICK_PINGS,
                PONG_TIMEOUT + 0.5,
                marks=pytest.mark.fault("silence"),
                id="silent-" + "-".join(directions),
            )
            for directions in ((UP,), (DOWN,), (UP, DOWN))
        ),
        *(
            pytest.param(
                lasting("delaying", 1.5 * PONG_TIMEOUT, *directions),
                HeartbeatTimeoutError,
                QUICK_PINGS,
                2 * PONG_TIMEOUT + 0.5,
                marks=pytest.mark.fault("delay-beyond-the-pong-time-out"),
                id="late-" + "-".join(directions),
            )
            for directions in ((UP,), (DOWN,))
        ),
    ],
)
def test_a_link_that_is_lost(
    peer: FaultProxy,
    start: Callable[..., Conversation],
    strike: Strike,
    error: type[TunnelError],
    settings: dict[str, object],
    bound: float,
) -> None:
    """The loss is noticed in time and named; the tunnel comes back, and nothing comes twice."""
    talk = start(**settings)
    with strike(peer, talk):
        began = time.perf_counter()
        talk.say(10)
        assert talk.wait_for(S.CONNECTED, S.DISCONNECTED)
        assert time.perf_counter() - began < bound
    found = talk.errors[0]
    assert type(found) is error
    assert found.code == error.code
    assert (found.category, found.is_retryable) == (TunnelErrorCategory.NETWORK, True)
    assert talk.wait_for(S.CONNECTED, S.DISCONNECTED, S.RECONNECTING, S.CONNECTED)
    talk.return_to_life()
    talk.exchange(20)
    talk.check()


@pytest.mark.parametrize(
    "strike",
    [
        *(
            pytest.param(
                lasting("delaying", 0.1, *directions),
                marks=pytest.mark.fault("delay"),
                id="delaying-" + "-".join(directions),
            )
            for directions in ((UP,), (DOWN,), (UP, DOWN))
        ),
        *(
            pytest.param(
                lasting("throttling", 40_000, *directions),
                marks=pytest.mark.fault("throttling"),
                id="throttling-" + "-".join(directions),
            )
            for directions in ((UP,), (DOWN,), (UP, DOWN))
        ),
        pytest.param(lasting("dripping", 0.0), marks=pytest.mark.fault("dripping"), id="dripping"),
        pytest.param(lasting("ignoring"), marks=pytest.mark.fault("ignoring"), id="ignoring"),
        pytest.param(lasting("refusing"), marks=pytest.mark.fault("refusing"), id="refusing"),
        pytest.param(
            lasting("duplicating"), marks=pytest.mark.fault("duplicates"), id="duplicating"
        ),
    ],
)
def test_a_link_that_lives_on(
    peer: FaultProxy, start: Callable[..., Conversation], strike: Strike
) -> None:
    """A line that is slow, or bad for others, is no loss: all arrives, in order."""
    talk = start(**SLOW_PINGS)
    with strike(peer, talk):
        talk.exchange(5)
    talk.exchange(5)
    talk.check()
    assert talk.heard == list(range(15))
    assert talk.errors == []
    assert peer.accepted == 1


@pytest.mark.fault("duplicates")
@pytest.mark.parametrize("late", [0.0, 0.05], ids=["at-once", "late"])
def test_a_replayed_resume(make_service: MakeService, late: float) -> None:
    """Somebody says all that a resuming client says once more: nothing is handled twice.

    The newest link wins the session, so the client is closed with 4001, and resumes in its turn.
    """
    seen: list[object] = []

    def echo(session: GatewaySession, message: str | bytes) -> str | bytes:
        seen.append(message)
        return message

    with GatewayThread(echo) as gateway, FaultProxy(gateway.port) as proxy:
        talk = Conversation(make_service, resumes=True)
        talk.service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
        talk.exchange(5)
        with proxy.duplicating(late):
            proxy.reset()
            assert talk.wait_for(S.CONNECTED, S.DISCONNECTED, S.CONNECTED)
            talk.say(20)
            if late:  # else chance decides which of the two is the newest
                assert talk.wait_for(S.CONNECTED, S.DISCONNECTED, S.CONNECTED, S.DISCONNECTED)
        talk.say(20)
        closed = talk.errors[1:]
        assert {error.code for error in closed} <= {ConnectionClosedByPeerError.code}
        assert {error.close_code for error in closed} <= {4001}
        assert all(error.is_retryable for error in closed)
        talk.finish()
        talk.exchange(5)
        talk.check()
    assert seen == [message(number) for number in range(talk.sent)]


@pytest.mark.parametrize(
    "strike",
    [
        pytest.param(lasting("delaying", 0.05), marks=pytest.mark.fault("delay"), id="delaying"),
        pytest.param(
            lasting("throttling", 40_000), marks=pytest.mark.fault("throttling"), id="throttling"
        ),
        pytest.param(lasting("dripping", 0.0), marks=pytest.mark.fault("dripping"), id="dripping"),
    ],
)
def test_a_link_that_begins_badly(
    peer: FaultProxy, start: Callable[..., Conversation], strike: Strike
) -> None:
    """A slow line is slow during the handshakes, too, of a first link and of a later one."""
    with strike(peer, None):
        talk = start(**SLOW_PINGS)
        peer.reset()
        assert talk.wait_for(S.CONNECTED, S.DISCONNECTED, S.CONNECTED)
        talk.exchange(5)
    talk.check()
    assert peer.accepted == 2
