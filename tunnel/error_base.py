"""What all errors of a tunnel have in common; `tunnel.errors` shows and holds the tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypedDict

from tunnel.error_codes import ERROR_CODES, ErrorCode, TunnelErrorCategory


class ErrorOptions(TypedDict, total=False):
    """What every error takes besides its message; see `TunnelError`."""

    is_retryable: bool | None
    retry_after: float | None
    user_message: str | None
    suggestion: str | None
    context: Mapping[str, object] | None


class TunnelError(Exception):
    """The root of all errors of this package; itself raised only for what nobody foresaw.

    Args:
        message: What happened, for those who read logs. Default: the title of the code.
        is_retryable: Whether trying again may help. Default: as the table of codes says.
        retry_after: Seconds that the other end asks to wait before the next attempt.
        user_message: A sentence for people. Default: the code's.
        suggestion: What they can do. Default: the code's.
        context: Facts about this case, without secrets. What JSON cannot hold is kept as its `str`;
            of bytes only the length, because they may be somebody's message.

    Errors can be pickled and copied with all their attributes; as with every exception, the chain
    of causes stays behind.
    """

    code: ClassVar[str] = "TUNNEL_999"

    def __init__(
        self,
        message: str = "",
        *,
        is_retryable: bool | None = None,
        retry_after: float | None = None,
        user_message: str | None = None,
        suggestion: str | None = None,
        context: Mapping[str, object] | None = None,
    ) -> None:
        row = self._row()
        self.message: str = message or row.title
        self.is_retryable: bool = row.is_retryable if is_retryable is None else is_retryable
        self.retry_after: float | None = retry_after
        self.user_message: str = user_message or row.user_message
        self.suggestion: str | None = suggestion or row.suggestion
        self.context: dict[str, Any] = jsonable(context or {})
        super().__init__(self.message)

    @classmethod
    def from_exception(cls, exc: Exception, *, now: float | None = None) -> TunnelError:
        """Translate any exception into the error of this tree that fits it.

        Covers what websocket-client, `ssl` and `socket` raise; `tunnel.classify` has the rules. The
        result has `exc` as its `__cause__`, unless the text of `exc` quotes what the peer sent,
        which may be secret (cookies): then it has none. So raise it like this::

            error = TunnelError.from_exception(exc)
            raise error from error.__cause__

        Args:
            exc: What was caught. A `TunnelError` is returned as it is.
            now: The present Unix time in seconds, for a `Retry-After` that is a date. Default: the
                system's clock.

        Returns:
            An error of whichever class fits, not necessarily of the class this is called on.

        Raises:
            BaseException: `exc` itself, if it is no `Exception` (`KeyboardInterrupt`,
                `SystemExit`): that is nobody's to swallow.
            TypeError: If `exc` is not an exception at all.
        """
        # Here and not above, because the classifier needs the whole tree, and websocket-client.
        from tunnel.classify import classify

        return classify(exc, now=now)

    @classmethod
    def _row(cls) -> ErrorCode:
        return ERROR_CODES[cls.code]

    def _add_facts(self, **facts: object) -> None:
        """Set attributes of a subclass; those that are known become part of the context too."""
        for name, value in facts.items():
            setattr(self, name, value)
            if value not in (None, ""):
                self.context.setdefault(name, jsonable(value))

    @property
    def category(self) -> TunnelErrorCategory:
        """Where the error comes from."""
        return self._row().category

    @property
    def documentation(self) -> str:
        """Where the documentation explains the code, within the project (requirement 2.10)."""
        return f"docs/errors.rst#{self._row().anchor}"

    def to_dict(self) -> dict[str, Any]:
        """All there is to know, ready for JSON."""
        return {
            "type": type(self).__name__,
            "code": self.code,
            "category": self.category.value,
            "message": self.message,
            "user_message": self.user_message,
            "suggestion": self.suggestion,
            "is_retryable": self.is_retryable,
            "retry_after": self.retry_after,
            "context": jsonable(self.context),
            "documentation": self.documentation,
        }

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with `args` alone, without its required keywords.
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(cls: type[TunnelError], args: tuple[Any, ...]) -> TunnelError:
    return cls.__new__(cls, *args)


def jsonable(value: object) -> Any:
    """A copy of `value` that strict JSON takes (no NaN), with errors as their dictionaries."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, TunnelError):
        return value.to_dict()
    return str(value)
