"""Trials in an interpreter of their own, for what cannot be measured where other things have run.

Memory, threads, and a thousand tunnels at once: who measures them wants a process in which nothing
else has happened, and which takes everything with it when it ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.figures.servers import ROOT

LIMIT = 60.0
"""Seconds that a trial may take."""


def run_fresh(module: str, *arguments: str) -> dict[str, float]:
    """Run ``python -m MODULE ARGUMENTS`` and read the JSON that it prints.

    Raises:
        OSError: It failed; the text has the end of what it complained about.
        subprocess.TimeoutExpired: It was stuck, and was killed.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if done.returncode:
        raise OSError(f"{module} {' '.join(arguments)} failed: {done.stderr.strip()[-2000:]}")
    values: dict[str, float] = json.loads(done.stdout)
    return values


def memory_of(process: int | str = "self") -> float:
    """KiB of memory that a process has for itself, and its share of what it has with others.

    Raises:
        OSError: The system does not tell; only Linux does.
    """
    for line in Path(f"/proc/{process}/smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1])
    raise OSError("the kernel does not tell the proportional set size")
