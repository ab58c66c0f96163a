"""Links that are lost in every way that a network has, and how soon that is noticed."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest
from peers import CLOSE, DEADLINE, TEXT, Collector, Peer, RawServer, ServerProcess

from statemachine import replay
from tunnel import (
    LIFECYCLE,
    ConnectionLostError,
    ConnectionRejectedError,
    HeartbeatTimeoutError,
    ServerUnavailableError,
    TunnelConnectionState,
    TunnelService,
)
from tunnel.testing import DOWN, UP, FaultProxy

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState


class States:
    """What the machine of a service went through."""

    def __init__(self) -> None:
        self.records = Collector()

    def __call__(self, record: object) -> None:
        self.records(record)

    def wait_for(self, *states: TunnelConnectionState) -> bool:
        """Wait until these states were entered, in this order, others in between or not."""
        return self.records.wait_for(lambda records: _contains(records, states))

    def errors(self) -> list[object]:
        """The errors that links ended with."""
        data = [record.data for record in self.records.items if record.trigger in ("lost", "fail")]
        return [facts.get("error") for facts in data]


def _contains(records: list[object], states: tuple[TunnelConnectionState, ...]) -> bool:
    remaining = iter([record.dest for record in records])
    return all(state.value in remaining for state in states)


def test_reset(proxy: FaultProxy, make_service: MakeService) -> None:
    """A connection that is reset is lost at once, and comes back."""
    states = States()
    received = Collector()
    service = make_service(on_state_change=states, on_message=received)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    assert proxy.reset() == 1
    assert states.wait_for(S.CONNECTED, S.DISCONNECTED, S.RECONNECTING, S.CONNECTED)
    service.send("after")
    assert received.wait(1)
    assert isinstance(states.errors()[0], ConnectionLostError)
    assert replay(LIFECYCLE, service.tracker.machine.history)


def test_end_without_close_frame(proxy: FaultProxy, make_service: MakeService) -> None:
    """A FIN without a close frame (RFC 6455: 1006) is a loss."""
    states = States()
    service = make_service(on_state_change=states)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    assert proxy.fin() == 1
    assert states.wait_for(S.CONNECTED, S.DISCONNECTED, S.RECONNECTING, S.CONNECTED)
    assert isinstance(states.errors()[0], ConnectionLostError)


@pytest.mark.requirement("6.1", "6.2")
@pytest.mark.parametrize("directions", [(UP, DOWN), (UP,), (DOWN,)], ids=["both", "up", "down"])
def test_silence(proxy: FaultProxy, make_service: MakeService, directions: tuple[str, ...]) -> None:
    """Silence, in one direction or in both, is noticed within the pong time-out."""
    states = States()
    service = make_service(on_state_change=states, ping_interval=0.1, pong_timeout=0.3)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    with proxy.silent(*directions):
        began = time.perf_counter()
        assert states.wait_for(S.CONNECTED, S.DISCONNECTED)
        # The last byte may have come up to now; what is beyond the time-out is this machine's.
        assert time.perf_counter() - began < 0.3 + 0.3
    assert isinstance(states.errors()[0], HeartbeatTimeoutError)
    assert states.wait_for(S.DISCONNECTED, S.RECONNECTING, S.CONNECTED)


@pytest.mark.requirement("6.1")
def test_pongs_keep_an_idle_link_alive(proxy: FaultProxy, make_service: MakeService) -> None:
    """An idle link whose peer answers pings outlives many pong time-outs."""
    states = States()
    service = make_service(on_state_change=states, ping_interval=0.05, pong_timeout=0.5)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    assert not service.wait_for(S.DISCONNECTED, timeout=1.2)
    assert service.statistics()["round_trip"] > 0
    assert states.errors() == []


def test_refusal_while_away(proxy: FaultProxy, make_service: MakeService) -> None:
    """While nobody listens attempts are made and fail; once somebody does, one succeeds."""
    states = States()
    events = Collector()
    service = make_service(on_state_change=states)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    service.subscribe(events)
    with proxy.refusing():
        proxy.reset()
        assert events.wait_for(
            lambda items: sum(item.type.value == "reconnecting" for item in items) >= 5
        )
        assert service.state is S.RECONNECTING
    assert service.wait_for(S.CONNECTED, timeout=DEADLINE)
    attempts = [item.metadata["attempt"] for item in events.items if "attempt" in item.metadata]
    assert attempts[:5] == [1, 2, 3, 4, 5]


def test_cut_while_sending(proxy: FaultProxy, make_service: MakeService) -> None:
    """Cuts in the midst of big messages lose at most what was under way, and keep the order."""
    received = Collector()
    service = make_service(on_message=received)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    for number in range(40):
        service.send(number.to_bytes(4, "big") + bytes(300_000), timeout=None)
        if number % 10 == 5:
            proxy.reset()
            # What the kernel had taken may be lost; what is accepted while away is not.
            assert service.wait_for(S.RECONNECTING, S.CONNECTED, timeout=DEADLINE)
    service.send(b"last")
    assert received.wait_for(lambda items: b"last" in items)
    numbers = [int.from_bytes(item[:4], "big") for item in received.items if len(item) > 4]
    assert numbers == sorted(set(numbers))
    assert all(len(item) == 300_004 for item in received.items[:-1])


# Close codes


def _closing_with(code: int | None, answers: Collector, *, once: bool = True) -> RawServer:
    """A server that closes the first connection (or all) with a code, and notes the answer."""
    first = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        if once and first.is_set():
            peer.echo()
            return
        first.set()
        if code is None:
            peer.send(CLOSE, b"")
        else:
            peer.close(code, "because")
        answers(peer.receive_close())

    return RawServer(script)


@pytest.mark.requirement("6.7")
@pytest.mark.parametrize("code", [1000, 1001, None, 1011, 1012, 1013, 1014, 4000, 4999])
def test_close_codes_that_allow_to_come_back(make_service: MakeService, code: int | None) -> None:
    """These codes are losses: the code is echoed, and the tunnel comes back."""
    answers = Collector()
    states = States()
    with _closing_with(code, answers) as server:
        service = make_service(on_state_change=states)
        service.connect(server.url, timeout=DEADLINE)
        assert states.wait_for(S.CONNECTED, S.DISCONNECTED, S.RECONNECTING, S.CONNECTED)
        assert answers.wait(1)
        assert answers.items == [code]
        (error,) = states.errors()
        assert error.close_code == (1005 if code is None else code)
        assert isinstance(error, ServerUnavailableError if code in (1012, 1013) else Exception)
        service.disconnect()


@pytest.mark.requirement("6.7", "1.9")
@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 4321])
def test_close_codes_that_do_not(make_service: MakeService, code: int) -> None:
    """These codes, and those that are configured as fatal, lead to `error`; nobody dials again."""
    answers = Collector()
    states = States()
    with _closing_with(code, answers) as server:
        service = make_service(on_state_change=states, fatal_close_codes={4321})
        service.connect(server.url, timeout=DEADLINE)
        assert states.wait_for(S.CONNECTED, S.ERROR)
        assert answers.wait(1)
        assert answers.items == [code]
        (error,) = states.errors()
        assert error.close_code == code
        assert not error.is_retryable
        if code in (1002, 1003, 1007, 1008, 1010, 4321):
            assert isinstance(error, ConnectionRejectedError)
        assert server.accepted == 1


def test_close_behind_unread_messages(make_service: MakeService) -> None:
    """What the peer sent before its close frame is delivered before the loss is noticed."""
    received = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        for number in range(500):
            peer.text(str(number))
        peer.close(4000)
        peer.wait_until_gone()

    with RawServer(script) as server:
        service = make_service(on_message=received, enable_auto_reconnect=False)
        service.connect(server.url, timeout=DEADLINE)
        assert service.wait_for(S.DISCONNECTED, timeout=DEADLINE)
        assert received.items == [str(number) for number in range(500)]


def test_close_over_tls(
    make_service: MakeService, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Over TLS, a close frame is answered before the connection ends, too."""
    answers = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.close(1001)
        answers(peer.receive_close())

    with RawServer(script, ssl_context=server_tls) as server:
        service = make_service(enable_auto_reconnect=False)
        service.connect(server.url, ssl_context=client_tls, timeout=DEADLINE)
        assert answers.wait(1)
        assert answers.items == [1001]
        assert service.wait_for(S.DISCONNECTED, timeout=DEADLINE)


def test_tls_end_without_closure_alert(
    make_service: MakeService, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """A TLS connection that just ends, or is reset, is a loss, not a failure of the tunnel."""
    ends = ["fin", "reset", "alert"]

    def script(peer: Peer) -> None:
        peer.upgrade()
        end = ends.pop(0) if ends else "echo"
        if end == "fin":
            socket_shutdown(peer)
        elif end == "reset":
            peer.reset()
        elif end == "alert":
            with contextlib.suppress(OSError):
                peer.sock.unwrap()
        else:
            peer.echo()

    states = States()
    with RawServer(script, ssl_context=server_tls) as server:
        service = make_service(on_state_change=states)
        service.connect(server.url, ssl_context=client_tls, timeout=DEADLINE)
        assert states.wait_for(*(S.CONNECTED, S.DISCONNECTED, S.RECONNECTING) * 3, S.CONNECTED)
        assert all(isinstance(error, ConnectionLostError) for error in states.errors())
        service.disconnect()


def socket_shutdown(peer: Peer) -> None:
    """FIN without the alert that TLS wants before it."""
    socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)


def test_fragmented_message_with_ping_in_between(make_service: MakeService) -> None:
    """A ping between the fragments of a message is answered, and the message comes whole."""
    received = Collector()
    pongs = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.send(TEXT, b"one ", final=False)
        peer.send(0x9, b"are you there")
        pongs(peer.receive())
        peer.send(0x0, b"message")
        peer.echo()

    with RawServer(script) as server:
        service = make_service(on_message=received)
        service.connect(server.url, timeout=DEADLINE)
        assert received.wait(1)
        assert received.items == ["one message"]
        assert pongs.items == [(0xA, b"are you there")]
        service.disconnect()


@pytest.mark.requirement("10.4")
def test_two_hundred_losses(
    proxy: FaultProxy, make_service: MakeService, echo_server: ServerProcess
) -> None:
    """After 200 losses there are as many threads and descriptors as before (`_nothing_left`)."""
    states = States()
    service = make_service(
        on_state_change=states, reconnect_base_delay=0.001, reconnect_max_delay=0.001
    )
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)

    def lose(fault: Callable[[], object], count: int) -> None:
        before = sum(record.dest == "connected" for record in states.records.items)
        fault()
        assert states.records.wait_for(
            lambda records: sum(record.dest == "connected" for record in records) > before
        )

    lose(proxy.reset, 1)
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for number in range(200):
        lose(proxy.reset if number % 2 else proxy.fin, number)
    assert proxy.live >= 1
    assert threading.active_count() <= threads
    if descriptors:
        # The proxy's own ends are in this process: a dead one may not have been closed yet.
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 4
    assert replay(LIFECYCLE, service.tracker.machine.history)
