"""Run the Autobahn testsuite against the tunnel, as `make conformance` does.

Its fuzzing server needs Python 2.7, which is looked for in the variable PYTHON27, on the PATH and
among pyenv's versions. The server's packages go into a folder of their own (``--packages``), so
nothing is installed into that Python. The exit code is 1 if a case of the tunnel is not OK or
informational, its close included, or if the testsuite cannot run; other clients are for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # here are no packages

from clients import CLIENTS  # noqa: E402
from report import problems, read_verdicts, table  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

OURS = "tunnel"
STARTS_WITHIN = 60.0  # seconds: Python 2 compiles the packages when it first reads them


class CannotRunError(Exception):
    """The testsuite cannot run here; the text says in a sentence what is missing."""


def find_python27() -> str:
    """The path of a Python 2.7 that has pip.

    Raises:
        CannotRunError: There is none.
    """
    for candidate in _candidates():
        version = _output(candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        if version == "2.7":
            if not _output(candidate, "-m", "pip", "--version"):
                raise CannotRunError(f"{candidate} has no pip; run {candidate} -m ensurepip --user")
            return candidate
    raise CannotRunError(
        "the Autobahn testsuite needs Python 2.7, and none was found: install one "
        "(such as with pyenv install 2.7.18), or name it in the variable PYTHON27"
    )


def _candidates() -> Iterator[str]:
    if "PYTHON27" in os.environ:
        yield os.environ["PYTHON27"]
        return
    yield from filter(None, [shutil.which("python2.7")])
    root = _output("pyenv", "root") or os.environ.get("PYENV_ROOT") or str(Path.home() / ".pyenv")
    yield from sorted(map(str, Path(root).glob("versions/2.7*/bin/python2.7")), reverse=True)


def _output(*command: str) -> str:
    """What a command prints; an empty text if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def install(python: str, packages: Path) -> None:
    """Put the testsuite's packages into a folder, unless it has these versions already.

    Raises:
        CannotRunError: pip could not.
    """
    wanted, stamp = HERE / "requirements.txt", packages / ".installed"
    if stamp.is_file() and stamp.read_bytes() == wanted.read_bytes():
        return
    shutil.rmtree(packages, ignore_errors=True)
    print(f"installing the Autobahn testsuite into {packages} ...", flush=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--target", str(packages), "--requirement", str(wanted)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise CannotRunError(f"pip could not install the Autobahn testsuite:\n{done.stdout}")
    stamp.write_bytes(wanted.read_bytes())


@contextmanager
def fuzzing_server(
    python: str, packages: Path, output: Path, cases: Sequence[str]
) -> Iterator[str]:
    """Run the server; the value is its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    settings = json.loads((HERE / "fuzzing_server.json").read_text())
    output.mkdir(parents=True, exist_ok=True)
    specification = output / "specification.json"
    specification.write_text(
        json.dumps({**settings, "cases": cases, "url": url, "outdir": str(output)})
    )
    with open(output / "server.log", "w") as log:
        command = [python, str(HERE / "fuzzing_server.py"), str(packages), str(specification)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            _await_port(port, server)
            yield url
        finally:
            server.communicate()  # the end of its standard input ends it


def _await_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            pass
        try:
            server.wait(0.1)
        except subprocess.TimeoutExpired:
            continue  # it is still coming up
        break
    raise CannotRunError("the fuzzing server did not start; see server.log in the output folder")


def judge(url: str, names: Sequence[str]) -> int:
    """Take every client through every case.

    Returns:
        How many cases there are.
    """
    with connect(f"{url}/getCaseCount") as link:
        count = int(link.recv())
    for name in names:
        began = time.monotonic()
        for number in range(1, count + 1):
            CLIENTS[name](f"{url}/runCase?case={number}&agent={name}")
        print(f"{name}: {count} cases in {time.monotonic() - began:.0f} s", flush=True)
    with connect(f"{url}/updateReports?agent={names[0]}") as link:
        for _ in link:  # it ends once the reports are written
            pass
    return count


def main() -> int:
    """Run it, print what came out, and return the exit code."""
    parser = argparse.ArgumentParser(description="Run the Autobahn testsuite against the tunnel.")
    parser.add_argument("--packages", type=Path, default=Path("build/autobahntestsuite"))
    parser.add_argument("--output", type=Path, default=Path("build/conformance"))
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=[OURS])
    parser.add_argument("--cases", nargs="+", default=["*"], help="such as 6.* 7.3.1")
    options = parser.parse_args()
    output = options.output.resolve()
    try:
        python = find_python27()
        install(python, options.packages.resolve())
        with fuzzing_server(python, options.packages.resolve(), output, options.cases) as url:
            count = judge(url, options.clients)
    except CannotRunError as error:
        print(error, file=sys.stderr)
        return 1
    index = json.loads((output / "index.json").read_text())
    wrong: dict[str, list[str]] = {}
    for name in options.clients:
        verdicts = read_verdicts(index, name)
        wrong[name] = problems(verdicts, count)
        print(f"\n{name}\n{table(verdicts)}", *wrong[name], sep="\n")
    print(f"\n{output / 'index.html'}")
    return 1 if wrong.get(OURS) else 0


if __name__ == "__main__":
    sys.exit(main())
