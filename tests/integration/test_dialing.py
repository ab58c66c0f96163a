"""Dials that hang in each of their steps, that fail, and that are called off."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import trustme
from peers import DEADLINE, Collector, Peer, RawServer, ServerProcess

import tunnel
from tunnel import (
    AuthenticationFailedError,
    CertificateError,
    ConnectionEventType,
    ConnectRefusedError,
    ConnectTimeoutError,
    DnsResolutionError,
    HandshakeRejectedError,
    InvalidStateError,
    MaxReconnectAttemptsExceededError,
    ServerUnavailableError,
    TunnelConnectionState,
    TunnelError,
    TunnelService,
)

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState
PROMPT = 0.1  # seconds that calling off may take
HANGS = ["dns", "tcp", "tls", "upgrade"]


def best_of(tries: int, measure: Callable[[], float]) -> float:
    """The shortest of several times: the machine may be busy, the code may not be slow."""
    return min(measure() for _ in range(tries))


@pytest.fixture
def hanging(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Callable[[], object]]]:
    """A URL at which a dial hangs in one step, and a call that waits until a dial does."""
    with contextlib.ExitStack() as stack:
        yield {
            "dns": _hang_in_dns,
            "tcp": _hang_in_tcp,
            "tls": _hang_in_tls,
            "upgrade": _hang_in_upgrade,
        }[request.param](stack, monkeypatch)


def _hang_in_dns(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[], object]]:
    asked, answer = threading.Semaphore(0), threading.Event()
    stack.callback(answer.set)  # the abandoned threads end

    def getaddrinfo(*arguments: object, **options: object) -> list[object]:
        asked.release()
        answer.wait(DEADLINE)
        raise socket.gaierror(socket.EAI_AGAIN, "the test is over")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return "ws://hanging.test/", lambda: asked.acquire(timeout=DEADLINE)


def _hang_in_tcp(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[], object]]:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    address = listener.getsockname()
    while True:  # until the backlog is full: then the kernel drops what comes
        filler = stack.enter_context(socket.socket())
        filler.settimeout(0.1)
        try:
            filler.connect(address)
        except TimeoutError:
            break
    dialling, connect_ex = threading.Semaphore(0), socket.socket.connect_ex

    class Socket(socket.socket):
        def connect_ex(self, target: object) -> int:
            error = connect_ex(self, target)
            dialling.release()
            return error

    monkeypatch.setattr(socket, "socket", Socket)
    return f"ws://127.0.0.1:{address[1]}/", lambda: dialling.acquire(timeout=DEADLINE)


def _hang_in_tls(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[], object]]:
    return _hang_after_accept(stack, "wss", lambda peer: peer.sock.recv(1))


def _hang_in_upgrade(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[], object]]:
    return _hang_after_accept(stack, "ws", Peer.read_request)


def _hang_after_accept(
    stack: contextlib.ExitStack, scheme: str, read: Callable[[Peer], object]
) -> tuple[str, Callable[[], object]]:
    dialling = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        read(peer)
        dialling.release()
        peer.wait_until_gone()

    server = stack.enter_context(RawServer(script))
    return f"{scheme}://127.0.0.1:{server.port}/", lambda: dialling.acquire(timeout=DEADLINE)


@pytest.mark.parametrize("hanging", HANGS, indirect=True)
def test_disconnect_during_a_first_dial(
    hanging: tuple[str, Callable[[], bool]], make_service: MakeService
) -> None:
    """A first dial that hangs, in whatever step, is called off at once by `disconnect`."""
    url, wait_until_dialling = hanging
    service = make_service()

    def measure() -> float:
        service.connect(url, wait=False)
        assert wait_until_dialling()
        began = time.perf_counter()
        service.disconnect()
        took = time.perf_counter() - began
        assert service.state is S.DISCONNECTED
        return took

    assert best_of(5, measure) < PROMPT


@pytest.mark.parametrize("hanging", HANGS, indirect=True)
def test_disconnect_during_a_later_dial(
    hanging: tuple[str, Callable[[], bool]], make_service: MakeService
) -> None:
    """So is a dial of a recovery."""
    url, wait_until_dialling = hanging
    service = make_service()

    def measure() -> float:
        service.connect(url, wait=False)
        assert wait_until_dialling()
        service.disconnect()
        threading.Thread(target=lambda: service.reconnect(timeout=1)).start()
        assert wait_until_dialling()
        assert service.state is S.RECONNECTING
        began = time.perf_counter()
        service.disconnect()
        return time.perf_counter() - began

    assert best_of(3, measure) < PROMPT


@pytest.mark.parametrize("hanging", HANGS, indirect=True)
def test_connect_timeout(
    hanging: tuple[str, Callable[[], bool]], make_service: MakeService
) -> None:
    """`connect` with a time-out raises soon after it, with the state and the threads as before."""
    url, _ = hanging
    service = make_service()

    def measure() -> float:
        began = time.perf_counter()
        with pytest.raises(ConnectTimeoutError):
            service.connect(url, timeout=0.1)
        took = time.perf_counter() - began
        assert service.state is S.DISCONNECTED
        assert not [thread for thread in threading.enumerate() if thread.name == "tunnel"]
        return took

    assert 0.1 <= best_of(3, measure) < 0.1 + PROMPT


@pytest.mark.parametrize("hanging", HANGS, indirect=True)
def test_deadline_of_one_dial(
    hanging: tuple[str, Callable[[], bool]], make_service: MakeService
) -> None:
    """`connect_timeout` ends a dial that hangs, whatever the step, and the next attempt is made."""
    url, wait_until_dialling = hanging
    service = make_service(connect_timeout=0.1, max_reconnect_attempts=1)
    with pytest.raises(TunnelError) as caught:
        service.connect(url, timeout=DEADLINE)
    assert isinstance(caught.value, MaxReconnectAttemptsExceededError)
    assert isinstance(caught.value.last_error, ConnectTimeoutError)
    assert wait_until_dialling()
    assert wait_until_dialling()


@pytest.mark.requirement("1.8")
@pytest.mark.parametrize("hanging", HANGS, indirect=True)
def test_network_change_during_a_dial(
    hanging: tuple[str, Callable[[], bool]], make_service: MakeService
) -> None:
    """When the network comes back a hanging dial is given up, and another begins at once."""
    url, wait_until_dialling = hanging
    service = make_service(reconnect_base_delay=60.0, reconnect_max_delay=60.0)
    service.connect(url, wait=False)
    assert wait_until_dialling()

    def measure() -> float:
        began = time.perf_counter()
        service.handle_network_change(True, "wifi")
        assert wait_until_dialling()
        return time.perf_counter() - began

    assert best_of(5, measure) < PROMPT


def test_disconnect_during_a_wait(make_service: MakeService) -> None:
    """A wait for the next attempt is called off at once by `disconnect`."""
    service = make_service(reconnect_base_delay=60.0, reconnect_max_delay=60.0)

    def measure() -> float:
        service.connect(_refusing_url(), wait=False)
        assert service.wait_for(S.RECONNECTING, timeout=DEADLINE)
        began = time.perf_counter()
        service.disconnect()
        took = time.perf_counter() - began
        assert service.state is S.DISCONNECTED
        return took

    assert best_of(5, measure) < PROMPT


def test_disconnect_ends_a_connect_that_waits(make_service: MakeService) -> None:
    """A `connect` that another thread waits in raises when the tunnel is disconnected."""
    service = make_service(reconnect_base_delay=60.0, reconnect_max_delay=60.0)
    raised = Collector()

    def connect() -> None:
        try:
            service.connect(_refusing_url())
        except TunnelError as error:
            raised(error)

    waiting = threading.Thread(target=connect)
    waiting.start()
    assert service.wait_for(S.RECONNECTING, timeout=DEADLINE)
    service.disconnect()
    assert raised.wait(1)
    waiting.join()


def _refusing_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"ws://127.0.0.1:{port}/"


# Failures


@pytest.mark.requirement("1.9", "1.10")
def test_attempts_used_up(make_service: MakeService) -> None:
    """After the last attempt: state, event, callback and error say so, and no thread is left."""
    states, events = Collector(), Collector()
    service = make_service(on_state_change=states, max_reconnect_attempts=3)
    service.subscribe(events)
    with pytest.raises(MaxReconnectAttemptsExceededError) as caught:
        service.connect(_refusing_url(), timeout=DEADLINE)
    assert caught.value.attempts == 3
    assert caught.value.code == "TUNNEL_014"
    assert isinstance(caught.value.last_error, ConnectRefusedError)
    assert service.state is S.ERROR
    assert states.items[-1].dest == "error"
    assert [event.metadata["attempt"] for event in events.items if "attempt" in event.metadata] == [
        1,
        2,
        3,
    ]
    assert events.items[-1].type is ConnectionEventType.ERROR
    assert not [thread for thread in threading.enumerate() if thread.name == "tunnel"]


@pytest.mark.requirement("1.8")
def test_network_change_after_exhaustion(own_port: int, make_service: MakeService) -> None:
    """When the network comes back after the attempts were used up, the tunnel connects at once."""
    service = make_service(max_reconnect_attempts=1)
    with pytest.raises(MaxReconnectAttemptsExceededError):
        service.connect(f"ws://127.0.0.1:{own_port}/", timeout=DEADLINE)
    service.handle_network_change(False)
    server = ServerProcess("websockets")
    server.port = own_port
    with server:
        assert service.state is S.ERROR
        service.handle_network_change(True)
        assert service.wait_for(S.CONNECTED, timeout=DEADLINE)


@pytest.fixture
def own_port() -> int:
    """A port on which nobody listens."""
    return int(_refusing_url().rpartition(":")[2][:-1])


@pytest.mark.requirement("1.8")
def test_network_gone_pauses_the_countdown(own_port: int, make_service: MakeService) -> None:
    """While the network is away no attempt is made; when it is back, one is made at once."""
    events = Collector()
    service = make_service(reconnect_base_delay=0.05, reconnect_max_delay=0.05)
    service.subscribe(events)

    def attempts() -> int:
        return sum("attempt" in item.metadata for item in events.items)

    service.handle_network_change(False)
    service.connect(f"ws://127.0.0.1:{own_port}/", wait=False)
    assert events.wait_for(lambda items: attempts() == 1)
    # Twenty delays long, in which the countdown would have ended.
    assert not events.wait_for(lambda items: attempts() > 1, 1.0)
    began = time.perf_counter()
    service.handle_network_change(True)
    assert events.wait_for(lambda items: attempts() > 1)
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("status", "error", "is_retried"),
    [
        ("401 Unauthorized", AuthenticationFailedError, False),
        ("403 Forbidden", AuthenticationFailedError, False),
        ("404 Not Found", HandshakeRejectedError, False),
        ("301 Moved Permanently", HandshakeRejectedError, False),
        ("503 Service Unavailable", ServerUnavailableError, True),
    ],
)
@pytest.mark.requirement("6.8", "2.1")
def test_refused_upgrade(
    make_service: MakeService, status: str, error: type[TunnelError], is_retried: bool
) -> None:
    """A status other than 101 has its error; only what may pass is tried again."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.respond(status, {"Content-Length": "0", "Location": "ws://127.0.0.1:1/"})

    with RawServer(script) as server:
        service = make_service(max_reconnect_attempts=2)
        with pytest.raises(TunnelError) as caught:
            service.connect(server.url, timeout=DEADLINE)
        assert server.accepted == (3 if is_retried else 1)
        found = caught.value.last_error if is_retried else caught.value
        assert isinstance(found, error)
        assert found.status == int(status[:3])
        assert service.state is S.ERROR


def test_token_is_asked_before_every_attempt(make_service: MakeService) -> None:
    """A callable is asked for a token before every attempt; 401 ends the attempts at once."""
    tokens = iter(["first", "second", "third", "bad", "never"])
    seen = Collector()

    def script(peer: Peer) -> None:
        peer.read_request()
        seen(peer.headers["authorization"])
        if peer.headers["authorization"] == "Bearer bad":
            peer.respond("401 Unauthorized", {"Content-Length": "0"})
        else:
            peer.respond("503 Service Unavailable", {"Content-Length": "0"})

    with RawServer(script) as server:
        service = make_service()
        with pytest.raises(AuthenticationFailedError) as caught:
            service.connect(server.url, lambda: next(tokens), timeout=DEADLINE)
        assert seen.items == ["Bearer first", "Bearer second", "Bearer third", "Bearer bad"]
        assert "bad" not in str(caught.value)
        assert service.state is S.ERROR


def test_new_token_after_a_loss(make_service: MakeService) -> None:
    """After a loss, the token is asked for anew."""
    count = iter(range(100))
    seen = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        seen(peer.headers["authorization"])
        if len(seen.items) == 1:
            peer.reset()
        else:
            peer.echo()

    with RawServer(script) as server:
        service = make_service()
        service.connect(server.url, lambda: f"token-{next(count)}", timeout=DEADLINE)
        assert seen.wait(2)
        assert seen.items == ["Bearer token-0", "Bearer token-1"]
        service.disconnect()


def test_headers_and_subprotocols(make_service: MakeService) -> None:
    """Headers and subprotocols arrive as given, and no Origin is claimed."""
    seen = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade({"Sec-WebSocket-Protocol": "chat.v1"})
        seen((peer.resource, peer.headers))
        peer.echo()

    with RawServer(script) as server:
        service = make_service()
        service.connect(
            f"{server.url}path?room=1",
            timeout=DEADLINE,
            headers={"X-Room": "one"},
            subprotocols=["chat.v2", "chat.v1"],
        )
        assert seen.wait(1)
        resource, headers = seen.items[0]
        assert resource == "/path?room=1"
        assert headers["x-room"] == "one"
        assert headers["sec-websocket-protocol"].replace(" ", "") == "chat.v2,chat.v1"
        assert "origin" not in headers
        service.disconnect()


def _certificate_of(authority: trustme.CA, *names: str, **terms: object) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **terms).configure_cert(context)
    return context


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_certificate_that_is_not_trusted(
    authority: trustme.CA, client_tls: ssl.SSLContext, make_service: MakeService, wrong: str
) -> None:
    """A certificate from nobody we trust, or for another host, is an error at once, no retry."""
    issuer = trustme.CA() if wrong == "authority" else authority
    name = "127.0.0.1" if wrong == "authority" else "elsewhere.test"
    with RawServer(Peer.upgrade, ssl_context=_certificate_of(issuer, name)) as server:
        service = make_service()
        with pytest.raises(CertificateError):
            service.connect(server.url, ssl_context=client_tls, timeout=DEADLINE)
        assert server.accepted == 1
        assert service.state is S.ERROR


def test_name_that_does_not_resolve(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not found is an error of its own, and tried again: the network may be down."""
    asked = Collector()

    def getaddrinfo(*arguments: object, **options: object) -> list[object]:
        asked(arguments)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    service = make_service(max_reconnect_attempts=2)
    with pytest.raises(MaxReconnectAttemptsExceededError) as caught:
        service.connect("ws://nowhere.test/", timeout=DEADLINE)
    assert isinstance(caught.value.last_error, DnsResolutionError)
    assert len(asked.items) == 3


def test_first_connect_without_automatic_reconnection(make_service: MakeService) -> None:
    """With automatic reconnection off, the first dial's failure is final and raised as it is."""
    service = make_service(enable_auto_reconnect=False)
    with pytest.raises(ConnectRefusedError):
        service.connect(_refusing_url(), timeout=DEADLINE)
    assert service.state is S.DISCONNECTED


def test_connect_twice(echo_server: ServerProcess, make_service: MakeService) -> None:
    """Connecting what is connected is refused and harms nothing; after `disconnect` it is right."""
    service = make_service()
    service.connect(echo_server.url, timeout=DEADLINE)
    began = time.perf_counter()
    with pytest.raises(InvalidStateError):
        service.connect(echo_server.url, timeout=DEADLINE)
    assert time.perf_counter() - began < 0.5
    assert service.test_connection()
    service.disconnect()
    service.connect(echo_server.url, timeout=DEADLINE)
    assert service.test_connection()


def test_connect_function_leaves_nothing_behind() -> None:
    """When `tunnel.connect` raises, nobody goes on trying."""
    with pytest.raises(ConnectTimeoutError):
        tunnel.connect(_refusing_url(), timeout=0.2)
    assert not [thread for thread in threading.enumerate() if thread.name == "tunnel"]
