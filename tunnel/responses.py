"""What a request brings back, and header fields as HTTP has them. Pure; used by both ends.

`Headers` cannot be changed and are valid from the moment they exist: whatever the other end, or an
application, put into a name or a value, it cannot become a second header or a second request when
it is written down as HTTP (RFC 9110, section 5.5; CWE-113).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from tunnel.errors import ConfigurationError
from tunnel.secrets import HIDDEN

MAX_REQUEST_ID = 2**64 - 1

# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 9110, section 5.5: what a value has none of, the tab excepted. CR, LF and NUL are the
# dangerous ones; the others are as invalid.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SECRET_NAME = re.compile(r"authorization|cookie|token|secret|passw|api-?key", re.IGNORECASE)
# One parameter of a Content-Type (RFC 9110, section 5.6.6). A quoted string is matched as a whole,
# so that nothing within it is taken for a parameter.
_PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
# Python's own, which are no charsets; some are slow with long texts.
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape"})


_Index: TypeAlias = dict[str, tuple[str, list[str]]]


class Headers(Mapping[str, str]):
    """Header fields: in order, repeated ones kept, names compared without regard to case.

    As a mapping it has each name once, as it was first spelled. The value of one that is repeated
    is all its values in order, joined by commas, which means the same (RFC 9110, section 5.3); only
    those of Set-Cookie cannot be joined, and the first is given. `get_all` and `multi_items` give
    each for itself.

    Immutable; safe to share between threads. Equal to other headers with the same values for each
    name in the same order. Its `repr` hides what is secret, like cookies and tokens.

    Args:
        fields: A mapping, pairs of name and value, or None.

    Raises:
        ConfigurationError: A name is not a token (RFC 9110, section 5.6.2), or a value contains a
            control character or one that is not in Latin-1. The text shows no value.
        TypeError: A name or a value is not a `str`, or `fields` are neither a mapping nor pairs.
    """

    __slots__ = ("_index", "_pairs")

    def __init__(self, fields: Mapping[str, str] | Iterable[tuple[str, str]] | None = None) -> None:
        pairs: Iterable[tuple[str, str]]
        if isinstance(fields, Headers):
            pairs = fields.multi_items()
        elif isinstance(fields, Mapping):
            pairs = fields.items()
        else:
            pairs = () if fields is None else fields
        self._pairs = tuple([_checked(pair) for pair in pairs])
        self._index: _Index | None = None  # made when somebody looks something up

    @property
    def _names(self) -> _Index:
        """By the name in lower case: the name as first spelled, and all values."""
        index = self._index
        if index is None:
            index = {}
            for name, value in self._pairs:
                index.setdefault(name.lower(), (name, []))[1].append(value)
            self._index = index  # whole, so it is of no account if two threads make it
        return index

    def __getitem__(self, name: str) -> str:
        lowered = name.lower()
        values = self._names[lowered][1]
        return values[0] if lowered == "set-cookie" else ", ".join(values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._names

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._names.values())

    def __len__(self) -> int:
        return len(self._names)

    def get_all(self, name: str) -> tuple[str, ...]:
        """All values of a name, in order; none if it is not there."""
        return tuple(self._names.get(name.lower(), (name, ()))[1])

    def multi_items(self) -> tuple[tuple[str, str], ...]:
        """Every field for itself, as name and value, in order."""
        return self._pairs

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(frozenset(self._values().items()))

    def __repr__(self) -> str:
        shown = [(n, HIDDEN if _SECRET_NAME.search(n) else v) for n, v in self._pairs]
        return f"Headers({shown!r})"

    def _values(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(values) for name, (_, values) in self._names.items()}


NO_HEADERS = Headers()
"""None at all."""


@dataclass(frozen=True, init=False)
class TunnelResponse:
    """The answer to a request. Any status is an answer, also 4xx and 5xx.

    Attributes:
        request_id: The number of the request, by which the two ends find what belongs together.
        status_code: As in HTTP, three digits.
        headers: The header fields.
        payload: The body.
        latency: Seconds from the call until the answer came; 0.0 at the end that answers.

    Raises:
        ConfigurationError: The id or the status is out of bounds.
        TypeError: A value has the wrong type.
    """

    request_id: int
    status_code: int
    headers: Headers
    payload: bytes = field(repr=False)
    latency: float

    def __init__(
        self,
        request_id: int,
        status_code: int,
        headers: Headers = NO_HEADERS,
        payload: bytes = b"",
        latency: float = 0.0,
    ) -> None:
        check_fields(request_id, headers, payload)
        if type(status_code) is not int:
            check_types(("status_code", status_code, int))
        if not 100 <= status_code <= 999:
            raise ConfigurationError("status_code must have three digits (RFC 9110, section 15)")
        # All at once takes half the time of setting each field of what is frozen.
        self.__dict__.update(
            request_id=request_id,
            status_code=status_code,
            headers=headers,
            payload=payload,
            latency=latency,
        )

    @property
    def text(self) -> str:
        """The payload as text, by the charset of Content-Type.

        UTF-8 if none is given or it is not known. Bytes that do not fit become U+FFFD.
        """
        charset = _charset(self.headers.get("Content-Type", ""))
        return self.payload.decode(charset, errors="replace")

    def json(self) -> Any:
        """What the payload says as JSON, whatever the Content-Type is.

        Raises:
            ValueError: It is not JSON in UTF-8, UTF-16 or UTF-32, or is nested too deeply.
        """
        try:
            return json.loads(self.payload)
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None


def headers_of(fields: Mapping[str, str] | Iterable[tuple[str, str]] | None) -> Headers:
    """The header fields as `Headers`, which are not made anew if there are none, or are there."""
    if fields is None or fields == []:
        return NO_HEADERS
    return fields if type(fields) is Headers else Headers(fields)


def check_fields(request_id: object, headers: object, payload: object) -> None:
    """Check what requests and responses have in common.

    Raises:
        ConfigurationError: The id is out of bounds.
        TypeError: A value has the wrong type.
    """
    # The usual types are seen at a glance, since every request passes here four times.
    if not (type(request_id) is int and type(headers) is Headers and type(payload) is bytes):
        check_types(
            ("request_id", request_id, int),
            ("headers", headers, Headers),
            ("payload", payload, bytes),
        )
    check_request_id(cast("int", request_id))


def check_types(*values: tuple[str, object, type]) -> None:
    """Check each of some values, given as name, value and type.

    Raises:
        TypeError: One is of another type; a `bool` is no `int` here. The text shows no value.
    """
    for name, value, wanted in values:
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise TypeError(f"{name} must be {wanted.__name__}, not {type(value).__name__}")


def check_request_id(request_id: int) -> None:
    """Check that a request's number fits into its eight bytes.

    Raises:
        ConfigurationError: It does not.
    """
    if not 0 <= request_id <= MAX_REQUEST_ID:
        raise ConfigurationError("request_id must be between 0 and 2^64 - 1")


def is_token(text: str) -> bool:
    """Whether the text is a token of HTTP, like a method or a header's name (RFC 9110, 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def _checked(pair: object) -> tuple[str, str]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError("headers must be a mapping or pairs of name and value")
    name, value = pair
    if not isinstance(name, str):
        raise TypeError(f"a header's name must be a str, not {type(name).__name__}")
    if not is_token(name):
        # Only the valid beginning is shown: a whole line "Name: value" may have been passed.
        token = _TOKEN.match(name)
        beginning = token[0][:40] if token else ""
        raise ConfigurationError(
            f"the header name that begins with {beginning!r} is not a token (RFC 9110, 5.6.2)"
        )
    shown = name[:40]
    if not isinstance(value, str):
        raise TypeError(f"the value of the header {shown!r} must be a str")
    value = value.strip(" \t")  # never part of a value (RFC 9110, section 5.5)
    if _CONTROL.search(value):
        raise ConfigurationError(f"the value of the header {shown!r} contains a control character")
    if not value.isascii() and any(ord(char) > 0xFF for char in value):
        raise ConfigurationError(
            f"the value of the header {shown!r} contains a character that is not in Latin-1"
        )
    return name, value


def _charset(content_type: str) -> str:
    for parameter in _PARAMETER.finditer(content_type):
        if parameter[1].lower() == "charset":
            charset = parameter[2] or parameter[3] or ""
            try:
                # Not `codecs.lookup` alone: it knows "hex" and "zip" too, which make no text.
                b" ".decode(charset, errors="replace")
                known = codecs.lookup(charset).name.replace("_", "-") not in _NO_CHARSETS
            except (LookupError, ValueError):
                known = False
            return charset if known else "utf-8"
    return "utf-8"
