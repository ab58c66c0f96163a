"""The rows of a queue's file: they say what they were made of, or that they are damaged."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.queue_rows import (
    ACKNOWLEDGED,
    TICKET,
    counter_row,
    fact_row,
    insertion,
    is_fact,
    is_number,
    message_row,
    number_row,
    read_message,
    read_ticket,
    ticket_row,
)
from tunnel.secrets import Secret
from tunnel.session import Ticket
from tunnel.session_frames import Limits

TICKET_OF_A_SESSION = Ticket(
    b"\x07" * 16, Secret("ab" * 32), Limits(10, 1000, 500), Limits(20, 2000, 600), 600
)
IDS = st.integers(0, 2**62)
ANYTHING = st.none() | st.integers() | st.floats() | st.binary() | st.text()


@given(IDS, st.text(st.characters(codec="utf-8")) | st.binary(), st.integers(1, 3), st.floats(0))
def test_a_message_comes_back_as_it_was(
    row_id: int, item: str | bytes, rank: int, deadline: float
) -> None:
    """Text stays text, bytes stay bytes, and all that belongs to them is there."""
    row = message_row(row_id, item, rank, deadline)
    assert read_message(row) == (row_id, item, rank, deadline)


@pytest.mark.requirement("5.10")
@given(st.integers(0, 5), ANYTHING)
def test_a_message_changed_anywhere_is_damaged(column: int, value: Any) -> None:
    """Whatever stands in a column that is not what was written, the row is refused, quietly."""
    row = list(message_row(7, "text", 2, math.inf))
    is_same = row[column] == value or (column == 4 and isinstance(value, str))
    row[column] = value
    if not is_same:
        assert read_message(row) is None


@given(IDS, IDS, st.integers(0, 2), ANYTHING)
def test_a_number_proves_itself(number: int, row_id: int, column: int, value: Any) -> None:
    """A number is whole as it was made, and not otherwise."""
    row = list(number_row(number, row_id))
    assert is_number(row)
    if row[column] != value:
        row[column] = value
        assert not is_number(row)


@given(st.binary(), st.integers(0, 2), ANYTHING)
def test_a_fact_proves_itself(value: bytes, column: int, other: Any) -> None:
    """A fact is whole as it was made, and not otherwise."""
    row = list(fact_row(3, value))
    assert is_fact(row)
    if row[column] != other:
        row[column] = other
        assert not is_fact(row)


def test_a_row_of_one_table_is_none_of_another() -> None:
    """The checksum knows its table: a number does not pass for a fact."""
    assert not is_fact(number_row(1, 2))
    assert not is_number(counter_row(ACKNOWLEDGED, 2))


def test_a_ticket_comes_back_with_its_server() -> None:
    """What was saved of a session is all there; and nothing that is shown tells the token."""
    key, value, _ = ticket_row("wss://example.test/", TICKET_OF_A_SESSION)
    assert key == TICKET
    assert read_ticket(value) == ("wss://example.test/", TICKET_OF_A_SESSION)
    assert "abab" not in repr(read_ticket(value))


def test_a_lone_surrogate_is_refused() -> None:
    """A text that has no encoding cannot be kept, and the error is the usual one."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        message_row(1, "\ud800", 1, math.inf)


def test_a_row_takes_the_place_of_one_with_its_key() -> None:
    """What is written twice is there once."""
    assert insertion("facts") == "INSERT OR REPLACE INTO facts VALUES (?,?,?)"
