"""The options of `tunnel gateway`, and the mistakes in them."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from loguru import logger

from tunnel import cli
from tunnel.errors import ConfigurationError
from tunnel.gateway import command
from tunnel.gateway.command import address, tls


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8765", ("127.0.0.1", 8765)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        (":80", ("0.0.0.0", 80)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    """HOST:PORT, with brackets around an IPv6 address; without a host all of IPv4."""
    assert address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "80", "host", "host:", "::1:80", "host:65536", "[::1]", "a:b"]
)
def test_what_is_no_address(text: str) -> None:
    """A sentence shows how it should look."""
    with pytest.raises(ConfigurationError, match="must be HOST:PORT"):
        address(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty, and a search path that is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "nowhere"], "the address to listen on must be HOST:PORT"),
        (["--token-file", "missing"], "the token file missing cannot be read: No such file"),
        (["--token-file", "empty"], "the token file empty holds no token"),
        (["--token-env", "NO_SUCH"], "the environment variable NO_SUCH is not set"),
        (["--token-env", "A", "--token-file", "empty"], "not from both"),
        (["--handler", "nothing"], "the handler must be echo, sink or MODULE:NAME"),
        (["--handler", "broken_handlers:f"], "cannot be imported: RuntimeError: on purpose"),
        (["--forward", "ftp://x"], "must begin with http:// or https://"),
        (["--certificate", "empty"], "--certificate and --key go together"),
        (["--certificate", "empty", "--key", "missing"], "the key missing cannot be read"),
        (["--certificate", "empty", "--key", "empty"], "do not make a pair in PEM"),
        (["--certificate", "text", "--key", "text"], "the key text do not make a pair in PEM"),
        (["--listen", "127.0.0.1:99999"], "with a port from 0 to 65535"),
        (["--handler", "ending_handlers:f"], "cannot be imported: SystemExit: 3"),
        (["--session-keep", "-1"], "error: --session-keep must be more than 0"),
        (
            ["--max-message-size", "0"],
            "error: --max-message-size must be more than 0 and",
        ),
    ],
)
def test_mistakes_are_sentences(
    folder: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be done is one line on standard error, with exit code 2."""
    (folder / "empty").write_text("# nothing\n")
    (folder / "broken_handlers.py").write_text("raise RuntimeError('on purpose')")
    (folder / "text").write_text("token")
    (folder / "ending_handlers.py").write_text("import sys\nsys.exit(3)")
    assert cli.main(["gateway", *options]) == 2
    output, errors = capsys.readouterr()
    assert "None" not in errors
    assert output == ""
    assert errors.startswith("tunnel gateway: error: ")
    assert words in errors
    assert errors.count("\n") == 1


def test_a_key_with_a_password_is_refused(folder: Path) -> None:
    """Nobody sits at a service to type it, and it must not hang waiting for that."""
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path("certificate.pem")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    Path("key.pem").write_bytes(encrypted)
    with pytest.raises(ConfigurationError, match="the key is encrypted"):
        tls("certificate.pem", "key.pem")


def test_it_runs_until_a_signal_comes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says where it listens, first; SIGTERM ends it with 0; signals are as before then."""
    before = signal.getsignal(signal.SIGTERM)
    printed: list[str] = []

    def tell(line: str, *, flush: bool) -> None:
        printed.append(line)
        assert flush
        threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGTERM)).start()

    monkeypatch.setattr(command, "print", tell, raising=False)
    try:
        monkeypatch.setenv("TOKENS", "alice:abc")
        assert cli.main(["gateway", "--listen", "127.0.0.1:0", "--token-env", "TOKENS"]) == 0
    finally:
        logger.disable("tunnel")
        logger.remove()
        logger.add(sys.__stderr__)
    (line,) = printed
    assert re.fullmatch(r"listening on ws://127\.0\.0\.1:[1-9][0-9]*/", line)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopping" in capsys.readouterr().err


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without websockets the command says how to install it."""
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert cli.main(["gateway"]) == 2
    errors = capsys.readouterr().err
    assert "pip install 'resilient-tunnel[gateway]'" in errors
    assert errors.count("\n") == 1
