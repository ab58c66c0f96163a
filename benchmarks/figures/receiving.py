"""Receiving: how many messages a second, from a peer that sends as fast as it can.

The clock runs from the message that starts the peer to the last one that it sends, after the
handshake. The bare clients have neither callbacks nor queues, so each is read in a loop by the
thread that measures, which is the fastest that they can do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice

from benchmarks.figures import socketio_client as socketio
from benchmarks.figures.clients import BARE, CLIENT, LIMIT, bare, tunnel
from benchmarks.figures.measure import Contenders, Figure, Goal
from benchmarks.figures.servers import Blaster, GatewayServer, SessionServer
from benchmarks.figures.serving import blast_in_session

_BRIEF = 1_000
_HANDLER = f"{blast_in_session.__module__}:{blast_in_session.__name__}"


def by_callback(url: str, count: int, word: str = "go") -> float:
    """Messages a second that come to `on_message`.

    Args:
        url: Of a peer that sends so many for the first message.
        count: How many.
        word: That message.
    """
    arrived, all_there = 0, threading.Event()

    def on_message(message: object) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == count:
            all_there.set()

    with tunnel(url, on_message) as service:
        start = time.perf_counter()
        service.send(word)
        if not all_there.wait(LIMIT):
            raise TimeoutError(f"{arrived} of {count} messages within {LIMIT:g} s")
        return count / (time.perf_counter() - start)


def by_iterator(url: str, count: int) -> float:
    """Messages a second from `messages()`, in another thread than the tunnel's."""
    with tunnel(url) as service:
        messages = service.messages()
        start = time.perf_counter()
        service.send("go")
        arrived = sum(1 for _ in islice(messages, count))
        seconds = time.perf_counter() - start
    if arrived != count:
        raise ConnectionError(f"{arrived} of {count} messages")
    return count / seconds


def by_bare(name: str, url: str, count: int) -> float:
    """Messages a second that a bare client receives."""
    with bare(name, url) as client:
        receive = client.receive
        start = time.perf_counter()
        client.send_text("go")
        for _ in range(count):
            receive()
        return count / (time.perf_counter() - start)


@contextmanager
def _plain(
    receive: tuple[Callable[[str, int], float], Callable[[str, int], float]],
    size: int,
    many: int,
    brief: bool,
) -> Iterator[Contenders]:
    """By the tunnel, and by socketio; and by the bare clients.

    The tunnel is given so many messages; the others fewer, to take about as long.
    """
    ours, socketios = receive
    many, few, fewest = (_BRIEF, _BRIEF // 4, 50) if brief else (many, many // 15, 4_000)
    with (
        Blaster(size, many) as fast,
        Blaster(size, few) as slow,
        Blaster(size, fewest) as slowest,
    ):
        yield {
            "tunnel": partial(ours, fast.url, many),
            **{name: partial(by_bare, name, slow.url, few) for name in BARE},
            socketio.NAME: partial(socketios, slowest.url, fewest),
        }


@contextmanager
def _resuming(brief: bool) -> Iterator[Contenders]:
    many, few = (_BRIEF, _BRIEF // 4) if brief else (150_000, 15_000)
    with SessionServer(64, many) as fast, Blaster(64, few) as slow:
        yield {
            "tunnel": partial(by_callback, f"{fast.url}?blast", many),
            **{name: partial(by_bare, name, slow.url, few) for name in BARE},
        }


@contextmanager
def _from_gateway(brief: bool) -> Iterator[Contenders]:
    count = _BRIEF if brief else 50_000
    with GatewayServer(_HANDLER) as gateway:
        yield {"tunnel": partial(by_callback, gateway.url, count, str(count))}


def _figure(
    name: str,
    title: str,
    contend: Callable[[bool], AbstractContextManager[Contenders]],
    goal: float | None,
    peers: tuple[str, ...] = BARE,
) -> Figure:
    return Figure(
        f"receive-{name}",
        f"receive {title}",
        "messages/s",
        contend,
        goal=None if goal is None else Goal(goal, peers=peers),
    )


_callback = partial(_plain, (by_callback, socketio.receive_by_handler))
_iterator = partial(_plain, (by_iterator, socketio.receive_by_simple_client))

FIGURES: tuple[Figure, ...] = (
    _figure("callback-64", "by on_message, 64 B", partial(_callback, 64, 300_000), 10),
    _figure("callback-1k", "by on_message, 1 KiB", partial(_callback, 1024, 150_000), 5),
    _figure("iterator-64", "by messages(), 64 B", partial(_iterator, 64, 300_000), 8),
    _figure("iterator-1k", "by messages(), 1 KiB", partial(_iterator, 1024, 150_000), 4),
    _figure("resuming-64", "in a session, 64 B", _resuming, 4, CLIENT),
    _figure("gateway-64", "from a gateway, 64 B", _from_gateway, None),
)
"""Receiving, plain and in sessions."""
