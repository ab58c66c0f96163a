from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from statemachine import Declaration, Transition, diagram
from statemachine.__main__ import main

ROOT = Path(__file__).parents[2]
MODULE = """
from statemachine import Declaration, Transition

LAMP = Declaration(
    "lamp", ["off", "on"], "off", ["off"],
    [Transition("press", "off", "on", doc="Dusk → night."),
     Transition("press", "on", "off", doc="Bedtime.")],
)
AGAIN = Declaration("lamp", ["off"], "off", ["off"])
DOOR = Declaration("door", ["shut"], "shut", ["shut"])
NUMBER = 7
"""
LAMP = Declaration(
    "lamp", ["off", "on"], "off", ["off"],
    [Transition("press", "off", "on", doc="Dusk → night."),
     Transition("press", "on", "off", doc="Bedtime.")],
)  # fmt: skip


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module with declarations, and two that cannot be imported."""
    (tmp_path / "users_machines.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "users_mistake.py").write_text(
        "from statemachine import Declaration\nD = Declaration('d', ['a'], 'b')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("users_machines", "users_mistake"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_it_draws_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Without a folder the drawing is printed, exactly as rendered, in UTF-8."""
    assert main(["users_machines:LAMP", "--format", "mermaid"]) == 0
    assert capfdbinary.readouterr().out == diagram.render(LAMP, "mermaid").encode()


def test_mermaid_is_the_default(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """As with ``tunnel diagram``."""
    assert main(["users_machines:LAMP"]) == 0
    assert capfdbinary.readouterr().out == diagram.render(LAMP, "mermaid").encode()


def test_a_closed_output_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell may have closed it; files are written all the same."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["users_machines:LAMP"]) == 2
    assert "error: standard output is closed; to drop" in capsys.readouterr().err
    assert main(["users_machines:LAMP", f"--output={tmp_path}"]) == 0


def test_formats_and_declarations_may_be_several(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """Several formats of several declarations are printed one after the other."""
    argv = ["users_machines:LAMP", "users_machines:DOOR", "--format", "rst", "--format", "dot"]
    assert main(argv) == 0
    out = capfdbinary.readouterr().out.decode()
    assert out.startswith(diagram.render(LAMP, "dot") + diagram.render(LAMP, "rst"))
    assert out.count("digraph") == out.count(":: States") == 2


def test_it_writes_files(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """With a folder the drawings are written there, named after the declarations."""
    folder = tmp_path / "drawings"
    argv = ["users_machines:LAMP", "users_machines:DOOR", "--format", "mermaid", "--format", "rst"]
    assert main([*argv, "--output", str(folder)]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["door.mmd", "door.rst", "lamp.mmd", "lamp.rst"]
    assert capfdbinary.readouterr().out == b""


def test_all_formats_are_written(tmp_path: Path, dot: str) -> None:
    """The format "all" stands for each of them."""
    pytest.importorskip("graphviz")
    argv = ["users_machines:LAMP", "--format", "all", "--output", str(tmp_path / "all")]
    assert main(argv) == 0
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == ["lamp.dot", "lamp.mmd", "lamp.rst", "lamp.svg"]
    assert main([*argv, "--check"]) == 0


def test_stale_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A check of stale files exits with 1, names each, and changes none."""
    argv = ["users_machines:LAMP", "--format", "mermaid", "--format", "rst"]
    argv += ["--output", str(tmp_path)]
    assert main(argv) == 0
    assert main([*argv, "--check"]) == 0
    (tmp_path / "lamp.mmd").write_text("stateDiagram")
    (tmp_path / "lamp.rst").unlink()
    assert main([*argv, "--check"]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path / 'lamp.mmd'} is stale\n{tmp_path / 'lamp.rst'} is missing\n"
    )
    assert (tmp_path / "lamp.mmd").read_text() == "stateDiagram"
    assert not (tmp_path / "lamp.rst").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["users_machines"], "'users_machines' is not of the form MODULE:NAME"),
        ([":LAMP"], "':LAMP' is not of the form MODULE:NAME"),
        (["users_machines:"], "'users_machines:' is not of the form MODULE:NAME"),
        (
            ["no_such_module:X"],
            "the module 'no_such_module' cannot be imported: "
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (
            ["users_machines:LAMB"],
            "the module 'users_machines' has no 'LAMB'; its declarations: LAMP, AGAIN, DOOR",
        ),
        (["string:LAMP"], "the module 'string' has no 'LAMP'"),
        (["users_machines:NUMBER"], "'users_machines:NUMBER' is of type int, not a Declaration"),
        (
            ["users_machines:LAMP", "users_machines:AGAIN"],
            "two declarations are named 'lamp', and so their files",
        ),
        (
            ["users_machines:LAMP", "--check"],
            "--check compares files; say with --output in which folder they are",
        ),
    ],
)
def test_bad_arguments_are_told(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What makes no sense is said in one sentence, with exit code 2."""
    assert main([*arguments, "--format", "mermaid"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"python -m statemachine: error: {message}\n"
    assert captured.out == ""


def test_a_module_that_raises_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A declaration that is refused while its module is imported shows its problems."""
    assert main(["users_mistake:D", "--format", "dot"]) == 2
    assert "InvalidDeclaration: declaration 'd' has 2 problems:" in capsys.readouterr().err


def test_a_module_that_ends_the_program_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a script does that has no guard; its exit code is not ours."""
    (tmp_path / "users_script.py").write_text("import sys\nsys.exit(3)\n")
    assert main(["users_script:D"]) == 2
    assert "'users_script' cannot be imported: SystemExit: 3\n" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the place of the folder is an error in one sentence."""
    (tmp_path / "file").write_text("")
    argv = ["users_machines:LAMP", "--format", "dot", "--output", str(tmp_path / "file")]
    assert main(argv) == 2
    sentence = f"{tmp_path / 'file'} cannot be read or written: File exists"
    assert capsys.readouterr().err == f"python -m statemachine: error: {sentence}\n"


def test_missing_graphviz_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Graphviz the command says how to install it, and prints nothing else."""
    monkeypatch.setenv("PATH", "")
    for format in ("svg", "all"):
        assert main(["users_machines:LAMP", "--format", format]) == 2
        out, error = capsys.readouterr()
        assert "apt-get install graphviz" in error
        assert out == ""


@pytest.mark.parametrize("argv", [[], ["a:b", "--format"], ["a:b", "--format", "png"]])
def test_missing_arguments_are_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What argparse refuses ends with exit code 2 as well."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    """``python -m statemachine`` finds a module in the present folder and exits with the code."""

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "statemachine", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
            timeout=50,
        )

    done = run("users_machines:LAMP", "--format", "rst")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == diagram.render(LAMP, "rst").encode()
    assert run("users_machines:LAMP", "--format", "rst", "--output", ".", "--check").returncode == 1


def test_a_reader_who_has_left_is_not_our_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken pipe reaches the caller, who knows what it means; it is no failure of ours."""

    def write(self: object, *arguments: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("statemachine.__main__._print", write)
    with pytest.raises(BrokenPipeError):
        main(["users_machines:LAMP", "--format=dot"])
