"""`tunnel connect` against servers on loopback: what comes out, and how it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection

from tests.plain_server import plain_server
from tunnel import cli
from tunnel.commands.connect_conversation import Conversation
from tunnel.gateway import GatewayThread

TIMEOUT = 20.0
SOON = ("--wait", "1")  # enough for an echo on a loaded machine

pytestmark = pytest.mark.usefixtures("no_leaks", "quiet_logger")


@pytest.fixture
def quiet_logger() -> Iterator[None]:
    yield
    logger.disable("tunnel")


@dataclass
class Terminal:
    """What stands in for standard input and output of the command; standard error is captured."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    path: Path
    keep_open: bool = False
    opened: list[Any] = field(default_factory=list)

    def run(self, url: str, *options: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        """The exit code, standard output, standard error."""
        reader, writer = os.pipe()
        os.write(writer, stdin)
        if self.keep_open:
            self.opened.append(os.fdopen(writer, "wb"))
        else:
            os.close(writer)
        with os.fdopen(reader, "rb") as source, self.path.open("wb") as output:
            self.monkeypatch.setattr(sys, "stdin", source)
            self.monkeypatch.setattr(sys, "stdout", output)
            code = cli.main(["connect", url, *options])
        return code, self.path.read_bytes(), self.capsys.readouterr().err


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Terminal]:
    made = Terminal(monkeypatch, capsys, tmp_path / "output")
    yield made
    for file in made.opened:
        file.close()


def kill(number: int) -> None:
    """Send this process a signal, and return before it is handled."""
    threading.Thread(target=os.kill, args=(os.getpid(), number)).start()


def test_lines_become_messages_and_messages_lines(terminal: Terminal) -> None:
    """Order and text are kept; what happens is told on standard error; the exit code is 0."""
    with GatewayThread("echo") as gateway:
        data = "one\n\ngr\u00fc\u00df\nlast".encode()
        code, out, err = terminal.run(gateway.url, *SOON, stdin=data)
    assert (code, out) == (0, data + b"\n")
    lines = [line[9:] for line in err.splitlines()]
    assert lines[0] == f"connecting to {gateway.url}"
    assert lines[1] == "connected"
    assert lines[-1] == "sent 4, received 4, reconnections 0"


def test_a_plain_server_will_do(terminal: Terminal) -> None:
    """Many lines arrive, in order, and so do their answers."""
    received: list[str | bytes] = []

    def handle(connection: ServerConnection) -> None:
        for message in connection:
            received.append(message)
            connection.send(message)

    data = "".join(f"{n}\n" for n in range(5000)).encode()
    with plain_server(handle) as url:
        code, out, _ = terminal.run(url, "--wait", "3", stdin=data[:60_000])
    assert (code, out) == (0, data[:60_000].rstrip(b"\n") + b"\n")
    assert received == out.decode().split()


def test_binary_is_a_stream_of_bytes(terminal: Terminal) -> None:
    """Messages are binary, and nothing is added on either way."""
    kinds: set[type] = set()

    def handle(connection: ServerConnection) -> None:
        for message in connection:
            kinds.add(type(message))
            connection.send(message)

    data = bytes(range(256)) * 20
    with plain_server(handle) as url:
        code, out, _ = terminal.run(url, *SOON, "--binary", stdin=data)
    assert (code, out) == (0, data)
    assert kinds == {bytes}


def test_events_are_told_as_json(terminal: Terminal) -> None:
    """An object a line, and the last one has the numbers."""
    with GatewayThread("echo") as gateway:
        code, out, err = terminal.run(gateway.url, *SOON, "--log-json", stdin=b"x\n")
    assert (code, out) == (0, b"x\n")
    objects = [json.loads(line) for line in err.splitlines()]
    assert [found["type"] for found in objects][:2] == ["connecting", "connected"]
    assert objects[-1]["type"] == "summary"
    assert objects[-1]["metadata"]["sent"] == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_with_care(terminal: Terminal, number: int, code: int) -> None:
    """What was read is sent, the connection is closed with 1000, and handlers are as before."""
    before = signal.getsignal(number)
    received: list[str | bytes] = []
    closed: list[int | None] = []

    def handle(connection: ServerConnection) -> None:
        for message in connection:
            received.append(message)
            if message == "two":
                kill(number)
        closed.append(connection.close_code)

    terminal.keep_open = True
    with plain_server(handle) as url:
        found, _, err = terminal.run(url, stdin=b"one\ntwo\nthree\npart of a li")
    assert found == code
    assert received == ["one", "two", "three"]
    assert closed == [1000]
    assert "Traceback" not in err
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored(terminal: Terminal) -> None:
    """As that for the terminal's end is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    received: list[str | bytes] = []

    def handle(connection: ServerConnection) -> None:
        for message in connection:
            received.append(message)
            os.kill(os.getpid(), signal.SIGHUP)

    try:
        with plain_server(handle) as url:
            code, _, _ = terminal.run(url, "--wait", "0", stdin=b"one\ntwo\n")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert code == 0
    assert received == ["one", "two"]


def test_nobody_has_to_read_what_it_tells(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages go on, and it ends, while standard error is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, bytes(10_000)):
            pass
    os.set_blocking(writer, True)
    with os.fdopen(writer, "w", encoding="utf-8") as full, os.fdopen(reader, "rb") as unread:
        with GatewayThread("echo") as gateway, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", full)
            assert terminal.run(gateway.url, *SOON, stdin=b"x\n")[:2] == (0, b"x\n")
        os.set_blocking(unread.fileno(), False)  # the writer's thread may go on, and end
        text = b""
        while b"received 1" not in text:
            text = text[-100:] + (unread.read(10_000) or b"")


def test_a_second_signal_ends_it_at_once(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it is saying goodbye, which can take its time."""

    def end(self: Conversation) -> None:
        kill(signal.SIGINT)
        threading.Event().wait(TIMEOUT)
        pytest.fail("the second signal has not ended it")

    def handle(connection: ServerConnection) -> None:
        for _ in connection:
            kill(signal.SIGINT)

    monkeypatch.setattr(Conversation, "_end", end)
    terminal.keep_open = True
    with plain_server(handle) as url:
        code, _, err = terminal.run(url, stdin=b"x\n")
    assert code == 130
    assert "Traceback" not in err


def test_the_last_line_may_be_answered(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long silence, too: the time to wait begins when everything was sent."""
    conversations: list[Conversation] = []
    original = Conversation.__init__

    def remember(self: Conversation, *arguments: Any) -> None:
        original(self, *arguments)
        conversations.append(self)

    def handle(connection: ServerConnection) -> None:
        connection.recv()
        conversations[0]._last_heard -= 1000
        terminal.opened[0].write(b"two\n")
        terminal.opened[0].close()
        connection.recv()
        threading.Event().wait(0.2)  # it thinks
        connection.send("answer")
        list(connection)

    monkeypatch.setattr(Conversation, "__init__", remember)
    terminal.keep_open = True
    with plain_server(handle) as url:
        code, out, _ = terminal.run(url, "--wait", "1.5", stdin=b"one\n")
    assert (code, out) == (0, b"answer\n")


def test_a_slow_reader_gets_everything(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads standard output may take longer than `--wait`, and than a goodbye."""
    monkeypatch.setattr("tunnel.commands.connect_conversation._GOODBYE", 0.2)
    text = "x" * 1_000_000

    def handle(connection: ServerConnection) -> None:
        connection.recv()
        connection.send(text)
        connection.send("end")
        list(connection)

    source, other_end = os.pipe()
    os.write(other_end, b"go\n")
    os.close(other_end)
    reader, writer = os.pipe()
    chunks: list[bytes] = []

    def read() -> None:
        threading.Event().wait(1.0)  # it takes its time
        with os.fdopen(reader, "rb") as file:
            chunks.append(file.read())

    thread = threading.Thread(target=read)
    thread.start()
    with (
        plain_server(handle) as url,
        os.fdopen(source, "rb") as stdin,
        os.fdopen(writer, "wb") as stdout,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdin", stdin)
        patch.setattr(sys, "stdout", stdout)
        assert cli.main(["connect", url, "--wait", "0.1"]) == 0
    thread.join()
    assert b"".join(chunks) == f"{text}\nend\n".encode()


def test_without_an_end_it_waits_to_be_interrupted(terminal: Terminal) -> None:
    """With `--wait inf` what comes after the end of standard input is written all the same."""

    def handle(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(f"answer to {message!r}")
            kill(signal.SIGINT)

    with plain_server(handle) as url:
        code, out, _ = terminal.run(url, "--wait", "inf", stdin=b"x")
    assert (code, out) == (130, b"answer to 'x'\n")


def test_a_reader_that_leaves_ends_it(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `| head`: exit code 1, and no complaint."""
    reader, writer = os.pipe()
    os.close(reader)
    source, other_end = os.pipe()
    os.write(other_end, b"one\n")
    with (
        GatewayThread("echo") as gateway,
        os.fdopen(source, "rb") as stdin,
        os.fdopen(writer, "wb") as stdout,
    ):
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        assert cli.main(["connect", gateway.url]) == 1
    os.close(other_end)
    err = terminal.capsys.readouterr().err
    assert "error" not in err
    assert "sent 1, received 0" in err


@pytest.mark.requirement("1.5")
def test_the_countdown_is_told_and_then_the_end(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempt n of m, in s; when they are used up: exit code 2, a sentence, what was not sent."""
    monkeypatch.setenv("TUNNEL_MAX_RECONNECT_ATTEMPTS", "2")
    monkeypatch.setenv("TUNNEL_RECONNECT_BASE_DELAY", "0.01")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code, out, err = terminal.run(f"ws://127.0.0.1:{port}/", stdin=b"one\ntwo\n")
    assert (code, out) == (2, b"")
    assert "reconnecting: attempt 1 of 2 in 0.0 s: connection refused" in err
    assert "reconnecting: attempt 2 of 2" in err
    assert "sent 0, received 0, reconnections 0; not sent: 2" in err
    assert err.splitlines()[-1].startswith("tunnel connect: error: gave up after 2 attempts")


def test_it_comes_back(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that is lost is restored, and the conversation goes on."""
    monkeypatch.setenv("TUNNEL_RECONNECT_BASE_DELAY", "0.01")
    connections: list[ServerConnection] = []

    def handle(connection: ServerConnection) -> None:
        connections.append(connection)
        if len(connections) == 1:
            connection.recv()
            connection.socket.shutdown(socket.SHUT_RDWR)
            return
        connection.send("hello again")
        terminal.opened[0].write(b"two\n")
        terminal.opened[0].close()
        for message in connection:
            connection.send(message)

    terminal.keep_open = True
    with plain_server(handle) as url:
        code, out, err = terminal.run(url, *SOON, stdin=b"lost with the link\n")
    assert (code, out) == (0, b"hello again\ntwo\n")
    assert "reconnected" in err
    assert "reconnections 1" in err


def test_a_lost_session_is_told(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What perhaps has not arrived is counted, and the exit code is 1."""
    monkeypatch.setenv("TUNNEL_RECONNECT_BASE_DELAY", "0.01")
    arrived, release = threading.Event(), threading.Event()
    gateways: list[GatewayThread] = []

    def never_done(session: object, message: object) -> None:
        arrived.set()
        release.wait(TIMEOUT)

    first = GatewayThread(never_done)
    first.start()

    def replace() -> None:
        assert arrived.wait(TIMEOUT)
        port = first.port
        threading.Timer(0.05, release.set).start()
        first.stop(drain=False)
        gateways.append(GatewayThread("echo", port=port))
        gateways[0].start()

    thread = threading.Thread(target=replace)
    thread.start()
    code, _, err = terminal.run(first.url, *SOON, stdin=b"one\n")
    thread.join()
    gateways[0].stop()
    assert code == 1
    assert "session_lost" in err
    assert "perhaps not arrived: 1" in err


def test_a_line_that_is_no_text_ends_it(terminal: Terminal) -> None:
    """After what stands before it was sent and answered; the exit code is 2."""
    with GatewayThread("echo") as gateway:
        code, out, err = terminal.run(gateway.url, *SOON, stdin=b"one\n\xff\ntwo\n")
    assert (code, out) == (2, b"one\n")
    assert "tunnel connect: error: line 2 of standard input is not UTF-8" in err


def test_credentials_and_headers_are_sent(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From variable and files; subprotocols too. None of it is shown."""
    seen: list[Request] = []

    def look(connection: ServerConnection, request: Request) -> Response | None:
        seen.append(request)
        return None

    def choose(connection: ServerConnection, offered: Any) -> Any:
        return offered[0]

    monkeypatch.setenv("MY_TOKEN", "s3cr3t-token")
    (tmp_path / "token").write_text("another-t0ken\n")
    (tmp_path / "headers").write_text("X-Api-Key: hidden-key\n\nX-Two: 2\n")
    options = ["--header", f"@{tmp_path / 'headers'}", "--header", "X-Three: 3"]
    with plain_server(list, process_request=look, select_subprotocol=choose) as url:
        errors = ""
        for token in (["--token-env", "MY_TOKEN"], ["--token-file", str(tmp_path / "token")]):
            code, _, err = terminal.run(
                url, "--wait", "0", *token, *options, "--subprotocol", "chat"
            )
            errors += err
            assert code == 0
    assert [request.headers["Authorization"] for request in seen] == [
        "Bearer s3cr3t-token",
        "Bearer another-t0ken",
    ]
    headers = seen[0].headers
    assert (headers["X-Api-Key"], headers["X-Two"], headers["X-Three"]) == ("hidden-key", "2", "3")
    assert headers["Sec-WebSocket-Protocol"] == "chat"
    assert not {"s3cr3t-token", "another-t0ken", "hidden-key"} & set(errors.split())


def test_an_interrupt_while_there_is_no_link(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the queue full, too: it ends at once, and counts what was read and not sent."""
    original = Conversation._send
    calls = 0

    def send(self: Conversation, messages: Sequence[str | bytes]) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:  # for which the queue has no room
            kill(signal.SIGINT)
        return original(self, messages)

    monkeypatch.setattr(Conversation, "_send", send)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    began = time.monotonic()
    code, _, err = terminal.run(f"ws://127.0.0.1:{port}/", stdin=b"line\n" * 150)
    assert code == 130
    assert time.monotonic() - began < 5
    assert "not sent: 150" in err


def test_a_server_may_hang_up(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without automatic reconnection its ordinary end is one of the command; a loss is not."""
    monkeypatch.setenv("TUNNEL_ENABLE_AUTO_RECONNECT", "no")
    terminal.keep_open = True

    def bye(connection: ServerConnection) -> None:
        connection.send(f"you said {connection.recv()!r}")

    def vanish(connection: ServerConnection) -> None:
        connection.recv()
        connection.socket.shutdown(socket.SHUT_RDWR)

    with plain_server(bye) as url:
        assert terminal.run(url, stdin=b"one\n")[:2] == (0, b"you said 'one'\n")
    with plain_server(vanish) as url:
        code, _, err = terminal.run(url, stdin=b"one\n")
    assert code == 2
    assert "tunnel connect: error: the connection ended without a close frame" in err


def test_a_refusal_is_final(terminal: Terminal) -> None:
    """Exit code 2, with the library's sentence and suggestion."""

    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus.NOT_FOUND, "")

    with plain_server(lambda connection: None, process_request=refuse) as url:
        code, _, err = terminal.run(url, stdin=b"x\n")
    assert code == 2
    assert "Check the address, its path above all." in err
    assert "(TUNNEL_024)" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nowhere"], "must begin with ws:// or wss://"),
        (["ws://h/", "--wait", "-1"], "--wait must be from 0"),
        (["ws://h/", "--wait", "nan"], "--wait must be from 0"),
        (["ws://h/", "--token-env", "NO_SUCH"], "NO_SUCH is not set"),
        (["ws://h/", "--token-file", "/no/such/file"], "the token file /no/such/file cannot be"),
        (["ws://h/", "--header", "@/no/such/file"], "the header file /no/such/file cannot be"),
        (["ws://h/", "--header", "secret"], "--header must be 'NAME: VALUE', with a colon"),
    ],
)
def test_mistakes_are_sentences(terminal: Terminal, options: list[str], words: str) -> None:
    """Before anything is tried: exit code 2."""
    code, out, err = terminal.run(*options)
    assert (code, out) == (2, b"")
    assert err.startswith("tunnel connect: error: ")
    assert words in err
    assert err.count("\n") == 1


def test_a_closed_input_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Python has it after `<&-`."""
    with open(os.devnull, "wb") as nothing:
        monkeypatch.setattr(sys, "stdout", nothing)
        monkeypatch.setattr(sys, "stdin", None)
        assert cli.main(["connect", "ws://127.0.0.1:1/"]) == 2
    assert "is closed; to say nothing, give /dev/null" in capsys.readouterr().err


@pytest.mark.parametrize("has_rich", [True, False])
def test_on_a_terminal_there_is_a_row(
    has_rich: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It shows the state and what goes on; and is gone at the end. Without rich there is none."""
    monkeypatch.setenv("TERM", "xterm-256color")
    if not has_rich:
        monkeypatch.setattr("tunnel.commands.terminal.find_spec", lambda name: None)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    chunks: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the end of a terminal
            while chunk := os.read(master, 10_000):
                chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    source, writer = os.pipe()
    os.write(writer, b"hello\n")
    os.close(writer)
    with (
        GatewayThread("echo") as gateway,
        os.fdopen(source, "rb") as stdin,
        (tmp_path / "out").open("wb") as stdout,
        os.fdopen(slave, "w", encoding="utf-8") as stderr,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdin", stdin)
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        assert cli.main(["connect", gateway.url, *SOON]) == 0
    reader.join()
    os.close(master)
    shown = b"".join(chunks).decode()
    assert "sent 1, received 1, reconnections 0" in shown
    assert ("● connected" in shown) is has_rich
    assert ("round trip" in shown) is has_rich
    assert ("\033[1;23r" in shown) is has_rich
    assert ("\033[r\033[24;1H\033[2K" in shown) is has_rich
