from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.config import TunnelConfig
from tunnel.errors import ConfigurationError

DEFAULTS: dict[str, Any] = {
    "max_reconnect_attempts": 10,
    "reconnect_base_delay": 2.0,
    "reconnect_max_delay": 60.0,
    "jitter": 0.3,
    "stable_after": 30.0,
    "ping_interval": 30.0,
    "ping_mode": "frame",
    "pong_timeout": None,
    "connect_timeout": 10.0,
    "request_timeout": 30.0,
    "max_queue_size": 100,
    "max_message_size": 16 * 2**20,
    "max_fragments": 2**20,
    "max_header_size": 64 * 1024,
    "receive_high_water": 4 * 2**20,
    "max_unacknowledged": 10_000,
    "max_unacknowledged_bytes": 16 * 2**20,
    "enable_auto_reconnect": True,
    "resume": "auto",
    "watch_network": True,
    "fatal_close_codes": [],
    "max_event_history": 100,
    "log_level": "INFO",
}
# Least and greatest value of each number, and a pair just outside. A wide partner keeps the two
# settings that are compared with another one out of the way.
BOUNDS: dict[str, tuple[float, float, dict[str, Any]]] = {
    "max_reconnect_attempts": (1, 1_000_000, {}),
    "reconnect_base_delay": (0.001, 86_400, {"reconnect_max_delay": 86_400}),
    "reconnect_max_delay": (0.001, 86_400, {"reconnect_base_delay": 0.001}),
    "jitter": (0, 1, {}),
    "stable_after": (0, 86_400, {}),
    "ping_interval": (0.001, 86_400, {}),
    "pong_timeout": (0.002, 172_800, {"ping_interval": 0.001}),
    "connect_timeout": (0.001, 86_400, {}),
    "request_timeout": (0.001, 86_400, {}),
    "max_queue_size": (1, 10_000_000, {}),
    "max_message_size": (1, 2**31, {}),
    "max_fragments": (1, 2**31, {}),
    "max_header_size": (1024, 2**31, {}),
    "receive_high_water": (1024, 2**31, {}),
    "max_unacknowledged": (1, 10_000_000, {}),
    "max_unacknowledged_bytes": (1024, 2**31, {}),
    "max_event_history": (0, 1_000_000, {}),
}
WHOLE = {
    "max_reconnect_attempts",
    "max_queue_size",
    "max_message_size",
    "max_fragments",
    "max_header_size",
    "receive_high_water",
    "max_unacknowledged",
    "max_unacknowledged_bytes",
    "max_event_history",
}
OPTIONAL = {"max_reconnect_attempts", "ping_interval", "pong_timeout"}


def seconds(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Valid settings, some of them left out."""
    base = draw(seconds(0.001, 86_400))
    ping = draw(st.none() | seconds(0.001, 86_400))
    settings = {
        "max_reconnect_attempts": draw(st.none() | st.integers(1, 1_000_000)),
        "reconnect_base_delay": base,
        "reconnect_max_delay": draw(seconds(base, 86_400)),
        "jitter": draw(seconds(0, 1)),
        "stable_after": draw(seconds(0, 86_400)),
        "ping_interval": ping,
        "ping_mode": draw(st.sampled_from(["frame", "text", "TEXT"])),
        "pong_timeout": draw(
            st.none() | st.floats(ping or 0.001, 172_800, exclude_min=True, allow_nan=False)
        ),
        "connect_timeout": draw(seconds(0.001, 86_400)),
        "max_queue_size": draw(st.integers(1, 10_000_000)),
        "enable_auto_reconnect": draw(st.booleans()),
        "resume": draw(st.sampled_from(["auto", "off", "required"])),
        "watch_network": draw(st.booleans()),
        "fatal_close_codes": draw(st.sets(st.integers(1000, 4999))),
        "log_level": draw(st.sampled_from(["TRACE", "debug", "Success", "CRITICAL"])),
    }
    left_out = draw(st.sets(st.sampled_from(["jitter", "stable_after", "resume", "log_level"])))
    return {name: value for name, value in settings.items() if name not in left_out}


def refusal(**settings: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        TunnelConfig(**settings)
    return caught.value


def test_the_defaults_are_the_documented_ones() -> None:
    """Without arguments the settings are those of the design, and JSON."""
    found = TunnelConfig().to_dict()
    assert found == DEFAULTS
    assert json.loads(json.dumps(found)) == found


def test_every_setting_is_documented() -> None:
    """The docstring explains each field, in the order of the fields."""
    documented = [
        line.strip().partition(":")[0]
        for line in inspect.cleandoc(TunnelConfig.__doc__ or "").splitlines()
        if line.startswith("    ") and not line.startswith("     ") and ": " in line
    ]
    fields = [field.name for field in dataclasses.fields(TunnelConfig)]
    assert documented[: len(fields)] == fields


@pytest.mark.requirement("9.2")
@pytest.mark.parametrize(
    ("profile", "attempts", "delay"),
    [
        (TunnelConfig.stable_network, 5, 1.0),
        (TunnelConfig.unstable_network, 20, 5.0),
        (TunnelConfig.low_bandwidth, 10, 3.0),
    ],
)
def test_profiles(profile, attempts: int, delay: float) -> None:
    """A profile differs from the defaults by its attempts and its delay, and by what is asked."""
    profiled = {"max_reconnect_attempts": attempts, "reconnect_base_delay": delay}
    assert profile().to_dict() == {**DEFAULTS, **profiled}
    changed = profile(jitter=0.0, max_reconnect_attempts=7).to_dict()
    assert changed == {**DEFAULTS, **profiled, "jitter": 0.0, "max_reconnect_attempts": 7}
    with pytest.raises(ConfigurationError, match="'jiter' is not a setting; did you mean jitter"):
        profile(jiter=0.0)


@pytest.mark.requirement("9.7")
def test_automatic_reconnection_can_be_turned_off() -> None:
    """It is on unless it is turned off."""
    assert TunnelConfig().enable_auto_reconnect is True
    assert TunnelConfig(enable_auto_reconnect=False).enable_auto_reconnect is False


@pytest.mark.requirement("9.3")
@pytest.mark.parametrize("name", BOUNDS)
def test_both_bounds_are_valid(name: str) -> None:
    """Each number can be as small and as large as its message says."""
    low, high, partners = BOUNDS[name]
    for value in (low, high):
        kept = getattr(TunnelConfig(**{name: value, **partners}), name)
        assert kept == value
        assert type(kept) is (int if name in WHOLE else float)


@pytest.mark.requirement("9.3")
@pytest.mark.parametrize("name", BOUNDS)
def test_nothing_beyond_the_bounds_is_valid(name: str) -> None:
    """Too small, too large, not finite, of a wrong type: field, value and bounds are named."""
    low, high, partners = BOUNDS[name]
    least = 0.001 if name == "pong_timeout" else low
    outside = [least - 1, high + 1] if name in WHOLE else [least - 0.0005, high + 0.5]
    wrong = [-1, 10**400, math.nan, math.inf, -math.inf, True, False, "1", b"1", [1], 1j]
    for value in [*outside, *wrong, *([2.5, 2.0] if name in WHOLE else [])]:
        error = refusal(**{name: value, **partners})
        assert len(error.problems) == 1
        assert error.problems[0].startswith(f"{name} must be a ")
        assert f"from {least:,} to {high:,}" in error.problems[0]
        assert "not " in error.problems[0]


@pytest.mark.requirement("9.3")
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TunnelConfig)])
def test_only_some_settings_may_be_none(name: str) -> None:
    """None has a meaning for three settings, and is refused for the others."""
    if name in OPTIONAL:
        assert getattr(TunnelConfig(**{name: None}), name) is None
    else:
        assert refusal(**{name: None}).problems[0].endswith("not None")


@pytest.mark.parametrize("name", ["ping_mode", "resume", "log_level"])
def test_choices(name: str) -> None:
    """A word that is none of the choices is refused, and they are listed."""
    message = refusal(**{name: "purple"}).message
    assert message.startswith(
        f"{name} must be one of '{DEFAULTS[name] if name != 'log_level' else 'TRACE'}"
    )
    assert message.endswith("not 'purple'")
    assert getattr(TunnelConfig(**{name: DEFAULTS[name].swapcase()}), name) == DEFAULTS[name]


@pytest.mark.parametrize("name", ["enable_auto_reconnect", "watch_network"])
def test_flags(name: str) -> None:
    """Nothing that merely counts as true is a flag."""
    for value in (0, 1, "yes", [], 0.0):
        assert refusal(**{name: value}).message.startswith(f"{name} must be True or False, not ")


def test_close_codes() -> None:
    """Close codes are kept as a frozen set, from any collection; wrong ones are refused."""
    assert TunnelConfig(fatal_close_codes=[4001, 4001]).fatal_close_codes == frozenset({4001})  # type: ignore[arg-type]
    assert "each from 1000 to 4999, not [99]" in refusal(fatal_close_codes=[99]).message


@pytest.mark.requirement("9.3")
def test_the_longest_delay_is_not_below_the_first() -> None:
    """The maximum may equal the base delay and not be less."""
    assert TunnelConfig(reconnect_base_delay=5, reconnect_max_delay=5).reconnect_max_delay == 5
    assert refusal(reconnect_base_delay=61).problems == (
        "reconnect_max_delay must be at least reconnect_base_delay (61 seconds), not 60",
    )


@pytest.mark.requirement("6.2", "9.3")
def test_the_pong_timeout_is_longer_than_the_interval() -> None:
    """Else an idle link would die before its first ping; equal is too short as well."""
    assert TunnelConfig(ping_interval=1, pong_timeout=1.001).effective_pong_timeout == 1.001
    assert refusal(pong_timeout=30).problems == (
        "pong_timeout must be more than ping_interval (30 seconds), not 30:"
        " an idle link would die before its first ping",
    )


@pytest.mark.requirement("6.2")
def test_the_pong_timeout_follows_the_interval() -> None:
    """Not given, it is one and a half times the interval; without a heartbeat there is none."""
    assert TunnelConfig().effective_pong_timeout == 45.0
    assert TunnelConfig(ping_interval=10).effective_pong_timeout == 15.0
    assert TunnelConfig(pong_timeout=31).effective_pong_timeout == 31.0
    assert TunnelConfig(ping_interval=None).effective_pong_timeout is None
    assert TunnelConfig(ping_interval=None, pong_timeout=5).effective_pong_timeout is None


@pytest.mark.requirement("9.3")
def test_all_problems_are_told_at_once() -> None:
    """One error names every setting that is wrong, in order."""
    error = refusal(jitter=2, max_queue_size=-5, reconnect_base_delay="x", log_level="loud")
    assert [problem.split()[0] for problem in error.problems] == [
        "reconnect_base_delay",
        "jitter",
        "max_queue_size",
        "log_level",
    ]
    assert error.message == "; ".join(error.problems)
    assert "max_queue_size must be a whole number of messages from 1 to 10,000,000, not -5" in (
        error.problems
    )
    assert isinstance(error, ValueError)


def test_settings_are_given_by_name() -> None:
    """Eighteen values in a row would be a riddle, so positions are refused."""
    with pytest.raises(TypeError):
        TunnelConfig(10)  # type: ignore[misc]


def test_a_configuration_is_a_value() -> None:
    """It cannot be changed, and is equal to any other with the same settings."""
    config = TunnelConfig(jitter=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.jitter = 0.5  # type: ignore[misc]
    assert config == TunnelConfig(jitter=0.0)
    assert hash(config) == hash(TunnelConfig(jitter=0.0))
    assert config != TunnelConfig()
    assert not hasattr(config, "__dict__")


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))]
)
def test_a_configuration_can_be_copied(duplicate) -> None:
    """Copies and pickles are equal."""
    config = TunnelConfig(fatal_close_codes=frozenset({4000}), ping_interval=None)
    assert duplicate(config) == config


def test_replacing() -> None:
    """A changed copy is validated as a whole; the original stays."""
    config = TunnelConfig(ping_interval=10)
    assert config.replace(jitter=0) == TunnelConfig(ping_interval=10, jitter=0)
    assert config.jitter == 0.3
    with pytest.raises(ConfigurationError, match="pong_timeout must be more than ping_interval"):
        config.replace(pong_timeout=9)
    with pytest.raises(ConfigurationError, match="'ping_intervall' is not a setting; did you mean"):
        config.replace(ping_intervall=9)


class TestMappings:
    def test_what_is_missing_has_its_default(self) -> None:
        """A mapping need not have all settings."""
        assert TunnelConfig.from_mapping({}) == TunnelConfig()
        assert TunnelConfig.from_mapping({"jitter": 0}) == TunnelConfig(jitter=0)

    @pytest.mark.requirement("9.3")
    def test_unknown_settings(self) -> None:
        """What is no setting is refused, with the nearest one if there is one near."""
        with pytest.raises(ConfigurationError) as caught:
            TunnelConfig.from_mapping({"max_que_size": 1, "purple": 1, 5: 1, "jitter": 9})  # type: ignore[dict-item]
        assert caught.value.problems == (
            "'max_que_size' is not a setting; did you mean max_queue_size?",
            "'purple' is not a setting",
            "5 is not a setting",
            "jitter must be a number from 0 to 1, not 9",
        )

    def test_names_without_end(self) -> None:
        """A huge unknown name neither takes long nor makes a long message."""
        with pytest.raises(ConfigurationError) as caught:
            TunnelConfig.from_mapping({"jitter" * 1_000_000: 1})
        assert len(caught.value.message) < 200

    @pytest.mark.parametrize("settings", [None, 5, "jitter", [("jitter", 0)]])
    def test_wrong_types(self, settings: object) -> None:
        """Anything but a mapping is a TypeError."""
        with pytest.raises(TypeError, match="settings must be a mapping, not "):
            TunnelConfig.from_mapping(settings)  # type: ignore[arg-type]

    @given(configurations())
    def test_there_and_back(self, settings: dict[str, Any]) -> None:
        """What goes out as JSON comes in again as an equal value."""
        config = TunnelConfig.from_mapping(settings)
        assert TunnelConfig(**settings) == config
        assert TunnelConfig.from_mapping(json.loads(json.dumps(config.to_dict()))) == config
        assert config.replace() == config

    @given(
        st.dictionaries(
            st.sampled_from([*DEFAULTS, "purple"]),
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.lists(st.none()),
        )
    )
    def test_any_mapping_is_taken_or_refused(self, settings: dict[str, Any]) -> None:
        """There is no third way: valid settings, or the one error that names each wrong one."""
        try:
            config = TunnelConfig.from_mapping(settings)
        except ConfigurationError:
            return
        assert json.dumps(config.to_dict(), allow_nan=False)


class TestEnvironment:
    def test_an_empty_environment(self) -> None:
        """Without variables all settings have their defaults."""
        assert TunnelConfig.from_env(environ={}) == TunnelConfig()

    def test_the_environment_of_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not given, the process's own is read."""
        monkeypatch.setenv("TUNNEL_JITTER", "0.5")
        assert TunnelConfig.from_env().jitter == 0.5

    def test_every_kind_of_value(self) -> None:
        """Numbers, flags, words, lists and None are read from their texts."""
        environ = {
            "TUNNEL_MAX_RECONNECT_ATTEMPTS": "None",
            "TUNNEL_RECONNECT_BASE_DELAY": " 1e1 ",
            "TUNNEL_PING_MODE": "TEXT",
            "TUNNEL_MAX_QUEUE_SIZE": "1_000",
            "TUNNEL_ENABLE_AUTO_RECONNECT": "off",
            "TUNNEL_FATAL_CLOSE_CODES": "4000,4001",
            "TUNNEL_LOG_LEVEL": "debug",
        }
        assert TunnelConfig.from_env(environ=environ) == TunnelConfig(
            max_reconnect_attempts=None,
            reconnect_base_delay=10.0,
            ping_mode="text",
            max_queue_size=1000,
            enable_auto_reconnect=False,
            fatal_close_codes=frozenset({4000, 4001}),
            log_level="DEBUG",
        )

    @pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TunnelConfig)])
    def test_an_empty_variable_is_not_set(self, name: str) -> None:
        """A variable that is empty, as composed environments often have, changes nothing."""
        for text in ("", "  "):
            assert TunnelConfig.from_env(environ={f"TUNNEL_{name.upper()}": text}) == TunnelConfig()

    def test_other_variables_are_left_alone(self) -> None:
        """What names no setting is not ours, though it has the prefix."""
        environ = {
            "TUNNEL_TOKEN": "x",
            "TUNNEL_URL": "x",
            "TUNNEL_PORT_80_TCP": "x",
            "TUNNEL_": "x",
            "JITTER": "9",
            "MY_TUNNEL_JITTER": "9",
            "tunnel_jitter": "9",
            "PATH": "/bin",
        }
        assert TunnelConfig.from_env(environ=environ) == TunnelConfig()

    @pytest.mark.requirement("9.3")
    def test_all_problems_are_told_at_once(self) -> None:
        """Values, misspelt names and contradictions come in one error, by the variables' names."""
        environ = {
            "TUNNEL_MAX_RECONECT_ATTEMPTS": "1",
            "TUNNEL_Jitter": "1",
            "TUNNEL_JITTER": "x",
            "TUNNEL_STABLE_AFTER": "nan",
            "TUNNEL_PONG_TIMEOUT": "20",
        }
        with pytest.raises(ConfigurationError) as caught:
            TunnelConfig.from_env(environ=environ)
        assert caught.value.problems == (
            "TUNNEL_JITTER must be a number from 0 to 1, not 'x'",
            "TUNNEL_Jitter is not a setting; did you mean TUNNEL_JITTER?",
            "TUNNEL_MAX_RECONECT_ATTEMPTS is not a setting;"
            " did you mean TUNNEL_MAX_RECONNECT_ATTEMPTS?",
            "TUNNEL_STABLE_AFTER must be a number of seconds from 0 to 86,400, not nan",
            "TUNNEL_PONG_TIMEOUT must be more than TUNNEL_PING_INTERVAL (30 seconds), not 20:"
            " an idle link would die before its first ping",
        )

    def test_another_prefix(self) -> None:
        """The prefix is the caller's, and part of the hints."""
        assert TunnelConfig.from_env("APP_", {"APP_JITTER": "0", "TUNNEL_JITTER": "1"}).jitter == 0
        with pytest.raises(ConfigurationError, match="did you mean APP_JITTER"):
            TunnelConfig.from_env("APP_", {"APP_JITTR": "0"})

    @given(configurations())
    def test_there_and_back(self, settings: dict[str, Any]) -> None:
        """Settings written into an environment come back as an equal value."""
        config = TunnelConfig(**settings)
        environ = {
            f"TUNNEL_{name.upper()}": ",".join(map(str, value))
            if isinstance(value, list)
            else str(value)
            for name, value in config.to_dict().items()
        }
        assert TunnelConfig.from_env(environ=environ) == config
