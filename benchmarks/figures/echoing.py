"""Echoes: one message at a time goes to a server and comes back.

The tunnel is measured as its documentation tells to use it: `on_message` has each echo, and sends
the next message. A thread that waits for messages in `messages()` is woken by the tunnel's, and so
pays for two changes of thread with each echo; for the round trip that is shown, too.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from benchmarks.figures.clients import BARE, CLIENT, LIMIT, Bare, bare, tunnel
from benchmarks.figures.measure import Contenders, Figure, Goal
from benchmarks.figures.servers import EchoServer, GatewayServer
from tunnel import TunnelConfig, TunnelService

_WORDS = "grüße, 你好 🙂 "
_TEXT = _WORDS * (64 * 1024 // len(_WORDS.encode()))
_SMALL, _LARGE = b"x" * 64, b"x" * 2**20
_WARM_UP = 20  # round trips that count for no percentile
_PLAIN = TunnelConfig(resume="off")

Times = list[float]
"""The seconds of each round trip."""
Value = Callable[[Times], float]
"""The value of a figure from them."""


def by_callback(
    message: str | bytes,
    count: int,
    url: str,
    context: ssl.SSLContext | None = None,
    config: TunnelConfig | None = None,
) -> Times:
    """Round trips of a tunnel, each started by `on_message` of the one before.

    Args:
        message: What is sent.
        count: How often.
        url: Of the server.
        context: For wss.
        config: For other settings than the defaults.
    """
    times, done, sent = [], threading.Event(), 0.0
    service: TunnelService

    def on_message(echo: str | bytes) -> None:
        nonlocal sent
        now = time.perf_counter()
        times.append(now - sent)
        if len(times) == count:
            done.set()
            return
        sent = time.perf_counter()
        service.send(message)

    with tunnel(url, on_message, context=context, config=config) as service:
        sent = time.perf_counter()
        service.send(message)
        if not done.wait(LIMIT):
            raise TimeoutError(f"{len(times)} of {count} echoes within {LIMIT:g} s")
    return times


def by_iterator(message: str | bytes, count: int, url: str) -> Times:
    """Round trips of a tunnel, by a thread that sends and waits in `messages()`."""
    with tunnel(url) as service:
        echoes = service.messages()
        return _exchange(service.send, partial(next, echoes), message, count)


def by_bare(
    name: str, message: str | bytes, count: int, url: str, context: ssl.SSLContext | None = None
) -> Times:
    """Round trips of a bare client."""
    with bare(name, url, context) as client:
        return _exchange(_sender(client, message), client.receive, message, count)


def per_second(times: Times) -> float:
    """Round trips a second."""
    return len(times) / sum(times)


def percentile(percent: int, times: Times) -> float:
    """What so many per cent of the round trips do not exceed, in microseconds."""
    return sorted(times[_WARM_UP:])[(len(times) - _WARM_UP - 1) * percent // 100] * 1e6


def _brief(message: str | bytes) -> int:
    return 50 if message is _SMALL else 3


def _sender(client: Bare, message: str | bytes) -> Callable[..., object]:
    return client.send_text if isinstance(message, str) else client.send_bytes


def _exchange(
    send: Callable[..., object], receive: Callable[[], object], message: str | bytes, count: int
) -> Times:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        send(message)
        receive()
        times.append(time.perf_counter() - start)
    return times


@contextmanager
def _echoes(
    message: str | bytes, count: int, value: Value, secure: bool, brief: bool
) -> Iterator[Contenders]:
    count = _brief(message) if brief else count
    with EchoServer(secure) as server:
        place = (server.url, server.client_context() if secure else None)

        def measure(name: str) -> float:
            # Without wsaccel, websocket-client checks each character of a text in Python.
            is_slow = name == "websocket-client" and isinstance(message, str)
            return value(by_bare(name, message, max(3, count // 10) if is_slow else count, *place))

        yield {
            "tunnel": lambda: value(by_callback(message, count, *place)),
            **{name: partial(measure, name) for name in BARE},
        }


@contextmanager
def _round_trips_by_iterator(value: Value, brief: bool) -> Iterator[Contenders]:
    with _echoes(_SMALL, 2_000, value, False, brief) as contenders, EchoServer() as server:
        count = _brief(_SMALL) if brief else 2_000
        yield {
            **contenders,
            "tunnel": lambda: value(by_iterator(_SMALL, count, server.url)),
        }


@contextmanager
def _sessions(brief: bool) -> Iterator[Contenders]:
    count = _brief(_TEXT) if brief else 400
    with GatewayServer("echo") as gateway:
        yield {
            "tunnel": lambda: per_second(by_callback(_TEXT, count, gateway.url)),
            "plain": lambda: per_second(by_callback(_TEXT, count, gateway.url, None, _PLAIN)),
        }


def _echo(
    name: str,
    title: str,
    contend: Callable[[bool], AbstractContextManager[Contenders]],
    goal: float,
    *peers: str,
) -> Figure:
    return Figure(f"echo-{name}", title, "echoes/s", contend, goal=Goal(goal, peers=peers))


def _round_trip(
    name: str,
    title: str,
    contend: Callable[[bool], AbstractContextManager[Contenders]],
    goal: float | None,
) -> Figure:
    return Figure(
        f"round-trip-{name}",
        f"round trip of 64 B, {title}",
        "us",
        contend,
        goal=None if goal is None else Goal(goal, at_least=False, peers=CLIENT),
        more_is_better=False,
    )


_TITLE = "echo of 64 KiB non-ASCII text"
_text = partial(_echoes, _TEXT, 300, per_second, False)
_secure_text = partial(_echoes, _TEXT, 300, per_second, True)
_binary = partial(_echoes, _LARGE, 60, per_second, False)
_secure_binary = partial(_echoes, _LARGE, 60, per_second, True)
_p50, _p99 = partial(percentile, 50), partial(percentile, 99)

FIGURES: tuple[Figure, ...] = (
    _echo("text-64k", _TITLE, _text, 1.0, "websockets"),
    _echo(
        "text-64k-pure",
        f"{_TITLE}, no wsaccel",
        _text,
        10.0,
        "websocket-client",
    ),
    _echo("binary-1m", "echo of 1 MiB", _binary, 1.4, "websockets"),
    _echo("wss-text-64k", f"{_TITLE}, wss", _secure_text, 1.0, *CLIENT),
    _echo("wss-binary-1m", "echo of 1 MiB, wss", _secure_binary, 1.0, *CLIENT),
    _echo("resuming-text-64k", f"{_TITLE} in a session", _sessions, 0.9, "plain"),
    _round_trip("p50", "p50", partial(_echoes, _SMALL, 2_000, _p50, False), 1.05),
    _round_trip("p99", "p99", partial(_echoes, _SMALL, 5_000, _p99, False), 1.2),
    _round_trip("iterator", "p50, messages()", partial(_round_trips_by_iterator, _p50), None),
)
"""Echoes, plain, by TLS and in sessions."""
