"""The tunnel when bytes are changed on their way, with and without TLS.

Without TLS only what RFC 6455 or the session's protocol forbids can be seen; a changed byte of a
payload is a message like others. TLS sees every change.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

import pytest
from conversations import Conversation, MakeService, S
from peers import DEADLINE, Collector, ServerProcess

from tunnel import (
    ConnectionLostError,
    ConnectionRejectedError,
    NetworkError,
    ProtocolError,
    SessionLostError,
    TlsError,
    TunnelErrorCategory,
)
from tunnel.gateway import GatewayThread
from tunnel.testing import DOWN, UP, FaultProxy

RESERVED = 0x70  # bits of a frame's first byte that must be 0
GARBAGE = b"\xff\xff garbage"


@contextlib.contextmanager
def conversing(
    make_service: MakeService, port: int, *, resumes: bool
) -> Iterator[tuple[FaultProxy, Conversation]]:
    """A conversation with an echo at this port, through a proxy."""
    with FaultProxy(port) as proxy:
        talk = Conversation(make_service, resumes=resumes)
        talk.service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
        talk.exchange(10)
        yield proxy, talk


@pytest.mark.fault("corrupt-frame")
@pytest.mark.parametrize("resumes", [False, True], ids=["plain", "resuming"])
@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("inserts", [False, True], ids=["flip", "insert"])
def test_a_frame_that_cannot_be(
    make_service: MakeService,
    echo_server: ServerProcess,
    resumes: bool,
    direction: str,
    inserts: bool,
) -> None:
    """Who finds it sends 1002, the tunnel stops; `reconnect` goes on, and a session with it."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(GatewayThread()).port if resumes else echo_server.port
        proxy, talk = stack.enter_context(conversing(make_service, port, resumes=resumes))
        if inserts:
            proxy.insert(direction, None, GARBAGE)
        else:
            proxy.flip(direction, None, RESERVED)
        talk.say(10)
        assert talk.wait_for(S.CONNECTED, S.ERROR)
        (error,) = talk.errors
        assert type(error) is (ProtocolError if direction == DOWN else ConnectionRejectedError)
        assert error.close_code == 1002
        assert error.category is TunnelErrorCategory.PROTOCOL
        assert not error.is_retryable
        assert talk.service.reconnect(timeout=DEADLINE)
        talk.exchange(10)
        talk.check()


@pytest.mark.fault("corrupt-text")
@pytest.mark.parametrize("direction", [UP, DOWN])
def test_a_text_that_is_none(
    make_service: MakeService, echo_server: ServerProcess, direction: str
) -> None:
    """A plain peer's text that is no UTF-8 ends the link with 1007, at either end."""
    with conversing(make_service, echo_server.port, resumes=False) as (proxy, talk):
        # Behind the header: of 2 bytes, and upwards a mask of 4. Text becomes ff.
        proxy.flip(direction, 2 if direction == DOWN else 6, 0x80)
        talk.service.send("text")
        assert talk.wait_for(S.CONNECTED, S.ERROR)
        (error,) = talk.errors
        assert type(error) is (ProtocolError if direction == DOWN else ConnectionRejectedError)
        assert error.close_code == 1007
        assert not error.is_retryable
        assert talk.service.reconnect(timeout=DEADLINE)
        talk.exchange(10)
        talk.check()


@pytest.mark.fault("corrupt-session")
@pytest.mark.parametrize("direction", [UP, DOWN])
def test_a_session_frame_that_cannot_be(make_service: MakeService, direction: str) -> None:
    """It ends the session with 1002: what was not acknowledged is handed back, and nothing twice.

    The frame's number is changed: that leaves a gap, which no network makes.
    """
    received, lost = Collector(), Collector()
    with GatewayThread("echo") as gateway, FaultProxy(gateway.port) as proxy:
        service = make_service(on_message=received, on_session_lost=lost)
        service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
        service.send("before")
        assert received.wait(1)
        assert service.flush(DEADLINE)
        # Behind the header: kind, and the first byte of the number.
        proxy.flip(direction, 3 if direction == DOWN else 7, 0x40)
        service.send("meanwhile")
        assert service.wait_for(S.ERROR, timeout=DEADLINE)
        event = next(each for each in reversed(service.tracker.events) if "error" in each.metadata)
        assert event.metadata["error"]["context"]["close_code"] == 1002
        assert service.reconnect(timeout=DEADLINE)
        service.send("after")
        assert received.wait_for(lambda items: "after" in items)
        (error,) = lost.items
        assert isinstance(error, SessionLostError)
        assert set(error.unacknowledged) <= {"meanwhile"}
        assert received.items == ["before", "after"]


@pytest.mark.fault("corrupt-tls")
@pytest.mark.parametrize("after", [0, 1, 5, 30])
@pytest.mark.parametrize("direction", [UP, DOWN])
def test_any_byte_under_tls(
    make_service: MakeService,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    direction: str,
    after: int,
) -> None:
    """Whatever byte is changed, the link is lost and the session goes on: nothing lost or twice."""
    with (
        GatewayThread("echo", ssl_context=server_tls) as gateway,
        FaultProxy(gateway.port) as proxy,
    ):
        talk = Conversation(make_service, resumes=True)
        url = f"wss://127.0.0.1:{proxy.port}/"
        talk.service.connect(url, ssl_context=client_tls, timeout=DEADLINE)
        talk.exchange(10)
        strike = proxy.flip(direction, after, 0x01)
        talk.say(20)
        assert strike.wait()
        assert talk.wait_for(S.CONNECTED, S.DISCONNECTED, S.RECONNECTING, S.CONNECTED)
        assert isinstance(talk.errors[0], ConnectionLostError)
        assert talk.errors[0].is_retryable
        talk.return_to_life()
        talk.exchange(10)
        talk.check()


@pytest.mark.fault("corrupt-tls")
@pytest.mark.parametrize("direction", [UP, DOWN])
def test_a_handshake_of_tls_that_is_changed(
    make_service: MakeService,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    direction: str,
) -> None:
    """An attempt fails, which is retried, and the next one succeeds."""
    with GatewayThread(ssl_context=server_tls) as gateway, FaultProxy(gateway.port) as proxy:
        url = f"wss://127.0.0.1:{proxy.port}/"
        for after in range(60, 800, 120):
            strike = proxy.flip(direction, after, 0x01)
            failures = Collector()
            single = make_service(
                enable_auto_reconnect=False,
                connect_timeout=1.0,
                on_state_change=lambda record, note=failures: (
                    note(record.data["error"]) if record.data.get("error") else None
                ),
            )
            with contextlib.suppress(TlsError, NetworkError):
                single.connect(url, ssl_context=client_tls)
            single.disconnect(graceful=False)
            assert all(error.is_retryable for error in failures.items)
            assert strike.wait()
            assert proxy.wait_idle()
            proxy.flip(direction, after, 0x01)
            talk = Conversation(make_service, resumes=True, connect_timeout=1.0)
            talk.service.connect(url, ssl_context=client_tls, timeout=DEADLINE)
            talk.exchange(2)
            talk.check()
            talk.service.disconnect(graceful=False)
            assert proxy.wait_idle()
            proxy.disarm()
