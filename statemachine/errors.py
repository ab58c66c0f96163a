"""What can go wrong, as one tree.

::

    StateMachineError
    ├── InvalidDeclaration   (also a ValueError)   the table is wrong; correct the program
    ├── InvalidTransition                          the trigger is illegal here; nothing changed
    └── DiagramError                               a picture cannot be drawn on this computer
"""

from __future__ import annotations


class StateMachineError(Exception):
    """The root of every exception that this package defines."""


class InvalidDeclaration(StateMachineError, ValueError):
    """A declaration contradicts itself, or leaves open what it has to decide.

    Args:
        name: The declaration's name.
        problems: One sentence for each problem found; each names the offender and says what to do.
    """

    def __init__(self, name: str, problems: tuple[str, ...]) -> None:
        super().__init__(name, problems)
        self.name = name
        self.problems = problems

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"declaration {self.name!r}: {self.problems[0]}"
        listed = "".join(f"\n- {problem}" for problem in self.problems)
        return f"declaration {self.name!r} has {len(self.problems)} problems:{listed}"


class InvalidTransition(StateMachineError):
    """A trigger was fired in a state in which it is illegal. Nothing has changed.

    Args:
        state: The state that the machine was in, and is in still.
        trigger: The trigger that was fired.
        reason: The declaration's sentence about it.
    """

    def __init__(self, state: str, trigger: str, reason: str) -> None:
        super().__init__(state, trigger, reason)
        self.state = state
        self.trigger = trigger
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.trigger!r} is illegal in state {self.state!r}: {self.reason}"


class DiagramError(StateMachineError):
    """A picture cannot be drawn here; the message says what is missing and how to install it."""
