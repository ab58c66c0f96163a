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

from loguru import logger

from statemachine import diagram
from statemachine.declaration import Declaration, Transition
from statemachine.errors import (
    DiagramError,
    InvalidDeclaration,
    InvalidTransition,
    StateMachineError,
)
from statemachine.machine import Record, StateMachine
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
