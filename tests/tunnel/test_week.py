"""A week of a network that comes and goes, in virtual time."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine import Record, replay
from tunnel import LIFECYCLE, TunnelConfig, TunnelConnectionState, TunnelError, TunnelService
from tunnel.requests import Close, Reconnect
from tunnel.testing import FakeClock, ScriptedTransport, drive

# Seconds by themselves; with coverage, on a machine that has other things to do, much longer.
pytestmark = pytest.mark.timeout(240)

S = TunnelConnectionState
URL = "wss://example.com/"
WEEK = 7 * 86_400.0
SETTLED = (S.CONNECTED, S.ERROR, S.DISCONNECTED)


class World:
    """A service on a network that a test breaks, and the whole history of its states."""

    def __init__(self, seed: int, **settings: Any) -> None:
        self.clock = FakeClock()
        self.network = ScriptedTransport(self.clock)
        self.history: list[Record] = []
        self.greetings = 0
        self.service = TunnelService(
            TunnelConfig(**settings),
            clock=self.clock,
            new_transport=self.network,
            rng=Random(seed),
            on_state_change=self.history.append,
            on_message=lambda message: None,
            on_connected=self.greet,
        )

    def greet(self, service: TunnelService, resumed: bool) -> None:
        self.greetings += 1

    def settle(self) -> None:
        """Until the tunnel is where it stays, as long as nothing happens."""
        assert drive(self.service, lambda: self.service.state in SETTLED, timeout=100_000.0)

    def check(self) -> None:
        """What must hold whatever has happened."""
        assert replay(LIFECYCLE, self.history)
        times = [record.time for record in self.history]
        assert times == sorted(times)
        for before, after in zip(self.history, self.history[1:], strict=False):
            assert before.dest == after.source
        is_up = self.service.state in (S.CONNECTED, S.CLOSING)
        assert (self.service._driver.link is not None) is is_up
        assert self.network.is_connected or not is_up


@pytest.mark.requirement("1.2", "1.7", "10.1")
def test_a_week_of_a_flapping_network() -> None:
    """A thousand losses of every kind: each is recovered from, nothing queued is lost or doubled.

    Messages are only sent while the link is down, since what a plain peer's kernel had taken when
    the link broke may be lost.
    """
    world, chance = World(1), Random(2)
    network, service, clock = world.network, world.service, world.clock
    service.connect(URL)
    sent: list[str] = []
    losses = 0

    def send() -> None:
        sent.append(f"message {len(sent)}")
        service.send(sent[-1])

    while clock.monotonic() < WEEK:
        drive(service, timeout=chance.uniform(1.0, 1200.0))
        losses += 1
        kind = chance.choice(["cut", "close", "silence"])
        if chance.random() < 0.3:
            network.refuse()
            clock.call_at(clock.monotonic() + chance.uniform(50.0, 150.0), network.accept)
        if kind == "cut":
            network.cut()
        elif kind == "close":
            network.close(chance.choice([1000, 1001, 1011, 1012, 1013, 4000]))
        else:
            network.fall_silent()
        assert drive(service, lambda: service.state is not S.CONNECTED, timeout=50.0)
        send()
        world.settle()
        assert service.state is S.CONNECTED
    drive(service, timeout=10.0)
    assert network.received == sent
    assert losses > 500
    assert service.statistics()["reconnections"] == losses == world.greetings - 1
    service.disconnect()
    world.check()
    assert not service.worker.is_running
    assert len(service.tracker.events) == 100  # bounded, whatever happened


ACTIONS = (
    "wait",
    "cut",
    "silence",
    "close",
    "reject",
    "refuse",
    "accept",
    "gone",
    "back",
    "reconnect",
    "disconnect",
    "connect",
    "send",
    "configure",
)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.floats(0.0, 100.0)), max_size=25),
    st.booleans(),
)
def test_any_life_obeys_the_table(script: list[tuple[str, float]], auto: bool) -> None:
    """Whatever happens when, also in the midst of a recovery: the history can be replayed."""
    world = World(1, max_reconnect_attempts=3, enable_auto_reconnect=auto, ping_interval=20.0)
    service, network = world.service, world.network
    failures: list[BaseException] = []

    def configure() -> None:
        config = service.config
        service.update_config(
            config.replace(enable_auto_reconnect=not config.enable_auto_reconnect)
        )

    deeds = {
        "wait": lambda: None,
        "cut": network.cut,
        "silence": network.fall_silent,
        "close": lambda: network.close(1001),
        "reject": lambda: network.close(1008),
        "refuse": network.refuse,
        "accept": network.accept,
        "gone": lambda: service.handle_network_change(False),
        "back": lambda: service.handle_network_change(True),
        "reconnect": lambda: reconnect(service),
        "disconnect": lambda: disconnect(service),
        "connect": lambda: service.connect(URL, wait=False),
        "send": lambda: service.send("x"),
        "configure": configure,
    }

    def act(name: str) -> None:
        try:
            deeds[name]()
        except TunnelError:  # refused, which is fine
            pass
        except BaseException as error:
            failures.append(error)

    when = 0.0
    for name, pause in script:
        when += pause
        world.clock.call_at(when, lambda name=name: act(name))  # type: ignore[misc]
    world.clock.call_at(when + 1.0, lambda: service.handle_network_change(True))
    world.clock.call_at(when + 2.0, network.accept)
    service.connect(URL, wait=False)
    drive(service, timeout=when + 10_000.0)
    assert failures == []
    world.check()
    assert service.state in SETTLED
    service.disconnect()
    world.check()
    assert service.state is S.DISCONNECTED
    assert not service.worker.is_running


def reconnect(service: TunnelService) -> None:
    """As from another thread: a callback of the clock must not wait on it."""
    if service.tracker.connection is not None:
        service._driver.post(Reconnect())


def disconnect(service: TunnelService) -> None:
    """As from another thread: a callback of the clock must not wait on it."""
    service._driver.post(Close(True, service._clock.monotonic() + 10.0))
