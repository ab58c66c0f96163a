"""A program without a descriptor left: its dial fails, is tried again, and succeeds with one.

``python starved.py URL WHEN``: `WHEN` is ``first`` if there is none from the start, ``later`` if
the tunnel is connected before. Prints the code of the error of the attempts that failed.
"""

from __future__ import annotations

import resource
import sys

from tunnel import TunnelConfig, TunnelConnectionState, TunnelService

LONG = 20.0


def main() -> None:
    """Starve."""
    _, url, when = sys.argv
    config = TunnelConfig(reconnect_base_delay=0.01, jitter=0.0, max_reconnect_attempts=None)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with TunnelService(config) as service:
        if when == "first":
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
            service.connect(url, wait=False)
            assert service.wait_for(TunnelConnectionState.RECONNECTING, timeout=LONG)
        else:
            service.connect(url, timeout=LONG)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
            assert not service.reconnect(timeout=0.2)
        error = service._driver.last_error
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
        assert service.wait_for(TunnelConnectionState.CONNECTED, timeout=LONG)
        service.send("x")
        assert next(service.messages()) == "x"
    print(error.code if error is not None else None)


if __name__ == "__main__":
    main()
