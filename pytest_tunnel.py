"""The pytest plugin of resilient-tunnel: fixtures for tests of programs that use a tunnel.

pytest finds it by itself; ``-p no:tunnel`` leaves it out. It is a module of its own, outside of the
package `tunnel`, so that a run in which no test asks for one of its fixtures imports, configures
and starts nothing. What the fixtures hand out is in `tunnel.testing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tunnel.testing import FakeClock, ScriptedTransport, StartGateway, StartProxy


@pytest.fixture
def tunnel_clock() -> FakeClock:
    """Virtual time for a tunnel, which then has no thread (`tunnel.testing.FakeClock`).

    It follows freezegun, in whatever way the test freezes the time.
    """
    from tunnel.testing import FakeClock

    return FakeClock()


@pytest.fixture
def tunnel_network(tunnel_clock: FakeClock) -> ScriptedTransport:
    """A network and a peer that do as the test says (`tunnel.testing.ScriptedTransport`).

    For `TunnelService(clock=tunnel_clock, new_transport=tunnel_network)`.
    """
    from tunnel.testing import ScriptedTransport

    return ScriptedTransport(tunnel_clock)


@pytest.fixture
def tunnel_gateway() -> Iterator[StartGateway]:
    """Starts real gateways: `tunnel_gateway(handler="echo", **options) -> GatewayThread`.

    Each listens on a free port of 127.0.0.1 (`url`, `port`), with the handler and options of
    `tunnel.gateway.Gateway`, and is stopped at the end of the test. A tunnel or handler that is
    still running then is an error.
    """
    from tunnel.testing.fixtures import LeftRunning, gateways

    try:
        with gateways() as start:
            yield start
    except LeftRunning as left:
        pytest.fail(str(left), pytrace=False)


@pytest.fixture
def tunnel_proxy() -> Iterator[StartProxy]:
    """Starts fault proxies: `tunnel_proxy(target) -> FaultProxy`, stopped at the end of the test.

    A tunnel that is still running then is an error. See `tunnel.testing.FaultProxy`.
    """
    from tunnel.testing.fixtures import LeftRunning, proxies

    try:
        with proxies() as start:
            yield start
    except LeftRunning as left:
        pytest.fail(str(left), pytrace=False)
