"""The queue between handlers and a session."""

from __future__ import annotations

import math
import threading

import pytest

from tunnel.errors import InvalidStateError, QueueFullError
from tunnel.gateway.outbox import Outbox, payload_size
from tunnel.session_frames import FrameKind, Parcel


def make(max_items: int = 3, max_bytes: int = 100, thread: int = 0) -> tuple[Outbox, list[str]]:
    woken: list[str] = []
    return Outbox(max_items, max_bytes, thread, lambda: woken.append("woken")), woken


@pytest.mark.parametrize(("item", "size"), [("", 0), ("abc", 3), ("ü€", 5), (b"\xff\x00", 2)])
def test_sizes_are_those_on_the_wire(item: str | bytes, size: int) -> None:
    """Text counts as UTF-8."""
    assert payload_size(item) == size


def test_it_is_full_by_count_or_by_bytes() -> None:
    """What is put in is taken nevertheless: the one who puts has looked before."""
    outbox, _ = make()
    outbox.put("a")
    outbox.put("b")
    assert not outbox.is_full
    outbox.put("c")
    outbox.put("d")
    assert outbox.is_full
    assert outbox.take(10, 100, 0) == ["a", "b", "c", "d"]
    outbox.put("x" * 100)
    assert outbox.is_full
    assert (len(outbox), outbox.bytes) == (1, 100)


def test_what_is_taken_fits() -> None:
    """By count, by bytes together, and the first alone by a bound of its own."""
    outbox, _ = make()
    for item in ("aaa", "bb", "c"):
        outbox.put(item)
    assert outbox.take(0, 100, math.inf) == []
    assert outbox.take(2, 100, 0) == ["aaa", "bb"]
    outbox.put("ddd")
    assert outbox.take(9, 3, 0) == ["c"]
    assert outbox.take(9, 2, 2) == []
    assert outbox.take(9, 0, 3) == ["ddd"]
    outbox.put("")
    assert outbox.take(9, 0, 0) == [""]
    assert outbox.take(9, 0, 0) == []


def test_what_is_withdrawn_is_not_taken() -> None:
    """An answer that nobody wants any more leaves without a trace."""
    outbox, _ = make()
    outbox.put(Parcel(FrameKind.RESPONSE, b"1 first"))
    outbox.put("1 message")
    outbox.put(Parcel(FrameKind.RESPONSE, b"2 second"))
    outbox.withdraw(b"1")
    assert outbox.take(9, 100, 0) == ["1 message", b"2 second"]
    assert outbox.bytes == 0


def test_sending_wakes() -> None:
    """Who sends by himself has the loop look; who puts does so in its turn."""
    outbox, woken = make()
    outbox.put("a")
    assert woken == []
    outbox.send("b")
    assert woken == ["woken"]


def test_sending_waits_for_room() -> None:
    """It goes on once something was taken."""
    outbox, woken = make(max_items=1)
    outbox.put("a")
    thread = threading.Thread(target=outbox.send, args=("b",))
    thread.start()
    while not outbox._waiting:
        pass
    assert outbox.take(9, 100, 0) == ["a"]
    thread.join(10)
    assert woken == ["woken"]
    assert outbox.take(9, 100, 0) == ["b"]


def test_room_that_is_none_wakes_nobody() -> None:
    """While it is still full after a take, who waits goes on waiting."""
    outbox, _ = make(max_items=1)
    outbox.put("a")
    outbox.put("b")
    thread = threading.Thread(target=outbox.send, args=("c",))
    thread.start()
    while not outbox._waiting:
        pass
    assert outbox.take(1, 100, 0) == ["a"]
    assert outbox.take(1, 100, 0) == ["b"]
    thread.join(10)
    assert outbox.take(1, 100, 0) == ["c"]


def test_closing_lets_go_who_waits() -> None:
    """They are told that the session is over, as is whoever comes later; what is put is dropped."""
    outbox, woken = make(max_items=1)
    outbox.put("a")
    errors: list[BaseException] = []

    def send() -> None:
        try:
            outbox.send("b")
        except InvalidStateError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    while not outbox._waiting:
        pass
    outbox.close()
    thread.join(10)
    assert len(errors) == 1
    with pytest.raises(InvalidStateError, match="the session is over"):
        outbox.send("c")
    outbox.put("d")
    assert (len(outbox), outbox.bytes, woken) == (0, 0, [])


def test_the_event_loop_does_not_wait() -> None:
    """In its own thread `send` raises where it would wait."""
    outbox, _ = make(max_items=1, thread=threading.get_ident())
    outbox.send("a")
    with pytest.raises(QueueFullError):
        outbox.send("b")
    outbox.close()
    with pytest.raises(InvalidStateError):
        outbox.send("c")
