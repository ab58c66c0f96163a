"""The demo's gateway, a process of its own: ``python -m tunnel.demo.server --port 0``.

It sends every message back. The first line of its standard output is its port. At the end of its
standard input it finishes what it has received, closes its connections with 1012 (service restart)
and ends, so it never outlives the program that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
from collections.abc import Sequence

from tunnel.gateway.server import Gateway

_DRAIN = 60.0  # seconds to finish; the demo waits less long for anything, and then kills


async def _serve(port: int) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait_for_the_end() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(ended.set)

    gateway = Gateway("echo", port=port, drain_timeout=_DRAIN)
    await gateway.start()
    print(gateway.port, flush=True)
    threading.Thread(target=wait_for_the_end, name="stdin", daemon=True).start()
    await ended.wait()
    await gateway.stop()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until standard input ends.

    Args:
        argv: The arguments; those of the process if not given.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that started us
    parser = argparse.ArgumentParser(prog="python -m tunnel.demo.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    asyncio.run(_serve(parser.parse_args(argv).port))


if __name__ == "__main__":  # pragma: no cover  # the demo runs it in a process of its own
    main()
