"""The code in the documentation runs as it stands there, against real servers on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from code_blocks import Page, read_page
from connect_proxies import ConnectProxy
from websockets.sync.server import serve

from tunnel.gateway import GatewayThread

TESTS = Path(__file__).parent.parent
DOCS = TESTS.parent / "docs"
PLAIN, GATEWAY = "wss://echo.example.com/", "wss://gateway.example.com/"
PROXY = "proxy.example.com:3128"
PAGES = [
    page
    for page in map(read_page, sorted(DOCS.rglob("*.rst")))
    if any(block.is_run or block.file for block in page.blocks)
    # A page may have a test file of its own, which then runs its code.
    and not (TESTS / f"test_{page.path.stem.replace('-', '_')}.py").is_file()
]
REFERENCE = "".join(path.read_text("utf-8") for path in (DOCS / "reference").glob("*.rst"))
WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")  # a page forks


@pytest.fixture
def addresses():
    """What stands in for the addresses that the pages name: a plain server, a gateway, a proxy."""

    def echo(connection):
        for message in connection:
            connection.send(message)

    with (
        serve(echo, "127.0.0.1", 0) as server,
        GatewayThread("echo") as gateway,
        ConnectProxy(gateway.port, credentials="alice:secret") as proxy,
    ):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        plain = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        yield {PLAIN: plain, GATEWAY: gateway.url, PROXY: f"127.0.0.1:{proxy.port}"}
        server.shutdown()
        thread.join()


def test_there_are_pages_with_code():
    """The documentation has code, and it is found."""
    assert {"tutorial", "flask", "rotating-tokens"} <= {page.path.stem for page in PAGES}


def test_all_code_is_found():
    """No block of Python in the documentation is missed by the look for code."""
    for path in DOCS.rglob("*.rst"):
        text = path.read_text("utf-8")
        there = len(re.findall(r"^ *\.\. code-block:: python$", text, re.MULTILINE))
        checks = len(re.findall(r"^\.\. check:$", text, re.MULTILINE))
        found = [block for block in read_page(path).blocks if block.language == "python"]
        assert len(found) == there + checks, path.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.stem)
def test_the_code_of_a_page_runs(page: Page, addresses, tmp_path):
    """The code of a page runs from its first line to its last, as one program."""
    missing = [name for name in page.needs if find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    program = _write(page, tmp_path, addresses)
    paths = [path for path in sys.path if path]
    run = subprocess.run(
        [sys.executable, *WARNINGS, program.name],
        cwd=tmp_path,
        env=os.environ | {"GATEWAY_URL": addresses[GATEWAY], "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    "module",
    [
        "tunnel",
        *(f"tunnel.{name}" for name in ("gateway", "testing", "status", "recording", "history")),
        *(f"tunnel.{name}" for name in ("pictures", "prometheus", "opentelemetry")),
        "statemachine",
    ],
)
def test_the_reference_has_every_public_name(module):
    """Every public name has its entry in the reference."""
    described = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", REFERENCE, re.MULTILINE))
    described.add("statemachine.diagram")  # a module: its function has an entry
    public = {f"{module}.{name}" for name in import_module(module).__all__}
    # The whole of a module is all that it lists in `__all__`.
    missing = set() if module in described else public - described
    assert not missing, "add these to a page in docs/reference/"


def _write(page: Page, folder: Path, addresses: dict[str, str]) -> Path:
    """Write the files of a page, all of which must compile, and its program."""

    def local(code: str) -> str:
        for address, stand_in in addresses.items():
            code = code.replace(address, stand_in)
        return code

    for name, code in page.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(local(code), "utf-8")
        if file.suffix == ".py":
            compile(code, name, "exec")
    program = folder / f"{page.path.stem.replace('-', '_')}_page.py"
    program.write_text(local(page.program), "utf-8")
    return program
