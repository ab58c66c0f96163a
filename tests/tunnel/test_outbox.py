from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.frames import Close, FrameDecoder, FrameEncoder, Incoming, Ping, Pong
from tunnel.outbox import FRAGMENT_SIZE, Message, Outbox
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.session_frames import FrameKind, Parcel
from tunnel.testing import FakeClock

NORMAL = RequestPriority.NORMAL
ENCODER = FrameEncoder()


class Connection:
    """An outbox, and what a peer makes of the bytes that were written of it."""

    def __init__(self, queue: RequestQueue, *, is_open: bool = True) -> None:
        self.queue = queue
        self.sent = 0
        self.outbox = Outbox(queue, ENCODER, self._count)
        self.outbox.is_open = is_open
        self._decoder = FrameDecoder(expect_masked=True, max_message_size=2**24)
        self.received: list[Incoming] = []

    def _count(self, number: int) -> None:
        self.sent += number

    @property
    def messages(self) -> list[Message]:
        return [item for item in self.received if isinstance(item, (str, bytes))]

    def take(self, data: bytes) -> None:
        self.received += self._decoder.feed(data)
        assert self._decoder.violation is None

    def write(self, size: int | None = None) -> int:
        """The kernel takes at most `size` bytes of the next piece; how many it took."""
        piece = self.outbox.piece()
        taken = len(piece) if size is None else min(size, len(piece))
        self.take(bytes(piece[:taken]))
        if taken:
            self.outbox.advance(taken)
        return taken

    def write_all(self) -> None:
        while self.outbox.has_work:
            assert self.write()


@pytest.fixture
def queue() -> RequestQueue:
    return RequestQueue(10_000, clock=FakeClock())


@pytest.fixture
def connection(queue: RequestQueue) -> Connection:
    return Connection(queue)


def test_a_new_outbox_has_nothing_to_write(connection: Connection) -> None:
    """Without work a piece is empty, and a message may be written past the queue."""
    assert not connection.outbox.has_work
    assert connection.outbox.is_idle
    assert not connection.outbox.piece()


def test_small_messages_go_out_in_one_piece_and_in_order(
    connection: Connection, queue: RequestQueue
) -> None:
    """Texts and bytes are joined, keep order and kind, and are confirmed when they are out."""
    queue.enqueue_many(["a", b"b", "", "ä" * 100])
    assert connection.outbox.has_work
    assert not connection.outbox.is_idle
    connection.write()
    assert connection.messages == ["a", b"b", "", "ä" * 100]
    assert connection.sent == 4
    assert queue.size == 0
    assert connection.outbox.is_idle


def test_a_message_is_confirmed_with_its_last_byte(
    connection: Connection, queue: RequestQueue
) -> None:
    """Until the last byte is written the queue keeps the message."""
    queue.enqueue(b"1234")
    connection.write(9)
    assert (queue.size, connection.sent) == (1, 0)
    connection.write(1)
    assert (queue.size, connection.sent) == (0, 1)


def test_a_piece_stays_the_same_until_it_is_written(
    connection: Connection, queue: RequestQueue
) -> None:
    """After a would-block the very same bytes come first, whatever was added meanwhile."""
    queue.enqueue(b"x" * 1000)
    before = bytes(connection.outbox.piece())
    connection.outbox.add_control(ENCODER.ping())
    connection.outbox.add_own(ENCODER.message("own"))
    queue.enqueue("more", RequestPriority.HIGH)
    assert bytes(connection.outbox.piece()) == before
    connection.write(400)
    assert bytes(connection.outbox.piece()) == before[400:]


def test_messages_wait_until_the_outbox_is_open(queue: RequestQueue) -> None:
    """Before the greeting is out only control frames and the connection's own messages go."""
    connection = Connection(queue, is_open=False)
    assert not connection.outbox.is_idle
    queue.enqueue("queued")
    assert not connection.outbox.has_work
    connection.outbox.add_own(ENCODER.message("log in"))
    connection.outbox.add_control(ENCODER.ping(b"p"))
    connection.write_all()
    assert connection.received == [Ping(b"p"), "log in"]
    connection.outbox.is_open = True
    connection.write_all()
    assert connection.messages == ["log in", "queued"]


def test_control_frames_go_before_own_messages_and_those_before_the_queue(
    connection: Connection, queue: RequestQueue
) -> None:
    """The order of a piece: control frames, the connection's own, the queue by its priorities."""
    queue.enqueue("low", RequestPriority.LOW)
    queue.enqueue("high", RequestPriority.HIGH)
    connection.outbox.add_own(ENCODER.message("own"))
    connection.outbox.add_control(ENCODER.ping(b"1"))
    connection.outbox.add_control(ENCODER.ping(b"2"))
    connection.write()
    assert connection.received == [Ping(b"1"), Ping(b"2"), "own", "high", "low"]


def test_of_the_answers_to_pings_that_are_messages_the_latest_counts(
    connection: Connection,
) -> None:
    """One waits, before own messages; like them it dies with the connection."""
    outbox = connection.outbox
    for number in range(3):
        outbox.add_beat(ENCODER.message(f"pong {number}"))
    outbox.add_own(ENCODER.message("own"))
    assert outbox.has_work
    assert not outbox.is_idle
    connection.write_all()
    assert connection.received == ["pong 2", "own"]
    outbox.add_beat(ENCODER.message("pong"))
    outbox.settle()
    assert not outbox.has_work


def test_control_frames_go_between_fragments_and_own_messages_do_not(
    connection: Connection, queue: RequestQueue
) -> None:
    """A ping overtakes the rest of a big message; a message must not (RFC 6455, section 5.4)."""
    big = "x" * (2 * FRAGMENT_SIZE + 1)
    queue.enqueue(big)
    queue.enqueue("after")
    connection.write()
    connection.outbox.add_own(ENCODER.message("own"))
    connection.outbox.add_control(ENCODER.ping(b"p"))
    connection.outbox.add_control(ENCODER.pong(b"q"))
    connection.write()
    assert set(connection.received) == {Ping(b"p"), Pong(b"q")}
    connection.write_all()
    assert connection.messages == [big, "own", "after"]
    assert connection.sent == 2


@pytest.mark.parametrize(
    ("size", "pieces"),
    [(FRAGMENT_SIZE, 1), (FRAGMENT_SIZE + 1, 2), (2 * FRAGMENT_SIZE, 2), (3 * FRAGMENT_SIZE, 3)],
)
def test_big_messages_go_out_in_fragments(
    connection: Connection, queue: RequestQueue, size: int, pieces: int
) -> None:
    """A message longer than a fragment takes as many pieces as it has fragments."""
    queue.enqueue(bytes(size))
    written = 0
    while connection.outbox.has_work:
        connection.write()
        written += 1
    assert written == pieces
    assert connection.messages == [bytes(size)]
    assert connection.outbox.is_idle


def test_the_kernels_share_of_a_big_message_does_not_confirm_it(
    connection: Connection, queue: RequestQueue
) -> None:
    """A big message is confirmed once, after its last fragment; till then nothing else is."""
    queue.enqueue(bytes(FRAGMENT_SIZE * 2))
    queue.enqueue("next")
    connection.write()
    assert (queue.size, connection.sent) == (2, 0)
    connection.write()
    assert (queue.size, connection.sent) == (1, 1)


def test_a_connection_that_dies_within_a_big_message_gives_it_back_whole(
    connection: Connection, queue: RequestQueue
) -> None:
    """Fragments that were written count for nothing without the last."""
    queue.enqueue(bytes(FRAGMENT_SIZE * 2))
    connection.write()
    connection.write(FRAGMENT_SIZE)  # its headers are left out
    connection.outbox.settle()
    assert connection.sent == 0
    assert queue.snapshot() == (bytes(FRAGMENT_SIZE * 2),)
    assert not queue.is_empty


def test_settling_counts_what_was_written_whole(
    connection: Connection, queue: RequestQueue
) -> None:
    """Of a piece written in part, whole messages are confirmed, the others first in the queue."""
    queue.enqueue_many([b"1", b"22", b"333"])
    connection.outbox.add_own(ENCODER.message("own"))
    connection.write(len(ENCODER.message("own")) + 7 + 8 + 8)
    assert connection.messages == ["own", b"1", b"22"]
    queue.enqueue(b"urgent", RequestPriority.HIGH)
    connection.outbox.settle()
    assert connection.sent == 2
    assert queue.snapshot() == (b"333", b"urgent")


def test_control_frames_and_own_messages_die_with_the_connection(
    connection: Connection, queue: RequestQueue
) -> None:
    """After settling, nothing of the old connection is left to write, and messages stay queued."""
    queue.enqueue("waiting")
    connection.outbox.add_control(ENCODER.ping())
    connection.outbox.add_control(ENCODER.pong())
    connection.outbox.add_own(ENCODER.message("own"))
    connection.outbox.settle()
    connection.outbox.is_open = False
    assert not connection.outbox.has_work
    assert queue.snapshot() == ("waiting",)
    after = Connection(queue)
    after.write_all()
    assert after.received == ["waiting"]


def test_a_message_written_directly_in_part_is_taken_over(
    connection: Connection, queue: RequestQueue
) -> None:
    """The rest of its frame goes first, and it is confirmed with the last byte."""
    frame = ENCODER.message("direct")
    connection.take(frame[:5])
    connection.outbox.adopt("direct", NORMAL, None, frame, 5)
    queue.enqueue("queued", RequestPriority.HIGH)
    assert queue.size == 2
    connection.write_all()
    assert connection.messages == ["direct", "queued"]
    assert connection.sent == 2


def test_a_message_written_directly_in_part_is_given_back(
    connection: Connection, queue: RequestQueue
) -> None:
    """If the connection dies, it goes first on the next one; its expiry counts again."""
    frame = ENCODER.message("direct")
    connection.outbox.adopt("direct", RequestPriority.LOW, 5.0, frame, 3)
    queue.enqueue("queued", RequestPriority.HIGH)
    connection.outbox.settle()
    assert connection.sent == 0
    assert queue.snapshot() == ("direct", "queued")


def test_an_expired_message_is_no_work() -> None:
    """What has expired while it waited is not written, and the outbox is idle again."""
    clock = FakeClock()
    connection = Connection(RequestQueue(clock=clock))
    connection.queue.enqueue("late", expires_in=1.0)
    clock.advance(2.0)
    assert not connection.outbox.has_work
    assert not connection.outbox.piece()


@pytest.mark.requirement("6.7")
def test_nothing_follows_a_close_frame(connection: Connection, queue: RequestQueue) -> None:
    """Behind a close frame no frame is written; messages wait (RFC 6455, section 5.5.1)."""
    connection.outbox.add_own(ENCODER.message("own"))
    queue.enqueue("queued")
    connection.outbox.add_control(ENCODER.ping(b"before"))
    connection.outbox.add_control(ENCODER.close(1000))
    connection.outbox.add_control(ENCODER.ping(b"behind"))
    assert connection.outbox.has_work
    connection.write_all()
    assert connection.received == [Ping(b"before"), Close(1000, "")]
    connection.outbox.add_control(ENCODER.pong(b"late"))
    assert not connection.outbox.has_work
    assert not connection.outbox.is_idle
    assert not connection.outbox.piece()
    connection.outbox.settle()
    assert connection.sent == 0
    assert queue.snapshot() == ("queued",)


def test_a_close_frame_written_in_part_is_still_work(connection: Connection) -> None:
    """The rest of the close frame goes out; then there is nothing more."""
    connection.outbox.add_control(ENCODER.close(1000))
    connection.write(3)
    assert connection.outbox.has_work
    connection.write_all()
    assert connection.received == [Close(1000, "")]


@pytest.mark.requirement("6.7")
def test_a_close_frame_ends_a_big_message(connection: Connection, queue: RequestQueue) -> None:
    """Fragments that are not out when the close frame goes are not written, and all is kept."""
    queue.enqueue(bytes(FRAGMENT_SIZE * 3))
    connection.write()
    connection.outbox.add_control(ENCODER.close(1001))
    connection.write_all()
    assert connection.received == [Close(1001, "")]
    connection.outbox.settle()
    assert queue.snapshot() == (bytes(FRAGMENT_SIZE * 3),)


def test_pongs_for_a_peer_that_does_not_read_are_bounded(connection: Connection) -> None:
    """The answers to the most recent pings are kept (RFC 6455, section 5.5.3), pings all."""
    for number in range(1000):
        connection.outbox.add_control(ENCODER.pong(b"%d" % number))
    connection.outbox.add_control(ENCODER.ping(b"ours"))
    assert len(connection.outbox.piece()) < 1000
    connection.write_all()
    assert connection.received[-2:] == [Pong(b"999"), Ping(b"ours")]


def test_the_buffer_of_a_written_piece_is_let_go(
    connection: Connection, queue: RequestQueue
) -> None:
    """An idle outbox does not hold on to the last thing that was written."""
    frame = bytearray(ENCODER.message(b"x" * 100))
    connection.outbox.adopt(b"x" * 100, NORMAL, None, frame, 0)  # type: ignore[arg-type]
    connection.outbox.advance(len(frame))
    frame.clear()  # BufferError if somebody still had a view of it


def test_an_interruption_while_confirming_confirms_nothing_else(queue: RequestQueue) -> None:
    """Ctrl-C between a write and its confirmation never makes another message count as written."""

    def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    outbox = Outbox(queue, ENCODER, interrupt)
    outbox.is_open = True
    queue.enqueue("written")
    written = len(outbox.piece())
    queue.enqueue("not written")
    with pytest.raises(KeyboardInterrupt):
        outbox.advance(written)
    outbox.settle()
    assert queue.snapshot() == ("not written",)


def test_what_cannot_be_encoded_stays_queued(connection: Connection, queue: RequestQueue) -> None:
    """A text that UTF-8 cannot express raises, and nothing of the queue is lost."""
    for text in ("\ud800", "x" * FRAGMENT_SIZE + "\ud800"):
        queue.enqueue(text)
        with pytest.raises(ValueError, match="lone surrogate"):
            connection.outbox.piece()
        connection.outbox.settle()
        assert queue.clear() == [text]


sizes = st.one_of(
    st.integers(0, 200),
    st.sampled_from([125, 126, 65535, FRAGMENT_SIZE, FRAGMENT_SIZE + 1, 2 * FRAGMENT_SIZE]),
    st.integers(60_000, 200_000),
)
kinds = st.sampled_from(["bytes", "ascii", "wide"])


def message_of(number: int, size: int, kind: str) -> Message:
    """A message that no other one equals, of about this size."""
    if kind == "bytes":
        return b"%06d" % number + bytes(size)
    return f"{number:06d}" + ("x" if kind == "ascii" else "€") * size


steps = st.one_of(
    st.tuples(st.just("queue"), sizes, kinds),
    st.tuples(st.just("direct"), st.integers(0, 300), kinds),
    st.tuples(st.just("ping"), st.just(0), kinds),
    st.tuples(st.just("own"), st.integers(0, 300), kinds),
    st.tuples(st.just("write"), st.integers(1, 150_000), kinds),
    st.tuples(st.just("write"), st.integers(1, 40), kinds),
    st.tuples(st.just("die"), st.just(0), kinds),
)


@pytest.mark.requirement("5.4")
@given(script=st.lists(steps, max_size=40), cut=st.integers(0, 60))
def test_nothing_is_lost_doubled_or_reordered_whatever_dies_where(
    script: list[tuple[str, int, str]], cut: int
) -> None:
    """What the peers got whole, over all connections, is what was sent; the rest is queued."""
    queue = RequestQueue(10_000)
    connection = Connection(queue)
    accepted: list[Message] = []
    own: list[Message] = []
    delivered: list[Message] = []
    counted = 0

    def end() -> None:
        """The connection dies: the queue has exactly what the peer does not."""
        nonlocal counted
        connection.outbox.settle()
        counted += connection.sent
        delivered.extend(item for item in connection.messages if item not in own)
        assert counted == len(delivered)
        assert delivered + list(queue.snapshot()) == accepted

    for number, (action, size, kind) in enumerate(script):
        if action == "queue":
            accepted.append(message_of(number, size, kind))
            queue.enqueue(accepted[-1])
        elif action == "direct" and connection.outbox.is_idle:
            message = message_of(number, size, kind)
            accepted.append(message)
            frame = ENCODER.message(message)
            written = min(cut, len(frame) - 1)
            connection.take(frame[:written])
            connection.outbox.adopt(message, NORMAL, None, frame, written)
        elif action == "ping":
            connection.outbox.add_control(ENCODER.ping(b"%d" % number))
        elif action == "own":
            own.append(message_of(number, size, kind))
            connection.outbox.add_own(ENCODER.message(own[-1]))
        elif action == "write":
            connection.write(size)
        elif action == "die":
            end()
            connection = Connection(queue)
    end()
    connection = Connection(queue)
    connection.write_all()
    end()
    assert delivered == accepted


# Another source than the queue


class Source:
    """Hands out what is there, and notes what it is told."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.room = 100
        self.calls: list[object] = []

    @property
    def waiting(self) -> int:
        return min(self.room, len(self.messages))

    def take_many(self, limit: int, max_bytes: int) -> list[Message]:
        count = min(limit, self.waiting)
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken

    def adopt(self, message: Message, priority: RequestPriority, expires_in: float | None) -> None:
        self.calls.append(("adopt", message))

    def confirm(self, count: int) -> None:
        self.calls.append(("confirm", count))

    def restore(self) -> None:
        self.calls.append("restore")


def test_a_source_without_room_is_no_work() -> None:
    """What a source does not call waiting is not there; once it does, it is."""
    source = Source(b"a", b"b")
    outbox = Outbox(source, ENCODER, source.calls.append)
    outbox.is_open = True
    source.room = 1
    assert outbox.has_work
    piece = outbox.piece()
    source.room = 0
    outbox.advance(len(piece))
    assert not outbox.has_work
    assert outbox.is_idle
    assert not outbox.piece()
    source.room = 1
    assert outbox.has_work
    assert source.calls == [("confirm", 1), 1]


def test_a_source_hears_what_became_of_its_messages() -> None:
    """Whole ones are confirmed, at the end too; then it is told that the rest was not."""
    source = Source(b"a", b"b", b"c")
    outbox = Outbox(source, ENCODER, source.calls.append)
    outbox.is_open = True
    frame = len(ENCODER.message(b"a"))
    outbox.piece()
    outbox.advance(2 * frame + 1)
    assert source.calls == []
    outbox.settle()
    assert source.calls == [("confirm", 2), 2, "restore"]
    outbox = Outbox(source, ENCODER, source.calls.append)
    source.calls.clear()
    outbox.adopt(b"d", NORMAL, None, ENCODER.message(b"d"), 3)
    outbox.settle()
    assert source.calls == [("adopt", b"d"), "restore"]


@pytest.mark.parametrize("kinds", ["P", "PP", "Pm", "mP", "mPm", "PmPPm", "mmPmP", "PBP", "BP"])
def test_requests_are_for_sessions(kinds: str) -> None:
    """One that was queued when there was a session is not what a plain peer gets to see."""
    queue = RequestQueue()
    expected: list[Message] = []
    for number, kind in enumerate(kinds):
        if kind == "P":
            queue.enqueue(Parcel(FrameKind.REQUEST, b"secret"))
        else:
            expected.append(bytes([number]) * (FRAGMENT_SIZE + 1 if kind == "B" else 1))
            queue.enqueue(expected[-1])
    connection = Connection(queue)
    while connection.outbox.has_work:
        connection.write()
    assert connection.messages == expected
    assert connection.sent == len(expected)
    assert queue.size == 0
    assert not connection.outbox.has_work


def test_a_request_behind_half_a_message() -> None:
    """What is not written when the connection ends is still in the queue, in order."""
    queue = RequestQueue()
    queue.enqueue_many(["a", Parcel(FrameKind.REQUEST, b"?"), "b"])
    connection = Connection(queue)
    connection.write(3)
    connection.outbox.settle()
    assert queue.snapshot() == ("a", b"?", "b")
