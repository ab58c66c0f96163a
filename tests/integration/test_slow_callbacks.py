"""Callbacks that block: the link stays alive, a lost one comes back, nothing is lost or doubled."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from peers import BINARY, CLOSE, DEADLINE, PING, PONG, TEXT, Collector, Peer, RawServer, frame

from tunnel import (
    SessionLostError,
    TunnelConnectionState,
    TunnelService,
    WouldDeadlockError,
)
from tunnel.gateway import GatewayThread

S = TunnelConnectionState
Make = Callable[..., TunnelService]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback counts as slow after a tenth of the usual time."""
    monkeypatch.setattr("tunnel.worker.PATIENCE", 0.025)


class Slow:
    """A callback that blocks at the message "block", until it is let go."""

    def __init__(self) -> None:
        self.received = Collector()
        self.inside = threading.Event()
        self.go_on = threading.Event()
        self.concurrent = 0
        self._busy = threading.Lock()

    def __call__(self, message: object) -> None:
        assert self._busy.acquire(blocking=False), "two callbacks at the same time"
        try:
            if message == "block":
                self.inside.set()
                assert self.go_on.wait(DEADLINE)
            self.received(message)
        finally:
            self._busy.release()


@pytest.fixture
def slow() -> Iterator[Slow]:
    callback = Slow()
    yield callback
    callback.go_on.set()


def ping_and_wait(peer: Peer, payload: bytes) -> None:
    """Send a ping and read until its pong."""
    peer.send(PING, payload)
    while peer.receive() != (PONG, payload):
        pass


@pytest.mark.fault("callback-blocks")
def test_a_blocked_callback_harms_no_live_link(make_service: Make, slow: Slow) -> None:
    """For three pong time-outs the peer's pings are answered, and its messages wait their turn."""
    pings, done = 30, threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.text("block")
        assert slow.inside.wait(DEADLINE)
        for number in range(pings):
            peer.text(f"{number}")
            ping_and_wait(peer, b"%d" % number)
            done.wait(0.02)
        done.set()
        peer.echo()

    with RawServer(script) as server:
        service = make_service(on_message=slow, ping_interval=0.1, pong_timeout=0.2)
        service.connect(server.url)
        assert done.wait(DEADLINE)
        assert slow.received.items == []
        assert service.state is S.CONNECTED
        slow.go_on.set()
        assert slow.received.wait(pings + 1)
        assert slow.received.items == ["block", *map(str, range(pings))]
        assert service.metrics.snapshot().reconnection_count == 0
        assert server.accepted == 1


def test_pings_that_came_with_the_message_are_answered(make_service: Make, slow: Slow) -> None:
    """Also those before and behind it in the same segment."""
    answered = threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.sock.sendall(b"\x89\x01a" + b"\x81\x05block" + b"\x89\x01b")
        assert peer.receive() == (PONG, b"a")
        assert peer.receive() == (PONG, b"b")
        answered.set()
        peer.wait_until_gone()

    with RawServer(script) as server:
        service = make_service(on_message=slow)
        service.connect(server.url)
        assert answered.wait(DEADLINE)
        slow.go_on.set()
        service.disconnect(graceful=False)


@pytest.mark.fault("callback-blocks")
def test_a_loss_is_noticed_and_mended_meanwhile(make_service: Make, slow: Slow) -> None:
    """The next link is there before the callback is; its greeting and messages come after it."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        if server.accepted == 1:
            peer.text("block")
            peer.text("behind")
            assert slow.inside.wait(DEADLINE)
            peer.reset()
            return
        peer.text("next link")
        peer.wait_until_gone()

    with RawServer(script) as server:
        greeted = Collector()
        service = make_service(
            on_message=slow, on_connected=lambda _, resumed: greeted(list(slow.received.items))
        )
        service.connect(server.url)
        assert slow.inside.wait(DEADLINE)
        assert server.wait_accepted(2)
        assert service.wait_for(S.CONNECTED, timeout=DEADLINE)
        assert slow.received.items == []
        assert len(greeted.items) == 1
        slow.go_on.set()
        assert slow.received.wait(3)
        assert slow.received.items == ["block", "behind", "next link"]
        assert greeted.wait(2)
        assert greeted.items == [[], ["block", "behind"]]


@pytest.mark.fault("callback-blocks")
def test_a_dead_link_is_noticed_meanwhile(make_service: Make, slow: Slow) -> None:
    """The peer's silence is judged by the thread that reads, not by the callback's."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        if server.accepted == 1:
            peer.text("block")
        peer.wait_until_gone()  # not a word more

    with RawServer(script) as server:
        service = make_service(on_message=slow, ping_interval=0.05, pong_timeout=0.15)
        service.connect(server.url)
        assert server.wait_accepted(2)
        assert any("no sign of life" in event.message for event in service.tracker.events)
        assert slow.received.items == []
        slow.go_on.set()


def test_beyond_the_bound_reading_pauses(make_service: Make, slow: Slow) -> None:
    """Then the verdict on silence waits; all is delivered in order when the callback is done."""
    count = 2000
    stalled, done = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        peer.text("block")
        assert slow.inside.wait(DEADLINE)
        peer.sock.settimeout(1.0)
        sent = 0
        data = memoryview(b"".join(frame(BINARY, b"%010d" % n * 1000) for n in range(count)))
        try:
            while sent < len(data):
                sent += peer.sock.send(data[sent : sent + 65536])
        except TimeoutError:
            stalled.set()
        peer.sock.settimeout(DEADLINE)
        peer.sock.sendall(data[sent:])
        done.wait(DEADLINE)

    with RawServer(script) as server:
        service = make_service(
            on_message=slow, ping_interval=0.1, pong_timeout=0.2, receive_high_water=2**18
        )
        service.connect(server.url)
        assert stalled.wait(DEADLINE), "it reads without a bound"
        assert service.state is S.CONNECTED
        slow.go_on.set()
        assert slow.received.wait(count + 1)
        numbers = [int(item[:10]) for item in slow.received.items[1:]]  # type: ignore[index]
        assert numbers == list(range(count))
        assert service.metrics.snapshot().reconnection_count == 0
        done.set()
        service.disconnect(graceful=False)


@pytest.mark.fault("callback-blocks")
def test_disconnect_does_not_wait_for_it_for_long(make_service: Make, slow: Slow) -> None:
    """The link is closed properly while the callback blocks, and the call returns in its time."""
    codes = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.text("block")
        codes(peer.receive_close())
        peer.close(1000)

    with RawServer(script) as server:
        service = make_service(on_message=slow)
        service.connect(server.url)
        assert slow.inside.wait(DEADLINE)
        service.disconnect(timeout=0.5)
        assert service.state is S.DISCONNECTED
        assert codes.items == [1000]
        slow.go_on.set()


def test_disconnect_waits_for_what_is_called(make_service: Make, slow: Slow) -> None:
    """As long as it has time: when it returns, the callback has had all that had come."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.sock.sendall(frame(TEXT, b"block") + frame(TEXT, b"behind"))
        peer.receive_close()
        peer.close(1000)
        slow.go_on.set()

    with RawServer(script) as server:
        service = make_service(on_message=slow)
        service.connect(server.url)
        assert slow.inside.wait(DEADLINE)
        service.disconnect(timeout=DEADLINE)
        assert slow.received.items == ["block", "behind"]


def test_a_slow_greeting(make_service: Make) -> None:
    """`on_connected` may block, too: pings are answered; the queue and `connect` wait for it."""
    inside, go_on, pinged = threading.Event(), threading.Event(), threading.Event()
    texts = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        assert inside.wait(DEADLINE)
        for number in range(10):
            ping_and_wait(peer, b"%d" % number)
        pinged.set()
        while True:
            opcode, payload = peer.receive()
            if opcode == TEXT:
                texts(payload)

    def greet(service: TunnelService, resumed: bool) -> None:
        inside.set()
        assert go_on.wait(DEADLINE)
        service.send("log in")

    with RawServer(script) as server:
        service = make_service(on_connected=greet)
        service.send("queued")
        service.connect(server.url, wait=False)
        assert pinged.wait(DEADLINE)
        assert texts.items == []
        go_on.set()
        assert texts.wait(2)
        assert texts.items == [b"log in", b"queued"]
        service.disconnect(graceful=False)


def test_a_callback_that_leaves_when_it_is_done(make_service: Make, slow: Slow) -> None:
    """`sys.exit` in a callback that was slow ends the link as it does in a quick one."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.text("block")
        peer.wait_until_gone()

    def leave(message: object) -> None:
        slow(message)
        raise SystemExit

    with RawServer(script) as server:
        service = make_service(on_message=leave)
        service.connect(server.url)
        assert slow.inside.wait(DEADLINE)
        while len([t for t in threading.enumerate() if t.name == "tunnel"]) < 2:
            slow.go_on.wait(0.01)
        slow.go_on.set()
        assert service.wait_for(S.ERROR, timeout=DEADLINE)


def test_in_a_session_others_are_answered_meanwhile(make_service: Make, slow: Slow) -> None:
    """Other threads' requests, and the acknowledgements they need, do not wait for a callback."""
    with GatewayThread("echo") as gateway:
        service = make_service(on_message=slow, max_unacknowledged=10)
        service.connect(gateway.url)
        service.send("block")
        assert slow.inside.wait(DEADLINE)
        for number in range(100):
            service.send(f"{number}")
            if number < 50:
                assert service.request(b"%d" % number, timeout=DEADLINE).payload == b"%d" % number
        slow.go_on.set()
        assert slow.received.wait(101)
        assert slow.received.items == ["block", *map(str, range(100))]
        assert service.flush(DEADLINE)


def test_a_callback_stays_one_however_slow(make_service: Make) -> None:
    """What must not be called in a callback is refused there to the end; `send` never waits."""
    refused = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.text("go")
        peer.echo()

    def on_message(message: object) -> None:
        if message != "go":
            refused(message)
            return
        while len([t for t in threading.enumerate() if t.name == "tunnel"]) < 2:
            threading.Event().wait(0.01)
        for call in (service.flush, service.test_connection, lambda: service.wait_for(S.ERROR)):
            try:
                call()
            except WouldDeadlockError:
                refused(call)
        for number in range(1000):
            service.send(f"{number}")

    with RawServer(script) as server:
        service = make_service(on_message=on_message)
        service.connect(server.url)
        assert refused.wait(1003)
        assert refused.items[3:] == list(map(str, range(1000)))


def test_a_slow_word_of_a_lost_session(make_service: Make) -> None:
    """`on_session_lost` may block; the new session is greeted after it, and lives meanwhile."""
    inside, go_on = threading.Event(), threading.Event()
    order = Collector()

    def on_session_lost(error: SessionLostError) -> None:
        inside.set()
        assert go_on.wait(DEADLINE)
        order("lost")

    with GatewayThread("echo") as gateway:
        service = make_service(
            on_message=order,
            on_session_lost=on_session_lost,
            on_connected=lambda _, resumed: order("greeted"),
        )
        service.connect(gateway.url)
        port = gateway.port
    with GatewayThread("echo", port=port) as gateway:
        assert inside.wait(DEADLINE)
        assert service.wait_for(S.CONNECTED, timeout=DEADLINE)
        go_on.set()
        assert order.wait(3)
        assert order.items[:3] == ["greeted", "lost", "greeted"]
        service.disconnect()


@pytest.mark.fault("callback-blocks")
def test_the_next_link_is_of_use_meanwhile(make_service: Make, slow: Slow) -> None:
    """Other threads send on it: without an `on_connected` nobody has to go first."""
    texts = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        if server.accepted == 1:
            peer.text("block")
            assert slow.inside.wait(DEADLINE)
            peer.reset()
            return
        while True:
            opcode, payload = peer.receive()
            if opcode == TEXT:
                texts(payload)

    with RawServer(script) as server:
        service = make_service(on_message=slow)
        service.connect(server.url)
        assert server.wait_accepted(2)
        service.send("queued")
        assert texts.wait(1)
        assert service.reconnect(timeout=DEADLINE)
        service.disconnect(timeout=0.1)
        service.connect(server.url, timeout=DEADLINE)
        service.send("again")
        assert texts.wait(2)
        assert slow._busy.locked(), "it was waited for"
        service.disconnect(graceful=False, timeout=0.1)


def test_disconnect_lets_a_slow_greeting_end(make_service: Make) -> None:
    """What `on_connected` says goes out before the close frame, as when it is quick."""
    inside, go_on = threading.Event(), threading.Event()
    texts = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        while True:
            opcode, payload = peer.receive()
            if opcode == CLOSE:
                texts("close")
                peer.close(1000)
                return
            texts(payload)

    def greet(service: TunnelService, resumed: bool) -> None:
        inside.set()
        assert go_on.wait(DEADLINE)
        service.send("log in")

    with RawServer(script) as server:
        service = make_service(on_connected=greet)
        service.connect(server.url, wait=False)
        assert inside.wait(DEADLINE)
        ending = threading.Thread(target=service.disconnect, args=(True, DEADLINE))
        ending.start()
        assert service.wait_for(S.CLOSING, timeout=DEADLINE)
        assert not texts.wait(1, 0.1)
        go_on.set()
        ending.join(DEADLINE)
        assert texts.items == [b"log in", "close"]


def test_a_greeting_that_outlasts_its_tunnel(make_service: Make) -> None:
    """When it ends there is nobody whom it concerns: no thread is started for it."""
    inside, go_on = threading.Event(), threading.Event()

    def greet(service: TunnelService, resumed: bool) -> None:
        inside.set()
        assert go_on.wait(DEADLINE)

    with RawServer(lambda peer: (peer.upgrade(), peer.wait_until_gone())) as server:
        service = make_service(on_connected=greet)
        service.connect(server.url, wait=False)
        assert inside.wait(DEADLINE)
        service.disconnect(graceful=False, timeout=0.1)
        assert service.state is S.DISCONNECTED
        started: list[object] = []
        service.worker._on_start = lambda: started.append(1)
        go_on.set()
        service.worker.join(DEADLINE)
        assert started == []


def test_a_session_ends_when_callbacks_have_taken_all(make_service: Make, slow: Slow) -> None:
    """Else its peer would count what they have in hand as not delivered, and it may come twice."""
    with GatewayThread("echo") as gateway:
        service = make_service(on_message=slow)
        service.connect(gateway.url)
        service.send_many(["block", "a", "b"])
        assert slow.inside.wait(DEADLINE)
        assert service.flush(DEADLINE)
        ending = threading.Thread(target=service.disconnect, args=(True, DEADLINE))
        ending.start()
        assert not service.wait_for(S.DISCONNECTED, timeout=0.2)
        slow.go_on.set()
        ending.join(DEADLINE)
        assert slow.received.items == ["block", "a", "b"]
        service.connect(gateway.url)
        service.disconnect()


def test_a_session_is_kept_for_callbacks_that_go_on(make_service: Make, slow: Slow) -> None:
    """If they do not end in the time of `disconnect`, they are acknowledged on a later link."""
    greeted = Collector()
    with GatewayThread("echo") as gateway:
        service = make_service(on_message=slow, on_connected=lambda _, resumed: greeted(resumed))
        service.connect(gateway.url)
        service.send_many(["block", "a", "b"])
        assert slow.inside.wait(DEADLINE)
        assert service.flush(DEADLINE)
        service.disconnect(timeout=0.2)
        slow.go_on.set()
        service.connect(gateway.url)
        assert greeted.items == [False, True]
        assert slow.received.items == ["block", "a", "b"]
        service.disconnect()


def test_what_a_slow_callback_has_taken_is_acknowledged_at_once(
    make_service: Make, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is done a full window opens again, and not only when some time has passed."""
    monkeypatch.setattr("tunnel.acknowledger.DELAY", 1000.0)
    with GatewayThread("echo") as gateway:
        service = make_service(on_message=slow, receive_high_water=2048, max_queue_size=1000)
        service.connect(gateway.url)
        service.send_many(["block", *map(str, range(100))])
        assert slow.inside.wait(DEADLINE)
        assert not slow.go_on.wait(0.2)  # by now the window is full, and another thread reads
        slow.go_on.set()
        assert slow.received.wait(101)
        service.disconnect(graceful=False)
