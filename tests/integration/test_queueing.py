"""What is sent while there is no link, or too fast for it: order, priorities, time-outs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from peers import BINARY, CLOSE, DEADLINE, TEXT, Collector, Peer, RawServer, ServerProcess, frame

from tunnel import (
    BackpressureSignal,
    MessageTooBigError,
    QueueFullError,
    RequestPriority,
    RequestQueue,
    TunnelConnectionState,
    TunnelService,
)
from tunnel.testing import UP, FaultProxy

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState


@pytest.mark.requirement("1.3", "5.1", "5.4")
def test_full_queue_while_away_raises_at_once(make_service: MakeService) -> None:
    """While there is no link, a full queue refuses at once, and says what with TUNNEL_006."""
    service = make_service()
    for number in range(100):
        service.send(str(number))
    began = time.perf_counter()
    with pytest.raises(QueueFullError) as caught:
        service.send("one too many")
    with pytest.raises(QueueFullError):
        service.send("one too many", timeout=0)
    assert time.perf_counter() - began < 0.1
    assert caught.value.code == "TUNNEL_006"
    with pytest.raises(QueueFullError) as caught:
        service.send_many(["a", "b"])
    assert caught.value.accepted == 0


def test_send_waits_for_room_as_long_as_it_was_told(make_service: MakeService) -> None:
    """While there is no link, a send with a time-out waits for just so long."""
    service = make_service(max_queue_size=1)
    service.send("fills it")
    began = time.perf_counter()
    with pytest.raises(QueueFullError):
        service.send("waits", timeout=0.2)
    assert 0.2 <= time.perf_counter() - began < 0.5


def test_send_that_waits_gets_room(echo_server: ServerProcess, make_service: MakeService) -> None:
    """A send that waits for ever while there is no link goes on once there is one."""
    received = Collector()
    service = make_service(on_message=received, max_queue_size=1)
    service.send("first")
    waiting = threading.Thread(target=lambda: service.send("second", timeout=None))
    waiting.start()
    service.connect(echo_server.url, timeout=DEADLINE)
    waiting.join(DEADLINE)
    assert received.wait(2)
    assert received.items == ["first", "second"]


@pytest.mark.timeout(15)
@pytest.mark.parametrize("size", [1000, 100_000])
def test_send_timeout_with_a_stalled_peer(
    proxy: FaultProxy, make_service: MakeService, size: int
) -> None:
    """A time-out is kept by every send while the peer does not read, whatever blocks it."""
    service = make_service(max_queue_size=20)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    with proxy.silent(UP):
        longest, refused = 0.0, 0
        for _ in range(64 * 2**20 // size):
            began = time.perf_counter()
            try:
                service.send(bytes(size), timeout=0.05)
            except QueueFullError:
                refused += 1
            longest = max(longest, time.perf_counter() - began)
            if refused == 3:
                break
        assert refused == 3
        assert longest < 0.05 + 0.3


@pytest.mark.parametrize("size", [1000, 100_000])
def test_send_without_waiting_with_a_stalled_peer(
    proxy: FaultProxy, make_service: MakeService, size: int
) -> None:
    """A time-out of 0 never waits, not even while the peer does not read."""
    service = make_service(max_queue_size=20)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    with proxy.silent(UP):
        longest = 0.0
        with pytest.raises(QueueFullError):  # noqa: PT012 - which of the sends is not known
            for _ in range(64 * 2**20 // size):
                began = time.perf_counter()
                service.send(bytes(size), timeout=0)
                longest = max(longest, time.perf_counter() - began)
        assert longest < 0.3


def test_send_waits_while_connected(proxy: FaultProxy, make_service: MakeService) -> None:
    """Without a time-out a send waits while connected, and raises when the link is lost."""
    outcome = Collector()
    sent = Collector()
    service = make_service(max_queue_size=4)
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)

    def send() -> None:
        try:
            while True:
                service.send(bytes(50_000))
                sent(None)
        except QueueFullError as error:
            outcome(error)

    with proxy.silent(UP), proxy.refusing():
        senders = [threading.Thread(target=send) for _ in range(3)]
        for sender in senders:
            sender.start()
        assert not outcome.wait(1, timeout=0.5)  # long after all buffers were full
        proxy.reset()
        assert outcome.wait(3)
        for sender in senders:
            sender.join(DEADLINE)
        assert service.statistics()["queued_requests"] <= 4 + 3


@pytest.mark.requirement("5.2", "1.4")
def test_priorities_when_flushing(make_service: MakeService) -> None:
    """The flush goes by priority, and by the order of the calls within one."""
    got = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        while True:
            opcode, payload = peer.receive()
            if opcode == TEXT:
                got(payload.decode())

    service = make_service()
    for number in range(3):
        for priority in (RequestPriority.LOW, RequestPriority.NORMAL, RequestPriority.HIGH):
            service.send(f"{priority.value} {number}", priority=priority)
    with RawServer(script) as server:
        service.connect(server.url, timeout=DEADLINE)
        assert service.flush(DEADLINE)
        assert got.wait(9)
        assert got.items == [f"{kind} {n}" for kind in ("high", "normal", "low") for n in range(3)]
        service.disconnect(graceful=False)


def test_greeting_goes_before_the_queue(proxy: FaultProxy, make_service: MakeService) -> None:
    """What `on_connected` sends goes first on every new link, and is not kept for the next."""
    received = Collector()

    def greet(service: TunnelService, resumed: bool) -> None:
        assert not resumed
        service.send("log in")
        service.send(b"subscribe")

    service = make_service(on_message=received, on_connected=greet)
    service.send("queued 0")
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    assert received.wait(3)
    with proxy.refusing():
        proxy.reset()
        assert service.wait_for(S.RECONNECTING, timeout=DEADLINE)
        service.send("queued 1")
    assert received.wait(6)
    assert received.items == [
        *("log in", b"subscribe", "queued 0"),
        *("log in", b"subscribe", "queued 1"),
    ]


def test_greeting_while_other_threads_send(proxy: FaultProxy, make_service: MakeService) -> None:
    """The greeting is first, also while other threads send all the time."""
    received = Collector()
    service = make_service(
        on_message=received, on_connected=lambda service, resumed: service.send("log in")
    )
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            service.send("work", timeout=None)

    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    firsts = []
    for number in range(1, 6):
        assert received.wait_for(lambda items, n=number: items.count("log in") == n)
        with received._changed:
            firsts.append(len(received.items))
        assert received.wait(firsts[-1] + 50)
        proxy.reset()
    stop.set()
    assert received.wait_for(lambda items: items.count("log in") == 6)
    for sender in senders:
        sender.join(DEADLINE)
    assert received.items[0] == "log in"


def test_expired_messages_are_not_sent(make_service: MakeService) -> None:
    """A message whose time is over when the link comes up is not sent, and is counted."""
    got = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        while True:
            opcode, payload = peer.receive()
            if opcode == TEXT:
                got(payload.decode())

    queue = RequestQueue()
    service = make_service(request_queue=queue)
    service.send("stale", expires_in=0.05)
    service.send("fresh", expires_in=60)
    service.send("for ever")
    # Not a sleep: the queue itself says when the message has expired.
    assert not queue.wait_until_empty(0.2)
    assert service.statistics()["expired_requests"] == 1
    with RawServer(script) as server:
        service.connect(server.url, timeout=DEADLINE)
        assert got.wait(2)
        assert got.items == ["fresh", "for ever"]
        service.disconnect(graceful=False)


def test_flush_waits_until_all_is_written(proxy: FaultProxy, make_service: MakeService) -> None:
    """`flush` is False while something is unwritten, and True once nothing is."""
    service = make_service()
    assert service.flush(0) is True
    service.send("queued")
    assert service.flush(0) is False
    assert service.flush(0.05) is False
    flushed = Collector()
    waiting = threading.Thread(target=lambda: flushed(service.flush()))
    waiting.start()
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    assert flushed.wait(1)
    assert flushed.items == [True]
    waiting.join()


@pytest.mark.requirement("5.3")
def test_backpressure_signal(echo_server: ServerProcess, make_service: MakeService) -> None:
    """The queue tells when it is 80 % full, and when it is not any more."""
    signals = Collector()
    queue = RequestQueue(10)
    queue.subscribe(signals)
    service = make_service(request_queue=queue, max_queue_size=10)
    for number in range(8):
        service.send(str(number))
    assert signals.wait(1)
    service.connect(echo_server.url, timeout=DEADLINE)
    assert signals.wait(2)
    assert all(isinstance(signal, BackpressureSignal) for signal in signals.items)
    assert [signal.should_throttle for signal in signals.items] == [True, False]


def test_order_of_one_sender_across_states(proxy: FaultProxy, make_service: MakeService) -> None:
    """One thread's messages arrive in its order, sent before, while and after the dial."""
    received = Collector()
    service = make_service(on_message=received, max_queue_size=10_000)
    stop, count = threading.Event(), 0

    def send() -> None:
        nonlocal count
        while not stop.is_set():
            service.send(str(count), timeout=None)
            count += 1

    sender = threading.Thread(target=send)
    sender.start()
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    assert received.wait(3000)
    stop.set()
    sender.join(DEADLINE)
    assert received.wait(count)
    assert received.items == [str(number) for number in range(count)]


# Sizes


def test_message_over_the_limit_is_refused(
    echo_server: ServerProcess, make_service: MakeService
) -> None:
    """A message over `max_message_size` is refused at the call; the tunnel is untouched."""
    received = Collector()
    service = make_service(on_message=received, max_message_size=1000)
    service.connect(echo_server.url, timeout=DEADLINE)
    for too_big in (bytes(1001), "x" * 1001, "\u00e9" * 501):
        with pytest.raises(MessageTooBigError) as caught:
            service.send(too_big)
        assert caught.value.limit == 1000
    for just_right in (bytes(1000), "x" * 1000, "\u00e9" * 500):
        service.send(just_right)
    assert received.wait(3)
    assert service.state is S.CONNECTED


@pytest.mark.parametrize("fragmented", [False, True])
def test_message_over_the_limit_from_the_peer(make_service: MakeService, fragmented: bool) -> None:
    """A peer's message over the limit is answered with 1009, in one frame or in fragments."""
    codes = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.text("fits")
        if fragmented:
            peer.send(BINARY, bytes(600), final=False)
            peer.send(0x0, bytes(600))
        else:
            peer.sock.sendall(frame(BINARY, bytes(1001))[:4])  # the header alone will do
        codes(peer.receive_close())

    received = Collector()
    with RawServer(script) as server:
        service = make_service(on_message=received, max_message_size=1000)
        service.connect(server.url, timeout=DEADLINE)
        assert service.wait_for(S.ERROR, timeout=DEADLINE)
        assert codes.wait(1)
        assert codes.items == [1009]
        assert received.items == ["fits"]
        assert server.accepted == 1


def test_big_message_lets_pings_through(make_service: MakeService) -> None:
    """A big message goes out in fragments, so that an answer to a ping gets in between."""
    frames = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.receive()
        peer.send(0x9, b"in between")
        while True:
            opcode, payload = peer.receive()
            frames((opcode, len(payload)))
            if opcode == CLOSE:
                peer.send(CLOSE, payload)
                return

    with RawServer(script) as server:
        service = make_service(max_message_size=2**26)
        service.connect(server.url, timeout=DEADLINE)
        service.send(bytes(2**26))
        assert service.disconnect(timeout=DEADLINE).unsent == ()
        opcodes = [opcode for opcode, _ in frames.items]
        assert opcodes.count(0xA) == 1
        assert opcodes.index(0xA) < len(opcodes) - 2
        assert sum(size for opcode, size in frames.items if opcode == 0) < 2**26
        assert all(size <= 2**16 for _, size in frames.items)
        assert TEXT not in opcodes
