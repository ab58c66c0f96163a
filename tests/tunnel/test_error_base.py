from __future__ import annotations

import copy
import json
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.error_base import TunnelError, jsonable
from tunnel.error_codes import ERROR_CODES, TunnelErrorCategory


class Colour(str, Enum):
    RED = "red"


def test_an_error_speaks_from_the_table() -> None:
    """What is not given comes from the code's row."""
    error = TunnelError()
    row = ERROR_CODES["TUNNEL_999"]
    assert (error.code, error.category) == ("TUNNEL_999", TunnelErrorCategory.UNKNOWN)
    assert error.message == row.title
    assert error.user_message == row.user_message
    assert error.suggestion == row.suggestion
    assert error.is_retryable is row.is_retryable is True
    assert error.retry_after is None
    assert error.context == {}


@pytest.mark.requirement("2.2", "2.3")
def test_an_error_may_know_better() -> None:
    """What is given takes the place of the code's row."""
    error = TunnelError(
        "boom",
        is_retryable=False,
        retry_after=3.5,
        user_message="Sorry.",
        suggestion="Wait.",
        context={"a": 1},
    )
    assert error.message == "boom"
    assert error.user_message == "Sorry."
    assert error.suggestion == "Wait."
    assert error.is_retryable is False
    assert error.retry_after == 3.5
    assert error.context == {"a": 1}


def test_texts_show_what_leads_on() -> None:
    """The text names the code; the repr the class."""
    assert str(TunnelError("boom")) == "boom (TUNNEL_999)"
    assert repr(TunnelError("boom")) == "TunnelError('boom')"
    assert TunnelError("boom").args == ("boom",)


@pytest.mark.requirement("2.10")
def test_as_a_dictionary() -> None:
    """The dictionary has everything and is JSON."""
    found = TunnelError("boom", retry_after=2.0, context={"key": b"abc"}).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "type": "TunnelError",
        "code": "TUNNEL_999",
        "category": "unknown",
        "message": "boom",
        "user_message": "Something unexpected went wrong.",
        "suggestion": "Try again; if it happens again, report it with the message.",
        "is_retryable": True,
        "retry_after": 2.0,
        "context": {"key": "3 bytes"},
        "documentation": "docs/errors.rst#tunnel-999",
    }


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (2.5, 2.5),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        ("text", "text"),
        (Colour.RED, "red"),
        (b"secret message", "14 bytes"),
        (bytearray(2), "2 bytes"),
        (memoryview(b"abc"), "3 bytes"),
        ({1: (2, {"b": [3.0]})}, {"1": [2, {"b": [3.0]}]}),
        (frozenset({5}), [5]),
        (ValueError("x"), "x"),
    ],
)
def test_what_json_cannot_hold(value: object, found: object) -> None:
    """A value of the context becomes its nearest likeness in JSON; bytes only their number."""
    assert jsonable(value) == found
    assert type(jsonable(value)) is type(found)


def test_an_error_in_the_context() -> None:
    """An error within a context is its dictionary."""
    inner = TunnelError("inner")
    assert TunnelError(context={"cause": inner}).context["cause"] == inner.to_dict()


def test_the_context_is_a_copy() -> None:
    """Neither the caller's mapping nor a dictionary that was handed out is the error's own."""
    given_context = {"list": [1]}
    error = TunnelError(context=given_context)
    given_context["list"].append(2)
    error.to_dict()["context"]["list"].append(3)
    assert error.context == {"list": [1]}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text(), inner),
        max_leaves=10,
    )
)
def test_every_context_is_json(value: object) -> None:
    """Whatever a context holds, the error can be written as strict JSON and read again."""
    found = TunnelError(context={"value": value}).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


class BalloonError(TunnelError):
    """What an application may add to the tree: a required keyword, and no code of its own."""

    def __init__(self, message: str = "", *, height: float | None) -> None:
        super().__init__(message)
        self._add_facts(height=height)


def test_facts_of_a_subclass() -> None:
    """A subclass has its facts as attributes, and in the context those that are known."""
    assert BalloonError(height=3.0).height == 3.0  # type: ignore[attr-defined]
    assert BalloonError(height=3.0).context == {"height": 3.0}
    assert BalloonError(height=None).height is None  # type: ignore[attr-defined]
    assert BalloonError(height=None).context == {}
    assert BalloonError(height=None).code == "TUNNEL_999"


def test_copies_need_no_arguments() -> None:
    """A copy does not go through the class's own arguments, so that any subclass can be copied."""
    error = BalloonError("boom", height=3.0)
    other = copy.copy(error)
    assert type(other) is BalloonError
    assert (other.args, vars(other)) == (error.args, vars(error))


def test_the_way_in_to_the_classifier() -> None:
    """`from_exception` keeps what was caught as the cause."""
    cause = RuntimeError("boom")
    error = TunnelError.from_exception(cause)
    assert type(error) is TunnelError
    assert error.__cause__ is cause
