"""One link, on virtual time: against the scripted peer, and on a transport made of a list."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from tunnel.callback_lane import CallbackLane, LaneDelivery
from tunnel.closing_handshake import LinkEnd
from tunnel.config import TunnelConfig
from tunnel.delivery import CallbackDelivery, Delivery, Inbox
from tunnel.errors import (
    CertificateError,
    ConnectionClosedByPeerError,
    ConnectionLostError,
    ConnectionRejectedError,
    HeartbeatTimeoutError,
    MessageTooBigError,
    ProtocolError,
)
from tunnel.frames import Close, FrameDecoder, FrameEncoder, Incoming, Ping, Pong
from tunnel.link import Link
from tunnel.metrics_collector import MetricsCollector
from tunnel.outbox import Message
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.secrets import Secret
from tunnel.session import Session
from tunnel.session_channel import SessionChannel
from tunnel.session_frames import ASK_FRAME, Answer, End, FrameKind, Limits, Open, encode
from tunnel.session_handshake import SessionHandshake
from tunnel.stream import Readiness
from tunnel.testing import FakeClock
from tunnel.transport import DialRequest
from tunnel.waker import Waker

SERVER = FrameEncoder(mask=False)
CONFIG = TunnelConfig(ping_interval=30.0, pong_timeout=45.0)


class Wire:
    """A transport whose peer is the test: chunks to read, and what was written."""

    subprotocol: str | None = None

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.waker = Waker()
        self.chunks: deque[bytes | OSError] = deque()
        self.sizes: list[int] = []
        self.room: int | None = None  # bytes that are taken; None: any number
        self.write_error: OSError | None = None
        self.ended = False  # the end is there, perhaps behind chunks
        self.aborted = self.closed = False
        self.on_wait: Callable[[], object] | None = None
        self._decoder = FrameDecoder(expect_masked=True)
        self.written: list[Incoming] = []
        self.calls: list[str] = []

    @property
    def response_headers(self) -> dict[str, str]:
        return {}

    def open(self, request: DialRequest, interrupted: Callable[[], bool]) -> None:
        raise NotImplementedError

    def put(self, *chunks: bytes) -> None:
        self.chunks.extend(chunks)
        self.waker.wake()

    def receive(self, size: int) -> bytes | None:
        self.sizes.append(size)
        if self.chunks:
            chunk = self.chunks.popleft()
            if isinstance(chunk, OSError):
                raise chunk
            return chunk
        return b"" if self.ended or self.aborted else None

    def send(self, data: memoryview | bytes) -> int:
        if self.write_error is not None:
            raise self.write_error
        taken = len(data) if self.room is None else min(self.room, len(data))
        if self.room is not None:
            self.room -= taken
        self.written += self._decoder.feed(bytes(data[:taken]))
        return taken

    def wait(self, *, read: bool, write: bool, timeout: float | None) -> Readiness:
        if self.on_wait is not None:
            self.on_wait()
        writable = write and self.room != 0
        if not (writable or self.ended or (read and self.chunks)):
            self.clock.wait(self.waker.event, timeout)
        return Readiness(
            read and bool(self.chunks), writable, self.waker.event.is_set(), self.ended
        )

    def has_unread(self) -> bool:
        return bool(self.chunks) or self.ended

    def wait_writable(self, timeout: float | None) -> bool:
        return self.room != 0

    def abort(self) -> None:
        self.aborted = True
        self.calls.append("abort")

    def close(self) -> None:
        self.closed = True
        self.calls.append("close")


class Bench:
    """A link and everything around it."""

    def __init__(
        self, config: TunnelConfig = CONFIG, delivery: Delivery | None = None, **changes: object
    ) -> None:
        self.clock = FakeClock()
        self.wire = Wire(self.clock)
        self.received: list[Message] = []
        self.queue = RequestQueue(clock=self.clock)
        self.metrics = MetricsCollector(clock=self.clock)
        self.activity = 0
        self.link = Link(
            self.wire,
            queue=self.queue,
            delivery=delivery or CallbackDelivery(self.received.append),
            config=config.replace(**changes),
            metrics=self.metrics,
            clock=self.clock,
            waker=self.wire.waker,
            on_activity=self._note,
        )
        self.link.watch(config.replace(**changes), None)
        self.link.open_queue()

    def _note(self) -> None:
        self.activity += 1

    def run(self, seconds: float | None = 0.0) -> LinkEnd | None:
        """Let the link run for some time, or until it ends; None: until it ends."""
        deadline = None if seconds is None else self.clock.monotonic() + seconds
        while True:
            self.wire.waker.clear()
            end = self.link.run(deadline)
            if end is not None:
                return end
            is_late = deadline is not None and self.clock.monotonic() >= deadline
            if is_late and not self.wire.waker.event.is_set():
                return None

    def feed(self, *frames: bytes) -> LinkEnd | None:
        self.wire.put(b"".join(frames))
        return self.run(0.001)


# Reading


def test_messages_are_delivered_in_order() -> None:
    """Text and binary messages reach the delivery as they came, and are counted."""
    bench = Bench()
    assert bench.feed(SERVER.message("a"), SERVER.message(b"b"), SERVER.message("c")) is None
    assert bench.received == ["a", b"b", "c"]
    assert bench.metrics.snapshot().messages_received == 3
    assert bench.activity == 1


def test_pings_are_answered_before_messages_are_delivered() -> None:
    """A ping need not wait for the callbacks of the messages that came with it."""
    bench = Bench()
    at_answer: list[list[Message]] = []
    send = bench.wire.send

    def watch(data: memoryview | bytes) -> int:
        at_answer.append(list(bench.received))
        return send(data)

    bench.wire.send = watch  # type: ignore[method-assign]
    bench.feed(SERVER.message("a"), SERVER.ping(b"now"), SERVER.message("b"))
    assert at_answer == [[]]
    assert bench.wire.written == [Pong(b"now")]
    assert bench.received == ["a", "b"]


def test_messages_before_a_close_frame_are_delivered() -> None:
    """Also if both came at once."""
    bench = Bench()
    bench.feed(SERVER.message("a"), SERVER.close(1000))
    assert bench.received == ["a"]


def test_comes_out_for_callbacks() -> None:
    """Once messages have been put into the lane the thread is needed elsewhere."""
    lane = CallbackLane()
    received: list[Message] = []
    delivery = LaneDelivery(CallbackDelivery(received.append), lane, 1000, lambda: None)
    bench = Bench(delivery=delivery)
    bench.wire.chunks.extend([SERVER.message("a"), SERVER.message("b")])
    assert bench.link.run(100.0) is None
    assert bench.clock.monotonic() == 0.0
    assert received == []
    lane.run()
    assert received == ["a"]
    assert bench.link.run(100.0) is None
    lane.run()
    assert received == ["a", "b"]


@pytest.mark.requirement("6.3")
@pytest.mark.parametrize("payload", [b"", b"x", bytes(125)])
def test_a_ping_is_answered_with_its_payload(payload: bytes) -> None:
    """A ping alone is answered at once (RFC 6455, section 5.5.2), and is no message."""
    bench = Bench()
    bench.feed(SERVER.ping(payload))
    assert bench.wire.written == [Pong(payload)]
    assert bench.received == []


def test_a_message_in_pieces() -> None:
    """A message whose bytes dribble in is delivered when it is whole; each piece is activity."""
    bench = Bench()
    frame = SERVER.message("piecemeal")
    for position in range(len(frame)):
        assert bench.received == []
        bench.feed(frame[position : position + 1])
    assert bench.received == ["piecemeal"]
    assert bench.activity == len(frame)


@pytest.mark.parametrize("size", [100, 200_000, 16 * 2**20])
def test_large_frames_are_read_in_small_pieces(size: int) -> None:
    """A read asks for 64 KiB, however much of a frame is missing."""
    bench = Bench()
    frame = SERVER.message(bytes(size))
    header = len(frame) - size
    bench.feed(frame[: header + 10])
    bench.feed(frame[header + 10 :])
    assert bench.received == [bytes(size)]
    assert set(bench.wire.sizes) == {65536}


class Sizes:
    """A delivery that notes what it is told."""

    has_callbacks = False
    is_full = False

    def __init__(self) -> None:
        self.told: list[tuple[list[Message], int]] = []

    def note_pause(self) -> None:
        raise AssertionError

    def deliver(self, messages: list[Message], size: int) -> None:
        self.told.append((messages, size))


def test_all_bytes_of_a_big_message_count() -> None:
    """A message of many chunks is delivered with its whole size, pings in between or not."""
    sizes = Sizes()
    bench = Bench(delivery=sizes)
    first, second = SERVER.fragments(bytes(300_000), 200_000)
    for position in range(0, len(first), 50_000):
        bench.feed(first[position : position + 50_000])
    bench.feed(SERVER.ping(b"between"))
    bench.feed(second[:-1])
    bench.feed(second[-1:])
    (((message,), size),) = sizes.told
    assert len(message) == 300_000
    assert size == len(first) + len(second)


def test_control_frames_and_beats_do_not_count() -> None:
    """What is no message is not held for the application, however much of it comes."""
    sizes = Sizes()
    bench = Bench(delivery=sizes, ping_mode="text")
    for _ in range(10):
        bench.feed(SERVER.ping(b"12345"), SERVER.pong(b"1"), SERVER.message("pong"))
    bench.feed(SERVER.message("a"), SERVER.ping(b"x"), SERVER.message("b"))
    assert [m for messages, _ in sizes.told for m in messages] == ["a", "b"]
    assert 6 <= sum(size for _, size in sizes.told) <= 6 + len(SERVER.ping(b"x"))


# The application does not keep up


def test_reading_pauses_while_the_delivery_is_full() -> None:
    """Above the high-water mark bytes stay where they are, until half is consumed."""
    inbox = Inbox(1024, lambda: None)
    bench = Bench(delivery=inbox, ping_interval=None, pong_timeout=None)
    bench.feed(*[SERVER.message(bytes(300)) for _ in range(4)])
    bench.wire.put(SERVER.message("later"))
    reads = len(bench.wire.sizes)
    bench.link.run(bench.clock.monotonic())
    bench.wire.waker.clear()
    assert bench.link.run(bench.clock.monotonic() + 5) is None
    assert bench.clock.monotonic() >= 5
    assert len(bench.wire.sizes) == reads
    assert inbox.size == 4
    taking = iter(inbox)
    next(taking), next(taking)
    bench.wire.waker.clear()
    bench.link.run(bench.clock.monotonic() + 1)
    assert inbox.size == 3
    inbox.close()
    assert list(taking)[-1] == "later"


def test_a_pause_ends_by_the_waker() -> None:
    """The consumer's call wakes the thread out of its wait, which then reads on."""
    bench: Bench
    inbox = Inbox(1024, lambda: bench.wire.waker.wake())
    bench = Bench(delivery=inbox, ping_interval=None, pong_timeout=None)
    bench.feed(SERVER.message(bytes(2000)))
    bench.clock.call_at(7.0, lambda: next(iter(inbox)))
    bench.wire.chunks.append(SERVER.message("later"))
    bench.wire.waker.clear()
    assert bench.link.run() is None
    assert bench.clock.monotonic() == 7.0
    bench.run(0.001)
    assert inbox.size == 1


def paused(unread: bytes | None = None) -> tuple[Bench, Inbox]:
    inbox = Inbox(1024, lambda: None)
    bench = Bench(delivery=inbox)
    bench.feed(SERVER.message(bytes(2000)))
    assert inbox.is_full
    if unread is not None:
        bench.wire.chunks.append(unread)
    return bench, inbox


@pytest.mark.requirement("6.2")
def test_unread_bytes_speak_for_the_peer() -> None:
    """While bytes wait for a paused reading, no silence is a loss; then a full time-out starts."""
    bench, inbox = paused(unread=SERVER.pong(b""))
    assert bench.run(10_000) is None
    assert inbox.is_full
    next(iter(inbox))
    assert bench.run(44.9) is None
    end = bench.run(1)
    assert end is not None
    assert isinstance(end.error, HeartbeatTimeoutError)


@pytest.mark.requirement("6.2")
def test_silence_while_paused_is_a_loss() -> None:
    """With nothing unread a paused link that is silent is lost in time."""
    bench, _ = paused()
    end = bench.run(None)
    assert end is not None
    assert isinstance(end.error, HeartbeatTimeoutError)
    assert bench.clock.monotonic() == pytest.approx(45.0, abs=0.01)


def test_a_resumed_reading_gets_a_full_time_out() -> None:
    """The end of a pause counts as proof of life: what came meanwhile was not asked for."""
    bench, inbox = paused()
    bench.clock.advance(44)
    next(iter(inbox))
    assert bench.run(44.9) is None
    assert bench.run(0.2) is not None


def test_an_end_behind_unread_bytes_is_found() -> None:
    """Paused, and the stream has ended behind what is unread: that is read, and the loss told."""
    bench, inbox = paused(unread=SERVER.message("last"))
    bench.wire.ended = True
    end = bench.run(1)
    assert end is not None
    assert isinstance(end.error, ConnectionLostError)
    assert not end.clean
    inbox.close()
    assert list(inbox)[-1] == "last"


# Silence


@pytest.mark.requirement("6.2")
def test_silence_is_noticed_in_time() -> None:
    """Without a byte the link ends 45 s after the last one; the pings missed are counted."""
    bench = Bench()
    bench.clock.call_at(20.0, lambda: bench.wire.put(SERVER.message("last")))
    end = bench.run(None)
    assert end is not None
    assert isinstance(end.error, HeartbeatTimeoutError)
    assert "45.0 s" in end.error.message
    assert not end.clean
    assert bench.clock.monotonic() == 65.0
    assert len(bench.wire.written) == 2
    assert bench.metrics.health().packet_loss == 1.0


@pytest.mark.requirement("6.1")
def test_answered_pings_keep_it_alive() -> None:
    """A peer that answers stays connected; each round trip is a latency."""
    bench = Bench()
    send = bench.wire.send

    def answer(data: memoryview | bytes) -> int:
        taken = send(data)
        last = bench.wire.written[-1]
        assert isinstance(last, Ping)
        when = bench.clock.monotonic() + 0.125
        bench.clock.call_at(when, lambda: bench.wire.put(SERVER.pong(last.payload)))
        return taken

    bench.wire.send = answer  # type: ignore[method-assign]
    assert bench.run(3600) is None
    assert bench.link.heartbeat is not None
    stats = bench.link.heartbeat.get_stats()
    assert stats["pongs_received"] >= 118
    assert stats["missed_pongs"] == 0
    assert bench.metrics.health().latency == 0.125
    assert bench.metrics.health().packet_loss == 0.0


def test_skipped_pings_are_counted_once() -> None:
    """Pings that a later pong skips count as lost, once each."""
    bench = Bench(ping_interval=10.0, pong_timeout=1000.0)
    bench.run(35)
    last = bench.wire.written[-1]
    assert isinstance(last, Ping)
    bench.feed(SERVER.pong(last.payload))
    bench.feed(SERVER.pong(b"unasked"))
    assert bench.metrics.health().packet_loss == pytest.approx(2 / 3)


def test_without_a_heartbeat_silence_means_nothing() -> None:
    """With `ping_interval=None` an idle link lives for ever, and answers pongs to nobody."""
    bench = Bench(ping_interval=None, pong_timeout=None)
    assert bench.link.heartbeat is None
    assert bench.run(1e6) is None
    bench.feed(SERVER.pong(b"unasked"))
    bench.link._suspect()
    assert bench.run(1) is None
    bench.link.dispose()


def test_bytes_unread_at_the_verdict_prove_it_wrong() -> None:
    """What came while a callback held the thread is read before anything is decided."""
    bench: Bench
    bench = Bench(delivery=CallbackDelivery(lambda message: bench.clock.advance(50)))
    bench.clock.call_at(40.0, lambda: bench.wire.put(SERVER.pong(b"")))
    assert bench.feed(SERVER.message("slow")) is None
    assert bench.run(40) is None
    assert bench.wire.chunks == deque()


def test_a_slow_callback_and_a_silent_peer() -> None:
    """With nothing unread, and nothing read since, the loss is told when the callback is done."""
    bench: Bench
    bench = Bench(delivery=CallbackDelivery(lambda message: bench.clock.advance(50)))
    end = bench.feed(SERVER.message("slow"))
    assert end is not None
    assert isinstance(end.error, HeartbeatTimeoutError)


# The text mode


def test_text_beats_are_filtered_out() -> None:
    """In text mode "pong" counts, "ping" is answered, and neither is delivered."""
    bench = Bench(ping_mode="text")
    bench.run(30)
    assert bench.wire.written == ["ping"]
    bench.clock.advance(0.5)
    bench.feed(SERVER.message("pong"), SERVER.message("ping"), SERVER.message("pings"))
    assert bench.received == ["pings"]
    assert bench.wire.written == ["ping", "pong"]
    assert bench.link.heartbeat is not None
    assert bench.link.heartbeat.round_trip == pytest.approx(0.5)
    bench.feed(SERVER.message(b"ping"), SERVER.ping(b"x"))
    assert bench.received == ["pings", b"ping"]
    assert bench.wire.written == ["ping", "pong", Pong(b"x")]


def test_in_frame_mode_beats_are_messages() -> None:
    """Without text mode "ping" and "pong" are messages like any other."""
    bench = Bench()
    bench.feed(SERVER.message("ping"), SERVER.message("pong"))
    assert bench.received == ["ping", "pong"]
    assert bench.wire.written == []


# Probes


def test_a_probe_is_answered_by_its_pong() -> None:
    """A probe is a ping of its own; only the pong with its payload finishes it."""
    bench = Bench()
    probe = bench.link.probe()
    (ping,) = bench.wire.written
    assert isinstance(ping, Ping)
    bench.feed(SERVER.pong(b"other"))
    assert not probe.done.is_set()
    bench.feed(SERVER.pong(ping.payload))
    assert probe.done.is_set()
    assert probe.answered
    assert bench.link._liveness._probes == {}


def test_a_probe_in_text_mode() -> None:
    """In text mode any "pong" answers all probes."""
    bench = Bench(ping_mode="text")
    probes = [bench.link.probe(), bench.link.probe()]
    assert bench.wire.written == ["ping", "ping"]
    bench.feed(SERVER.message("pong"))
    assert [probe.answered for probe in probes] == [True, True]


def test_a_later_pong_answers_earlier_probes() -> None:
    """A peer may answer only the latest of several pings (RFC 6455, section 5.5.3)."""
    bench = Bench()
    probes = [bench.link.probe() for _ in range(3)]
    pings = [item.payload for item in bench.wire.written if isinstance(item, Ping)]
    bench.feed(SERVER.pong(pings[1]))
    assert [probe.answered for probe in probes] == [True, True, False]
    bench.feed(SERVER.pong(pings[0]), SERVER.pong(b"unasked"))
    assert not probes[2].done.is_set()
    bench.feed(SERVER.pong(pings[2]))
    assert probes[2].answered


def test_a_pong_of_the_heartbeat_answers_earlier_probes() -> None:
    """The latest ping may be the heartbeat's; a probe that is later than that is not answered."""
    bench = Bench()
    bench.run(29.0)
    early = bench.link.probe()
    bench.run(1.5)
    late = bench.link.probe()
    beat = [item for item in bench.wire.written if isinstance(item, Ping)][1]
    bench.feed(SERVER.pong(beat.payload))
    assert early.answered
    assert not late.done.is_set()


def test_a_flood_of_text_pings_is_answered_by_the_last() -> None:
    """While the peer does not read, one "pong" waits, whatever number of "ping" there was."""
    bench = Bench(ping_mode="text")
    bench.wire.room = 0
    bench.feed(*[SERVER.message("ping")] * 100)
    bench.wire.room = None
    bench.feed(SERVER.message("x"))
    assert 1 <= len(bench.wire.written) <= 2
    assert set(bench.wire.written) == {"pong"}


def test_a_probe_ends_with_the_link() -> None:
    """Who waits for an answer learns at once that there will be none, also who comes too late."""
    bench = Bench()
    early = bench.link.probe()
    bench.link.dispose()
    late = bench.link.probe()
    for probe in (early, late):
        assert probe.done.is_set()
        assert not probe.answered


# Challenges


@pytest.mark.requirement("1.8")
def test_an_unanswered_challenge_is_a_loss() -> None:
    """After a change of network a silent peer is lost within 2 s, not within a pong time-out."""
    bench = Bench()
    bench.clock.advance(10)
    bench.link.challenge()
    bench.link.challenge()
    assert [type(item) for item in bench.wire.written] == [Ping, Ping]
    end = bench.run(None)
    assert end is not None
    assert isinstance(end.error, HeartbeatTimeoutError)
    assert bench.clock.monotonic() == 12.0


@pytest.mark.parametrize("with_pong", [True, False])
def test_a_challenge_that_is_met(with_pong: bool) -> None:
    """Its pong, or any other byte, shows that the link has survived; the next one counts anew."""
    bench = Bench()
    for _ in range(2):
        bench.link.challenge()
        ping = bench.wire.written[-1]
        assert isinstance(ping, Ping)
        answer = SERVER.pong(ping.payload) if with_pong else SERVER.message("alive")
        when = bench.clock.monotonic() + 1.0
        bench.clock.call_at(when, lambda answer=answer: bench.wire.put(answer))
        assert bench.run(10) is None
    bench.link.challenge()
    assert bench.run(10) is not None


def test_a_byte_just_after_a_challenge_meets_it() -> None:
    """A byte that came after the challenge is a sign of life, however soon after, and for good."""
    bench = Bench()
    bench.clock.advance(10)
    bench.link.challenge()
    bench.clock.call_at(10.001, lambda: bench.wire.put(SERVER.message("alive")))
    assert bench.run(10) is None


def test_a_byte_just_before_a_challenge_does_not() -> None:
    """It may be the last one of a network that is gone."""
    bench = Bench()
    bench.clock.advance(10)
    bench.feed(SERVER.message("last"))
    bench.link.challenge()
    end = bench.run(None)
    assert end is not None
    assert isinstance(end.error, HeartbeatTimeoutError)
    assert bench.clock.monotonic() == pytest.approx(12.0, abs=0.01)


def test_a_challenge_while_bytes_wait_unread() -> None:
    """A paused reading keeps the link: the answer may lie behind what is unread."""
    bench, _ = paused(unread=SERVER.message("unread"))
    bench.link.challenge()
    assert bench.run(10) is None


def test_a_challenge_dies_with_its_link() -> None:
    """No timer of a link that is over wakes the tunnel."""
    bench = Bench()
    bench.link.challenge()
    bench.link.dispose()
    assert bench.clock._timers == []


def test_without_a_heartbeat_a_challenge_is_only_a_ping() -> None:
    """Who has switched the watch off has switched it off."""
    bench = Bench(ping_interval=None, pong_timeout=None)
    bench.link.challenge()
    assert len(bench.wire.written) == 1
    assert bench.run(100) is None


# Closing


@pytest.mark.requirement("6.7", "8.3")
def test_our_close_is_answered() -> None:
    """`close` sends 1000; with the peer's answer the end is clean and no error."""
    bench = Bench()
    bench.link.close()
    bench.link.close(1001)
    assert bench.wire.written == [Close(1000)]
    bench.feed(SERVER.close(1000))
    bench.wire.ended = True
    assert bench.run(1) == LinkEnd(None, clean=True)
    assert bench.wire.written == [Close(1000)]


def test_the_peer_may_take_a_second_to_hang_up() -> None:
    """After both close frames the peer gets 1 s to end the stream (RFC 6455, section 7.1.1)."""
    bench = Bench()
    bench.link.close()
    assert bench.feed(SERVER.close(1000)) is None
    assert bench.run(0.5) is None
    assert bench.run(None) == LinkEnd(None, clean=True)
    assert bench.clock.monotonic() == pytest.approx(1.0, abs=0.01)


def test_no_answer_to_our_close() -> None:
    """A peer that just hangs up has not closed cleanly; until then the deadline ends `run`."""
    bench = Bench()
    bench.link.close()
    assert bench.run(10) is None
    bench.wire.ended = True
    end = bench.run(1)
    assert end is not None
    assert not end.clean


@pytest.mark.requirement("6.7")
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1000, ConnectionClosedByPeerError),
        (1001, ConnectionClosedByPeerError),
        (1008, ConnectionRejectedError),
        (1009, MessageTooBigError),
        (4001, ConnectionRejectedError),
        (4999, ConnectionClosedByPeerError),
    ],
)
def test_the_peers_close_is_echoed(code: int, error: type[Exception]) -> None:
    """The peer's close frame is answered with its code, which says what the end means."""
    bench = Bench(fatal_close_codes={4001})
    bench.feed(SERVER.message("before"), SERVER.close(code, "why"), SERVER.message("after"))
    assert bench.received == ["before"]
    assert bench.wire.written == [Close(code)]
    bench.wire.ended = True
    end = bench.run(1)
    assert end is not None
    assert end.clean
    assert type(end.error) is error
    assert "why" in str(end.error)


def test_a_close_without_a_code() -> None:
    """1005 is not sent: a close frame without a code is answered by one without a code."""
    bench = Bench()
    bench.feed(SERVER.close(None))
    assert bench.wire.written == [Close(1005)]
    end = bench.run(None)
    assert end is not None
    assert isinstance(end.error, ConnectionClosedByPeerError)
    assert end.error.close_code == 1005


def test_nothing_follows_a_close_frame() -> None:
    """What is sent after the close frame stays in the queue (RFC 6455, section 5.5.1)."""
    bench = Bench()
    bench.feed(SERVER.close(1001))
    assert not bench.link.writer.write_directly("late", RequestPriority.NORMAL, None)
    bench.queue.enqueue("late")
    bench.link.writer.flush(may_wait=False)
    bench.link.ping(b"late")
    bench.run(None)
    bench.link.dispose()
    assert bench.wire.written == [Close(1001)]
    assert bench.queue.snapshot() == ("late",)


@pytest.mark.parametrize(
    ("bad", "code", "error"),
    [
        (b"\x83\x00", 1002, ProtocolError),
        (b"\x81\x02\xff\xff", 1007, ProtocolError),
        (b"\x82\x7f\x00\x00\x00\x01\x00\x00\x00\x00", 1009, MessageTooBigError),
        (b"\x81\x81\x00\x00\x00\x00x", 1002, ProtocolError),
    ],
)
def test_a_violation_is_answered_with_its_code(
    bad: bytes, code: int, error: type[Exception]
) -> None:
    """What was valid is delivered, the violation told to the peer, who gets time to hang up."""
    bench = Bench()
    assert bench.feed(SERVER.message("valid"), bad) is None
    assert bench.received == ["valid"]
    (close,) = bench.wire.written
    assert isinstance(close, Close)
    assert close.code == code
    end = bench.run(None)
    assert end is not None
    assert type(end.error) is error
    assert not end.clean
    assert bench.clock.monotonic() == pytest.approx(1.0, abs=0.01)
    if code == 1009:
        assert isinstance(end.error, MessageTooBigError)
        assert end.error.limit == CONFIG.max_message_size


def test_a_flood_after_a_violation_is_no_life_insurance() -> None:
    """A peer that goes on sending without end does not keep the link: after 1 s it is over."""
    bench = Bench()

    class Flood(deque[bytes]):
        def popleft(self) -> bytes:
            bench.clock.advance(0.01)
            return b"\x83\x00"

        def __bool__(self) -> bool:
            return True

    bench.wire.chunks = Flood()
    bench.wire.waker.clear()
    end = bench.link.run()
    assert end is not None
    assert isinstance(end.error, ProtocolError)
    assert bench.clock.monotonic() == pytest.approx(1.0, abs=0.05)


def test_a_flood_does_not_outlast_the_deadline() -> None:
    """`run` returns at its deadline also while bytes are always there."""
    bench = Bench()

    class Flood(deque[bytes]):
        def popleft(self) -> bytes:
            bench.clock.advance(0.01)
            return SERVER.message("flood")

        def __bool__(self) -> bool:
            return True

    bench.wire.chunks = Flood()
    assert bench.link.run(3.0) is None
    assert bench.clock.monotonic() == pytest.approx(3.0, abs=0.05)


def test_silence_after_the_end_is_decided_is_no_news() -> None:
    """While the peer is given time to hang up, a late verdict of the heartbeat is dropped."""
    bench = Bench()
    bench.feed(SERVER.close(1001))
    bench.link._suspect()
    end = bench.run(None)
    assert end is not None
    assert isinstance(end.error, ConnectionClosedByPeerError)


# The stream breaks


def test_the_end_of_the_stream() -> None:
    """An end without a close frame is a loss (1006)."""
    bench = Bench()
    bench.wire.ended = True
    end = bench.run(1)
    assert end is not None
    assert isinstance(end.error, ConnectionLostError)
    assert not end.clean


def test_a_failing_read() -> None:
    """What the read raised is named in the error."""
    bench = Bench()
    bench.wire.chunks.append(ConnectionResetError(104, "Connection reset by peer"))
    end = bench.run(1)
    assert end is not None
    assert isinstance(end.error, ConnectionLostError)
    assert "reset" in end.error.message.lower()


def test_a_read_error_of_another_kind_is_a_loss_too() -> None:
    """Whatever ends a link that was up, it is a lost connection, with its cause."""
    bench = Bench()
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    bench.wire.chunks.append(cause)
    end = bench.run(1)
    assert end is not None
    assert isinstance(end.error, ConnectionLostError)
    assert not isinstance(end.error, CertificateError)
    assert end.error.__cause__ is cause
    assert end.error.is_retryable


def test_a_reset_after_the_close_handshake_does_not_matter() -> None:
    """Once the end is decided, how the stream ends changes nothing."""
    bench = Bench()
    bench.link.close()
    bench.feed(SERVER.close(1000))
    bench.wire.chunks.append(ConnectionResetError())
    assert bench.run(1) == LinkEnd(None, clean=True)


def test_a_failing_write_ends_the_link() -> None:
    """After a failed write what the peer had sent is still read; then the write's error is told."""
    bench = Bench()
    bench.wire.chunks.append(SERVER.message("last"))
    bench.wire.write_error = BrokenPipeError(32, "Broken pipe")
    bench.link.send("greeting")
    assert bench.wire.aborted
    assert bench.wire.waker.event.is_set()
    end = bench.run(1)
    assert bench.received == ["last"]
    assert end is not None
    assert isinstance(end.error, ConnectionLostError)
    assert isinstance(end.error.__cause__, BrokenPipeError)


def test_what_the_peer_said_counts_more_than_a_failed_write() -> None:
    """A close frame that waits behind a failed write says why the link has ended."""
    bench = Bench()
    bench.wire.write_error = BrokenPipeError(32, "Broken pipe")
    bench.wire.chunks.append(SERVER.close(1008, "go away"))
    bench.link.ping(b"")
    end = bench.run(1)
    assert end is not None
    assert isinstance(end.error, ConnectionRejectedError)


# Writing


def test_a_stalled_write_goes_on_when_there_is_room() -> None:
    """What the kernel would not take is written by the reading thread as soon as it can be."""
    bench = Bench()
    bench.wire.room = 3
    bench.link.send("abc")
    assert bench.wire.written == []
    assert bench.link.writer.is_stalled
    assert bench.run(1) is None
    bench.wire.room = None
    bench.run(0.001)
    assert bench.wire.written == ["abc"]


def test_room_is_used_after_each_chunk() -> None:
    """A peer that sends all the time does not keep us from writing."""
    bench = Bench()
    bench.wire.room = 0
    bench.link.send("abc")
    bench.wire.room = None
    waits: list[list[Incoming]] = []
    bench.wire.waker.clear()
    bench.wire.chunks.append(SERVER.message("x"))
    bench.wire.on_wait = lambda: waits.append(list(bench.wire.written))
    bench.link.run(bench.clock.monotonic() + 0.001)
    assert waits[0] == ["abc"]


def test_the_queue_waits_for_the_greeting() -> None:
    """Before `open_queue` only the link's own messages go out; then what is queued, in order."""
    clock = FakeClock()
    wire = Wire(clock)
    queue = RequestQueue(clock=clock)
    queue.enqueue("queued")
    metrics = MetricsCollector(clock=clock)
    link = Link(
        wire,
        queue=queue,
        delivery=Sizes(),
        config=CONFIG,
        metrics=metrics,
        clock=clock,
        waker=wire.waker,
        on_activity=lambda: None,
    )
    link.watch(CONFIG, None)
    link.send("log in")
    assert wire.written == ["log in"]
    link.open_queue()
    assert wire.written == ["log in", "queued"]
    assert queue.size == 0
    assert metrics.snapshot().messages_sent == 1


def test_disposing_gives_everything_back() -> None:
    """The watch ends, the socket is closed, and what was not written is in the queue again."""
    bench = Bench()
    bench.wire.room = 3
    bench.queue.enqueue("first")
    bench.queue.enqueue("second")
    bench.link.writer.flush(may_wait=False)
    bench.link.dispose()
    assert bench.wire.calls == ["abort", "close"]
    assert bench.queue.snapshot() == ("first", "second")
    assert bench.link.heartbeat is not None
    assert bench.link.heartbeat.get_stats()["status"] == "stopped"
    assert bench.clock._timers == []
    bench.link.dispose()


def test_abort_wakes_the_reader() -> None:
    """`abort` ends the stream; the reading thread finds its end."""
    bench = Bench()
    bench.link.abort()
    assert bench.wire.aborted
    end = bench.run(1)
    assert end is not None
    assert isinstance(end.error, ConnectionLostError)


def test_run_returns_when_woken() -> None:
    """A set waker ends `run` before it does anything."""
    bench = Bench()
    bench.wire.chunks.append(SERVER.message("unread"))
    bench.wire.waker.wake()
    assert bench.link.run() is None
    assert bench.received == []


# In a session


class SessionBench(Bench):
    """A link with a session, and the session's other end."""

    def __init__(self, delivery: Delivery | None = None, **changes: object) -> None:
        self.clock = FakeClock()
        self.wire = Wire(self.clock)
        self.received: list[Message] = []
        self.queue = RequestQueue(clock=self.clock)
        self.metrics = MetricsCollector(clock=self.clock)
        self.activity = 0
        self.delivery = delivery or CallbackDelivery(self.received.append)
        self.config = CONFIG.replace(**changes)
        self.channel = SessionChannel(
            self.queue, self.metrics, on_answer=lambda _: None, on_settled=self.wire.waker.wake
        )
        limits = Limits(40, 2**20, 2**20)
        self.session = Session(limits, keep=(1000, 2**20), accepts=(FrameKind.RESPONSE,))
        self.peer = Session(limits, keep=(1000, 2**20))
        self.channel.carry(self.session, self.delivery.delivered)
        self.backlog: list[bytes] = []
        self.link = self.new_link()
        self.link.open_queue()

    def new_link(self, *backlog: bytes) -> Link:
        """Make a link whose handshake has succeeded, with what came behind the answer."""
        handshake = SessionHandshake(
            self.wire, self.clock, self.clock.monotonic() + 1.0, lambda: False, self.config
        )
        greeting = self.session.greeting()
        if isinstance(greeting, Open):
            answer: Answer = self.peer.open(greeting, b"i" * 16, Secret("5e" * 32), 600)
        else:
            answer = self.peer.resume(greeting)
        self.wire.put(SERVER.message(encode(answer)) + b"".join(map(SERVER.message, backlog)))
        self.session.answered(handshake.ask(greeting))
        self.wire.written.clear()
        link = Link(
            self.wire,
            queue=self.queue,
            delivery=self.delivery,
            config=self.config,
            metrics=self.metrics,
            clock=self.clock,
            waker=self.wire.waker,
            on_activity=self._note,
            channel=self.channel,
            handshake=handshake,
        )
        link.watch(self.config, None)
        return link

    def arrive(self, *messages: Message) -> LinkEnd | None:
        """The peer sends."""
        return self.feed(*map(SERVER.message, self.peer.send(messages)))

    def hear(self) -> list[Message]:
        """What the peer gets; control frames and heartbeats aside."""
        frames = [item for item in self.wire.written if isinstance(item, bytes)]
        self.wire.written.clear()
        items = self.peer.receive(frames)
        assert self.peer.violation is None
        return list(items)


def test_a_session_gives_messages_their_numbers() -> None:
    """What goes out is a frame of the session, what comes in is unwrapped."""
    bench = SessionBench()
    bench.queue.enqueue_many(["a", b"b"])
    bench.link.writer.flush(may_wait=True)
    assert bench.link.writer.write_directly("c", RequestPriority.NORMAL, None)
    assert bench.hear() == ["a", b"b", "c"]
    assert bench.queue.size == 0
    assert bench.arrive("x", b"y") is None
    assert bench.received == ["x", b"y"]
    snapshot = bench.metrics.snapshot()
    assert (snapshot.messages_sent, snapshot.messages_received) == (3, 2)


def test_what_came_with_the_handshake_is_the_first() -> None:
    """Frames behind the answer are taken up before anything else is read."""
    bench = SessionBench()
    bench.link.dispose()
    bench.session.detach()
    bench.wire = Wire(bench.clock)
    frames = bench.peer.send(["a", "b"])
    link = bench.new_link(*frames)
    bench.link = link
    bench.wire.put(*map(SERVER.message, bench.peer.send(["c"])))
    assert bench.received == []
    bench.link.open_queue()
    assert bench.run() is None
    assert bench.received == ["a", "b", "c"]


def test_what_is_taken_is_acknowledged() -> None:
    """Before long, or at once when it is much."""
    bench = SessionBench()
    bench.arrive("a")
    assert bench.peer.unacknowledged == 1
    assert bench.run(1.0) is None
    bench.hear()
    assert bench.peer.unacknowledged == 0
    bench.arrive(*["x"] * 10)
    bench.hear()
    assert bench.peer.unacknowledged == 0


def test_reading_is_not_paused_in_a_session() -> None:
    """Its window bounds what the peer may send; acknowledgements must be read even so."""
    inbox = Inbox(1024, lambda: None)
    bench = SessionBench(inbox)
    bench.arrive(*["x" * 100] * 30)
    assert inbox.size == 30
    bench.queue.enqueue("a")
    bench.link.writer.flush(may_wait=False)
    bench.hear()
    bench.peer.take(1)
    bench.feed(SERVER.message(bench.peer.acknowledgement()))
    assert bench.channel.unacknowledged == 0


def test_a_window_that_opens_is_filled_by_the_reading_thread() -> None:
    """Nobody else may be there to write what waits."""
    bench = SessionBench()
    bench.queue.enqueue_many([f"{number}" for number in range(50)])
    bench.link.writer.flush(may_wait=True)
    assert len(bench.hear()) == 40
    bench.peer.take(40)
    bench.feed(SERVER.message(bench.peer.acknowledgement()))
    assert len(bench.hear()) == 10


@pytest.mark.parametrize(
    "frame", [SERVER.message(b"\x63\0\0\0\0"), SERVER.message("hello"), SERVER.message(b"")]
)
def test_a_peer_that_breaks_the_sessions_protocol(frame: bytes) -> None:
    """It hears why, and nothing more is taken; its own close frame does not make it right."""
    bench = SessionBench()
    end = bench.feed(
        *map(SERVER.message, bench.peer.send(["a"])),
        frame,
        SERVER.message(b"\x01\0\0\0\x02late"),
    )
    assert end is None  # it gets a moment to close the connection
    assert bench.feed(SERVER.message(b"\x01\0\0\0\x02later"), SERVER.close(1002)) is None
    bench.wire.ended = True
    end = bench.run(1.0)
    assert end is not None
    assert isinstance(end.error, ProtocolError)
    assert bench.received == ["a"]
    assert [item.code for item in bench.wire.written if isinstance(item, Close)] == [1002]


def test_a_peer_that_ends_the_session() -> None:
    """The link ends with it, as a loss."""
    bench = SessionBench()
    end = bench.feed(SERVER.message(encode(End("token=s3cret is over"))), SERVER.close(1000))
    assert end is None
    end = bench.run(2.0)
    assert end is not None
    assert isinstance(end.error, ConnectionLostError)
    assert "the peer ended the session" in str(end.error)
    assert "s3cret" not in str(end.error)
    assert [item.code for item in bench.wire.written if isinstance(item, Close)] == [1000]


def test_our_end_first() -> None:
    """A peer that says the same as we did is in agreement."""
    bench = SessionBench()
    bench.arrive("a")
    frame = bench.channel.end()
    assert frame is not None
    bench.link.end_session(frame)
    bench.hear()
    assert bench.peer.unacknowledged == 0  # told before the end
    assert bench.peer.ended_by_peer == ""
    assert bench.feed(SERVER.message(encode(End("you too")))) is None
    assert bench.run(10.0) is None


def test_heartbeats_as_texts_are_no_messages_of_the_session() -> None:
    """They have no number, and are not kept."""
    bench = SessionBench(ping_mode="text", ping_interval=5.0, pong_timeout=7.5)
    bench.run(5.5)
    assert bench.wire.written == ["ping"]
    bench.feed(SERVER.message("pong"), SERVER.message("ping"))
    assert bench.wire.written == ["ping", "pong"]
    assert bench.channel.unacknowledged == 0
    assert bench.link.heartbeat is not None
    assert bench.link.heartbeat.get_stats()["pongs_received"] == 1


def test_first_words_in_a_session_are_kept() -> None:
    """They wait for the queue to be opened, and go before it."""
    bench = SessionBench()
    link = bench.link
    link.dispose()
    bench.session.detach()
    bench.wire = Wire(bench.clock)
    bench.queue.enqueue("queued")
    bench.link = bench.new_link()
    bench.link.send_first("hello")
    assert bench.wire.written == []
    bench.link.open_queue()
    assert bench.hear() == ["hello", "queued"]
    assert bench.channel.unacknowledged == 2


def test_first_words_for_a_lost_session_are_not_said_in_the_next() -> None:
    """A greeting that takes long may outlive its link, and then its session, too."""
    bench = SessionBench()
    link = bench.link
    link.dispose()
    bench.session.detach()
    link.send_first("still the same session")
    assert len(bench.channel._first) == 1
    bench.channel.lose("gone")
    link.send_first("too late")
    bench.channel.carry(None)
    link.send_first("too late")
    assert list(bench.channel._first) == []


def test_asking_is_for_sessions() -> None:
    """A plain peer would take the question for a message."""
    bench = SessionBench()
    bench.link.ask()
    assert bench.wire.written == [ASK_FRAME]
    plain = Bench()
    plain.link.ask()
    assert plain.wire.written == []


def test_a_link_that_is_over_acknowledges_nothing() -> None:
    """What a late timer would say is said on the next link."""
    bench = SessionBench()
    bench.arrive("a")
    bench.link.dispose()
    bench.clock.advance(10.0)
    assert bench.session.has_untold


def test_a_queue_on_disk_sees_every_message(tmp_path: Path) -> None:
    """Nothing is written past it."""
    with RequestQueue(path=tmp_path / "queue") as queue:
        bench = Bench()
        link = Link(
            bench.wire,
            queue=queue,
            delivery=CallbackDelivery(bench.received.append),
            config=CONFIG,
            metrics=bench.metrics,
            clock=bench.clock,
            waker=bench.wire.waker,
            on_activity=lambda: None,
        )
        link.open_queue()
        normal = RequestPriority.NORMAL
        assert not link.writer.write_directly("a", normal, None)
        link.dispose()
