"""Turns of threads: `tunnel.turnstile`."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tunnel import turnstile
from tunnel.addresses import TunnelUrl
from tunnel.requests import Target
from tunnel.stream import wait_for, wait_for_any
from tunnel.turnstile import SLOTS, give, take
from tunnel.waker import Waker

LONG = 10.0
"""Seconds that something may take which is certain to happen."""

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(autouse=True)
def own_slots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slots of the test's own, and no turn left to the next test."""
    monkeypatch.setattr(turnstile, "_slots", turnstile.new_slots())
    yield
    give()


@contextmanager
def all_taken() -> Iterator[Callable[[], None]]:
    """Other threads have all the turns; gives a function that ends one of them."""
    taken = threading.Semaphore(0)
    ends = [threading.Event() for _ in range(SLOTS)]

    def hold(end: threading.Event) -> None:
        take()
        taken.release()
        end.wait(LONG)
        give()

    threads = [threading.Thread(target=hold, args=(end,)) for end in ends]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert taken.acquire(timeout=LONG)
    try:
        yield ends[0].set
    finally:
        for end in ends:
            end.set()
        for thread in threads:
            thread.join(LONG)


def free() -> int:
    """How many turns nobody has."""
    return turnstile._slots.qsize()


def test_a_turn_is_taken_once_and_given_once() -> None:
    """Whoever has a turn takes no second one, and gives back one, however often it asks."""
    take()
    take()
    assert free() == SLOTS - 1
    assert give()
    assert not give()
    assert free() == SLOTS


def test_who_comes_next_waits_for_a_turn() -> None:
    """With all turns taken, a thread goes on as soon as one is given back."""
    went_on = threading.Event()

    def next_one() -> None:
        take()
        went_on.set()
        give()

    with all_taken() as end_one:
        thread = threading.Thread(target=next_one)
        thread.start()
        assert not went_on.is_set()
        end_one()
        assert went_on.wait(LONG)
        thread.join(LONG)
    assert free() == SLOTS


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gets no turn in time goes on without, and gives none back."""
    monkeypatch.setattr(turnstile, "PATIENCE", 0.01)
    with all_taken():
        take()
        assert not give()
    assert free() == SLOTS


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def waits(sock: socket.socket, waker: Waker) -> dict[str, Callable[[], object]]:
    return {
        "one": lambda: wait_for(sock, waker, read=True, write=False, timeout=LONG),
        "any": lambda: wait_for_any([sock], waker, LONG),
    }


@pytest.mark.parametrize("is_woken", [False, True])
@pytest.mark.parametrize("name", ["one", "any"])
def test_a_wait_for_the_network_is_nobodys_turn(
    pair: tuple[socket.socket, socket.socket], name: str, is_woken: bool
) -> None:
    """A thread that waits for a socket has given its turn back, and takes one again after it.

    Unless it was woken: then it is wanted for something else, and does not wait for a turn.
    """
    ours, theirs = pair
    if name == "any":  # this one waits for room
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(65536))
    waker = Waker()
    waker.fileno()
    seen: list[int] = []
    has_turn = threading.Event()

    def work() -> None:
        take()
        has_turn.set()
        waits(ours, waker)[name]()
        seen.append(free())
        give()

    thread = threading.Thread(target=work)
    thread.start()
    assert has_turn.wait(LONG)
    with all_taken():  # that all can be taken shows that the waiting thread has none
        pass
    if is_woken:
        waker.wake()
    elif name == "any":
        theirs.setblocking(False)
        with suppress(BlockingIOError):
            while theirs.recv(65536):
                pass
    else:
        theirs.send(b"x")
    thread.join(LONG)
    theirs.close()
    waker.close()
    assert seen == [SLOTS - (not is_woken)]


def test_who_is_wanted_waits_for_no_turn() -> None:
    """A wish that comes while a thread waits for its turn is not kept waiting for long."""
    wanted = threading.Event()
    looks: list[None] = []

    def is_wanted() -> bool:
        looks.append(None)
        return len(looks) == 2

    with all_taken():
        take(is_wanted)
        assert not give()
        wanted.set()
        take(wanted.is_set)
        assert not give()
    assert len(looks) == 2


def test_the_application_is_asked_for_a_token_in_nobodys_turn() -> None:
    """A token that takes long to get keeps no other tunnel waiting."""
    seen: list[int] = []

    def token() -> str:
        seen.append(free())
        return "token"

    target = Target(TunnelUrl.parse("ws://127.0.0.1/"), "somebody", token)
    take()
    target.dial_request(1.0)
    assert seen == [SLOTS]
    assert free() == SLOTS - 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_child_has_all_turns() -> None:
    """Threads that had a turn are not in the child; it begins anew."""
    with all_taken():
        child = os.fork()
        if not child:
            take()
            os._exit(0 if give() else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
