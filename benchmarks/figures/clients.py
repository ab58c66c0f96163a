"""The contenders of the figures: the tunnel as users have it, and the bare libraries.

websocket-client imports wsaccel by itself if it is there, and is measured with it and without. For
that there are two copies of it in this process: "wsaccel" is the one that everybody has, and
"websocket-client" is imported once more while wsaccel cannot be found. Nothing is patched.

The bare clients have no time-outs, since a socket with one makes an additional system call for each
read. The servers see to it that nothing hangs: see `benchmarks.figures.serving`.
"""

from __future__ import annotations

import functools
import importlib
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from socket import SHUT_RDWR
from typing import Any

from tunnel import TunnelConfig, TunnelService

BARE = ("websocket-client", "wsaccel", "websockets")
"""The names of the bare clients; "wsaccel" is websocket-client with it."""

CLIENT = ("websocket-client", "wsaccel")
"""The bare websocket-client; where a goal names it, the better of the two counts."""

LIMIT = 30.0
"""Seconds that one measurement may take."""


@dataclass(frozen=True)
class Bare:
    """A connection of a bare client: its own methods, with nothing in between.

    Attributes:
        send_text: Sends a `str`.
        send_bytes: Sends `bytes`.
        receive: Waits for a message, and returns it.
    """

    send_text: Callable[[str], object]
    send_bytes: Callable[[bytes], object]
    receive: Callable[[], str | bytes]


@contextmanager
def bare(name: str, url: str, context: ssl.SSLContext | None = None) -> Iterator[Bare]:
    """Connect a bare client; in the end the connection is dropped.

    Args:
        name: One of `BARE`.
        url: Of the server.
        context: For wss.
    """
    if name == "websockets":
        from websockets.sync.client import connect

        with connect(url, ssl=context, compression=None, max_size=None) as client:
            try:
                yield Bare(client.send, client.send, client.recv)
            finally:
                client.socket.shutdown(SHUT_RDWR)  # so it waits for no closing handshake
    else:
        options = {"context": context} if context is not None else None
        module = websocket_client(is_accelerated=name == "wsaccel")
        socket = module.create_connection(url, sslopt=options)
        try:
            yield Bare(socket.send, socket.send_binary, socket.recv)
        finally:
            socket.shutdown()


@functools.cache
def websocket_client(*, is_accelerated: bool) -> Any:
    """The package `websocket`, with wsaccel or without."""
    if is_accelerated:
        importlib.import_module("wsaccel.xormask")  # else it would not be what it is called
        return importlib.import_module("websocket")
    before = {name: module for name, module in sys.modules.items() if _is_its(name)}
    for name in before:
        del sys.modules[name]
    hidden: dict[str, Any] = dict.fromkeys(("wsaccel", "wsaccel.xormask", "wsaccel.utf8validator"))
    sys.modules.update(hidden)  # None: it cannot be imported
    try:
        return importlib.import_module("websocket")
    finally:
        for name in [name for name in sys.modules if _is_its(name)]:
            del sys.modules[name]
        sys.modules.update(before)


@contextmanager
def tunnel(
    url: str,
    on_message: Callable[[Any], object] | None = None,
    *,
    context: ssl.SSLContext | None = None,
    config: TunnelConfig | None = None,
) -> Iterator[TunnelService]:
    """Connect a tunnel with the default settings; in the end the connection is dropped.

    After `LIMIT` seconds it is, too, so that nobody waits for ever for a message.

    Args:
        url: Of the server.
        on_message: As for `TunnelService`.
        context: For wss.
        config: Other settings.
    """
    service = TunnelService(config, on_message=on_message)
    drop = functools.partial(service.disconnect, graceful=False, timeout=2.0)
    limit = threading.Timer(LIMIT, drop)
    limit.daemon = True
    limit.start()
    try:
        service.connect(url, timeout=10.0, ssl_context=context)
        yield service
    finally:
        limit.cancel()
        drop()


def _is_its(module: str) -> bool:
    return module.partition(".")[0] in ("websocket", "wsaccel")
