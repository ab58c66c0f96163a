"""Tokens: their file, their look-up, and what is said of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from loguru import logger

from tunnel.errors import (
    AuthenticationFailedError,
    ConfigurationError,
    InvalidCredentialsError,
    TokenExpiredError,
)
from tunnel.gateway.auth import (
    TokenFile,
    TokenTable,
    anybody,
    bearer_token,
    challenge,
    tokens_of_environment,
)


def test_a_table_knows_users_by_their_tokens() -> None:
    """With a name or without, several of one user, comments and empty lines between."""
    lines = ("# who", "", " alice:one ", "alice:two", "three==", "bob@home:four.-_~+/")
    table = TokenTable("\n".join(lines), "here")
    for token, user in (
        ("one", "alice"),
        ("two", "alice"),
        ("three==", "default"),
        ("four.-_~+/", "bob@home"),
    ):
        assert table(token, {}) == user
    for wrong in ("One", "on", "", "alice:one", "ü", "\ud800"):
        with pytest.raises(InvalidCredentialsError):
            table(wrong, {})
    with pytest.raises(AuthenticationFailedError) as info:
        table(None, {})
    assert type(info.value) is AuthenticationFailedError


@pytest.mark.parametrize("line", ["two words", "user:", "user:to ken", "grün", "=x=", "a=b"])
def test_a_wrong_line_is_named_and_not_shown(line: str) -> None:
    """The message says where it is, and nothing of what is there."""
    with pytest.raises(ConfigurationError) as info:
        TokenTable(f"good\n{line}\n", "the file")
    assert "the file, line 2, is neither" in str(info.value)
    assert line not in str(info.value)


def test_no_token_at_all_is_a_mistake() -> None:
    """A table that would let nobody in is refused."""
    with pytest.raises(ConfigurationError, match="here holds no token"):
        TokenTable("# nothing\n", "here")


def test_a_table_does_not_hold_tokens() -> None:
    """Only their digests, so that no dump of it shows one."""
    assert "t0ken" not in repr(vars(TokenTable("alice:t0ken", "here")))


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable holds what a file would."""
    monkeypatch.setenv("TOKENS", "one\nalice:two")
    assert tokens_of_environment("TOKENS")("two", {}) == "alice"
    monkeypatch.delenv("TOKENS")
    with pytest.raises(ConfigurationError, match="the environment variable TOKENS is not set"):
        tokens_of_environment("TOKENS")


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    """Changed in place or replaced; an unchanged one is not read."""
    path = tmp_path / "tokens"
    path.write_text("one")
    check = TokenFile(path)
    assert check("one", {}) == "default"
    table = check._table
    assert check("one", {}) == "default"
    assert check._table is table
    path.write_text("alice:two")
    assert check("two", {}) == "alice"
    with pytest.raises(InvalidCredentialsError):
        check("one", {})
    (tmp_path / "new").write_text("bobby:two")  # as long as the one before
    os.replace(tmp_path / "new", path)
    assert check("two", {}) == "bobby"


def test_a_file_that_goes_wrong_is_logged_and_the_old_tokens_stay(tmp_path: Path) -> None:
    """An editor's moment without a file, or a typing error, locks nobody out."""
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lines.append, level="ERROR")
    try:
        path = tmp_path / "tokens"
        path.write_text("s3cret")
        check = TokenFile(path)
        path.write_text("s3cret\ns3cret s3cret")
        assert check("s3cret", {}) == "default"
        path.unlink()
        assert check("s3cret", {}) == "default"
        assert check("s3cret", {}) == "default"
        path.write_bytes(b"\xff")
        assert check("s3cret", {}) == "default"
        path.write_text("other")
        assert check("other", {}) == "default"
    finally:
        logger.remove(sink)
        logger.disable("tunnel")
    assert len(lines) == 3  # each once
    assert "s3cret" not in "".join(lines)


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """At the start it has to be right."""
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        TokenFile(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        TokenFile(tmp_path / "binary")


def test_anybody_is_one_user() -> None:
    """Without a check everybody comes in."""
    assert anybody(None, {}) == anybody("token", {}) == "default"


@pytest.mark.parametrize(
    ("values", "token"),
    [
        ([], None),
        (["Bearer abc"], "abc"),
        (["bearer   a-._~+/9=="], "a-._~+/9=="),
        (["BEARER x "], "x"),
    ],
)
def test_the_token_of_a_request(values: list[str], token: str | None) -> None:
    """RFC 6750, section 2.1."""
    assert bearer_token(values) == token


@pytest.mark.parametrize(
    "values",
    [
        ["Bearer"],
        ["Bearer "],
        ["Basic abc"],
        ["Bearer a b"],
        ["Bearer a,b"],
        ["Bearer a"] * 2,
        [""],
    ],
)
def test_what_is_no_token(values: list[str]) -> None:
    """Is no reason to let somebody in as if he had none."""
    with pytest.raises(AuthenticationFailedError):
        bearer_token(values)


@pytest.mark.requirement("2.9")
def test_challenges() -> None:
    """RFC 6750, section 3: an error only if there was a token, and which."""
    assert challenge(AuthenticationFailedError()) == "Bearer"
    assert challenge(InvalidCredentialsError()) == 'Bearer error="invalid_token"'
    assert challenge(TokenExpiredError()) == (
        'Bearer error="invalid_token", error_description="The access token expired"'
    )
