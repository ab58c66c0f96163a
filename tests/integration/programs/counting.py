"""A program that sends numbers until its standard input ends, a few at a time.

``python counting.py URL``: prints a line when it is connected; then, at the end, how many it has
sent and how often it has reconnected.
"""

from __future__ import annotations

import sys
import threading

from tunnel import TunnelConfig, TunnelService

CONFIG = TunnelConfig(
    ping_interval=0.2, pong_timeout=0.5, reconnect_base_delay=0.05, max_reconnect_attempts=None
)


def main() -> None:
    """Count."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with TunnelService(CONFIG, on_message=lambda message: None) as service:
        service.connect(sys.argv[1], timeout=20)
        print("connected", flush=True)
        count = 0
        while not ended.wait(0.005):
            service.send(f"{count}", timeout=20)
            count += 1
        assert service.flush(20)
        print(count, service.statistics()["reconnections"], flush=True)


if __name__ == "__main__":
    main()
