"""The bounds of a gateway."""

from __future__ import annotations

import dataclasses

import pytest

from tunnel.errors import ConfigurationError
from tunnel.gateway import GatewaySettings


def test_the_defaults_are_valid_and_generous() -> None:
    """2,000 sessions of one user that come back after a restart of his program fit twice."""
    settings = GatewaySettings()
    assert settings.max_sessions_per_user >= 4_000
    assert settings.session_keep == 600.0


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("workers", 0, "workers must be more than 0 and at most 2^31"),
        ("workers", 1.5, "workers must be a number"),
        ("workers", True, "workers must be a number"),
        ("workers", 2**40, "workers must be more than 0 and at most 2^31"),
        ("ping_interval", float("nan"), "ping_interval must be more than 0 and at most 2^31"),
        ("ping_interval", float("inf"), "ping_interval must be more than 0 and at most 2^31"),
        ("ping_interval", "1", "ping_interval must be a number"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object, problem: str) -> None:
    """Each with its name."""
    with pytest.raises(ConfigurationError) as info:
        GatewaySettings(**{name: value})  # type: ignore[arg-type]
    assert info.value.problems == (problem,)


def test_all_that_is_wrong_is_named() -> None:
    """Not only the first."""
    with pytest.raises(ConfigurationError) as info:
        GatewaySettings(workers=0, max_requests=-1)
    assert len(info.value.problems) == 2


def test_settings_cannot_be_changed() -> None:
    """They are shared by all of a gateway."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        GatewaySettings().workers = 5  # type: ignore[misc]
