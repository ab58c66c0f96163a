"""The application goes first on a link, without a tunnel."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tunnel.callback_lane import CallbackLane
from tunnel.greeter import Greeter


class Bench:
    """A greeter, the calls of `on_connected`, and the links on which that was over."""

    def __init__(self) -> None:
        self.lane = CallbackLane()
        self.calls: list[bool] = []
        self.greeted: list[Any] = []
        self.inside: list[Any] = []
        self.greeter = Greeter(self.lane, self.greet, self.greeted.append)

    def greet(self, is_resumed: bool) -> None:
        self.calls.append(is_resumed)
        self.inside.append(self.greeter.current)
        other = threading.Thread(target=lambda: self.inside.append(self.greeter.current))
        other.start()
        other.join()


def test_greets_through_the_lane() -> None:
    """It is called when the lane is run; only its thread is in it; then the link is named."""
    bench, link = Bench(), object()
    assert bench.greeter.begin(link, True)  # type: ignore[arg-type]
    assert bench.greeter.link is link
    assert not bench.calls
    bench.lane.run()
    assert bench.calls == [True]
    assert bench.inside == [link, None]
    assert bench.greeter.current is None
    assert bench.greeted == [link]


def test_an_application_without_a_greeting() -> None:
    """The queue need not wait, and nothing joins the lane."""
    lane, link = CallbackLane(), object()
    greeter = Greeter(lane, None, lambda link: pytest.fail("there was no greeting"))
    assert not greeter.begin(link, False)  # type: ignore[arg-type]
    assert greeter.link is link
    assert lane.is_idle


def test_a_greeting_that_raises_is_over() -> None:
    """The error is logged and harms nothing."""
    lane, link, greeted = CallbackLane(), object(), list[object]()
    greeter = Greeter(lane, lambda resumed: 1 // 0, greeted.append)
    greeter.begin(link, False)  # type: ignore[arg-type]
    lane.run()
    assert greeted == [link]
    assert greeter.current is None


def test_a_greeting_that_ends_its_thread() -> None:
    """What is no `Exception` goes on, and the link counts as not greeted."""

    def leave(resumed: bool) -> None:
        raise SystemExit(1)

    lane, greeted = CallbackLane(), list[object]()
    greeter = Greeter(lane, leave, greeted.append)
    greeter.begin(object(), False)  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        lane.run()
    assert greeter.current is None
    assert not greeted


def test_a_link_that_is_lost_meanwhile() -> None:
    """Nobody is told of a greeting on a link that is over."""
    bench = Bench()
    bench.greeter.begin(object(), False)  # type: ignore[arg-type]
    bench.greeter.has_greeted = True
    bench.greeter.forget()
    assert bench.greeter.link is None
    assert not bench.greeter.has_greeted
    bench.lane.run()
    assert bench.calls == [False]
    assert not bench.greeted
