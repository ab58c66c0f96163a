"""Sending: how many messages a second reach a peer that does nothing but count.

The clock runs from the first call to the peer's answer that it has all, so what is still in a
buffer somewhere does not count as sent. The bare clients have no way to send many at once; there
they send one by one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import repeat
from typing import TypeVar

from benchmarks.figures import socketio_client as socketio
from benchmarks.figures.clients import BARE, CLIENT, LIMIT, bare, tunnel
from benchmarks.figures.measure import Contenders, Figure, Goal
from benchmarks.figures.servers import Counter, GatewayServer, SessionServer
from tunnel import TunnelService

_Message = TypeVar("_Message", str, bytes)

_BRIEF = 400
_THREADS = 8


def by_tunnel(
    url: str, count: int, size: int, send: Callable[[TunnelService, bytes, int], None]
) -> float:
    """Messages a second from a tunnel.

    Args:
        url: Of a peer that answers when it has all.
        count: How many messages.
        size: Bytes in each.
        send: Called with the tunnel, a message, and how often to send it.
    """
    with tunnel(url) as service:
        answers, message = service.messages(), b"x" * size
        start = time.perf_counter()
        send(service, message, count)
        if next(answers, None) is None:
            raise ConnectionError("the peer has not got everything")
        return count / (time.perf_counter() - start)


def in_session(url: str, count: int, size: int) -> float:
    """Messages a second that go out in a session by `send_many` and are acknowledged."""
    with tunnel(url) as service:
        start = time.perf_counter()
        service.send_many(repeat(b"x" * size, count))
        if not service.flush(LIMIT) or service.position is None:
            raise ConnectionError("the peer has not acknowledged everything, or has no session")
        return count / (time.perf_counter() - start)


def by_bare(name: str, url: str, count: int, size: int, *, in_threads: bool = False) -> float:
    """Messages a second from a bare client, sent one by one, by one thread or by several."""
    with bare(name, url) as client:
        start = time.perf_counter()
        (_repeat_in_threads if in_threads else _repeat)(client.send_bytes, b"x" * size, count)
        client.receive()
        return count / (time.perf_counter() - start)


def _send_each(service: TunnelService, message: bytes, count: int) -> None:
    _repeat(service.send, message, count)


def _send_in_threads(service: TunnelService, message: bytes, count: int) -> None:
    _repeat_in_threads(service.send, message, count)


def _many(service: TunnelService, message: bytes, count: int) -> None:
    service.send_many(repeat(message, count))


def _repeat(send: Callable[[_Message], object], message: _Message, count: int) -> None:
    for _ in range(count):
        send(message)


def _repeat_in_threads(send: Callable[[_Message], object], message: _Message, count: int) -> None:
    _in_threads(partial(_repeat, send, message, count // _THREADS), _THREADS)


def _in_threads(work: Callable[[], None], number: int) -> None:
    """Do it in so many threads, which begin together; what one raises comes out in the end."""
    barrier = threading.Barrier(number)
    errors: list[Exception] = []

    def run() -> None:
        try:
            barrier.wait(LIMIT)
            work()
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    if errors:
        raise errors[0]


@contextmanager
def _one_by_one(in_threads: bool, counts: tuple[int, int], brief: bool) -> Iterator[Contenders]:
    """The tunnel sends the first of the counts, the others the second: they take longer."""
    send = _send_in_threads if in_threads else _send_each
    contend = partial(_plain, send, 64, counts, in_threads, brief)
    few = _BRIEF if brief else counts[1]
    with contend() as contenders, Counter() as server:
        url = server.url_of(few, socketio.size_of(64))
        repeating = _repeat_in_threads if in_threads else _repeat
        yield {**contenders, socketio.NAME: partial(socketio.emit, url, few, 64, repeating)}


@contextmanager
def _plain(
    send: Callable[[TunnelService, bytes, int], None],
    size: int,
    counts: tuple[int, int],
    in_threads: bool,
    brief: bool,
) -> Iterator[Contenders]:
    """As `_one_by_one`, but without socketio, which cannot send many at once."""
    many, few = (_BRIEF, _BRIEF) if brief else counts
    with Counter() as server:
        url = server.url_of(few, size)
        each = partial(by_bare, url=url, count=few, size=size, in_threads=in_threads)
        yield {
            "tunnel": partial(by_tunnel, server.url_of(many, size), many, size, send),
            **{name: partial(each, name) for name in BARE},
        }


@contextmanager
def _resuming(brief: bool) -> Iterator[Contenders]:
    many, few = (_BRIEF, _BRIEF) if brief else (100_000, 15_000)
    with SessionServer(64, 0) as server, Counter() as counter:
        url = counter.url_of(few, 64)
        yield {
            "tunnel": partial(in_session, server.url, many, 64),
            **{name: partial(by_bare, name, url, few, 64) for name in BARE},
        }


@contextmanager
def _to_gateway(brief: bool) -> Iterator[Contenders]:
    with GatewayServer("sink") as gateway:
        yield {"tunnel": partial(in_session, gateway.url, _BRIEF if brief else 20_000, 64)}


def _figure(
    name: str,
    title: str,
    contend: Callable[[bool], AbstractContextManager[Contenders]],
    goal: float | None,
    peers: tuple[str, ...] = BARE,
) -> Figure:
    return Figure(
        f"send-{name}",
        title,
        "messages/s",
        contend,
        goal=None if goal is None else Goal(goal, peers=peers),
    )


_single = partial(_one_by_one, False, (20_000, 10_000))
_eight = partial(_one_by_one, True, (80_000, 16_000))
_many_small = partial(_plain, _many, 64, (150_000, 15_000), False)
_many_larger = partial(_plain, _many, 1024, (50_000, 10_000), False)

FIGURES: tuple[Figure, ...] = (
    _figure("one-64", "send one by one, 64 B", _single, 1.5),
    _figure("threads-64", "send one by one from 8 threads, 64 B", _eight, 6),
    _figure("many-64", "send_many, 64 B", _many_small, 6),
    _figure("many-1k", "send_many, 1 KiB", _many_larger, 3),
    _figure("resuming-64", "send_many in a session, 64 B", _resuming, 4, CLIENT),
    _figure("gateway-64", "send_many to a gateway, 64 B", _to_gateway, None),
)
"""Sending, plain and in sessions."""
