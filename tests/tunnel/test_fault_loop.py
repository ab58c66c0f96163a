from __future__ import annotations

import threading
import time
from typing import Any

import freezegun
import pytest

from tunnel.errors import InvalidStateError
from tunnel.testing.fault_loop import Loop, now


def fail() -> None:
    raise ZeroDivisionError


def test_calls_from_other_threads() -> None:
    """What a call returns or raises reaches its caller; the loop goes on, until it is stopped."""
    loop = Loop()
    with pytest.raises(ZeroDivisionError):
        loop.call(fail)
    assert loop.call(threading.current_thread) is not threading.current_thread()
    loop.stop()
    loop.stop()
    with pytest.raises(InvalidStateError, match="has been stopped"):
        loop.call(fail)


def test_calls_at_a_time() -> None:
    """They are made in the order of their times, not before, and then of their registration."""
    loop = Loop()
    called: list[int] = []
    done = threading.Event()
    began = now()

    def register() -> None:
        loop.call_at(began + 0.02, done.set)
        for number, when in enumerate((0.01, 0.0, 0.01)):
            loop.call_at(began + when, lambda number=number: called.append(number))

    loop.call(register)
    assert done.wait(10.0)
    assert now() >= began + 0.02
    assert called == [1, 0, 2]
    loop.stop()


def test_an_error_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """If its thread ends by an error, nobody waits for ever."""
    errors: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    loop = Loop()
    go = threading.Event()

    def hold() -> None:
        go.wait(10.0)
        fail()

    loop.call(lambda: loop.call_at(0.0, hold))
    late: list[BaseException] = []

    def ask() -> None:
        try:
            loop.call(fail)
        except InvalidStateError as error:
            late.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while not loop._calls:
        threading.Event().wait(0.001)
    go.set()
    asking.join(10.0)
    assert len(late) == 1
    with pytest.raises(InvalidStateError):
        loop.call(fail)
    loop.stop()
    assert [each.exc_type for each in errors] == [ZeroDivisionError]


def test_real_time_while_time_is_frozen() -> None:
    """`now` goes on while freezegun holds the time still."""
    with freezegun.freeze_time("2026-03-01"):
        began, frozen = now(), time.monotonic()
        threading.Event().wait(0.01)
        assert now() > began
        assert time.monotonic() == frozen
