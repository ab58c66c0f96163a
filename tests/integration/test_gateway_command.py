"""The command `tunnel gateway` as a process: its options, its signals, and `kill -9`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from gateway_client import TunnelClient
from peers import DEADLINE
from websockets.exceptions import InvalidStatus

from tunnel.session_frames import Gone, Resumed

COMMAND = [sys.executable, "-m", "tunnel", "gateway", "--listen", "127.0.0.1:0"]


@contextmanager
def gateway(
    *options: str, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway in a process, and its URL."""
    paths = [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [*COMMAND, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        words = process.stdout.readline().split()
        assert words[:2] == ["listening", "on"], process.stderr.read()
        yield process, words[2]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


async def hello(client: TunnelClient, *expected: object) -> None:
    """The client is served."""
    await client.connect()
    client.send("hello")
    assert await client.until_received(1) == list(expected or ("hello",))
    await client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(number: signal.Signals) -> None:
    """It finishes what it has received, closes with 1012, and exits with 0."""

    async def scenario(process: subprocess.Popen[str], url: str) -> None:
        async with TunnelClient(url) as client:
            client.send(*map(str, range(1000)))
            await client.until_received(1)
            process.send_signal(number)
            await client.until_closed()
            assert client.close_code == 1012
            # What was received is acknowledged, and answered; the rest was not taken.
            assert len(client.received) == client.session.acknowledged

    with gateway() as (process, url):
        asyncio.run(scenario(process, url))
        output, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        assert output == ""
        assert "stopping" in errors
        assert "Traceback" not in errors


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    """A handler that does not return keeps it for the first, and not for the second."""
    (tmp_path / "stuck.py").write_text(
        "import threading\ndef handle(session, message):\n"
        "    session.send('in')\n    threading.Event().wait()\n"
    )

    async def scenario(process: subprocess.Popen[str], url: str) -> None:
        async with TunnelClient(url) as client:
            client.send("stay")
            await client.until_received(1)
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            while "stopping" not in process.stderr.readline():
                pass
            assert client.close_code is None
            process.send_signal(signal.SIGTERM)
            await client.until_closed()

    with gateway("--handler", "stuck:handle", cwd=tmp_path) as (process, url):
        asyncio.run(scenario(process, url))
        process.communicate(timeout=DEADLINE)
        assert process.returncode == 0


def test_sessions_do_not_survive_the_process() -> None:
    """After kill -9 and a restart the client is told honestly that its session is gone."""

    async def before(client: TunnelClient, process: subprocess.Popen[str]) -> None:
        await client.connect()
        client.send("one")
        await client.until_received(1)
        process.kill()
        await client.until_closed()
        client.send("two")
        await client.close()

    async def after(client: TunnelClient) -> None:
        assert isinstance(await client.connect(), Gone)
        client.send("three")
        await client.until_received(3)
        await client.cut()
        assert isinstance(await client.connect(), Resumed)
        await client.close()

    with gateway() as (process, url):
        client = TunnelClient(url)
        asyncio.run(before(client, process))
    port = url.rstrip("/").rpartition(":")[2]
    with gateway("--listen", f"127.0.0.1:{port}") as (_, url):
        asyncio.run(after(client))


def test_tokens_from_a_file_or_the_environment(tmp_path: Path) -> None:
    """Only who has one of the tokens comes in."""
    (tmp_path / "tokens").write_text("alice:first\nsecond\n")
    ways = (
        (("--token-file", str(tmp_path / "tokens")), {}),
        (("--token-env", "TOKENS"), {"TOKENS": "alice:first\nsecond"}),
    )
    for options, environment in ways:
        with gateway(*options, environment=environment) as (_, url):
            asyncio.run(hello(TunnelClient(url, token="first")))
            asyncio.run(hello(TunnelClient(url, token="second")))
            with pytest.raises(InvalidStatus):
                asyncio.run(hello(TunnelClient(url, token="third")))


def test_a_handler_of_the_current_folder(tmp_path: Path) -> None:
    """MODULE:NAME is looked for where the command was called."""
    (tmp_path / "mine.py").write_text(
        "class Handlers:\n    @staticmethod\n    def upper(session, message):\n"
        "        return message.upper()\n"
    )
    with gateway("--handler", "mine:Handlers.upper", cwd=tmp_path) as (_, url):
        asyncio.run(hello(TunnelClient(url), "HELLO"))


def test_tls_from_files(tmp_path: Path, authority: trustme.CA, client_tls: object) -> None:
    """With a certificate and a key it says wss, and is."""
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    options = ("--certificate", "certificate.pem", "--key", "key.pem")
    with gateway(*options, cwd=tmp_path) as (_, url):
        assert url.startswith("wss://")
        asyncio.run(hello(TunnelClient(url, ssl_context=client_tls)))  # type: ignore[arg-type]


def test_ipv6() -> None:
    """An IPv6 address stands in brackets, and comes back so."""
    if not socket.has_ipv6:
        pytest.skip("needs IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("needs IPv6 on loopback")
    with gateway("--listen", "[::1]:0") as (_, url):
        assert url.startswith("ws://[::1]:")
        asyncio.run(hello(TunnelClient(url)))


def test_settings_arrive() -> None:
    """The options for sizes and times reach the sessions."""

    async def scenario(url: str) -> None:
        async with TunnelClient(url) as client:
            assert client.session.kept_for == 7
            assert client.session.peer_limits is not None
            assert client.session.peer_limits.message_size == 1234

    with gateway("--max-message-size", "1234", "--session-keep", "7") as (_, url):
        asyncio.run(scenario(url))


def test_a_port_that_is_taken_is_a_sentence() -> None:
    """What cannot be done is one line on standard error, with exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*COMMAND, "--listen", address], capture_output=True, text=True, timeout=DEADLINE
        )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("tunnel gateway: error: cannot listen on 127.0.0.1, port ")
    assert done.stderr.count("\n") == 1
