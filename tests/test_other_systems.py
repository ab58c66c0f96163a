"""The packages work where Python lacks what only Linux, or no Windows, has.

`make types` has the other half: mypy as on those systems, to which each call must exist there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests" / "programs" / "other_system.py"


@pytest.mark.skipif(sys.platform != "linux", reason="takes away what only Linux has")
@pytest.mark.parametrize("system", ["macos", "windows"])
def test_nothing_is_called_that_the_system_lacks(system: str) -> None:
    """A tunnel on a fake clock, and one over loopback with a queue on disk and a lost link."""
    result = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), system],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")
