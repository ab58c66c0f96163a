from __future__ import annotations

import operator
import os
import socket

import pytest

from tunnel import forks
from tunnel.errors import InvalidStateError


class Owner:
    def __init__(self) -> None:
        self.part = [1]
        self.other = None

    def leave_to_parent(self) -> None:
        forks.disown(self)


class Nobody:
    pass


@pytest.mark.parametrize(
    "use",
    [
        lambda part: part.method,
        lambda part: part(),
        lambda part: setattr(part, "name", 1),
        lambda part: bool(part),
        lambda part: len(part),
        lambda part: iter(part),
        lambda part: next(part),
        lambda part: part[0],
        lambda part: 1 in part,
        lambda part: part + 1,
        lambda part: 1 + part,
        lambda part: part - 1,
        lambda part: operator.lt(part, 1),
        lambda part: operator.gt(part, 1),
        lambda part: part.__enter__(),
    ],
)
def test_whatever_is_done_with_an_inherited_part_says_what_is_wrong(use: object) -> None:
    """The error says that it was made in another process, and what to do."""
    with pytest.raises(InvalidStateError, match="made in another process; make a new one"):
        use(forks.INHERITED)
    with pytest.raises(InvalidStateError), forks.INHERITED:
        pass
    assert "another process" in repr(forks.INHERITED)


def test_a_child_has_nothing_of_what_was_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets are closed, and owners disowned; who does not live any more is no trouble."""
    monkeypatch.setattr(forks, "_owners", forks.weakref.WeakSet())
    monkeypatch.setattr(forks, "_sockets", forks.weakref.WeakSet())
    owner = Owner()
    forks.register(owner)
    forks.register(Owner())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        forks.close_in_child(ours)
        assert not forks.is_inherited(owner)
        forks.leave_all_to_parent()
        assert forks.is_inherited(owner)
        assert owner.part is owner.other is forks.INHERITED
        assert ours.fileno() == -1
        assert theirs.recv(1) == b""


def test_parts_in_slots_are_given_up_too() -> None:
    """Whether an owner has slots, inherited ones too, or a `__dict__`, or both, makes no odds."""

    class Slotted:
        __slots__ = ("__weakref__", "part")

    class Mixed(Slotted):
        pass

    slotted, mixed = Slotted(), Mixed()
    slotted.part = mixed.part = 1
    mixed.other = 2  # type: ignore[attr-defined]
    forks.disown(slotted)
    forks.disown(mixed)
    assert slotted.part is mixed.part is forks.INHERITED
    assert mixed.other is forks.INHERITED  # type: ignore[attr-defined]


def test_what_has_no_parts_is_not_inherited() -> None:
    """Also not what failed before it had any."""
    assert not forks.is_inherited(Nobody())


def test_where_nothing_forks_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without `fork` there is nothing to do, and no error."""
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    forks.leave_on_fork()
