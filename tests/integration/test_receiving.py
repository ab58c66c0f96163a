"""How messages get to the application: by iterating, slowly, in parts, not at all."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

import pytest
from peers import BINARY, DEADLINE, Collector, Peer, RawServer, ServerProcess, frame

from tunnel import InvalidStateError, TunnelConnectionState, TunnelService
from tunnel.testing import FaultProxy

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState


class Pusher:
    """A server that pushes numbered messages as fast as they are taken, and counts the bytes.

    Pings are answered by a thread of their own, in order with the rest: behind what is unread.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.pushed = 0
        self.last_progress = time.monotonic()
        self._lock = threading.Lock()  # one frame at a time

    def __call__(self, peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        peer.upgrade()
        answering = threading.Thread(target=self._answer, args=(peer,), daemon=True)
        answering.start()
        for number in range(self.count):
            data = frame(BINARY, number.to_bytes(8, "big") + bytes(self.size - 8))
            with self._lock:
                peer.sock.sendall(data)
            self.pushed += len(data)
            self.last_progress = time.monotonic()
        answering.join()

    def _answer(self, peer: Peer) -> None:
        with contextlib.suppress(OSError):
            while True:
                opcode, payload = peer.receive()
                if opcode == 0x9:
                    with self._lock:
                        peer.send(0xA, payload)
                elif opcode == 0x8:
                    with self._lock:
                        peer.send(0x8, payload)
                    return

    def wait_until_blocked(self) -> None:
        """Wait until nothing could be pushed for a while."""
        never, deadline = threading.Event(), time.monotonic() + DEADLINE
        while time.monotonic() - self.last_progress < 0.3 and time.monotonic() < deadline:
            never.wait(0.01)


def test_slow_consumer(make_service: MakeService) -> None:
    """Nobody reads `messages()`: reading pauses, memory is bounded, the link lives and goes on."""
    pusher = Pusher(count=4000, size=16 * 1024)  # 64 MiB
    with RawServer(pusher) as server:
        service = make_service(receive_high_water=256 * 1024, ping_interval=0.1, pong_timeout=0.3)
        service.connect(server.url, timeout=DEADLINE)
        pusher.wait_until_blocked()
        held = service.statistics()["messages_waiting"] * 16 * 1024
        assert held <= 256 * 1024 + 64 * 1024
        assert pusher.pushed < 32 * 2**20  # the rest is the kernel's buffers
        # Several pong time-outs long: the unread bytes speak for the link.
        assert not service.wait_for(S.DISCONNECTED, timeout=1.0)
        messages = service.messages()
        numbers = [int.from_bytes(next(messages)[:8], "big") for _ in range(4000)]
        assert numbers == list(range(4000))
        assert service.state is S.CONNECTED
        assert service.statistics()["reconnections"] == 0
        service.disconnect()


def test_messages_of_both_links(proxy: FaultProxy, make_service: MakeService) -> None:
    """An iterator goes on across losses, and ends when the tunnel is disconnected."""
    service = make_service()
    service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
    messages = service.messages()
    service.send("before")
    assert next(messages) == "before"
    with proxy.refusing():
        proxy.reset()
        assert service.wait_for(S.RECONNECTING, timeout=DEADLINE)
        service.send("after")
    assert next(messages) == "after"
    rest = Collector()
    iterating = threading.Thread(target=lambda: rest(list(messages)))
    iterating.start()
    service.disconnect()
    assert rest.wait(1)
    iterating.join()


def test_breaking_out_loses_nothing(echo_server: ServerProcess, make_service: MakeService) -> None:
    """Who breaks out of `messages()` after each message and begins anew gets all of them."""
    service = make_service(max_queue_size=1000)
    service.connect(echo_server.url, timeout=DEADLINE)
    service.send_many([str(number) for number in range(500)])
    got = []
    while len(got) < 500:
        for message in service.messages():
            got.append(message)
            break
    assert got == [str(number) for number in range(500)]


def test_several_iterators_share(echo_server: ServerProcess, make_service: MakeService) -> None:
    """Iterators in several threads share the messages: each message goes to one of them."""
    service = make_service()
    service.connect(echo_server.url, timeout=DEADLINE)
    got = Collector()

    def consume() -> None:
        for message in service.messages():
            got(message)

    consumers = [threading.Thread(target=consume) for _ in range(4)]
    for consumer in consumers:
        consumer.start()
    service.send_many([str(number) for number in range(2000)])
    assert got.wait(2000)
    service.disconnect()
    for consumer in consumers:
        consumer.join(DEADLINE)
        assert not consumer.is_alive()
    assert sorted(got.items, key=int) == [str(number) for number in range(2000)]


def test_what_was_received_before_the_end_is_there_after_it(
    echo_server: ServerProcess, make_service: MakeService
) -> None:
    """After `disconnect` the messages that had come before can still be iterated over."""
    service = make_service()
    service.connect(echo_server.url, timeout=DEADLINE)
    service.send_many(["one", "two"])
    never, deadline = threading.Event(), time.monotonic() + DEADLINE
    while service.statistics()["messages_waiting"] < 2 and time.monotonic() < deadline:
        never.wait(0.005)
    service.disconnect()
    assert list(service.messages()) == ["one", "two"]
    assert list(service.messages()) == []


def test_no_iterating_with_a_callback(make_service: MakeService) -> None:
    """With `on_message` there is nothing to iterate over."""
    with pytest.raises(InvalidStateError):
        make_service(on_message=print).messages()


def test_disconnect_with_unread_messages(make_service: MakeService) -> None:
    """`disconnect` is not kept by messages that nobody reads: within its time-out it is over."""
    pusher = Pusher(count=4000, size=16 * 1024)
    with RawServer(pusher) as server:
        service = make_service(receive_high_water=64 * 1024)
        service.connect(server.url, timeout=DEADLINE)
        pusher.wait_until_blocked()
        began = time.perf_counter()
        service.disconnect(timeout=0.5)
        assert time.perf_counter() - began < 1.0
        assert service.state is S.DISCONNECTED


def test_loss_behind_unread_messages(make_service: MakeService) -> None:
    """A peer that ends while reading is paused is noticed once the messages are taken."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.sock.sendall(frame(BINARY, bytes(1000)) * 2000)

    with RawServer(script) as server:
        service = make_service(receive_high_water=64 * 1024, enable_auto_reconnect=False)
        service.connect(server.url, timeout=DEADLINE)
        assert sum(1 for _ in service.messages()) == 2000
        assert service.wait_for(S.DISCONNECTED, timeout=DEADLINE)
