"""`tunnel diagnose` against servers on loopback that work, refuse, hang and lie."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import io
import json
import os
import pty
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from loguru import logger
from websockets.sync.server import ServerConnection

from tests.plain_server import plain_server
from tunnel import cli
from tunnel.commands.steps import NAMES
from tunnel.gateway import GatewayThread

TOKEN = "s3cr3t-token-of-mine"

pytestmark = pytest.mark.usefixtures("no_leaks", "quiet_logger")


@pytest.fixture
def quiet_logger() -> Iterator[None]:
    yield
    logger.disable("tunnel")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def diagnose(
    capsys: pytest.CaptureFixture[str], url: str, *options: str
) -> tuple[int, dict[str, dict[str, Any]], dict[str, Any]]:
    """The exit code, the steps by name, and the whole report; nothing was said beside it."""
    code = cli.main(["diagnose", url, "--json", *options])
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    assert report["ok"] is (code == 0)
    names = [step["name"] for step in report["steps"]]
    assert names == sorted(names, key=NAMES.index)
    return code, {step["name"]: step for step in report["steps"]}, report


def statuses(steps: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: step["status"] for name, step in steps.items()}


@contextlib.contextmanager
def raw_server(talk: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server that does nothing by itself; yields its port."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def accept() -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.settimeout(20)
                        talk(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join()


def upgrade(connection: socket.socket, behind: bytes = b"") -> None:
    """Answer a handshake, with these bytes right behind it."""
    head = connection.recv(10_000).decode()
    (key,) = (
        line.split(": ")[1]
        for line in head.splitlines()
        if line.lower().startswith("sec-websocket-key:")
    )
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    answer = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n\r\n"
    )
    connection.sendall(answer.encode() + behind)


def server_context(authority: trustme.CA, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(options.pop("name", "localhost"), **options).configure_cert(context)
    return context


@pytest.mark.requirement("2.5-2.6")
def test_a_gateway_passes_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    """Each step has its time; what is not needed is skipped."""
    with GatewayThread("echo") as gateway:
        code, steps, report = diagnose(capsys, f"ws://localhost:{gateway.port}/a?key=value")
    assert code == 0
    assert statuses(steps) == {
        **dict.fromkeys(set(NAMES) - {"proxy", "TLS"}, "ok"),
        "TLS": "skipped",
    }
    assert all(step["seconds"] >= 0 for step in steps.values() if step["status"] == "ok")
    assert steps["DNS"]["facts"]["addresses"]
    assert steps["TCP"]["facts"]["port"] == gateway.port
    assert steps["upgrade"]["facts"]["status_code"] == 101
    assert report["verdict"] == "Everything works."
    assert report["url"].endswith("/a?key=***")


@pytest.mark.requirement("2.5-2.6")
def test_a_plain_server_offers_neither_echo_nor_sessions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no failure; and the message is not sent if it is not wanted."""
    monkeypatch.setattr("tunnel.commands.diagnosis._ECHO", 0.05)
    received: list[object] = []
    with plain_server(lambda connection: received.extend(connection)) as url:
        for option in ((), ("--no-echo",)):
            code, steps, _ = diagnose(capsys, url, *option)
            assert code == 0
            assert statuses(steps)["DNS"] == "skipped"
            assert statuses(steps)["echo"] == "skipped"
            assert statuses(steps)["resume"] == "skipped"
    assert len(received) == 1


def test_a_server_that_hates_the_echo_offers_none(capsys: pytest.CaptureFixture[str]) -> None:
    """One that closes because of it is warned of, and no failure either."""

    def refuse(connection: ServerConnection) -> None:
        connection.recv()
        connection.close(1003, "JSON only")

    with plain_server(refuse) as url:
        code, steps, _ = diagnose(capsys, url)
    assert code == 0
    assert "1003: JSON only" in steps["echo"]["result"]
    assert steps["echo"]["status"] == "warning"
    assert "--no-echo" in steps["echo"]["suggestion"]


def test_the_certificate_is_told(
    authority: trustme.CA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Version, cipher, subject, days left; with the authority named, all is well."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    with GatewayThread("echo", ssl_context=server_context(authority)) as gateway:
        url = f"wss://localhost:{gateway.port}/"
        code, steps, _ = diagnose(capsys, url, "--ca-file", str(file))
        assert code == 0
        facts = steps["TLS"]["facts"]
        assert facts["version"] in ("TLSv1.2", "TLSv1.3")
        assert facts["cipher"]
        assert facts["subject"].startswith("O=trustme")
        assert facts["days_left"] > 1000
        assert steps["resume"]["status"] == "ok"

        code, steps, report = diagnose(capsys, url, "--insecure")
        assert (code, steps["TLS"]["status"]) == (0, "warning")
        assert "not verified" in steps["TLS"]["result"]
        assert report["verdict"] == "Everything works; look at TLS."


@pytest.mark.parametrize(
    ("hours", "status", "words"),
    [(-30, "failed", "certificate has expired"), (30, "warning", "1 day left")],
)
def test_the_days_of_a_certificate_are_counted(
    hours: int,
    status: str,
    words: str,
    authority: trustme.CA,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that has expired is refused, and shown nevertheless; one that soon will is warned of."""
    now = datetime.datetime.now(datetime.timezone.utc)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    context = server_context(
        authority,
        not_before=now - datetime.timedelta(days=3),
        not_after=now + datetime.timedelta(hours=hours),
    )
    with GatewayThread("echo", ssl_context=context) as gateway:
        url = f"wss://localhost:{gateway.port}/"
        code, steps, _ = diagnose(capsys, url, "--ca-file", str(file))
    assert code == (status == "failed")
    step = steps["TLS"]
    assert step["status"] == status
    assert words in step["result"]
    assert step["facts"]["days_left"] == (hours // 24)
    assert step["suggestion"]
    if status == "failed":
        assert step["error"]["code"] == "TUNNEL_026"
        assert statuses(steps)["upgrade"] == "skipped"


def test_a_certificate_for_another_name_is_shown(
    authority: trustme.CA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table says whose it is, what to do, and where more is to be read."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    context = server_context(authority, name="other.test", common_name="other.test")
    with GatewayThread("echo", ssl_context=context) as gateway:
        url = f"wss://localhost:{gateway.port}/"
        assert cli.main(["diagnose", url, "--ca-file", str(file)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "Hostname mismatch" in out
    assert "CN=other.test" in out
    assert "See docs/errors.rst#tunnel-026." in out
    assert "TLS does not work." in out


def test_a_port_without_tls_is_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    """The suggestion is about TLS, also if the server just hangs up."""
    with raw_server(lambda connection: connection.recv(1000)) as port:
        code, steps, _ = diagnose(capsys, f"wss://localhost:{port}/")
    assert code == 1
    assert steps["TLS"]["status"] == "failed"
    assert "speaks TLS" in steps["TLS"]["suggestion"]


@pytest.mark.requirement("2.9")
def test_tokens_are_checked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right one passes, a wrong one fails in that step alone, and neither is ever shown."""
    from tunnel.gateway.auth import TokenTable

    monkeypatch.setenv("MY_TOKEN", TOKEN)
    wrong = tmp_path / "token"
    wrong.write_text("wr0ng-token-of-mine\n")
    with GatewayThread("echo", authenticate=TokenTable(f"me:{TOKEN}", "here")) as gateway:
        url = f"ws://127.0.0.1:{gateway.port}/"
        code, steps, _ = diagnose(capsys, url, "--token-env", "MY_TOKEN")
        assert (code, steps["authentication"]["status"]) == (0, "ok")
        assert steps["authentication"]["facts"] == {"credentials": True}

        code, steps, report = diagnose(capsys, url, "--token-file", str(wrong))
        assert code == 1
        assert statuses(steps)["upgrade"] == "ok"
        assert steps["authentication"]["error"]["code"] == "TUNNEL_013"
        assert steps["authentication"]["suggestion"]
        assert statuses(steps)["ping"] == "skipped"
        assert report["verdict"] == "authentication does not work."
        assert "wr0ng" not in json.dumps(report)
        assert TOKEN not in json.dumps(report)

        code, steps, _ = diagnose(capsys, url)
        assert steps["authentication"]["status"] == "failed"


def test_a_wrong_path_is_a_failed_upgrade(capsys: pytest.CaptureFixture[str]) -> None:
    """With the status, and what to look at."""

    def answer(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with raw_server(answer) as port:
        code, steps, _ = diagnose(capsys, f"ws://127.0.0.1:{port}/nowhere")
    assert code == 1
    assert steps["upgrade"]["error"]["code"] == "TUNNEL_024"
    assert "404" in steps["upgrade"]["result"]
    assert "path" in steps["upgrade"]["suggestion"]
    assert statuses(steps)["authentication"] == "skipped"


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    """The step that fails says so, with the code; those behind it are not reached."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code, steps, report = diagnose(capsys, f"ws://localhost:{port}/")
    assert code == 1
    assert steps["TCP"]["error"]["code"] == "TUNNEL_001"
    assert steps["TCP"]["seconds"] is not None
    assert {step["result"] for name, step in steps.items() if name not in ("DNS", "TCP")} == {
        "not reached"
    }
    assert report["verdict"] == "TCP does not work."


def test_an_unknown_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails in the first step."""

    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    code, steps, _ = diagnose(capsys, "ws://no-such-host.test/")
    assert code == 1
    assert steps["DNS"]["error"]["code"] == "TUNNEL_011"


def test_a_server_that_hangs_costs_no_more_than_the_timeout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The step in which the time ran out is named, and how to allow more."""
    release = threading.Event()
    with raw_server(lambda connection: release.wait(20)) as port:
        began = time.monotonic()
        code, steps, _ = diagnose(capsys, f"ws://127.0.0.1:{port}/", "--timeout", "0.3")
        assert time.monotonic() - began < 10
        release.set()
    assert code == 1
    assert steps["upgrade"]["error"]["code"] == "TUNNEL_020"
    assert "--timeout" in steps["upgrade"]["suggestion"]


def test_a_server_that_answers_no_ping(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails in that step, and nothing is sent to it any more."""
    release = threading.Event()

    def upgrade_and_hang(connection: socket.socket) -> None:
        upgrade(connection)
        release.wait(20)

    with raw_server(upgrade_and_hang) as port:
        code, steps, _ = diagnose(capsys, f"ws://127.0.0.1:{port}/", "--timeout", "0.4")
        release.set()
    assert code == 1
    assert steps["ping"]["error"]["code"] == "TUNNEL_022"
    assert statuses(steps)["echo"] == "skipped"


def test_a_server_that_closes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The ping fails with the close code and the server's reason."""
    reason = b"who are you"
    frame = bytes([0x88, 2 + len(reason)]) + (1008).to_bytes(2, "big") + reason
    with raw_server(lambda connection: upgrade(connection, frame)) as port:
        code, steps, _ = diagnose(capsys, f"ws://127.0.0.1:{port}/")
    assert code == 1
    assert steps["ping"]["error"]["code"] == "TUNNEL_035"
    assert "1008: who are you" in steps["ping"]["result"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["http://h/"], "its scheme must be ws or wss"),
        (["ws://h/", "--timeout", "0"], "--timeout must be from 0.001 to"),
        (["ws://h/", "--timeout", "nan"], "--timeout must be"),
        (["ws://h/", "--token-env", "NO_SUCH"], "NO_SUCH is not set"),
        (["ws://h/", "--insecure"], "--insecure is about TLS"),
        (["wss://h/", "--ca-file", "missing.pem"], "missing.pem"),
        (["ws://h/", "--header", "Host: x"], "the header 'Host' cannot be set"),
        (["ws://h/", "--subprotocol", "a b"], "is not a token"),
    ],
)
def test_mistakes_are_sentences(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, with exit code 2, and without a table."""
    assert cli.main(["diagnose", *options]) == 2
    out, err = capsys.readouterr()
    assert "ok" not in out
    assert err.startswith("tunnel diagnose: error: ")
    assert err.count("\n") == 1
    assert words in err


def test_in_a_terminal_it_has_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words; without rich they are plain, as in a file."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    texts = []
    for has_rich in (True, False):
        if not has_rich:
            monkeypatch.setattr("tunnel.commands.terminal.find_spec", lambda name: None)
        with GatewayThread("echo") as gateway:
            texts.append(on_terminal(monkeypatch, f"ws://127.0.0.1:{gateway.port}/"))
    coloured, plain = texts
    assert "\x1b[" in coloured
    assert "\x1b[" not in plain
    for text in texts:
        assert "Everything works." in text
        assert "101 Switching Protocols" in text


def on_terminal(monkeypatch: pytest.MonkeyPatch, url: str) -> str:
    """What the command writes to a terminal."""
    master, slave = pty.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the end of a terminal
            while chunk := os.read(master, 10_000):
                chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        assert cli.main(["diagnose", url]) == 0
        monkeypatch.undo()
    reader.join()
    os.close(master)
    return b"".join(chunks).decode()


class LeavingReader(io.StringIO):
    """A pipe whose reader leaves after so many lines."""

    def __init__(self, lines: int, null: io.TextIOBase) -> None:
        super().__init__()
        self._lines = lines
        self._null = null

    def fileno(self) -> int:
        return self._null.fileno()

    def write(self, text: str) -> int:
        if self.getvalue().count("\n") >= self._lines:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


@pytest.mark.parametrize("lines", range(11))
def test_a_reader_may_leave_after_any_line(
    lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with ``| head``: exit code 1, without a word, whichever thread shows the step."""
    with GatewayThread("echo") as gateway, open(os.devnull, "w") as null:
        monkeypatch.setattr("sys.stdout", LeavingReader(lines, null))
        assert cli.main(["diagnose", f"ws://127.0.0.1:{gateway.port}/"]) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == ""
