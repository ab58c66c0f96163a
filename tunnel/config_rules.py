"""What a setting may be: a rule for each kind of value, with which `tunnel.config` declares fields.

Pure functions without state.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import NamedTuple

_FLAG_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


class Rule(NamedTuple):
    """What one setting takes.

    Attributes:
        wanted: What a valid value is, as the end of a sentence: "must be ...".
        convert: Brings a valid value into the form that is kept; raises `ValueError` for others.
        parse: The value that a text (of the environment) stands for; raises `ValueError` for none.
        optional: Whether None is valid too.
    """

    wanted: str
    convert: Callable[[object], object]
    parse: Callable[[str], object]
    optional: bool = False

    def apply(self, value: object) -> object:
        """The value in the form that is kept.

        Raises:
            ValueError: It is not valid. The text says what would be, and shows the value.
        """
        if value is None and self.optional:
            return None
        try:
            return self.convert(value)
        except ValueError:
            raise self._refusal(value) from None

    def read(self, text: str) -> object:
        """The value that a text stands for; "none" is None where that is valid.

        Raises:
            ValueError: The text stands for no value of the kind.
        """
        if self.optional and text.lower() == "none":
            return None
        try:
            return self.parse(text)
        except ValueError:
            raise self._refusal(text) from None

    def _refusal(self, value: object) -> ValueError:
        alternative = " or None" if self.optional else ""
        return ValueError(f"must be {self.wanted}{alternative}, not {shown(value)}")


def number(
    low: float, high: float, unit: str = "", *, whole: bool = False, optional: bool = False
) -> Rule:
    """A number between two bounds, both included. No bool is one, nor are NaN and infinity.

    Args:
        low: The least.
        high: The greatest; whatever is beyond is taken for a mistake.
        unit: What is counted, for the message.
        whole: Whether only integers are valid; otherwise the value is kept as a `float`.
        optional: Whether None is valid too.
    """
    kinds = (int,) if whole else (int, float)
    kind = "a whole number" if whole else "a number"
    of_unit = f" of {unit}" if unit else ""

    def convert(value: object) -> object:
        # Compared before it is converted: an integer may be too large for a float.
        if isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high:
            return int(value) if whole else float(value)
        raise ValueError

    def parse(text: str) -> object:
        # No integer with more digits is within any bounds here, and converting it would take long.
        if len(text) > 40:
            raise ValueError
        return int(text) if whole else float(text)

    return Rule(f"{kind}{of_unit} from {low:,} to {high:,}", convert, parse, optional)


def flag() -> Rule:
    """True or False; as a text also 1 and 0, yes and no, on and off."""

    def convert(value: object) -> object:
        if isinstance(value, bool):
            return value
        raise ValueError

    def parse(text: str) -> object:
        if text.lower() in _FLAG_WORDS:
            return _FLAG_WORDS[text.lower()]
        raise ValueError

    return Rule("True or False", convert, parse)


def choice(*words: str) -> Rule:
    """One of these words, in any case; kept in the case given here."""
    by_lower_case = {word.lower(): word for word in words}

    def convert(value: object) -> object:
        if isinstance(value, str) and value.lower() in by_lower_case:
            return by_lower_case[value.lower()]
        raise ValueError

    return Rule("one of " + ", ".join(map(repr, words)), convert, str)


def close_codes() -> Rule:
    """A set of WebSocket close codes (RFC 6455, section 7.4); as a text separated by commas."""
    one = number(1000, 4999, whole=True)

    def convert(value: object) -> object:
        if isinstance(value, (list, tuple, set, frozenset)):
            return frozenset(one.convert(item) for item in value)
        raise ValueError

    def parse(text: str) -> object:
        return [one.parse(part.strip()) for part in text.split(",")]

    return Rule("a set of close codes, each from 1000 to 4999", convert, parse)


def shown(value: object) -> str:
    """A value for a message, in 60 characters at most."""
    try:
        text = reprlib.repr(value)
    except ValueError:  # Python does not write integers of thousands of digits
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
