"""A program that connects, forks and is killed, while the child lives on.

``python orphaned.py URL WHEN``: `WHEN` is ``connected``, or ``dialling``: then it forks when it
reads a line. The child says its number, and waits for its standard input to end.
"""

from __future__ import annotations

import os
import signal
import sys

from tunnel import TunnelService


def main() -> None:
    """Leave the child behind."""
    _, url, when = sys.argv
    service = TunnelService()
    service.connect(url, timeout=20, wait=when == "connected")
    if when == "dialling":
        sys.stdin.readline()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        sys.stdin.read()
        os._exit(0)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
