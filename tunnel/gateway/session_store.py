"""The sessions of a gateway: found by name, kept for a while without a link, bounded. Pure.

Rules
-----

A session is *attached* while a link carries it and *detached* afterwards. A detached one is kept
for a limited time. Three bounds hold: on the number of all sessions, on that of each user, and on
the bytes held for detached ones. Where room is needed the session that has been detached longest
goes; an attached one never does, so if all are attached the newcomer is refused.

Whoever calls is handed what has gone, and tells it so.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from tunnel.clock import Clock

T = TypeVar("T")


class StoreFull(Exception):
    """There is no room for another session; its text says which bound was reached."""


@dataclass
class _Entry(Generic[T]):
    user: str
    value: T
    detached_at: float | None = None
    held: int = 0  # bytes; counted while detached


class SessionStore(Generic[T]):
    """Sessions by id. Not thread-safe.

    Args:
        clock: Measures how long a session has been detached.
        keep: Seconds for which a detached session is kept.
        max_sessions: Of all users.
        max_per_user: Of each.
        max_detached_bytes: Held for all detached sessions together.

    Attributes:
        detached_bytes: Held for all detached sessions now.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        keep: float,
        max_sessions: int,
        max_per_user: int,
        max_detached_bytes: int,
    ) -> None:
        self._clock = clock
        self._keep = keep
        self._max_sessions = max_sessions
        self._max_per_user = max_per_user
        self._max_detached_bytes = max_detached_bytes
        self.detached_bytes = 0
        self._entries: dict[bytes, _Entry[T]] = {}
        self._counts: dict[str, int] = {}
        # Ids of detached sessions, the longest detached first: of all, and of each user.
        self._detached: OrderedDict[bytes, None] = OrderedDict()
        self._detached_of: dict[str, OrderedDict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def detached(self) -> int:
        """How many sessions are detached."""
        return len(self._detached)

    def values(self) -> list[T]:
        """All sessions."""
        return [entry.value for entry in self._entries.values()]

    def add(self, identity: bytes, user: str, value: T) -> list[T]:
        """Add a session, attached.

        Returns:
            Those that had to go for it.

        Raises:
            StoreFull: All that could go are attached; nothing was changed.
        """
        gone: list[T] = []
        if self._counts.get(user, 0) >= self._max_per_user:
            own = self._detached_of.get(user)
            if not own:
                raise StoreFull("this user has as many sessions as are allowed")
            gone.append(self.remove(next(iter(own))))
        elif len(self._entries) >= self._max_sessions:
            if not self._detached:
                raise StoreFull("the gateway has as many sessions as it can")
            gone.append(self.remove(next(iter(self._detached))))
        self._entries[identity] = _Entry(user, value)
        self._counts[user] = self._counts.get(user, 0) + 1
        return gone

    def find(self, identity: bytes) -> T | None:
        """The session of this name; None if there is none, or its time is over."""
        entry = self._entries.get(identity)
        if entry is None or self._is_over(entry):
            return None
        return entry.value

    def attach(self, identity: bytes) -> None:
        """A link carries the session again."""
        entry = self._entries[identity]
        if entry.detached_at is not None:
            self._forget_detached(identity, entry)
            entry.detached_at = None

    def detach(self, identity: bytes, held: int) -> list[T]:
        """The session has lost its link.

        Args:
            identity: Its name; nothing happens if it is not here any more, or is detached.
            held: Bytes that are held for it.

        Returns:
            Those that had to go because of these bytes; it may be among them.
        """
        entry = self._entries.get(identity)
        if entry is None or entry.detached_at is not None:
            return []
        entry.detached_at = self._clock.monotonic()
        self._detached[identity] = None
        self._detached_of.setdefault(entry.user, OrderedDict())[identity] = None
        return self.resize(identity, held)

    def resize(self, identity: bytes, held: int) -> list[T]:
        """Other bytes are held for a detached session than before. See `detach`."""
        entry = self._entries.get(identity)
        if entry is None or entry.detached_at is None:
            return []
        self.detached_bytes += held - entry.held
        entry.held = held
        gone: list[T] = []
        while self.detached_bytes > self._max_detached_bytes:
            gone.append(self.remove(next(iter(self._detached))))
        return gone

    def expired(self) -> list[T]:
        """Remove the sessions whose time is over, and return them."""
        gone: list[T] = []
        while self._detached:
            identity = next(iter(self._detached))
            if not self._is_over(self._entries[identity]):
                break
            gone.append(self.remove(identity))
        return gone

    @property
    def next_expiry(self) -> float | None:
        """When the next session's time is over, on the clock's `monotonic()`; None: no one's."""
        if not self._detached:
            return None
        since = self._entries[next(iter(self._detached))].detached_at
        assert since is not None
        return since + self._keep

    def remove(self, identity: bytes) -> T:
        """Remove a session, and return it.

        Raises:
            KeyError: It is not here.
        """
        entry = self._entries.pop(identity)
        if entry.detached_at is not None:
            self._forget_detached(identity, entry)
        self._counts[entry.user] -= 1
        if not self._counts[entry.user]:
            del self._counts[entry.user]
        return entry.value

    def _is_over(self, entry: _Entry[T]) -> bool:
        since = entry.detached_at
        return since is not None and self._clock.monotonic() - since >= self._keep

    def _forget_detached(self, identity: bytes, entry: _Entry[T]) -> None:
        self.detached_bytes -= entry.held
        entry.held = 0
        del self._detached[identity]
        own = self._detached_of[entry.user]
        del own[identity]
        if not own:
            del self._detached_of[entry.user]
