"""Who may open a tunnel: bearer tokens from a file, the environment, or an application's check.

A check is a callable that gets the token (None if there was none) and the request's headers, and
returns the name of the user; sessions belong to users. It raises `TokenExpiredError` for a token
that has expired, `InvalidCredentialsError` for one that is wrong, and `AuthenticationFailedError`
if it will not say; each becomes a 401 whose challenge tells a client which it was (RFC 6750,
section 3; requirement 2.9).

A file has one token a line: ``USER:TOKEN``, or only ``TOKEN``, which stands for the user `default`.
Empty lines, and those that begin with ``#``, mean nothing. A user may have several tokens.

Tokens are not kept, only their SHA-256, and are found by it: what the look-up's time could betray
is a digest, and nobody can choose a token by a part of its digest. No token is ever shown.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from loguru import logger

from tunnel.errors import (
    AuthenticationFailedError,
    ConfigurationError,
    InvalidCredentialsError,
    TokenExpiredError,
)

Authenticate: TypeAlias = Callable[[str | None, Mapping[str, str]], str]
"""From a token and headers to the name of a user; see above."""

DEFAULT_USER = "default"
"""Whom a token without a name stands for."""

# RFC 6750, section 2.1, and RFC 9110, section 11.1: the name of the scheme is in any case.
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class TokenTable:
    """The tokens that are known, and whose they are. Immutable.

    Args:
        text: In the format of a file.
        source: Where it is from, for messages.

    Raises:
        ConfigurationError: A line is no token, or there is none at all. The text shows only where.
    """

    def __init__(self, text: str, source: str) -> None:
        self._users: dict[bytes, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            user, _, token = line.rpartition(":")
            if not _TOKEN.fullmatch(token):
                raise ConfigurationError(
                    f"{source}, line {number}, is neither TOKEN nor USER:TOKEN (a token has "
                    "letters, digits and -._~+/ and may end with =)"
                )
            self._users[_digest(token)] = user.strip() or DEFAULT_USER
        if not self._users:
            raise ConfigurationError(f"{source} holds no token")

    def __call__(self, token: str | None, headers: Mapping[str, str]) -> str:
        """See `Authenticate`."""
        if token is None:
            raise AuthenticationFailedError("no token was given")
        user = self._users.get(_digest(token))
        if user is None:
            raise InvalidCredentialsError("the token is not known")
        return user


class TokenFile:
    """The tokens of a file, which is read again when it has changed. Thread-safe.

    A file that cannot be read any more, or has become wrong, is logged, and the tokens that were
    read last stay good. To refuse everybody, put in a token that nobody has.

    Args:
        path: Of the file.

    Raises:
        ConfigurationError: It cannot be read, or is wrong; now, at the start.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()  # guards all below
        self._version = self._look()
        self._table = self._read()

    def __call__(self, token: str | None, headers: Mapping[str, str]) -> str:
        """See `Authenticate`."""
        problem = None
        with self._lock:
            version = self._look()
            if version != self._version:
                self._version = version
                try:
                    self._table = self._read()
                except ConfigurationError as error:
                    problem = error
            table = self._table
        if problem is not None:
            logger.error("the tokens read before stay good: {}", problem.message)
        return table(token, headers)

    def _look(self) -> tuple[int, int, int] | None:
        """What is different once the file is; None: there is no file."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> TokenTable:
        try:
            text = self._path.read_text("utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"the token file {self._path} cannot be read: {error.strerror}"
            ) from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"the token file {self._path} is not UTF-8") from None
        return TokenTable(text, f"the token file {self._path}")


def tokens_of_environment(name: str) -> TokenTable:
    """The tokens in an environment variable, in the format of a file.

    Raises:
        ConfigurationError: It is not set, or is wrong.
    """
    text = os.environ.get(name)
    if text is None:
        raise ConfigurationError(f"the environment variable {name} is not set")
    return TokenTable(text, f"the environment variable {name}")


def anybody(token: str | None, headers: Mapping[str, str]) -> str:
    """Lets everybody in, as one user."""
    return DEFAULT_USER


def bearer_token(authorizations: Sequence[str]) -> str | None:
    """The token in the values of the header Authorization; None if there is none.

    Raises:
        AuthenticationFailedError: There is something else.
    """
    if not authorizations:
        return None
    match = _BEARER.fullmatch(authorizations[0].strip())
    if match is None or len(authorizations) > 1:
        raise AuthenticationFailedError("the header Authorization is no Bearer token")
    return match[1]


def challenge(error: AuthenticationFailedError) -> str:
    """The value of WWW-Authenticate that says why a client was refused (RFC 6750, section 3)."""
    if isinstance(error, TokenExpiredError):
        return 'Bearer error="invalid_token", error_description="The access token expired"'
    if isinstance(error, InvalidCredentialsError):
        return 'Bearer error="invalid_token"'
    return "Bearer"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
