"""A WebSocket server of the websockets library, in a thread, for tests of several folders."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.server import ServerConnection, serve


@contextmanager
def plain_server(handler: Callable[[ServerConnection], object], **options: Any) -> Iterator[str]:
    """Serve on a free port of 127.0.0.1; the value is the URL. Leaves nothing behind.

    Args:
        handler: Called with each connection, in a thread of its own.
        options: Of `websockets.sync.server.serve`.
    """
    with serve(handler, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join(20)
    for end in (server.shutdown_watcher, server.shutdown_notifier):
        if isinstance(end, int):  # websockets before 17 leaves this pipe open
            os.close(end)


def echo(connection: ServerConnection) -> None:
    """Say what is heard, until the client has gone."""
    for message in connection:
        connection.send(message)
