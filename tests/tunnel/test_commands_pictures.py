"""``tunnel timeline`` and ``tunnel diagram --history``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tunnel import ConnectionStateTracker, cli
from tunnel.commands import history_files
from tunnel.testing import FakeClock


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The JSON of a tracker that is connected."""
    tracker = ConnectionStateTracker(clock=FakeClock())
    tracker.initialize_connection("id", "user", "wss://example.com/")
    tracker.fire("opened")
    path = tmp_path / "run.json"
    path.write_text(tracker.to_json())
    return path


@pytest.mark.parametrize(
    ("command", "option", "output"),
    [
        (["timeline"], "--output=run.svg", "run.svg"),
        (["diagram", "--history"], "--output=folder", "folder/lifecycle.svg"),
    ],
)
def test_a_saved_run_is_drawn(
    command: list[str],
    option: str,
    output: str,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """To standard output, or into a file; from a file, or from standard input."""
    monkeypatch.chdir(saved.parent)
    assert cli.main([*command, str(saved)]) == 0
    drawn = capfdbinary.readouterr().out
    assert drawn.startswith(b"<svg")
    assert b"wss://example.com/" in drawn
    monkeypatch.setattr(sys, "stdin", io.StringIO(saved.read_text()))
    assert cli.main([*command, "-", option]) == 0
    assert capfdbinary.readouterr().out == b""
    assert Path(output).read_bytes() == drawn


def test_the_end_of_a_run_is_drawn(saved: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """As many seconds as are asked for, or all of a shorter run, or of one that has no times."""
    data = json.loads(saved.read_text())
    data["samples"] = [[1000.0, 0, None], [1030.0, 5, None]]
    data["steps"] = data["events"] = []
    saved.write_text(json.dumps(data))
    for seconds, words in (("10", b"10.0 s of 30.0 s"), ("60", b"30.0 s long")):
        assert cli.main(["timeline", str(saved), "--last", seconds]) == 0
        assert words in capfdbinary.readouterr().out
    saved.write_text(json.dumps(data | {"samples": []}))
    assert cli.main(["timeline", str(saved), "--last", "10"]) == 0
    assert b"<svg" in capfdbinary.readouterr().out


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_the_end_of_a_run_has_a_length(
    seconds: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is none is refused with a sentence."""
    with pytest.raises(SystemExit):
        cli.main(["timeline", str(saved), f"--last={seconds}"])
    assert "is no number of seconds above 0" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["timeline"], ["diagram", "--history"]])
def test_what_is_no_history_is_refused(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With one sentence that names the file."""
    wrong = tmp_path / "wrong.json"
    wrong.write_bytes(b"\xff{}")
    assert cli.main([*command, str(wrong)]) == 2
    assert f"{wrong} holds no history of a tunnel" in capsys.readouterr().err
    assert cli.main([*command, str(tmp_path / "none")]) == 2
    assert "none cannot be read: No such file or directory (TUNNEL_010)" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}"))
    assert cli.main([*command, "-"]) == 2
    assert "standard input holds no history" in capsys.readouterr().err


def test_a_link_that_somebody_has_put_there_is_not_followed(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a picture is called until it is finished cannot be foreseen, and is always new."""
    victim = saved.with_name("victim")
    victim.write_text("precious")
    monkeypatch.setattr(history_files, "token_hex", lambda size: "foreseen")
    unfinished = saved.with_name(".run.svg.foreseen")
    unfinished.symlink_to(victim)
    assert cli.main(["timeline", str(saved), f"--output={saved.with_name('run.svg')}"]) == 2
    assert victim.read_text() == "precious"


def test_a_picture_that_cannot_be_finished_leaves_nothing(saved: Path) -> None:
    """Neither half a picture nor its file."""
    saved.with_name("run.svg").mkdir()
    before = sorted(saved.parent.iterdir())
    assert cli.main(["timeline", str(saved), f"--output={saved.with_name('run.svg')}"]) == 2
    assert sorted(saved.parent.iterdir()) == before


@pytest.mark.parametrize("options", [["--check"], ["--format=dot"], ["--format=svg", "--check"]])
def test_a_history_is_only_drawn(
    options: list[str], saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As SVG, and there is nothing that it could be checked with."""
    arguments = ["diagram", "--history", str(saved), f"--output={saved.parent / 'out'}", *options]
    assert cli.main(arguments) == 2
    assert "a history is drawn as SVG" in capsys.readouterr().err
    assert not (saved.parent / "out").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("heartbeat", "of the heartbeat"), ("all", "of other machines")]
)
def test_a_history_is_of_the_lifecycle(
    name: str, words: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another machine it says nothing."""
    assert cli.main(["diagram", name, "--history", str(saved)]) == 2
    assert f"it says nothing {words} (" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [1, 2])
def test_a_status_is_told_from_a_history(
    lines: int, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who saved the one for the other is told how to get what is wanted."""
    saved.write_text('{"version": 1, "pid": 7, "tunnels": []}\n' * lines)
    assert cli.main(["timeline", str(saved)]) == 2
    error = capsys.readouterr().err
    assert "how tunnels stand, and no history: take one with `tunnel status --history" in error


def test_a_picture_that_cannot_be_written_is_a_sentence(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the name that was asked for."""
    target = saved.parent / "missing" / "run.svg"
    assert cli.main(["timeline", str(saved), f"--output={target}"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"tunnel timeline: error: {target} cannot be written: No such file or directory "
        "(TUNNEL_010)\n"
    )
