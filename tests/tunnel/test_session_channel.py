"""What threads do to the client's end of a session, against the session's other end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tunnel.errors import QueueStorageError
from tunnel.metrics_collector import MetricsCollector
from tunnel.outbox import Message
from tunnel.request_queue import RequestQueue
from tunnel.secrets import Secret
from tunnel.session import Item, Session
from tunnel.session_channel import SessionChannel
from tunnel.session_frames import (
    ASK_FRAME,
    FrameKind,
    Gone,
    Limits,
    Open,
    Parcel,
    Resume,
    SessionViolation,
)
from tunnel.session_lifecycle import SessionState
from tunnel.testing import FakeClock

LONG = 20.0
"""Seconds that something may take which is certain to happen."""

PLENTY = Limits(1000, 2**20, 2**20)
KEEP = (10_000, 2**24)


class Queue(RequestQueue):
    """Notes what it is told, and may be interrupted."""

    def __init__(self, max_size: int = 1000) -> None:
        super().__init__(max_size)
        self.acknowledged: list[int] = []
        self.numbers: list[int | None] = []
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def take_many(self, *args: Any, **options: Any) -> list[Any]:
        self.numbers.append(options.get("number"))
        self.before.get("take_many", int)()
        items = super().take_many(*args, **options)
        self.after.get("take_many", int)()
        return items

    def hand_over(self, count: int) -> None:
        self.before.get("hand_over", int)()
        super().hand_over(count)
        self.after.get("hand_over", int)()

    def put_back(self, items: Sequence[Any], numbers: Sequence[int]) -> None:
        self.before.get("put_back", int)()
        super().put_back(items, numbers)

    def acknowledge(self, number: int) -> None:
        self.acknowledged.append(number)
        super().acknowledge(number)


class Bench:
    """A channel with a session, and the other end of that."""

    def __init__(
        self,
        peer_limits: Limits = PLENTY,
        limits: Limits = PLENTY,
        keep: tuple[int, int] = KEEP,
        queue: Queue | None = None,
    ) -> None:
        self.queue = queue or Queue()
        self.metrics = MetricsCollector()
        self.answers: list[Parcel] = []
        self.settled = 0
        self.channel = SessionChannel(
            self.queue, self.metrics, on_answer=self.answer, on_settled=self.settle
        )
        self.limits, self.keep = limits, keep
        self.peer = self.new_peer(peer_limits)
        self.client = self.new_client()
        self.received: list[Item] = []
        self.open()

    def new_client(self) -> Session:
        return Session(self.limits, keep=self.keep, accepts=(FrameKind.RESPONSE,))

    def new_peer(self, limits: Limits) -> Session:
        return Session(limits, keep=KEEP, accepts=(FrameKind.REQUEST, FrameKind.CANCEL))

    def open(self) -> None:
        self.channel.carry(self.client)
        greeting = self.client.greeting()
        assert isinstance(greeting, Open)
        self.client.answered(self.peer.open(greeting, b"i" * 16, Secret("5e" * 32), 600))

    def resume(self) -> None:
        """The link is lost, and there is another one."""
        self.channel.restore()
        self.client.detach()
        greeting = self.client.greeting()
        assert isinstance(greeting, Resume)
        self.client.answered(self.peer.resume(greeting))

    def lose(self) -> None:
        """The link is lost, and the peer knows the session no more."""
        self.channel.restore()
        self.client.detach()
        self.client.greeting()
        assert not self.client.answered(Gone("forgotten"))

    def answer(self, parcel: Parcel) -> None:
        if parcel == b"nonsense":
            raise SessionViolation("an answer that is none")
        self.answers.append(parcel)

    def settle(self) -> None:
        self.settled += 1

    def write(self, limit: int = 512, max_bytes: int = 65536) -> list[Item]:
        """What a link does: take frames until there are no more. Returns what arrives."""
        got: list[Item] = []
        while self.channel.waiting:
            frames = self.channel.take_many(limit, max_bytes)
            assert frames
            got += self.peer.receive(frames)  # type: ignore[arg-type]
            assert self.peer.violation is None
            self.channel.note_written(len(frames))
        self.received += got
        return got

    def acknowledge(self) -> None:
        """The peer takes what it has, and says so."""
        self.peer.take(self.peer.received - self.peer.taken)
        assert self.channel.receive([self.peer.acknowledgement()]) == []


# Out: in order, as far as there is room


def test_messages_are_numbered_as_they_leave_the_queue() -> None:
    """What leaves the queue is in the session, and no more in the queue; order is kept."""
    bench = Bench()
    bench.queue.enqueue_many(["a", b"b", "ü"])
    assert bench.write() == ["a", b"b", "ü"]
    assert bench.queue.size == 0
    assert bench.queue.numbers == [1]
    assert bench.channel.unacknowledged == 3
    assert bench.channel.unacknowledged_messages() == ("a", b"b", "ü")


def test_without_a_session_nothing_waits() -> None:
    """A writer of a link that is over may still ask: there is nothing to write for it."""
    queue = Queue()
    channel = SessionChannel(queue, MetricsCollector(), on_answer=print, on_settled=lambda: None)
    queue.enqueue("a")
    assert channel.waiting == 0
    assert channel.unacknowledged == 0
    assert channel.unacknowledged_messages() == ()
    assert channel.position(0) is None
    channel.carry(Session(PLENTY, keep=KEEP))
    assert channel.waiting == 0  # nobody knows yet what the peer will hold
    assert channel.position(0) is None


def test_what_has_no_room_stays_in_the_queue() -> None:
    """A closed window leaves messages where senders wait for them; an acknowledgement opens it."""
    bench = Bench(Limits(2, 2**20, 2**20))
    bench.queue.enqueue_many(["a", "b", "c", "d", "e"])
    assert bench.write() == ["a", "b"]
    assert bench.queue.size == 3
    assert bench.channel.waiting == 0
    assert bench.channel.take_many(512, 65536) == []
    bench.acknowledge()
    assert bench.write() == ["c", "d"]
    bench.acknowledge()
    assert bench.write() == ["e"]
    bench.acknowledge()
    assert bench.queue.acknowledged == [2, 4, 5]


def test_our_own_bound_counts_as_well() -> None:
    """What this end wants to keep bounds what it numbers, however much the peer would hold."""
    bench = Bench(keep=(3, 100))
    bench.queue.enqueue_many(["a"] * 5)
    assert len(bench.write()) == 3
    bench.acknowledge()
    bench.queue.clear()
    bench.queue.enqueue_many([b"x" * 60, b"y" * 40, b"z"])
    assert bench.write() == [b"x" * 60, b"y" * 40]


@pytest.mark.parametrize("message", ["x" * 11, "ä" * 6, "€" * 4, "\U0001f600" * 3, b"x" * 11])
def test_room_is_measured_in_bytes(message: Message) -> None:
    """A text counts as its UTF-8, so that the peer never gets more than it offered to hold."""
    bench = Bench(Limits(100, 20, 1000))
    bench.queue.enqueue_many([message] * 3)
    assert bench.write() == [message]
    bench.acknowledge()
    assert bench.write() == [message]
    bench.queue.clear()
    assert bench.channel.send_directly(message) is None
    bench.channel.send_first(message, bench.channel.session)
    assert bench.channel.waiting == 0


def test_a_message_beyond_the_window_goes_alone() -> None:
    """A message that is larger than the whole window waits until nothing is unacknowledged."""
    bench = Bench(Limits(100, 10, 1000))
    bench.queue.enqueue_many(["a", "x" * 50, "b"])
    assert bench.write() == ["a"]
    bench.acknowledge()
    assert bench.write() == ["x" * 50]
    bench.acknowledge()
    assert bench.write() == ["b"]


def test_an_empty_message_needs_no_bytes() -> None:
    """With not a byte of room left an empty message still goes, and nobody spins over it."""
    bench = Bench(Limits(4, 10, 1000))
    bench.queue.enqueue_many(["x" * 10, "", b"", "y"])
    assert bench.write() == ["x" * 10, "", b""]
    assert bench.channel.waiting == 0


@pytest.mark.requirement("5.6")
def test_a_request_that_nobody_waits_for_is_not_sent() -> None:
    """A withdrawn request only uses its number up; its payload stays here."""
    bench = Bench()
    withdrawn, wanted = Parcel(FrameKind.REQUEST, b"x" * 99), Parcel(FrameKind.REQUEST, b"y")
    assert withdrawn.withdraw()
    bench.queue.enqueue_many(["a", withdrawn, wanted])
    assert bench.write() == ["a", wanted]
    assert bench.peer.received == 3
    assert bench.channel.unacknowledged == 3
    assert bench.channel.unacknowledged_messages() == ("a",)


# Directly


def test_a_message_goes_past_an_empty_queue() -> None:
    """Nothing before it, and room for it: it gets its number at once."""
    bench = Bench()
    frames = [bench.channel.send_directly(message) for message in ("a", b"b")]
    assert bench.peer.receive(frame for frame in frames if frame is not None) == ["a", b"b"]


def test_what_waits_goes_first() -> None:
    """Behind the queue, a replay, or the application's first words, a message has to wait."""
    bench = Bench(Limits(3, 2**20, 2**20))
    bench.queue.enqueue("a")
    assert bench.channel.send_directly("x") is None
    assert bench.write() == ["a"]
    bench.client.detach()
    bench.peer = bench.new_peer(PLENTY)  # one that has nothing
    bench.peer.open(Open(PLENTY), b"i" * 16, Secret("5e" * 32), 600)
    bench.resume()
    assert bench.channel.send_directly("x") is None
    assert bench.write() == ["a"]
    bench.channel.send_first("hello", bench.channel.session)
    assert bench.channel.send_directly("x") is None
    assert bench.write() == ["hello"]
    assert bench.channel.send_directly("x") is not None
    assert bench.channel.send_directly("no room") is None


# First, and once more


def test_replays_then_first_words_then_the_queue() -> None:
    """On a new link the old comes first, then what the application says, then what has waited."""
    bench = Bench()
    bench.queue.enqueue_many(["old 1", "old 2"])
    frames = bench.channel.take_many(512, 65536)
    bench.peer.receive(frames[:1])  # type: ignore[arg-type]
    bench.channel.note_written(1)  # and the link is lost
    bench.queue.enqueue("queued")
    bench.channel.send_first("hello", bench.channel.session)
    bench.channel.send_first(b"there", bench.channel.session)
    bench.resume()
    assert bench.write() == ["old 2", "hello", b"there", "queued"]
    assert bench.metrics.snapshot().messages_sent == 5
    assert bench.channel.replayed == 0
    bench.resume()
    assert bench.write() == []


def test_first_words_wait_for_room_and_hold_up_the_queue() -> None:
    """They are messages like others: no room, no number; and nothing gets before them."""
    bench = Bench(Limits(1, 2**20, 2**20))
    bench.queue.enqueue("old")
    bench.write()
    bench.resume()
    bench.channel.send_first("hello", bench.channel.session)
    bench.queue.enqueue("queued")
    assert bench.write() == []
    assert bench.channel.take_many(512, 65536) == []
    assert bench.channel.unacknowledged == 2
    assert bench.channel.unacknowledged_messages() == ("old", "hello")
    bench.acknowledge()
    assert bench.settled == 0
    assert bench.write() == ["hello"]
    bench.acknowledge()
    assert bench.settled == 1
    assert bench.write() == ["queued"]


def test_whoever_asks_need_not_have_the_role() -> None:
    """A thread may ask what waits while another takes the last of the first words."""
    bench = Bench()
    done = threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            while not done.is_set():
                bench.channel.waiting  # noqa: B018  # that it does not fail is what matters
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(2000):
        bench.channel.send_first(f"{number}", bench.channel.session)
        frames = bench.channel.take_many(512, 65536)
        assert bench.peer.receive(frames) == [f"{number}"]  # type: ignore[arg-type]
        bench.channel.note_written(1)
        bench.acknowledge()
    done.set()
    for thread in threads:
        thread.join(LONG)
    assert failures == []


def test_what_was_written_counts_once() -> None:
    """A message is counted as sent when it was written whole for the first time."""
    bench = Bench()
    bench.queue.enqueue_many(["a", "b", "c"])
    bench.channel.take_many(512, 65536)
    bench.channel.note_written(2)
    bench.resume()
    assert bench.metrics.snapshot().messages_sent == 2
    bench.write()
    assert bench.metrics.snapshot().messages_sent == 3
    assert bench.channel.replayed == 2


def test_what_is_begun_is_kept_already() -> None:
    """The outbox's words about parts of messages mean nothing here."""
    bench = Bench()
    frame = bench.channel.send_directly("a")
    assert frame is not None
    bench.channel.adopt(frame, None, None)  # type: ignore[arg-type]
    bench.channel.confirm(1)
    assert bench.queue.size == 0
    assert bench.channel.unacknowledged == 1


def test_only_messages_count_as_sent() -> None:
    """Requests, cancellations, and numbers without a message are no messages."""
    bench = Bench()
    withdrawn = Parcel(FrameKind.REQUEST, b"never")
    withdrawn.withdraw()
    request = Parcel(FrameKind.REQUEST, b"?")
    bench.queue.enqueue_many(["a", request, withdrawn, "b"])
    bench.channel.take_many(512, 65536)
    for count, messages in ((1, 1), (1, 1), (2, 2)):
        bench.channel.note_written(count)
        assert bench.metrics.snapshot().messages_sent == messages
    assert bench.channel.send_directly(Parcel(FrameKind.REQUEST, b"??")) is not None
    bench.channel.note_written(1)
    bench.channel.cancel(Parcel(FrameKind.CANCEL, b"12345678"))
    bench.channel.send_first("c", bench.channel.session)
    bench.resume()  # what was not counted by then is not counted twice
    bench.write()
    assert bench.metrics.snapshot().messages_sent == 3
    assert bench.channel.send_directly(b"d") is not None
    bench.channel.note_written(1)
    assert bench.metrics.snapshot().messages_sent == 4


# Cancelling


def test_a_cancellation_needs_no_room_in_the_queue() -> None:
    """It goes before what is queued, counts as unacknowledged, and is no message."""
    bench = Bench(queue=Queue(1))
    bench.queue.enqueue("fills it")
    cancel = Parcel(FrameKind.CANCEL, b"12345678")
    assert bench.channel.cancel(cancel)
    assert bench.channel.unacknowledged == 1
    assert bench.channel.unacknowledged_messages() == ()
    assert bench.write() == [cancel, "fills it"]


def test_a_cancellation_goes_with_its_session() -> None:
    """Another session knows nothing of the request; and without one there is nobody to tell."""
    bench = Bench()
    assert bench.channel.cancel(Parcel(FrameKind.CANCEL, b"12345678"))
    bench.lose()
    loss = bench.channel.lose("gone")
    assert (loss.unacknowledged, bench.channel.losses) == ([], 0)
    assert not bench.channel.cancel(Parcel(FrameKind.CANCEL, b"12345678"))
    bench.client, bench.peer = bench.new_client(), bench.new_peer(PLENTY)
    bench.open()
    assert bench.write() == []
    assert bench.channel.end() is not None
    assert not bench.channel.cancel(Parcel(FrameKind.CANCEL, b"12345678"))
    assert bench.channel.unacknowledged == 0


@pytest.mark.parametrize("withdrawn", [True, False])
def test_a_request_goes_directly_unless_it_is_withdrawn(withdrawn: bool) -> None:
    """Whoever comes first decides: it has its number, or never gets one."""
    bench = Bench()
    request = Parcel(FrameKind.REQUEST, b"?")
    if withdrawn:
        assert request.withdraw()
    assert (bench.channel.send_directly(request) is None) == withdrawn
    assert request.withdraw() == withdrawn
    assert request.is_withdrawn == withdrawn


# Interrupted


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["before take_many", "after take_many"])
def test_interrupted_before_the_number(where: str) -> None:
    """Ctrl-C between the queue and the session: the messages are in the queue again."""
    bench = Bench()
    bench.queue.enqueue_many(["a", "b"])
    getattr(bench.queue, where.split()[0])["take_many"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.channel.take_many(512, 65536)
    getattr(bench.queue, where.split()[0]).clear()
    bench.resume()
    bench.queue.enqueue("c")
    assert bench.write() == ["a", "b", "c"]
    assert bench.queue.size == 0
    bench.acknowledge()
    assert bench.channel.unacknowledged == 0


@pytest.mark.parametrize("where", ["before hand_over", "after hand_over"])
def test_interrupted_behind_the_number(where: str) -> None:
    """Ctrl-C a moment later: they have their numbers, and are not in the queue any more."""
    bench = Bench()
    bench.queue.enqueue_many(["a", "b"])
    getattr(bench.queue, where.split()[0])["hand_over"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.channel.take_many(512, 65536)
    getattr(bench.queue, where.split()[0]).clear()
    bench.resume()
    bench.queue.enqueue("c")
    assert bench.queue.snapshot() == ("c",)
    assert bench.write() == ["a", "b", "c"]
    assert bench.queue.size == 0


@pytest.mark.parametrize("where", ["before", "in", "after"])
@pytest.mark.parametrize("kind", ["word", "cancel"])
def test_interrupted_with_first_words(
    monkeypatch: pytest.MonkeyPatch, where: str, kind: str
) -> None:
    """Ctrl-C while they get their number: they are sent once, and the next ones after them."""
    bench = Bench()
    if kind == "word":
        words: list[Message] = ["hello", "hello"]
        for word in words:
            bench.channel.send_first(word, bench.channel.session)
    else:
        words = [Parcel(FrameKind.CANCEL, bytes(8)), Parcel(FrameKind.CANCEL, bytes(8))]
        for word in words:
            bench.channel.cancel(word)  # type: ignore[arg-type]
    send = bench.client.send

    def interrupted(items: Sequence[Any]) -> list[bytes]:
        if where == "in":  # one line into it
            bench.client._kept.append((items[0], len(items[0])))
        elif where == "after":
            send(items)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(bench.client, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.channel.take_many(512, 65536)
    bench.resume()
    assert bench.write() == words
    bench.acknowledge()
    assert bench.channel.unacknowledged == 0


# In


def test_what_is_new_comes_out_once() -> None:
    """Messages come out in order; what was there before a resume does not come again."""
    bench = Bench()
    first = bench.peer.send(["a", b"b"])
    assert bench.channel.receive(first) == ["a", b"b"]
    assert bench.channel.receive(first) == []
    assert bench.channel.duplicates == 2
    bench.resume()
    assert bench.channel.duplicates == 2
    assert bench.channel.receive(bench.peer.send(["c"])) == ["c"]


def test_answers_go_their_own_way() -> None:
    """Answers to requests are not delivered as messages; the order of both is kept."""
    bench = Bench()
    answer = Parcel(FrameKind.RESPONSE, b"yes")
    assert bench.channel.receive(bench.peer.send(["a", answer, b"b"])) == ["a", b"b"]
    assert bench.answers == [b"yes"]


def test_an_answer_that_is_none_breaks_the_protocol() -> None:
    """The messages before and behind it have arrived; no further answer is looked at."""
    bench = Bench()
    parcels = [Parcel(FrameKind.RESPONSE, text) for text in (b"yes", b"nonsense", b"no")]
    frames = bench.peer.send(["a", parcels[0], parcels[1], parcels[2], "b"])
    assert bench.channel.receive(frames) == ["a", "b"]
    assert bench.answers == [b"yes"]
    assert str(bench.client.violation) == "an answer that is none"


def test_a_text_message_breaks_the_protocol() -> None:
    """Within a session frames are binary; what came before the text has arrived."""
    bench = Bench()
    frames = bench.peer.send(["a", "b"])
    assert bench.channel.receive([frames[0], "text", frames[1]]) == ["a"]
    assert str(bench.client.violation) == "a text message within a session"


def test_the_first_violation_stands() -> None:
    """Another one before the text is the one that is reported."""
    bench = Bench()
    bench.channel.receive([b"\xff\0\0\0\0", "text"])
    assert "0xff" in str(bench.client.violation)


def test_the_queue_hears_of_acknowledgements() -> None:
    """The queue may forget what is acknowledged; nobody is told of settling before all is."""
    bench = Bench()
    bench.queue.enqueue_many(["a", "b"])
    frames = bench.channel.take_many(512, 65536)
    bench.channel.note_written(2)
    bench.peer.receive(frames[:1])  # type: ignore[arg-type]
    bench.acknowledge()
    assert (bench.queue.acknowledged, bench.settled) == ([1], 0)
    bench.acknowledge()  # the same once more: nothing new
    assert (bench.queue.acknowledged, bench.settled) == ([1], 0)
    bench.peer.receive(frames[1:])  # type: ignore[arg-type]
    bench.acknowledge()
    assert (bench.queue.acknowledged, bench.settled) == ([1, 2], 1)


# Acknowledging


def test_an_acknowledgement_is_due_by_count() -> None:
    """A quarter of the window is acknowledged at once, less when the time is up."""
    bench = Bench(limits=Limits(8, 2**20, 2**20))
    bench.channel.receive(bench.peer.send(["a", "b", "c"]))
    assert bench.channel.takes_until_due == 2
    assert bench.channel.has_untaken
    assert bench.channel.acknowledgement(0, is_late=True) is None
    assert bench.channel.acknowledgement(1, is_late=False) is None
    assert bench.channel.takes_until_due == 1
    frame = bench.channel.acknowledgement(2, is_late=False)
    assert frame is not None
    bench.peer.receive([frame])
    assert bench.peer.unacknowledged == 1
    assert bench.channel.acknowledgement(3, is_late=False) is None
    assert bench.channel.is_owing
    assert not bench.channel.has_untaken
    frame = bench.channel.acknowledgement(3, is_late=True)
    assert frame is not None
    bench.peer.receive([frame])
    assert bench.peer.unacknowledged == 0
    assert not bench.channel.is_owing


def test_an_older_count_says_nothing() -> None:
    """Two threads may come in the wrong order; what was taken stays taken."""
    bench = Bench()
    bench.channel.receive(bench.peer.send(["a", "b"]))
    assert bench.channel.acknowledgement(2, is_late=True) is not None
    assert bench.channel.acknowledgement(1, is_late=True) is None
    assert bench.client.taken == 2


def test_only_messages_of_this_session_count() -> None:
    """Messages of before that are taken now do not acknowledge those of this session."""
    bench = Bench()
    bench.lose()
    bench.channel.lose("gone")
    bench.client, bench.peer = bench.new_client(), bench.new_peer(PLENTY)
    bench.open()
    bench.channel.carry(bench.client, 10)
    bench.channel.receive(bench.peer.send(["a", "b"]))
    assert bench.channel.acknowledgement(10, is_late=True) is None
    assert bench.channel.acknowledgement(11, is_late=True) is not None
    assert bench.client.taken == 1


def test_answers_need_no_taking() -> None:
    """An answer is taken when it arrives, so with none before it, it can be acknowledged."""
    bench = Bench()
    bench.channel.receive(bench.peer.send([Parcel(FrameKind.RESPONSE, b"1"), "a"]))
    assert bench.channel.acknowledgement(0, is_late=True) is not None
    bench.channel.receive(bench.peer.send([Parcel(FrameKind.RESPONSE, b"2")]))
    assert bench.client.taken == 1
    assert bench.channel.acknowledgement(1, is_late=True) is not None
    assert bench.client.taken == 3


def test_whoever_asks_gets_an_answer() -> None:
    """When asked, what was taken is acknowledged at once."""
    bench = Bench()
    bench.channel.receive([*bench.peer.send(["a", "b"]), ASK_FRAME])
    frame = bench.channel.acknowledgement(1, is_late=False)
    assert frame is not None
    bench.peer.receive([frame])
    assert bench.peer.unacknowledged == 1


def test_the_position_is_that_of_the_message_in_hand() -> None:
    """The number of the message that is being handled; between two, that of the last."""
    bench = Bench()
    assert bench.channel.position(0) == (b"i" * 16, 0)
    bench.channel.receive(bench.peer.send(["a", Parcel(FrameKind.RESPONSE, b"1"), "b"]))
    assert bench.channel.position(0) == (b"i" * 16, 1)
    assert bench.channel.position(1) == (b"i" * 16, 3)
    assert bench.channel.position(2) == (b"i" * 16, 3)


def test_what_is_in_hand_may_be_of_an_earlier_session() -> None:
    """Then no message of the present one is, or it would count as handled after a kill."""
    bench = Bench()
    bench.channel.delivered_before = 7
    bench.channel.receive(bench.peer.send(["a", "b"]))
    assert bench.channel.position(5) == (b"i" * 16, 0)
    assert bench.channel.position(6) == (b"i" * 16, 0)
    assert bench.channel.position(7) == (b"i" * 16, 1)
    assert bench.channel.position(8) == (b"i" * 16, 2)


# Losing


@pytest.mark.requirement("1.7")
def test_what_was_never_written_returns_to_the_queue() -> None:
    """It is the first in the queue again; what was written is handed out, and not sent again."""
    bench = Bench()
    bench.queue.enqueue_many(["written", "half", "numbered", Parcel(FrameKind.REQUEST, b"?")])
    bench.channel.take_many(512, 65536)
    bench.channel.note_written(1)
    bench.queue.enqueue("later")
    bench.lose()
    loss = bench.channel.lose("gone")
    assert loss.unacknowledged == ["written"]
    assert bench.queue.snapshot() == ("half", "numbered", "later")
    assert (bench.channel.losses, bench.channel.returns) == (1, 1)
    assert bench.channel.session is None
    assert bench.channel.unacknowledged == 0


@pytest.mark.requirement("1.7")
@pytest.mark.parametrize("progress", ["no number", "numbered", "written", "acknowledged"])
def test_first_words_of_a_lost_session_are_handed_back(progress: str) -> None:
    """On the new link the application speaks again: sent once more, they would come twice."""
    bench = Bench(Limits(2, 2**20, 2**20))
    bench.queue.enqueue("old")
    bench.write()
    bench.channel.send_first("hello", bench.channel.session)
    if progress == "no number":
        bench.channel.send_first("there", bench.channel.session)  # for which there is no room
    if progress == "acknowledged":
        bench.write()
        bench.acknowledge()
    else:
        frames = bench.channel.take_many(512, 65536)
        bench.channel.note_written(len(frames) if progress == "written" else 0)
    bench.lose()
    bench.queue.enqueue("later")
    loss = bench.channel.lose("gone")
    expected = {"no number": ["old", "hello", "there"], "acknowledged": []}
    assert loss.unacknowledged == expected.get(progress, ["old", "hello"])
    assert bench.queue.snapshot() == ("later",)


def test_on_their_way_back_messages_still_count() -> None:
    """Between the session and the queue a message is unacknowledged: no flush overlooks it."""
    bench = Bench()
    seen: list[tuple[int, int]] = []
    bench.queue.before["put_back"] = lambda: seen.append(
        (bench.channel.unacknowledged, bench.channel.returns)
    )
    bench.queue.enqueue("numbered")
    bench.channel.take_many(512, 65536)
    bench.lose()
    bench.channel.lose("gone")
    assert seen == [(1, 0)]
    assert bench.channel.unacknowledged == 0
    assert (bench.channel.losses, bench.channel.returns) == (0, 1)


@pytest.mark.parametrize("is_closed", [False, True])
def test_what_the_queue_cannot_take_back_is_handed_back(is_closed: bool) -> None:
    """A failing disk or a closed queue: nothing vanishes, and no flush waits for ever."""
    bench = Bench()

    def fail() -> None:
        raise OSError("no space left")

    bench.queue.enqueue_many(["written", "numbered"])
    bench.channel.take_many(512, 65536)
    bench.channel.note_written(1)
    if is_closed:
        bench.queue.close()
    else:
        bench.queue.before["put_back"] = fail
    bench.lose()
    loss = bench.channel.lose("gone")
    assert loss.unacknowledged == ["written", "numbered"]
    assert (bench.channel.unacknowledged, bench.channel.losses) == (0, 1)


def test_statistics_cover_all_sessions() -> None:
    """Counts of sessions that are over, by loss or by agreement, are still in the sums."""
    bench = Bench()
    frames = bench.peer.send(["a"])
    bench.channel.receive([*frames, *frames])
    bench.queue.enqueue("x")
    bench.channel.take_many(512, 65536)
    bench.channel.note_written(1)
    bench.resume()
    bench.write()
    bench.acknowledge()
    assert (bench.channel.replayed, bench.channel.duplicates) == (1, 1)
    assert bench.channel.end() is not None
    bench.client, bench.peer = bench.new_client(), bench.new_peer(PLENTY)
    bench.open()
    assert (bench.channel.replayed, bench.channel.duplicates) == (1, 1)
    bench.lose()
    bench.channel.lose("gone")
    assert (bench.channel.replayed, bench.channel.duplicates) == (1, 1)


# Ending


def test_it_ends_when_nothing_is_unacknowledged() -> None:
    """The end is for a session that nobody needs; behind it nothing is numbered any more."""
    bench = Bench()
    bench.queue.enqueue("a")
    bench.write()
    assert bench.channel.end() is None
    assert not bench.channel.is_ended
    bench.acknowledge()
    frame = bench.channel.end()
    assert frame is not None
    bench.peer.receive([frame])
    assert bench.peer.ended_by_peer == ""
    assert bench.client.state == SessionState.ENDED
    assert bench.channel.is_ended
    assert bench.channel.end() is None
    assert bench.channel.send_directly("late") is None
    bench.queue.enqueue("later")
    assert bench.channel.waiting == 0
    assert bench.channel.take_many(512, 65536) == []
    assert bench.queue.snapshot() == ("later",)


@pytest.mark.parametrize("phase", ["none", "new", "detached"])
def test_without_a_link_it_does_not_end(phase: str) -> None:
    """Only a link can tell the peer."""
    bench = Bench()
    if phase == "detached":
        bench.client.detach()
    else:
        bench.channel.carry(None if phase == "none" else bench.new_client())
    assert bench.channel.end() is None


# Waiting


def test_waiting_until_all_is_acknowledged() -> None:
    """Whoever waits goes on when the last acknowledgement is there, and not before."""
    bench = Bench()
    assert bench.channel.wait_until_settled(0)
    bench.queue.enqueue_many(["a", "b"])
    bench.write()
    assert not bench.channel.wait_until_settled(0.01)
    outcome: list[bool] = []
    thread = threading.Thread(target=lambda: outcome.append(bench.channel.wait_until_settled(LONG)))
    thread.start()
    bench.acknowledge()
    thread.join(LONG)
    assert outcome == [True]


@pytest.mark.parametrize("was_written", [True, False])
def test_a_loss_ends_the_waiting(was_written: bool) -> None:
    """What is lost is not acknowledged; what goes out again is not lost."""
    bench = Bench()
    bench.queue.enqueue("a")
    bench.channel.take_many(512, 65536)
    if was_written:
        bench.channel.note_written(1)
    outcome: list[bool] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        outcome.append(bench.channel.wait_until_settled(LONG))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait(LONG)
    bench.lose()
    while not bench.channel._settled._waiters:  # type: ignore[attr-defined]
        assert thread.is_alive()
    bench.channel.lose("gone")
    thread.join(LONG)
    assert outcome == [not was_written]


@pytest.mark.parametrize("is_first", [False, True])
def test_a_full_disk_puts_messages_off(is_first: bool) -> None:
    """What cannot be numbered on file is not sent, not lost, and tried again a second later."""
    clock = FakeClock()
    retries: list[float] = []

    class FullDisk(RequestQueue):
        is_full_now = True

        def take_many(self, *args: Any, **options: Any) -> list[Any]:
            if self.is_full_now:
                raise QueueStorageError("the disk is full")
            return super().take_many(*args, **options)

        def record_number(self, number: int) -> None:
            if self.is_full_now:
                raise QueueStorageError("the disk is full")

    queue = FullDisk()
    channel = SessionChannel(
        queue,
        MetricsCollector(),
        on_answer=print,
        on_settled=lambda: None,
        on_retry=lambda: retries.append(clock.monotonic()),
        clock=clock,
    )
    session = Session(PLENTY, keep=KEEP)
    channel.carry(session)
    greeting = session.greeting()
    assert isinstance(greeting, Open)
    session.answered(Session(PLENTY, keep=KEEP).open(greeting, b"i" * 16, Secret("5e" * 32), 600))
    if is_first:
        channel.send_first("a", channel.session)
    else:
        queue.enqueue("a")
    assert channel.waiting
    assert channel.take_many(10, 1000) == []
    assert not channel.waiting
    assert channel.unacknowledged == is_first
    clock.advance(1.0)
    assert retries == [1.0]
    queue.is_full_now = False
    assert channel.waiting
    assert len(channel.take_many(10, 1000)) == 1
    assert not channel.waiting
