"""Taking a live tunnel down, bringing it back by hand, and calls from callbacks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
from peers import BINARY, CLOSE, DEADLINE, TEXT, Collector, Peer, RawServer, ServerProcess, frame

from tunnel import (
    ConnectionEventType,
    DrainReport,
    InvalidStateError,
    TunnelConnectionState,
    TunnelService,
    WouldDeadlockError,
)
from tunnel.testing import FaultProxy

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState


# disconnect


@pytest.mark.requirement("8.1", "8.3", "6.7")
def test_disconnect_sends_1000_and_waits_for_the_answer(make_service: MakeService) -> None:
    """`disconnect` sends close code 1000 and returns once the peer has answered."""
    codes, may_answer = Collector(), threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        codes(peer.receive_close())
        may_answer.wait(DEADLINE)
        peer.close(1000)

    with RawServer(script) as server:
        service = make_service()
        service.connect(server.url, timeout=DEADLINE)
        reports = Collector()
        closing = threading.Thread(target=lambda: reports(service.disconnect()))
        closing.start()
        assert codes.wait(1)
        assert codes.items == [1000]
        assert service.state is S.CLOSING
        with pytest.raises(InvalidStateError):
            service.send("too late")
        may_answer.set()
        closing.join(DEADLINE)
        assert reports.items == [DrainReport()]
        assert service.state is S.DISCONNECTED


@pytest.mark.parametrize("graceful", [True, False])
def test_disconnect_on_a_dead_link(
    proxy: FaultProxy, make_service: MakeService, graceful: bool
) -> None:
    """On a link that is silent `disconnect` returns within its time-out."""
    service = make_service()
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    with proxy.silent():
        began = time.perf_counter()
        report = service.disconnect(graceful, timeout=0.3)
        took = time.perf_counter() - began
    assert took < (0.3 if graceful else 0.0) + 0.3
    assert service.state is S.DISCONNECTED
    assert report == DrainReport()


@pytest.mark.requirement("8.1")
def test_disconnect_with_a_stalled_peer(proxy: FaultProxy, make_service: MakeService) -> None:
    """What cannot be written in time is named in the report, stays queued, and goes out later."""
    received = Collector()
    service = make_service(on_message=received, max_message_size=2**26)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    big = bytes(2**25)
    with proxy.silent("up"):
        sending = threading.Thread(target=service.send, args=(big,))
        sending.start()
        assert _poll(lambda: service.statistics()["queued_requests"] == 1)
        service.send("small", timeout=0)
        began = time.perf_counter()
        report = service.disconnect(timeout=0.3)
        assert time.perf_counter() - began < 0.6
        assert report.unsent == (big, "small")
        sending.join(DEADLINE)
        assert not sending.is_alive()
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    assert received.wait(2)
    assert received.items == [big, "small"]


def _poll(condition: Callable[[], bool]) -> bool:
    """Wait for what nobody signals."""
    never, deadline = threading.Event(), time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            return False
        never.wait(0.005)
    return True


@pytest.mark.requirement("8.1")
def test_disconnect_drains(make_service: MakeService) -> None:
    """What is queued goes out before the close frame."""
    got = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        while True:
            opcode, payload = peer.receive()
            got((opcode, payload))
            if opcode == CLOSE:
                peer.send(CLOSE, payload)
                return

    with RawServer(script) as server:
        service = make_service(max_queue_size=2000)
        numbers = [str(number).encode() for number in range(1000)]
        service.send_many(numbers)
        service.connect(server.url, timeout=DEADLINE)
        assert service.disconnect() == DrainReport()
        assert [payload for _, payload in got.items[:-1]] == numbers
        assert got.items[-1] == (CLOSE, b"\x03\xe8")


def test_disconnect_of_what_never_was() -> None:
    """Without a connection `disconnect` returns at once, as often as one likes."""
    service = TunnelService()
    service.send("kept")
    assert service.disconnect() == DrainReport(unsent=("kept",))
    assert service.disconnect() == DrainReport(unsent=("kept",))


def test_disconnect_while_a_callback_blocks(
    echo_server: ServerProcess, make_service: MakeService
) -> None:
    """A callback that blocks does not keep `disconnect` beyond its time-out and a second."""
    entered, leave = threading.Event(), threading.Event()

    def block(message: object) -> None:
        entered.set()
        leave.wait(DEADLINE)

    service = make_service(on_message=block)
    service.connect(echo_server.url, timeout=DEADLINE)
    service.send("block")
    assert entered.wait(DEADLINE)
    began = time.perf_counter()
    service.disconnect(timeout=0.2)
    assert time.perf_counter() - began < 0.2 + 1.0 + 0.3
    leave.set()
    assert service.wait_for(S.DISCONNECTED, timeout=DEADLINE)


def test_both_ends_close_at_once(make_service: MakeService) -> None:
    """When both ends begin the closing handshake at the same time, it ends properly for both."""
    answers = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        assert peer.receive() == (TEXT, b"now")
        peer.close(1001)
        answers(peer.receive_close())

    with RawServer(script) as server:
        for _ in range(20):
            service = make_service(enable_auto_reconnect=False)
            service.connect(server.url, timeout=DEADLINE)
            service.send("now")
            assert service.disconnect(timeout=DEADLINE) == DrainReport()
            assert service.state is S.DISCONNECTED
        assert answers.wait(20)
        assert set(answers.items) <= {1000, 1001}


# reconnect


def test_reconnect_replaces_a_live_link(proxy: FaultProxy, make_service: MakeService) -> None:
    """`reconnect` gives the link up and returns with a new one, also with auto reconnect off."""
    received = Collector()
    service = make_service(
        on_message=received,
        enable_auto_reconnect=False,
        reconnect_base_delay=60.0,
        reconnect_max_delay=60.0,
    )
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    began = time.perf_counter()
    assert service.reconnect(timeout=DEADLINE)
    assert time.perf_counter() - began < 5
    assert proxy.accepted == 2
    service.send("through the new one")
    assert received.wait(1)


def test_reconnect_cuts_a_wait_short(proxy: FaultProxy, make_service: MakeService) -> None:
    """`reconnect` does not wait for what the backoff had left."""
    service = make_service(reconnect_base_delay=60.0, reconnect_max_delay=60.0)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    with proxy.refusing():
        proxy.reset()
        assert service.wait_for(S.RECONNECTING, timeout=DEADLINE)
    assert service.reconnect(timeout=DEADLINE)


def test_reconnect_that_fails(proxy: FaultProxy, make_service: MakeService) -> None:
    """`reconnect` is False when the attempts are used up, and works again later, from `error`."""
    service = make_service(max_reconnect_attempts=2)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    with proxy.refusing():
        proxy.reset()
        assert service.wait_for(S.ERROR, timeout=DEADLINE)
        assert service.reconnect(timeout=DEADLINE) is False
        assert service.state is S.ERROR
    assert service.reconnect(timeout=DEADLINE)


def test_reconnect_that_is_called_off(proxy: FaultProxy, make_service: MakeService) -> None:
    """A `reconnect` that waits returns False when another thread disconnects."""
    service = make_service(reconnect_base_delay=60.0, reconnect_max_delay=60.0)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    with proxy.refusing():
        results = Collector()
        waiting = threading.Thread(target=lambda: results(service.reconnect()), daemon=True)
        events = Collector()
        service.subscribe(events)
        waiting.start()
        assert events.wait_for(lambda items: [i for i in items if i.metadata.get("attempt") == 2])
        service.disconnect()
        assert results.wait(1, timeout=2.0)
        assert results.items == [False]
        waiting.join(DEADLINE)


def test_reconnect_before_connect(make_service: MakeService) -> None:
    """Without a `connect` there is nothing to reconnect to."""
    with pytest.raises(InvalidStateError):
        make_service().reconnect()


@pytest.mark.requirement("1.8")
def test_network_change_tests_a_live_link(make_service: MakeService) -> None:
    """A changed network on a live link is answered by a ping, not by a new dial."""
    opcodes = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        opcodes(peer.receive()[0])
        peer.echo()

    with RawServer(script) as server:
        service = make_service()
        service.connect(server.url, timeout=DEADLINE)
        service.handle_network_change(False, "none")
        service.handle_network_change(True, "cellular")
        assert opcodes.wait(1)
        assert opcodes.items == [0x9]
        assert service.state is S.CONNECTED
        assert server.accepted == 1
        service.disconnect()


@pytest.mark.requirement("6.3")
def test_test_connection_on_a_silent_link(proxy: FaultProxy, make_service: MakeService) -> None:
    """A health test is True on a live link, False in time on a silent one, and recorded."""
    service = make_service()
    events = Collector()
    service.subscribe(events)
    assert service.test_connection() is False
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    assert service.test_connection(timeout=DEADLINE)
    with proxy.silent():
        began = time.perf_counter()
        assert service.test_connection(timeout=0.2) is False
        assert 0.2 <= time.perf_counter() - began < 0.5
    checks = [item for item in events.items if item.type is ConnectionEventType.HEALTH_CHECK]
    assert [item.metadata["healthy"] for item in checks][-2:] == [True, False]


# Callbacks


def test_callbacks_that_raise(proxy: FaultProxy, make_service: MakeService) -> None:
    """Callbacks that raise, each of them, are survived: messages flow, losses are recovered."""
    received = Collector()

    def raising(*arguments: object) -> None:
        raise RuntimeError("a bug of the application")

    def on_message(message: object) -> None:
        received(message)
        raise RuntimeError("a bug of the application")

    service = make_service(on_message=on_message, on_state_change=raising, on_connected=raising)
    service.subscribe(raising)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    service.send_many(["one", "two"])
    assert received.wait(2)
    proxy.reset()
    assert service.wait_for(S.RECONNECTING, S.DISCONNECTED, timeout=DEADLINE)
    service.send("three")
    assert received.wait(3)
    assert received.items == ["one", "two", "three"]


@pytest.mark.parametrize("call", ["wait_for", "flush", "test_connection", "messages"])
def test_what_would_wait_for_itself_raises(
    echo_server: ServerProcess, make_service: MakeService, call: str
) -> None:
    """In a callback, what would wait for the tunnel itself raises at once."""
    outcome = Collector()

    def on_message(message: object) -> None:
        calls: dict[str, Callable[[], object]] = {
            "wait_for": lambda: service.wait_for(S.DISCONNECTED),
            "flush": service.flush,
            "test_connection": service.test_connection,
            "messages": lambda: service.messages(),
        }
        try:
            outcome(calls[call]())
        except Exception as error:
            outcome(error)

    service = make_service(on_message=on_message)
    service.connect(echo_server.url, timeout=DEADLINE)
    service.send("go")
    assert outcome.wait(1)
    expected = InvalidStateError if call == "messages" else WouldDeadlockError
    assert isinstance(outcome.items[0], expected)
    assert service.test_connection()


def test_disconnect_in_a_callback(echo_server: ServerProcess, make_service: MakeService) -> None:
    """`disconnect` in a callback returns at once, and the tunnel ends after it."""
    reports = Collector()
    service = make_service(on_message=lambda message: reports(service.disconnect()))
    service.connect(echo_server.url, timeout=DEADLINE)
    service.send("go")
    assert reports.wait(1)
    assert service.wait_for(S.DISCONNECTED, timeout=DEADLINE)


def test_reconnect_in_a_callback(proxy: FaultProxy, make_service: MakeService) -> None:
    """`reconnect` in a callback returns False at once, and the tunnel dials after it."""
    results = Collector()
    connected = Collector()
    service = make_service(
        on_message=lambda message: results(service.reconnect()),
        on_connected=lambda service, resumed: connected(resumed),
    )
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    service.send("go")
    assert results.wait(1)
    assert results.items == [False]
    assert connected.wait(2)
    assert connected.items == [False, False]
    assert proxy.accepted == 2


def test_connect_in_a_callback(echo_server: ServerProcess, make_service: MakeService) -> None:
    """`connect` in a callback (here: when the tunnel was closed) posts, and the tunnel connects."""
    once = threading.Event()

    def again(record: object) -> None:
        if record.dest == "disconnected" and not once.is_set():
            once.set()
            service.connect(echo_server.url)

    service = make_service(on_state_change=again)
    service.connect(echo_server.url, timeout=DEADLINE)
    service.disconnect()
    assert service.wait_for(S.CONNECTED, timeout=DEADLINE)
    assert once.is_set()
    assert service.test_connection()


def test_disconnect_in_on_connected(echo_server: ServerProcess, make_service: MakeService) -> None:
    """`disconnect` in `on_connected` ends the tunnel."""
    service = make_service(on_connected=lambda service, resumed: service.disconnect())
    service.connect(echo_server.url, timeout=DEADLINE)
    assert service.wait_for(S.DISCONNECTED, timeout=DEADLINE)


def test_disconnect_in_every_state_change(
    echo_server: ServerProcess, make_service: MakeService
) -> None:
    """`disconnect` in each change of state ends the tunnel, and `connect` is told."""
    service = make_service(on_state_change=lambda record: service.disconnect())
    with pytest.raises(InvalidStateError):
        service.connect(echo_server.url, timeout=DEADLINE)
    assert service.wait_for(S.DISCONNECTED, timeout=DEADLINE)


@pytest.mark.parametrize("size", [64, 4096, 100_000])
def test_echo_in_a_callback_under_full_duplex_flood(
    echo_server: ServerProcess, make_service: MakeService, size: int
) -> None:
    """Tens of MiB that a callback sends back while more is pushed: no deadlock, nothing missing."""
    count = min(40_000, 32 * 2**20 // size)
    verdict = Collector()

    def echo(message: object) -> None:
        if isinstance(message, str):
            verdict(message)
            return
        try:
            service.send(message)
        except Exception as error:
            verdict(error)

    service = make_service(on_message=echo)
    service.connect(f"{echo_server.url}flood?count={count}&size={size}", timeout=DEADLINE)
    assert verdict.wait(1, timeout=50)
    assert verdict.items == [f"returned {count}, in order"]


def test_echo_in_a_callback_with_a_steady_lag(make_service: MakeService) -> None:
    """What a callback has sent in all is not limited, only what waits at one time."""
    size, lag, count = 4096, 12 * 2**20 // 4096, 36 * 2**20 // 4096
    verdict = Collector()

    def script(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        peer.upgrade()
        message = frame(BINARY, bytes(size))
        pushing = threading.Thread(target=lambda: peer.sock.sendall(message * lag))
        pushing.start()
        pushing.join()  # now so much is under way; from here on as much comes as goes
        for _ in range(count - lag):
            assert len(peer.receive()[1]) == size
            peer.sock.sendall(message)
        for _ in range(lag):
            assert len(peer.receive()[1]) == size
        verdict("all")
        peer.receive_close()

    def echo(message: bytes) -> None:
        try:
            service.send(message)
        except Exception as error:
            verdict(error)

    service = make_service(on_message=echo)
    with RawServer(script) as server:
        service.connect(server.url, timeout=DEADLINE)
        assert verdict.wait(1)
        assert verdict.items == ["all"]
        service.disconnect(graceful=False)
