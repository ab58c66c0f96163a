"""``python -m tunnel``: the command line."""

from __future__ import annotations

import sys

from tunnel.cli import main

if __name__ == "__main__":  # pragma: no cover  # its test runs it in a process of its own
    sys.exit(main())
