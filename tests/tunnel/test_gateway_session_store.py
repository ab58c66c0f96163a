"""The sessions of a gateway, kept for a while and bounded."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tunnel.gateway.session_store import SessionStore, StoreFull
from tunnel.testing import FakeClock


def make(clock: FakeClock | None = None, **bounds: int) -> SessionStore[str]:
    chosen = {"max_sessions": 10, "max_per_user": 10, "max_detached_bytes": 1000, **bounds}
    return SessionStore(clock or FakeClock(), keep=60.0, **chosen)


def test_a_session_is_found_while_it_is_kept() -> None:
    """Attached for ever, detached until its time is over, and attached again as if new."""
    clock = FakeClock()
    store = make(clock)
    assert store.add(b"a", "user", "A") == []
    clock.advance(1000.0)
    assert store.find(b"a") == "A"
    assert store.next_expiry is None
    store.detach(b"a", 5)
    assert store.next_expiry == clock.monotonic() + 60.0
    clock.advance(59.0)
    assert store.find(b"a") == "A"
    store.attach(b"a")
    assert store.detached_bytes == 0
    clock.advance(1000.0)
    assert store.find(b"a") == "A"
    store.detach(b"a", 5)
    clock.advance(60.0)
    assert store.find(b"a") is None
    assert store.expired() == ["A"]
    assert store.expired() == []
    assert len(store) == 0


def test_those_whose_time_is_over_go_in_order() -> None:
    """`expired` takes out the sessions whose time is over, and only those."""
    clock = FakeClock()
    store = make(clock)
    for name in "abc":
        store.add(name.encode(), "user", name)
        store.detach(name.encode(), 0)
        clock.advance(20.0)
    assert store.expired() == ["a"]
    assert store.values() == ["b", "c"]
    assert store.find(b"unknown") is None


def test_who_was_detached_longest_makes_room() -> None:
    """At the bound of all; attached ones stay, even if they are older."""
    store = make(max_sessions=3)
    for name in "abc":
        store.add(name.encode(), "user", name)
    store.detach(b"c", 0)
    store.detach(b"b", 0)
    assert store.add(b"d", "user", "d") == ["c"]
    assert store.add(b"e", "user", "e") == ["b"]
    with pytest.raises(StoreFull, match="the gateway has as many sessions as it can"):
        store.add(b"f", "user", "f")
    assert store.values() == ["a", "d", "e"]


def test_a_user_makes_room_for_himself() -> None:
    """At the bound of a user his own go, though another's was detached longer."""
    store = make(max_per_user=2)
    store.add(b"x", "other", "x")
    store.detach(b"x", 0)
    store.add(b"a", "user", "a")
    store.add(b"b", "user", "b")
    with pytest.raises(StoreFull, match="this user has as many sessions as are allowed"):
        store.add(b"c", "user", "c")
    store.detach(b"b", 0)
    assert store.add(b"c", "user", "c") == ["b"]
    assert store.values() == ["x", "a", "c"]


def test_bytes_are_bounded() -> None:
    """When detached sessions hold too much, those detached longest go until it fits."""
    store = make()
    for name in "abc":
        store.add(name.encode(), "user", name)
    assert store.detach(b"a", 400) == []
    assert store.detach(b"b", 400) == []
    assert store.resize(b"b", 600) == []
    assert store.detached_bytes == 1000
    assert store.resize(b"b", 601) == ["a"]
    assert store.detached_bytes == 601
    assert store.detach(b"c", 2000) == ["b", "c"]
    assert (store.detached_bytes, len(store), store.detached) == (0, 0, 0)


def test_what_is_not_here_is_no_harm() -> None:
    """Losing the link of a session that is gone, or twice, changes nothing."""
    store = make()
    assert store.detach(b"a", 1) == []
    assert store.resize(b"a", 1) == []
    store.add(b"a", "user", "a")
    assert store.resize(b"a", 1) == []
    store.attach(b"a")
    store.detach(b"a", 1)
    assert store.detach(b"a", 5) == []
    assert store.detached_bytes == 1
    assert store.remove(b"a") == "a"
    with pytest.raises(KeyError):
        store.remove(b"a")


class AgainstAModel(RuleBasedStateMachine):
    """The store against lists that are searched."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store: SessionStore[bytes] = SessionStore(
            self.clock, keep=10.0, max_sessions=6, max_per_user=3, max_detached_bytes=100
        )
        self.users: dict[bytes, str] = {}
        self.detached: list[tuple[bytes, float, int]] = []  # the longest first
        self.count = 0

    def forget(self, gone: list[bytes]) -> None:
        for name in gone:
            del self.users[name]
            self.detached = [entry for entry in self.detached if entry[0] != name]

    @rule(user=st.sampled_from("xy"))
    def add(self, user: str) -> None:
        self.count += 1
        name = b"%d" % self.count
        own = [entry for entry in self.detached if self.users[entry[0]] == user]
        mine = sum(value == user for value in self.users.values())
        candidates, full = (own, mine >= 3) if mine >= 3 else (self.detached, len(self.users) >= 6)
        if full and not candidates:
            with pytest.raises(StoreFull):
                self.store.add(name, user, name)
            return
        gone = self.store.add(name, user, name)
        assert gone == ([candidates[0][0]] if full else [])
        self.forget(gone)
        self.users[name] = user

    @precondition(lambda self: self.users)
    @rule(data=st.data(), held=st.integers(0, 60))
    def toggle(self, data: st.DataObject, held: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.users)))
        if any(entry[0] == name for entry in self.detached):
            self.store.attach(name)
            self.detached = [entry for entry in self.detached if entry[0] != name]
            return
        gone = self.store.detach(name, held)
        self.detached.append((name, self.clock.monotonic(), held))
        expected = []
        while sum(entry[2] for entry in self.detached) > 100:
            expected.append(self.detached.pop(0)[0])
        assert gone == expected
        self.forget(gone)

    @rule(seconds=st.floats(0.0, 6.0))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def expire(self) -> None:
        now = self.clock.monotonic()
        over = [name for name, since, _ in self.detached if now - since >= 10.0]
        assert self.store.expired() == over
        self.forget(over)

    @invariant()
    def same(self) -> None:
        assert len(self.store) == len(self.users)
        assert self.store.detached == len(self.detached)
        assert self.store.detached_bytes == sum(entry[2] for entry in self.detached)


AgainstAModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_against_a_model = AgainstAModel.TestCase
