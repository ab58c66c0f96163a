"""The settings of a tunnel: one frozen, validated value (requirements 9.2, 9.3 and 9.7)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunnel.config_rules import Rule, choice, close_codes, flag, number, shown
from tunnel.errors import ConfigurationError

_DAY = 86_400
_LEAST = 0.001  # seconds; anything shorter would only keep a processor busy


def _setting(default: object, rule: Rule) -> Any:
    return dataclasses.field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelConfig:
    """All settings of a tunnel. Durations are in seconds, sizes in bytes.

    Immutable: `replace` makes a changed copy. Safe to share between threads and tunnels.

    Attributes:
        max_reconnect_attempts: Attempts in a row before the tunnel gives up; None: it never does.
        reconnect_base_delay: The delay before the first attempt; it doubles with each.
        reconnect_max_delay: What no delay exceeds, unless the server asks for more (Retry-After).
        jitter: The share of a delay by which it may be shorter or longer, from 0 to 1.
        stable_after: How long a link must last before delays begin at the base again.
        ping_interval: Between two pings; None: no heartbeat, losses by silence go unnoticed.
        ping_mode: "frame" for pings of RFC 6455, "text" for messages "ping" and "pong".
        pong_timeout: The silence after which a link counts as dead, more than `ping_interval`;
            None: 1.5 times `ping_interval`. Of no effect without a heartbeat. See
            `effective_pong_timeout`.
        connect_timeout: For name look-up, TCP, TLS and upgrade together; a second time, if a token
            had expired and another one is tried.
        request_timeout: For the answer to a request.
        max_queue_size: Messages that wait while there is no link.
        max_message_size: The longest message, in either direction.
        max_fragments: Frames that one message of the peer may come in.
        max_header_size: The server's answer to the upgrade, up to the end of its headers.
        receive_high_water: Received bytes held for a slow consumer before reading pauses.
        max_unacknowledged: Messages that a session keeps until the peer acknowledges them; others
            wait in the queue.
        max_unacknowledged_bytes: Their bytes together; one message alone may be longer.
        enable_auto_reconnect: Whether a lost link is restored without being asked.
        resume: Whether sessions are resumed: "auto", if the peer can; "off"; or "required".
        watch_network: Whether the machine's network is watched, so that its return ends a wait and
            a change of the route to the server tests the link; see "When the network changes".
        fatal_close_codes: Close codes of the peer after which the tunnel does not come back; see
            `tunnel.errors.error_for_close` for those that are final in any case.
        max_event_history: Events that are remembered; of changes of state the last 100 are.
        log_level: The least level at which events of the connection are logged: one of loguru's
            names.

    Raises:
        ConfigurationError: Settings are not valid; the error names all of them, each with its value
            and what would be valid.
    """

    max_reconnect_attempts: int | None = _setting(
        10, number(1, 1_000_000, whole=True, optional=True)
    )
    reconnect_base_delay: float = _setting(2.0, number(_LEAST, _DAY, "seconds"))
    reconnect_max_delay: float = _setting(60.0, number(_LEAST, _DAY, "seconds"))
    jitter: float = _setting(0.3, number(0, 1))
    stable_after: float = _setting(30.0, number(0, _DAY, "seconds"))
    ping_interval: float | None = _setting(30.0, number(_LEAST, _DAY, "seconds", optional=True))
    ping_mode: Literal["frame", "text"] = _setting("frame", choice("frame", "text"))
    pong_timeout: float | None = _setting(None, number(_LEAST, 2 * _DAY, "seconds", optional=True))
    connect_timeout: float = _setting(10.0, number(_LEAST, _DAY, "seconds"))
    request_timeout: float = _setting(30.0, number(_LEAST, _DAY, "seconds"))
    max_queue_size: int = _setting(100, number(1, 10_000_000, "messages", whole=True))
    max_message_size: int = _setting(16 * 2**20, number(1, 2**31, "bytes", whole=True))
    max_fragments: int = _setting(2**20, number(1, 2**31, "fragments", whole=True))
    max_header_size: int = _setting(64 * 1024, number(1024, 2**31, "bytes", whole=True))
    receive_high_water: int = _setting(4 * 2**20, number(1024, 2**31, "bytes", whole=True))
    max_unacknowledged: int = _setting(10_000, number(1, 10_000_000, "messages", whole=True))
    max_unacknowledged_bytes: int = _setting(16 * 2**20, number(1024, 2**31, "bytes", whole=True))
    enable_auto_reconnect: bool = _setting(True, flag())
    resume: Literal["auto", "off", "required"] = _setting("auto", choice("auto", "off", "required"))
    watch_network: bool = _setting(True, flag())
    fatal_close_codes: frozenset[int] = _setting(frozenset(), close_codes())
    max_event_history: int = _setting(100, number(0, 1_000_000, "events", whole=True))
    log_level: str = _setting(
        "INFO", choice("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
    )

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in _RULES}
        valid, problems = _checked(values)
        if problems:
            raise ConfigurationError(problems=problems)
        for name, value in valid.items():
            object.__setattr__(self, name, value)

    @classmethod
    def stable_network(cls, **changes: Any) -> TunnelConfig:
        """For a good line: 5 attempts, from 1 s on; with `changes` as in `replace`."""
        return cls.from_mapping({**_STABLE, **changes})

    @classmethod
    def unstable_network(cls, **changes: Any) -> TunnelConfig:
        """For a line that fails often: 20 attempts, from 5 s on; with `changes` as in `replace`."""
        return cls.from_mapping({**_UNSTABLE, **changes})

    @classmethod
    def low_bandwidth(cls, **changes: Any) -> TunnelConfig:
        """For a slow line: 10 attempts, from 3 s on; with `changes` as in `replace`."""
        return cls.from_mapping({**_LOW_BANDWIDTH, **changes})

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> TunnelConfig:
        """Settings by name, such as parsed JSON or TOML; what is missing has its default.

        Raises:
            ConfigurationError: Settings are not known or not valid.
            TypeError: `settings` is not a mapping.
        """
        if not isinstance(settings, Mapping):
            raise TypeError(f"settings must be a mapping, not {type(settings).__name__}")
        known = {name: value for name, value in settings.items() if name in _RULES}
        problems = [
            f"{shown(name)} is not a setting{_hint(str(name), _RULES)}"
            for name in settings
            if name not in _RULES
        ]
        problems += _checked({**_DEFAULTS, **known})[1]
        if problems:
            raise ConfigurationError(problems=problems)
        return cls(**known)

    @classmethod
    def from_env(
        cls, prefix: str = "TUNNEL_", environ: Mapping[str, str] | None = None
    ) -> TunnelConfig:
        """Settings from environment variables: the prefix and the setting's name in capitals.

        Flags are written as true, yes, on or 1 and false, no, off or 0, close codes with commas
        between them, None as none. A variable that is empty counts as not set. One that has the
        prefix but names no setting is left alone (`TUNNEL_TOKEN` is not for here, and containers
        get variables such as `TUNNEL_PORT`), unless it looks like a setting that is misspelt.

        Args:
            prefix: What the variables begin with.
            environ: The environment. Default: that of the process.

        Raises:
            ConfigurationError: A variable is misspelt, or its value is not valid.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        problems = []
        for variable in sorted(environ):
            text = environ[variable].strip()
            rest = variable.removeprefix(prefix)
            if not variable.startswith(prefix) or not text:
                continue
            if rest in _IN_CAPITALS:
                name = _IN_CAPITALS[rest]
                try:
                    values[name] = _RULES[name].read(text)
                except ValueError as refusal:
                    problems.append(f"{variable} {refusal}")
            elif hint := _hint(rest.upper(), _IN_CAPITALS, prefix, similarity=0.8):
                problems.append(f"{variable} is not a setting{hint}")
        problems += _checked({**_DEFAULTS, **values}, prefix)[1]
        if problems:
            raise ConfigurationError(problems=problems)
        return cls(**values)

    def replace(self, **changes: Any) -> TunnelConfig:
        """A copy with some settings changed.

        Raises:
            ConfigurationError: Settings are not known or not valid.
        """
        return self.from_mapping({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON has them; `from_mapping` makes an equal value of it again."""
        values = {name: getattr(self, name) for name in _RULES}
        return {**values, "fatal_close_codes": sorted(self.fatal_close_codes)}

    @property
    def effective_pong_timeout(self) -> float | None:
        """The silence after which a link counts as dead; None without a heartbeat."""
        if self.ping_interval is None:
            return None
        return 1.5 * self.ping_interval if self.pong_timeout is None else self.pong_timeout


_RULES: dict[str, Rule] = {
    field.name: field.metadata["rule"] for field in dataclasses.fields(TunnelConfig)
}
_DEFAULTS: dict[str, object] = {
    field.name: field.default for field in dataclasses.fields(TunnelConfig)
}
_IN_CAPITALS = {name.upper(): name for name in _RULES}
# The seed's profiles (requirement 9.2).
_STABLE = {"max_reconnect_attempts": 5, "reconnect_base_delay": 1.0}
_UNSTABLE = {"max_reconnect_attempts": 20, "reconnect_base_delay": 5.0}
_LOW_BANDWIDTH = {"max_reconnect_attempts": 10, "reconnect_base_delay": 3.0}


def _checked(
    values: Mapping[str, object], prefix: str | None = None
) -> tuple[dict[str, object], list[str]]:
    """The values that are valid, in the form that is kept, and what is wrong with the others."""

    def called(name: str) -> str:
        return name if prefix is None else prefix + name.upper()

    valid: dict[str, object] = {}
    problems = []
    for name, value in values.items():
        try:
            valid[name] = _RULES[name].apply(value)
        except ValueError as refusal:
            problems.append(f"{called(name)} {refusal}")
    base, most = valid.get("reconnect_base_delay"), valid.get("reconnect_max_delay")
    if isinstance(base, float) and isinstance(most, float) and base > most:
        problems.append(
            f"{called('reconnect_max_delay')} must be at least {called('reconnect_base_delay')}"
            f" ({base:g} seconds), not {most:g}"
        )
    ping, pong = valid.get("ping_interval"), valid.get("pong_timeout")
    if isinstance(ping, float) and isinstance(pong, float) and pong <= ping:
        problems.append(
            f"{called('pong_timeout')} must be more than {called('ping_interval')}"
            f" ({ping:g} seconds), not {pong:g}: an idle link would die before its first ping"
        )
    return valid, problems


def _hint(name: str, known: Iterable[str], prefix: str = "", similarity: float = 0.6) -> str:
    import difflib  # for those who have misspelt something

    similar = difflib.get_close_matches(name[:60], known, n=1, cutoff=similarity)
    return f"; did you mean {prefix}{similar[0]}?" if similar else ""
