"""No secret in anything that is emitted, whatever goes wrong.

Each scenario is run under a `Watch`, which takes down all that logs, errors, events, JSON, figures,
reprs and pickles show, and then looks for canaries: texts that stand for secrets and occur nowhere
else, as they are and in base64.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import json
import logging
import pickle
import socket
import ssl
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
import websocket
from cryptography.hazmat.primitives import serialization
from loguru import logger
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from peers import DEADLINE, Collector, Peer, RawServer

from tunnel import (
    ConfigurationError,
    ConnectionEventType,
    SessionLostError,
    TunnelConfig,
    TunnelConnectionState,
    TunnelError,
    TunnelService,
)
from tunnel.addresses import TunnelUrl
from tunnel.gateway import GatewayThread, TokenFile, TokenTable
from tunnel.opentelemetry import TunnelTelemetry
from tunnel.prometheus import render
from tunnel.tls import TlsSettings

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState


class Canary:
    """What stands for secrets. Not variables of a test: those it may not look for in itself."""

    TOKEN = "canaryTOKEN4711zq"
    PASSWORD = "canaryPASSWORD4711zq"
    QUERY = "canaryQUERY4711zq"
    COOKIE = "canaryCOOKIE4711zq"
    SET_COOKIE = "canarySETCOOKIE4711zq"
    HEADER = "canaryHEADER4711zq"
    AUTHORIZATION = "canaryAUTHORIZATION4711zq"
    ANSWER = "canaryANSWER4711zq"
    MESSAGE = "canaryMESSAGE4711zq"
    OTHER_TOKEN = "canaryOTHERTOKEN4711zq"
    PROXY = "canaryPROXY4711zq"
    KEY_PASSWORD = "canaryKEYPASSWORD4711zq"


def canaries() -> dict[str, str]:
    """By name, also as they look within base64, wherever they begin."""
    plain = {name: value for name, value in vars(Canary).items() if name.isupper()}
    encoded = {
        f"{name} in base64": base64.b64encode(b"x" * offset + value.encode())[4:-4].decode()
        for name, value in plain.items()
        for offset in range(3)
    }
    return {**plain, **encoded}


class Watch:
    """Takes down what is emitted."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, str]] = []
        self._sinks = [io.StringIO() for _ in range(3)]
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracing = TracerProvider()
        tracing.add_span_processor(SimpleSpanProcessor(self._spans))
        self._telemetry = TunnelTelemetry(
            meter_provider=MeterProvider([self._reader]), tracer_provider=tracing
        )

    def __enter__(self) -> Watch:
        text, serialized, library = self._sinks
        self._handlers = [
            logger.add(text, level=0, diagnose=True, backtrace=True, format=_everything),
            logger.add(serialized, level=0, diagnose=True, backtrace=True, serialize=True),
        ]
        logger.enable("tunnel")
        self._stream = logging.StreamHandler(library)
        self._levels = {name: logging.getLogger(name).level for name in (None, "websocket")}
        for name in self._levels:
            logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger().addHandler(self._stream)
        self._warnings = warnings.catch_warnings(record=True)
        self._warned = self._warnings.__enter__()
        warnings.simplefilter("always")
        return self

    def __exit__(self, *exc: object) -> None:
        self._warnings.__exit__(*exc)
        logging.getLogger().removeHandler(self._stream)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        logger.disable("tunnel")
        for handler in self._handlers:
            logger.remove(handler)

    def take(self, where: str, *values: object) -> None:
        """Take down what these values show of themselves."""
        for value in values:
            self._texts.append((where, f"{value!r} {value!s}"))
            if isinstance(value, SessionLostError):
                continue
            with contextlib.suppress(Exception):
                self._texts.append((f"{where}, pickled", pickle.dumps(value, 0).decode("latin-1")))
            with contextlib.suppress(Exception):
                self._texts.append((f"{where}, copied", repr(copy.deepcopy(value))))
            with contextlib.suppress(Exception):
                self._texts.append((f"{where}, as JSON", json.dumps(value, default=repr)))

    def follow(self, service: TunnelService) -> None:
        """From now on, have spans made of what happens to a service."""
        self._telemetry.add("a tunnel", service)

    def take_error(self, error: BaseException) -> None:
        """Take down an error, its causes, and its traceback with the values of variables."""
        seen: list[BaseException] = []
        while error is not None and error not in seen:
            seen.append(error)
            where = type(error).__name__
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            self._texts.append((f"{where}'s text", "".join(shown.format_exception_only())))
            for frame in shown.stack:
                if frame.filename != __file__:  # this is the application
                    place = f"{where}'s traceback, {Path(frame.filename).name}: {frame.name}"
                    self._texts.append((place, f"{frame.line} {frame.locals}"))
            self.take(where, error, error.args)
            # Messages are handed back there, and nowhere else; so pickles have them too.
            if not isinstance(error, SessionLostError):
                self.take(where, vars(error))
            if isinstance(error, TunnelError):
                self.take(f"{where}.to_dict", error.to_dict())
            error = error.__cause__ or error.__context__

    def take_service(self, service: TunnelService) -> None:
        """Take down all that a service tells of itself."""
        tracker = service.tracker
        self.take("service", service, service.config, service.statistics(), service.health)
        self.take("metrics", service.metrics.snapshot(), render({"a tunnel": service}))
        telemetry = self._reader.get_metrics_data()
        if telemetry is not None:
            self.take("OpenTelemetry's metrics", telemetry.to_json())
        self.take("spans", *(span.to_json() for span in self._spans.get_finished_spans()))
        self.take("tracker", tracker, tracker.connection, tracker.events, tracker.to_json())
        self.take("history", *tracker.machine.history)
        if service._driver.last_error is not None:
            self.take_error(service._driver.last_error)
        self.take("threads", [thread.name for thread in threading.enumerate()])

    def found(self) -> list[str]:
        """Which canaries were emitted, and where."""
        names = ("loguru", "loguru in JSON", "logging")
        texts = [*self._texts, *zip(names, (sink.getvalue() for sink in self._sinks), strict=True)]
        texts.append(("warnings", "".join(str(w.message) for w in self._warned)))
        return [
            f"{name} in {where}: ...{text[max(0, at - 200) : at + 100]}..."
            for name, canary in canaries().items()
            for where, text in texts
            if (at := text.find(canary)) >= 0
        ]


def _everything(record: object) -> str:
    return "{level} {message} {extra} {thread.name} {function}\n{exception}\n"


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Looks at everything that is emitted; the test fails if there is a secret in it."""
    with Watch() as watch:
        yield watch
    found = watch.found()
    assert not found, "\n".join(found)


def options() -> dict[str, object]:
    """A use of each kind of secret that `connect` takes, but for the URL's."""
    return {
        "auth_token": Canary.TOKEN,
        "headers": {
            "Cookie": f"sid={Canary.COOKIE}",
            "X-Api-Key": Canary.HEADER,
            "X-Trace": Canary.AUTHORIZATION,
        },
    }


_ENDS = (ConnectionEventType.DISCONNECTED, ConnectionEventType.ERROR)


def url_of(server: RawServer | GatewayThread) -> str:
    """The server's URL with secrets in it."""
    scheme, _, rest = server.url.partition("://")
    return f"{scheme}://user:{Canary.PASSWORD}@{rest}path?key={Canary.QUERY}&b={Canary.QUERY}"


def connecting(
    watch: Watch,
    service: TunnelService,
    url: Callable[[], str],
    *,
    lost: bool = False,
    **more: object,
) -> None:
    """Connect with all secrets, and take everything down; `lost`: once the connection is lost."""
    events, states = Collector(), Collector()
    service.subscribe(events)
    service.tracker.machine.subscribe(states)
    watch.follow(service)
    try:
        service.connect(url(), **{**options(), "timeout": DEADLINE, **more})
        lost and events.wait_for(lambda items: any(item.type in _ENDS for item in items), 2)
    except Exception as error:
        watch.take_error(error)
    watch.take_service(service)
    watch.take("events", *events.items, [event.to_dict() for event in events.items])
    watch.take("changes", *states.items)
    service.disconnect(timeout=0.1)
    watch.take_service(service)


# What the server says


def quoting(peer: Peer) -> str:
    """All that the client has sent, as a hostile server would quote it."""
    lines = [peer.resource, *(f"{name}: {value}" for name, value in peer.headers.items())]
    return " ".join(lines) + f" {Canary.TOKEN} {Canary.HEADER} {Canary.COOKIE}"


def refusing(status: str, **headers: str) -> Callable[[Peer], None]:
    """Refuses, sets a cookie, and quotes the request in the body and in headers."""

    def script(peer: Peer) -> None:
        peer.read_request()
        quoted = quoting(peer)
        fields = {"Set-Cookie": f"sid={Canary.SET_COOKIE}", "X-Quoted": quoted}
        peer.respond(status, {**fields, **{k: v.format(quoted) for k, v in headers.items()}})
        peer.sock.sendall(quoted.encode())

    return script


def close_with_quotation(code: int) -> Callable[[Peer], None]:
    """Accepts, and closes with a reason that quotes the token."""

    def script(peer: Peer) -> None:
        peer.upgrade({"Set-Cookie": f"sid={Canary.SET_COOKIE}"})
        peer.close(code, f"no {Canary.TOKEN} {Canary.PASSWORD} {Canary.HEADER}")
        peer.receive_close()

    return script


def raw(answer: Callable[[Peer], str]) -> Callable[[Peer], None]:
    """Answers with bytes that are no HTTP, or hardly any."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.sock.sendall(answer(peer).encode())
        peer.wait_until_gone()

    return script


def accepting_with(**headers: str) -> Callable[[Peer], None]:
    """Accepts the upgrade, with headers that were not asked for."""

    def script(peer: Peer) -> None:
        peer.upgrade(headers)
        peer.wait_until_gone()

    return script


SERVERS: dict[str, Callable[[Peer], object]] = {
    "200": refusing("200 OK"),
    "301": refusing("301 Moved", Location=f"ws://other/?t={Canary.ANSWER}"),
    "302, quoting": refusing("302 Found", Location="ws://other/{}"),
    "400": refusing("400 Bad Request"),
    "401": refusing("401 Unauthorized", **{"WWW-Authenticate": 'Bearer error="{}"'}),
    "401, expired": refusing(
        "401 Unauthorized",
        **{"WWW-Authenticate": 'Bearer error="invalid_token", error_description="expired {}"'},
    ),
    "403": refusing("403 Forbidden"),
    "404, quoting in its phrase": refusing(f"404 {Canary.TOKEN}"),
    "426": refusing("426 Upgrade Required", **{"Sec-WebSocket-Version": "{}"}),
    "429": refusing("429 Too Many", **{"Retry-After": "{}"}),
    "500": refusing("500 Error"),
    "503": refusing("503 Unavailable", **{"Retry-After": "1"}),
    "no status": raw(lambda peer: quoting(peer) + "\r\n\r\n"),
    "a status that is none": raw(lambda peer: f"HTTP/1.1 {Canary.TOKEN} no\r\n\r\n"),
    "a line that is no header": raw(lambda peer: f"HTTP/1.1 101 OK\r\n{Canary.TOKEN}\r\n\r\n"),
    "a wrong accept key": raw(
        lambda peer: (
            "HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {Canary.TOKEN}\r\n\r\n"
        )
    ),
    "no answer": lambda peer: peer.wait_until_gone(),
    "a reset": lambda peer: (peer.read_request(), peer.reset()),
    "an extension": accepting_with(**{"Sec-WebSocket-Extensions": Canary.TOKEN}),
    "a subprotocol": accepting_with(**{"Sec-WebSocket-Protocol": Canary.TOKEN}),
    "a session of another version": accepting_with(**{"Tunnel-Resume": Canary.TOKEN}),
    "cookies": accepting_with(**{"Set-Cookie": f"sid={Canary.SET_COOKIE}"}),
}


@pytest.mark.fault("secrets-server")
@pytest.mark.parametrize("script", SERVERS.values(), ids=SERVERS.keys())
def test_what_servers_say(
    script: Callable[[Peer], object], watch: Watch, make_service: MakeService
) -> None:
    """Whatever a server answers, and however it quotes the request, no secret is shown."""
    with RawServer(script) as server:
        service = make_service(max_reconnect_attempts=1, connect_timeout=0.3)
        connecting(watch, service, lambda: url_of(server))


@pytest.mark.fault("secrets-server")
@pytest.mark.parametrize("name", ["200", "401", "cookies", "no status"])
def test_the_traces_of_the_library(name: str, watch: Watch, make_service: MakeService) -> None:
    """What websocket-client traces when that is switched on holds neither headers nor cookies."""
    websocket.enableTrace(True, logging.NullHandler())
    try:
        with RawServer(SERVERS[name]) as server:
            connecting(watch, make_service(max_reconnect_attempts=1), lambda: url_of(server))
    finally:
        websocket.enableTrace(False)


@pytest.mark.fault("secrets-server")
@pytest.mark.parametrize("token", [lambda: Canary.TOKEN, lambda: lambda: Canary.TOKEN])
@pytest.mark.parametrize("close_code", [1000, 1001, 1008, 1013, 4401])
def test_close_reasons(
    close_code: int, token: Callable[[], object], watch: Watch, make_service: MakeService
) -> None:
    """A reason for closing that quotes what the client has sent is shown without that."""
    with RawServer(close_with_quotation(close_code)) as server:
        service = make_service(max_reconnect_attempts=1, reconnect_base_delay=0.05)
        connecting(watch, service, lambda: url_of(server), lost=True, auth_token=token())


# The way to the server


@pytest.mark.fault("secrets-dial")
def test_a_server_without_tls(watch: Watch, make_service: MakeService) -> None:
    """A TLS handshake that fails shows no secret."""
    with RawServer(lambda peer: peer.sock.sendall(b"HTTP/1.1 400 no\r\n\r\n")) as server:
        service = make_service(max_reconnect_attempts=1)
        connecting(watch, service, lambda: url_of(server).replace("ws://", "wss://"))


@pytest.mark.fault("secrets-dial")
def test_a_certificate_that_is_not_trusted(
    server_tls: ssl.SSLContext, watch: Watch, make_service: MakeService
) -> None:
    """A certificate that is refused shows no secret."""
    with RawServer(lambda peer: peer.wait_until_gone(), ssl_context=server_tls) as server:
        connecting(watch, make_service(max_reconnect_attempts=1), lambda: url_of(server))


@pytest.mark.fault("secrets-dial")
def test_a_name_that_is_not_found(
    watch: Watch, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up that fails shows no secret."""

    def fail(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    service = make_service(max_reconnect_attempts=1)
    connecting(
        watch,
        service,
        lambda: f"wss://user:{Canary.PASSWORD}@nowhere.invalid/?key={Canary.QUERY}",
    )


@pytest.mark.fault("secrets-dial")
@pytest.mark.parametrize("timeout", [0.0, 0.2])
def test_no_time(timeout: float, watch: Watch, make_service: MakeService) -> None:
    """A `connect` that runs out of time shows no secret."""
    with RawServer(lambda peer: peer.wait_until_gone()) as server:
        connecting(watch, make_service(), lambda: url_of(server), timeout=timeout)


def proxy_that_says(answer: Callable[[Peer], str]) -> Callable[[Peer], None]:
    """A proxy that answers CONNECT, or whatever comes, with this."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.sock.sendall(answer(peer).encode())

    return script


def _proxy_quoting(status: str) -> Callable[[Peer], None]:
    return proxy_that_says(
        lambda peer: (
            f"HTTP/1.1 {status}\r\nProxy-Authenticate: Basic realm={quoting(peer)!r}\r\n"
            f"Set-Cookie: {Canary.SET_COOKIE}\r\nX: {Canary.PROXY}\r\n\r\n{quoting(peer)}"
        )
    )


PROXIES: dict[str, Callable[[Peer], object]] = {
    "407": _proxy_quoting("407 Proxy Authentication Required"),
    "403": _proxy_quoting(f"403 {Canary.PROXY}"),
    "301": _proxy_quoting("301 Moved"),
    "503": _proxy_quoting("503 Unavailable"),
    "200, and a server that quotes": _proxy_quoting("200 OK"),
    "no status": proxy_that_says(lambda peer: quoting(peer) + Canary.PROXY + "\r\n\r\n"),
    "no answer": lambda peer: peer.wait_until_gone(),
}


@pytest.mark.fault("secrets-dial")
@pytest.mark.parametrize("script", PROXIES.values(), ids=PROXIES.keys())
def test_what_proxies_say(
    script: Callable[[Peer], object], watch: Watch, make_service: MakeService
) -> None:
    """Whatever a proxy answers, neither its credentials nor ours for the server are shown."""

    def proxy() -> str:
        return f"http://user:{Canary.PROXY}@127.0.0.1:{server.port}"

    with RawServer(script) as server:
        service = make_service(max_reconnect_attempts=1, connect_timeout=0.3)
        connecting(watch, service, lambda: url_of(server), proxy=proxy())


@pytest.mark.fault("secrets-dial")
@pytest.mark.parametrize("scheme", ["http", "https", "socks4a", "socks5", "socks5h"])
def test_proxies_that_are_none(scheme: str, watch: Watch, make_service: MakeService) -> None:
    """A proxy of whatever kind that hangs up, after quoting us, shows no secret."""

    def proxy() -> str:
        return f"{scheme}://user:{Canary.PROXY}@127.0.0.1:{server.port}"

    with RawServer(lambda peer: peer.sock.sendall(Canary.PROXY.encode())) as server:
        service = make_service(max_reconnect_attempts=1, connect_timeout=0.3)
        connecting(watch, service, lambda: url_of(server), proxy=proxy())


@pytest.mark.fault("secrets-arguments")
@pytest.mark.parametrize(
    "template", ["http://user:{}@", "http://user:{}@h:x", "ftp://user:{}@h", "user:{}@h", "{}"]
)
def test_wrong_proxies(template: str, watch: Watch, make_service: MakeService) -> None:
    """A proxy that is not valid is refused without a word of its secrets."""
    wrong = {"proxy": template.replace("{}", Canary.PROXY)}
    connecting(watch, make_service(), lambda: "ws://host/", **wrong)


@pytest.mark.fault("secrets-arguments")
def test_a_wrong_password_of_a_key(
    authority: trustme.CA, tmp_path: Path, watch: Watch, make_service: MakeService
) -> None:
    """A key that the password does not open, and the settings with it, do not show it."""
    issued = authority.issue_cert("client.example")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    file = tmp_path / "key.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"another"),
        )
        + issued.cert_chain_pems[0].bytes()
    )
    settings = TlsSettings(certificate=file, key_password=Canary.KEY_PASSWORD)
    watch.take("settings", settings, vars(settings))
    connecting(watch, make_service(), lambda: "wss://127.0.0.1:1/", tls=settings)


# Arguments


WRONG_URLS = (
    "user:{}",
    "ws://user:{}",
    "ws://user:{}@",
    "ws://user:{}@host:{}/",
    "ws://user:{}@host:99999/?{}",
    "ws://us@er:{}@host/",
    "ws://user:{}@ho st/",
    "ws://user:{}@host/#{}",
    "ws://user:{}@[::1/",
    "ws://user:{}@[::{}]/",
    "http://user:{}@host/",
    "{}://user@host/",
    "ws://{}.{}..invalid/",
    "ws://user:{}%00@host/",
    "ws://user:{}%ff@host/",
    "ws://user%3a:{}@host/",
    "ws://host/\r\nAuthorization: {}",
    "ws://user:{}@host\\x/",
)


@pytest.mark.fault("secrets-arguments")
@pytest.mark.parametrize("template", WRONG_URLS)
def test_wrong_urls(template: str, watch: Watch, make_service: MakeService) -> None:
    """A URL that is not valid is refused without a word of its secrets."""
    service = make_service()
    connecting(watch, service, lambda: template.replace("{}", Canary.PASSWORD))
    try:
        TunnelUrl.parse(template.replace("{}", Canary.PASSWORD))
    except ConfigurationError as error:
        watch.take_error(error)


WRONG_OPTIONS: dict[str, Callable[[], dict[str, object]]] = {
    "a token of bytes": lambda: {"auth_token": Canary.TOKEN.encode()},
    "a token in a list": lambda: {"auth_token": [Canary.TOKEN]},
    "a token with a line end": lambda: {"auth_token": f"{Canary.TOKEN}\r\nX: y"},
    "a token with a space": lambda: {"auth_token": f"Bearer {Canary.TOKEN}"},
    "a header with a line end": lambda: {"headers": {"Cookie": f"{Canary.COOKIE}\r\nX: y"}},
    "a header beyond Latin-1": lambda: {"headers": {"X-Key": f"{Canary.HEADER}\u20ac"}},
    "a header of bytes": lambda: {"headers": {"X-Key": Canary.HEADER.encode()}},
    "a header as one text": lambda: {"headers": [f"Cookie: {Canary.COOKIE}"]},
    "headers as one text": lambda: {"headers": f"Cookie: {Canary.COOKIE}"},
    "a line for a name": lambda: {"headers": {f"Cookie: {Canary.COOKIE}": "x"}},
    "three parts": lambda: {"headers": [("Cookie", Canary.COOKIE, Canary.COOKIE)]},
    "a reserved header": lambda: {"headers": {"Host": Canary.HEADER}},
    "a token for a context": lambda: {"ssl_context": Canary.TOKEN},
    "a token for an option": lambda: {"token": Canary.TOKEN},
}


@pytest.mark.fault("secrets-arguments")
@pytest.mark.parametrize("wrong", WRONG_OPTIONS.values(), ids=WRONG_OPTIONS.keys())
def test_wrong_arguments(
    wrong: Callable[[], dict[str, object]], watch: Watch, make_service: MakeService
) -> None:
    """An argument that is not valid is refused without a word of what it was."""
    connecting(watch, make_service(), lambda: f"ws://u:{Canary.PASSWORD}@host/", **wrong())


def _raise(error: BaseException) -> str:
    raise error


TOKENS: dict[str, Callable[[], object]] = {
    "ValueError": lambda: _raise(ValueError(f"cannot renew {Canary.TOKEN}")),
    "OSError": lambda: _raise(OSError(5, f"cannot reach http://x/?token={Canary.TOKEN}")),
    "KeyError": lambda: _raise(KeyError(Canary.TOKEN)),
    "no text": lambda: Canary.TOKEN.encode(),
    "a line end": lambda: f"{Canary.TOKEN}\r\n",
    "None": lambda: None,
    "good": lambda: Canary.TOKEN,
}


@pytest.mark.fault("secrets-arguments")
@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS.keys())
def test_callables_for_tokens(
    token: Callable[[], object], watch: Watch, make_service: MakeService
) -> None:
    """What a callable for tokens raises or returns is not shown."""
    with RawServer(refusing("401 Unauthorized")) as server:
        service = make_service(max_reconnect_attempts=1)
        connecting(watch, service, lambda: url_of(server), auth_token=token)


# Callbacks


@pytest.mark.fault("secrets-callbacks")
def test_callbacks_that_raise(watch: Watch, make_service: MakeService) -> None:
    """The traceback of a callback that raised, with the values of variables, shows no secret."""

    def fail(*args: object) -> None:
        raise RuntimeError("a mistake")

    def script(peer: Peer) -> None:
        peer.upgrade({"Set-Cookie": f"sid={Canary.SET_COOKIE}"})
        peer.text("hello")
        peer.wait_until_gone()

    with RawServer(script) as server:
        service = make_service(on_message=fail, on_connected=fail, on_state_change=fail)
        service.subscribe(fail)
        failed = threading.Event()
        handler = logger.add(
            lambda entry: failed.set(), filter=lambda r: "on_message" in r["message"]
        )
        try:
            service.connect(url_of(server), **options())
            assert failed.wait(DEADLINE)
        finally:
            logger.remove(handler)
        watch.take_service(service)
        service.disconnect(timeout=0.1)


# Gateways


@pytest.mark.fault("secrets-gateway")
def test_a_session_with_a_gateway(watch: Watch, make_service: MakeService) -> None:
    """Sessions and requests, as both ends show them: neither tokens nor headers nor content."""
    table = TokenTable(f"alice:{Canary.TOKEN}\n", "the table")
    watch.take("gateway", table, vars(table))
    with GatewayThread("echo", authenticate=table) as gateway:
        service = make_service(on_message=lambda message: None)
        service.connect(gateway.url, Canary.TOKEN, headers={"Cookie": Canary.COOKIE})
        service.send(Canary.MESSAGE)
        assert service.flush(DEADLINE)
        fields = {"Authorization": Canary.AUTHORIZATION, "Cookie": Canary.COOKIE}
        answer = service.request(
            Canary.MESSAGE, path=f"/?key={Canary.QUERY}", headers=fields, timeout=DEADLINE
        )
        watch._texts.append(("an answer", f"{answer!r} {answer.headers!r}"))
        session = service._driver.channel.session
        watch._texts.append(("a session", f"{session!r} {service._driver.channel!r} {gateway!r}"))
        watch.take_service(service)
        service.disconnect(timeout=DEADLINE)
        other = make_service()
        with pytest.raises(TunnelError) as caught:
            other.connect(gateway.url, Canary.OTHER_TOKEN)
        watch.take_error(caught.value)


@pytest.mark.fault("secrets-gateway")
def test_a_session_that_is_lost(watch: Watch, make_service: MakeService) -> None:
    """The error of a lost session hands messages back, and shows nothing of them."""
    lost = Collector()
    asleep = threading.Event()
    gateway = GatewayThread(lambda session, message: asleep.wait(DEADLINE) and None)
    gateway.__enter__()
    service = make_service(on_session_lost=lost)
    service.connect(gateway.url)
    service.send(Canary.MESSAGE)
    assert not service.flush(0.05)
    port = gateway.port
    asleep.set()
    gateway.stop(drain=False)
    with GatewayThread("echo", port=port):
        assert lost.wait(1)
        watch.take_error(lost.items[0])
        watch.take_service(service)
        service.disconnect(timeout=DEADLINE)


@pytest.mark.fault("secrets-gateway")
def test_the_output_of_a_gateway(tmp_path: Path, watch: Watch, make_service: MakeService) -> None:
    """What a gateway logs, at any level, of who comes in and of a service that fails it."""
    file = tmp_path / "tokens"
    file.write_text(f"alice:{Canary.TOKEN}\n", "utf-8")
    tokens = TokenFile(file)

    def service_that_quotes(peer: Peer) -> None:
        peer.read_request()
        peer.sock.sendall(f"HTTP/1.1 {quoting(peer)}\r\n\r\n".encode())

    fields = {"Authorization": f"Bearer {Canary.AUTHORIZATION}", "Cookie": Canary.COOKIE}
    with (
        RawServer(service_that_quotes) as backend,
        GatewayThread(
            "echo",
            authenticate=tokens,
            forward=f"http://127.0.0.1:{backend.port}",
        ) as gateway,
    ):
        service = make_service()
        service.connect(gateway.url, Canary.TOKEN)
        path = f"/?key={Canary.QUERY}"
        answer = service.request(Canary.MESSAGE, path=path, headers=fields, timeout=DEADLINE)
        assert answer.status_code == 502
        watch.take("answer", answer, answer.headers, answer.payload)
        file.write_text(f"{Canary.OTHER_TOKEN} is no token\n", "utf-8")
        for token in (Canary.OTHER_TOKEN, None):
            with pytest.raises(TunnelError) as caught:
                make_service(max_reconnect_attempts=1).connect(gateway.url, token)
            watch.take_error(caught.value)
        watch.take("gateway", gateway, tokens, vars(tokens))


@pytest.mark.fault("secrets-gateway")
def test_a_handler_that_fails(watch: Watch, make_service: MakeService) -> None:
    """The traceback of a gateway's handler, with the values of variables, shows no request."""

    def fail(session: object, item: object) -> None:
        raise RuntimeError("a mistake")

    with GatewayThread(fail) as gateway:
        service = make_service()
        service.connect(gateway.url, Canary.TOKEN)
        fields = {"Authorization": f"Bearer {Canary.AUTHORIZATION}", "Cookie": Canary.COOKIE}
        path = f"/?key={Canary.QUERY}"
        assert service.request(b"", path=path, headers=fields, timeout=DEADLINE).status_code == 500


# The watch itself


def _leaks() -> dict[str, Callable[[Watch], object]]:
    def raised() -> BaseException:
        # From another file, since what this one's frames hold is the application's.
        source = "def fail(variable):\n    raise ValueError(len(variable))"
        names: dict[str, Callable[[str], None]] = {}
        exec(compile(source, "elsewhere.py", "exec"), names)
        try:
            names["fail"](Canary.TOKEN)
        except ValueError as error:
            return error
        raise AssertionError

    def chained() -> BaseException:
        error = TunnelError("harmless")
        error.__cause__ = OSError(Canary.PASSWORD)
        return error

    def logged(watch: Watch) -> None:
        try:
            variable = Canary.TOKEN
            raise ValueError(len(variable))
        except ValueError:
            logger.exception("harmless")

    return {
        "a log line": lambda watch: logger.trace("{}", Canary.TOKEN),
        "logging": lambda watch: logging.getLogger("websocket").debug(Canary.COOKIE),
        "a value in a log": logged,
        "a variable": lambda watch: watch.take_error(raised()),
        "a cause": lambda watch: watch.take_error(chained()),
        "a context": lambda watch: watch.take_error(TunnelError("x", context={"a": Canary.HEADER})),
        "base64": lambda watch: watch.take(
            "x", base64.b64encode(f"someone:{Canary.PASSWORD}".encode())
        ),
        "a warning": lambda watch: warnings.warn(Canary.QUERY, stacklevel=1),
        "an attribute": lambda watch: watch.take("x", TunnelConfig, {"x": [Canary.ANSWER]}),
    }


@pytest.mark.parametrize("leak", _leaks().values(), ids=_leaks().keys())
def test_the_watch_finds(leak: Callable[[Watch], object]) -> None:
    """A secret that is emitted in any of these ways is found."""
    with Watch() as watch:
        assert not watch.found()
        leak(watch)
    assert watch.found()
