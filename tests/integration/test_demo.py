from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from statemachine import Record
from tunnel.cli import main
from tunnel.demo import DemoError, program, scenario, server, server_process
from tunnel.demo.journal import Gauges
from tunnel.demo.recorder import Note, Recorder
from tunnel.demo.resending import Resending
from tunnel.demo.scenario import CUTS, Scenario, Stage
from tunnel.demo.server_process import ServerProcess
from tunnel.errors import SessionLostError
from tunnel.service import TunnelService
from tunnel.testing import FaultProxy

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-u", "-m", "tunnel", "demo"]
TIMEOUT = 20.0
LOSS = ["disconnected", "reconnecting", "connected"]
posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


# The whole, as a user runs it


@pytest.mark.requirement("1.4", "1.5", "1.7")
def test_the_demo_loses_nothing() -> None:
    """The demo cuts the link five times, comes back each time, and nothing is missing."""
    done = subprocess.run(
        [*COMMAND, "--json"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=55
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert report["sent"] == report["received"] > 100
    assert report["lost"] == report["duplicated"] == report["reordered"] == 0
    assert report["reconnects"] == len(CUTS)
    assert report["states"] == [
        *("disconnected", "connecting", "connected"),
        *LOSS * len(CUTS),
        *("closing", "disconnected"),
    ]
    assert [recovery["cut"] for recovery in report["recoveries"]] == [cut.name for cut in CUTS]
    assert all(recovery["queued"] for recovery in report["recoveries"])
    by_name = {recovery["cut"]: recovery for recovery in report["recoveries"]}
    new = {name for name, recovery in by_name.items() if not recovery["resumed"]}
    assert new == {"server killed", "server restarted"}
    assert by_name["burst"]["replayed"] > 100
    assert by_name["silence"]["replayed"] > 10
    assert report["replayed"] == sum(recovery["replayed"] for recovery in by_name.values())
    assert report["duplicates_dropped"] == 0  # only what is missing is replayed
    assert report["sessions_lost"] == 2
    assert report["handed_back"] == report["sent_again"]
    assert re.search(r"reconnecting .* attempt 3 of 10, next in \d\.\d s", done.stderr)
    assert "Nothing was lost, doubled or reordered." in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 100


@posix
def test_an_interrupted_demo_leaves_no_process() -> None:
    """Ctrl-C ends it with 130 and without a traceback, and its server is gone."""
    with running_demo() as (demo, connection):
        demo.send_signal(signal.SIGINT)
        rest, errors = demo.communicate(timeout=TIMEOUT)
        assert demo.returncode == 130
        assert errors == ""
        assert "closing" in rest
        assert has_ended(connection)


@posix
def test_a_killed_demo_leaves_no_process() -> None:
    """Even killed, it takes its server along: that sees the end of its standard input."""
    with running_demo() as (demo, connection):
        demo.kill()
        assert has_ended(connection)


@contextmanager
def running_demo() -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """A demo whose tunnel is connected, and a connection to its server, which ends with that."""
    demo = subprocess.Popen(
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with demo:
        try:
            assert demo.stdout is not None
            lines = iter(demo.stdout.readline, "")
            port = next(int(found[1]) for found in map(_PORT.search, lines) if found)
            next(line for line in lines if "the link is up" in line)
            with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
                yield demo, connection
        finally:
            demo.kill()


def has_ended(connection: socket.socket) -> bool:
    """Wait until the other end is gone; the kernel may say so in either way."""
    with suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


_PORT = re.compile(r"on port (\d+)")


# The program, in this process


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the demo play only the named cuts, with little traffic between them."""

    def play_only(*names: str) -> None:
        chosen = tuple(cut for cut in CUTS if cut.name in names)
        monkeypatch.setattr(program, "CUTS", chosen)
        monkeypatch.setattr(scenario, "_STEADY", 0.1)

    return play_only


def test_a_brief_demo_shows_every_event(
    brief: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Into a pipe the demo writes one line for each event and the summary."""
    brief("reset", "server restarted")
    assert main(["demo"]) == 0
    shown, errors = capsys.readouterr()
    assert errors == ""
    for text in ("* cut 1 of 2: the connection is reset", "connected again after", "x 2 ->"):
        assert text in shown
    assert "code 1012" in shown
    assert "sessions lost 1, " in shown
    assert shown.endswith("Nothing was lost, doubled or reordered.\n")


@pytest.mark.requirement("1.7")
def test_what_is_handed_back_is_sent_again(
    brief: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was written to a gateway that was dead comes back once and in order all the same."""
    brief("server killed")
    (cut,) = program.CUTS

    def begin(stage: Stage) -> None:
        stage.faults.enter_context(
            stage.proxy.blackhole()
        )  # nobody tells the tunnel that the gateway is dead
        cut.begin(stage)

    def mend(stage: Stage) -> None:
        cut.mend(stage)
        stage.faults.close()

    unseen = replace(cut, begin=begin, until_attempt=1, mend=mend)
    monkeypatch.setattr(program, "CUTS", (unseen,))
    assert main(["demo", "--json"]) == 0
    out, errors = capsys.readouterr()
    report = json.loads(out)
    assert report["handed_back"] == report["sent_again"] > 10
    assert f"* {report['sent_again']} cannot have arrived, and are sent again, first" in errors


def test_a_terminal_gets_the_live_view(
    brief: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the demo draws, and ends with the same verdict."""
    brief("reset")
    terminal = io.StringIO()
    monkeypatch.setattr(program, "is_lively", lambda stream: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert program.run() == 0
    assert "sent again" in terminal.getvalue()
    assert "Nothing was lost, doubled or reordered." in terminal.getvalue()


def test_the_run_is_drawn(brief: Callable[..., None], tmp_path: Path) -> None:
    """The timeline has the loss, the way back and the queue."""
    brief("reset")
    picture = tmp_path / "demo.svg"
    assert main(["demo", "--timeline", str(picture)]) == 0
    drawn = picture.read_text("utf-8")
    for text in ("lost while connected", "attempt 1, after", ">queue<", "1 loss"):
        assert text in drawn


def test_a_picture_that_cannot_be_written_is_no_surprise_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo does not even begin."""
    assert main(["demo", "--timeline", str(tmp_path / "no" / "demo.svg")]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert "No such file or directory" in errors


def test_a_tunnel_that_stays_away_is_told(
    brief: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A step that does not happen in time is named; summary and JSON come all the same."""
    brief("server killed")
    (cut,) = program.CUTS
    never = replace(cut, mend=lambda stage: None, until_attempt=1)
    monkeypatch.setattr(program, "CUTS", (never,))
    monkeypatch.setattr(scenario, "_DEADLINE", 1.0)
    assert main(["demo", "--json"]) == 1
    out, errors = capsys.readouterr()
    assert "tunnel demo: error: the tunnel did not come back within 1 s\n" in errors
    assert json.loads(out)["lost"] > 0


def test_a_server_that_cannot_start_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its server the demo ends with one sentence and exit code 2."""
    monkeypatch.setattr(server_process.sys, "executable", "/bin/false")
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == (
        "tunnel demo: error: the demo's gateway did not start: it said nothing\n"
    )


# The scenario's rules


def test_a_gateway_that_has_not_finished_is_not_vouched_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If a gateway had to be killed while it restarted, nobody knows what it has taken."""
    notes: list[Note] = []
    resending, service = Resending(Recorder(Gauges, notes.append)), Inert()
    (restart,) = (cut for cut in CUTS if cut.name == "server restarted")
    with ServerProcess() as process:
        monkeypatch.setattr(server_process, "_END", 0.0)
        process.stop()
        restart.mend(Stage(service, FaultProxy(0), process, resending))
        assert echoed(process.port)
    resending.on_session_lost(SessionLostError("gone", unacknowledged=["message 1"]))
    resending.on_connected(service, False)
    assert service.statistics()["queued_requests"] == 0
    assert notes[-1].text == "they may have arrived, so they are not sent again"


class Inert(TunnelService):
    """A tunnel to nowhere, whose flush says what it is told to."""

    flushes = True

    def flush(self, timeout: float | None = None) -> bool:
        return self.flushes


@pytest.mark.parametrize(
    ("flushes", "caution", "complaint"),
    [
        (False, "be careful", "not everything was acknowledged"),
        (True, "be careful", "not every message came back"),
        (True, "", "the tunnel did not notice the cut"),
    ],
)
def test_each_step_has_a_deadline(
    flushes: bool, caution: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not happen within the deadline ends the scenario with a sentence that names it."""
    monkeypatch.setattr(scenario, "_DEADLINE", 0.01)
    monkeypatch.setattr(scenario, "_STEADY", 0.0)
    monkeypatch.setattr(Inert, "flushes", flushes)
    recorder = Recorder(Gauges, ignore)
    nothing = replace(CUTS[0], begin=lambda stage: None, caution=caution)
    stage = Stage(Inert(), FaultProxy(0), ServerProcess(), Resending(recorder))
    with pytest.raises(DemoError, match=complaint):
        Scenario(stage, recorder, (nothing,)).run()


def test_what_cannot_be_mended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while a cut is being mended ends the scenario with its sentence."""

    def mend(stage: Stage) -> None:
        raise DemoError("it does not come up")

    monkeypatch.setattr(scenario, "_STEADY", 0.0)
    recorder = Recorder(Gauges, ignore)
    states = ("connected", "disconnected", "reconnecting", "connected")

    def lose_and_recover(stage: Stage) -> None:
        for state in states:
            recorder.on_state_change(Record(0.0, "trigger", "source", state, {}))

    cut = replace(CUTS[0], begin=lose_and_recover, mend=mend)
    stage = Stage(Inert(), FaultProxy(0), ServerProcess(), Resending(recorder))
    with pytest.raises(DemoError, match="it does not come up"):
        Scenario(stage, recorder, (cut,)).run()


def ignore(note: Note) -> None:
    """A view that shows nothing."""


# The server


def test_the_server_comes_back_on_its_port() -> None:
    """Killed or stopped, the server starts again where it was; killing twice does no harm."""
    with ServerProcess() as process:
        port, pid = process.port, process.pid
        assert echoed(port)
        process.kill()
        process.kill()
        process.stop()
        assert not process.wait()
        assert process.pid is None
        process.start()
        assert (process.port, echoed(port)) == (port, True)
        assert process.pid != pid
        process.stop()
        assert process.wait()
        process.start()
        assert echoed(port)


def test_a_server_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not end in time is killed."""
    with ServerProcess() as process:
        monkeypatch.setattr(server_process, "_END", 0.0)
        process.stop()
        assert not process.wait()
        assert process.pid is None


def test_a_taken_port_is_told() -> None:
    """The reason why the server does not start is the last thing that it said."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = ServerProcess()
        process.port = taken.getsockname()[1]
        with pytest.raises(DemoError, match=r"did not start: OSError: .*in use"):
            process.start()
    assert process.pid is None


def test_a_stopped_server_says_goodbye() -> None:
    """A server that is stopped closes its connections with 1012 (service restart)."""
    with ServerProcess() as process, websocket(process.port) as client:
        process.stop()
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(TIMEOUT)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012


def test_the_server_serves_until_its_input_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says its port, sends messages back, survives a cut, and ends with its standard input."""
    answers: list[bool] = []

    def use_it_and_end() -> None:
        with os.fdopen(to_server, "w"), os.fdopen(from_server) as output:
            port = int(output.readline())
            with socket.create_connection(("127.0.0.1", port), TIMEOUT) as cut:
                cut.sendall(_UPGRADE)
                cut.recv(4096)
            answers.append(echoed(port))

    server_in, to_server = os.pipe()
    from_server, server_out = os.pipe()
    handler = signal.getsignal(signal.SIGINT)
    client = threading.Thread(target=use_it_and_end)
    with os.fdopen(server_in) as stdin, os.fdopen(server_out, "w") as stdout:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        client.start()
        try:
            server.main([])
        finally:
            monkeypatch.undo()
            signal.signal(signal.SIGINT, handler)
            client.join()
    assert answers == [True]


_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


def websocket(port: int) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}/")


def echoed(port: int) -> bool:
    with websocket(port) as client:
        client.send("hello")
        return client.recv(TIMEOUT) == "hello"
