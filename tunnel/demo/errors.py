"""What can go wrong with the demo itself."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot begin, or cannot go on; the message is one sentence that says why."""
