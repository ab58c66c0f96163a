"""A circuit breaker, as the machine that the engine's tests declare, run and draw."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from statemachine import Declaration, Transition

STATES = {
    "closed": "Calls go through.",
    "open": "Calls fail at once.",
    "half_open": "One call is let through, to see.",
    "retired": "Nobody calls any more.",
}
ROWS = (
    Transition("failed", "closed", "open", guard="too_many", doc="The fifth failure in a row."),
    Transition("failed", "closed", "closed", doc="One of fewer than five failures."),
    Transition("failed", "half_open", "open", doc="The trial call failed, too."),
    Transition("succeeded", "half_open", "closed", doc="The trial call came back."),
    Transition("waited", "open", "half_open", doc="60 s have passed."),
    Transition("retire", "closed", "retired", doc="The program ends."),
    Transition("retire", "open", "retired", doc="The program ends."),
)
IGNORED = {
    ("closed", "succeeded"): "That is what is expected.",
    ("open", "failed"): "A call from before the breaker opened.",
    ("open", "succeeded"): "A call from before the breaker opened.",
    ("retired", "retire"): "It is retired.",
}
ILLEGAL = {
    ("closed", "waited"): "Nothing is waited for.",
    ("half_open", "waited"): "The wait is over.",
    ("half_open", "retire"): "The trial call has to end first.",
    ("retired", "failed"): "Nobody calls any more.",
    ("retired", "succeeded"): "Nobody calls any more.",
}


class Triggers(str, Enum):
    """Some of the triggers, as an enumeration."""

    FAILED = "failed"
    WAITED = "waited"


@pytest.fixture(scope="session")
def declare() -> Callable[..., Declaration]:
    """Makes the breaker's declaration, with any of its arguments replaced."""

    def make(**changes: Any) -> Declaration:
        arguments: dict[str, Any] = {
            "name": "breaker",
            "states": STATES,
            "initial": "closed",
            "final": ("retired",),
            "transitions": ROWS,
            "ignored": IGNORED,
            "illegal": ILLEGAL,
        }
        return Declaration(**{**arguments, **changes})

    return make


@pytest.fixture(scope="session")
def breaker(declare: Callable[..., Declaration]) -> Declaration:
    """The breaker. It leaves one cell undecided: `waited` in `retired`."""
    return declare()


@pytest.fixture(scope="session")
def triggers() -> type[Triggers]:
    return Triggers


class Model:
    """Notes what is called, in order, and does what a test has put into `on`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.on: dict[str, Callable[[], object]] = {}
        self.few = True

    def too_many(self, **data: Any) -> Any:
        return self._note("too_many", data) or not self.few

    def on_exit_closed(self, **data: Any) -> None:
        self._note("on_exit_closed", data)

    def on_enter_closed(self, **data: Any) -> None:
        self._note("on_enter_closed", data)

    def on_enter_open(self, **data: Any) -> None:
        self._note("on_enter_open", data)

    def _note(self, name: str, data: dict[str, Any]) -> object:
        self.calls.append((name, data))
        return self.on.get(name, lambda: None)()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture(scope="session")
def model_class() -> type[Model]:
    return Model
