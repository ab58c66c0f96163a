"""The code in the documentation runs as it stands there, against real servers on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
from code_blocks import Page, read_page
from websockets.sync.server import serve

from tunnel.gateway import GatewayThread

DOCS = Path(__file__).parent.parent / "docs"
PLAIN = "wss://echo.example.com/"
GATEWAY = "wss://gateway.example.com/"
PAGES = [
    page
    for page in map(read_page, sorted(DOCS.rglob("*.rst")))
    if any(block.is_run or block.file for block in page.blocks)
]


@pytest.fixture
def addresses():
    """What stands in for the addresses that the pages name: a plain server and a gateway."""

    def echo(connection):
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0) as server, GatewayThread("echo") as gateway:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        plain = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        yield {PLAIN: plain, GATEWAY: gateway.url}


def test_there_are_pages_with_code():
    """The documentation has code, and it is found."""
    names = {page.path.stem for page in PAGES}
    assert {"tutorial", "flask", "rotating-tokens"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.stem)
def test_the_code_of_a_page_runs(page: Page, addresses, tmp_path):
    """The code of a page runs from its first line to its last, as one program."""
    missing = [name for name in page.needs if find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    program = _write(page, tmp_path, addresses)
    run = subprocess.run(
        [sys.executable, "-W", "error", program.name],
        cwd=tmp_path,
        env=os.environ | {"GATEWAY_URL": addresses[GATEWAY], "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def _write(page: Page, folder: Path, addresses: dict[str, str]) -> Path:
    """The files of a page, and its program; all of them compile."""

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
