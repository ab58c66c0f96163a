"""What a benchmark needs beyond the tunnel itself, and how to get it."""

from __future__ import annotations

from importlib.util import find_spec


def require(*modules: str) -> None:
    """End the command with a word of advice, unless all these modules can be imported.

    Raises:
        SystemExit: One cannot; the text says what to install.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise SystemExit(
            f"no module named {' or '.join(missing)}: "
            "this needs pip install 'resilient-tunnel[bench]'"
        )
