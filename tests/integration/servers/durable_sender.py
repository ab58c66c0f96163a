"""A program that sends numbered messages from a queue on disk, until somebody kills it.

``python durable_sender.py URL QUEUE LABEL COUNT``: sends ``LABEL:0`` to ``LABEL:COUNT-1``, and
writes a line with each number once `send` has returned; at the end it flushes, and writes "done".
What comes back goes line by line into the file QUEUE.received.
"""

from __future__ import annotations

import os
import sys

from tunnel import RequestQueue, TunnelConfig, TunnelService


def main() -> None:
    """Send."""
    url, path, label, count = sys.argv[1:]
    config = TunnelConfig(
        reconnect_base_delay=0.01,
        reconnect_max_delay=0.05,
        max_reconnect_attempts=None,
        max_queue_size=500,
    )
    received = os.open(f"{path}.received", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with RequestQueue(500, path=path) as queue:
        service = TunnelService(
            config,
            request_queue=queue,
            on_message=lambda message: os.write(received, f"{message}\n".encode()),
        )
        service.connect(url, timeout=30)
        for number in range(int(count)):
            service.send(f"{label}:{number}", timeout=None)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
        if service.flush(60):
            sys.stdout.write("done\n")
            sys.stdout.flush()
        service.disconnect()


if __name__ == "__main__":
    main()
