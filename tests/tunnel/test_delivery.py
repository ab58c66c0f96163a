"""From the reading thread to the application: by callback, and through the inbox."""

from __future__ import annotations

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
