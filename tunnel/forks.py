"""What a forked child inherits of its parent's connections, and may not use.

Theory of operation
-------------------

After a fork the child has a copy of everything but the other threads: of sockets that are the
parent's, of locks that nobody will ever release, of a session that the parent goes on with. So in
the child, before anything else runs there, each object that is about a connection gives up its
parts (`disown`): in place of each stands `INHERITED`, and whatever is done with that raises
`InvalidStateError`. Descriptors are closed (`close_in_child`), so that nothing can be written to
the parent's connection, nor the connection be kept open when the parent has died.

All that costs a little when an object is made, and nothing when it is used. The parent does not
notice. Where the system cannot fork there is nothing to do.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from typing import Any, Final, NoReturn, Protocol

from tunnel.errors import InvalidStateError

_REFUSAL = "it was made in another process; make a new one after the fork"


class Inheritable(Protocol):
    """What registers itself (`register`)."""

    def leave_to_parent(self) -> None:
        """This is a forked child now: give up what is the parent's. No lock may be waited for."""
        ...


class _Inherited:
    """Stands in a forked child for a part of something that belongs to the parent.

    Raises:
        InvalidStateError: By whatever is done with it, but for looking what it is.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<inherited from another process>"

    def _refuse(self, *arguments: object) -> NoReturn:
        raise InvalidStateError(_REFUSAL)

    # Looking up and calling; `with`, and `for`; and what stands in an `if` or on one side of a sum.
    __getattr__ = __setattr__ = __call__ = _refuse
    __enter__ = __exit__ = __iter__ = __next__ = __getitem__ = __contains__ = _refuse
    __bool__ = __len__ = __lt__ = __gt__ = __add__ = __radd__ = __sub__ = _refuse


INHERITED: Final[Any] = _Inherited()
"""In place of each part of what a forked child must not use."""

_owners: weakref.WeakSet[Inheritable] = weakref.WeakSet()
_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def register(owner: Inheritable) -> None:
    """Have `owner` called in forked children, as long as it lives. From any thread."""
    _owners.add(owner)


def close_in_child(sock: socket.socket) -> None:
    """Have forked children close their copy of a socket; nothing is sent. From any thread."""
    _sockets.add(sock)


def disown(owner: object) -> None:
    """Put `INHERITED` in place of all that an object has. For `Inheritable.leave_to_parent`."""
    parts = getattr(owner, "__dict__", {})
    parts.update(dict.fromkeys(parts, INHERITED))
    for cls in type(owner).__mro__:
        for name in getattr(cls, "__slots__", ()):
            if not name.startswith("__"):
                setattr(owner, name, INHERITED)


def is_inherited(owner: object) -> bool:
    """Whether an object has been disowned; it must have a `__dict__`."""
    return next(iter(vars(owner).values()), None) is INHERITED


def leave_all_to_parent() -> None:
    """This is a forked child now, in which no other thread runs."""
    owners = list(_owners)  # held on to: none may be finalized before it has left its parts
    for sock in list(_sockets):
        sock.close()  # one descriptor less, also with TLS: neither an alert nor a shutdown
    for owner in owners:
        with contextlib.suppress(InvalidStateError):  # it was left before: to a parent's parent
            owner.leave_to_parent()


def leave_on_fork() -> None:
    """Have forked children leave everything to their parent. Called once, at import."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave_all_to_parent)


leave_on_fork()
