"""Draw diagrams/ anew: every machine of the project, in every format.

Without Graphviz's `dot` the SVG files are left as they are.

Usage: python docs/draw_diagrams.py [--check]
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from statemachine.__main__ import main

FOLDER = Path(__file__).parent.parent / "diagrams"
MARKED = FOLDER.parent / "tunnel" / "pictures" / "lifecycle.svg"
"""The copy of a picture that goes with the package, to be marked with what a tunnel does."""

DECLARATIONS = (
    "tunnel.lifecycle:LIFECYCLE",
    "tunnel.websocket_heartbeat:HEARTBEAT",
    "tunnel.session_lifecycle:SESSION",
    "tunnel.circuit_breaker:BREAKER",
)
"""Every machine of the project, as ``python -m statemachine`` takes it. The one list of them."""

if __name__ == "__main__":
    formats = ["mermaid", "dot", "rst"]
    if shutil.which("dot"):
        formats.append("svg")
    else:
        print("no dot (Debian: apt-get install graphviz): the SVG is not drawn", file=sys.stderr)
    options = [f"--format={format}" for format in formats]
    code = main([*DECLARATIONS, *options, f"--output={FOLDER}", *sys.argv[1:]])
    if not sys.argv[1:]:  # else they were only looked at
        shutil.copyfile(FOLDER / "lifecycle.svg", MARKED)
    sys.exit(code)
