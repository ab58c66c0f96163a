"""The tunnel when connecting goes wrong: refused, never answered, cut at any byte, hung up on."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from conversations import Conversation, MakeService, S
from peers import DEADLINE, Collector, Peer, RawServer, ServerProcess

from tunnel import (
    ConnectionLostError,
    ConnectRefusedError,
    ConnectTimeoutError,
    TunnelError,
    TunnelErrorCategory,
)
from tunnel.gateway import GatewayThread
from tunnel.testing import DOWN, UP, FaultProxy

TIMEOUT = 0.3


@pytest.fixture(params=["plain", "resuming"])
def peer(
    request: pytest.FixtureRequest, echo_server: ServerProcess
) -> Iterator[tuple[FaultProxy, bool]]:
    """A proxy before a peer that echoes, and whether that resumes."""
    if request.param == "plain":
        with FaultProxy(echo_server.port) as proxy:
            yield proxy, False
    else:
        with GatewayThread("echo") as gateway, FaultProxy(gateway.port) as proxy:
            yield proxy, True


def url(proxy: FaultProxy) -> str:
    """Of a proxy."""
    return f"ws://127.0.0.1:{proxy.port}/"


def failure(make_service: MakeService, url: str, **settings: object) -> TunnelError | None:
    """What a single dial ends with, or None if it succeeds."""
    service = make_service(enable_auto_reconnect=False, **settings)
    try:
        service.connect(url, timeout=DEADLINE)
    except TunnelError as error:
        return error
    finally:
        service.disconnect(graceful=False)
    return None


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        pytest.param(
            "refusing", ConnectRefusedError, marks=pytest.mark.fault("refusing"), id="refusing"
        ),
        pytest.param(
            "ignoring", ConnectTimeoutError, marks=pytest.mark.fault("ignoring"), id="ignoring"
        ),
        pytest.param(
            "silent", ConnectTimeoutError, marks=pytest.mark.fault("silence"), id="silent"
        ),
    ],
)
def test_nobody_answers(
    peer: tuple[FaultProxy, bool], make_service: MakeService, kind: str, error: type[TunnelError]
) -> None:
    """An attempt ends within `connect_timeout`; more follow, for a first link and a lost one."""
    proxy, resumes = peer
    with getattr(proxy, kind)():
        began = time.perf_counter()
        found = failure(make_service, url(proxy), connect_timeout=TIMEOUT)
        assert time.perf_counter() - began < TIMEOUT + 0.7
        assert type(found) is error
        assert (found.category, found.is_retryable) == (TunnelErrorCategory.NETWORK, True)
        talk = Conversation(make_service, resumes=resumes, connect_timeout=TIMEOUT)
        talk.service.connect(url(proxy), wait=False)
        talk.say(5)
        assert talk.wait_for(S.CONNECTING, S.DISCONNECTED, S.RECONNECTING)
    assert talk.wait_for(S.CONNECTED)
    talk.exchange(5)
    with getattr(proxy, kind)():
        proxy.reset()
        talk.say(5)
        assert talk.wait_for(S.CONNECTED, S.DISCONNECTED, S.RECONNECTING)
    assert talk.wait_for(S.CONNECTED, S.DISCONNECTED, S.CONNECTED)
    talk.return_to_life()
    talk.exchange(5)
    talk.check()


@pytest.mark.fault("cut-in-a-handshake")
@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("how", ["reset", "fin"])
def test_a_handshake_that_is_cut_at_any_byte(
    peer: tuple[FaultProxy, bool], make_service: MakeService, direction: str, how: str
) -> None:
    """Wherever the upgrade or the session's greeting breaks off: a loss, which may pass."""
    proxy, resumes = peer
    resume = "required" if resumes else "off"
    assert failure(make_service, url(proxy), resume=resume) is None
    assert proxy.wait_idle()  # the next to be struck is the next to be made
    wrong = []
    for after in range(0, proxy.forwarded[direction] - 20, 7):  # the last ones are a close frame
        strike = proxy.cut(direction, after, how)
        error = failure(make_service, url(proxy), resume=resume)
        assert strike.has_happened
        if type(error) is not ConnectionLostError or not error.is_retryable:
            wrong.append((after, error))
    assert wrong == []


@pytest.mark.fault("cut-in-a-handshake")
@pytest.mark.parametrize("direction", [UP, DOWN])
def test_a_session_survives_cuts_in_handshakes(make_service: MakeService, direction: str) -> None:
    """Cuts anywhere in the handshakes of reconnections lose nothing and double nothing."""
    with GatewayThread("echo") as gateway, FaultProxy(gateway.port) as proxy:
        talk = Conversation(make_service, resumes=True)
        talk.service.connect(url(proxy), timeout=DEADLINE)
        for after in range(0, 300, 29):
            strike = proxy.cut(direction, after, "reset")  # of this link, or of the next
            proxy.reset()
            talk.say(3)
            assert strike.wait()
            talk.return_to_life()
        talk.exchange(5)
        talk.check()


@pytest.mark.fault("no-session-in-time")
def test_a_session_that_is_never_opened(make_service: MakeService) -> None:
    """A peer that says it resumes, and then nothing: the dial ends with its time-out."""

    def script(peer: Peer) -> None:
        peer.upgrade({"Tunnel-Resume": "1"})
        peer.wait_until_gone()

    with RawServer(script) as server:
        began = time.perf_counter()
        error = failure(make_service, server.url, connect_timeout=TIMEOUT)
        assert time.perf_counter() - began < TIMEOUT + 0.7
        assert type(error) is ConnectTimeoutError
        assert error.is_retryable


def fin(peer: Peer) -> None:
    """Hang up without a word."""


def going_away(peer: Peer) -> None:
    """Close properly."""
    peer.close(1001)
    peer.receive_close()


def reset(peer: Peer) -> None:
    """Break the connection."""
    peer.reset()


@pytest.mark.fault("accepts-and-hangs-up")
@pytest.mark.requirement("1.1")
@pytest.mark.parametrize("hang_up", [fin, going_away, reset])
def test_a_server_that_accepts_and_hangs_up(
    make_service: MakeService, hang_up: Callable[[Peer], None]
) -> None:
    """It is not hammered: each pause is longer than the one before, though each dial succeeds."""
    accepted: list[float] = []
    enough = threading.Event()

    def script(peer: Peer) -> None:
        accepted.append(time.perf_counter())
        if len(accepted) >= 6:
            enough.set()
        peer.upgrade()
        hang_up(peer)

    with RawServer(script) as server:
        service = make_service(
            stable_after=30.0, reconnect_base_delay=0.02, reconnect_max_delay=0.16
        )
        service.connect(server.url, wait=False)
        assert enough.wait(DEADLINE)
        service.disconnect(graceful=False)
    pauses = [after - before for before, after in itertools.pairwise(accepted)]
    for pause, least in zip(pauses, (0.02, 0.04, 0.08, 0.16, 0.16), strict=False):
        assert pause >= least


@pytest.mark.fault("accepts-and-hangs-up")
@pytest.mark.requirement("1.1")
def test_a_link_that_held_begins_anew(make_service: MakeService) -> None:
    """A link that has lasted for `stable_after` is followed by the first, short pause."""
    delays = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        with contextlib.suppress(TimeoutError):
            peer.sock.settimeout(lasts[0])
            peer.receive()

    lasts = [0.0]
    with RawServer(script) as server:
        service = make_service(stable_after=0.3, reconnect_base_delay=0.01, reconnect_max_delay=5.0)
        service.subscribe(lambda event: "delay" in event.metadata and delays(event))
        lasts[0] = 0.001
        service.connect(server.url, wait=False)
        assert delays.wait(4)
        lasts[0] = 0.45
        assert delays.wait(7)
        service.disconnect(graceful=False)
    found = [event.metadata["delay"] for event in delays.items]
    assert found[:4] == [0.01, 0.02, 0.04, 0.08]
    assert found[6] == 0.01
