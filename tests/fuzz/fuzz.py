"""Look for streams, frames, URLs and files that break a promise, as `make fuzz` does.

The promises are the property tests of the ordinary suite; here they get other and many more
examples, round after round, each with a seed of its own. A round that fails ends the run. By then
hypothesis has made its example as small as it can, and put it into ``.hypothesis``, so that the
next run of the test tries it first. It belongs into the test, as an ``@example``, with the change
that mends what it has found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from random import SystemRandom

HERE = Path(__file__).parent
TESTS = HERE.parent / "tunnel"


def properties() -> list[str]:
    """The files with the promises that any input must leave standing."""
    return [
        str(TESTS / "test_frames_differential.py"),
        *map(str, sorted(TESTS.glob("test_fuzz_*"))),
    ]


def run_round(seed: int, arguments: list[str]) -> int:
    """Try all of them once with this seed, and return pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-x", "--quiet"]
    command += ["--timeout=0", "-o", "faulthandler_timeout=0"]
    command += ["-p", "fuzz_profile", "--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"]
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [*command, *(arguments or properties())],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    ).returncode


def main() -> int:
    """Go on until the time is over or something is found; the exit code is 1 then."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=300.0, help="a round is finished even so")
    parser.add_argument("--seed", type=int, help="of the first round; the next has the next number")
    options, arguments = parser.parse_known_args()
    seed = SystemRandom().randrange(2**32) if options.seed is None else options.seed
    end = time.monotonic() + options.seconds
    while True:
        print(f"seed {seed}", flush=True)
        code = run_round(seed, arguments)
        if code:
            print(f"found with --seed={seed}", file=sys.stderr)
            return 1
        if time.monotonic() >= end:
            return 0
        seed += 1


if __name__ == "__main__":
    sys.exit(main())
