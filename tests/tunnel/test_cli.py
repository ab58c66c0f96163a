from __future__ import annotations

import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from draw_diagrams import DECLARATIONS  # setup.cfg puts docs/ on the path

import tunnel.demo
from statemachine import diagram
from tunnel import cli
from tunnel.commands.diagram import MACHINES
from tunnel.errors import ConnectRefusedError

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "demo",
    "connect",
    "diagnose",
    "diagram",
    "gateway",
    "status",
    "watch",
    "timeline",
]


def play(monkeypatch: pytest.MonkeyPatch, outcome: int | BaseException) -> list[bool]:
    """Replace the demo; what is returned lists, for each call, whether it was asked for JSON."""
    calls: list[bool] = []

    def run(*, as_json: bool, timeline: Path | None) -> int:
        assert timeline is None
        calls.append(as_json)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(tunnel.demo, "run", run)
    return calls


@pytest.mark.parametrize("code", [0, 1])
def test_the_demo_decides_the_exit_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command passes its option on, and exits with what the demo says."""
    calls = play(monkeypatch, code)
    assert cli.main(["demo"]) == code
    assert cli.main(["demo", "--json"]) == code
    assert calls == [False, True]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (tunnel.demo.DemoError("something is missing"), "something is missing"),
        (ConnectRefusedError("nobody listens there"), "nobody listens there (TUNNEL_001)"),
        (OSError(24, "Too many open files"), "[Errno 24] Too many open files"),
        (OSError(28, "No space left", "a.svg"), "a.svg cannot be read or written: No space left"),
    ],
)
def test_errors_are_one_sentence(
    error: Exception,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot be done is said in one line on standard error, with exit code 2."""
    play(monkeypatch, error)
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr() == ("", f"tunnel demo: error: {sentence}\n")


def test_an_interrupt_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C leads to exit code 130, without a traceback."""
    play(monkeypatch, KeyboardInterrupt())
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("module", ["tunnel.commands.connect", "tunnel.demo"])
def test_an_interrupt_while_a_command_is_loaded_ends_quietly(module: str) -> None:
    """Ctrl-C leads to exit code 130 also before the command has begun."""
    program = f"""
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

from tunnel import cli
sys.meta_path.insert(0, Interrupting())
sys.exit(cli.main(["demo"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False, timeout=50
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """As of many programs."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"tunnel {tunnel.__version__}\n"


def test_a_picture_of_the_demo_that_cannot_be_is_told_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is played."""
    target = tmp_path / "missing" / "demo.svg"
    assert cli.main(["demo", f"--timeline={target}"]) == 2
    assert capsys.readouterr() == (
        "",
        f"tunnel demo: error: {target} cannot be written: No such file or directory\n",
    )


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without websockets the demo says how to install it, before it starts anything."""
    program = importlib.import_module("tunnel.demo.program")
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert 'pip install "resilient-tunnel[gateway]"' in error


def test_the_machines_are_those_of_the_project() -> None:
    """Every machine that the project draws can be drawn by the command, by its own name."""
    assert set(MACHINES.values()) == set(DECLARATIONS)
    for name, place in MACHINES.items():
        module, _, attribute = place.partition(":")
        assert getattr(importlib.import_module(module), attribute).name == name


def test_a_diagram_is_printed(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Without further arguments the lifecycle is printed as Mermaid."""
    assert cli.main(["diagram"]) == 0
    assert capfdbinary.readouterr().out == diagram.render(tunnel.LIFECYCLE, "mermaid").encode()


def test_a_diagram_is_written(tmp_path: Path) -> None:
    """With a folder, the drawing of the named machine is written there."""
    assert cli.main(["diagram", "heartbeat", "--format=dot", f"--output={tmp_path}"]) == 0
    (written,) = tmp_path.iterdir()
    assert written.name == "heartbeat.dot"
    assert written.read_text("utf-8") == diagram.render(tunnel.HEARTBEAT, "dot")


def test_all_diagrams_are_drawn_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name `all` stands for every machine; `--check` names what is missing or stale."""
    place = f"--output={tmp_path}"
    options = ["diagram", "all", "--format=mermaid", "--format=rst", place]
    assert cli.main(options) == 0
    assert len(list(tmp_path.iterdir())) == 2 * len(MACHINES)
    assert cli.main([*options, "--check"]) == 0
    (tmp_path / "session.mmd").write_text("old")
    (tmp_path / "heartbeat.rst").unlink()
    assert cli.main([*options, "--check"]) == 1
    complaints = capsys.readouterr().err.splitlines()
    assert sorted(complaints) == [
        f"{tmp_path / 'heartbeat.rst'} is missing",
        f"{tmp_path / 'session.mmd'} is stale",
    ]


def test_a_check_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence says so."""
    assert cli.main(["diagram", "--check"]) == 2
    assert capsys.readouterr().err == (
        "tunnel diagram: error: --check compares files; say with --output in which folder they "
        "are\n"
    )


@pytest.mark.parametrize(
    "argv", [[], ["dance"], ["demo", "--fast"], ["diagram", "lamp"], ["diagram", "--format=png"]]
)
def test_wrong_arguments_are_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What argparse refuses ends with exit code 2 and an error."""
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_tells_the_exit_codes(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The help of the command and of each of its commands lists the exit codes."""
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    _, _, codes = shown.partition("Exit codes: 0 ")
    assert "; 2 " in codes
    assert "; 130 " in codes


def test_the_documentation_has_each_command() -> None:
    """`docs/command-line.rst` lists them all, and none that is not there."""
    page = (ROOT / "docs" / "command-line.rst").read_text("utf-8")
    listed, _, _ = page.partition("Exit codes\n")
    assert set(re.findall(r"``tunnel ([a-z]+)", listed)) == set(COMMANDS)


def test_it_runs_as_a_module() -> None:
    """``python -m tunnel`` is the command."""
    done = subprocess.run(
        [sys.executable, "-m", "tunnel", "diagram", "--format=rst"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == diagram.render(tunnel.LIFECYCLE, "rst").encode()


def test_a_closed_output_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell may have closed it; and who has closed the other has nothing said to him."""
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["diagram"]) == 2
    assert "standard output is closed" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["diagram"]) == 2
    sys.stderr.close()


def test_what_the_output_cannot_encode_is_shown_as_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tunnel may have any name, and a terminal knows some characters only."""
    output = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(tunnel.demo, "run", lambda **options: print("gr\u00fcn"))
    assert not cli.main(["demo"])
    assert output.buffer.getvalue() == b"gr\\xfcn\n"  # type: ignore[attr-defined]


def test_a_reader_that_has_gone_away_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When nobody reads its output, as after ``| head``, the command ends without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    play(monkeypatch, 0)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        print("what the demo said last", end="")
        assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == ""
