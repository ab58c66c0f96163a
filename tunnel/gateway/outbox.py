"""What handlers want to send, until the session has room for it: a bounded queue between threads.

What a handler returns is always taken: the one who calls handlers looks at `is_full` before, and
stops. A handler that sends more by itself (`GatewaySession.send`) waits for room.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from tunnel.errors import InvalidStateError, QueueFullError
from tunnel.session import Item
from tunnel.session_frames import Parcel


class Outbox:
    """Messages and answers in the order in which they are to be sent. Thread-safe.

    Args:
        max_items: How many are enough.
        max_bytes: How many bytes are enough.
        thread: The event loop's, which never waits.
        wake: Called in the thread that has sent something, outside the lock.

    Attributes:
        bytes: What is waiting, together.
    """

    def __init__(
        self, max_items: int, max_bytes: int, thread: int, wake: Callable[[], None]
    ) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._thread = thread
        self._wake = wake
        self._room = threading.Condition(threading.Lock())  # guards all below
        self._items: deque[tuple[Item, int]] = deque()
        self.bytes = 0
        self._waiting = 0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        """Whether there is enough; what is put in nevertheless is taken."""
        return len(self._items) >= self._max_items or self.bytes >= self._max_bytes

    def put(self, item: Item) -> None:
        """Append, whether or not there is room. After `close` it is dropped."""
        size = payload_size(item)
        with self._room:
            if not self._is_closed:
                self._items.append((item, size))
                self.bytes += size

    def send(self, item: Item) -> None:
        """Append, and wait for room before, if need be.

        Raises:
            InvalidStateError: The session is over.
            QueueFullError: There is no room, and the event loop must not wait.
        """
        size = payload_size(item)
        with self._room:
            if self.is_full and not self._is_closed:
                if threading.get_ident() == self._thread:
                    raise QueueFullError("too much is waiting to be sent to this client")
                self._waiting += 1
                self._room.wait_for(lambda: self._is_closed or not self.is_full)
                self._waiting -= 1
            if self._is_closed:
                raise InvalidStateError("the session is over")
            self._items.append((item, size))
            self.bytes += size
        self._wake()

    def take(self, count: int, size: int, first: float) -> list[Item]:
        """The oldest, without those that were withdrawn.

        Args:
            count: How many at most.
            size: How many bytes they may have together.
            first: How many the first alone may have, if that is more.
        """
        taken: list[Item] = []
        if not self._items:
            return taken
        with self._room:
            items = self._items
            while items and len(taken) < count:
                item, length = items[0]
                if type(item) is Parcel and item.is_withdrawn:
                    items.popleft()
                    self.bytes -= length
                    continue
                if length > size and (taken or length > first):
                    break
                items.popleft()
                taken.append(item)
                size -= length
                self.bytes -= length
            if self._waiting and not self.is_full:
                self._room.notify_all()
        return taken

    def withdraw(self, prefix: bytes) -> None:
        """Let the parcels that begin like this not be sent."""
        with self._room:
            for item, _ in self._items:
                if type(item) is Parcel and item.startswith(prefix):
                    item.withdraw()

    def close(self) -> None:
        """Drop all there is and all that comes; who waits for room is told by an exception."""
        with self._room:
            self._is_closed = True
            self._items.clear()
            self.bytes = 0
            self._room.notify_all()


def payload_size(item: Item) -> int:
    """The bytes of a message on the wire."""
    if isinstance(item, str) and not item.isascii():
        return len(item.encode())
    return len(item)
