"""What the documentation says of processes: the tutorial's killed server, gunicorn, Celery."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from code_blocks import read_page
from peers import DEADLINE

from tunnel.demo.server_process import ServerProcess
from tunnel.gateway import GatewayThread

DOCS = Path(__file__).parent.parent.parent / "docs"

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and POSIX signals")


@contextmanager
def process(*arguments: str, folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process in a folder, whose output and errors are one stream of lines."""
    paths = [str(folder), *(path for path in sys.path if path)]
    with subprocess.Popen(
        [sys.executable, "-u", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "HOME": str(folder),  # gunicorn keeps a socket there
            "PYTHONPATH": os.pathsep.join(paths),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def read_until(running: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """Read lines until one matches."""
    assert running.stdout is not None
    lines = []
    for line in running.stdout:
        lines.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"no line has {pattern!r}:\n{''.join(lines)}")


def write_files(page: str, folder: Path, **changes: str) -> None:
    """Write the files of a page, with some texts replaced."""
    for name, code in read_page(DOCS / page).files.items():
        for text, other in changes.values():
            assert text in code
            code = code.replace(text, other)
        (folder / name).write_text(code, "utf-8")


def wait_for_sessions(gateway: GatewayThread, number: int) -> None:
    """Wait until the gateway has as many sessions."""
    deadline, never = time.monotonic() + DEADLINE, threading.Event()
    while gateway.statistics()["sessions"] != number:
        assert time.monotonic() < deadline, gateway.statistics()
        never.wait(0.01)


@needs_posix
def test_the_tutorials_program_survives_a_killed_server(tmp_path):
    """The program of the tutorial goes on when its server was killed and is there again."""
    with ServerProcess() as server:
        write_files(
            "tutorial.rst",
            tmp_path,
            url=("127.0.0.1:8765", f"127.0.0.1:{server.port}"),
            pace=("time.sleep(1)", "time.sleep(0.25)"),  # a full queue would take 25 s
            delay=("reconnect_base_delay=0.5", "reconnect_base_delay=0.05"),
        )
        with process("stubborn.py", folder=tmp_path) as program:
            read_until(program, "connecting -> connected")
            read_until(program, "came back: message 3")
            server.kill()
            read_until(program, "connected -> disconnected")
            read_until(program, "disconnected -> reconnecting")
            server.start()
            read_until(program, "reconnecting -> connected")
            read_until(program, "came back: message")
            program.send_signal(signal.SIGINT)
            read_until(program, "connected -> closing")
            read_until(program, "closing -> disconnected")
            assert program.wait(DEADLINE) == 0


@needs_posix
@pytest.mark.skipif(find_spec("gunicorn") is None, reason="needs gunicorn")
def test_gunicorns_workers_have_a_tunnel_each(tmp_path):
    """Workers connect after the fork, serve with their own tunnels, and end them."""
    write_files("how-to/gunicorn.rst", tmp_path)
    with (
        GatewayThread("echo") as gateway,
        process(
            "-m",
            "gunicorn",
            "--bind=127.0.0.1:0",
            "app:app",
            folder=tmp_path,
            GATEWAY_URL=gateway.url,
        ) as server,
    ):
        url = read_until(server, r"Listening at: (http://\S+)")[1]
        wait_for_sessions(gateway, 2)
        with urllib.request.urlopen(f"{url}/jobs", b"17 + 4", timeout=DEADLINE) as answer:
            assert answer.read() == b"17 + 4"
        server.terminate()
        assert server.wait(DEADLINE) == 0
        wait_for_sessions(gateway, 0)


@needs_posix
@pytest.mark.slow
@pytest.mark.skipif(find_spec("celery") is None, reason="needs celery")
def test_celerys_children_have_a_tunnel_each(tmp_path):
    """The children of a prefork pool connect, run tasks with their tunnels, and say goodbye."""
    write_files("how-to/celery.rst", tmp_path)
    for name in ("queue", "results"):
        (tmp_path / name).mkdir()
    # A broker that two processes can share without a server.
    (tmp_path / "on_files.py").write_text(
        "from tasks import app, ask\n"
        "app.conf.broker_url = 'filesystem://'\n"
        "folders = {'data_folder_in': 'queue', 'data_folder_out': 'queue'}\n"
        "app.conf.broker_transport_options = folders\n"
        "app.conf.result_backend = 'file://results'\n"
    )
    worker = ("-m", "celery", "--app=on_files", "worker", "--concurrency=2", "--loglevel=INFO")
    ask = "import on_files; print('answer', on_files.ask.delay('17 + 4').get(timeout=20))"
    with (
        GatewayThread("echo") as gateway,
        process(*worker, folder=tmp_path, GATEWAY_URL=gateway.url) as server,
        process("-c", ask, folder=tmp_path) as client,
    ):
        assert read_until(client, "answer (.*)")[1] == "17 + 4"
        wait_for_sessions(gateway, 2)
        server.terminate()
        server.communicate(timeout=DEADLINE)
        wait_for_sessions(gateway, 0)
