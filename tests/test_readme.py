"""The examples of the README run as they stand there, against a real server."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import tunnel
from tests.plain_server import echo, plain_server
from tunnel.gateway import GatewayThread

README = Path(__file__).parent.parent / "README.rst"
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)
ADDRESSES = ("wss://echo.example.com/", "ws://127.0.0.1:8765/")

EXAMPLES = [
    (README.read_text(encoding="utf-8")[: found.start()].count("\n") + 1, found[1])
    for found in BLOCK.finditer(README.read_text(encoding="utf-8"))
]


@pytest.fixture
def echo_server():
    with plain_server(echo) as url:
        yield url


def test_there_are_examples():
    """The README has examples, and they are found."""
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize(("line", "example"), EXAMPLES, ids=lambda value: str(value)[:8])
def test_an_example_runs(line, example, echo_server, tmp_path, monkeypatch):
    """An example of the README runs from its first line to its last."""
    monkeypatch.chdir(tmp_path)  # some write files
    run(line, example, echo_server)


def test_the_flask_app_sends(echo_server):
    """The Flask app of the README accepts an event, and sends it over its tunnel."""
    names = next(
        run(line, example, echo_server) for line, example in EXAMPLES if "flask" in example
    )
    answer = names["app"].test_client().post("/events", data="hello")
    [service] = names["tunnels"]
    assert (answer.status_code, service.flush(timeout=10)) == (202, True)
    service.disconnect()


def run(line, example, address):
    """Run an example with a server of ours; returns the names that it leaves."""
    source = textwrap.dedent(example)
    for place in ADDRESSES:
        source = source.replace(place, address)
    # Examples use the imports of those before them, as a reader would.
    names = {"tunnel": tunnel, "GatewayThread": GatewayThread, "__name__": "readme"}
    exec(compile("\n" * line + source, str(README), "exec"), names)
    return names
