"""The command ``python -m benchmarks page``: docs/measured/*.inc from the JSON beside them.

docs/benchmarks.rst includes them. The measurements themselves take a quiet machine and minutes, so
they are kept; what is made of them can be made anew at any time, and a test compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.page.render import RENDERERS

FOLDER = Path(__file__).parent.parent.parent / "docs" / "measured"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the page."""
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if something is stale"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files, or compare.

    Returns:
        0; 1: they were to be checked, and one is stale.
    """
    for name, render in RENDERERS.items():
        text = render(json.loads((FOLDER / f"{name}.json").read_text("utf-8")))
        file = FOLDER / f"{name}.inc"
        if not arguments.check:
            file.write_text(text, "utf-8", newline="\n")
        elif not file.is_file() or file.read_text("utf-8") != text:
            print(f"{file} is stale; run: python -m benchmarks page", file=sys.stderr)
            return 1
    return 0
