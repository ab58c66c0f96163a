"""The pytest plugin of resilient-tunnel: fixtures for tests of programs that use a tunnel.

pytest finds it by itself; ``-p no:tunnel`` leaves it out. It is a module of its own, outside of the
package `tunnel`, so that a run in which no test asks for one of its fixtures imports, configures
and starts nothing. What the fixtures hand out is in `tunnel.testing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import pytest

if TYPE_CHECKING:
    from tunnel.testing import FakeClock, ScriptedTransport, StartGateway, StartProxy
    from tunnel.testing.fixtures import Watch

# Of the items that use real sockets. Not in their stash, which came with pytest 7: this module is
# loaded in each run where the package is installed, and must not break one that does not use it.
_watches: WeakKeyDictionary[pytest.Item, Watch] = WeakKeyDictionary()


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
def tunnel_gateway(request: pytest.FixtureRequest) -> Iterator[StartGateway]:
    """Starts real gateways: `tunnel_gateway(handler="echo", **options) -> GatewayThread`.

    Each listens on a free port of 127.0.0.1 (`url`, `port`), with the handler and options of
    `tunnel.gateway.Gateway`, and is stopped at the end of the test. A tunnel or handler that is
    still running when all fixtures of the test have ended is an error.
    """
    from tunnel.testing.fixtures import gateways

    _watch(request.node)
    with gateways() as start:
        yield start


@pytest.fixture
def tunnel_proxy(request: pytest.FixtureRequest) -> Iterator[StartProxy]:
    """Starts fault proxies: `tunnel_proxy(target) -> FaultProxy`, stopped at the end of the test.

    A tunnel that is still running when all fixtures of the test have ended is an error. See
    `tunnel.testing.FaultProxy`.
    """
    from tunnel.testing.fixtures import proxies

    _watch(request.node)
    with proxies() as start:
        yield start


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After the ends of all fixtures, whatever their order: is something still running?"""
    watch = _watches.get(item)
    complaint = watch.complaint() if watch is not None else ""
    if complaint:
        pytest.fail(complaint, pytrace=False)


def _watch(item: pytest.Item) -> None:
    from tunnel.testing.fixtures import Watch

    if item not in _watches:
        _watches[item] = Watch()
