"""``tunnel status`` and ``tunnel watch``, told by a server in this process."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import tunnel.status.server as server_module
from tunnel import TunnelConnectionState, TunnelService, cli, roll
from tunnel.commands import status_view
from tunnel.commands.status_table import HEADINGS, plain
from tunnel.history import History
from tunnel.status import (
    LastError,
    ProcessStatus,
    StatusClient,
    StatusServer,
    TunnelStatus,
    serve,
)
from tunnel.status.report import look
from tunnel.testing import FakeClock, ScriptedTransport
from tunnel.tracker_snapshot import TrackerSnapshot

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")

RESTING = TunnelStatus(
    number=1,
    name="tunnel-1",
    server_url=None,
    state="disconnected",
    since=None,
    attempt=0,
    max_attempts=10,
    next_attempt=None,
    queued=0,
    max_queued=100,
    unacknowledged=0,
    sent=0,
    received=0,
    reconnections=0,
    round_trip=None,
    quality="unknown",
    last_error=None,
)
RECOVERING = dataclasses.replace(
    RESTING,
    number=2,
    name="prices",
    state="reconnecting",
    since=990.0,
    attempt=3,
    next_attempt=1007.4,
    queued=7,
    reconnections=4,
    round_trip=0.0125,
    quality="fair",
    last_error=LastError("TUNNEL_001", "nobody listens there", 998.0),
)


class Terminal(io.StringIO):
    """One that can be drawn on."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def process(*tunnels: TunnelStatus) -> ProcessStatus:
    return ProcessStatus(7, "app.py", 1000.0, tunnels)


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch, status_folders: Path) -> None:
    """Tunnels of other tests are not seen, nor sockets of other programs."""
    monkeypatch.setattr(roll, "_members", type(roll._members)())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.sock"


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the server give some answers one after the other; at the last it is closed."""

    def script(server: StatusServer, *answers: ProcessStatus) -> None:
        left = list(answers)

        def next_answer(*, histories: bool) -> ProcessStatus:
            if len(left) == 1:
                server._is_closing = True  # the thread ends when it has sent this one
            return left.pop(0)

        monkeypatch.setattr(server_module, "look", next_answer)

    return script


class TestTable:
    def test_a_row_says_it_all(self) -> None:
        """Columns stand below each other; what is not known is a dash."""
        title, head, resting, recovering = plain(process(RESTING, RECOVERING)).splitlines()
        assert title == "app.py, process 7: 2 tunnels"
        assert resting.split() == [
            "tunnel-1",
            "disconnected",
            "-",
            "-",
            "-",
            "0/100",
            "-",
            "unknown",
            "-",
        ]
        assert [line.index(cell) for line, cell in ((head, "queue"), (resting, "0/100"))] == [
            recovering.index("7/100")
        ] * 2
        assert " ".join(recovering.split()) == (
            "prices reconnecting 10.0 s 4 3 of 10, in 7.4 s 7/100 12 ms fair "
            "TUNNEL_001 2.0 s ago: nobody listens there"
        )

    def test_an_attempt_that_is_due_is_dialling(self) -> None:
        """And one of no end says of no end."""
        due = dataclasses.replace(RECOVERING, next_attempt=999.0, max_attempts=None)
        assert "  3, dialling  " in plain(process(due))

    def test_no_tunnels_are_a_sentence(self) -> None:
        """There is no empty table."""
        assert plain(process()) == "app.py, process 7: no tunnels"
        assert plain(process(RESTING)).startswith("app.py, process 7: 1 tunnel\n")

    def test_a_terminal_is_not_commanded(self) -> None:
        """Control characters in what a program says are not shown."""
        nasty = dataclasses.replace(RESTING, name="\x1b[2Jx")
        assert "\x1b" not in plain(process(nasty))

    def test_with_rich_it_is_in_colours(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The same cells, and markup in them is only text."""
        status_view.show(process(dataclasses.replace(RESTING, name="[bold]x")))
        shown = capsys.readouterr().out
        assert "[bold]x" in shown
        assert "disconnected" in shown


def drawn(*tunnels: TunnelStatus, width: int, height: int, fits: bool = True) -> list[str]:
    """The lines of rich's table in a terminal of this size."""
    output = io.StringIO()
    console = Console(file=output, width=width, height=height)
    console.print(status_view.table(process(*tunnels), console, fits=fits))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def numbered(number: int, **changes: Any) -> TunnelStatus:
    """A tunnel that is connected."""
    changes = {"name": f"feed-{number}", "state": "connected", "since": 100.0, **changes}
    return dataclasses.replace(RESTING, number=number, **changes)


class TestSmallTerminals:
    def test_where_there_is_room_all_is_shown(self) -> None:
        """In the order in which the tunnels were made, with whole errors."""
        long = dataclasses.replace(RECOVERING, last_error=LastError("C", "word " * 40, 998.0))
        lines = drawn(numbered(1), long, numbered(3), width=110, height=30)
        assert [line.split()[0] for line in lines[3:6]] == ["feed-1", "prices", "feed-3"]
        assert " ".join(lines[6:]).count("word") == 40

    def test_no_tunnels_are_only_a_title(self) -> None:
        """There is no empty table."""
        assert drawn(width=80, height=24) == ["app.py, process 7: no tunnels"]

    @pytest.mark.parametrize("height", [9, 12, 30])
    def test_trouble_comes_first_where_not_all_fit(self, height: int) -> None:
        """Each with its error on one line; those that are not shown are counted."""
        error = LastError("TUNNEL_001", "nobody listens there " * 20, 995.0)
        tunnels = [numbered(n) for n in range(1, 41)]
        tunnels[4] = numbered(5, last_error=dataclasses.replace(error, time=3.0))  # long over
        tunnels[11] = numbered(12, name="flapping", last_error=error)
        tunnels[22] = dataclasses.replace(RECOVERING, number=23, last_error=error)
        tunnels[33] = numbered(34, name="broken", state="error", last_error=error)
        lines = drawn(*tunnels, width=90, height=height)
        assert len(lines) <= height
        names = [line.split()[0] for line in lines]
        place = names.index("broken:")
        rows, errors = names[3:place], names[place:-1]
        assert rows[:2] == ["broken", "prices"]
        assert errors == [f"{name}:" for name in rows if not name.startswith("feed")]
        assert lines[-1].startswith(f"{40 - len(rows)} more tunnels: ")
        assert (rows + ["-"] * 3)[2] == ("flapping" if height > 9 else "-")

    def test_only_errors_may_be_too_many(self) -> None:
        """Then all tunnels are shown, and errors that are over give way."""
        over = LastError("TUNNEL_001", "nobody listens there", 3.0)
        tunnels = [numbered(n, last_error=over) for n in range(1, 8)]
        lines = drawn(*tunnels, width=90, height=12)
        assert [line.split()[0] for line in lines[3:10]] == [f"feed-{n}" for n in range(1, 8)]
        assert lines[10:] == ["errors that are over are left out"]

    @pytest.mark.parametrize(
        ("width", "columns"),
        [
            (110, ("for", "reconnects", "attempt", "queue", "round trip", "quality")),
            (98, ("for", "reconnects", "attempt", "queue", "round trip")),
            (80, ("for", "reconnects", "attempt", "queue")),
            (70, ("reconnects", "attempt", "queue")),
            (60, ("attempt", "queue")),
            (32, ()),
        ],
    )
    def test_columns_are_left_out_where_it_is_narrow(
        self, width: int, columns: tuple[str, ...]
    ) -> None:
        """Quality and round trip first; what is shown is shown as a whole, but for long names."""
        long = dataclasses.replace(RECOVERING, name="prices-" * 9, queued=100)
        _, head, _, first, second, *_ = drawn(long, numbered(7), width=width, height=30)
        shown = [heading for heading in HEADINGS[2:-1] if f" {heading}" in head]
        assert tuple(shown) == columns
        assert first.split()[0].startswith("prices-p")
        assert first.split()[0].endswith("…")
        assert "…" not in " ".join(first.split()[1:])
        assert ("100/100" in first) is ("queue" in columns)
        assert second.split()[:2] == ["feed-7", "connected"]

    def test_errors_are_whole_when_shown_once(self) -> None:
        """Nothing has to fit, and the order stays."""
        tunnels = [dataclasses.replace(RECOVERING, number=n, name=f"feed-{n}") for n in range(1, 9)]
        lines = drawn(*tunnels, width=90, height=5, fits=False)
        assert [line.split()[0] for line in lines[3:]] == [
            *(f"feed-{n}" for n in range(1, 9)),
            *(f"feed-{n}:" for n in range(1, 9)),
        ]


class TestStatus:
    def test_a_program_is_shown(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """As a table, and as a line of JSON with the same."""
        service = TunnelService(clock=FakeClock())
        with serve(path):
            assert cli.main(["status", str(path)]) == 0
            table = capsys.readouterr().out
            assert cli.main(["status", str(path), "--json"]) == 0
        assert service.state.value in table
        (tunnel,) = json.loads(capsys.readouterr().out)["tunnels"]
        assert tunnel["state"] == service.state.value
        assert tunnel["name"] in table

    def test_without_a_path_all_programs_are_shown(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Those that have ended are named on standard error."""
        with serve() as server:
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(server.path.with_name("0.sock")))
            assert cli.main(["status"]) == 0
        shown = capsys.readouterr()
        assert shown.out.endswith("no tunnels\n")
        assert "0.sock any more: the program has ended; the file may be removed" in shown.err

    @pytest.mark.parametrize("command", ["status", "watch"])
    def test_nobody_is_a_sentence(
        self, command: str, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With exit code 2, and what to do."""
        assert cli.main([command]) == 2
        error = capsys.readouterr().err
        assert f"tunnel {command}: error: no program of yours tells its status in " in error
        assert f"{path.parent / 'resilient-tunnel'}, " in error
        assert f" or {path.parent / 'shared'}" in error
        assert cli.main([command, str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"tunnel {command}: error: there is no {path}: the program")
        assert error.count("\n") == 1

    def test_in_a_terminal_it_is_rich(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The table is rich's when standard output is a terminal."""
        shown: list[ProcessStatus] = []
        monkeypatch.setattr(status_view, "show", shown.append)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        with serve(path):
            assert cli.main(["status", str(path)]) == 0
        assert len(shown) == 1


class TestHistory:
    """``tunnel status --history``."""

    def test_it_can_be_drawn(
        self, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What is written is what `tunnel timeline` reads, and has the tunnel's own steps."""
        clock = FakeClock()
        service = TunnelService(clock=clock, new_transport=ScriptedTransport(clock))
        service.connect("ws://example.com/", user_id="prices")
        number = look().tunnels[0].number
        with serve(path):
            for name in ("prices", str(number)):
                assert cli.main(["status", str(path), "--history", name]) == 0
                saved = tmp_path / "run.json"
                saved.write_text(capsys.readouterr().out)
                assert cli.main(["timeline", str(saved), f"--output={tmp_path / 'run.svg'}"]) == 0
        service.disconnect()
        history = History.from_json(saved.read_text())
        assert [step.trigger for step in history.steps] == ["connect", "opened"]

    @pytest.mark.parametrize(
        ("names", "sentence"),
        [
            ((), "no tunnel is called 'prices'; there is none"),
            (("news", "sports"), "no tunnel is called 'prices'; there are: news, sports"),
            (
                ("prices", "news", "prices"),
                "several tunnels are called 'prices': number 1 of process 7, number 3 of process 7",
            ),
        ],
    )
    def test_one_tunnel_has_to_be_meant(
        self,
        names: tuple[str, ...],
        sentence: str,
        path: Path,
        answer: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """With none or several of that name, what there is to choose from is said."""
        tunnels = [
            dataclasses.replace(RESTING, number=number, name=name)
            for number, name in enumerate(names, 1)
        ]
        snapshot = TrackerSnapshot(TunnelConnectionState.DISCONNECTED, 0, True, 0, None, ())
        histories = (History(snapshot),) * len(tunnels)
        with serve(path) as server:
            answer(server, dataclasses.replace(process(*tunnels), histories=histories))
            assert cli.main(["status", str(path), "--history", "prices"]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert sentence in shown.err

    def test_it_is_no_status(self, path: Path) -> None:
        """What is wanted is either the one or the other."""
        with pytest.raises(SystemExit):
            cli.main(["status", str(path), "--history", "prices", "--json"])


class TestWatch:
    def test_changes_are_lines_until_the_program_ends(
        self, path: Path, answer: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A tunnel has a line when its state, attempt or error is another, and not for numbers."""
        with serve(path) as server:
            busier = dataclasses.replace(RESTING, queued=5)
            answer(server, process(RESTING), process(busier), process(RESTING, RECOVERING))
            assert cli.main(["watch", str(path), "--every", "0.05"]) == 0
        shown = capsys.readouterr()
        assert shown.out.splitlines() == [
            "1970-01-01 00:16:40 UTC  tunnel-1  disconnected  queue 0/100",
            "1970-01-01 00:16:40 UTC  prices  reconnecting  for 10.0 s, reconnects 4, "
            "attempt 3 of 10, in 7.4 s, queue 7/100, round trip 12 ms, quality fair, "
            "last error TUNNEL_001 2.0 s ago: nobody listens there",
        ]
        assert shown.err == f"tunnel watch: the program at {path} has ended\n"

    def test_a_tunnel_that_is_gone_has_a_last_line(
        self, path: Path, answer: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nobody takes it for one that does not change any more."""
        with serve(path) as server:
            answer(server, process(RESTING, RECOVERING), process(RESTING), process(RESTING))
            assert cli.main(["watch", str(path), "--every", "0.05"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3
        assert lines[2] == "1970-01-01 00:16:40 UTC  prices  gone"

    def test_as_json_each_look_is_a_line(
        self, answer: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without a path it is the one program that there is."""
        with serve() as server:
            answer(server, process(RESTING), process(RECOVERING))
            assert cli.main(["watch", "--json", "--every", "0.05"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["tunnels"][0]["name"] for line in lines] == ["tunnel-1", "prices"]

    def test_of_several_programs_one_is_asked_for(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The sentence lists them; one that has ended is none."""
        with serve() as server:
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(server.path.with_name("0.sock")))
            other = server.path.with_name("1.sock")
            with socket.socket(socket.AF_UNIX) as living:
                living.bind(str(other))
                living.listen()
                assert cli.main(["watch"]) == 2
        error = capsys.readouterr().err
        assert f"say which: {other} or {server.path}" in error

    def test_in_a_terminal_it_is_drawn_anew(
        self, path: Path, answer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rich redraws the table in its place."""
        terminal = Terminal()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", terminal)
        with serve(path) as server:
            answer(server, process(RESTING), process(RECOVERING))
            assert cli.main(["watch", str(path), "--every", "0.05"]) == 0
        first, _, second = terminal.getvalue().partition("\033[1A")
        assert "disconnected" in first
        assert "TUNNEL_001" in second

    def test_a_diagram_is_kept_up_to_date(
        self, path: Path, tmp_path: Path, answer: Callable[..., None]
    ) -> None:
        """A page for all tunnels, or a picture of the only one; written as a whole."""
        service = TunnelService(clock=FakeClock())
        seen = look(histories=True)
        for name, begin in (("all.html", "<!DOCTYPE html>"), ("one.svg", "<svg")):
            with serve(path) as server:
                answer(server, seen, seen)
                target = tmp_path / name
                assert (
                    cli.main(["watch", str(path), "--every", "0.05", "--diagram", str(target)]) == 0
                )
            text = target.read_text("utf-8")
            assert text.startswith(begin)
            assert service.state.value in text
        assert not list(tmp_path.glob(".*"))

    def test_the_last_page_says_that_it_is_the_last(
        self, path: Path, tmp_path: Path, answer: Callable[..., None]
    ) -> None:
        """After the end of the program a browser neither loads it again nor says "now"."""
        target = tmp_path / "all.html"
        snapshot = TrackerSnapshot(TunnelConnectionState.DISCONNECTED, 0, True, 0, None, ())
        seen = dataclasses.replace(process(RECOVERING), histories=(History(snapshot),))
        with serve(path) as server:
            answer(server, seen, seen)
            assert cli.main(["watch", str(path), "--every=0.05", f"--diagram={target}"]) == 0
        page = target.read_text("utf-8")
        assert 'http-equiv="refresh"' not in page
        assert "<h1>app.py, process 7, as of 1970-01-01 00:16:40 UTC</h1>" in page
        assert "<p>The program has ended.</p>" in page
        assert "prices: reconnecting<span>for 10.0 s, reconnects 4, attempt 3 of 10" in page
        assert "last error TUNNEL_001 2.0 s ago: nobody listens there</span>" in page

    def test_a_page_that_nobody_keeps_says_so(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after Ctrl-C, when nobody knows how the program does; before that it was kept."""
        target = tmp_path / "all.html"
        kept: list[str] = []

        def interrupt(timeout: float) -> None:
            kept.append(target.read_text("utf-8"))
            raise KeyboardInterrupt

        with serve(path), monkeypatch.context() as patch:
            pause = SimpleNamespace(wait=interrupt)
            patch.setattr("tunnel.commands.watch.threading", SimpleNamespace(Event=lambda: pause))
            assert cli.main(["watch", str(path), "--every=2", f"--diagram={target}"]) == 130
        assert '<meta http-equiv="refresh" content="2">' in kept[0]
        assert "Nobody watches" not in kept[0]
        page = target.read_text("utf-8")
        assert 'http-equiv="refresh"' not in page
        assert re.search(r"<p>Nobody watches since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\.</p>", page)

    def test_a_diagram_that_cannot_be_is_a_sentence(
        self, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Another ending is refused before anybody is asked, and a picture of none by name."""
        assert cli.main(["watch", str(path), "--diagram", "x.png"]) == 2
        assert "ends in .html" in capsys.readouterr().err
        with serve(path):
            assert cli.main(["watch", str(path), "--diagram", str(tmp_path / "x.svg")]) == 2
        assert "shows one tunnel, and the program has 0" in capsys.readouterr().err

    @pytest.mark.parametrize("every", ["0", "nan", "soon", "1e9"])
    def test_an_interval_has_bounds(self, every: str, capsys: pytest.CaptureFixture[str]) -> None:
        """What is no interval is refused with its bounds."""
        with pytest.raises(SystemExit) as end:
            cli.main(["watch", "--every", every])
        assert end.value.code == 2
        assert "is no number of seconds from 0.05 to 3600" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "watch"])
def test_a_folder_of_others_is_told(
    command: str, status_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not looked into, and that is said beside the rest."""
    taken = status_folders / "shared" / f"resilient-tunnel-{os.getuid()}"
    taken.mkdir(parents=True)
    taken.chmod(0o777)
    assert cli.main([command]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"tunnel {command}: {taken} is not a folder of yours alone")
    assert second.startswith(f"tunnel {command}: error: no program of yours tells its status")


def test_without_such_sockets_no_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on Windows, where none is looked into."""
    monkeypatch.delattr(socket, "AF_UNIX")
    assert cli.main(["status"]) == 2
    assert "tells its status: have it call" in capsys.readouterr().err


def test_programs_that_hang_are_not_denied(
    status_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the only one does not answer, that is said, and not that there is none."""
    monkeypatch.setattr(StatusClient.__init__, "__defaults__", (0.2,))
    (status_folders / "resilient-tunnel").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(status_folders / "resilient-tunnel" / "1.sock"))
        listener.listen()
        assert cli.main(["status"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("1.sock does not answer within 0.2 s")
    assert second.endswith("error: none of your programs that tell their status has answered")


def test_a_program_that_hangs_has_not_ended(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When a look is not answered in time, the command says that, with exit code 2."""
    monkeypatch.setattr(StatusClient.__init__, "__defaults__", (0.2,))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert cli.main(["watch", str(path)]) == 2
    assert "does not answer within 0.2 s" in capsys.readouterr().err
