from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator

import pytest

from tunnel.waker import Waker

LONG = 10_000
"""Milliseconds that something may take which is certain to happen."""

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(params=["eventfd", "socketpair"])
def waker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waker]:
    """A waker of either kind; the second is that of systems other than Linux."""
    if request.param == "socketpair":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("this system has no eventfd")
    waker = Waker()
    yield waker
    waker.close()


def is_readable(waker: Waker, timeout: int = 0) -> bool:
    poller = select.poll()
    poller.register(waker, select.POLLIN)
    return bool(poller.poll(timeout))


def test_a_wake_up_shows_as_event_and_descriptor_until_it_is_cleared(waker: Waker) -> None:
    """The event is set and the descriptor readable from `wake` to `clear`, and only then."""
    assert not waker.event.is_set()
    assert not is_readable(waker)
    waker.wake()
    assert waker.event.is_set()
    assert is_readable(waker)
    waker.clear()
    assert not waker.event.is_set()
    assert not is_readable(waker)
    waker.wake()
    assert is_readable(waker)


def test_many_wake_ups_are_cleared_at_once(waker: Waker) -> None:
    """One `clear` undoes all the wake-ups before it."""
    waker.fileno()
    for _ in range(5):
        waker.wake()
    waker.clear()
    assert not is_readable(waker)


def test_clearing_without_a_wake_up_does_nothing(waker: Waker) -> None:
    """`clear` may be called at any time, also before there is a descriptor."""
    waker.clear()
    waker.fileno()
    waker.clear()
    assert not is_readable(waker)
    waker.wake()
    assert is_readable(waker)


def test_a_wake_up_before_the_first_poll_is_not_lost(waker: Waker) -> None:
    """The descriptor is made when it is first asked for, and then is readable already."""
    waker.wake()
    assert is_readable(waker)


def test_a_wake_up_cleared_before_the_first_poll_stays_cleared(waker: Waker) -> None:
    """A descriptor made after the `clear` does not show the wake-up before it."""
    waker.wake()
    waker.clear()
    assert not is_readable(waker)


def test_another_thread_ends_a_poll(waker: Waker) -> None:
    """A thread in a poll is woken by `wake` in another one."""
    waker.fileno()
    thread = threading.Thread(target=waker.wake)
    thread.start()
    assert is_readable(waker, LONG)
    thread.join()


def test_the_descriptor_stays_the_same_until_close(waker: Waker) -> None:
    """`fileno` makes one descriptor, not one for each call."""
    assert waker.fileno() == waker.fileno()


def test_close_gives_the_descriptors_back(waker: Waker) -> None:
    """After `close` the descriptor is not open any more; closing twice is harmless."""
    descriptor = waker.fileno()
    waker.close()
    waker.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_wake_up_after_close_is_seen_by_a_later_poll(waker: Waker) -> None:
    """`wake` may be called after `close`: it harms no other file, and the next poll shows it."""
    waker.fileno()
    waker.close()
    waker.wake()
    assert waker.event.is_set()
    assert is_readable(waker)
    waker.close()
    waker.clear()
    assert not is_readable(waker)


class MeddledEvent(threading.Event):
    """In the middle of `set`, something else happens."""

    def __init__(self, meddle: threading.Thread | BaseException) -> None:
        super().__init__()
        self._meddle = meddle

    def set(self) -> None:
        super().set()
        if isinstance(self._meddle, BaseException):
            raise self._meddle
        self._meddle.start()
        self._meddle.join(0.1)  # it must not get through before the wake-up is complete


def test_clearing_in_the_midst_of_a_wake_up_leaves_both_signs_equal(waker: Waker) -> None:
    """However `wake` and `clear` meet, no descriptor stays readable that no `clear` would read."""
    waker.fileno()
    clearing = threading.Thread(target=waker.clear)
    waker.event = MeddledEvent(clearing)
    waker.wake()
    clearing.join()
    assert is_readable(waker) == waker.event.is_set()


def test_an_interrupted_wake_up_wakes_all_the_same(waker: Waker) -> None:
    """Ctrl-C inside `wake` does not make this wake-up and all later ones silent."""
    waker.fileno()
    waker.event = MeddledEvent(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        waker.wake()
    assert is_readable(waker)
    waker.clear()
    assert not is_readable(waker)


def test_no_wake_up_is_lost_between_two_threads(waker: Waker) -> None:
    """Whoever clears before looking sees every item that was put down before a wake-up."""
    posted: list[int] = []
    count = 2_000

    def post() -> None:
        for number in range(count):
            posted.append(number)
            waker.wake()

    threads = [threading.Thread(target=post) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen = 0
    while seen < 2 * count:
        assert is_readable(waker, LONG), f"deaf after {seen} of {len(posted)}"
        waker.clear()
        seen = len(posted)
    for thread in threads:
        thread.join()
    waker.clear()
    assert not is_readable(waker)
