from __future__ import annotations

import pickle

import pytest

from statemachine import (
    DiagramError,
    InvalidDeclaration,
    InvalidTransition,
    StateMachineError,
)


def test_all_have_one_root() -> None:
    """Every exception of the package can be caught as a `StateMachineError`."""
    for kind in (InvalidDeclaration, InvalidTransition, DiagramError):
        assert issubclass(kind, StateMachineError)


def test_a_wrong_declaration_is_a_wrong_value() -> None:
    """An `InvalidDeclaration` is a `ValueError`."""
    assert issubclass(InvalidDeclaration, ValueError)


def test_one_problem_is_told_in_one_line() -> None:
    """The message of a declaration with one problem is that problem."""
    assert str(InvalidDeclaration("door", ("it jams",))) == "declaration 'door': it jams"


def test_several_problems_are_listed() -> None:
    """The message of a declaration with several problems lists them all."""
    error = InvalidDeclaration("door", ("it jams", "it squeaks"))
    assert str(error) == "declaration 'door' has 2 problems:\n- it jams\n- it squeaks"
    assert error.problems == ("it jams", "it squeaks")


def test_an_invalid_transition_says_all() -> None:
    """The message names the trigger, the state and the reason, and each is an attribute."""
    error = InvalidTransition("shut", "pull", "It is shut.")
    assert str(error) == "'pull' is illegal in state 'shut': It is shut."
    assert (error.state, error.trigger, error.reason) == ("shut", "pull", "It is shut.")


@pytest.mark.parametrize(
    "error", [InvalidDeclaration("door", ("it jams",)), InvalidTransition("a", "b", "c")]
)
def test_errors_can_be_pickled(error: Exception) -> None:
    """An error that crosses to another process arrives whole."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
