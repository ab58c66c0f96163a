"""Bad input: a clear error at the call that made the mistake, and an untouched tunnel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from peers import DEADLINE, Collector, Peer, RawServer, ServerProcess

import tunnel
from tunnel import (
    AuthenticationFailedError,
    ConfigurationError,
    PayloadTypeError,
    RequestPriority,
    TunnelConfig,
    TunnelConnectionState,
    TunnelService,
)

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState
INJECTION = "value\r\nX-Injected: yes"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://127.0.0.1/", {}),
        ("127.0.0.1:80", {}),
        ("", {}),
        ("ws://", {}),
        ("ws://127.0.0.1:99999/", {}),
        ("ws://127.0.0.1/#fragment", {}),
        ("ws://127.0.0.1/a b", {}),
        ("ws://127.0.0.1/\r\nX-Injected: yes", {}),
        (None, {}),
        (b"ws://127.0.0.1/", {}),
        (None, {"headers": {"X-Header": INJECTION}}),
        (None, {"headers": {"X-Header\r\nX-Injected": "yes"}}),
        (None, {"headers": {"Sec-WebSocket-Key": "mine"}}),
        (None, {"headers": {"X-Header": 1}}),
        (None, {"headers": "X-Header: value"}),
        (None, {"subprotocols": "chat"}),
        (None, {"subprotocols": ["chat", "chat"]}),
        (None, {"subprotocols": ["chat\r\n"]}),
        (None, {"auth_token": INJECTION}),
        (None, {"auth_token": ""}),
        (None, {"auth_token": 5}),
        (None, {"timeout": -1}),
        (None, {"timeout": float("nan")}),
        (None, {"timeout": "5"}),
        (None, {"user_id": 7}),
        (None, {"ssl_context": "insecure"}),
    ],
)
def test_wrong_arguments_of_connect(
    echo_server: ServerProcess, make_service: MakeService, url: object, options: dict[str, object]
) -> None:
    """`connect` refuses them all before it does anything; with right ones it works after that."""
    service = make_service()
    target = echo_server.url if url is None and options else url
    with pytest.raises((ValueError, TypeError)) as caught:
        service.connect(target, **options)  # type: ignore[arg-type]
    assert str(caught.value)
    assert service.state is S.DISCONNECTED
    assert service.tracker.connection is None
    assert service.tracker.events == ()
    service.connect(echo_server.url, timeout=DEADLINE)


@pytest.mark.parametrize(
    ("data", "options", "error"),
    [
        (None, {}, PayloadTypeError),
        (5, {}, PayloadTypeError),
        (["a"], {}, PayloadTypeError),
        ({"a": 1}, {}, PayloadTypeError),
        (object(), {}, PayloadTypeError),
        ("\ud800", {}, ValueError),
        ("\ud800" * 100_000, {}, ValueError),
        ("x", {"priority": "high"}, TypeError),
        ("x", {"priority": 1}, TypeError),
        ("x", {"expires_in": 0}, ValueError),
        ("x", {"expires_in": -1}, ValueError),
        ("x", {"expires_in": float("nan")}, ValueError),
        ("x", {"expires_in": "1"}, TypeError),
        ("x", {"timeout": -1}, ValueError),
        ("x", {"timeout": float("nan")}, ValueError),
        ("x", {"timeout": "1"}, TypeError),
    ],
)
def test_wrong_messages(
    echo_server: ServerProcess,
    make_service: MakeService,
    data: object,
    options: dict[str, object],
    error: type[Exception],
) -> None:
    """`send` and `send_many` refuse them, connected or not; nothing is queued, the link lives."""
    received = Collector()
    service = make_service(on_message=received)
    for is_connected in (False, True):
        if is_connected:
            service.connect(echo_server.url, timeout=DEADLINE)
        with pytest.raises(error):
            service.send(data, **options)  # type: ignore[arg-type]
        with pytest.raises(error):
            service.send_many([data], **options)  # type: ignore[list-item]
        assert service.statistics()["queued_requests"] == 0
    service.send("right")
    assert received.wait(1)
    assert received.items == ["right"]
    assert service.statistics()["reconnections"] == 0


def test_one_message_in_place_of_many(make_service: MakeService) -> None:
    """`send_many` takes several messages, not the characters of one."""
    for one in ("text", b"bytes", bytearray(b"bytes"), memoryview(b"bytes")):
        with pytest.raises(PayloadTypeError):
            make_service().send_many(one)


def test_bytes_like_messages(echo_server: ServerProcess, make_service: MakeService) -> None:
    """What is bytes-like is sent as it was at the call; to change it later changes nothing."""
    received = Collector()
    service = make_service(on_message=received)
    changing = bytearray(b"before")
    service.send(changing)
    changing[:] = b"after!"
    service.send(memoryview(b"0123456789")[2:8:2])
    service.connect(echo_server.url, timeout=DEADLINE)
    assert received.wait(2)
    assert received.items == [b"before", b"246"]


@pytest.mark.parametrize("refused", [RuntimeError("secret"), ValueError("secret")])
def test_token_callable_that_raises(
    echo_server: ServerProcess, make_service: MakeService, refused: Exception
) -> None:
    """A token callable that raises is an authentication error at once, without its words."""

    def token() -> str:
        raise refused

    service = make_service()
    with pytest.raises(AuthenticationFailedError) as caught:
        service.connect(echo_server.url, token, timeout=DEADLINE)
    assert "secret" not in str(caught.value)
    assert service.state is S.ERROR
    service.connect(echo_server.url, "right", timeout=DEADLINE)


@pytest.mark.parametrize("token", ["", "two words", INJECTION, None, 5, b"bytes"])
def test_token_callable_that_returns_nonsense(
    echo_server: ServerProcess, make_service: MakeService, token: object
) -> None:
    """What a token callable returns is checked like a token."""
    service = make_service()
    with pytest.raises((AuthenticationFailedError, ConfigurationError)) as caught:
        service.connect(echo_server.url, lambda: token, timeout=DEADLINE)  # type: ignore[arg-type]
    assert not caught.value.is_retryable
    assert service.state is S.ERROR


def test_token_service_that_is_down_is_asked_again(
    echo_server: ServerProcess, make_service: MakeService
) -> None:
    """A token callable whose own network fails is asked again, by the policy."""
    answers: list[object] = [OSError("down"), TimeoutError("down"), "token"]

    def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    service = make_service()
    service.connect(echo_server.url, token, timeout=DEADLINE)
    assert answers == []


@pytest.mark.requirement("9.3")
@pytest.mark.parametrize(
    "settings",
    [
        {"max_queue_size": -1},
        {"max_queue_size": 10**12},
        {"reconnect_base_delay": -2.0},
        {"jitter": 7},
        {"ping_interval": 30.0, "pong_timeout": 10.0},
        {"max_message_size": 0},
        {"fatal_close_codes": {99999}},
        {"resume": "perhaps"},
        {"no_such_setting": 1},
    ],
)
def test_wrong_settings_on_a_live_tunnel(
    echo_server: ServerProcess, make_service: MakeService, settings: dict[str, object]
) -> None:
    """Settings that are not valid are refused, with the field's name; the tunnel keeps its own."""
    service = make_service()
    service.connect(echo_server.url, timeout=DEADLINE)
    before = service.config
    with pytest.raises(ConfigurationError, match="|".join(settings)):
        service.update_config(service.config.replace(**settings))
    with pytest.raises(TypeError):
        service.update_config(settings)  # type: ignore[arg-type]
    assert service.config is before
    assert service.test_connection(timeout=DEADLINE)


def test_wrong_options() -> None:
    """Options that are not known, or callbacks that cannot be called, are refused."""
    with pytest.raises(TypeError):
        tunnel.connect("ws://127.0.0.1:1/", no_such_option=1)
    for name in ("on_message", "on_state_change", "on_connected"):
        with pytest.raises(TypeError, match=name):
            TunnelService(**{name: 5})
    with pytest.raises(TypeError):
        TunnelService({"ping_interval": 5})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        TunnelService(TunnelConfig()).wait_for()
    with pytest.raises(ValueError):
        TunnelService(TunnelConfig()).wait_for("nowhere")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("disconnect", (True, -1)),
        ("disconnect", (True, "1")),
        ("reconnect", ()),
        ("flush", (-1,)),
        ("test_connection", (-1,)),
        ("wait_for", (S.CONNECTED,)),
    ],
)
def test_wrong_times(
    echo_server: ServerProcess, make_service: MakeService, method: str, arguments: tuple[object]
) -> None:
    """Times that are none are refused by every call that takes one; the tunnel stays connected."""
    service = make_service()
    service.connect(echo_server.url, timeout=DEADLINE)
    options = {} if arguments and arguments[-1] in (-1, "1") else {"timeout": float("inf")}
    with pytest.raises((ValueError, TypeError)):
        getattr(service, method)(*arguments, **options)
    assert service.state is S.CONNECTED


def test_hostile_bytes_do_not_hurt_the_next_link(make_service: MakeService) -> None:
    """A peer that breaks the protocol is told 1002, and the tunnel goes to `error`, not down."""
    codes = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        if not codes.items:
            peer.sock.sendall(b"\xff\xff\xff\xff")
            codes(peer.receive_close())
        else:
            peer.echo()

    with RawServer(script) as server:
        service = make_service()
        service.connect(server.url, timeout=DEADLINE)
        assert service.wait_for(S.ERROR, timeout=DEADLINE)
        assert codes.wait(1)
        assert codes.items == [1002]
        service.connect(server.url, timeout=DEADLINE)
        service.send("fine", priority=RequestPriority.HIGH)
        assert next(service.messages()) == "fine"
        service.disconnect()
