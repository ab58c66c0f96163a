"""Figures of what is there while nothing happens: memory and threads."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import websocket

from benchmarks.figures.fresh import memory_of, run_fresh
from benchmarks.figures.measure import TUNNEL, Contenders, Figure, Goal
from benchmarks.figures.servers import EchoServer, GatewayServer
from tunnel.session_frames import HEADER, VERSION, Limits, Open, Opened, encode, read_answer

_COUNT = 200  # connections of a trial
_SESSIONS = 2000
_SESSIONS_BEFORE = 50  # those that do not count
_TIMEOUT = 20.0  # seconds
_TRIAL = "benchmarks.figures.idle_trial"
_KINDS = {
    TUNNEL: "tunnel",
    "websocket-client": "websocket-client",
    "WebSocketApp": "app",
    "websockets": "websockets",
}
_HANDSHAKE = [f"{HEADER}: {VERSION}"]
_OPEN = encode(Open(Limits(1000, 2**24, 2**24)))


@contextmanager
def _idle(
    brief: bool, *, value: str, use: str = "new", secure: bool = False
) -> Iterator[Contenders]:
    count = 5 if brief else _COUNT
    kinds = dict(list(_KINDS.items())[:2]) if brief else _KINDS
    with tempfile.TemporaryDirectory() as folder, EchoServer(secure) as server:
        files = []
        if secure:
            authority = Path(folder) / "authority.pem"
            authority.write_text(_certificates(server.client_context()), "ascii")
            files.append(str(authority))

        def measure(kind: str) -> float:
            return run_fresh(_TRIAL, kind, server.url, str(count), use, *files)[value]

        yield {name: partial(measure, kind) for name, kind in kinds.items()}


def _certificates(context: ssl.SSLContext) -> str:
    """The authorities that a context trusts, in PEM."""
    return "".join(map(ssl.DER_cert_to_PEM_cert, context.get_ca_certs(binary_form=True)))


@contextmanager
def _sessions(brief: bool) -> Iterator[Contenders]:
    count = 50 if brief else _SESSIONS
    before = 5 if brief else _SESSIONS_BEFORE

    def of_gateway() -> float:
        with GatewayServer("echo") as server:
            return _growth(server.pid, partial(_open_session, server.url), before, count)

    def of_websockets() -> float:
        with EchoServer() as server:
            connect = partial(websocket.create_connection, server.url, timeout=_TIMEOUT)
            return _growth(server.pid, connect, before, count)

    yield {TUNNEL: of_gateway, "websockets": of_websockets}


def _open_session(url: str) -> Any:
    client = websocket.create_connection(url, header=_HANDSHAKE, timeout=_TIMEOUT)
    client.send_binary(_OPEN)
    answer = client.recv()
    if not isinstance(answer, bytes) or not isinstance(read_answer(answer), Opened):
        raise OSError("the gateway opened no session")
    return client


def _growth(process: int, connect: Callable[[], Any], before: int, count: int) -> float:
    """KiB by which a server grows with each of `count` connections, after those before them."""
    clients: list[Any] = []
    try:
        clients += [connect() for _ in range(before)]
        memory = memory_of(process)
        clients += [connect() for _ in range(count)]
        return (memory_of(process) - memory) / count
    finally:
        for client in clients:
            client.shutdown()


FIGURES: tuple[Figure, ...] = (
    Figure(
        "idle-threads",
        "idle connection: threads",
        "threads",
        partial(_idle, value="threads"),
        limit=round(1 + 2 / _COUNT, 2),  # one each, and two for all
        more_is_better=False,
    ),
    Figure(
        "idle-memory-ws",
        "idle connection: memory, ws",
        "KiB",
        partial(_idle, value="memory"),
        limit=46,
        more_is_better=False,
    ),
    Figure(
        "idle-memory-ws-used",
        "idle connection: memory, ws, after traffic",
        "KiB",
        partial(_idle, value="memory", use="used"),
        limit=46,
        more_is_better=False,
    ),
    Figure(
        "idle-memory-wss",
        "idle connection: memory, wss",
        "KiB",
        partial(_idle, value="memory", secure=True),
        goal=Goal(1.1, at_least=False, peers=("websocket-client",)),
        more_is_better=False,
    ),
    Figure(
        "gateway-memory",
        "gateway: memory per idle resumable session",
        "KiB",
        _sessions,
        limit=40,
        more_is_better=False,
    ),
)
"""What is held for nothing."""
