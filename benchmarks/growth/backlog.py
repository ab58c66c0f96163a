"""Curves over what waits: requests for their answers, messages for a link."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.figures.clients import LIMIT, tunnel
from benchmarks.figures.servers import Counter, GatewayServer
from benchmarks.growth.countdown import Countdown
from benchmarks.growth.curve import Curve, Spent
from tunnel import TunnelConfig, TunnelService

_SIZE = 1024  # bytes of a message that is queued
_REQUEST = b"x" * 64


@contextmanager
def _outstanding(count: int, brief: bool) -> Iterator[Callable[[], Spent]]:
    with GatewayServer("echo") as server, tunnel(server.url) as service:

        def work() -> Spent:
            start = time.perf_counter()
            futures = [service.submit(_REQUEST) for _ in range(count)]
            for future in futures:
                status = future.result(LIMIT).status_code
                if status != 200:
                    raise ValueError(f"a request was answered with {status}")
            return Spent(time.perf_counter() - start, count)

        yield work


@contextmanager
def _queued(count: int, brief: bool) -> Iterator[Callable[[], Spent]]:
    with Counter() as server:
        url = server.url_of(count, _SIZE)
        yield lambda: _queue(url, count)


def _queue(url: str, count: int) -> Spent:
    """Queue messages while there is no link, connect, and wait until the other end has them."""
    expected = Countdown()
    expected.start(1)
    config = TunnelConfig(max_queue_size=count)
    service = TunnelService(config, on_message=lambda message: expected.note())
    try:
        start = time.perf_counter()
        for _ in range(count):
            service.send(bytes(_SIZE))
        service.connect(url, timeout=LIMIT)
        expected.wait()
        return Spent(time.perf_counter() - start, count, _SIZE)
    finally:
        service.disconnect(graceful=False, timeout=2.0)


BACKLOG = (
    Curve(
        "requests",
        "requests through the gateway, all submitted at once",
        "requests outstanding",
        "requests/s",
        (1, 4, 16, 64, 256, 1024, 4096),
        (32,),
        _outstanding,
        "One request alone takes {time[1]}, most of which is waiting for threads to wake on both "
        "ends. The more are outstanding, the more share a system call and a waking, up to what "
        "the gateway answers in a second: {throughput[1]} one by one, {throughput[64]} with 64, "
        "{throughput[4096]} with 4,096, which take {time[4096]}: linear. So is memory, what is "
        "known of each until its future is done, with {memory[1]} for one and {memory[4096]} for "
        "4,096.",
    ),
    Curve(
        "queue",
        "queueing messages of 1 KiB without a link, and sending them with one",
        "messages queued",
        "messages/s",
        (64, 256, 1024, 4096, 16_384, 65_536),
        (64,),
        _queued,
        "Connecting costs the same however many wait, and is most of the {time[64]} with 64. "
        "Beyond that each message costs what it costs to queue it and to write it, whatever its "
        "place in the queue: {throughput[4096]} a second with 4,096, {throughput[65536]} with "
        "65,536. Memory is the messages themselves and some 100 bytes for each: {memory[65536]} "
        "for 65,536 of 1 KiB.",
    ),
)
