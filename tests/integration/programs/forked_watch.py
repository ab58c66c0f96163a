"""A program that forks while the machine's network is watched for its tunnel.

``python forked_watch.py``: prints which of both processes watch the network afterwards, and whether
the child's tunnel is the only one that its own watch knows.
"""

from __future__ import annotations

import os
import threading

from tunnel import TunnelConfig, TunnelConnectionState, TunnelService
from tunnel.network_watch import SYSTEM_WATCH

NOBODY = "ws://192.0.2.1/"  # RFC 5737: for documentation
CONFIG = TunnelConfig(max_reconnect_attempts=None, reconnect_base_delay=60.0, connect_timeout=0.2)
S = TunnelConnectionState


def connecting() -> TunnelService:
    """A service for which the network is watched."""
    service = TunnelService(CONFIG)
    service.connect(NOBODY, wait=False)
    assert service.wait_for(S.RECONNECTING, timeout=20.0)
    return service


def watchers() -> int:
    """How many threads watch."""
    return [thread.name for thread in threading.enumerate()].count("tunnel-network")


def main() -> None:
    """Fork, and look at both."""
    with connecting():
        child = os.fork()
        if child == 0:
            own = connecting()
            print("child", watchers(), len(SYSTEM_WATCH._followers), flush=True)
            own.disconnect()
            os._exit(0)
        os.waitpid(child, 0)
        SYSTEM_WATCH._look()
        print("parent", watchers(), len(SYSTEM_WATCH._followers), flush=True)


if __name__ == "__main__":
    main()
