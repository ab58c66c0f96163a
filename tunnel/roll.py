"""Which tunnels there are in this process, for whoever shows them all."""

from __future__ import annotations

import itertools
import weakref
from typing import TypeVar

from tunnel.forks import is_inherited

_T = TypeVar("_T")

# Without a lock: one that is held while another thread forks would be held for ever in the child.
_numbers = itertools.count(1)
_members: weakref.WeakValueDictionary[int, object] = weakref.WeakValueDictionary()


def enrol(tunnel: object) -> None:
    """Give a tunnel the next number; it is forgotten when it is garbage. From any thread."""
    _members[next(_numbers)] = tunnel


def enrolled(kind: type[_T]) -> list[tuple[int, _T]]:
    """Return the numbers and tunnels of one kind that live, the oldest first. From any thread.

    A forked child does not have those of its parent.
    """
    found = sorted(_members.valuerefs(), key=lambda reference: reference.key)
    alive = ((reference.key, reference()) for reference in found)
    return [
        (number, tunnel)
        for number, tunnel in alive
        if isinstance(tunnel, kind) and not is_inherited(tunnel)
    ]
