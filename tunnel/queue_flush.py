"""Sending what is queued, one item after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tunnel.errors import TunnelError


class FlushableQueue(Protocol):
    """What a flush needs of a queue; `tunnel.request_queue.RequestQueue` is one."""

    @property
    def size(self) -> int:
        """How many items are held, waiting or taken."""
        ...

    def take(self) -> Any:
        """Hand out the next item and keep it until it is confirmed; None: nothing is waiting."""
        ...

    def confirm(self, count: int = 1) -> None:
        """Forget the oldest taken items."""
        ...

    def restore(self) -> None:
        """Put everything that is taken back to the front."""
        ...


def flush(
    queue: FlushableQueue, send: Callable[[Any], object], is_connected: Callable[[], bool]
) -> tuple[int, TunnelError | None]:
    """Send the items in order, and confirm each when it was sent.

    An item whose `send` raises goes back to the front of the queue.

    Args:
        queue: Where the items are taken from.
        send: Sends one; it fails by raising.
        is_connected: Asked before each item; the flush ends when it says no.

    Returns:
        How many were sent, and what ended the flush before the queue was empty, if that was a
        `send`.

    Raises:
        BaseException: What `send` raises beyond `Exception`; the item went back before that.
    """
    sent = 0
    while is_connected() and (item := queue.take()) is not None:
        try:
            send(item)
        except Exception as exc:
            queue.restore()
            return sent, TunnelError.from_exception(exc)
        except BaseException:
            queue.restore()
            raise
        queue.confirm()
        sent += 1
    return sent, None
