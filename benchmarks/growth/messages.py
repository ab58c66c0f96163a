"""Curves over the size of messages: received from a server that blasts, sent to one that counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.figures.clients import tunnel
from benchmarks.figures.servers import Blaster, Counter
from benchmarks.growth.countdown import Countdown
from benchmarks.growth.curve import Curve, Spent

_SIZES = (16, 128, 1024, 8 * 1024, 64 * 1024, 512 * 1024, 4 * 2**20, 16 * 2**20)
_BRIEF = (1024,)
_AT_MOST = 100_000  # messages
_BYTES = 64 * 2**20  # in all of them, at most


def _count(size: int, brief: bool) -> int:
    return 50 if brief else min(_AT_MOST, _BYTES // size)


@contextmanager
def _receive(size: int, brief: bool) -> Iterator[Callable[[], Spent]]:
    count = _count(size, brief)
    expected = Countdown()
    with (
        Blaster(size, count) as server,
        tunnel(server.url, lambda message: expected.note()) as service,
    ):

        def work() -> Spent:
            expected.start(count)
            start = time.perf_counter()
            service.send("go")
            expected.wait()
            return Spent(time.perf_counter() - start, count, size)

        yield work


@contextmanager
def _send(size: int, brief: bool) -> Iterator[Callable[[], Spent]]:
    count, payload = _count(size, brief), b"x" * size
    expected = Countdown()
    with (
        Counter() as server,
        tunnel(server.url_of(count, size), lambda message: expected.note()) as service,
    ):

        def work() -> Spent:
            expected.start(1)
            start = time.perf_counter()
            service.send_many(payload for _ in range(count))
            expected.wait()
            return Spent(time.perf_counter() - start, count, size)

        yield work


MESSAGES = (
    Curve(
        "receive-size",
        "receiving by on_message",
        "bytes in a message",
        "messages/s",
        _SIZES,
        _BRIEF,
        _receive,
        "A small message costs what its frame and the callback cost, {time[16]} with 16 B and "
        "{time[1024]} with 1 KiB. Beyond that its bytes are what costs, {time[65536]} with 64 KiB: "
        "they are read from the socket, {mib[65536]} there and {mib[16777216]} with 16 MiB, and "
        "the pieces of a large message are joined once. Memory is what was read at once and the "
        "messages in it, {memory[16]} with 16 B and {memory[1024]} with 1 KiB, until a message is "
        "larger than that; then it is twice the message, {memory[16777216]} with 16 MiB: its "
        "pieces, and the whole that is made of them.",
        is_per_item=True,
    ),
    Curve(
        "send-size",
        "send_many",
        "bytes in a message",
        "messages/s",
        _SIZES,
        _BRIEF,
        _send,
        "A small message costs what its frame costs, {time[16]} with 16 B and {time[1024]} with "
        "1 KiB; many share a system call. Beyond that its bytes are what costs, {time[65536]} with "
        "64 KiB: they are masked and written, {mib[65536]} there and {mib[16777216]} with 16 MiB. "
        "That is done in pieces of 64 KiB, so memory does not grow with the message: {memory[16]} "
        "with 16 B, {memory[16777216]} with 16 MiB.",
        is_per_item=True,
    ),
)
