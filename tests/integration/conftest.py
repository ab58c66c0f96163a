"""What the integration tests share: servers, certificates, quick settings, and a look for leaks."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

sys.path.insert(0, str(Path(__file__).parent))  # for `peers`: here are no packages

from peers import ServerProcess

from tunnel import TunnelConfig, TunnelService
from tunnel.testing import FaultProxy, StartProxy

QUICK = TunnelConfig(
    reconnect_base_delay=0.01,
    reconnect_max_delay=0.05,
    jitter=0.0,
    ping_interval=None,
    connect_timeout=10.0,
    max_reconnect_attempts=None,
)


@pytest.fixture(autouse=True)
def _nothing_left(no_leaks: None) -> None:
    """Every test here leaves as many threads and descriptors as it found."""


@pytest.fixture
def quick() -> TunnelConfig:
    """Settings with short delays, without a heartbeat, that never give up."""
    return QUICK


@pytest.fixture
def make_service() -> Iterator[Callable[..., TunnelService]]:
    """Makes services with quick settings (a dict changes them), and ends them with the test."""
    services: list[TunnelService] = []

    def make(config: TunnelConfig | None = None, **options: object) -> TunnelService:
        settings = {name: options.pop(name) for name in tuple(options) if hasattr(QUICK, name)}
        service = TunnelService((config or QUICK).replace(**settings), **options)
        services.append(service)
        return service

    yield make
    for service in services:
        service.disconnect(graceful=False, timeout=2.0)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with key and certificate for 127.0.0.1 and localhost."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """What a client uses that trusts our authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def server_tls(certificate: Path) -> ssl.SSLContext:
    """What a server of our authority uses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(scope="session")
def echo_server() -> Iterator[ServerProcess]:
    """An echo server by `websockets`; not to be killed."""
    with ServerProcess("websockets") as server:
        yield server


@pytest.fixture(scope="session")
def tls_echo_server(certificate: Path) -> Iterator[ServerProcess]:
    """The same over TLS."""
    with ServerProcess("websockets", certificate=certificate) as server:
        yield server


@pytest.fixture
def proxy(echo_server: ServerProcess, tunnel_proxy: StartProxy) -> FaultProxy:
    """A fault proxy before the echo server."""
    return tunnel_proxy(echo_server.port)


@pytest.fixture(params=["websockets", "aiohttp", "ws"])
def own_server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """An echo server of each kind, which the test may kill and start again."""
    modules = request.getfixturevalue("node_modules") if request.param == "ws" else None
    with ServerProcess(request.param, node_modules=modules) as server:
        yield server
