"""What the commands are told about a server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from tunnel.commands.target import (
    PROFILES,
    add_profile_option,
    add_target_options,
    config_of,
    connect_options,
)
from tunnel.config import TunnelConfig
from tunnel.errors import ConfigurationError


def parsed(*argv: str) -> Namespace:
    parser = ArgumentParser()
    add_target_options(parser)
    add_profile_option(parser)
    return parser.parse_args(["wss://h/", *argv])


@pytest.mark.requirement("9.2")
@pytest.mark.parametrize("name", [*PROFILES, "low_bandwidth"])
def test_profiles_are_the_librarys(name: str) -> None:
    """By their names, with hyphens or underscores; without one the defaults hold."""
    expected = getattr(TunnelConfig, name.replace("-", "_"))()
    assert config_of(parsed("--profile", name)) == expected
    assert config_of(parsed()) == TunnelConfig()


def test_the_environment_goes_before_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting by setting, also where it says what is the default anyway."""
    monkeypatch.setenv("TUNNEL_MAX_RECONNECT_ATTEMPTS", "10")
    monkeypatch.setenv("TUNNEL_PING_INTERVAL", "")
    config = config_of(parsed("--profile", "unstable-network"))
    assert config == TunnelConfig.unstable_network(max_reconnect_attempts=10)
    assert config_of(parsed()).max_reconnect_attempts == 10


def test_a_wrong_setting_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name of the variable."""
    monkeypatch.setenv("TUNNEL_JITTER", "much")
    with pytest.raises(ConfigurationError, match="TUNNEL_JITTER"):
        config_of(parsed("--profile", "low-bandwidth"))


def test_a_token_file_is_read_for_each_attempt(tmp_path: Path) -> None:
    """So that it can be rotated; one that is wrong at the start is told at once, later not used."""
    path = tmp_path / "token"
    path.write_text(" first\n")
    token = connect_options(parsed("--token-file", str(path)))["auth_token"]
    assert token() == "first"
    path.write_text("second")
    assert token() == "second"
    for content in (b"", b"two tokens", b"two\ntokens\n", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match="token file") as caught:
            connect_options(parsed("--token-file", str(path)))
        assert "tokens" not in caught.value.message
        assert token() == "second"
    path.unlink()
    assert token() == "second"


def test_a_token_has_one_source(capsys: pytest.CaptureFixture[str]) -> None:
    """File or variable, not both."""
    with pytest.raises(SystemExit):
        parsed("--token-file", "f", "--token-env", "E")
    assert "not allowed with" in capsys.readouterr().err


def test_headers_come_from_options_and_files(tmp_path: Path) -> None:
    """In the order given; of a wrong line only its place is shown."""
    path = tmp_path / "headers"
    path.write_text("X-A: 1\n\nX-B:2:3\n")
    options = connect_options(parsed("--header", "X-C:  4", "--header", f"@{path}"))
    assert options["headers"] == [("X-C", "4"), ("X-A", "1"), ("X-B", "2:3")]
    path.write_text("X-A: 1\nhidden\n")
    with pytest.raises(ConfigurationError, match="line 2 of the header file") as caught:
        connect_options(parsed("--header", f"@{path}"))
    assert "hidden" not in str(caught.value)


def test_tls_options_make_settings(tmp_path: Path) -> None:
    """Only if there are any."""
    assert connect_options(parsed())["tls"] is None
    assert connect_options(parsed("--insecure"))["tls"].verify is False
    assert connect_options(parsed("--ca-file", "ca.pem"))["tls"].ca_file == "ca.pem"
