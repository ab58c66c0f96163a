from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import trustme

from tests.ctrl_c import interrupted_at
from tunnel.frames import Close, FrameDecoder, FrameEncoder, Incoming, Ping
from tunnel.metrics_collector import MetricsCollector
from tunnel.outbox import FRAGMENT_SIZE, Message, Outbox
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.secrets import Secret
from tunnel.session import Session
from tunnel.session_channel import SessionChannel
from tunnel.session_frames import FrameKind, Limits, Open, Parcel
from tunnel.stream import Readiness, Stream
from tunnel.testing import FakeClock
from tunnel.waker import Waker
from tunnel.writer import Writer

LONG = 20.0
"""Seconds that something may take which is certain to happen."""

BUDGET = 1024 * 1024
NORMAL, HIGH = RequestPriority.NORMAL, RequestPriority.HIGH
ENCODER = FrameEncoder()

pytestmark = pytest.mark.usefixtures("no_leaks")


class FakeTransport:
    """A kernel that does what the script says, and a peer that decodes what it took.

    Each step is a number of bytes to take, an error to raise, or something to call before the next
    step. Behind the script it takes everything. `rooms` says how waits for room end.
    """

    def __init__(self) -> None:
        self.script: list[int | BaseException | Callable[[], object]] = []
        self.rooms: list[bool | BaseException] = []
        self.waits: list[float | None] = []
        self.calls: list[bytes] = []
        self.aborted = False
        self.on_abort: Callable[[], object] = lambda: None
        self._decoder = FrameDecoder(expect_masked=True, max_message_size=2**25)
        self.received: list[Incoming] = []

    def send(self, data: memoryview | bytes) -> int:
        assert len(data)
        self.calls.append(bytes(data))
        while self.script:
            step = self.script.pop(0)
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, int):
                return self._take(bytes(data[:step]))
            step()
        return self._take(bytes(data))

    def _take(self, data: bytes) -> int:
        assert not self.aborted
        self.received += self._decoder.feed(data)
        assert self._decoder.violation is None
        return len(data)

    def wait_writable(self, timeout: float | None) -> bool:
        self.waits.append(timeout)
        room = self.rooms.pop(0)
        if isinstance(room, BaseException):
            raise room
        return room

    def abort(self) -> None:
        self.aborted = True
        self.on_abort()


class Desk:
    """A writer and all that is around it."""

    def __init__(self, transport: Any, queue: RequestQueue | None = None, **options: Any) -> None:
        self.transport = transport
        self.queue = RequestQueue(100_000) if queue is None else queue
        self.sent = 0
        self.stalls = 0
        self.drains = 0
        self.errors: list[Exception] = []
        self.outbox = Outbox(self.queue, ENCODER, self._count)
        self.clock = FakeClock()
        self.writer = Writer(
            transport,
            self.outbox,
            ENCODER,
            on_stalled=self._stall,
            on_failed=self.errors.append,
            on_sent=self._count,
            clock=self.clock,
            **options,
        )

    def _count(self, number: int) -> None:
        self.sent += number

    def _stall(self) -> None:
        self.stalls += 1

    def drained(self) -> None:
        self.drains += 1

    def direct(self, message: Message, **options: Any) -> bool:
        """As the sender does it."""
        options.setdefault("may_wait", True)
        is_taken = self.writer.write_directly(message, NORMAL, None)
        if is_taken and self.writer.is_stalled:
            self.writer.flush(**options)
        return is_taken

    def send(self, message: Message, *, may_wait: bool = True) -> None:
        """As `tunnel.sender.Sender` does it."""
        if not self.direct(message, may_wait=may_wait):
            self.queue.enqueue(message)
            self.writer.flush(may_wait=may_wait)


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def desk(transport: FakeTransport) -> Desk:
    desk = Desk(transport)
    desk.writer.open()
    return desk


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


# One message past the queue


def test_a_message_is_written_directly_on_an_idle_link(
    desk: Desk, transport: FakeTransport
) -> None:
    """The common case: one frame, one call, nothing in the queue."""
    assert desk.direct("hello")
    assert desk.direct(b"bytes")
    assert transport.received == ["hello", b"bytes"]
    assert len(transport.calls) == 2
    assert (desk.sent, desk.queue.size) == (2, 0)
    assert not desk.writer.is_stalled


def test_before_the_writer_is_open_messages_belong_into_the_queue(
    transport: FakeTransport,
) -> None:
    """Until the greeting is out, nothing is written directly or from the queue."""
    desk = Desk(transport)
    desk.queue.enqueue("queued")
    assert not desk.direct("direct")
    desk.writer.flush(may_wait=True)
    assert transport.calls == []
    desk.writer.write_own(ENCODER.message("greeting"))
    desk.writer.open()
    desk.writer.flush(may_wait=True)
    assert transport.received == ["greeting", "queued"]


def test_no_message_overtakes_the_queue(desk: Desk, transport: FakeTransport) -> None:
    """While something is queued, a message is refused, and so goes behind it."""
    desk.queue.enqueue("first")
    assert not desk.direct("second")
    assert transport.calls == []


def test_a_big_message_goes_through_the_queue(desk: Desk, transport: FakeTransport) -> None:
    """What needs fragments is not written directly."""
    assert desk.direct(bytes(FRAGMENT_SIZE))
    assert not desk.direct(bytes(FRAGMENT_SIZE + 1))


def test_the_rest_of_a_message_goes_out_when_there_is_room(
    desk: Desk, transport: FakeTransport
) -> None:
    """A write that takes a part is continued with the rest, after a wait for the kernel."""
    transport.script = [3, 0, 4]
    transport.rooms = [True]
    assert desk.direct("hello", timeout=7.0)
    assert transport.received == ["hello"]
    assert transport.waits == [7.0]
    frame = transport.calls[0]
    assert transport.calls == [frame, frame[3:], frame[3:], frame[7:]]
    assert (desk.sent, desk.queue.size) == (1, 0)


def test_who_must_not_wait_leaves_the_rest_to_the_reader(
    desk: Desk, transport: FakeTransport
) -> None:
    """What the kernel does not take stays; the role is free and the reading thread is told."""
    transport.script = [3, 0]
    assert desk.direct("hello", may_wait=False)
    assert transport.waits == []
    assert desk.stalls == 1
    assert desk.writer.is_stalled
    assert (desk.sent, desk.queue.size) == (0, 1)
    assert not desk.direct("second")
    desk.writer.flush(may_wait=False)
    assert transport.received == ["hello"]
    assert not desk.writer.is_stalled


def test_after_a_would_block_the_very_same_bytes_go_first(
    desk: Desk, transport: FakeTransport
) -> None:
    """Not even a ping comes before bytes that were offered already (OpenSSL: BAD_LENGTH)."""
    transport.script = [0] * 5
    assert desk.direct("hello", may_wait=False)
    desk.writer.write_control(ENCODER.ping(b"p"))
    desk.writer.write_own(ENCODER.message("own"))
    desk.writer.flush(may_wait=False)
    assert set(transport.calls) == {transport.calls[0]}
    desk.writer.flush(may_wait=False)
    assert set(transport.calls[:-1]) == {transport.calls[0]}
    assert transport.received == ["hello", Ping(b"p"), "own"]


def test_a_peer_that_trickles_does_not_stretch_a_timeout(
    desk: Desk, transport: FakeTransport
) -> None:
    """The time-out is for all waits of a write together, however often the kernel takes a byte."""
    transport.script = [step for _ in range(4) for step in (0, lambda: desk.clock.advance(0.25), 1)]
    transport.rooms = [True] * 4
    assert desk.direct("hello", timeout=0.5)
    assert transport.waits == [0.25]
    assert desk.stalls == 1
    assert desk.writer.is_stalled


def test_a_sender_whose_time_is_up_leaves_the_rest_to_the_reader(
    desk: Desk, transport: FakeTransport
) -> None:
    """A wait for the kernel that ends without room gives the role up; nothing is lost."""
    transport.script = [0, 0, 2, 0]
    transport.rooms = [True, False]
    assert desk.direct("hello", timeout=0.5)
    assert transport.waits == [0.5, 0.5]
    assert desk.stalls == 1
    assert desk.writer.is_stalled
    desk.writer.flush(may_wait=False)
    assert transport.received == ["hello"]


def test_a_text_that_cannot_be_encoded_harms_nothing(desk: Desk, transport: FakeTransport) -> None:
    """A lone surrogate is refused with a ValueError, and the writer is as before."""
    with pytest.raises(ValueError, match="lone surrogate"):
        desk.direct("\ud800")
    assert desk.errors == []
    assert desk.direct("fine")
    assert transport.received == ["fine"]


def test_what_is_queued_between_the_look_and_the_role_is_written(
    desk: Desk, transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender that finds the role taken relies on its owner, also if that cannot use it."""
    is_idle = Outbox.is_idle.fget
    assert is_idle is not None
    quicker = iter(["quicker"])

    def be_overtaken(outbox: Outbox) -> bool:
        for message in quicker:
            desk.queue.enqueue(message)
            in_thread(lambda: desk.writer.flush(may_wait=True)).join(LONG)
            assert transport.received == []
        return is_idle(outbox)

    monkeypatch.setattr(Outbox, "is_idle", property(be_overtaken))
    desk.send("direct")
    assert transport.received == ["quicker", "direct"]
    assert not desk.writer.is_stalled


def test_the_role_may_be_lost_between_the_look_and_the_claim(
    desk: Desk, transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is stopped in that moment takes nothing more."""

    def stop_then_encode(message: Message) -> bytes:
        desk.writer.stop()
        return b""

    monkeypatch.setattr(FrameEncoder, "message", lambda encoder, data: stop_then_encode(data))
    assert not desk.direct("late")
    assert transport.calls == []


# Control frames and the connection's own messages


def test_control_frames_go_before_what_is_not_begun(desk: Desk, transport: FakeTransport) -> None:
    """A ping goes before the queue, also before the connection's own messages."""
    desk.queue.enqueue("queued")
    transport.script = [lambda: desk.outbox.add_own(ENCODER.message("own")), 0, 0]
    desk.writer.write_control(ENCODER.ping(b"1"))
    desk.writer.write_control(ENCODER.ping(b"2"))
    desk.writer.flush(may_wait=False)
    assert transport.received == [Ping(b"1"), "queued", Ping(b"2"), "own"]


def test_control_frames_never_wait(desk: Desk, transport: FakeTransport) -> None:
    """A ping that the kernel does not take is left to the reading thread."""
    transport.script = [0]
    desk.writer.write_control(ENCODER.ping())
    assert transport.waits == []
    assert desk.writer.is_stalled


@pytest.mark.requirement("6.7")
def test_messages_behind_a_close_frame_stay_in_the_queue(
    desk: Desk, transport: FakeTransport
) -> None:
    """Once the close frame is out nothing is written, and nothing counts as sent."""
    desk.writer.write_control(ENCODER.close(1001))
    desk.send("late")
    desk.writer.write_control(ENCODER.ping())
    assert transport.received == [Close(1001, "")]
    assert not desk.writer.is_stalled
    desk.writer.stop()
    assert desk.queue.snapshot() == ("late",)
    assert desk.sent == 0


# The end


@pytest.mark.parametrize("error", [BrokenPipeError("gone"), ssl.SSLError("bad length")])
def test_a_failed_direct_write_ends_the_connection_and_keeps_the_message(
    desk: Desk, transport: FakeTransport, error: OSError
) -> None:
    """The message counts as taken, and is the first to go out on the next connection."""
    transport.script = [error]
    assert desk.direct("hello")
    assert transport.aborted
    assert desk.errors == [error]
    assert not desk.direct("more")
    desk.queue.enqueue("more", HIGH)
    desk.writer.flush(may_wait=True)
    assert len(transport.calls) == 1
    desk.writer.stop()
    assert desk.queue.snapshot() == ("hello", "more")
    assert desk.sent == 0


def test_a_failed_write_from_the_queue_counts_what_was_written_whole(
    desk: Desk, transport: FakeTransport
) -> None:
    """What the kernel took whole is sent; the message at the cut and those behind it are not."""
    desk.queue.enqueue_many([b"1", b"2", b"3"])
    transport.script = [7 + 3, OSError("gone")]
    desk.writer.flush(may_wait=True)
    desk.writer.stop()
    assert desk.sent == 1
    assert desk.queue.snapshot() == (b"2", b"3")


def test_a_failed_wait_for_room_ends_the_connection(desk: Desk, transport: FakeTransport) -> None:
    """An error of the wait is one of the connection."""
    error = OSError("gone")
    transport.script = [0]
    transport.rooms = [error]
    desk.queue.enqueue("hello")
    desk.writer.flush(may_wait=True)
    assert desk.errors == [error]
    assert not desk.writer.is_stalled


def test_a_connection_is_dead_and_ended_before_the_role_is_given_up(
    desk: Desk, transport: FakeTransport
) -> None:
    """No byte can follow half a frame, and nobody closes the socket before it was aborted."""
    stopped = threading.Event()
    seen: list[bool] = []

    def stop() -> None:
        desk.writer.stop()
        stopped.set()

    def look() -> None:
        stopping.append(in_thread(stop))
        seen.append(stopped.wait(0.1) or desk.writer.is_stalled or desk.direct("x"))

    stopping: list[threading.Thread] = []
    transport.script = [2, OSError("gone")]
    transport.on_abort = look
    desk.direct("hello")
    assert seen == [False]
    assert stopped.wait(LONG)
    stopping[0].join(LONG)
    assert len(transport.calls) == 2


def test_nothing_is_written_after_stop(desk: Desk, transport: FakeTransport) -> None:
    """A stopped writer takes no message, no control frame and no role."""
    desk.writer.stop()
    assert not desk.direct("a")
    desk.queue.enqueue("b")
    desk.writer.flush(may_wait=True)
    desk.writer.write_control(ENCODER.ping())
    desk.writer.write_own(ENCODER.message("own"))
    assert transport.calls == []
    assert not desk.writer.is_stalled
    assert desk.queue.snapshot() == ("b",)


def test_stop_waits_for_the_writer_and_settles_after_it(
    desk: Desk, transport: FakeTransport
) -> None:
    """While a thread has the role its messages are not touched; then they go back."""
    stopped = threading.Event()

    def stop() -> None:
        desk.writer.stop()
        stopped.set()

    def try_to_stop() -> None:
        stopping.append(in_thread(stop))
        assert not stopped.wait(0.05)

    stopping: list[threading.Thread] = []
    transport.script = [try_to_stop, 2, ConnectionResetError("aborted")]
    desk.queue.enqueue("hello")
    desk.writer.flush(may_wait=True)
    assert stopped.wait(LONG)
    stopping[0].join(LONG)
    assert desk.queue.snapshot() == ("hello",)
    assert not desk.queue.is_empty


@pytest.mark.parametrize("place", ["direct", "drain", "room"])
def test_an_interrupted_write_ends_the_connection(
    desk: Desk, transport: FakeTransport, place: str
) -> None:
    """After Ctrl-C in a write nobody knows what went out, so nothing may follow; it is raised."""
    if place == "room":
        transport.script, transport.rooms = [0], [KeyboardInterrupt()]
    else:
        transport.script = [KeyboardInterrupt()]
    if place != "direct":
        desk.queue.enqueue("hello")
    with pytest.raises(KeyboardInterrupt):
        _ = desk.direct("hello") if place == "direct" else desk.writer.flush(may_wait=True)
    assert transport.aborted
    assert isinstance(desk.errors[0], ConnectionAbortedError)
    desk.writer.stop()
    assert desk.queue.snapshot() == (() if place == "direct" else ("hello",))


def test_an_interruption_after_the_role_was_given_up_leaves_its_new_owner_alone(
    desk: Desk, transport: FakeTransport
) -> None:
    """Ctrl-C in the last call-back ends no connection that another thread may be writing on."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    desk.writer.on_drained = interrupt
    with pytest.raises(KeyboardInterrupt):
        desk.direct("hello")
    assert desk.errors == []
    assert not transport.aborted
    assert desk.stalls == 1  # the reader looks, should somebody have relied on the interrupted one


def is_writing(frame: FrameType) -> bool:
    return frame.f_code.co_filename.endswith(("tunnel/writer.py", "tunnel/outbox.py"))


@pytest.mark.parametrize("way", ["direct", "partly", "queued"])
def test_ctrl_c_at_any_line_leaves_a_writer_that_can_be_stopped(way: str) -> None:
    """Wherever Ctrl-C comes, the role is free after it, and no queued message is lost."""
    number = 0
    finished = False
    while not finished:
        number += 1
        transport = FakeTransport()
        if way == "partly":
            transport.script, transport.rooms = [3, 0], [True]
        desk = Desk(transport)
        desk.writer.open()
        if way == "queued":
            desk.queue.enqueue_many(["one", "two"])
        with contextlib.suppress(KeyboardInterrupt), interrupted_at(number, is_writing) as lines:
            if way == "queued":
                desk.writer.flush(may_wait=True)
            else:
                desk.direct("hello")
        finished = lines[0] < number  # it came through without an interruption
        stopping = in_thread(desk.writer.stop)
        stopping.join(LONG)
        assert not stopping.is_alive(), f"the role was not given up after line {number}"
        if way == "queued":
            assert {"one", "two"} == {*transport.received, *desk.queue.snapshot()}
    assert number > 20


# Fairness


def test_being_drained_is_told(desk: Desk, transport: FakeTransport) -> None:
    """`on_drained` is called whenever nothing is left to write, and not while something is."""
    desk.writer.on_drained = desk.drained
    desk.direct("one")
    assert desk.drains == 1
    transport.script = [0, 0]
    desk.direct("two", may_wait=False)
    assert desk.drains == 1
    desk.writer.flush(may_wait=False)
    assert desk.drains == 2


def test_flushing_nothing_does_nothing(desk: Desk, transport: FakeTransport) -> None:
    """Without work the role is not taken, and nobody is told."""
    desk.writer.on_drained = desk.drained
    desk.writer.flush(may_wait=True)
    assert (transport.calls, desk.drains, desk.stalls) == ([], 0, 0)


def test_what_is_appended_while_somebody_writes_is_written_by_them(
    desk: Desk, transport: FakeTransport
) -> None:
    """A second sender appends and leaves; the first drains it too."""
    threads: list[threading.Thread] = []

    def another() -> None:
        threads.append(in_thread(lambda: desk.send("second")))
        threads[0].join(LONG)
        assert not threads[0].is_alive()

    transport.script = [another]
    assert desk.direct("first")
    assert transport.received == ["first", "second"]
    assert len(transport.calls) == 2


def test_what_is_appended_in_the_last_moment_is_seen(
    desk: Desk, transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that comes after the last look and before the role is free is looked for once more."""
    late = iter(["late"])
    let_go = Writer._let_go

    def append_and_let_go(writer: Writer) -> None:
        for message in late:
            desk.queue.enqueue(message)
            desk.writer.flush(may_wait=True)  # the role is not free yet: so this leaves
        let_go(writer)

    monkeypatch.setattr(Writer, "_let_go", append_and_let_go)
    desk.queue.enqueue("first")
    desk.writer.flush(may_wait=True)
    assert transport.received == ["first", "late"]


def test_work_that_another_thread_took_up_is_left_to_it(
    desk: Desk, transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks again and finds the role taken is done."""
    let_go = Writer._let_go
    stalled = iter([0])

    def let_go_and_be_overtaken(writer: Writer) -> None:
        let_go(writer)
        for nothing in stalled:
            desk.queue.enqueue("second")
            transport.script = [lambda: takeover.set() or finish.wait(LONG), nothing]
            threads.append(in_thread(lambda: desk.writer.flush(may_wait=False)))
            assert takeover.wait(LONG)

    threads: list[threading.Thread] = []
    takeover, finish = threading.Event(), threading.Event()
    monkeypatch.setattr(Writer, "_let_go", let_go_and_be_overtaken)
    desk.queue.enqueue("first")
    desk.writer.flush(may_wait=True)
    assert transport.received == ["first"]
    finish.set()
    threads[0].join(LONG)
    assert desk.writer.is_stalled


def test_a_thread_that_writes_for_others_is_relieved_by_the_next_sender(
    desk: Desk, transport: FakeTransport
) -> None:
    """After the budget a sender that may wait takes the role over, and the first one leaves."""
    for _ in range(40):
        desk.queue.enqueue(bytes(FRAGMENT_SIZE))
    owners: list[str] = []
    threads: list[threading.Thread] = []

    def note() -> None:
        owners.append(threading.current_thread().name)
        transport.script[:0] = [BUDGET, note]
        if len(owners) == 18:  # the budget is spent: now a sender comes, and waits for the role
            thread = threading.Thread(target=lambda: desk.send("relief"), name="reliever")
            thread.start()
            threads.append(thread)
            for _ in range(10_000):
                if desk.writer._relievers:
                    return
                thread.join(0.001)

    transport.script = [note]
    desk.writer.flush(may_wait=True)
    threads[0].join(LONG)
    assert set(owners) == {threading.current_thread().name, "reliever"}
    assert owners[18:] == ["reliever"] * (len(owners) - 18)
    assert transport.received == [bytes(FRAGMENT_SIZE)] * 40 + ["relief"]


def test_a_reliever_whose_time_is_up_leaves_its_message(
    desk: Desk, transport: FakeTransport
) -> None:
    """A sender waits for the role no longer than it may; endless is long enough, too."""
    for _ in range(20):
        desk.queue.enqueue(bytes(FRAGMENT_SIZE))

    def impatient() -> None:
        if not desk.writer._over_budget:
            transport.script[:0] = [BUDGET, impatient]
            return
        threads.append(in_thread(lambda: desk.writer.flush(may_wait=True, timeout=0.01)))
        threads[0].join(LONG)
        assert not threads[0].is_alive()
        threads.append(in_thread(lambda: desk.writer.flush(may_wait=True, timeout=math.inf)))
        while not desk.writer._relievers:
            threads[1].join(0.001)

    threads: list[threading.Thread] = []
    transport.script = [impatient]
    desk.writer.flush(may_wait=True)
    threads[1].join(LONG)
    assert len(transport.received) == 20


def test_who_must_not_wait_does_not_write_for_ever(desk: Desk, transport: FakeTransport) -> None:
    """The reading thread leaves after the budget, however fast the peer reads."""
    for _ in range(40):
        desk.queue.enqueue(bytes(FRAGMENT_SIZE))
    desk.writer.flush(may_wait=False)
    assert len(transport.received) == 16
    assert desk.stalls == 1
    assert desk.writer.is_stalled
    desk.writer.flush(may_wait=False)
    assert len(transport.received) > 30


@pytest.mark.parametrize("call", ["write_control", "write_own", "nudge"])
def test_a_frame_of_its_own_takes_little_with_it(
    desk: Desk, transport: FakeTransport, call: str
) -> None:
    """The timers of all tunnels share a thread: the queue of one is the reading thread's work."""
    for _ in range(100):
        desk.queue.enqueue(bytes(FRAGMENT_SIZE // 8))
    if call == "nudge":
        desk.writer.nudge()
    else:
        getattr(desk.writer, call)(ENCODER.ping())
    assert 0 < sum(map(len, transport.calls)) <= 3 * FRAGMENT_SIZE
    assert isinstance(transport.received[0], Ping) or call == "nudge"
    assert (desk.stalls, desk.writer.is_stalled) == (1, True)
    desk.writer.flush(may_wait=False)
    assert len(transport.received) == 100 + (call != "nudge")


def test_an_interrupted_nudge_ends_the_connection(desk: Desk, transport: FakeTransport) -> None:
    """As any interrupted write does."""
    desk.queue.enqueue("a")
    transport.script = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        desk.writer.nudge()
    assert transport.aborted


def test_who_is_done_at_the_budget_has_drained(desk: Desk, transport: FakeTransport) -> None:
    """With nothing left to write, the last byte of the budget is not followed by a stall."""
    desk.writer.on_drained = desk.drained
    for _ in range(16):
        desk.queue.enqueue(bytes(FRAGMENT_SIZE))
    desk.writer.flush(may_wait=False)
    assert sum(map(len, transport.calls)) > BUDGET
    assert (desk.stalls, desk.drains) == (0, 1)


# The queue's subscribers are called in the midst of it


@pytest.mark.requirement("5.3")
def test_a_subscriber_of_the_queue_may_send_when_there_is_room() -> None:
    """A send in a backpressure signal is queued and written; neither lock nor role stands still."""
    transport = FakeTransport()
    desk = Desk(transport, RequestQueue(100))
    desk.writer.open()
    desk.queue.enqueue_many([bytes(FRAGMENT_SIZE)] * 100)
    news = iter(["resumed"])
    desk.queue.subscribe(
        lambda signal: signal.should_throttle or [desk.send(message) for message in news]
    )
    done = in_thread(lambda: desk.writer.flush(may_wait=True))
    done.join(LONG)
    assert not done.is_alive()
    assert transport.received.count(bytes(FRAGMENT_SIZE)) == 100
    assert transport.received.count("resumed") == 1


@pytest.mark.parametrize("call", ["direct", "flush", "is_stalled", "drain"])
def test_a_subscriber_may_send_when_messages_expire(call: str) -> None:
    """Looking for work drops what has expired, which may tell subscribers: not under the lock."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    transport = FakeTransport()
    clock = Clock()
    desk = Desk(transport, RequestQueue(5, clock=clock))  # type: ignore[arg-type]
    desk.writer.open()
    desk.queue.subscribe(lambda signal: signal.should_throttle or desk.send("resumed"))
    desk.queue.enqueue_many(["old"] * 4, expires_in=1.0)

    def expire() -> None:
        clock.now = 2.0

    def act() -> None:
        if call == "drain":
            transport.script = [expire]
            desk.writer.write_control(ENCODER.ping())
            return
        expire()
        if call == "direct":
            desk.send("new")
        elif call == "flush":
            desk.writer.flush(may_wait=True)
        else:
            assert not desk.writer.is_stalled

    if call == "drain":
        desk.outbox.is_open = False
    done = in_thread(act)
    done.join(LONG)
    assert not done.is_alive()
    desk.writer.open()
    desk.writer.flush(may_wait=True)
    assert "resumed" in transport.received
    assert "old" not in transport.received


# Real sockets, real threads


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for both ends."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return client, server


def connected(
    kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):  # small, so that writers often have to wait
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 1024)
        sock.settimeout(LONG)
    if kind == "plain":
        return ours, theirs
    client, server = contexts
    accepted: list[ssl.SSLSocket] = []
    thread = in_thread(lambda: accepted.append(server.wrap_socket(theirs, server_side=True)))
    wrapped = client.wrap_socket(ours, server_hostname="localhost")
    thread.join(LONG)
    return wrapped, accepted[0]


def play_peer(sock: socket.socket, received: list[Incoming], count: int) -> None:
    """Read `count` messages, and answer each thousandth byte or so with one of one's own."""
    decoder = FrameDecoder(expect_masked=True)
    answer = FrameEncoder(mask=False).message(b"a" * 500)
    number = 0
    while number < count:
        chunk = sock.recv(65536)
        assert chunk, "a false end of the stream"
        items = decoder.feed(chunk)
        assert decoder.violation is None
        received.extend(items)
        number += sum(isinstance(item, (str, bytes)) for item in items)
        sock.sendall(answer)


def read_as_a_tunnel_does(stream: Stream, desk: Desk, until: threading.Event) -> int:
    """The reading thread: never waits to write, takes over what nobody else writes."""
    total = 0
    while not until.is_set():
        stream.waker.clear()
        if until.is_set():
            break
        chunk = stream.receive(65536)
        if chunk:
            total += len(chunk)
            if desk.writer.is_stalled:
                desk.writer.flush(may_wait=False)
            continue
        assert chunk is None
        ready = stream.wait(read=True, write=desk.writer.is_stalled, timeout=LONG)
        assert any(ready), f"stuck: {desk.queue!r}"
        if ready.writable:
            desk.writer.flush(may_wait=False)
    return total


@pytest.mark.requirement("1.1")
@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_many_writers_and_a_reader_lose_nothing(
    kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Four writers, one that never waits, pings and a reader: each writer's order is kept."""
    ours, theirs = connected(kind, contexts)
    waker = Waker()
    stream = Stream(ours, waker)
    desk = Desk(stream)
    desk.writer._on_stalled = waker.wake
    desk.writer.open()
    each = 150

    def write(name: int) -> None:
        for number in range(each):
            size = FRAGMENT_SIZE * 2 if number % 50 == 20 else (number * 37) % 900
            desk.send(f"{name} {number} ".encode() + bytes(size), may_wait=name != 0)
            if number % 10 == 0:
                desk.writer.write_control(ENCODER.ping(b"%d" % name))

    received: list[Incoming] = []
    finished = threading.Event()
    errors: list[BaseException] = []

    def peer() -> None:
        try:
            play_peer(theirs, received, 5 * each)
        except BaseException as error:
            errors.append(error)
        finished.set()
        waker.wake()

    threads = [in_thread(peer), *(in_thread(lambda n=name: write(n)) for name in range(5))]
    read_as_a_tunnel_does(stream, desk, finished)
    for thread in threads:
        thread.join(LONG)
    assert errors == []
    assert desk.errors == []
    orders: dict[bytes, list[int]] = {}
    for message in received:
        if isinstance(message, bytes):
            name, number, rest = message.split(b" ", 2)
            orders.setdefault(name, []).append(int(number))
            assert not rest.strip(b"\0")
    assert orders == {b"%d" % name: list(range(each)) for name in range(5)}
    assert sum(isinstance(item, Ping) for item in received) == 5 * each / 10
    assert desk.queue.size == 0
    stream.abort()
    desk.writer.stop()
    stream.close()
    theirs.close()
    waker.close()


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_an_abort_ends_all_writers_and_keeps_what_they_had(
    kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Writers that wait for a peer which does not read end at once; the peer has each first one."""
    ours, theirs = connected(kind, contexts)
    waker = Waker()
    stream = Stream(ours, waker)
    desk = Desk(stream)
    desk.writer.open()
    each = 300

    def write(name: int) -> None:
        for number in range(each):
            desk.send(f"{name} {number} ".encode() + bytes(1000))

    threads = [in_thread(lambda n=name: write(n)) for name in range(4)]
    while desk.queue.size < 3:  # whoever has the role is stuck, and the others go on
        threads[0].join(0.001)
    stream.abort()
    desk.writer.stop()
    stream.close()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    theirs.settimeout(LONG)
    decoder = FrameDecoder(expect_masked=True)
    got: list[Incoming] = []
    with contextlib.suppress(OSError):
        while chunk := theirs.recv(65536):
            got += decoder.feed(chunk)
    kept = desk.queue.snapshot()
    if kind == "plain":  # over TLS the kernel may have had a part of a record, which is nothing
        assert len(got) == desk.sent
    for name in range(4):
        prefix = f"{name} ".encode()
        everything = [m for m in (*got, *kept) if isinstance(m, bytes) and m.startswith(prefix)]
        numbers = [int(m.split(b" ", 2)[1]) for m in everything]
        assert numbers == list(range(each)) or kind == "tls"
        assert numbers == sorted(set(numbers))
    theirs.close()
    waker.close()


def test_readiness_is_what_a_transport_says() -> None:
    """The four reasons of a wait, in the order in which the reading thread unpacks them."""
    assert Readiness._fields == ("readable", "writable", "woken", "ended")


# In a session


class Numbers:
    """Gives numbers as a session does, while there is room."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.given = 0

    def __call__(self, message: Message) -> bytes | None:
        if self.given == self.room:
            return None
        self.given += 1
        return b"%d:" % self.given + (message.encode() if isinstance(message, str) else message)


def test_a_direct_message_gets_its_number_under_the_role() -> None:
    """What goes onto the wire is the session's frame; without room the message has to wait."""
    transport = FakeTransport()
    desk = Desk(transport, number=Numbers(2))
    desk.writer.open()
    assert desk.direct("a")
    assert desk.direct(b"b")
    assert not desk.direct("c")
    assert transport.received == [b"1:a", b"2:b"]
    assert desk.sent == 2
    assert desk.writer._owner is None


def test_no_number_for_what_is_not_written_now() -> None:
    """A message that finds something before it uses no number up: it would come out of order."""
    transport = FakeTransport()
    numbers = Numbers(10)
    desk = Desk(transport, number=numbers)
    assert not desk.direct("too early")
    desk.writer.open()
    desk.queue.enqueue("queued")
    assert not desk.direct("a")
    assert not desk.direct("x" * (FRAGMENT_SIZE + 1))
    desk.writer.flush(may_wait=True)
    desk.writer.stop()
    assert not desk.direct("too late")
    assert numbers.given == 0


def test_half_a_numbered_message_is_finished_before_all_others() -> None:
    """Its frame is what is adopted: the rest of it goes first."""
    transport = FakeTransport()
    transport.script = [4, 0]
    desk = Desk(transport, number=Numbers(10))
    desk.writer.open()
    assert desk.direct("a", may_wait=False)
    assert (desk.sent, desk.stalls) == (0, 1)
    assert desk.writer.is_stalled
    desk.writer.flush(may_wait=False)
    assert transport.received == [b"1:a"]
    assert desk.sent == 1


def test_a_message_that_cannot_be_encoded_as_a_frame_takes_no_role_with_it() -> None:
    """Whatever numbering raises, the role is free again, though the link is given up."""
    transport = FakeTransport()

    def fail(message: Message) -> bytes:
        raise ValueError("no number")

    desk = Desk(transport, number=fail)
    desk.writer.open()
    with pytest.raises(ValueError, match="no number"):
        desk.direct("a")
    assert transport.aborted
    assert desk.writer._owner is None


def test_nothing_goes_past_a_queue_that_has_to_see_it() -> None:
    """With a queue on disk every message goes through it."""
    transport = FakeTransport()
    desk = Desk(transport, is_direct=False)
    desk.writer.open()
    assert not desk.direct("a")
    desk.send("b")
    assert transport.received == ["b"]


def test_work_is_left_until_the_last_byte() -> None:
    """Before a close frame one has to know whether anything is left, written by whomever."""
    transport = FakeTransport()
    desk = Desk(transport)
    desk.writer.open()
    assert not desk.writer.has_work
    desk.queue.enqueue("a")
    assert desk.writer.has_work
    seen: list[bool] = []
    transport.script = [lambda: seen.append(desk.writer.has_work), 3, 0]
    desk.writer.flush(may_wait=False)
    assert seen == [True]
    assert desk.writer.has_work
    desk.writer.flush(may_wait=False)
    assert not desk.writer.has_work


def test_a_request_never_goes_directly_to_a_plain_peer() -> None:
    """Whoever asks may just have missed that there is no session any more."""
    transport = FakeTransport()
    desk = Desk(transport)
    desk.writer.open()
    desk.send(Parcel(FrameKind.REQUEST, b"?"))
    desk.send("a")
    assert transport.received == ["a"]
    assert desk.queue.size == 0
    desk = Desk(FakeTransport(), number=Numbers(1))
    desk.writer.open()
    assert desk.direct(Parcel(FrameKind.REQUEST, b"?"))


@pytest.mark.parametrize("way", ["direct", "queued", "many"])
def test_ctrl_c_at_any_line_of_a_session_sends_nothing_twice(way: str) -> None:
    """Wherever Ctrl-C comes: if the session is lost then, what has arrived is not sent again.

    And what has not arrived is sent in the next session, or handed back.
    """
    number = 0
    finished = False
    limits = Limits(1000, 2**20, 2**20)
    messages: list[Message] = ["one"] if way == "direct" else ["one", "two"]
    while not finished:
        number += 1
        transport = FakeTransport()
        queue = RequestQueue(100)
        channel = SessionChannel(
            queue, MetricsCollector(), on_answer=lambda _: None, on_settled=lambda: None
        )
        session = Session(limits, keep=(1000, 2**20))
        peer = Session(limits, keep=(1000, 2**20))
        channel.carry(session)
        greeting = session.greeting()
        assert isinstance(greeting, Open)
        session.answered(peer.open(greeting, b"i" * 16, Secret("5e" * 32), 600))
        outbox = Outbox(channel, ENCODER, channel.note_written)
        writer = Writer(
            transport,  # type: ignore[arg-type]
            outbox,
            ENCODER,
            on_stalled=lambda: None,
            on_failed=lambda error: None,
            on_sent=channel.note_written,
            number=channel.send_directly,
        )
        writer.open()
        if way != "direct":
            queue.enqueue_many(messages)
        if way == "many":
            transport.script = [5, 3]
        accepted = False
        with contextlib.suppress(KeyboardInterrupt), interrupted_at(number, is_writing) as lines:
            if way == "direct":
                accepted = writer.write_directly("one", NORMAL, None)
            else:
                writer.flush(may_wait=True)
        finished = lines[0] < number
        writer.stop()
        arrived = peer.receive(transport.received)  # type: ignore[arg-type]
        session.detach()
        loss = channel.lose("a test")
        again = queue.snapshot()
        assert not {*arrived} & {*again}, f"doubled after line {number}"
        if way != "direct" or accepted:
            left = {*arrived, *again, *loss.unacknowledged}
            assert left == {*messages}, f"vanished after line {number}"
    assert number > 20
