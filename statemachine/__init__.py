"""Finite state machines declared as tables: checked, run, recorded, replayed and drawn.

::

    door = Declaration(
        name="door",
        states={"open": "One can walk through.", "shut": "One cannot."},
        initial="shut",
        transitions=[
            Transition("push", "shut", "open", guard="unlocked", doc="Somebody goes through."),
            Transition("pull", "open", "shut", doc="Somebody is cold."),
        ],
    )
    machine = StateMachine(door, model)  # calls model.on_enter_open() and the like, where defined
    machine.fire("push")

What is logged (an observer that raised) goes to loguru under the name "statemachine", and is off
until ``loguru.logger.enable("statemachine")`` is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from loguru import logger

from statemachine.declaration import Declaration, Transition
from statemachine.errors import (
    DiagramError,
    InvalidDeclaration,
    InvalidTransition,
    StateMachineError,
)
from statemachine.machine import Record, StateMachine

if TYPE_CHECKING:
    from statemachine import diagram
    from statemachine.replaying import Verdict, replay

__all__ = [
    "Declaration",
    "DiagramError",
    "InvalidDeclaration",
    "InvalidTransition",
    "Record",
    "StateMachine",
    "StateMachineError",
    "Transition",
    "Verdict",
    "diagram",
    "replay",
]

logger.disable("statemachine")


def __getattr__(name: str) -> Any:
    """Load what draws and replays when it is asked for: programs that only run machines never do.

    Raises:
        AttributeError: There is no such name.
    """
    if name == "diagram":
        return import_module("statemachine.diagram")
    if name in ("Verdict", "replay"):
        return getattr(import_module("statemachine.replaying"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
