"""Look-ups that may hang: one thread each, up to a bound."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tunnel.name_lookup import MOST, NameLookup, NameLookups
from tunnel.waker import Waker

DEADLINE = 20.0
NAME = ("name.test", 80)
ADDRESS: Any = ("family", "kind", "protocol", "", ("127.0.0.1", 80))


class Resolver:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.answer = threading.Event()
        self.result: list[Any] | Exception = [ADDRESS]
        self._changed = threading.Condition()

    def __call__(self) -> list[Any]:
        with self._changed:
            self.calls += 1
            self._changed.notify_all()
        assert self.answer.wait(DEADLINE)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def wait(self, calls: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.calls >= calls, DEADLINE)

    def finish(self) -> None:
        self.answer.set()
        for thread in threading.enumerate():
            if thread.name == "tunnel-resolver":
                thread.join(DEADLINE)


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    resolver = Resolver()
    yield resolver
    resolver.finish()


def test_an_outcome_wakes_who_waits(resolver: Resolver) -> None:
    """The addresses are there when the waker is set."""
    lookups, waker = NameLookups(), Waker()
    lookup = lookups.begin(NAME, resolver, waker)
    assert lookup.outcome is None
    resolver.answer.set()
    assert waker.event.wait(DEADLINE)
    assert lookup.outcome == [ADDRESS]
    lookups.leave(lookup, waker)


def test_a_failure_is_an_outcome(resolver: Resolver) -> None:
    """The error of the look-up is kept for whoever waits."""
    lookups, waker = NameLookups(), Waker()
    resolver.result = OSError("no such name")
    lookup = lookups.begin(NAME, resolver, waker)
    resolver.answer.set()
    assert waker.event.wait(DEADLINE)
    assert lookup.outcome is resolver.result


def test_each_attempt_asks_anew_up_to_a_bound(resolver: Resolver) -> None:
    """Beyond it one waits for the latest; what has hung before is left alone by its answer."""
    lookups, wakers = NameLookups(), [Waker() for _ in range(MOST + 2)]
    under_way = [lookups.begin(NAME, resolver, waker) for waker in wakers]
    assert len(set(map(id, under_way))) == MOST
    assert under_way[-3:] == [under_way[-1]] * 3
    other = lookups.begin(("other.test", 80), resolver, Waker())
    assert other not in under_way
    assert resolver.wait(MOST + 1)
    assert resolver.calls == MOST + 1
    resolver.finish()
    for lookup, waker in zip(under_way, wakers, strict=True):
        assert waker.event.wait(DEADLINE)
        assert lookup.outcome == [ADDRESS]
    assert lookups.begin(NAME, resolver, Waker()) not in under_way


def test_who_has_left_is_not_woken(resolver: Resolver) -> None:
    """Nor kept alive by a look-up that hangs."""
    lookups, waker, other = NameLookups(), Waker(), Waker()
    lookup = lookups.begin(NAME, resolver, waker)
    lookup.waiting.append(other)
    lookups.leave(lookup, waker)
    assert lookup.waiting == [other]
    resolver.answer.set()
    assert other.event.wait(DEADLINE)
    assert not waker.event.is_set()


def test_without_a_thread_it_is_looked_up_at_once(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread that wants to know."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    resolver.answer.set()
    assert NameLookups().begin(NAME, resolver, Waker()).outcome == [ADDRESS]


def test_a_forked_child_begins_anew(resolver: Resolver) -> None:
    """The parent's threads are not there, and their look-ups never come to an end."""
    lookups = NameLookups()
    hanging = [lookups.begin(NAME, resolver, Waker()) for _ in range(MOST)]
    under_way, lookups._under_way = lookups._under_way, {}
    lookups.forget()
    fresh: NameLookup = lookups.begin(NAME, resolver, Waker())
    assert fresh not in hanging
    lookups._under_way.update(under_way)
    lookups._under_way[NAME].append(fresh)
