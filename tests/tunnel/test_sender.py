"""The way of a message out: its terms, its order, and what happens without room."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import (
    InvalidStateError,
    MessageTooBigError,
    PayloadTypeError,
    QueueFullError,
)
from tunnel.frames import FrameDecoder, FrameEncoder, Incoming, Pong
from tunnel.outbox import Message, Outbox
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.sender import WHILE_CONNECTED, Sender, SendTimeout
from tunnel.session_frames import FrameKind, Parcel
from tunnel.testing import FakeClock
from tunnel.writer import Writer

HIGH, NORMAL, LOW = RequestPriority.HIGH, RequestPriority.NORMAL, RequestPriority.LOW


class Wire:
    """What a writer needs of a transport; the test says how much it takes."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.waits = 0
        self._decoder = FrameDecoder(expect_masked=True)
        self.written: list[Incoming] = []

    def send(self, data: memoryview | bytes) -> int:
        taken = len(data) if self.room is None else min(self.room, len(data))
        if self.room is not None:
            self.room -= taken
        self.written += self._decoder.feed(bytes(data[:taken]))
        return taken

    def wait_writable(self, timeout: float | None) -> bool:
        self.waits += 1
        return self.room != 0

    def abort(self) -> None:
        raise AssertionError


class Link:
    """What a sender needs of a link."""

    def __init__(self, queue: RequestQueue) -> None:
        self.wire = Wire()
        self.own: list[Message] = []
        encoder = FrameEncoder()
        self.writer = Writer(
            self.wire,  # type: ignore[arg-type]
            Outbox(queue, encoder, lambda count: None),
            encoder,
            on_stalled=lambda: None,
            on_failed=lambda error: None,
            on_sent=lambda count: None,
        )
        self.writer.open()

    def send_first(self, data: Message) -> None:
        self.own.append(data)

    def let(self, room: int | None = None) -> None:
        """The peer reads again."""
        self.wire.room = room
        while self.writer.is_stalled:
            self.writer.flush(may_wait=False)


class Worker:
    is_own_thread = False


class Owner:
    def __init__(self, limit: int) -> None:
        self.max_message_size = limit
        self.worker = Worker()
        self.link: Link | None = None
        self.greeting: Link | None = None
        self.is_closing = False


class Bench:
    def __init__(self, size: int = 3, clock: Clock | None = None, limit: int = 2**24) -> None:
        self.clock = clock or FakeClock()
        self.queue = RequestQueue(size, clock=self.clock)
        self.owner = Owner(limit)
        self.sender = Sender(self.owner, self.queue, self.clock)  # type: ignore[arg-type]

    def connect(self) -> Link:
        self.owner.link = link = Link(self.queue)
        link.writer.flush(may_wait=False)
        return link

    def lose(self) -> None:
        """The link is gone, as the driver says it."""
        self.owner.link = None
        self.queue.interrupt()

    def send(
        self,
        data: object,
        priority: RequestPriority = NORMAL,
        expires_in: float | None = None,
        timeout: SendTimeout = WHILE_CONNECTED,
    ) -> None:
        self.sender.send(data, priority, expires_in, timeout)  # type: ignore[arg-type]

    def send_many(self, messages: object, timeout: SendTimeout = WHILE_CONNECTED) -> int:
        return self.sender.send_many(messages, NORMAL, None, timeout)  # type: ignore[arg-type]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# The way


def test_on_an_idle_link_it_is_written_at_once(bench: Bench) -> None:
    """With a link and nothing queued a message passes the queue by."""
    link = bench.connect()
    bench.send("text")
    bench.send(b"bytes")
    assert link.wire.written == ["text", b"bytes"]
    assert bench.queue.size == 0


@pytest.mark.requirement("1.3")
def test_without_a_link_it_is_queued(bench: Bench) -> None:
    """Without a link messages wait, by priority and then in order, for the next one."""
    for number, priority in enumerate([LOW, NORMAL, HIGH]):
        bench.send(f"{number}", priority)
    link = bench.connect()
    assert link.wire.written == ["2", "1", "0"]


def test_behind_others_it_is_queued(bench: Bench) -> None:
    """While something is half-written a message joins the queue, so that order is kept."""
    link = bench.connect()
    link.wire.room = 3
    bench.send("first")
    bench.send("second")
    bench.send("third")
    assert link.wire.written == []
    assert bench.queue.size == 3
    link.let()
    assert link.wire.written == ["first", "second", "third"]


def test_big_messages_go_through_the_queue(bench: Bench) -> None:
    """What goes out in fragments is queued and written by the same call."""
    link = bench.connect()
    big = bytes(range(256)) * 1024
    bench.send(big)
    bench.send("after")
    assert link.wire.written == [big, "after"]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_what_can_change_is_copied(bench: Bench, kind: Callable[[bytearray], object]) -> None:
    """A buffer that the caller changes after the call was sent as it was."""
    buffer = bytearray(b"before")
    bench.send(kind(buffer))
    buffer[:] = b"after!"
    assert bench.connect().wire.written == [b"before"]


def test_it_expires(bench: Bench) -> None:
    """What waits longer than `expires_in` is not sent any more."""
    bench.send("stale", expires_in=5.0)
    bench.send("fresh", expires_in=50.0)
    assert isinstance(bench.clock, FakeClock)
    bench.clock.advance(6)
    assert bench.connect().wire.written == ["fresh"]


# What is wrong with a message


@pytest.mark.parametrize("data", [None, 1, ["a"], {"a": 1}, object()])
def test_what_is_no_message(bench: Bench, data: object) -> None:
    """Neither text nor bytes is a `TypeError` that says what it was; nothing is queued."""
    with pytest.raises(TypeError, match=f"not {type(data).__name__}"):
        bench.send(data)
    with pytest.raises(PayloadTypeError):
        bench.send_many([data])
    assert bench.queue.size == 0


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("text", ["a\ud800", "ä\udfff" * 10, "x" * 100_000 + "\ud800"])
def test_lone_surrogates(bench: Bench, connected: bool, text: str) -> None:
    """A text that UTF-8 cannot express is refused at the call, and says where; the link lives."""
    link = bench.connect() if connected else None
    position = next(i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff")
    with pytest.raises(ValueError, match=f"character {position} is a lone surrogate"):
        bench.send(text)
    with pytest.raises(ValueError, match="lone surrogate"):
        bench.send_many(["a", text])
    assert bench.queue.size == 0
    if link is not None:
        bench.send("after")
        assert link.wire.written == ["after"]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"x" * 101, 101),
        (bytearray(101), 101),
        ("x" * 101, 101),
        ("ä" * 51, 102),
        ("€" * 34, 102),
        ("\U0001f600" * 26, 104),
        ("x" * 99 + "ä", 101),
    ],
)
def test_too_big(data: object, size: int) -> None:
    """The bytes on the wire count, not the characters; the error has size and limit."""
    bench = Bench(limit=100)
    with pytest.raises(MessageTooBigError, match=f"{size} bytes, and max_message_size is 100") as e:
        bench.send(data)
    assert (e.value.size, e.value.limit) == (size, 100)
    with pytest.raises(MessageTooBigError):
        bench.send_many(["a", data])
    assert bench.queue.size == 0


@pytest.mark.parametrize(
    "data", [b"x" * 100, "x" * 100, "ä" * 50, "€" * 33, "\U0001f600" * 25, "", b""]
)
def test_just_small_enough(data: Message) -> None:
    """The limit itself is allowed."""
    bench = Bench(limit=100)
    link = bench.connect()
    bench.send(data)
    assert link.wire.written == [data]


def test_the_limit_is_the_present_one(bench: Bench) -> None:
    """What the owner says at the time of the call counts, not what it said before."""
    bench.owner.max_message_size = 1
    with pytest.raises(MessageTooBigError):
        bench.send("ab")


# What is wrong with the terms


@pytest.mark.parametrize("priority", ["high", 1, None])
def test_a_priority_is_one_of_three(bench: Bench, priority: object) -> None:
    """Anything but a `RequestPriority` is refused, connected or not."""
    for _ in range(2):
        with pytest.raises(TypeError, match="priority must be a RequestPriority"):
            bench.send("x", priority)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="priority must be a RequestPriority"):
            bench.sender.send_many([], priority, None, None)  # type: ignore[arg-type]
        bench.connect()


@pytest.mark.parametrize("expires_in", [0, -1.0, float("nan")])
def test_an_expiry_lies_ahead(bench: Bench, expires_in: float) -> None:
    """A message that would have expired already is refused, connected or not."""
    for _ in range(2):
        with pytest.raises(ValueError, match="expires_in must be more than 0 seconds"):
            bench.send("x", expires_in=expires_in)
        bench.connect()


@pytest.mark.parametrize("timeout", [-0.1, float("nan")])
def test_a_time_out_is_not_negative(bench: Bench, timeout: float) -> None:
    """A time-out that makes no sense is refused, connected or not."""
    for _ in range(2):
        with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
            bench.send("x", timeout=timeout)
        with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
            bench.send_many([], timeout=timeout)
        bench.connect()


@pytest.mark.parametrize("data", ["text", b"bytes", bytearray(b"x"), memoryview(b"x")])
def test_one_message_is_not_many(bench: Bench, data: object) -> None:
    """A single message given to `send_many` is a mistake: its characters are not messages."""
    with pytest.raises(PayloadTypeError, match="takes several messages, not one"):
        bench.send_many(data)


def test_a_closing_tunnel_takes_nothing(bench: Bench) -> None:
    """From the application's wish to end on, what is sent is refused."""
    link = bench.connect()
    bench.owner.is_closing = True
    with pytest.raises(InvalidStateError, match="closing"):
        bench.send("late")
    with pytest.raises(InvalidStateError, match="closing"):
        bench.send_many(["late"])
    assert link.wire.written == []
    assert bench.queue.size == 0


def test_a_greeting_is_finished(bench: Bench) -> None:
    """Closed during the greeting, that still goes out; what other threads send is refused."""
    link = bench.connect()
    link.writer._outbox.is_open = False
    bench.owner.is_closing = True
    bench.owner.greeting = bench.owner.link
    with pytest.raises(InvalidStateError, match="closing"):
        bench.send("late")
    bench.owner.worker.is_own_thread = True
    bench.send("log in")
    assert link.own == ["log in"]


# Many at once


def test_many_keep_their_order(bench: Bench) -> None:
    """More than fit into the queue, from an iterator: all go out, in order."""
    link = bench.connect()
    assert bench.send_many(f"{n}" for n in range(1000)) == 1000
    assert link.wire.written == [f"{n}" for n in range(1000)]


def test_none_at_all(bench: Bench) -> None:
    """Nothing is many, too."""
    assert bench.send_many([]) == 0


@pytest.mark.requirement("5.4")
def test_many_without_room(bench: Bench) -> None:
    """Not connected, what does not fit is refused at once, and it is said how many did."""
    with pytest.raises(QueueFullError) as caught:
        bench.send_many(["a", "b", "c", "d", "e"])
    assert caught.value.accepted == 3
    assert caught.value.context["refused"] == 2
    assert bench.queue.snapshot() == ("a", "b", "c")


def test_many_without_room_over_several_chunks() -> None:
    """`accepted` counts from the first message of the call, not from the last chunk."""
    bench = Bench(size=300)
    with pytest.raises(QueueFullError) as caught:
        bench.send_many(str(n) for n in range(1000))
    assert caught.value.accepted == 300
    assert bench.queue.snapshot() == tuple(str(n) for n in range(300))


def test_a_wrong_one_among_many(bench: Bench) -> None:
    """Messages are checked before the first of their chunk is taken."""
    with pytest.raises(PayloadTypeError):
        bench.send_many(["a", "b", 3])
    assert bench.queue.size == 0


# Waiting for room, in virtual time


@pytest.mark.requirement("5.4")
@pytest.mark.parametrize("timeout", [WHILE_CONNECTED, 0, 0.0])
def test_a_full_queue_without_a_link_refuses_at_once(bench: Bench, timeout: SendTimeout) -> None:
    """Without a link nobody makes room, so by default nobody waits."""
    for _ in range(3):
        bench.send("x")
    with pytest.raises(QueueFullError) as caught:
        bench.send("y", timeout=timeout)
    assert caught.value.code == "TUNNEL_006"
    assert caught.value.accepted == 0
    assert bench.clock.monotonic() == 0.0


def test_a_time_out_is_kept(bench: Bench) -> None:
    """With a time-out it waits so long for room, connected or not, and not longer."""
    for _ in range(3):
        bench.send("x")
    with pytest.raises(QueueFullError):
        bench.send("y", timeout=7.5)
    assert bench.clock.monotonic() == 7.5


def test_room_within_the_time_out(bench: Bench) -> None:
    """Room that comes in time is used, also by a link that comes first."""
    assert isinstance(bench.clock, FakeClock)
    for number in range(3):
        bench.send(f"{number}")
    bench.clock.call_at(5.0, lambda: bench.connect())
    bench.send("late", timeout=10.0)
    assert bench.clock.monotonic() == 5.0
    assert bench.owner.link is not None
    assert bench.owner.link.wire.written == ["0", "1", "2", "late"]


@pytest.mark.parametrize(("timeout", "waits"), [(0, 0), (1.0, 1), (None, 1), (WHILE_CONNECTED, 1)])
def test_who_may_wait_for_the_kernel(bench: Bench, timeout: SendTimeout, waits: int) -> None:
    """A sender in another thread waits for the kernel itself, unless its time-out is 0."""
    link = bench.connect()
    link.wire.room = 3
    bench.send("message", timeout=timeout)
    assert link.wire.waits == waits


def stalled(bench: Bench) -> Link:
    """A link that takes nothing, and a full queue behind it."""
    link = bench.connect()
    link.wire.room = 0
    for number in range(3):
        bench.send(f"{number}", timeout=0)
    assert bench.queue.is_full
    return link


def test_while_connected_it_waits(bench: Bench) -> None:
    """By default, while connected, it waits for room as long as it takes: backpressure."""
    assert isinstance(bench.clock, FakeClock)
    link = stalled(bench)
    bench.clock.call_at(1000.0, link.let)
    bench.send("late")
    assert bench.clock.monotonic() == 1000.0
    assert link.wire.written == ["0", "1", "2", "late"]


def test_who_overtakes_a_woken_sender_leaves_the_writing_to_it(bench: Bench) -> None:
    """Messages that come while a sender is on its way back from its wait go out with its own."""
    assert isinstance(bench.clock, FakeClock)
    link = stalled(bench)

    def overtake() -> None:
        link.let()
        bench.send("quick")
        assert link.wire.written == ["0", "1", "2"]

    bench.clock.call_at(1.0, overtake)
    bench.send("late")
    assert link.wire.written == ["0", "1", "2", "quick", "late"]


def test_a_sender_that_finds_no_room_again_writes_first(bench: Bench) -> None:
    """Had others filled the queue and gone, nobody but the one who was woken would write."""
    assert isinstance(bench.clock, FakeClock)
    link = stalled(bench)

    def overtake() -> None:
        link.let()
        for number in range(3, 6):
            bench.send(f"{number}")
        assert bench.queue.is_full

    bench.clock.call_at(1.0, overtake)
    bench.send("late")
    assert bench.clock.monotonic() == 1.0
    assert link.wire.written == ["0", "1", "2", "3", "4", "5", "late"]


def test_a_sender_whose_time_is_up_writes_what_others_left_to_it(bench: Bench) -> None:
    """It goes away with an error; what came while it was on its way has to go out all the same."""
    assert isinstance(bench.clock, FakeClock)
    link = stalled(bench)

    def overtake() -> None:
        link.let()
        for number in range(3, 6):
            bench.send(f"{number}")
        link.wire.room = 0

    bench.clock.call_at(1.0, overtake)
    bench.clock.call_at(2.0, link.let)
    with pytest.raises(QueueFullError):
        bench.send("late", timeout=1.0)
    assert bench.queue.is_full
    link.wire.room = None
    assert link.writer.is_stalled
    link.let()
    assert link.wire.written == ["0", "1", "2", "3", "4", "5"]


def test_a_loss_ends_the_wait(bench: Bench) -> None:
    """By default the wait ends with the link: then it is as without one."""
    assert isinstance(bench.clock, FakeClock)
    stalled(bench)
    bench.clock.call_at(20.0, bench.lose)
    with pytest.raises(QueueFullError):
        bench.send("late")
    assert bench.clock.monotonic() == 20.0


def test_a_time_out_counts_across_losses(bench: Bench) -> None:
    """With a time-out a loss does not end the wait, and does not begin it anew."""
    assert isinstance(bench.clock, FakeClock)
    stalled(bench)
    bench.clock.call_at(20.0, bench.lose)
    with pytest.raises(QueueFullError):
        bench.send("late", timeout=30.0)
    assert bench.clock.monotonic() == 30.0


def test_for_ever(bench: Bench) -> None:
    """With None it waits across losses until there is room."""
    assert isinstance(bench.clock, FakeClock)
    link = stalled(bench)
    bench.clock.call_at(20.0, bench.lose)
    bench.clock.call_at(21.0, lambda: link.writer.stop())
    bench.clock.call_at(9000.0, lambda: bench.connect())
    bench.send("late", timeout=None)
    assert bench.clock.monotonic() == 9000.0
    assert bench.owner.link is not None
    assert bench.owner.link.wire.written == ["0", "1", "2", "late"]


def test_closing_ends_the_wait(bench: Bench) -> None:
    """Who waits when the tunnel is closed and its link gone is told so."""
    assert isinstance(bench.clock, FakeClock)
    stalled(bench)

    def close() -> None:
        bench.owner.is_closing = True
        bench.lose()

    bench.clock.call_at(3.0, close)
    with pytest.raises(InvalidStateError, match="closing"):
        bench.send("late", timeout=None)
    assert bench.clock.monotonic() == 3.0


def test_part_of_many_finds_room(bench: Bench) -> None:
    """What fits is taken as room permits, and the rest is counted when the time is up."""
    assert isinstance(bench.clock, FakeClock)
    bench.send("0")
    bench.clock.call_at(2.0, lambda: bench.queue.dequeue())
    with pytest.raises(QueueFullError) as caught:
        bench.send_many(["1", "2", "3", "4"], timeout=5.0)
    assert caught.value.accepted == 3
    assert bench.queue.snapshot() == ("1", "2", "3")
    assert bench.clock.monotonic() == 5.0


# On the tunnel's own thread


@pytest.fixture
def own(bench: Bench) -> Iterator[Bench]:
    """A bench whose calls come from a callback."""
    bench.owner.worker.is_own_thread = True
    yield bench
    assert bench.clock.monotonic() == 0.0  # nothing has waited


def test_the_greeting_goes_before_the_queue(own: Bench) -> None:
    """In `on_connected` messages belong to this link, and go before all queued ones."""
    own.queue.enqueue("queued")
    own.owner.greeting = link = Link(own.queue)
    own.send("log in")
    assert own.send_many(["a", "b"]) == 2
    assert link.own == ["log in", "a", "b"]
    assert own.queue.snapshot() == ("queued",)


def test_a_greeting_writes_what_others_have_left_to_it(own: Bench) -> None:
    """A pong may have found the role taken by a greeting, which then could not use it."""
    own.owner.link = own.owner.greeting = link = Link(own.queue)
    link.writer._outbox.is_open = False
    link.writer._outbox.add_control(FrameEncoder().pong(b"ping"))
    own.send("log in")
    assert link.own == ["log in"]
    assert link.wire.written == [Pong(b"ping")]


def test_only_the_tunnels_thread_greets(bench: Bench) -> None:
    """What other threads send meanwhile is queued as ever."""
    link = bench.owner.greeting = bench.connect()
    bench.send("other")
    assert link.own == []
    assert link.wire.written == ["other"]


def test_a_callback_writes_directly(own: Bench) -> None:
    """A callback's message goes out at once if it can."""
    link = own.connect()
    own.send("echo")
    assert own.send_many(["a", "b"]) == 2
    assert link.wire.written == ["echo", "a", "b"]


@pytest.mark.parametrize("timeout", [WHILE_CONNECTED, None, 100.0])
def test_a_callback_never_waits(own: Bench, timeout: SendTimeout) -> None:
    """While connected a callback may go past the bound; whatever its time-out, it does not wait."""
    link = own.connect()
    link.wire.room = 3
    for number in range(10):
        own.send(f"{number}", timeout=timeout)
    assert own.queue.size == 10
    assert link.wire.waits == 0
    link.let()
    assert link.wire.written == [f"{number}" for number in range(10)]


def test_a_callback_without_a_link(own: Bench) -> None:
    """Not connected, the bound holds for callbacks too; of many it is said how many fitted."""
    own.send("0")
    with pytest.raises(QueueFullError) as caught:
        own.send_many(["1", "2", "3", "4"])
    assert caught.value.accepted == 2
    assert caught.value.context["refused"] == 2
    with pytest.raises(QueueFullError):
        own.send("5")
    assert own.queue.snapshot() == ("0", "1", "2")


@pytest.mark.parametrize(("size", "limit"), [(0, 2**16), (1000, 2**16), (2**20, None)])
def test_the_backlog_of_callbacks_is_bounded(
    own: Bench, size: int, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what callbacks send, 16 MiB wait at most, empty messages not for nothing."""
    if limit is None:
        limit = 16 * 2**20
    else:  # many small ones take their time
        monkeypatch.setattr("tunnel.sender._CALLBACK_BACKLOG", limit)
    link = own.connect()
    link.wire.room = 0
    with pytest.raises(QueueFullError):  # noqa: PT012
        while True:
            own.send(bytes(size))
    waiting = own.queue.waiting
    assert (waiting - 1) * (size + 64) + size <= limit < waiting * (size + 64) + size


def test_the_backlog_is_what_waits_now(own: Bench) -> None:
    """What has gone out makes room in the backlog, also while the queue stays above its bound."""
    link = own.connect()
    for _ in range(2):
        link.wire.room = 0
        for _ in range(3 + 12):
            own.send(bytes(2**20))
        link.let()
        assert own.queue.size == 0
    assert len(link.wire.written) == 30


# Threads


def test_room_in_another_thread() -> None:
    """A sender that waits in real time is woken by the room that comes, 200 times."""
    for _ in range(200):
        bench = Bench(size=1, clock=SYSTEM_CLOCK)
        bench.send("first")
        sending = threading.Thread(target=bench.send, args=("second", NORMAL, None, 10.0))
        sending.start()
        assert bench.queue.dequeue() == "first"
        sending.join(10)
        assert not sending.is_alive()
        assert bench.queue.snapshot() == ("second",)


def test_a_loss_in_another_thread() -> None:
    """However the loss falls, a sender that waits while connected ends at once, 200 times."""
    for _ in range(200):
        bench = Bench(size=1, clock=SYSTEM_CLOCK)
        link = bench.connect()
        link.wire.room = 0
        bench.send("first", timeout=0)
        refused: list[QueueFullError] = []

        def send(bench: Bench = bench, refused: list[QueueFullError] = refused) -> None:
            try:
                bench.queue.enqueue("second")
            except QueueFullError as error:
                refused.append(error)
            try:
                bench.sender._queue_all(["third"], NORMAL, None, WHILE_CONNECTED)
            except QueueFullError as error:
                refused.append(error)

        sending = threading.Thread(target=send)
        sending.start()
        bench.lose()
        sending.join(10)
        assert not sending.is_alive()
        assert len(refused) == 2


def test_many_threads_keep_the_order_of_each() -> None:
    """Messages of one thread stay in its order, whoever writes them; none is lost or doubled."""
    bench = Bench(size=50, clock=SYSTEM_CLOCK)
    link = bench.connect()

    def send(name: int) -> None:
        for number in range(0, 300, 3):
            bench.send(f"{name} {number}")
            bench.send_many([f"{name} {number + 1}", f"{name} {number + 2}"])

    threads = [threading.Thread(target=send, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    link.writer.flush(may_wait=False)
    assert len(link.wire.written) == 6 * 300
    for name in range(6):
        mine = [str(m) for m in link.wire.written if str(m).startswith(f"{name} ")]
        assert mine == [f"{name} {number}" for number in range(300)]


def test_a_crowd_before_a_tiny_queue_gets_through() -> None:
    """However the threads are interleaved, nobody waits for a wake-up that does not come."""
    bench = Bench(size=5, clock=SYSTEM_CLOCK)
    link = bench.connect()

    def send() -> None:
        for _ in range(300):
            bench.send("x")

    threads = [threading.Thread(target=send, daemon=True) for _ in range(8)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        sys.setswitchinterval(before)
    assert not any(thread.is_alive() for thread in threads)
    assert len(link.wire.written) == 8 * 300
    assert bench.queue.due_sender is None


# Parcels


def test_a_parcel_is_sent_as_a_message_is(bench: Bench) -> None:
    """Requests have their place among the messages, and the same bounds."""
    parcel = Parcel(FrameKind.REQUEST, b"?")
    bench.send("a")
    bench.sender.send_parcel(parcel, NORMAL, 0)
    bench.sender.send_parcel(Parcel(FrameKind.CANCEL, b"!"), HIGH, 0)
    assert bench.queue.snapshot() == (b"!", "a", parcel)
    with pytest.raises(QueueFullError):
        bench.sender.send_parcel(parcel, NORMAL, 0)
    bench = Bench(limit=10)
    with pytest.raises(MessageTooBigError):
        bench.sender.send_parcel(Parcel(FrameKind.REQUEST, bytes(11)), NORMAL, 0)


def test_a_parcel_stays_what_it_is(bench: Bench) -> None:
    """It is not copied on its way: whoever withdraws it later means this one."""
    parcel = Parcel(FrameKind.REQUEST, b"?")
    bench.sender.send_parcel(parcel, NORMAL, 0)
    assert bench.queue.take() is parcel
    link = bench.connect()
    bench.owner.worker.is_own_thread = True
    bench.owner.greeting = bench.owner.link
    bench.sender.send_parcel(parcel, NORMAL, 0)
    assert link.own[0] is parcel


def test_a_parcel_waits_for_room(bench: Bench) -> None:
    """As long as it is told to, across losses."""
    bench = Bench(size=1)
    bench.send("a")
    start = bench.clock.monotonic()
    with pytest.raises(QueueFullError):
        bench.sender.send_parcel(Parcel(FrameKind.REQUEST, b"?"), NORMAL, 5.0)
    assert bench.clock.monotonic() == start + 5.0
