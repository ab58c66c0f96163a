"""A tunnel with a session under many threads, on a network of memory that breaks anywhere.

The network takes any part of what is written, gives any part of what is there to be read, and ends
after so many bytes, whichever way they go: in the midst of a frame, of an answer, of a greeting.
The gateway behind it is the session's other end, and lives as long as the test.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from random import Random, SystemRandom

import pytest

from tunnel.config import TunnelConfig
from tunnel.dial import DialInterrupted
from tunnel.frames import Close, FrameDecoder, FrameEncoder, Ping
from tunnel.outbox import Message
from tunnel.secrets import Secret
from tunnel.service import TunnelService
from tunnel.session import Session
from tunnel.session_frames import (
    ASK_FRAME,
    FrameKind,
    Gone,
    Limits,
    Open,
    encode,
    read_greeting,
)
from tunnel.stream import Readiness
from tunnel.transport import DialRequest, Transport
from tunnel.waker import Waker

LONG = 60.0
"""Seconds that something may take which is certain to happen."""

FAST = {"reconnect_base_delay": 0.001, "reconnect_max_delay": 0.01, "max_reconnect_attempts": None}
SERVER = FrameEncoder(mask=False)

pytestmark = pytest.mark.usefixtures("no_leaks")


class Gateway:
    """The session's other end, over any number of links. Its lock is held by whoever calls."""

    def __init__(self, limits: Limits, *, echoes: bool = False) -> None:
        self.lock = threading.RLock()
        self.limits = limits
        self.echoes = echoes
        self.session: Session | None = None
        self.opened = 0
        self.connection: Connection | None = None
        self.received: list[Message] = []
        self.waiting: deque[Message] = deque()
        self.takes = True  # and acknowledges
        self.acknowledged_at: dict[int, float] = {}

    def arrived(self, connection: Connection, item: bytes) -> None:
        """A frame; with the lock."""
        if item[0] in (FrameKind.OPEN, FrameKind.RESUME):
            self._greet(connection, item)
        elif connection is self.connection and self.session is not None:
            session = self.session
            before = session.acknowledged
            for message in session.receive([item]):
                self.received.append(message)
                if self.echoes:
                    self.waiting.append(message)
            if session.violation is not None:
                raise session.violation
            for number in range(before + 1, session.acknowledged + 1):
                self.acknowledged_at[number] = time.monotonic()
            self.acknowledge()
            self.write()

    def _greet(self, connection: Connection, item: bytes) -> None:
        greeting = read_greeting(item)
        if isinstance(greeting, Open):
            self.opened += 1
            self.session = Session(self.limits, keep=(10_000, 2**24))
            answer = self.session.open(
                greeting, self.opened.to_bytes(16, "big"), Secret("5e" * 32), 600
            )
        elif self.session is None or self.session.id != greeting.id:
            connection.put(SERVER.message(encode(Gone("unknown"))))
            return
        else:
            answer = self.session.resume(greeting)  # type: ignore[assignment]
        connection.put(SERVER.message(encode(answer)))
        self.connection = connection
        self.acknowledge()
        self.write()

    def acknowledge(self) -> None:
        session, connection = self.session, self.connection
        if not self.takes or session is None or connection is None:
            return
        session.take(session.received - session.taken)
        if session.has_untold or session.is_acknowledgement_due:
            connection.put(SERVER.message(session.acknowledgement()))

    def send(self, *messages: Message) -> None:
        with self.lock:
            self.waiting.extend(messages)
            self.write()

    def write(self) -> None:
        session, connection = self.session, self.connection
        if session is None or connection is None or connection.is_ended:
            return
        frames = session.replay(10_000, 2**30) if session.has_replay else []
        session.confirm(len(frames))
        while self.waiting and session.has_room_for(len(_bytes(self.waiting[0]))):
            frames += session.send((self.waiting.popleft(),))
            session.confirm(1)
        if self.waiting and session.may_ask:
            frames.append(session.ask())
        connection.put(*map(SERVER.message, frames))

    @property
    def unacknowledged(self) -> int:
        with self.lock:
            assert self.session is not None
            return self.session.unacknowledged + len(self.waiting)


class Network:
    """Makes connections to a gateway, and ends them after so many bytes."""

    def __init__(self, gateway: Gateway, rng: Random, cut_after: tuple[int, int] | None) -> None:
        self.gateway = gateway
        self.rng = rng
        self.cut_after = cut_after
        self.dials = 0
        self.calls = 0  # of the transport
        self.connection: Connection | None = None

    def __call__(self, waker: Waker) -> Transport:
        self.dials += 1
        self.connection = Connection(self, waker, Random(self.rng.getrandbits(32)))
        return self.connection


class Connection:
    """See `tunnel.transport.Transport`."""

    subprotocol: str | None = None

    def __init__(self, network: Network, waker: Waker, rng: Random) -> None:
        self.network = network
        self.gateway = network.gateway
        self.waker = waker
        self._rng = rng
        self._decoder = FrameDecoder(expect_masked=True)
        self._incoming = bytearray()
        cut = network.cut_after
        self._left = rng.randint(*cut) if cut is not None else None
        self.is_ended = False
        self._full = False

    @property
    def response_headers(self) -> dict[str, str]:
        return {"tunnel-resume": "1"}

    def open(self, request: DialRequest, interrupted: Callable[[], bool]) -> None:
        if self.waker.event.is_set():
            self.waker.clear()
            if interrupted():
                raise DialInterrupted

    def _pass(self, count: int) -> int:
        """Let so many bytes through, or fewer, and the link end behind the last."""
        if self._left is None:
            return count
        count = min(count, self._left)
        self._left -= count
        if not self._left:
            self.is_ended = True
            self.waker.wake()  # the reader notices, as poll would let it
        return count

    def receive(self, size: int) -> bytes | None:
        with self.gateway.lock:
            self.network.calls += 1
            if self._incoming:
                count = min(size, len(self._incoming), self._rng.choice((1, 7, 300, 65536)))
                count = self._pass(count)
                chunk = bytes(self._incoming[:count])
                del self._incoming[:count]
                if chunk:
                    return chunk
            return b"" if self.is_ended else None

    def send(self, data: memoryview | bytes) -> int:
        with self.gateway.lock:
            self.network.calls += 1
            if self.is_ended:
                raise ConnectionResetError("cut")
            self._full = not self._full and self._rng.random() < 0.2
            if self._full:
                return 0
            size = self._rng.choice((1, 2, 5, 50, 1000, 65536, 2**20))
            count = self._pass(min(size, len(data)))
            for item in self._decoder.feed(bytes(data[:count])):
                self._obey(item)
            assert self._decoder.violation is None
            return count

    def _obey(self, item: object) -> None:
        if isinstance(item, Ping):
            self.put(SERVER.pong(item.payload))
        elif isinstance(item, Close):
            self.put(SERVER.close(item.code))
            self.is_ended = True
        elif isinstance(item, bytes):
            if item == ASK_FRAME:
                self.gateway.acknowledge()
            self.gateway.arrived(self, item)

    def put(self, *frames: bytes) -> None:
        with self.gateway.lock:
            for frame in frames:
                self._incoming += frame
        self.waker.wake()

    def wait(self, *, read: bool, write: bool, timeout: float | None) -> Readiness:
        self.network.calls += 1
        if not (write or self.is_ended or (read and self._incoming)):
            self.waker.event.wait(timeout)
        return Readiness(
            read and (bool(self._incoming) or self.is_ended),
            write,
            self.waker.event.is_set(),
            self.is_ended,
        )

    def has_unread(self) -> bool:
        return bool(self._incoming) or self.is_ended

    def wait_writable(self, timeout: float | None) -> bool:
        threading.Event().wait(0.0001)  # the kernel sends something meanwhile
        return True

    def abort(self) -> None:
        self.is_ended = True
        self.waker.wake()

    def close(self) -> None:
        self.is_ended = True


def _bytes(message: Message) -> bytes:
    return message.encode() if isinstance(message, str) else message


def seeded() -> Random:
    """Chance; a test that fails shows the seed."""
    seed = SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    return Random(seed)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    never = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        never.wait(0.002)


def in_threads(*works: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def of_each(received: list[Message], senders: int) -> dict[int, list[int]]:
    """The numbers that came from each sender, in their order."""
    numbers: dict[int, list[int]] = {sender: [] for sender in range(senders)}
    for message in received:
        sender, number = _bytes(message).split(b"\0")[0].split(b":")
        numbers[int(sender)].append(int(number))
    return numbers


def message(rng: Random, sender: int, number: int, largest: int) -> Message:
    """Text or bytes, small or large; its beginning says what it is."""
    size = min(largest, rng.choice((0, 1, 10, 100, 100, 100, 1000, 70_000)))
    if rng.random() < 0.5:
        return f"{sender}:{number}\0" + "ä" * (size // 2)
    return b"%d:%d\0" % (sender, number) + bytes(size)


# Exactly once, in order


@pytest.mark.requirement("1.7")
@pytest.mark.parametrize(
    ("cut_after", "largest"), [(None, 70_000), ((300, 5000), 100), ((1000, 400_000), 70_000)]
)
@pytest.mark.parametrize("window", [Limits(5, 3000, 2**20), Limits(1000, 2**20, 2**20)])
def test_many_senders_through_many_cuts(
    window: Limits, cut_after: tuple[int, int] | None, largest: int
) -> None:
    """Eight threads send; whatever is cut where, each one's messages come once and in order."""
    rng = seeded()
    gateway = Gateway(window, echoes=True)
    network = Network(gateway, rng, cut_after)
    got: list[Message] = []
    service = TunnelService(
        TunnelConfig(**FAST),  # type: ignore[arg-type]
        new_transport=network,
        on_message=got.append,
    )
    count, senders = 60, 8

    def send(sender: int, own: Random) -> None:
        for number in range(count):
            if own.random() < 0.2:
                service.send_many([message(own, sender, number, largest)], timeout=None)
            else:
                service.send(message(own, sender, number, largest), timeout=None)

    with service:
        service.connect("ws://memory/", timeout=LONG)
        threads = in_threads(
            *[partial(send, sender, Random(rng.getrandbits(32))) for sender in range(senders)]
        )
        join(threads)
        assert service.flush(LONG)
        wait_until(lambda: len(got) == count * senders)
        expected = {sender: list(range(count)) for sender in range(senders)}
        assert of_each(gateway.received, senders) == expected
        assert got == gateway.received
        assert gateway.opened == 1
        assert service.statistics()["unacknowledged"] == 0
        assert service.statistics()["messages_sent"] == count * senders
        if cut_after is not None:
            assert network.dials > 2


@pytest.mark.requirement("1.7")
def test_greetings_may_be_cut_too() -> None:
    """Links that end within their first bytes cost nothing but time."""
    rng = seeded()
    gateway = Gateway(Limits(100, 2**20, 2**20))
    network = Network(gateway, rng, (1, 250))
    service = TunnelService(TunnelConfig(**FAST), new_transport=network)  # type: ignore[arg-type]
    with service:
        service.connect("ws://memory/", timeout=LONG)
        for number in range(100):
            service.send(f"0:{number}", timeout=None)
        wait_until(lambda: len(gateway.received) == 100)
        network.cut_after = None
        assert service.flush(LONG)
    numbers = of_each(gateway.received, 1)[0]
    assert numbers[-100:] == list(range(100))


# Incoming, by iterator


@pytest.mark.parametrize("consumers", [1, 4])
@pytest.mark.parametrize("high_water", [1024, 2**20])
def test_consumers_take_from_many_links(consumers: int, high_water: int) -> None:
    """Every message comes to one consumer, once; none is acknowledged before it was taken."""
    rng = seeded()
    gateway = Gateway(Limits(100, 2**20, 2**20))
    network = Network(gateway, rng, (200, 20_000))
    service = TunnelService(
        TunnelConfig(**FAST, receive_high_water=high_water),  # type: ignore[arg-type]
        new_transport=network,
    )
    total = 2000 if high_water > 1024 else 200  # each of 600 bytes waits for a late acknowledgement
    done: list[list[int]] = [[] for _ in range(consumers)]
    too_early: list[tuple[int, int]] = []

    def consume(own: list[int]) -> None:
        for received in service.messages():
            with gateway.lock:
                assert gateway.session is not None
                finished = sum(map(len, done))
                if gateway.session.acknowledged > finished:
                    too_early.append((gateway.session.acknowledged, finished))
            own.append(int(_bytes(received).split(b"\0")[0]))

    with service:
        service.connect("ws://memory/", timeout=LONG)
        threads = in_threads(*[partial(consume, own) for own in done])
        gateway.send(*[b"%d\0" % n + bytes(rng.choice((0, 10, 600))) for n in range(total)])
        wait_until(lambda: sum(map(len, done)) == total)
        wait_until(lambda: gateway.unacknowledged == 0)
        assert too_early == []
        for own in done:
            assert own == sorted(own)
        assert sorted(n for own in done for n in own) == list(range(total))
    join(threads)


# In time


@pytest.mark.parametrize("by_iterator", [False, True])
def test_acknowledged_within_a_second(by_iterator: bool) -> None:
    """One message now and then: each is acknowledged within a second of being taken."""
    gateway = Gateway(Limits(100, 2**20, 2**20))
    network = Network(gateway, seeded(), None)
    taken_at: list[float] = []
    service = TunnelService(
        TunnelConfig(),
        new_transport=network,
        on_message=None if by_iterator else lambda _: taken_at.append(time.monotonic()),
    )

    def consume() -> None:
        for _ in service.messages():
            taken_at.append(time.monotonic())

    with service:
        service.connect("ws://memory/", timeout=LONG)
        threads = in_threads(consume) if by_iterator else []
        for number in range(1, 4):
            gateway.send(f"{number}")
            wait_until(lambda: gateway.unacknowledged == 0)
            assert gateway.acknowledged_at[number] - taken_at[number - 1] < 1.0
    join(threads)


@pytest.mark.parametrize("consumers", [1, 3])
@pytest.mark.parametrize("size", [10, 400, 600, 3000])
def test_a_small_window_does_not_stall_consumers(
    monkeypatch: pytest.MonkeyPatch, size: int, consumers: int
) -> None:
    """A window opens as soon as its messages are taken: nobody waits for a timer."""
    monkeypatch.setattr("tunnel.acknowledger.DELAY", 3600.0)
    gateway = Gateway(Limits(100, 2**20, 2**20))
    network = Network(gateway, seeded(), None)
    service = TunnelService(
        TunnelConfig(receive_high_water=1024),  # 512 bytes, 8 messages
        new_transport=network,
    )
    total = 300
    got: list[Message] = []
    complete = threading.Event()

    def consume() -> None:
        for received in service.messages():
            got.append(received)
            if len(got) == total:
                complete.set()

    with service:
        service.connect("ws://memory/", timeout=LONG)
        gateway.send(*[bytes(size)] * total)
        threads = in_threads(*[consume] * consumers)
        assert complete.wait(LONG), f"{len(got)} of {total}"
    join(threads)


def send_numbers(service: TunnelService, sender: int, count: int) -> None:
    for number in range(count):
        service.send(f"{sender}:{number}", timeout=LONG)


@pytest.mark.parametrize("window", [1, 3])
def test_a_window_that_opens_is_used_at_once(window: int) -> None:
    """Whoever waits for room goes on when an acknowledgement comes; nobody is forgotten."""
    gateway = Gateway(Limits(window, 2**20, 2**20))
    network = Network(gateway, seeded(), None)
    service = TunnelService(TunnelConfig(max_queue_size=2), new_transport=network)
    done = threading.Event()

    def acknowledge() -> None:
        while not done.wait(0.0005):
            with gateway.lock:
                gateway.takes = True
                gateway.acknowledge()
                gateway.takes = False

    with service:
        service.connect("ws://memory/", timeout=LONG)
        gateway.takes = False
        acknowledging = in_threads(acknowledge)
        join(in_threads(*[partial(send_numbers, service, sender, 100) for sender in range(4)]))
        assert service.flush(LONG)
        done.set()
        join(acknowledging)
    assert of_each(gateway.received, 4) == {sender: list(range(100)) for sender in range(4)}


def test_a_closed_window_is_waited_for_quietly() -> None:
    """While nothing is acknowledged, neither the tunnel's thread nor a sender spins."""
    gateway = Gateway(Limits(1, 2**20, 2**20))
    network = Network(gateway, seeded(), None)
    service = TunnelService(TunnelConfig(max_queue_size=2), new_transport=network)
    with service:
        service.connect("ws://memory/", timeout=LONG)
        gateway.takes = False
        threads = in_threads(partial(send_numbers, service, 0, 10))
        wait_until(lambda: service.statistics()["queued_requests"] == 2)
        calls = network.calls
        threads[0].join(0.5)
        assert network.calls - calls < 20
        with gateway.lock:
            gateway.takes = True
            gateway.acknowledge()
        join(threads)
        assert service.flush(LONG)
    assert of_each(gateway.received, 1)[0] == list(range(10))


# Flushing and the end


def test_flushing_no_longer_than_permitted() -> None:
    """A peer that does not acknowledge is asked, and waited for as long as the caller will."""
    gateway = Gateway(Limits(10, 2**20, 2**20))
    service = TunnelService(TunnelConfig(), new_transport=Network(gateway, seeded(), None))
    with service:
        service.connect("ws://memory/", timeout=LONG)
        gateway.takes = False
        service.send("0:0")
        assert not service.flush(0.02)
        gateway.takes = True
        assert service.flush(LONG)  # it asks again
    assert gateway.received == ["0:0"]


class Forgetful(Gateway):
    """Forgets its session after every few messages, and ends the link."""

    def __init__(self, limits: Limits, rng: Random) -> None:
        super().__init__(limits)
        self._rng = rng
        self._left = 5

    def arrived(self, connection: Connection, item: bytes) -> None:
        super().arrived(connection, item)
        self._left -= item[0] == FrameKind.TEXT
        if not self._left:
            self._left = self._rng.randint(1, 8)
            self.session = self.connection = None
            connection.abort()


def test_flushing_while_sessions_are_lost() -> None:
    """`flush` never says yes while something that was accepted is still to go out."""
    rng = seeded()
    gateway = Forgetful(Limits(3, 2**20, 2**20), rng)
    lost: list[Message] = []
    service = TunnelService(
        TunnelConfig(**FAST),  # type: ignore[arg-type]
        new_transport=Network(gateway, rng, None),
        on_session_lost=lambda error: lost.extend(error.unacknowledged),
    )
    with service:
        service.connect("ws://memory/", timeout=LONG)
        for number in range(100):
            service.send(f"0:{number}", timeout=None)
            if service.flush(LONG):
                assert f"0:{number}" in gateway.received
        service.flush(LONG)
    numbers = of_each(gateway.received, 1)[0]
    assert numbers == sorted(set(numbers))  # nothing twice, nothing out of order
    missing = set(range(100)) - set(numbers)
    assert missing <= {int(_bytes(message).split(b":")[1]) for message in lost}
    assert gateway.opened > 5


@pytest.fixture(autouse=True)
def _no_spinning_thread_is_left() -> Iterator[None]:
    yield
    assert not [t for t in threading.enumerate() if t.name == "tunnel" and t.is_alive()]
