"""What ``tunnel connect`` and ``tunnel diagnose`` are told about a server, and what becomes of it.

Secrets are never arguments, which everybody on the machine can read: a token comes from a file or
an environment variable, and headers may come from a file.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger

from tunnel.addresses import TunnelUrl, bearer_header
from tunnel.config import TunnelConfig
from tunnel.errors import ConfigurationError
from tunnel.requests import AuthToken
from tunnel.secrets import Secret
from tunnel.tls import TlsSettings

PROFILES: dict[str, Callable[..., TunnelConfig]] = {
    "stable-network": TunnelConfig.stable_network,
    "unstable-network": TunnelConfig.unstable_network,
    "low-bandwidth": TunnelConfig.low_bandwidth,
}
"""The library's profiles, by the names that the option ``--profile`` takes."""

_PREFIX = "TUNNEL_"


def add_target_options(parser: ArgumentParser) -> None:
    """Declare the URL, and the options about what is said to the server."""
    parser.add_argument("url", metavar="URL", help="of the server, ws:// or wss://")
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token-env", metavar="NAME", help="send the bearer token in this environment variable"
    )
    token.add_argument(
        "--token-file",
        metavar="FILE",
        help="send the bearer token in this file, which is read again before each attempt",
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="send this header with the upgrade; may be given several times. For headers that "
        "nobody else on this machine should read, @FILE has one a line",
    )
    parser.add_argument(
        "--subprotocol",
        action="append",
        default=[],
        metavar="NAME",
        help="offer this subprotocol; may be given several times, the best first",
    )
    parser.add_argument(
        "--ca-file", metavar="FILE", help="trust the authorities in this PEM file, and no others"
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="take any certificate: whoever is on the way can then read and change everything",
    )


def add_profile_option(parser: ArgumentParser) -> None:
    """Declare from where the settings of the tunnel come."""
    parser.add_argument(
        "--profile",
        type=lambda text: text.replace("_", "-"),
        choices=PROFILES,
        metavar="NAME",
        help=f"how to reconnect: {', '.join(PROFILES)} (default: 10 attempts, from 2 s on). "
        "Single settings come from environment variables, such as "
        f"{_PREFIX}MAX_RECONNECT_ATTEMPTS=3, and go before the profile's",
    )


def config_of(arguments: Namespace) -> TunnelConfig:
    """The settings: those of the profile, changed by those of the environment.

    Raises:
        ConfigurationError: A variable is misspelt, or its value is not valid.
    """
    from_env = TunnelConfig.from_env(_PREFIX)
    if arguments.profile is None:
        return from_env
    changes = {
        name: value
        for name, value in from_env.to_dict().items()
        if os.environ.get(_PREFIX + name.upper(), "").strip()
    }
    return PROFILES[arguments.profile](**changes)


def connect_options(arguments: Namespace) -> dict[str, Any]:
    """Arguments for `TunnelService.connect`, beside the URL.

    Raises:
        ConfigurationError: An option is wrong, or what it names is missing.
    """
    return {
        "auth_token": _token(arguments),
        "headers": [pair for option in arguments.header for pair in _headers(option)],
        "subprotocols": arguments.subprotocol,
        "tls": _tls(arguments),
    }


def _token(arguments: Namespace) -> AuthToken:
    if arguments.token_env is not None:
        token = os.environ.get(arguments.token_env, "").strip()
        if not token:
            raise ConfigurationError(
                f"the environment variable {arguments.token_env} is not set, or is empty"
            )
        return token
    if arguments.token_file is None:
        return None
    return _TokenFile(Path(arguments.token_file))


class _TokenFile:
    """The token in a file, read at the start and for each attempt.

    While the file cannot be read, or is wrong, as in the midst of being replaced, the token that
    was read last stays good.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = Secret(_read_token(path))

    def __call__(self) -> str:
        try:
            self._token = Secret(_read_token(self._path))
        except ConfigurationError as error:
            logger.warning("{}; the token read before is sent", error.message)
        return self._token.reveal()


def _read_token(path: Path) -> str:
    token = _read(path, "token file").strip()
    try:
        bearer_header(token)
    except ConfigurationError:
        raise ConfigurationError(
            f"the token file {path} must hold one token and nothing else: visible ASCII characters "
            "without spaces"
        ) from None
    return token


def _headers(option: str) -> list[tuple[str, str]]:
    if not option.startswith("@"):
        return [_header(option, "--header")]
    path = Path(option[1:])
    lines = enumerate(_read(path, "header file").splitlines(), 1)
    return [
        _header(line, f"line {n} of the header file {path}") for n, line in lines if line.strip()
    ]


def _header(text: str, source: str) -> tuple[str, str]:
    """Name and value. What is wrong is not shown: it may be secret."""
    name, colon, value = text.partition(":")
    if not colon:
        raise ConfigurationError(f"{source} must be 'NAME: VALUE', with a colon")
    return name.strip(), value.strip()


def _tls(arguments: Namespace) -> TlsSettings | None:
    if arguments.ca_file is None and not arguments.insecure:
        return None
    if not TunnelUrl.parse(arguments.url).is_secure:
        option = "--insecure" if arguments.insecure else "--ca-file"
        raise ConfigurationError(f"{option} is about TLS, and the URL is not a wss:// one")
    return TlsSettings(ca_file=arguments.ca_file, verify=not arguments.insecure)


def _read(path: Path, kind: str) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"the {kind} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the {kind} {path} is not UTF-8") from None
