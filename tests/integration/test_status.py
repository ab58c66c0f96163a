"""Programs that serve their status: their end, and their forked children."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from programs.running import run

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")

SECONDS = 10.0  # for the start and the end of a program, on a machine that is very busy


def test_the_end_of_a_program_closes_the_socket(tmp_path: Path) -> None:
    """It does not hang for those who are connected, and leaves no file."""
    began = time.monotonic()
    result = run("served.py", "ends", tmp_path / "app.sock")
    assert (result.stdout, result.stderr, result.returncode) == ("0\n", "", 0)
    assert time.monotonic() - began < SECONDS
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("status-after-fork")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_serve_for_its_parent(tmp_path: Path) -> None:
    """It has no thread and no tunnel of it, may serve its own, and leaves the parent's as it is."""
    result = run("served.py", "forks", tmp_path / "app.sock")
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "<StatusServer of another process> True 0",
        "1 True",
        "True 1 False",
        "True",
    ]
    assert not list(tmp_path.iterdir())
