from __future__ import annotations

from typing import Any

import pytest

from tunnel.errors import ConnectionLostError
from tunnel.queue_flush import FlushableQueue, flush
from tunnel.request_queue import RequestQueue


def queue_of(*items: Any) -> RequestQueue:
    queue = RequestQueue()
    for item in items:
        queue.enqueue(item)
    return queue


def test_everything_goes_out_in_order() -> None:
    """Each item is sent once, confirmed after that, and counted."""
    queue: FlushableQueue = queue_of(1, 2, 3)
    sent: list[tuple[Any, int]] = []
    assert flush(queue, lambda item: sent.append((item, queue.size)), lambda: True) == (3, None)
    assert sent == [(1, 3), (2, 2), (3, 1)]
    assert queue.size == 0


def test_it_ends_when_the_link_does() -> None:
    """The question comes before an item is taken, so that none is in between."""
    queue = queue_of(1, 2, 3)
    sent: list[Any] = []
    assert flush(queue, sent.append, lambda: len(sent) < 2) == (2, None)
    assert queue.snapshot() == (3,)
    assert queue.waiting == 1


def test_what_could_not_be_sent_goes_back_to_the_front() -> None:
    """The error is translated; the items are all there, in order."""
    queue = queue_of(1, 2, 3)

    def send(item: int) -> None:
        if item == 2:
            raise BrokenPipeError("gone")

    sent, error = flush(queue, send, lambda: True)
    assert sent == 1
    assert isinstance(error, ConnectionLostError)
    assert [queue.dequeue() for _ in range(3)] == [2, 3, None]


def test_an_interrupt_passes_and_loses_nothing() -> None:
    """What is no Exception reaches the caller, after the item went back."""

    def send(item: int) -> None:
        raise KeyboardInterrupt

    queue = queue_of(1)
    with pytest.raises(KeyboardInterrupt):
        flush(queue, send, lambda: True)
    assert queue.waiting == 1
