from __future__ import annotations

import socket
import ssl

import pytest

from tunnel.errors import (
    AuthenticationFailedError,
    CertificateError,
    ConnectRefusedError,
    NetworkUnreachableError,
    ProxyError,
    ResourceExhaustedError,
    TunnelError,
)
from tunnel.proxy_errors import (
    error_for_connect_status,
    error_for_socks_reply,
    error_with_proxy,
    invalid_answer,
)


@pytest.mark.fault("proxy-refuses-server")
@pytest.mark.parametrize(
    ("status", "error", "is_retryable"),
    [
        (407, AuthenticationFailedError, False),
        (401, AuthenticationFailedError, False),
        (403, AuthenticationFailedError, False),
        (400, ProxyError, False),
        (404, ProxyError, False),
        (302, ProxyError, False),
        (408, ProxyError, True),
        (429, ProxyError, True),
        (500, ProxyError, True),
        (502, ProxyError, True),
        (503, ProxyError, True),
        (504, ProxyError, True),
    ],
)
def test_statuses_of_connect(status: int, error: type[TunnelError], is_retryable: bool) -> None:
    """About credentials, final, or worth another try, as with a server's statuses."""
    found = error_for_connect_status(status, "the text", {"Retry-After": "7"})
    assert type(found) is error
    assert found.message == "the text"
    assert found.is_retryable == is_retryable
    assert found.context["status"] == status
    assert found.retry_after == (7.0 if is_retryable else None)


@pytest.mark.parametrize(("status", "names_the_port"), [(401, False), (403, True), (407, False)])
def test_suggestions(status: int, names_the_port: bool) -> None:
    """With 403 a proxy means the host or the port at least as often as the credentials."""
    suggestion = error_for_connect_status(status, "the text").suggestion
    assert suggestion is not None
    assert "user name and password" in suggestion
    assert ("host and port" in suggestion) == names_the_port


@pytest.mark.fault("proxy-refuses-server")
@pytest.mark.parametrize(
    ("version", "reply", "error", "is_retryable"),
    [
        (5, 1, ProxyError, True),
        (5, 2, ProxyError, False),
        (5, 3, NetworkUnreachableError, True),
        (5, 4, NetworkUnreachableError, True),
        (5, 5, ConnectRefusedError, True),
        (5, 6, NetworkUnreachableError, True),
        (5, 7, ProxyError, False),
        (5, 8, ProxyError, False),
        (5, 99, ProxyError, True),
        (4, 91, ProxyError, True),
        (4, 92, AuthenticationFailedError, False),
        (4, 93, AuthenticationFailedError, False),
        (4, 0, ProxyError, True),
    ],
)
def test_replies_of_socks(
    version: int, reply: int, error: type[TunnelError], is_retryable: bool
) -> None:
    """What the proxy found out about the server is the error of a direct connection."""
    found = error_for_socks_reply(version, reply)
    assert type(found) is error
    assert found.is_retryable == is_retryable
    assert f"SOCKS{version}" in found.message
    assert f"(reply {reply})" in found.message


@pytest.mark.parametrize(
    ("cause", "error"),
    [
        (ConnectionRefusedError(111, "Connection refused"), ProxyError),
        (ConnectionResetError(104, "Connection reset by peer"), ProxyError),
        (socket.gaierror(-2, "Name or service not known"), ProxyError),
        (ssl.SSLCertVerificationError("certificate verify failed"), CertificateError),
        (OSError(24, "Too many open files"), ResourceExhaustedError),
    ],
)
def test_a_failed_connection_to_the_proxy_is_the_proxys(
    cause: OSError, error: type[TunnelError]
) -> None:
    """It is not taken for the server's, except where it is about this machine."""
    found = error_with_proxy("http://proxy.test:1", cause)
    assert type(found) is error
    if error is not ResourceExhaustedError:
        assert "the connection to the proxy http://proxy.test:1 failed" in found.message


def test_an_invalid_answer_is_final() -> None:
    """Whoever listens there is no such proxy, and will be none at the next attempt."""
    assert not invalid_answer("no").is_retryable
