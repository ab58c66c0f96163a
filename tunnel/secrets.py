"""What must not be seen: a wrapper for tokens, and removing what looks secret from texts.

A secret is unwrapped (`Secret.reveal`) only where it goes onto the wire. Everywhere else travels
the wrapper, which shows nothing of it: not in `repr`, `str` and formats, and so neither in logs nor
in tracebacks with values (loguru's `diagnose=True`), and which neither JSON nor pickle takes.

`scrub` is a second line of defence, for texts that somebody else wrote: the message of an
exception, the reason of a close frame. It knows the usual shapes of credentials, not all; and the
texts of all secrets that are still in use, which a hostile peer may quote without any shape.

`bare` is one against tracebacks with the values of variables: a `str` that an application passed
is, in the frames it was passed through, the text itself.
"""

from __future__ import annotations

import functools
import hmac
import re
import weakref
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
_E = TypeVar("_E", bound=BaseException)

HIDDEN = "***"
"""What is shown instead of a secret."""

_SCRUBBED_LENGTH = 500
_LEAST_LENGTH = 6  # of a secret that is looked for in texts: "no" or "1" would be found everywhere

_SHAPES = (
    # An authentication scheme and what follows it.
    (re.compile(r"\b(bearer|basic)\s+[^\s'\",;]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # The user information of a URL.
    (re.compile(r"(://)[^\s/?#@'\"]*@"), rf"\1{HIDDEN}@"),
    # A header or a setting that is known for holding secrets, to the end of its line or string.
    (
        re.compile(
            r"\b((?:set-)?cookie|(?:proxy-)?authorization"
            r"|(?:\w*[-_])?(?:token|password|passwd|secret|api-?key))"
            r"(['\"]?\s*[:=]\s*)(?:b?'[^']*|b?\"[^\"]*|[^\s'\"][^\r\n'\"]*)",
            re.IGNORECASE,
        ),
        rf"\1\2{HIDDEN}",
    ),
    # The values in the query of a URL.
    (re.compile(r"([?&][^\s=&#'\"]+=)[^\s&#'\"]*"), rf"\1{HIDDEN}"),
)


class Secret:
    """A text that is not shown. Immutable; safe to share between threads.

    Not a `str`, so that nothing which takes strings (JSON, formatting, joining) can spill it by
    accident. Equal only to a `Secret` of the same text, compared in constant time.

    Args:
        value: The text, or another `Secret`.

    Raises:
        TypeError: If it is neither.
    """

    __slots__ = ("__weakref__", "_value")
    _value: str

    def __init__(self, value: str | Secret) -> None:
        if isinstance(value, Secret):
            value = value.reveal()
        if not isinstance(value, str):
            raise TypeError(f"a secret must be a str, not {type(value).__name__}")
        object.__setattr__(self, "_value", value)
        _note(self, len(value))

    def reveal(self) -> str:
        """The text itself. Do not keep it in a variable: tracebacks can show variables."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_encoded(self._value), _encoded(other._value))

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return f"Secret('{HIDDEN}')"

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, format_spec: str) -> str:
        return HIDDEN

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a secret cannot be changed")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


# By length, since most texts are shorter than most secrets (a thousand tunnels have a thousand) and
# so cannot hold them; and by identity, since of two equal ones either may be the first to go.
_in_use: dict[int, weakref.WeakValueDictionary[int, Secret]] = {}


def _note(secret: Secret, length: int) -> None:
    if length >= _LEAST_LENGTH:
        _in_use.setdefault(length, weakref.WeakValueDictionary())[id(secret)] = secret


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def scrub(text: str) -> str:
    """`text` on one line, of 500 characters at most, without what looks like a credential.

    Removes values after `Bearer` and `Basic`, user information and query values of URLs, and what
    follows the names of cookies, authorization headers, tokens, passwords and keys; and wherever
    it stands, the text of each `Secret` that is in use and has 6 characters or more. Control
    characters become spaces, so that nothing can pretend to be a log line of its own.
    """
    # Before it is shortened, which might leave half a secret.
    text = _without_secrets(text)
    shortened = text[: 2 * _SCRUBBED_LENGTH]
    for shape, replacement in _SHAPES:
        shortened = shape.sub(replacement, shortened)
    line = "".join(char if char.isprintable() else " " for char in shortened)
    if len(line) > _SCRUBBED_LENGTH or len(text) > 2 * _SCRUBBED_LENGTH:
        line = line[: _SCRUBBED_LENGTH - 3] + "..."
    return line


def _without_secrets(text: str) -> str:
    for length in sorted(_in_use, reverse=True):  # the longest first: one may be a part of another
        if length > len(text):
            continue
        for reference in _in_use[length].valuerefs():
            secret = reference()
            if secret is not None and secret.reveal() in text:
                text = text.replace(secret.reveal(), HIDDEN)
    return text


def bare(error: _E) -> _E:
    """The same error without its frames, and without what `from None` had only put out of sight.

    The same is done to its causes. What is left are the texts, which are for showing.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.__traceback__ = None
        if link.__suppress_context__:
            link.__context__ = None
        link = link.__cause__ or link.__context__
    return error


def raises_bare(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have a function that is given secrets raise only errors that are `bare`.

    Their tracebacks end where it was called, with the frame of this wrapper.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            failure = bare(error)
        del args, kwargs  # what is raised below shows this frame
        try:
            raise failure
        finally:
            del failure  # its traceback holds this frame: no circle

    return call
