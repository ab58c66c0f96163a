"""Arguments that are checked at the call that got them; nothing has changed when they are wrong."""

from __future__ import annotations

import functools
import ssl
import threading
from collections.abc import Callable, Iterable

from tunnel.addresses import bearer_header
from tunnel.config import TunnelConfig
from tunnel.errors import ConfigurationError
from tunnel.secrets import Secret


@functools.cache
def _defaults() -> TunnelConfig:
    """One for all: it cannot be changed, and takes half a KiB."""
    return TunnelConfig()


def checked_config(config: TunnelConfig | None) -> TunnelConfig:
    """The settings; None: the defaults."""
    if config is None:
        return _defaults()
    if not isinstance(config, TunnelConfig):
        raise TypeError(f"config must be a TunnelConfig, not {type(config).__name__}")
    return config


def check_callbacks(**callbacks: object) -> None:
    """See that each can be called, or is None; by its name."""
    for name, callback in callbacks.items():
        if callback is not None and not callable(callback):
            raise TypeError(f"{name} must be callable, not {callback!r}")


def check_messages(name: str, items: Iterable[object]) -> None:
    """See that what an argument holds can be sent."""
    for item in items:
        if not isinstance(item, (str, bytes)):
            raise TypeError(f"the {name} holds a {type(item).__name__}; messages are str or bytes")


def checked_token(token: str | Callable[[], str] | None) -> Secret | Callable[[], str] | None:
    """A bearer token, wrapped; a callable is asked later."""
    if token is None or callable(token):
        return token
    bearer_header(token)  # checks it
    return Secret(token)


def checked_text(name: str, value: str | None) -> str:
    """A text; None: an empty one."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return value or ""


def checked_context(context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """A TLS context, or None."""
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(context).__name__}")
    return context


def checked_seconds(name: str, value: float | None) -> float | None:
    """A time-out in seconds; None: none."""
    return None if value is None else checked_limit(name, value)


def checked_limit(name: str, value: float) -> float:
    """A time-out in seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ConfigurationError(f"{name} must be finite and at least 0 seconds, not {value!r}")
    return float(value)
