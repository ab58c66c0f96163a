"""To import the packages does nothing but define names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests" / "programs" / "importing.py"


def done_by_importing(folder: Path) -> list[str]:
    """What the packages in a folder do when they are imported, one sentence for each thing."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, str(PROGRAM)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert result.stderr == ""
    found: list[str] = json.loads(result.stdout)
    return found


def test_the_import_has_no_side_effect() -> None:
    """No thread, socket, file or process; no logging, signal or other setting; no environment."""
    assert done_by_importing(ROOT) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("import threading; threading.Thread(target=str, daemon=True).start()", "starts a thread"),
        ("import socket; socket.socket().close()", "socket.__new__"),
        ("open(__file__ + '.txt', 'w').close()", "open"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import logging; logging.basicConfig()", "changes logging's handlers"),
        ("import logging; logging.getLogger(__name__)", "changes logging's loggers"),
        ("import loguru; loguru.logger.remove()", "changes loguru's handlers"),
        ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", "the signals' handlers"),
        ("import os; os.getenv('HOME')", "reads the environment variable HOME"),
        ("import os; os.environ['HOME']", "reads the environment variable HOME"),
        ("import os; os.environ['A'] = 'b'", "the environment"),
        ("import random; random.seed(1)", "the random numbers"),
    ],
)
def test_a_side_effect_is_seen(tmp_path: Path, line: str, sentence: str) -> None:
    """The watch finds each kind of thing that an import must not do."""
    for package in ("statemachine", "tunnel"):
        (tmp_path / package).mkdir()
    (tmp_path / "statemachine" / "__init__.py").write_text("diagram = replay = True\n")
    (tmp_path / "tunnel" / "__init__.py").write_text(f"__all__ = ()\n{line}\n")
    assert any(sentence in found for found in done_by_importing(tmp_path))
