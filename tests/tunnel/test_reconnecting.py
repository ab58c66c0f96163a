"""The recovery of a tunnel, and what others wish of its next attempt."""

from __future__ import annotations

from random import Random

import pytest

from tunnel.addresses import TunnelUrl
from tunnel.config import TunnelConfig
from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.errors import ConnectionLostError, ConnectRefusedError, ServerUnavailableError
from tunnel.lifecycle import TunnelConnectionState
from tunnel.metrics_collector import MetricsCollector
from tunnel.network_follower import ObservedChange
from tunnel.reconnecting import Reconnecting
from tunnel.request_queue import RequestQueue
from tunnel.requests import CancelConnect, Close, Connect, NetworkChange, Reconnect, Target
from tunnel.testing import FakeClock

S = TunnelConnectionState
SLOW_DOWN = ServerUnavailableError("later", retry_after=10.0)


class Bench:
    """A recovery whose dials fail so many times, and the times of the dials."""

    def __init__(self, failures: int = 0) -> None:
        self.clock = FakeClock()
        self.tracker = ConnectionStateTracker(clock=self.clock)
        self.tracker.initialize_connection("id", "user", "ws://example.com/")
        self.tracker.fire("dial_failed")
        self.metrics = MetricsCollector(clock=self.clock)
        self.failures = failures
        self.dials: list[float] = []
        self.is_unwanted = False
        self.config = TunnelConfig(jitter=0.0, reconnect_base_delay=2.0, max_reconnect_attempts=3)
        self.reconnecting = Reconnecting(
            self.config,
            tracker=self.tracker,
            queue=RequestQueue(clock=self.clock),
            metrics=self.metrics,
            clock=self.clock,
            rng=Random(1),
            dial=self.dial,
            ping=lambda timeout: True,
            interrupted=lambda: self.is_unwanted,
        )

    def dial(self) -> None:
        self.reconnecting.note_dial()
        self.dials.append(self.clock.monotonic())
        if self.failures:
            self.failures -= 1
            raise ConnectRefusedError("refused")


def test_repeats_by_the_backoff() -> None:
    """The delays are those of the settings; each attempt is counted."""
    bench = Bench(failures=1)
    bench.reconnecting.run(ConnectionLostError("lost"))
    assert bench.dials == [2.0, 6.0]
    assert bench.tracker.state is S.CONNECTED
    assert bench.metrics.snapshot().reconnection_count == 1


def test_an_urgent_recovery_begins_at_once() -> None:
    """Whoever asks for it by hand waits for no delay; the attempt after that is as any other."""
    bench = Bench(failures=1)
    bench.reconnecting.is_urgent = True
    bench.reconnecting.run(ConnectionLostError("lost"))
    assert bench.dials == [0.0, 4.0]
    assert not bench.reconnecting.is_urgent


def test_new_settings_make_a_new_recovery() -> None:
    """The same ones do not."""
    bench = Bench()
    recovery = bench.reconnecting.recovery
    bench.reconnecting.begin(bench.config)
    assert bench.reconnecting.recovery is recovery
    bench.reconnecting.begin(bench.config.replace(reconnect_base_delay=1.0))
    assert bench.reconnecting.recovery is not recovery
    bench.reconnecting.run(None)
    assert bench.dials == [1.0]


def test_an_attempt_that_is_not_wanted_is_not_made() -> None:
    """It is asked again before the dial, and what was not dialled is not counted."""
    bench = Bench()
    bench.is_unwanted = True
    bench.clock.call_at(1.0, lambda: bench.reconnecting.hear(Close(True, 10.0)))
    bench.reconnecting.run(None)
    assert bench.dials == []
    assert bench.tracker.state is S.DISCONNECTED
    assert bench.metrics.snapshot().reconnection_count == 0


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_hears_that_nothing_is_wanted(how: str) -> None:
    """A wait ends at once."""
    bench = Bench()
    connect = Connect(Target(TunnelUrl.parse("ws://example.com/"), "user", None))
    request = Close(True, 10.0) if how == "close" else CancelConnect(connect)
    bench.clock.call_at(1.0, lambda: bench.reconnecting.hear(request))
    bench.reconnecting.run(None)
    assert bench.dials == []
    assert bench.clock.monotonic() == 1.0


@pytest.mark.parametrize(
    "request_", [Reconnect(), NetworkChange(True, None), ObservedChange(True, None)]
)
def test_hears_that_it_is_time(request_: Reconnect | NetworkChange) -> None:
    """A wait ends with an attempt at once."""
    bench = Bench()
    bench.clock.call_at(1.0, lambda: bench.reconnecting.hear(request_))
    bench.reconnecting.run(None)
    assert bench.dials == [1.0]


def test_a_countdown_stands_still_without_a_network() -> None:
    """What the application says holds until it says otherwise, whatever is seen."""
    bench = Bench()
    hear = bench.reconnecting.hear
    bench.clock.call_at(1.0, lambda: hear(NetworkChange(False, None)))
    bench.clock.call_at(50.0, lambda: hear(ObservedChange(True, None)))
    bench.clock.call_at(100.0, lambda: hear(NetworkChange(True, None)))
    bench.reconnecting.run(None)
    assert bench.dials == [100.0]


def test_the_server_has_asked_for_time() -> None:
    """What is seen of the network does not hurry; the application may; a dial ends it."""
    reconnecting = Bench().reconnecting
    assert reconnecting.is_return(ObservedChange(True, None))
    reconnecting.note_failure(SLOW_DOWN)
    assert not reconnecting.is_return(ObservedChange(True, None))
    assert reconnecting.is_return(NetworkChange(True, None))
    reconnecting.note_dial()
    assert reconnecting.is_return(ObservedChange(True, None))
    reconnecting.note_failure(SLOW_DOWN)
    reconnecting.note_failure(None)
    assert reconnecting.is_return(ObservedChange(True, None))


@pytest.mark.parametrize(
    ("change", "interrupts", "is_urgent"),
    [
        (NetworkChange(True, None), True, True),
        (NetworkChange(False, None), False, False),
        (ObservedChange(True, None), True, True),
        (ObservedChange(True, None, is_reminder=True), False, True),
        (ObservedChange(False, None), False, True),
    ],
)
def test_a_change_in_the_midst_of_a_dial(
    change: NetworkChange, interrupts: bool, is_urgent: bool
) -> None:
    """A return begins the dial anew, a reminder does not; only the application takes haste back."""
    reconnecting = Bench().reconnecting
    reconnecting.is_urgent = True
    assert reconnecting.note(change) is interrupts
    assert reconnecting.is_urgent is is_urgent
