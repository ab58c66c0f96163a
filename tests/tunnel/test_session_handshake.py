"""The first words on a link: a greeting and its answer, under one deadline."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from tunnel.config import TunnelConfig
from tunnel.dial import DialInterrupted
from tunnel.errors import (
    ConnectionClosedByPeerError,
    ConnectionLostError,
    ConnectionRejectedError,
    ConnectTimeoutError,
    MessageTooBigError,
    ProtocolError,
    ServerUnavailableError,
)
from tunnel.frames import Close, FrameDecoder, FrameEncoder, Incoming, Pong
from tunnel.secrets import Secret
from tunnel.session_frames import (
    OVERHEAD,
    Answer,
    End,
    Gone,
    Greeting,
    Limits,
    Open,
    Opened,
    Resume,
    Resumed,
    encode,
    read_greeting,
)
from tunnel.session_handshake import SessionHandshake
from tunnel.stream import Readiness
from tunnel.testing import FakeClock
from tunnel.waker import Waker

SERVER = FrameEncoder(mask=False)
LIMITS = Limits(1000, 2**20, 2**20)
TOKEN = Secret("5e" * 32)
OPEN = Open(LIMITS)
OPENED = Opened(b"i" * 16, TOKEN, 600, LIMITS)
RESUME = Resume(b"i" * 16, TOKEN, 7)
RESUMED = Resumed(3, 4)


class Wire:
    """A transport whose peer is the test."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.waker = Waker()
        self.chunks: deque[bytes] = deque()
        self.room: int | None = None  # bytes that are taken; None: any number
        self.write_error: OSError | None = None
        self.read_error: OSError | None = None
        self.ended = False
        self.waits: list[tuple[bool, float | None]] = []
        self.on_wait: Callable[[], object] = lambda: None
        self._decoder = FrameDecoder(expect_masked=True)
        self.written: list[Incoming] = []

    def put(self, *chunks: bytes) -> None:
        self.chunks.extend(chunks)
        self.waker.event.set()  # as a wait would see it

    def receive(self, size: int) -> bytes | None:
        if self.chunks:
            return self.chunks.popleft()
        if self.read_error is not None:
            raise self.read_error
        return b"" if self.ended else None

    def send(self, data: bytes) -> int:
        if self.write_error is not None:
            raise self.write_error
        taken = len(data) if self.room is None else min(self.room, len(data))
        if self.room is not None:
            self.room -= taken
        self.written += self._decoder.feed(data[:taken])
        return taken

    def wait(self, *, read: bool, write: bool, timeout: float | None) -> Readiness:
        self.waits.append((write, timeout))
        self.on_wait()
        if not self.chunks and not (write and self.room != 0):
            self.clock.wait(self.waker.event, timeout)
        return Readiness(bool(self.chunks), False, False, False)


class Bench:
    def __init__(self, seconds: float = 10.0, **settings: object) -> None:
        self.clock = FakeClock()
        self.wire = Wire(self.clock)
        self.is_called_off = False
        self.asked = 0
        self.handshake = SessionHandshake(
            self.wire,  # type: ignore[arg-type]
            self.clock,
            self.clock.monotonic() + seconds,
            self._interrupted,
            TunnelConfig(**settings),  # type: ignore[arg-type]
        )

    def _interrupted(self) -> bool:
        self.asked += 1
        return self.is_called_off

    def at(self, seconds: float, *chunks: bytes) -> None:
        when = self.clock.monotonic() + seconds
        self.clock.call_at(when, lambda: self.wire.put(*chunks))

    def answer(self, answer: Answer, *more: bytes) -> None:
        self.wire.put(SERVER.message(encode(answer)) + b"".join(more))

    @property
    def written(self) -> list[Greeting]:
        return [read_greeting(item) for item in self.wire.written if isinstance(item, bytes)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_flood_of_pings_is_answered_by_the_last(bench: Bench) -> None:
    """While the peer does not read, one pong waits: that for its latest ping (5.5.3)."""
    bench.wire.room = 0
    pings = [SERVER.ping(str(number).encode()) for number in range(1000)]
    bench.wire.put(*pings[:500], b"".join(pings[500:]))
    bench.at(1.0, SERVER.ping(b"last"))

    def make_room() -> None:
        bench.wire.room = None

    bench.clock.call_at(2.0, make_room)
    bench.at(3.0, SERVER.message(encode(OPENED)))
    bench.handshake.ask(OPEN)
    greeting, *pongs = bench.wire.written
    assert isinstance(greeting, bytes)
    assert pongs == [Pong(b"last")]


def test_half_a_pong_is_completed_before_the_link_begins(bench: Bench) -> None:
    """The answer may come while a pong is stuck; the link's first byte begins a frame."""
    bench.wire.put(SERVER.ping(b"stuck"))
    bench.at(1.0, SERVER.message(encode(OPENED)))
    bench.wire.room = 30  # the greeting, and a part of the pong

    def make_room() -> None:
        bench.wire.room = None
        bench.wire.waker.event.set()

    bench.clock.call_at(2.0, make_room)
    assert bench.handshake.ask(OPEN) == OPENED
    assert bench.wire.written[1:] == [Pong(b"stuck")]
    assert bench.clock.monotonic() == 2.0


def test_a_pong_that_stays_stuck_costs_the_time_out(bench: Bench) -> None:
    """A peer that answers and does not read gets no link."""
    bench.wire.put(SERVER.ping(b"stuck"), SERVER.message(encode(OPENED)))
    bench.wire.room = 30
    with pytest.raises(ConnectTimeoutError):
        bench.handshake.ask(OPEN)


# Asking


@pytest.mark.parametrize(
    ("greeting", "answer"),
    [(OPEN, OPENED), (RESUME, RESUMED), (RESUME, Gone("who are you?"))],
)
def test_a_greeting_is_answered(bench: Bench, greeting: Greeting, answer: Answer) -> None:
    """The greeting goes out, and what comes back is its answer."""
    bench.answer(answer)
    assert bench.handshake.ask(greeting) == answer
    assert bench.written == [greeting]


def test_a_second_question(bench: Bench) -> None:
    """On the same link, when the session is gone, a new one can be asked for."""
    bench.answer(Gone("no"))
    assert isinstance(bench.handshake.ask(RESUME), Gone)
    bench.answer(OPENED)
    assert bench.handshake.ask(OPEN) == OPENED
    assert bench.written == [RESUME, OPEN]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_network_may_be_slow(bench: Bench, size: int) -> None:
    """Greeting and answer may go in pieces of any size."""
    data = SERVER.message(encode(OPENED))
    for second, start in enumerate(range(0, len(data), size)):
        bench.at(0.01 * second, data[start : start + size])
    bench.wire.room = 0
    bench.wire.on_wait = lambda: setattr(bench.wire, "room", (bench.wire.room or 0) + size)
    assert bench.handshake.ask(OPEN) == OPENED
    assert bench.written == [OPEN]


def test_what_follows_belongs_to_the_link(bench: Bench) -> None:
    """Frames behind the answer are kept in order; half a frame stays in the decoder."""
    last = SERVER.message(b"last")
    bench.answer(OPENED, SERVER.message(b"1"), SERVER.ping(b"p"), SERVER.message(b"2"), last[:3])
    bench.handshake.ask(OPEN)
    assert [getattr(item, "payload", item) for item in bench.handshake.backlog] == [
        b"1",
        b"p",
        b"2",
    ]
    assert bench.handshake.decoder.feed(last[3:]) == [b"last"]


def test_heartbeats_before_the_answer(bench: Bench) -> None:
    """A ping is answered, also in the middle of the handshake; a pong is nobody's."""
    bench.wire.put(SERVER.pong(b"?") + SERVER.ping(b"hello"))
    bench.clock.call_at(bench.clock.monotonic() + 1.0, lambda: bench.answer(OPENED))
    assert bench.handshake.ask(OPEN) == OPENED
    assert [item.payload for item in bench.wire.written if isinstance(item, Pong)] == [b"hello"]


@pytest.mark.parametrize(("size", "fits"), [(OVERHEAD + 1024, True), (OVERHEAD + 1025, False)])
def test_a_message_of_full_size_fits_with_its_number(size: int, fits: bool) -> None:
    """`max_message_size` is about the message, not about what a session adds to it."""
    bench = Bench(max_message_size=1024)
    bench.answer(OPENED, SERVER.message(b"x" * size))
    bench.handshake.ask(OPEN)
    assert (bench.handshake.decoder.violation is None) is fits


# Failing


def test_a_peer_that_says_nothing() -> None:
    """When the time is up there is no session."""
    bench = Bench(3.0)
    with pytest.raises(ConnectTimeoutError, match="did not open a session in time"):
        bench.handshake.ask(OPEN)
    assert bench.clock.monotonic() == pytest.approx(3.0)
    assert len(bench.wire.waits) == 1


def test_a_peer_that_talks_about_something_else() -> None:
    """Nor may a peer that never stops sending pings hold the dial up for longer than that."""
    bench = Bench(3.0)
    receive = bench.wire.receive

    def flood(size: int) -> bytes | None:
        bench.clock.advance(0.01)
        receive(size)
        return SERVER.ping(b"!")

    bench.wire.receive = flood  # type: ignore[method-assign]
    with pytest.raises(ConnectTimeoutError):
        bench.handshake.ask(OPEN)
    assert bench.clock.monotonic() == pytest.approx(3.0, abs=0.02)


def test_a_peer_that_does_not_read() -> None:
    """The greeting may be stuck: that is waited for, until the time is up."""
    bench = Bench(3.0)
    bench.wire.room = 5
    with pytest.raises(ConnectTimeoutError):
        bench.handshake.ask(OPEN)
    assert all(write for write, _ in bench.wire.waits)


def test_the_end_instead_of_an_answer(bench: Bench) -> None:
    """The connection may end before there is a session."""
    bench.wire.ended = True
    with pytest.raises(ConnectionLostError):
        bench.handshake.ask(OPEN)


@pytest.mark.parametrize("name", ["write_error", "read_error"])
def test_a_broken_connection(bench: Bench, name: str) -> None:
    """What the socket says is left to the caller to translate."""
    setattr(bench.wire, name, ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        bench.handshake.ask(OPEN)


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (SERVER.message(b""), 1002, "an empty frame"),
        (SERVER.message(b"\x01\0\0\0\x01hello"), 1002, "TEXT where OPENED"),
        (SERVER.message(b"\x63"), 1002, "unknown kind 0x63"),
        (SERVER.message(encode(OPENED)[:-1]), 1002, "OPENED of"),
        (SERVER.message("hello"), 1002, "a text message within a session"),
        (b"\x92\x00", 1002, "the peer broke the protocol: a reserved bit"),
        (SERVER.message(b"x" * 2000), 1009, "the peer broke the protocol: a message of 2000 bytes"),
    ],
)
def test_an_answer_that_is_none(data: bytes, code: int, text: str) -> None:
    """The peer hears why the connection is given up, and so does the caller."""
    bench = Bench(max_message_size=1024)
    bench.at(1.0, data)
    with pytest.raises(ProtocolError, match=text) as caught:
        bench.handshake.ask(OPEN)
    assert type(caught.value) is (MessageTooBigError if code == 1009 else ProtocolError)
    assert caught.value.close_code == code
    assert [item.code for item in bench.wire.written if isinstance(item, Close)] == [code]


def test_no_farewell_if_it_cannot_be_written(bench: Bench) -> None:
    """Behind half a greeting nothing can be said; on a broken connection neither."""
    bench.wire.room = 5
    bench.wire.put(SERVER.message("hello"))
    with pytest.raises(ProtocolError):
        bench.handshake.ask(OPEN)
    assert bench.wire.written == []
    bench = Bench()

    def receive(size: int) -> bytes:
        bench.wire.write_error = BrokenPipeError()
        return SERVER.message("hello")

    bench.wire.receive = receive  # type: ignore[method-assign]
    with pytest.raises(ProtocolError, match="text message"):
        bench.handshake.ask(OPEN)


@pytest.mark.parametrize(
    ("frame", "error", "answer"),
    [
        (SERVER.close(1012, "restarting"), ServerUnavailableError, 1012),
        (SERVER.close(None), ConnectionLostError, 1005),
        (SERVER.close(1008, "not you"), ConnectionRejectedError, 1008),
        (SERVER.close(4000), ConnectionClosedByPeerError, 4000),
        (SERVER.close(4001), ConnectionRejectedError, 4001),
    ],
)
def test_a_peer_that_closes(frame: bytes, error: type[Exception], answer: int) -> None:
    """A close frame means what it means later, and is answered (RFC 6455, section 5.5.1)."""
    bench = Bench(fatal_close_codes=[4001])
    bench.at(0.1, frame)
    with pytest.raises(error):
        bench.handshake.ask(OPEN)
    assert [item.code for item in bench.wire.written if isinstance(item, Close)] == [answer]


# Interrupted


def test_called_off(bench: Bench) -> None:
    """A dial that has lost its purpose ends at once."""
    bench.is_called_off = True
    bench.clock.call_at(bench.clock.monotonic() + 1.0, bench.wire.waker.wake)
    with pytest.raises(DialInterrupted):
        bench.handshake.ask(OPEN)
    assert bench.clock.monotonic() == pytest.approx(1.0)


def test_woken_for_something_else(bench: Bench) -> None:
    """A wake-up that is about something else does no harm, and is looked at once."""
    bench.clock.call_at(bench.clock.monotonic() + 1.0, bench.wire.waker.wake)
    bench.clock.call_at(bench.clock.monotonic() + 2.0, lambda: bench.answer(OPENED))
    assert bench.handshake.ask(OPEN) == OPENED
    assert bench.asked == 2


def test_leaving_a_session_that_was_resumed(bench: Bench) -> None:
    """END goes out before the next greeting; what comes of the old session is no answer to that."""
    old = [SERVER.message(bytes([kind, 0, 0, 0, 1])) for kind in (1, 2, 4, 6, 8)]
    bench.answer(RESUMED, *old[:2])
    assert bench.handshake.ask(RESUME) == RESUMED
    bench.handshake.leave()
    bench.wire.put(*old[2:], SERVER.message(bytes([9])))
    bench.answer(OPENED, SERVER.message(b"new"))
    assert bench.handshake.ask(OPEN) == OPENED
    assert bench.wire.written == [encode(RESUME), encode(End("")), encode(OPEN)]
    assert list(bench.handshake.backlog) == [b"new"]
