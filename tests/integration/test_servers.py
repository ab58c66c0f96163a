"""The tunnel against servers that are not ours, in processes that are killed and started again."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable

import pytest
from peers import DEADLINE, Collector, ServerProcess

import tunnel
from tunnel import ConnectionEventType, TunnelConnectionState, TunnelService

MakeService = Callable[..., TunnelService]

MESSAGES = [
    "text, also beyond ASCII: \u00e9\u4e16\U0001f30d",
    b"binary \x00\xff",
    "",
    b"",
    bytes(range(256)) * 4096,
    "\u00e9" * (5 * 2**19),
]


@pytest.mark.requirement("1.2", "1.3", "1.4", "1.7")
def test_echo_kill_restart(own_server: ServerProcess, make_service: MakeService) -> None:
    """Messages of every kind come back; after a kill and a restart, so do queued ones, in order."""
    received = Collector()
    service = make_service(on_message=received)
    service.connect(own_server.url, timeout=DEADLINE)
    for message in MESSAGES:
        service.send(message)
    assert received.wait(len(MESSAGES))
    assert received.items == MESSAGES
    assert [type(item) for item in received.items] == [type(message) for message in MESSAGES]

    own_server.kill()
    assert service.wait_for(TunnelConnectionState.RECONNECTING, timeout=DEADLINE)
    queued = [f"queued {number}" for number in range(50)]
    for message in queued:
        service.send(message)
    assert service.statistics()["queued_requests"] == 50
    own_server.start()
    assert service.wait_for(TunnelConnectionState.CONNECTED, timeout=DEADLINE)
    assert received.wait(len(MESSAGES) + 50)
    assert received.items[len(MESSAGES) :] == queued
    assert service.statistics()["reconnections"] == 1

    report = service.disconnect()
    assert report.unsent == ()
    assert service.state is TunnelConnectionState.DISCONNECTED


@pytest.mark.requirement("1.7", "10.1")
def test_reconnecting_takes_delay_plus_handshake(
    own_server: ServerProcess, make_service: MakeService
) -> None:
    """The tunnel is back in the delay of the policy plus the time of a bare handshake."""
    began = time.perf_counter()
    with tunnel.connect(own_server.url, timeout=DEADLINE):
        bare = time.perf_counter() - began
    service = make_service(reconnect_base_delay=0.2, reconnect_max_delay=0.2)
    service.connect(own_server.url, timeout=DEADLINE)
    stamps: list[tuple[str, float]] = []
    back = threading.Event()

    def note(event: tunnel.ConnectionEvent) -> None:
        stamps.append((event.type.value, time.perf_counter()))
        if event.type is ConnectionEventType.RECONNECTED:
            back.set()

    service.subscribe(note)
    own_server.kill()
    own_server.start()
    assert back.wait(DEADLINE)
    # From the announcement of the attempt that succeeded: delay, dial, done.
    announced = max(when for kind, when in stamps if kind == "reconnecting")
    done = max(when for kind, when in stamps if kind == "reconnected")
    assert 0.2 <= done - announced < 0.2 + 2 * bare + 0.25


def test_text_and_binary_over_tls(
    tls_echo_server: ServerProcess, client_tls: ssl.SSLContext, make_service: MakeService
) -> None:
    """Over TLS, messages of every kind come back, too."""
    received = Collector()
    service = make_service(on_message=received)
    service.connect(tls_echo_server.url, ssl_context=client_tls, timeout=DEADLINE)
    assert service.send_many(MESSAGES) == len(MESSAGES)
    assert received.wait(len(MESSAGES))
    assert received.items == MESSAGES


def test_iterating_in_the_seeds_manner(echo_server: ServerProcess) -> None:
    """`connect` gives a context manager whose messages can be iterated over, until it is closed."""
    with tunnel.connect(echo_server.url, timeout=DEADLINE) as service:
        service.send_many(["one", b"two"])
        messages = service.messages()
        assert [next(messages), next(messages)] == ["one", b"two"]
        assert service.test_connection(timeout=DEADLINE)
        assert service.state is TunnelConnectionState.CONNECTED
    assert list(service.messages()) == []
    assert service.state is TunnelConnectionState.DISCONNECTED
