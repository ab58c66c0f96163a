"""TLS that is not as it should be: certificates, versions, client certificates, pins, silence."""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from loguru import logger
from peers import DEADLINE, Collector, Peer, RawServer

import tunnel
from tunnel import (
    CertificateError,
    ConfigurationError,
    ConnectionLostError,
    ConnectTimeoutError,
    MaxReconnectAttemptsExceededError,
    TlsError,
    TlsSettings,
    TunnelConnectionState,
    TunnelError,
    TunnelErrorCategory,
    TunnelService,
)

MakeService = Callable[..., TunnelService]


def serve(peer: Peer) -> None:
    peer.upgrade()
    peer.echo()


@pytest.fixture
def server(server_tls: ssl.SSLContext) -> Iterator[RawServer]:
    with RawServer(serve, ssl_context=server_tls) as server:
        yield server


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def context_of(issued: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    return context


def last_error(service: TunnelService, url: str, **options: object) -> TunnelError:
    with pytest.raises(TunnelError) as caught:
        service.connect(url, timeout=DEADLINE, **options)
    error = caught.value
    if isinstance(error, MaxReconnectAttemptsExceededError):
        assert error.last_error is not None
        return error.last_error
    return error


def assert_final(service: TunnelService, server: RawServer, error: TunnelError) -> None:
    """Nobody tries again."""
    assert not error.is_retryable
    assert service.state is TunnelConnectionState.ERROR
    assert server.accepted == 1


# Certificates


def expired(authority: trustme.CA) -> trustme.LeafCert:
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
    return authority.issue_cert("127.0.0.1", not_after=past)


@pytest.mark.fault("certificate-not-trusted")
@pytest.mark.parametrize(
    ("issue", "words"),
    [
        (expired, "expired"),
        (lambda authority: trustme.CA().issue_cert("127.0.0.1"), "local issuer|self-signed"),
        (lambda authority: authority.issue_cert("other.test"), "mismatch"),
    ],
    ids=["expired", "of a stranger", "for another host"],
)
def test_a_certificate_that_is_not_trusted(
    issue: Callable[[trustme.CA], trustme.LeafCert],
    words: str,
    authority: trustme.CA,
    ca_file: Path,
    make_service: MakeService,
) -> None:
    """Expired, by an unknown authority, or for another host: nothing is sent, and it is final."""
    with RawServer(serve, ssl_context=context_of(issue(authority))) as server:
        service = make_service()
        error = last_error(service, server.url, tls=TlsSettings(ca_file=ca_file))
        assert isinstance(error, CertificateError)
        assert error.code == "TUNNEL_026"
        assert error.category is TunnelErrorCategory.CONFIGURATION
        assert re.search(words, error.message)
        assert_final(service, server, error)


@pytest.mark.fault("certificate-not-trusted")
def test_a_self_signed_certificate(server: RawServer, make_service: MakeService) -> None:
    """Without settings the system's authorities count, of which ours is none."""
    service = make_service()
    error = last_error(service, server.url)
    assert isinstance(error, CertificateError)
    assert_final(service, server, error)


def test_own_authorities(server: RawServer, ca_file: Path, make_service: MakeService) -> None:
    """With the authority's file the same server is trusted."""
    received = Collector()
    service = make_service(on_message=received)
    service.connect(server.url, tls=TlsSettings(ca_file=ca_file), timeout=DEADLINE)
    service.send("hello")
    assert received.wait(1)


@pytest.mark.fault("verification-off")
@pytest.mark.parametrize("how", ["tls", "ssl_context"])
def test_verification_that_is_off_is_warned_of(
    how: str, server: RawServer, make_service: MakeService
) -> None:
    """Once for each `connect`, not for each dial."""
    lines: list[str] = []
    logger.enable("tunnel")
    handler = logger.add(lambda line: lines.append(str(line)), level="WARNING")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    options = {"tls": TlsSettings(verify=False), "ssl_context": context}
    try:
        service = make_service()
        service.connect(server.url, timeout=DEADLINE, **{how: options[how]})
        assert service.reconnect(timeout=DEADLINE)
    finally:
        logger.remove(handler)
        logger.disable("tunnel")
    assert len([line for line in lines if "certificate is not verified" in line]) == 1


# Client certificates


@pytest.fixture
def demanding(authority: trustme.CA) -> Iterator[RawServer]:
    """A server that wants a certificate of its clients."""
    context = context_of(authority.issue_cert("127.0.0.1"))
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with RawServer(serve, ssl_context=context) as server:
        yield server


def test_a_client_certificate(
    demanding: RawServer,
    authority: trustme.CA,
    ca_file: Path,
    make_service: MakeService,
    tmp_path: Path,
) -> None:
    """It is shown to a server that wants one."""
    issued = authority.issue_cert("client.test")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    settings = TlsSettings(ca_file=ca_file, certificate=tmp_path / "client.pem")
    service = make_service()
    service.connect(demanding.url, tls=settings, timeout=DEADLINE)
    assert service.test_connection()


@pytest.mark.fault("client-certificate-missing")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_missing_client_certificate(
    version: ssl.TLSVersion,
    demanding: RawServer,
    client_tls: ssl.SSLContext,
    ca_file: Path,
    make_service: MakeService,
) -> None:
    """The server's alert is told; with TLS 1.3 it comes only after the handshake."""
    context = TlsSettings(ca_file=ca_file).make_context()
    context.maximum_version = version
    service = make_service()
    error = last_error(service, demanding.url, ssl_context=context)
    assert type(error) is TlsError
    assert error.code == "TUNNEL_025"
    assert_final(service, demanding, error)


# Versions


@pytest.mark.fault("tls-too-old")
def test_an_old_version_is_refused_whatever_the_context_allows(
    authority: trustme.CA, make_service: MakeService
) -> None:
    """TLS 1.2 is the floor for contexts of the caller's, too."""
    context, server_context = (
        ssl.create_default_context(),
        context_of(authority.issue_cert("127.0.0.1")),
    )
    authority.configure_trust(context)
    for each in (context, server_context):
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            each.minimum_version = ssl.TLSVersion.TLSv1_1
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            each.maximum_version = ssl.TLSVersion.TLSv1_1
        each.set_ciphers("ALL:@SECLEVEL=0")
    with RawServer(serve, ssl_context=server_context) as server:
        service = make_service()
        error = last_error(service, server.url, ssl_context=context)
        assert "speaks TLSv1.1; TLS 1.2 is the least" in error.message
        assert type(error) is TlsError
        assert_final(service, server, error)


# Pins


def pin_of(path: Path) -> str:
    certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "sha256/" + base64.b64encode(hashlib.sha256(key).digest()).decode()


@pytest.mark.fault("pin-does-not-fit")
def test_pins(
    server: RawServer, certificate: Path, ca_file: Path, make_service: MakeService
) -> None:
    """The server's key is one of them or there is no connection, trusted or not."""
    right, wrong = pin_of(certificate), "sha256/" + 43 * "A" + "="
    for settings in (
        TlsSettings(ca_file=ca_file, pins=[wrong, right]),
        TlsSettings(verify=False, pins=[right]),
    ):
        make_service().connect(server.url, tls=settings, timeout=DEADLINE)
    accepted = server.accepted
    for settings in (
        TlsSettings(ca_file=ca_file, pins=[wrong]),
        TlsSettings(verify=False, pins=[wrong]),
    ):
        error = last_error(make_service(), server.url, tls=settings)
        assert isinstance(error, CertificateError)
        assert error.code == "TUNNEL_026"
        assert not error.is_retryable
        assert right in error.message
    assert server.accepted == accepted + 2


# Handshakes that go wrong


@pytest.mark.fault("reset-during-tls")
def test_a_reset_during_tls(make_service: MakeService) -> None:
    """A loss like others: tried again."""

    def script(peer: Peer) -> None:
        peer.sock.recv(1)
        peer.reset()

    with RawServer(script) as server:
        service = make_service(max_reconnect_attempts=1)
        error = last_error(service, f"wss://127.0.0.1:{server.port}/")
        assert server.accepted == 2
    assert isinstance(error, ConnectionLostError)
    assert error.code == "TUNNEL_021"
    assert error.category is TunnelErrorCategory.NETWORK
    assert error.is_retryable


@pytest.mark.fault("silence-during-tls")
def test_silence_during_tls(make_service: MakeService) -> None:
    """A server that accepts and says nothing is given up at the deadline, and tried again."""
    with RawServer(Peer.wait_until_gone) as server:
        service = make_service(connect_timeout=0.2, max_reconnect_attempts=1)
        began = time.monotonic()
        error = last_error(service, f"wss://127.0.0.1:{server.port}/")
        assert time.monotonic() - began < 5.0
        assert server.accepted == 2
    assert isinstance(error, ConnectTimeoutError)
    assert error.code == "TUNNEL_020"
    assert error.is_retryable
    assert "TLS handshake" in error.message


@pytest.mark.fault("no-tls-there")
def test_a_server_without_tls(make_service: MakeService) -> None:
    """It answers something else: that does not pass by itself."""

    def script(peer: Peer) -> None:
        peer.sock.recv(100)
        peer.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.wait_until_gone()

    with RawServer(script) as server:
        service = make_service()
        error = last_error(service, f"wss://127.0.0.1:{server.port}/")
        assert type(error) is TlsError
        assert_final(service, server, error)


# Arguments


@pytest.mark.parametrize(
    "options",
    [
        {"tls": TlsSettings(ca_file="/no/such/file.pem")},
        {"tls": TlsSettings(certificate="/no/such/file.pem")},
        {"tls": TlsSettings(), "ssl_context": ssl.create_default_context()},
        {"ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)},
        {"socket_options": [(socket.IPPROTO_TCP, 9999, 1)]},
        {"unix_socket": ""},
    ],
)
def test_wrong_arguments_fail_the_call(
    options: dict[str, object], make_service: MakeService
) -> None:
    """Not the background: nothing has begun."""
    service = make_service()
    with pytest.raises(ConfigurationError):
        service.connect("wss://127.0.0.1:1/", wait=False, **options)
    assert service.state is TunnelConnectionState.DISCONNECTED
    with pytest.raises(ConfigurationError):
        tunnel.connect("wss://127.0.0.1:1/", **options)
