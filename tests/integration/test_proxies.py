"""Tunnels through HTTP and SOCKS proxies, and what becomes of proxies that do not open the way."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from connect_proxies import ConnectProxy
from loguru import logger
from peers import DEADLINE, Collector, Peer, RawServer

import tunnel
from tunnel import (
    AuthenticationFailedError,
    CertificateError,
    ConfigurationError,
    ConnectTimeoutError,
    MaxReconnectAttemptsExceededError,
    ProxyError,
    TunnelConnectionState,
    TunnelError,
    TunnelService,
)
from tunnel.nested_tls import nesting_context

MakeService = Callable[..., TunnelService]
PASSWORD = "s3cr3t"
SCHEMES = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]
BIG = 60_000  # one frame, several records of TLS


def serve(peer: Peer) -> None:
    peer.upgrade()
    peer.echo()


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer(serve) as server:
        yield server


@pytest.fixture
def tls_server(server_tls: ssl.SSLContext) -> Iterator[RawServer]:
    with RawServer(serve, ssl_context=server_tls) as server:
        yield server


@pytest.fixture
def trusting(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The system trusts our authority, as it does a company's that runs a proxy."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    nesting_context.cache_clear()
    yield
    nesting_context.cache_clear()


def echo(service: TunnelService, received: Collector, url: str, **options: object) -> None:
    """Connect, and see that messages of all sizes go through."""
    service.connect(url, timeout=DEADLINE, **options)
    messages = ["hello", *(letter * BIG for letter in "abcdefgh"), "bye"]
    for message in messages:
        service.send(message)
    assert received.wait(len(messages))
    assert received.items == messages
    service.disconnect()


@pytest.mark.fault("proxy-between")
@pytest.mark.parametrize("credentials", [None, f"me:{PASSWORD}"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("is_secure", [False, True], ids=["ws", "wss"])
@pytest.mark.usefixtures("trusting")
def test_a_tunnel_through_a_proxy(
    scheme: str,
    is_secure: bool,
    credentials: str | None,
    request: pytest.FixtureRequest,
    make_service: MakeService,
    client_tls: ssl.SSLContext,
    server_tls: ssl.SSLContext,
) -> None:
    """Every kind of proxy, with TLS to the server verified through it, also inside of TLS to it."""
    server: RawServer = request.getfixturevalue("tls_server" if is_secure else "server")
    received = Collector()
    if credentials and scheme.startswith("socks4"):
        credentials = "me"
    proxy_tls = server_tls if scheme == "https" else None
    with ConnectProxy(server.port, credentials=credentials, ssl_context=proxy_tls) as proxy:
        host = "localhost" if scheme in ("http", "socks4a", "socks5h") else "127.0.0.1"
        url = f"{'wss' if is_secure else 'ws'}://{host}:{server.port}/"
        user = f"{credentials}@" if credentials else ""
        proxy_url = f"{scheme}://{user}127.0.0.1:{proxy.port}"
        service = make_service(on_message=received)
        echo(service, received, url, proxy=proxy_url, ssl_context=client_tls)
        assert proxy.targets == [(host, server.port)]


@pytest.mark.parametrize(("scheme", "asked"), [("socks5", "127.0.0.1"), ("socks5h", "localhost")])
def test_who_resolves_the_name(
    scheme: str,
    asked: str,
    server: RawServer,
    make_service: MakeService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With socks5 this machine does, with socks5h the proxy."""
    resolve = socket.getaddrinfo

    def getaddrinfo(name: str, *arguments: object, **options: object) -> object:
        return resolve("127.0.0.1" if name == "localhost" else name, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with ConnectProxy(server.port) as proxy:
        proxy_url = f"{scheme}://127.0.0.1:{proxy.port}"
        make_service().connect(f"ws://localhost:{server.port}/", proxy=proxy_url)
        assert proxy.targets == [(asked, server.port)]


def test_the_environment_names_the_proxy(
    server: RawServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing need be passed, and None turns it off."""
    received = Collector()
    with ConnectProxy(server.port) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "other.test")
        echo(make_service(on_message=received), received, "ws://server.test:99/")
        assert proxy.targets == [("server.test", 99)]
        with pytest.raises(TunnelError):
            make_service(enable_auto_reconnect=False).connect("ws://server.test:99/", proxy=None)
        make_service().connect(server.url)  # this machine itself is not behind a proxy
        assert proxy.targets == [("server.test", 99)]


def test_after_a_loss_the_proxy_is_used_again(server: RawServer, make_service: MakeService) -> None:
    """Every dial goes the same way."""
    service = make_service()
    with ConnectProxy(server.port) as proxy:
        service.connect("ws://server.test/", proxy=f"socks5h://127.0.0.1:{proxy.port}")
        assert service.reconnect(timeout=DEADLINE)
        assert proxy.targets == 2 * [("server.test", 80)]


@pytest.mark.fault("proxy-refuses-credentials")
@pytest.mark.parametrize("given", ["", f"me:{PASSWORD}x@"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_wrong_credentials_are_final(
    scheme: str, given: str, server: RawServer, make_service: MakeService
) -> None:
    """407 and its kind end the attempts."""
    service = make_service()
    with (
        ConnectProxy(server.port, credentials=f"me:{PASSWORD}") as proxy,
        pytest.raises(AuthenticationFailedError) as caught,
    ):
        service.connect(server.url, proxy=f"{scheme}://{given}127.0.0.1:{proxy.port}")
    assert caught.value.code == "TUNNEL_002"
    assert not caught.value.is_retryable
    assert service.state is TunnelConnectionState.ERROR


def reset(peer: Peer) -> None:
    peer.sock.recv(1)
    peer.reset()


def talk_nonsense(peer: Peer) -> None:
    peer.sock.recv(1000)
    peer.sock.sendall(f"HTTP/1.1 407 {PASSWORD}\r\nX: {PASSWORD}\r\n\r\n".encode())
    peer.wait_until_gone()


def refuse_socks(peer: Peer) -> None:
    peer.sock.recv(1000)
    peer.sock.sendall(b"\5\2")
    peer.sock.recv(1000)
    peer.sock.sendall(b"\1\1")


@pytest.mark.fault("proxy-refuses-credentials", "proxy-answer-broken", "proxy-silent")
@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
@pytest.mark.parametrize("script", [reset, talk_nonsense, refuse_socks, Peer.wait_until_gone])
def test_nothing_shows_the_credentials(
    script: Callable[[Peer], None], scheme: str, make_service: MakeService
) -> None:
    """Neither log nor errors nor records, not even tracebacks with the values of variables."""
    lines: list[str] = []
    logger.enable("tunnel")
    handler = logger.add(lambda line: lines.append(str(line)), level="TRACE", diagnose=True)
    service = make_service(connect_timeout=0.3, enable_auto_reconnect=False)
    try:
        with RawServer(script) as proxy:

            def url() -> str:  # a call, so that this test's own frame does not show it
                return f"{scheme}://me:{PASSWORD}@127.0.0.1:{proxy.port}"

            try:
                service.connect("ws://10.0.0.1/", proxy=url())
            except TunnelError as error:
                logger.exception("as an application would")
                lines.append(repr(error.to_dict()))
    finally:
        logger.remove(handler)
        logger.disable("tunnel")
    assert len(lines) > 2
    shown = "".join(lines) + repr([service.tracker.to_json(), service, service.statistics()])
    encoded = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert PASSWORD not in shown
    assert encoded not in shown


def last_error(service: TunnelService, url: str, **options: object) -> TunnelError:
    """Why one attempt failed, and the one after it."""
    with pytest.raises(TunnelError) as caught:
        service.connect(url, timeout=DEADLINE, **options)
    error = caught.value
    if isinstance(error, MaxReconnectAttemptsExceededError):
        assert error.last_error is not None
        return error.last_error
    return error


@pytest.mark.fault("proxy-unreachable")
@pytest.mark.parametrize("host", ["127.0.0.1", "proxy.invalid"])
def test_a_proxy_that_is_not_there(
    host: str, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the proxy's fault, not the server's, and tried again."""
    resolve = socket.getaddrinfo

    def getaddrinfo(name: str, *arguments: object, **options: object) -> object:
        if name == "proxy.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(name, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    error = last_error(
        make_service(max_reconnect_attempts=1),
        "ws://server.test/",
        proxy=f"http://me:{PASSWORD}@{host}:{port}",
    )
    assert isinstance(error, ProxyError)
    assert error.is_retryable
    assert error.code == "TUNNEL_033"
    assert f"the proxy http://{host}:{port}" in error.message


@pytest.mark.fault("proxy-answer-broken")
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 503 No\r\n\r\n", b"HTTP/1.1 200 OK\r\nA", b"\5"]
)
def test_a_proxy_that_hangs_up(scheme: str, answer: bytes, make_service: MakeService) -> None:
    """Whatever it has said before: an error of the proxy."""

    def script(peer: Peer) -> None:
        peer.sock.recv(1)
        peer.sock.sendall(answer)
        peer.reset() if not answer else peer.sock.shutdown(socket.SHUT_WR)

    with RawServer(script) as proxy:
        error = last_error(
            make_service(max_reconnect_attempts=1),
            "ws://server.test/",
            proxy=f"{scheme}://127.0.0.1:{proxy.port}",
        )
    assert isinstance(error, ProxyError)


@pytest.mark.fault("proxy-answer-endless")
@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 502 No\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "]
)
def test_an_endless_answer(head: bytes, make_service: MakeService) -> None:
    """Headers or the body of a refusal that never end: no more is read than the limit."""
    sent = Collector()

    def script(peer: Peer) -> None:
        peer.sock.recv(65536)
        peer.sock.sendall(head)
        try:
            while True:
                sent(peer.sock.send(b"A: b\r\n" * 1000))
        except OSError:
            sent(None)

    with RawServer(script) as proxy:
        error = last_error(
            make_service(enable_auto_reconnect=False),
            "ws://server.test/",
            proxy=f"http://127.0.0.1:{proxy.port}",
        )
        assert sent.wait_for(lambda items: None in items)
    assert isinstance(error, ProxyError)


@pytest.mark.fault("proxy-silent")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_silent_proxy(scheme: str, make_service: MakeService) -> None:
    """The one deadline of a dial holds there, too."""
    with RawServer(Peer.wait_until_gone) as proxy:
        service = make_service(connect_timeout=0.2, enable_auto_reconnect=False)
        began = time.monotonic()
        error = last_error(service, "ws://10.0.0.1/", proxy=f"{scheme}://127.0.0.1:{proxy.port}")
        assert time.monotonic() - began < 5.0
    assert isinstance(error, ConnectTimeoutError)
    assert ("TLS handshake" if scheme == "https" else "proxy handshake") in error.message


@pytest.mark.fault("proxy-silent")
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_disconnect_during_the_talk_with_a_proxy(scheme: str, make_service: MakeService) -> None:
    """It is called off at once."""
    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.sock.recv(1)
        asked.set()
        peer.wait_until_gone()

    with RawServer(script) as proxy:
        service = make_service(connect_timeout=60.0)
        proxy_url = f"{scheme}://127.0.0.1:{proxy.port}"
        service.connect("ws://server.test/", proxy=proxy_url, wait=False)
        assert asked.wait(DEADLINE)
        began = time.monotonic()
        service.disconnect()
        assert time.monotonic() - began < 1.0


@pytest.mark.fault("certificate-not-trusted")
@pytest.mark.parametrize("is_proxys", [True, False])
def test_certificates_are_verified_through_a_proxy(
    is_proxys: bool,
    tls_server: RawServer,
    server_tls: ssl.SSLContext,
    make_service: MakeService,
) -> None:
    """The proxy's and the server's; each against its own name, and neither is tried again."""
    with ConnectProxy(tls_server.port, ssl_context=server_tls if is_proxys else None) as proxy:
        scheme = "https" if is_proxys else "http"
        error = last_error(
            make_service(),
            f"wss://127.0.0.1:{tls_server.port}/",
            proxy=f"{scheme}://127.0.0.1:{proxy.port}",
        )
    assert isinstance(error, CertificateError)
    assert ("proxy" in error.message) == is_proxys


def test_a_wrong_proxy_fails_the_call(make_service: MakeService) -> None:
    """Nothing happens in the background."""
    service = make_service()
    with pytest.raises(ConfigurationError, match="the proxy's URL"):
        service.connect("ws://server.test/", proxy="proxy.test:3128", wait=False)
    assert service.state is TunnelConnectionState.DISCONNECTED
    with pytest.raises(ConfigurationError, match="IPv6"):
        tunnel.connect("ws://[2001:db8::1]/", proxy="socks4://proxy.test")
