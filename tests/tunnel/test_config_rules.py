from __future__ import annotations

import math

import pytest

from tunnel.config_rules import choice, close_codes, flag, number, shown


@pytest.mark.requirement("9.3")
@pytest.mark.parametrize("value", [1, 1.0, 2, 2.5])
def test_numbers_within_their_bounds(value: float) -> None:
    """Both bounds are valid; what is kept is a float."""
    kept = number(1, 2.5).apply(value)
    assert kept == value
    assert type(kept) is float


@pytest.mark.requirement("9.3")
@pytest.mark.parametrize(
    "value",
    [0.999, 2.501, -1, math.nan, math.inf, -math.inf, True, "2", None, [2], 2j],
)
def test_numbers_that_are_refused(value: object) -> None:
    """Out of bounds, not finite, or no number at all; the text has value and bounds."""
    with pytest.raises(
        ValueError, match=r"^must be a number of seconds from 1 to 2\.5, not "
    ) as info:
        number(1, 2.5, "seconds").apply(value)
    assert str(info.value).endswith(shown(value))


def test_whole_numbers() -> None:
    """Where a whole number is asked for a float is refused, even a whole one."""
    rule = number(1, 5_000, "bytes", whole=True)
    assert rule.apply(5_000) == 5_000
    assert rule.read("5000") == 5_000
    with pytest.raises(ValueError, match=r"a whole number of bytes from 1 to 5,000, not 2\.0"):
        rule.apply(2.0)


def test_optional_values() -> None:
    """None is valid where the rule says so, and then the message says so too."""
    rule = number(1, 2, optional=True)
    assert rule.apply(None) is None
    assert rule.read("None") is None
    with pytest.raises(ValueError, match="from 1 to 2 or None, not 3"):
        rule.apply(3)
    with pytest.raises(ValueError, match="not 'none'"):
        number(1, 2).read("none")


@pytest.mark.parametrize("text", ["", "x", "1" * 41, "1,5"])
def test_texts_that_are_no_numbers(text: str) -> None:
    """A text that cannot be read is refused, also one with digits without end."""
    with pytest.raises(ValueError, match="must be a number"):
        number(1, 2).read(text)


def test_a_text_is_read_before_it_is_checked() -> None:
    """Reading gives the value; whether it is valid is asked of the value."""
    assert number(1, 2).read("5.5") == 5.5
    assert math.isnan(number(1, 2).read("nan"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("TRUE", True),
        ("yes", True),
        ("On", True),
        ("0", False),
        ("false", False),
        ("No", False),
        ("off", False),
    ],
)
def test_flags(text: str, value: bool) -> None:
    """A flag is a bool; as a text one of the usual words, in any case."""
    assert flag().read(text) is value
    assert flag().apply(value) is value


@pytest.mark.parametrize("value", [1, 0, "true", None, [], 1.0])
def test_flags_that_are_refused(value: object) -> None:
    """What merely counts as true or false is no flag."""
    with pytest.raises(ValueError, match="must be True or False, not "):
        flag().apply(value)


@pytest.mark.parametrize("text", ["", "2", "maybe"])
def test_texts_that_are_no_flags(text: str) -> None:
    """Any other word is refused."""
    with pytest.raises(ValueError, match="must be True or False, not "):
        flag().read(text)


def test_choices() -> None:
    """A word is taken in any case and kept in the rule's."""
    rule = choice("auto", "OFF")
    assert rule.apply("AUTO") == "auto"
    assert rule.apply(rule.read("off")) == "OFF"
    for value in ("on", "", None, 1, b"auto"):
        with pytest.raises(ValueError, match="must be one of 'auto', 'OFF', not "):
            rule.apply(value)


@pytest.mark.parametrize("value", [[1000, 4999], (1000, 4999), {1000, 4999}, [1000, 4999, 1000]])
def test_close_codes(value: object) -> None:
    """Any collection of codes is kept as a frozen set."""
    assert close_codes().apply(value) == frozenset({1000, 4999})


@pytest.mark.parametrize("value", [[999], [5000], [True], ["4000"], [4000.0], [None], 4000, "40"])
def test_close_codes_that_are_refused(value: object) -> None:
    """Each must be a code that can be received."""
    with pytest.raises(ValueError, match="each from 1000 to 4999, not "):
        close_codes().apply(value)


def test_close_codes_as_a_text() -> None:
    """As a text codes are separated by commas."""
    assert close_codes().read("4000, 4001") == [4000, 4001]
    for text in ("x", "4000,", "4000 4001"):
        with pytest.raises(ValueError, match="a set of close codes"):
            close_codes().read(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        (-5, "-5"),
        (True, "True"),
    ],
)
def test_values_are_shown(value: object, text: str) -> None:
    """A value in a message is its repr."""
    assert shown(value) == text


def test_integers_without_end() -> None:
    """An integer that Python refuses to write is refused with the same message as others."""
    for value in (10**5000, [10**5000]):
        assert len(shown(value)) <= 60
        with pytest.raises(ValueError, match="must be a number from 1 to 2, not "):
            number(1, 2).apply(value)


def test_long_values_are_cut() -> None:
    """However large a value is, the message stays short."""
    for value in ("x" * 10_000, list(range(10_000)), dict.fromkeys(range(99), "x" * 50)):
        assert len(shown(value)) <= 60
