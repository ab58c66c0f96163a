"""Arguments that are checked at the call that got them."""

from __future__ import annotations

import math
import ssl
import threading
from typing import Any

import pytest

from tunnel.arguments import (
    check_callbacks,
    check_messages,
    checked_config,
    checked_context,
    checked_limit,
    checked_seconds,
    checked_text,
    checked_token,
)
from tunnel.config import TunnelConfig
from tunnel.errors import ConfigurationError
from tunnel.secrets import Secret


def test_settings() -> None:
    """Settings are a `TunnelConfig`, or left out."""
    config = TunnelConfig(jitter=0)
    assert checked_config(config) is config
    assert checked_config(None) == TunnelConfig()
    with pytest.raises(TypeError, match="must be a TunnelConfig, not dict"):
        checked_config({"jitter": 0})  # type: ignore[arg-type]


def test_callbacks() -> None:
    """Each can be called, or is left out; the one that is wrong is named."""
    check_callbacks(on_message=print, on_connected=None)
    with pytest.raises(TypeError, match="on_connected must be callable, not 3"):
        check_callbacks(on_message=print, on_connected=3)


def test_messages() -> None:
    """What is to be sent is text or bytes."""
    check_messages("box", ("a", b"b"))
    with pytest.raises(TypeError, match="the box holds a int; messages are str or bytes"):
        check_messages("box", ("a", 3))


def test_a_token_is_kept_secret() -> None:
    """A token is wrapped, so that it is in no text; what makes one is asked later."""
    token = checked_token("t0ken")
    assert isinstance(token, Secret)
    assert "t0ken" not in repr(token)
    assert token.reveal() == "t0ken"
    assert checked_token(None) is None
    assert checked_token(input) is input


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: b"])
def test_a_token_that_cannot_be_sent(token: str) -> None:
    """A token that no header can carry is refused, and not quoted."""
    with pytest.raises(ConfigurationError) as caught:
        checked_token(token)
    assert token == "" or token not in str(caught.value)


def test_texts() -> None:
    """A text that is left out is empty."""
    assert checked_text("name", "a") == "a"
    assert checked_text("name", None) == ""
    with pytest.raises(TypeError, match="name must be a str, not bytes"):
        checked_text("name", b"a")  # type: ignore[arg-type]


def test_contexts() -> None:
    """A TLS context is one, or left out."""
    context = ssl.create_default_context()
    assert checked_context(context) is context
    assert checked_context(None) is None
    with pytest.raises(TypeError, match=r"ssl\.SSLContext, not bool"):
        checked_context(True)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 1, 2.5, threading.TIMEOUT_MAX])
def test_seconds(value: float) -> None:
    """Seconds are a number from 0 to what a wait can last; left out: no limit."""
    assert checked_limit("timeout", value) == value
    assert checked_seconds("timeout", value) == value
    assert isinstance(checked_limit("timeout", value), float)
    assert checked_seconds("timeout", None) is None


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-0.1, ConfigurationError),
        (math.inf, ConfigurationError),
        (math.nan, ConfigurationError),
        (2 * threading.TIMEOUT_MAX, ConfigurationError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_seconds_that_are_none(value: Any, error: type[Exception]) -> None:
    """The error names the argument and the value."""
    with pytest.raises(error, match="timeout must be") as caught:
        checked_limit("timeout", value)
    assert repr(value) in str(caught.value)
