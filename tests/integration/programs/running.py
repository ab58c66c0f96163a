"""How tests run the programs beside this file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LONG = 30
"""Seconds; no program here takes as long unless it hangs."""


def command(name: str, *arguments: object) -> list[str]:
    """The command that runs a program of this folder."""
    options = ["-W", "ignore::DeprecationWarning"]  # Python 3.12 warns of each fork with threads
    path = str(Path(__file__).parent / name)
    return [sys.executable, *options, path, *map(str, arguments)]


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of this folder, and wait for its end."""
    return subprocess.run(
        command(name, *arguments), capture_output=True, text=True, timeout=LONG, check=False
    )
