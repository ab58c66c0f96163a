"""From the reading thread to the application: by callback, and through the inbox."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
from loguru import logger

from tunnel.delivery import CallbackDelivery, Inbox
from tunnel.outbox import Message


@pytest.fixture
def log() -> Iterator[list[tuple[str, str]]]:
    """What is logged: level and text."""
    lines: list[tuple[str, str]] = []
    logger.enable("tunnel")
    sink = logger.add(
        lambda message: lines.append((message.record["level"].name, message.record["message"]))
    )
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


class Room:
    """Counts the calls of `on_room`."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def put(inbox: Inbox, *messages: Message) -> None:
    inbox.deliver(list(messages), sum(map(len, messages)))


# By callback


def test_a_callback_gets_each_message_in_order() -> None:
    """Each message is one call, in order; a callback is never full."""
    received: list[Message] = []
    delivery = CallbackDelivery(received.append)
    delivery.deliver(["a", b"b"], 2)
    delivery.deliver(["c"], 1)
    delivery.note_pause()
    assert received == ["a", b"b", "c"]
    assert delivery.is_full is False


def test_a_callback_that_raises_has_taken_its_message(log: list[tuple[str, str]]) -> None:
    """The error is logged, without the message; those after it are delivered."""
    received: list[Message] = []

    def on_message(message: Message) -> None:
        received.append(message)
        raise RuntimeError("cannot {bear} it")

    CallbackDelivery(on_message).deliver(["secret", "b"], 7)
    assert received == ["secret", "b"]
    assert log == [("ERROR", "on_message raised; its message counts as taken")] * 2


def test_a_callback_that_ends_the_process_is_obeyed() -> None:
    """`KeyboardInterrupt` and `SystemExit` are no errors, and not swallowed."""

    def on_message(message: Message) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CallbackDelivery(on_message).deliver(["a"], 1)


# The inbox in one thread


def test_messages_come_out_in_order() -> None:
    """First in, first out, over all batches; after `close` the iteration ends."""
    inbox = Inbox(1 << 20, Room())
    put(inbox, "a", b"b")
    put(inbox, "c")
    assert inbox.size == 3
    inbox.close()
    assert list(inbox) == ["a", b"b", "c"]
    assert inbox.size == 0
    assert list(inbox) == []


def test_a_break_loses_nothing() -> None:
    """Whoever leaves the loop and comes back goes on with the next message."""
    inbox = Inbox(1 << 20, Room())
    put(inbox, *"abcde")
    for message in inbox:
        assert message == "a"
        break
    for message in inbox:
        assert message == "b"
        break
    inbox.close()
    assert list(inbox) == ["c", "d", "e"]


def test_two_iterators_share_the_messages() -> None:
    """Each message goes to one of them."""
    inbox = Inbox(1 << 20, Room())
    put(inbox, *"abc")
    one, other = iter(inbox), iter(inbox)
    assert [next(one), next(other), next(one)] == ["a", "b", "c"]


def test_it_may_be_opened_again() -> None:
    """After `open` an iterator waits for messages again, instead of ending."""
    inbox = Inbox(1 << 20, Room())
    inbox.close()
    assert list(inbox) == []
    inbox.open()
    received: list[Message] = []
    waiting = threading.Thread(target=lambda: received.extend(inbox))
    waiting.start()
    put(inbox, "late")
    inbox.close()
    waiting.join(10)
    assert received == ["late"]


def test_it_is_full_from_the_high_water_mark_on() -> None:
    """Bytes count, and an overhead for each message; the mark itself is full."""
    inbox = Inbox(1000, Room())
    inbox.deliver(["x"], 1000 - 2 * 64 - 1)
    assert not inbox.is_full
    inbox.deliver(["y"], 0)
    assert not inbox.is_full
    inbox.deliver(["z"], 1)
    assert inbox.is_full


def test_empty_messages_fill_it_too() -> None:
    """A flood of empty messages is bounded as well."""
    inbox = Inbox(64 * 1000, Room())
    for number in range(1000):
        assert not inbox.is_full, number
        put(inbox, b"")
    assert inbox.is_full


def test_it_goes_on_at_half() -> None:
    """A pause ends once half of the messages are left, and that is told to the reading thread."""
    room = Room()
    inbox = Inbox(1000, room)
    for _ in range(10):
        inbox.deliver(["x"], 100 - 64)
    assert inbox.is_full
    taking = iter(inbox)
    for _ in range(4):
        next(taking)
        assert inbox.is_full
    assert room.calls == 0
    next(taking)
    assert room.calls == 1
    assert not inbox.is_full


def test_without_a_pause_nobody_is_woken() -> None:
    """Consumers that keep up do not wake the reading thread."""
    room = Room()
    inbox = Inbox(1000, room)
    for _ in range(50):
        put(inbox, "x")
        next(iter(inbox))
        assert not inbox.is_full
    assert room.calls == 0


def test_a_big_message_fills_it_alone() -> None:
    """One message above the mark pauses reading until it is taken."""
    room = Room()
    inbox = Inbox(1024, room)
    inbox.deliver([bytes(5000)], 5000)
    assert inbox.is_full
    next(iter(inbox))
    assert room.calls == 1
    assert not inbox.is_full


def test_what_was_consumed_before_it_looked_makes_room() -> None:
    """Bytes of messages that are gone do not count, however many there were."""
    inbox = Inbox(1000, Room())
    for _ in range(1000):
        inbox.deliver(["x"], 100)
        next(iter(inbox))
    assert not inbox.is_full
    for _ in range(6):
        inbox.deliver(["x"], 100)
    assert not inbox.is_full
    inbox.deliver(["x"], 100)
    assert inbox.is_full


def test_its_books_stay_small() -> None:
    """What it remembers of batches does not grow with what has passed."""
    inbox = Inbox(1 << 30, Room())
    for _ in range(1000):
        put(inbox, "a", "b")
        taking = iter(inbox)
        next(taking), next(taking)
    assert len(inbox._batches) <= 65
    assert inbox._held <= 65 * (2 + 2 * 64)


def test_a_pause_is_warned_of_once_if_nobody_reads(log: list[tuple[str, str]]) -> None:
    """Who forgot both `on_message` and `messages()` gets one hint."""
    inbox = Inbox(100, Room())
    inbox.deliver(["a", "b"], 200)
    assert inbox.is_full
    inbox.note_pause()
    inbox.note_pause()
    assert log == [
        ("WARNING", "2 messages wait and nobody reads them: give on_message or use messages()")
    ]


def test_a_slow_reader_is_not_warned_of(log: list[tuple[str, str]]) -> None:
    """Somebody who iterates is somebody, also if the inbox never was empty."""
    inbox = Inbox(100, Room())
    put(inbox, *"abc")
    next(iter(inbox))
    inbox.deliver(["d"], 200)
    assert inbox.is_full
    inbox.note_pause()
    assert log == []


# The inbox in several threads


@pytest.mark.parametrize("consumers", [1, 3])
def test_no_wake_up_is_lost(consumers: int) -> None:
    """However delivery and waiting interleave, every message arrives, once, and all end."""
    for _ in range(200):
        inbox = Inbox(1 << 20, Room())
        received: list[list[Message]] = [[] for _ in range(consumers)]
        threads = [
            threading.Thread(target=lambda r=r, inbox=inbox: r.extend(inbox)) for r in received
        ]
        for thread in threads:
            thread.start()
        expected = []
        for number in range(20):
            put(inbox, f"{number}")
            expected.append(f"{number}")
        inbox.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert sorted(m for r in received for m in r) == sorted(expected)
        for r in received:
            assert [int(m) for m in r] == sorted(int(m) for m in r)


def test_a_message_alone_wakes() -> None:
    """Message by message, each only after the last was taken: the wait is real each time."""
    inbox = Inbox(1 << 20, Room())
    taken = threading.Semaphore(0)
    received: list[Message] = []

    def consume() -> None:
        for message in inbox:
            received.append(message)
            taken.release()

    thread = threading.Thread(target=consume)
    thread.start()
    for number in range(200):
        put(inbox, f"{number}")
        assert taken.acquire(timeout=10)
    inbox.close()
    thread.join(10)
    assert received == [f"{number}" for number in range(200)]


def test_a_pause_always_ends() -> None:
    """A reading thread that waits for room while it is full is always woken."""
    for _ in range(200):
        room = threading.Event()
        inbox = Inbox(300, room.set)
        received: list[Message] = []
        thread = threading.Thread(target=lambda r=received, inbox=inbox: r.extend(inbox))
        thread.start()
        for number in range(50):
            while True:
                room.clear()
                if not inbox.is_full:
                    break
                assert room.wait(10)
            put(inbox, f"{number}")
            assert inbox.size <= 5  # the fifth crosses the mark
        inbox.close()
        thread.join(10)
        assert received == [f"{number}" for number in range(50)]


def test_closing_wakes_everyone() -> None:
    """All who wait for a message learn that there will be none."""
    for _ in range(200):
        inbox = Inbox(1 << 20, Room())
        threads = [threading.Thread(target=lambda inbox=inbox: list(inbox)) for _ in range(3)]
        for thread in threads:
            thread.start()
        inbox.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


# What was taken


def test_a_callback_takes_its_message_when_it_returns() -> None:
    """While it runs, its own message is not taken, and those before it are."""
    taken: list[int] = []
    delivery = CallbackDelivery(lambda _: taken.append(delivery.taken))
    delivery.deliver(["a", "b", "c"], 3)
    delivery.deliver(["d"], 1)
    assert taken == [0, 1, 2, 3]
    assert (delivery.taken, delivery.delivered) == (4, 4)
    assert delivery.tell_after(1) is False


def test_what_is_behind_the_end_of_a_thread_comes_first() -> None:
    """A callback that calls `sys.exit` has taken its message; those behind it are not lost."""
    received: list[Message] = []

    def on_message(message: Message) -> None:
        received.append(message)
        if message == "exit":
            raise SystemExit

    delivery = CallbackDelivery(on_message)
    with pytest.raises(SystemExit):
        delivery.deliver(["a", "exit", "b", "exit", "c"], 13)
    assert delivery.taken <= 2
    with pytest.raises(SystemExit):
        delivery.deliver(["d"], 1)
    assert delivery.taken <= 4
    delivery.deliver([], 0)
    assert received == ["a", "exit", "b", "exit", "c", "d"]
    assert (delivery.taken, delivery.delivered) == (6, 6)
    with pytest.raises(SystemExit):
        delivery.deliver(["exit"], 4)
    assert delivery.taken == 7


def test_another_thread_never_sees_too_much_taken() -> None:
    """However the two threads meet, nothing counts as taken before its callback has returned."""
    finished = 0
    too_many: list[tuple[int, int]] = []
    done = threading.Event()

    def on_message(message: Message) -> None:
        nonlocal finished
        finished += 1

    delivery = CallbackDelivery(on_message)

    def look() -> None:
        while not done.is_set():
            taken = delivery.taken
            if taken > finished:
                too_many.append((taken, finished))

    threads = [threading.Thread(target=look) for _ in range(2)]
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(3000):
            delivery.deliver(["a", "b", "c"], 3)
        done.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch_interval)
    assert too_many == []
    assert delivery.taken == 9000


def test_between_two_looks_a_whole_batch_may_arrive() -> None:
    """The count is read before the rest: a batch that arrives in between has not been taken."""

    class Late(CallbackDelivery):
        """Another thread delivers in the middle of a look."""

        @property
        def delivered(self) -> int:
            return self._delivered

        @delivered.setter
        def delivered(self, value: int) -> None:
            self._delivered = value

        @property
        def _rest(self) -> Iterator[Message] | None:
            rest: Iterator[Message] | None = self.__dict__["rest"]
            if self.__dict__.pop("meddles", False):
                self.__dict__["rest"] = iter(["a", "b"])
                self._delivered += 2
            return rest

        @_rest.setter
        def _rest(self, value: Iterator[Message] | None) -> None:
            self.__dict__["rest"] = value

    delivery = Late(lambda _: None)
    delivery.__dict__["meddles"] = True
    assert delivery.taken == 0


def test_a_message_is_taken_when_the_next_is_asked_for() -> None:
    """Or when its iterator is given up; not while a consumer is at it."""
    inbox = Inbox(1000, Room())
    assert inbox.taken == 0
    put(inbox, "a", "b", "c")
    assert inbox.taken == 0
    iterator = iter(inbox)
    assert next(iterator) == "a"
    assert inbox.taken == 0
    assert next(iterator) == "b"
    assert inbox.taken == 1
    del iterator
    assert inbox.taken == 2
    inbox.close()
    assert list(inbox) == ["c"]
    assert inbox.taken == 3


def test_the_oldest_message_in_hand_holds_up_the_rest() -> None:
    """Several consumers: taken is what comes before the first message that is not."""
    inbox = Inbox(1000, Room())
    put(inbox, "a", "b", "c", "d")
    slow, quick = iter(inbox), iter(inbox)
    next(slow)
    assert [next(quick), next(quick), next(quick)] == ["b", "c", "d"]
    assert inbox.taken == 0
    inbox.close()
    assert next(slow, None) is None
    assert inbox.taken == 3
    assert next(quick, None) is None
    assert inbox.taken == 4


def test_whoever_takes_enough_says_so_once() -> None:
    """Once the mark is passed the tunnel's thread is woken; and not again before it asks to be."""
    room = Room()
    inbox = Inbox(1000, room)
    put(inbox, *"abcdef")
    iterator = iter(inbox)
    assert inbox.tell_after(2) is True
    assert [next(iterator), next(iterator)] == ["a", "b"]
    assert room.calls == 0
    next(iterator)  # two are taken, this one is in hand
    assert (room.calls, inbox.taken) == (1, 2)
    assert inbox.tell_after(1) is False
    next(iterator)
    assert (room.calls, inbox.taken) == (2, 3)
    next(iterator)
    assert room.calls == 2


def test_whoever_takes_something_up_says_so() -> None:
    """Nought messages further: as soon as somebody is at one."""
    room = Room()
    inbox = Inbox(1000, room)
    put(inbox, "a", "b")
    inbox.tell_after(0)
    next(iter(inbox))
    assert room.calls == 1


def test_whoever_asks_in_vain_says_so() -> None:
    """With less than that in the inbox, the tunnel's thread is woken when all was taken."""
    woken = threading.Event()
    inbox = Inbox(1000, woken.set)
    put(inbox, "a")
    iterator = iter(inbox)
    next(iterator)
    inbox.tell_after(5)
    thread = threading.Thread(target=lambda: next(iterator, None))
    thread.start()
    assert woken.wait(20)
    assert inbox.taken == 1
    inbox.close()
    thread.join(20)


def test_a_pause_ends_though_its_mark_was_used_up() -> None:
    """A consumer that is late with its word for an earlier pause does not spoil the present one."""
    room = Room()
    inbox = Inbox(1000, room)
    put(inbox, *["x" * 100] * 10)
    assert inbox.is_full
    inbox._mark = -2  # as a consumer does that was about to speak in an earlier pause
    room()
    assert inbox.is_full  # so it looks again
    iterator = iter(inbox)
    for _ in range(5):
        next(iterator)
    assert room.calls == 2
    assert not inbox.is_full
    next(iterator)
    assert room.calls == 2


def test_consumers_never_let_it_run_ahead() -> None:
    """Many consumers, some of which give up now and then: what is taken has been finished."""
    inbox = Inbox(10_000, Room())
    total, batch = 20_000, 50
    finished = [0] * 4
    done = threading.Event()
    bad: list[tuple[int, int]] = []

    def consume(index: int) -> None:
        while not done.is_set():
            for count, _ in enumerate(inbox):
                finished[index] += 1
                if count % 97 == 96:
                    break

    def look() -> None:
        while not done.is_set():
            taken = inbox.taken
            if taken > sum(finished):
                bad.append((taken, sum(finished)))

    threads = [threading.Thread(target=consume, args=(index,)) for index in range(4)]
    threads.append(threading.Thread(target=look))
    for thread in threads:
        thread.start()
    for _ in range(total // batch):
        put(inbox, *["x"] * batch)
    while inbox.taken < total - 4:  # each of them may be at one
        assert not bad
    done.set()
    inbox.close()
    for thread in threads:
        thread.join(20)
    assert bad == []
    assert inbox.taken == sum(finished) == total
