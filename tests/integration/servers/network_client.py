"""Tunnels in processes of their own, each in a network namespace of its own (Linux only).

For each line of JSON on standard input a child is forked, so that the package is imported once:
``{"name": ..., "namespace": ..., "url": ..., "settings": {...}}``. It connects, and writes a line
for each change of state, event and message, with its name and the time:
``name 12.345 state connected``. On SIGUSR1 it sends a message. All end with the process group.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

from tunnel import TunnelConfig, TunnelService

_CLONE_NEWNET = 0x40000000


def main() -> None:
    """Fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need not be waited for
    for line in sys.stdin:
        if not os.fork():
            run(**json.loads(line))


def run(name: str, namespace: str, url: str, settings: dict[str, Any]) -> None:
    """Connect, and tell what happens."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(descriptor)

    def tell(*what: object) -> None:
        line = " ".join(map(str, (name, time.monotonic(), *what)))
        os.write(1, f"{line}\n".encode())  # at once and whole, since many write here

    service = TunnelService(
        TunnelConfig(**settings),
        on_message=lambda message: tell("message", message),
        on_state_change=lambda record: tell("state", record.dest),
    )
    service.subscribe(lambda event: tell("event", event.type.value, event.message))
    signal.signal(signal.SIGUSR1, lambda *_: service.send("hello", timeout=0))
    tell("process", os.getpid())
    service.connect(url, wait=False)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
