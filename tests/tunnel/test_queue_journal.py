"""What a durable queue keeps on file, through the queue: read again as after a kill."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from loguru import logger

from tunnel.errors import InvalidStateError, PayloadTypeError, QueueFullError, QueueStorageError
from tunnel.queue_contents import SavedSession
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.secrets import Secret
from tunnel.session import Ticket
from tunnel.session_frames import FrameKind, Limits, Parcel
from tunnel.testing import FakeClock

HIGH, NORMAL, LOW = RequestPriority
SERVER = "wss://example.test/"
LIMITS = Limits(100, 10_000, 5_000)


def ticket(number: int = 1) -> Ticket:
    return Ticket(bytes([number]) * 16, Secret(f"{number:02x}" * 32), LIMITS, LIMITS, 600)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Disk:
    """Opens queues on one file; what they leave when they are killed is looked at in a copy."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self.folder = folder
        self.clock = clock
        self.path = folder / "queue.db"
        self._queues: list[RequestQueue] = []

    def open(self, path: Path | None = None, **options: Any) -> RequestQueue:
        options = {"max_size": 10, "clock": self.clock, **options}
        queue = RequestQueue(path=path or self.path, **options)
        self._queues.append(queue)
        return queue

    def after_kill(self, **options: Any) -> RequestQueue:
        """The queue that another process would find if this one were killed now."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for name in ("queue.db", "queue.db-wal"):
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, folder / name)
        return self.open(folder / "queue.db", **options)

    def left(self) -> tuple[Any, ...]:
        """What such a queue would hold."""
        with self.after_kill() as queue:
            return queue.snapshot()

    def session(self) -> SavedSession | None:
        """The session that it would go on with."""
        with self.after_kill() as queue:
            return queue.saved_session()

    def close(self) -> None:
        for queue in self._queues:
            queue.close()


@pytest.fixture
def disk(tmp_path: Path, clock: FakeClock) -> Iterator[Disk]:
    disk = Disk(tmp_path, clock)
    yield disk
    disk.close()


@pytest.fixture
def queue(disk: Disk) -> RequestQueue:
    return disk.open()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


def connection_of(queue: RequestQueue) -> sqlite3.Connection:
    journal: Any = queue._journal
    connection: sqlite3.Connection = journal._group._connection
    return connection


@contextmanager
def unwritable(queue: RequestQueue) -> Iterator[None]:
    """Nothing can be written meanwhile, as on a full disk."""
    connection_of(queue).execute("PRAGMA query_only=ON")
    yield
    connection_of(queue).execute("PRAGMA query_only=OFF")


def send(queue: RequestQueue, number: int, limit: int) -> list[Any]:
    """What a session does: take with numbers, and keep."""
    items = queue.take_many(limit, number=number)
    queue.hand_over(len(items))
    return items


class TestMessages:
    @pytest.mark.requirement("5.9")
    def test_what_was_accepted_is_there_after_a_kill(self, queue: RequestQueue, disk: Disk) -> None:
        """Text and bytes, of each priority, in the order in which they would have gone out."""
        queue.enqueue("low", LOW)
        queue.enqueue_many(["ä", b"\x00\xff", ""])
        queue.enqueue_beyond(b"", HIGH)
        assert disk.left() == queue.snapshot() == (b"", "ä", b"\x00\xff", "", "low")

    @pytest.mark.requirement("5.9")
    def test_only_high_priority_if_asked_for(self, disk: Disk) -> None:
        """With persist="high" the rest is kept in memory alone."""
        queue = disk.open(persist="high")
        for priority in RequestPriority:
            queue.enqueue_many([priority.value] * 2, priority)
        assert queue.size == 6
        assert (queue.persist, queue.is_durable) == ("high", True)
        assert disk.left() == ("high", "high")
        queue.close()
        assert disk.open(persist="all").snapshot() == ("high", "high")

    def test_what_is_handed_out_for_good_is_gone(self, queue: RequestQueue, disk: Disk) -> None:
        """`dequeue`, `confirm` and `clear` take it from the file before they return."""
        queue.enqueue_many([*"abcdef"])
        assert queue.dequeue() == "a"
        assert disk.left() == tuple("bcdef")
        assert queue.take_many(3) == ["b", "c", "d"]
        assert disk.left() == tuple("bcdef")
        queue.confirm(2)
        assert disk.left() == tuple("def")
        assert queue.clear() == ["e", "f"]
        assert disk.left() == ("d",)
        queue.restore()
        assert disk.left() == ("d",)
        assert queue.dequeue() == "d"
        assert disk.left() == ()
        assert queue.dequeue() is None
        assert queue.clear() == []

    def test_requests_are_not_put_on_file(self, queue: RequestQueue, disk: Disk) -> None:
        """A parcel waits in its line like others, and dies with the process."""
        parcel = Parcel(FrameKind.REQUEST, b"request")
        queue.enqueue_many(["a", parcel, "b"])
        queue.enqueue(parcel)
        assert queue.snapshot() == ("a", parcel, "b", parcel)
        assert disk.left() == ("a", "b")
        assert queue.take_many(2) == ["a", parcel]
        queue.confirm(2)
        assert disk.left() == ("b",)

    def test_what_is_being_written_need_not_be_on_file(
        self, queue: RequestQueue, disk: Disk
    ) -> None:
        """`adopt` is for what was never accepted; it comes and goes without the file."""
        queue.adopt("half")
        assert disk.left() == ()
        queue.confirm()
        assert queue.size == 0

    def test_more_than_the_bound_is_kept(self, disk: Disk) -> None:
        """A queue that is opened with a smaller bound has all, and refuses until it is below."""
        with disk.open() as queue:
            queue.enqueue_many(range_of_texts(10))
        queue = disk.open(max_size=3)
        assert queue.size == 10
        with pytest.raises(QueueFullError):
            queue.enqueue("x")
        assert queue.waiting_bytes == 10

    def test_backpressure_counts_what_was_found(self, disk: Disk) -> None:
        """A queue that is 80 % full from the beginning says so when it is not any more."""
        with disk.open() as queue:
            queue.enqueue_many(range_of_texts(9))
        queue = disk.open()
        signals: list[bool] = []
        queue.subscribe(lambda signal: signals.append(signal.should_throttle))
        queue.dequeue()
        queue.dequeue()
        assert signals == [False]

    @pytest.mark.parametrize("item", [7, bytearray(b"x"), memoryview(b"x"), ["x"]])
    def test_other_objects_are_refused(self, queue: RequestQueue, disk: Disk, item: object) -> None:
        """A file holds str and bytes; one wrong item refuses all of a call."""
        kind = type(item).__name__
        with pytest.raises(PayloadTypeError, match=f"holds str or bytes, not {kind}"):
            queue.enqueue(item)
        with pytest.raises(PayloadTypeError):
            queue.enqueue_many(["x", item])
        assert queue.size == len(disk.left()) == 0

    def test_a_text_without_encoding_gives_its_room_back(self, queue: RequestQueue) -> None:
        """A lone surrogate is refused, and the queue is as it was."""
        with pytest.raises(ValueError, match="surrogates"):
            queue.enqueue_many(["ok", "\ud800"])
        assert queue.enqueue_many(range_of_texts(11)) == 10

    def test_a_full_queue_writes_nothing(self, queue: RequestQueue, disk: Disk) -> None:
        """What is refused is not on file."""
        assert queue.enqueue_many(range_of_texts(12)) == 10
        with pytest.raises(QueueFullError):
            queue.enqueue("x")
        assert disk.left() == tuple(range_of_texts(10))

    def test_a_file_that_cannot_be_read_is_given_back(
        self, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What goes wrong after the file was opened is the usual error, and leaves no lock."""

        def fail(*_: object) -> None:
            raise sqlite3.DatabaseError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr("tunnel.queue_journal.QueueContents", fail)
            with pytest.raises(QueueStorageError, match="disk I/O error"):
                disk.open()
        disk.open()

    def test_persist_is_checked(self, tmp_path: Path) -> None:
        """A wrong word is a mistake, and no file is made for it."""
        with pytest.raises(ValueError, match=r"persist must be .* not 'some'"):
            RequestQueue(path=tmp_path / "q", persist="some")  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())


def range_of_texts(count: int) -> list[str]:
    return [chr(97 + number) for number in range(count)]


class TestExpiry:
    def test_an_expired_message_is_not_there_after_a_restart(
        self, disk: Disk, clock: FakeClock
    ) -> None:
        """Time passes while no process has the file."""
        with disk.open() as queue:
            queue.enqueue("short", expires_in=10)
            queue.enqueue("long", expires_in=100)
            queue.enqueue("for ever")
        clock.advance(50)
        queue = disk.open()
        assert queue.snapshot() == ("long", "for ever")
        assert queue.expired == 1
        clock.advance(50)
        assert queue.snapshot() == ("for ever",)
        assert queue.expired == 2

    def test_what_has_expired_leaves_the_file_with_the_next_change(
        self, queue: RequestQueue, disk: Disk, clock: FakeClock
    ) -> None:
        """A queue that only ever expires does not grow on disk."""
        queue.enqueue("x", expires_in=10)
        clock.advance(20)
        assert queue.size == 0
        queue.enqueue("y")
        rows = connection_of(queue).execute("SELECT payload FROM messages").fetchall()
        assert rows == [(b"y",)]

    def test_what_comes_back_is_judged_by_its_time(
        self, queue: RequestQueue, disk: Disk, clock: FakeClock
    ) -> None:
        """A taken message that has expired leaves the file when it is restored."""
        queue.enqueue("x", expires_in=10)
        queue.enqueue("y")
        queue.take_many(2)
        clock.advance(20)
        queue.restore()
        assert queue.snapshot() == ("y",)
        queue.close()
        assert disk.open().expired == 0


class TestSessions:
    def test_a_number_is_on_file_before_the_first_byte(
        self, queue: RequestQueue, disk: Disk
    ) -> None:
        """`take_many` with a number returns what another process would go on with."""
        queue.save_session(SERVER, ticket())
        assert disk.session() == SavedSession(SERVER, ticket(), 0, 0, {})
        queue.enqueue_many([*"abc"])
        assert queue.take_many(2, number=1) == ["a", "b"]
        assert disk.session() == SavedSession(SERVER, ticket(), 0, 2, {1: "a", 2: "b"})
        assert disk.left() == ("c",)

    def test_what_is_handed_over_stays_on_file_until_acknowledged(
        self, queue: RequestQueue, disk: Disk
    ) -> None:
        """In memory the room is free at once."""
        queue.save_session(SERVER, ticket())
        queue.enqueue_many([*"abcd"])
        send(queue, 1, 3)
        assert queue.size == 1
        queue.acknowledge(2)
        assert disk.session() == SavedSession(SERVER, ticket(), 2, 3, {3: "c"})
        send(queue, 4, 9)
        assert disk.session() == SavedSession(SERVER, ticket(), 2, 4, {3: "c", 4: "d"})
        queue.acknowledge(4)
        assert disk.session() == SavedSession(SERVER, ticket(), 4, 4, {})
        assert disk.left() == ()

    def test_numbers_without_a_message_are_known(self, disk: Disk) -> None:
        """Requests, and what is not kept, use numbers up; the last one is on file all the same."""
        queue = disk.open(persist="high")
        queue.save_session(SERVER, ticket())
        queue.enqueue_many([*"ab"])
        send(queue, 1, 9)
        assert disk.session() == SavedSession(SERVER, ticket(), 0, 2, {})
        queue.enqueue_many(["c", Parcel(FrameKind.REQUEST, b"")], HIGH)
        send(queue, 3, 9)
        assert disk.session() == SavedSession(SERVER, ticket(), 0, 4, {3: "c"})

    def test_a_number_may_be_given_past_the_queue(self, queue: RequestQueue, disk: Disk) -> None:
        """What never waited uses a number up as well; without a file there is nothing to note."""
        queue.save_session(SERVER, ticket())
        queue.record_number(3)
        assert disk.session() == SavedSession(SERVER, ticket(), 0, 3, {})
        with unwritable(queue), pytest.raises(QueueStorageError):
            queue.record_number(4)
        RequestQueue().record_number(1)

    def test_another_process_goes_on(self, disk: Disk) -> None:
        """It has the session until it goes on itself, and numbers what comes next."""
        with disk.open() as queue:
            queue.save_session(SERVER, ticket())
            queue.enqueue_many(["a", b"b", "c"])
            send(queue, 1, 2)
        queue = disk.open()
        saved = queue.saved_session()
        assert saved == SavedSession(SERVER, ticket(), 0, 2, {1: "a", 2: b"b"})
        assert saved is not None
        assert saved.ticket.token.reveal() == ticket().token.reveal()
        assert queue.size == 1
        send(queue, 3, 1)
        queue.acknowledge(1)
        assert queue.saved_session() is None
        assert disk.session() == SavedSession(SERVER, ticket(), 1, 3, {2: b"b", 3: "c"})

    def test_a_lost_session_leaves_what_was_never_written(
        self, queue: RequestQueue, disk: Disk, clock: FakeClock
    ) -> None:
        """It goes first, above the bound too, and is as if it never had a number."""
        queue.save_session(SERVER, ticket())
        queue.enqueue("a")
        queue.enqueue("b", LOW, expires_in=10)
        queue.enqueue("c", LOW)
        send(queue, 1, 3)
        queue.enqueue_many(range_of_texts(10))
        queue.put_back(["b", "c"], [2, 3])
        queue.forget_session()
        assert queue.snapshot() == ("b", "c", *range_of_texts(10))
        assert disk.left() == (*range_of_texts(10), "b", "c")
        assert disk.session() is None
        clock.advance(20)
        assert queue.snapshot()[:2] == ("c", "a")
        queue.save_session(SERVER, ticket(2))
        send(queue, 1, 2)
        assert disk.session() == SavedSession(SERVER, ticket(2), 0, 2, {1: "c", 2: "a"})
        queue.acknowledge(2)
        assert disk.left() == tuple(range_of_texts(10)[1:])

    def test_what_is_not_on_file_comes_back_too(self, disk: Disk, clock: FakeClock) -> None:
        """Its time of expiry is not known any more."""
        queue = disk.open(persist="high")
        queue.enqueue("x", expires_in=5)
        send(queue, 1, 1)
        queue.put_back(["x"], [1])
        clock.advance(10)
        assert queue.snapshot() == ("x",)
        assert disk.left() == ()
        queue.put_back([], [])
        assert queue.size == 1

    def test_restored_items_have_no_number(self, queue: RequestQueue, disk: Disk) -> None:
        """What was numbered and given back before it was handed over outlives the session."""
        queue.save_session(SERVER, ticket())
        queue.enqueue_many([*"ab"])
        queue.take_many(2, number=1)
        queue.restore()
        queue.forget_session()
        assert disk.left() == queue.snapshot() == ("a", "b")

    def test_a_queue_without_a_file_does_the_part_in_memory(self, clock: FakeClock) -> None:
        """Sessions treat every queue alike."""
        queue = RequestQueue(2, clock=clock)
        queue.save_session(SERVER, ticket())
        queue.enqueue_many([*"ab"])
        assert send(queue, 1, 9) == ["a", "b"]
        queue.enqueue_many([*"cd"])
        queue.acknowledge(1)
        queue.put_back(["b"], [2])
        queue.forget_session()
        assert queue.snapshot() == ("b", "c", "d")
        assert queue.saved_session() is None
        assert (queue.path, queue.is_durable, queue.skipped) == (None, False, 0)

    def test_handing_over_makes_room(self, queue: RequestQueue, clock: FakeClock) -> None:
        """Who waits for room is woken, as by a confirmation."""
        queue.enqueue_many(range_of_texts(10))
        clock.call_at(2.0, lambda: send(queue, 1, 1))
        assert queue.wait_for_room(9.0)
        assert clock.monotonic() == 2.0
        with pytest.raises(ValueError, match="cannot confirm 1 items: 0 are taken"):
            queue.hand_over(1)


class TestFailures:
    """The disk is full: what accepts or hands out raises, what states a fact does not."""

    def test_what_cannot_be_written_is_not_accepted(self, queue: RequestQueue, disk: Disk) -> None:
        """The error says which file and why, and the room is given back."""
        with unwritable(queue):
            for put in (queue.enqueue, queue.enqueue_beyond, lambda x: queue.enqueue_many([x])):
                with pytest.raises(QueueStorageError, match=r"queue\.db: attempt to write"):
                    put("x")
            assert queue.size == 0
        assert queue.enqueue_many(range_of_texts(11)) == 10
        assert disk.left() == tuple(range_of_texts(10))

    def test_a_full_disk_is_named(self, queue: RequestQueue, disk: Disk) -> None:
        """SQLite's own bound on pages shows what a full disk shows."""
        connection_of(queue).execute("PRAGMA max_page_count=5")
        with pytest.raises(QueueStorageError, match="database or disk is full") as caught:
            queue.enqueue(b"x" * 100_000)
        assert caught.value.context == {"path": str(disk.path)}
        queue.enqueue("small")
        assert disk.left() == ("small",)

    def test_what_cannot_be_taken_stays(self, queue: RequestQueue, disk: Disk) -> None:
        """`dequeue`, `clear` and numbering hand nothing out that the file would have again."""
        queue.save_session(SERVER, ticket())
        queue.enqueue_many([*"abc"])
        with unwritable(queue):
            for take in (queue.dequeue, queue.clear, lambda: queue.take_many(2, number=1)):
                with pytest.raises(QueueStorageError):
                    take()
                assert queue.snapshot() == ("a", "b", "c")
                assert queue.waiting == 3
        assert send(queue, 1, 2) == ["a", "b"]
        assert disk.session() == SavedSession(SERVER, ticket(), 0, 2, {1: "a", 2: "b"})

    def test_what_is_known_is_written_later(
        self, queue: RequestQueue, disk: Disk, warnings: list[str]
    ) -> None:
        """`confirm` and `acknowledge` do not raise; one warning, and the next change mends it."""
        queue.save_session(SERVER, ticket())
        queue.enqueue_many([*"abcd"])
        send(queue, 1, 2)
        queue.take()
        with unwritable(queue):
            queue.acknowledge(1)
            queue.confirm()
            queue.acknowledge(2)
            assert queue.snapshot() == ("d",)
        assert len(warnings) == 1
        assert "queue.db: attempt to write a readonly database" in warnings[0]
        assert disk.session() == SavedSession(SERVER, ticket(), 0, 2, {1: "a", 2: "b"})
        queue.enqueue("e")
        assert disk.session() == SavedSession(SERVER, ticket(), 2, 2, {})
        assert disk.left() == ("d", "e")
        with unwritable(queue):
            queue.acknowledge(2)
        assert len(warnings) == 2

    def test_what_is_owed_goes_before_the_next_numbers(
        self, queue: RequestQueue, disk: Disk
    ) -> None:
        """A session that was given up unwritten is not mixed with the next one."""
        queue.save_session(SERVER, ticket(1))
        queue.enqueue_many([*"abc"])
        send(queue, 1, 2)
        with unwritable(queue):
            queue.acknowledge(1)
            queue.put_back(["b"], [2])
            queue.forget_session()
            queue.save_session(SERVER, ticket(2))
            with pytest.raises(QueueStorageError):
                queue.take_many(1, number=1)
        assert disk.session() == SavedSession(SERVER, ticket(1), 0, 2, {1: "a", 2: "b"})
        assert send(queue, 1, 1) == ["b"]
        assert disk.session() == SavedSession(SERVER, ticket(2), 0, 1, {1: "b"})
        assert disk.left() == ("c",)

    def test_what_is_owed_is_written_at_the_end(self, queue: RequestQueue, disk: Disk) -> None:
        """`close` tries once more."""
        queue.enqueue_many([*"ab"])
        queue.take()
        with unwritable(queue):
            queue.confirm()
        queue.close()
        assert disk.left() == ("b",)

    def test_what_cannot_be_read_still_comes_back(
        self, queue: RequestQueue, warnings: list[str]
    ) -> None:
        """The session's unwritten messages are in memory, whatever the file says."""
        queue.enqueue("a")
        send(queue, 1, 1)
        connection_of(queue).execute("DROP TABLE numbers")
        queue.put_back(["a"], [1])
        assert queue.snapshot() == ("a",)
        assert len(warnings) == 1

    def test_an_interrupted_sender_knows_that_it_may_be_accepted(
        self, queue: RequestQueue, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ctrl-C during a commit: the message is on file and in its line, and no room is lost."""
        journal: Any = queue._journal
        settle = journal._group.settle

        def interrupted(change: Any) -> None:
            settle(change)
            raise KeyboardInterrupt

        monkeypatch.setattr(journal._group, "settle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            queue.enqueue("a")
        monkeypatch.undo()
        assert queue.snapshot() == disk.left() == ("a",)
        assert queue.enqueue_many(range_of_texts(10)) == 9


class TestClosing:
    def test_a_closed_queue_can_be_looked_at_and_not_changed(
        self, queue: RequestQueue, disk: Disk
    ) -> None:
        """Each call that would change it raises; closing again is harmless."""
        queue.enqueue_many([*"ab"])
        queue.take()
        queue.close()
        queue.close()
        assert (queue.snapshot(), queue.size, queue.waiting) == (("a", "b"), 2, 1)
        assert repr(queue) == "<RequestQueue 2 of 10, 1 taken>"
        calls: list[Callable[[], object]] = [
            lambda: queue.enqueue("x"),
            lambda: queue.enqueue_many(["x"]),
            lambda: queue.enqueue_beyond("x"),
            lambda: queue.adopt("x"),
            queue.dequeue,
            queue.take,
            queue.clear,
            queue.confirm,
            lambda: queue.hand_over(1),
            lambda: queue.put_back(["x"], [1]),
            lambda: queue.discard(["b"]),
        ]
        for call in calls:
            with pytest.raises(InvalidStateError, match="closed"):
                call()
        queue.acknowledge(1)  # from a thread that reads on
        assert disk.open().snapshot() == ("a", "b")

    def test_without_a_file_it_is_the_same(self) -> None:
        """A queue in memory is closed by leaving it, too."""
        with RequestQueue() as queue:
            queue.enqueue("x")
        assert queue.snapshot() == ("x",)
        with pytest.raises(InvalidStateError):
            queue.enqueue("y")

    def test_waiting_ends_when_the_queue_is_closed(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """Neither room nor emptiness comes to a closed queue."""
        queue.enqueue_many(range_of_texts(10))
        for wait in (queue.wait_for_room, queue.wait_until_empty):
            clock.call_at(clock.monotonic() + 1, queue.close)
            assert not wait(5.0)
        assert clock.monotonic() == 1.0  # the second wait found it closed

    def test_a_message_that_is_on_file_just_in_time_is_accepted(
        self, queue: RequestQueue, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Closed between commit and line: it is there for the next process."""
        journal: Any = queue._journal
        commit = journal.commit

        def closing(change: Any) -> None:
            commit(change)
            queue.close()

        monkeypatch.setattr(journal, "commit", closing)
        queue.enqueue("a")
        assert disk.left() == ("a",)

    def test_what_is_not_kept_is_not_accepted_too_late(
        self, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What would be in memory alone is refused by a queue that closes meanwhile."""
        queue = disk.open(persist="high")
        journal: Any = queue._journal

        def closing(change: Any) -> None:
            change.decide(None)
            queue.close()

        monkeypatch.setattr(journal, "commit", closing)
        with pytest.raises(InvalidStateError):
            queue.enqueue("a")


def test_threads_write_and_one_sends() -> None:
    """Producers, a session and its acknowledgements at once: in the end, nothing is left."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "q"
        arrived: list[tuple[int, str]] = []
        with RequestQueue(50, path=path) as queue:
            queue.save_session(SERVER, ticket())

            def produce(name: int) -> None:
                for number in range(100):
                    while not queue.enqueue_many([f"{name}:{number}"]):
                        assert queue.wait_for_room(30)

            producers = [threading.Thread(target=produce, args=(name,)) for name in range(4)]
            for thread in producers:
                thread.start()
            more = threading.Event()
            queue.subscribe(lambda _: more.set())
            number = 1
            while number <= 400:
                items = send(queue, number, 16)
                if not items:
                    more.wait(0.001)
                arrived += enumerate(items, number)
                number += len(items)
                if number % 3 == 0:
                    queue.acknowledge(number - 1)
            for thread in producers:
                thread.join(30)
            for name in range(4):
                assert [text for _, text in arrived if text.startswith(f"{name}:")] == [
                    f"{name}:{number}" for number in range(100)
                ]
        with RequestQueue(50, path=path) as queue:
            saved = queue.saved_session()
            assert saved is not None
            assert saved.last_number == 400
            assert saved.messages == {n: text for n, text in arrived if n > saved.acknowledged}
            assert queue.size == 0


class DurableModel(RuleBasedStateMachine):
    """A queue on disk and a session on it, killed and started again at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.disk = Disk(Path(self.folder.name), FakeClock())
        self.made = 0
        self.ticket = 0
        self.lines: dict[str, list[str]] = {p.value: [] for p in RequestPriority}
        self.front: list[str] = []
        self.taken: list[str] = []
        self.numbered: dict[int, str | None] = {}
        self.acknowledged = self.last_number = 0
        self.priority: dict[str, RequestPriority] = {}

    @initialize(persist=st.sampled_from(["all", "high"]))
    def begin(self, persist: str) -> None:
        self.persist = persist
        self.queue = self.disk.open(persist=persist, max_size=8)

    def teardown(self) -> None:
        self.disk.close()
        self.folder.cleanup()

    def waiting(self) -> list[str]:
        return [*self.front, *(text for line in self.lines.values() for text in line)]

    def pop(self, count: int) -> list[str]:
        popped = self.waiting()[:count]
        for line in (self.front, *self.lines.values()):
            line[:] = [text for text in line if text not in popped]
        return popped

    def is_kept(self, text: str | None) -> bool:
        return text is not None and (self.persist == "all" or self.priority[text] is HIGH)

    @rule(count=st.integers(1, 4), priority=st.sampled_from(RequestPriority))
    def enqueue(self, count: int, priority: RequestPriority) -> None:
        texts = [f"{self.made + n:04}" for n in range(count)]
        self.made += count
        accepted = self.queue.enqueue_many(texts, priority)
        room = 8 - len(self.waiting()) - len(self.taken)
        assert accepted == max(0, min(count, room))
        self.lines[priority.value] += texts[:accepted]
        self.priority.update(dict.fromkeys(texts, priority))

    @rule()
    def dequeue(self) -> None:
        assert self.queue.dequeue() == next(iter(self.pop(1)), None)

    @rule(count=st.integers(1, 4))
    def take(self, count: int) -> None:
        taken = self.pop(count)
        assert self.queue.take_many(count) == taken
        self.taken += taken

    @rule(part=st.floats(0, 1))
    def confirm_some_and_restore(self, part: float) -> None:
        count = round(part * len(self.taken))
        self.queue.confirm(count)
        self.queue.restore()
        self.front = self.taken[count:] + self.front
        self.taken = []

    @precondition(lambda self: not self.ticket)
    @rule()
    def open_session(self) -> None:
        self.ticket = self.made % 200 + 1
        self.queue.save_session(SERVER, ticket(self.ticket))
        self.acknowledged = self.last_number = 0

    @precondition(lambda self: self.ticket and not self.taken)
    @rule(count=st.integers(1, 4))
    def send(self, count: int) -> None:
        sent = self.pop(count)
        assert send(self.queue, self.last_number + 1, count) == sent
        self.numbered.update(enumerate(sent, self.last_number + 1))
        self.last_number += len(sent)

    @precondition(lambda self: self.numbered)
    @rule(part=st.floats(0, 1))
    def acknowledge(self, part: float) -> None:
        self.acknowledged += max(1, round(part * (self.last_number - self.acknowledged)))
        self.queue.acknowledge(self.acknowledged)
        self.numbered = {n: text for n, text in self.numbered.items() if n > self.acknowledged}

    @precondition(lambda self: self.ticket)
    @rule(part=st.floats(0, 1))
    def lose(self, part: float) -> None:
        written = self.acknowledged + round(part * (self.last_number - self.acknowledged))
        back = {n: text for n, text in self.numbered.items() if n > written and text is not None}
        self.queue.put_back(list(back.values()), list(back))
        self.queue.forget_session()
        self.front = [text for text in back.values() if text is not None] + self.front
        self.numbered, self.ticket = {}, 0

    @rule()
    def be_killed(self) -> None:
        killed = self.queue
        self.queue = self.disk.after_kill(persist=self.persist, max_size=8)
        killed.close()
        self.disk.folder = Path(str(self.queue.path)).parent
        texts = [text for text in [*self.taken, *self.waiting()] if self.is_kept(text)]
        for name, line in self.lines.items():
            line[:] = sorted(text for text in texts if self.priority[text].value == name)
        self.front, self.taken = [], []
        self.numbered = {n: t if self.is_kept(t) else None for n, t in self.numbered.items()}
        saved = self.queue.saved_session()
        if not self.ticket:
            assert saved is None
            return
        kept: dict[int, str | bytes] = {
            number: text for number, text in self.numbered.items() if text is not None
        }
        assert saved == SavedSession(
            SERVER, ticket(self.ticket), self.acknowledged, self.last_number, kept
        )

    @invariant()
    def both_hold_the_same(self) -> None:
        if hasattr(self, "queue"):
            assert list(self.queue.snapshot()) == [*self.taken, *self.waiting()]


TestDurableModel = pytest.mark.requirement("5.9")(DurableModel.TestCase)
TestDurableModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
