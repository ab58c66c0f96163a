"""The rules that people ask about, each as one test (see "Rules" in the documentation)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from loguru import logger

from tunnel import (
    ConnectionEventType,
    ConnectRefusedError,
    ConnectTimeoutError,
    InvalidStateError,
    MaxReconnectAttemptsExceededError,
    QueueFullError,
    RequestPriority,
    ServerUnavailableError,
    TunnelConfig,
    TunnelConnectionState,
    TunnelService,
)
from tunnel.testing import FakeClock, ScriptedGateway, ScriptedTransport, drive

S = TunnelConnectionState
E = ConnectionEventType
URL = "wss://example.com/"


class World:
    """A service in virtual time without jitter, its network, and the states it went through."""

    def __init__(self, *, connect: bool = True, **settings: Any) -> None:
        options = {
            name: settings.pop(name)
            for name in ("on_message", "on_connected", "rng")
            if name in settings
        }
        self.clock = FakeClock()
        self.network = ScriptedTransport(self.clock)
        self.path: list[str] = []
        self.service = TunnelService(
            TunnelConfig(**{"jitter": 0, **settings}),
            clock=self.clock,
            new_transport=self.network,
            on_state_change=lambda record: self.path.append(record.dest),
            **options,
        )
        if connect:
            self.service.connect(URL)

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    @property
    def state(self) -> S:
        return self.service.state

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        self.clock.call_at(self.now + seconds, action)

    def run(self, seconds: float) -> None:
        drive(self.service, timeout=seconds)

    def until(self, *states: S) -> None:
        assert drive(self.service, lambda: self.state in states, timeout=100_000)

    def attempts(self) -> list[tuple[int, float]]:
        return [
            (event.metadata["attempt"], event.metadata["delay"])
            for event in self.service.tracker.events
            if event.type is E.RECONNECTING
        ]


# First connect


def test_the_first_connect_retries_by_the_policy() -> None:
    """A first dial that fails is followed by the attempts of the policy."""
    world = World(connect=False)
    world.network.refuse()
    world.at(10.0, world.network.accept)
    world.service.connect(URL)
    assert world.now == 14.0  # refused at 0, 2 and 6
    assert world.attempts() == [(1, 2.0), (2, 4.0), (3, 8.0)]


def test_the_first_connect_retries_until_its_time_out() -> None:
    """At the time-out it raises from the last error, and nobody goes on."""
    world = World(connect=False)
    world.network.refuse()
    with pytest.raises(ConnectTimeoutError) as caught:
        world.service.connect(URL, timeout=20.0)
    assert isinstance(caught.value.__cause__, ConnectRefusedError)
    assert world.now == 20.0
    dials = len(world.network.dials)
    world.run(1000.0)
    assert len(world.network.dials) == dials
    assert world.state is S.DISCONNECTED


def test_the_first_connect_in_the_background() -> None:
    """With wait=False the same goes on while the call has returned."""
    world = World(connect=False)
    world.network.refuse()
    world.at(1.0, world.network.accept)
    world.service.connect(URL, wait=False)
    assert world.now == 0.0
    world.until(S.CONNECTED)
    assert world.now == 2.0


# Attempts


@pytest.mark.requirement("1.1")
def test_a_success_counts_attempts_anew_but_not_the_delay() -> None:
    """A link that did not hold starts at attempt 1, with the delay that it had come to."""
    world = World(stable_after=30.0)
    world.network.refuse()
    world.network.cut()
    world.at(5.0, world.network.accept)  # attempts at 2 and 6
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    world.run(29.0)
    world.network.cut()
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    assert world.attempts() == [(1, 2.0), (2, 4.0), (1, 8.0)]
    world.run(30.0)
    world.network.cut()
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    assert world.attempts()[-1] == (1, 2.0)


@pytest.mark.requirement("1.9")
def test_after_the_last_attempt_it_stops_and_says_so() -> None:
    """Ten attempts by default, then error, an event, and silence."""
    world = World()
    world.network.refuse()
    world.network.cut()
    world.until(S.ERROR)
    assert len(world.network.dials) == 1 + 10
    event = world.service.tracker.events[-1]
    assert event.type is E.ERROR
    assert event.metadata["error"]["code"] == "TUNNEL_014"
    world.run(10_000.0)
    assert len(world.network.dials) == 11


def test_without_a_maximum_it_never_gives_up() -> None:
    """None: after hours of failure it still tries, and comes back."""
    world = World(max_reconnect_attempts=None)
    world.network.refuse()
    world.network.cut()
    world.at(6 * 3600.0, world.network.accept)
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    assert 6 * 3600 <= world.now <= 6 * 3600 + 60


@pytest.mark.requirement("1.1")
def test_delays_are_spread() -> None:
    """With jitter each delay is within 30 % of the formula, and never above the maximum."""
    world = World(jitter=0.3, rng=Random(5))
    world.network.refuse()
    world.network.cut()
    world.until(S.ERROR)
    for attempt, delay in world.attempts():
        plain = min(60.0, 2.0 * 2 ** (attempt - 1))
        assert 0.7 * plain <= delay <= min(60.0, 1.3 * plain)


@pytest.mark.requirement("1.5")
def test_the_user_sees_each_attempt_before_it_is_waited_for() -> None:
    """Attempt n of m, next try in s: with everything one needs to show it."""
    world = World(max_reconnect_attempts=2)
    shown: list[tuple[float, Any]] = []
    world.service.subscribe(lambda event: shown.append((world.now, event)))
    world.network.refuse()
    world.network.cut()
    world.until(S.ERROR)
    attempts = [(at, dict(e.metadata)) for at, e in shown if e.type is E.RECONNECTING]
    assert [(at, m["attempt"], m["max_attempts"], m["delay"]) for at, m in attempts] == [
        (0.0, 1, 2, 2.0),
        (2.0, 2, 2, 4.0),
    ]
    assert attempts[1][1]["reason"] == "nobody listens there"


@pytest.mark.requirement("9.7")
def test_automatic_reconnection_can_be_turned_off() -> None:
    """A loss is the end then, until the application reconnects by itself."""
    world = World(enable_auto_reconnect=False)
    world.network.cut()
    world.run(1000.0)
    assert world.path == ["connecting", "connected", "disconnected"]
    assert world.service.reconnect()


# Close codes


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013, 1014, 3000, 4000, 4999])
def test_close_codes_that_are_losses(code: int) -> None:
    """After these the tunnel comes back."""
    world = World()
    world.network.close(code)
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    assert world.path[2:] == ["disconnected", "reconnecting", "connected"]


def test_an_end_without_a_code_is_a_loss() -> None:
    """1005, a close frame without a code, and 1006, none at all."""
    world = World()
    world.network.feed(b"\x88\x00")
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    world.network.cut()
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010])
def test_close_codes_that_are_final(code: int) -> None:
    """After these it does not."""
    world = World()
    world.network.close(code)
    world.until(S.ERROR)
    world.run(1000.0)
    assert len(world.network.dials) == 1


def test_close_codes_that_the_application_names() -> None:
    """A listed code of its own is final, its neighbour is a loss."""
    world = World(fatal_close_codes={4001})
    world.network.close(4002)
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    world.network.close(4001)
    world.until(S.ERROR)


# Network change


@pytest.mark.requirement("1.8")
def test_network_back_means_at_once() -> None:
    """Whatever the backoff had left to wait."""
    world = World()
    world.network.refuse()
    world.network.cut()
    world.at(100.0, world.network.accept)
    world.at(101.0, lambda: world.service.handle_network_change(True, "wifi"))
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    assert world.now == 101.0


@pytest.mark.requirement("1.8")
def test_network_gone_pauses_the_countdown() -> None:
    """No attempt is wasted while there is no network."""
    world = World()
    world.network.cut()
    world.at(0.5, lambda: world.service.handle_network_change(False))
    world.at(5000.0, lambda: world.service.handle_network_change(True))
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    assert world.now == 5000.0
    assert len(world.network.dials) == 2


@pytest.mark.requirement("1.8")
def test_network_back_after_the_attempts_were_used_up() -> None:
    """The tunnel leaves error by itself, with a dial at once and all attempts ahead of it."""
    world = World(max_reconnect_attempts=2)
    world.network.refuse()
    world.network.cut()
    world.until(S.ERROR)
    before = world.now
    world.at(0.5, world.network.accept)
    world.service.handle_network_change(True)
    world.until(S.CONNECTED)
    assert world.now == before + 4.0
    assert world.attempts()[-2:] == [(1, 0.0), (2, 4.0)]


@pytest.mark.parametrize("is_connected", [True, False])
@pytest.mark.parametrize("state", [S.DISCONNECTED, S.CONNECTED, S.ERROR])
def test_network_change_changes_no_other_state(state: S, is_connected: bool) -> None:
    """Without a recovery or exhausted attempts it is only recorded."""
    world = World(connect=state is not S.DISCONNECTED)
    if state is S.ERROR:
        world.network.close(1008)
        world.until(S.ERROR)
    world.service.handle_network_change(is_connected, "wifi")
    world.run(60.0)
    assert world.state is state
    event = next(e for e in world.service.tracker.events if e.type is E.NETWORK_CHANGED)
    assert event.metadata == {"is_connected": is_connected, "network_type": "wifi"}


# Proof of life


@pytest.mark.requirement("6.1", "6.2")
def test_silence_is_noticed_in_time() -> None:
    """Within 45 s of the last byte."""
    world = World()
    world.run(100.0)
    world.network.fall_silent()
    silent = world.now
    world.until(S.RECONNECTING)
    lost = next(e for e in world.service.tracker.events if e.type is E.DISCONNECTED)
    assert lost.metadata["error"]["code"] == "TUNNEL_022"
    assert (lost.timestamp.timestamp() - world.clock.time() + world.now) - silent <= 45.0


def test_any_byte_is_proof_of_life() -> None:
    """A peer that answers no ping, but talks, is alive."""
    world = World(on_message=lambda message: None)
    world.network.answers_pings = False
    for second in range(0, 600, 40):
        world.at(float(second), lambda: world.network.send("I live"))
    world.run(600.0)
    assert world.path == ["connecting", "connected"]


def test_a_pong_time_out_has_to_be_longer_than_the_interval() -> None:
    """Else an idle link would die before its first ping."""
    with pytest.raises(ValueError, match="pong_timeout must be more than ping_interval"):
        TunnelConfig(ping_interval=30.0, pong_timeout=30.0)


# Order


@pytest.mark.requirement("5.2", "1.3", "1.4")
def test_order_is_kept_within_a_priority() -> None:
    """What was queued while there was no link goes out by priority, then in order."""
    world = World(connect=False)
    for number in range(3):
        for priority in (RequestPriority.LOW, RequestPriority.NORMAL, RequestPriority.HIGH):
            world.service.send(f"{priority.value}{number}", priority=priority)
    world.service.connect(URL)
    assert world.network.received == [
        f"{name}{number}" for name in ("high", "normal", "low") for number in range(3)
    ]


@pytest.mark.requirement("1.3", "1.4", "1.7")
def test_order_is_kept_across_a_loss() -> None:
    """Sent before, during and after: it arrives in that order."""
    world = World()
    world.service.send("before")
    world.network.cut()
    world.at(1.0, lambda: world.service.send("during"))
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    world.service.send("after")
    world.run(1.0)
    assert world.network.received == ["before", "during", "after"]


def test_the_greeting_goes_before_everything_queued() -> None:
    """On each new link: log in, subscribe again, and then the queue."""
    world = World(connect=False, on_connected=lambda service, resumed: service.send("log in"))
    world.service.send("queued")
    world.service.connect(URL)
    world.network.cut()
    world.at(1.0, lambda: world.service.send("queued again"))
    world.until(S.RECONNECTING)
    assert drive(world.service, lambda: len(world.network.received) == 4, timeout=10.0)
    assert world.network.received == ["log in", "queued", "log in", "queued again"]


@pytest.mark.requirement("5.1", "5.4")
def test_a_full_queue_refuses_and_says_what() -> None:
    """While not connected a send without a time-out raises at once; nothing is dropped."""
    world = World(connect=False)
    for number in range(100):
        world.service.send(str(number))
    with pytest.raises(QueueFullError, match="refused a text of 9 characters") as caught:
        world.service.send("too much!")
    assert caught.value.code == "TUNNEL_006"
    assert world.now == 0.0
    with pytest.raises(QueueFullError):
        world.service.send("too much!", timeout=3.0)
    assert world.now == 3.0
    world.service.connect(URL)
    assert world.network.received == [str(number) for number in range(100)]


def test_a_message_that_expired_does_not_go_out() -> None:
    """It is counted."""
    world = World(connect=False)
    world.service.send("old", expires_in=5.0)
    world.service.send("new")
    world.run(6.0)
    world.service.connect(URL)
    assert world.network.received == ["new"]
    assert world.service.statistics()["expired_requests"] == 1


# Taken


def test_a_callback_that_raises_has_taken_its_message() -> None:
    """It is not given again, and the next one comes."""
    got: list[object] = []

    def on_message(message: object) -> None:
        got.append(message)
        raise ValueError(message)

    world = World(on_message=on_message)
    world.network.send("a", "b")
    world.run(1.0)
    assert got == ["a", "b"]
    assert world.path == ["connecting", "connected"]


def test_nobody_takes_messages() -> None:
    """They are held to the high-water mark; then reading pauses, and the link stays alive."""
    world = World(receive_high_water=1024)
    for _ in range(5):
        world.network.send("x" * 1000)
        world.run(1.0)
    held = world.service.statistics()["messages_waiting"]
    assert held == 1
    world.run(1000.0)
    assert world.path == ["connecting", "connected"]
    messages = world.service.messages()
    assert [len(next(messages)) for _ in range(5)] == [1000] * 5


# Waiting, closing, threads


def test_wait_for_sees_what_passes() -> None:
    """True if the state is, or since the call began was, one of those asked for."""
    world = World()
    world.at(5.0, world.network.cut)
    assert world.service.wait_for(S.DISCONNECTED, S.ERROR, timeout=6.0)
    assert world.state is S.RECONNECTING  # already, by the time that anybody looked


@pytest.mark.requirement("8.1", "8.3")
def test_disconnect_drains_and_reports() -> None:
    """Queued messages go out before code 1000; what could not is said, and kept."""
    world = World()
    world.service.send_many(["a", "b"])
    assert world.service.disconnect().unsent == ()
    assert world.network.received == ["a", "b"]
    assert world.network.close_codes == [1000]
    world.service.send("kept")
    assert world.service.disconnect().unsent == ("kept",)
    assert world.now == 0.0  # while not connected it does not wait


def test_a_closing_tunnel_takes_no_messages() -> None:
    """A send while closing is refused; after it, it is queued."""
    refused: list[bool] = []

    def on_message(message: object) -> None:
        with pytest.raises(InvalidStateError, match="closing"):
            world.service.send("late")
        refused.append(True)

    world = World(on_message=on_message)
    world.network.fall_silent()
    world.at(1.0, lambda: setattr(world.network, "is_silent", False))
    world.at(1.0, lambda: world.network.send("still here"))
    world.service.disconnect(timeout=2.0)
    assert refused
    world.service.send("queued")
    assert world.service.statistics()["queued_requests"] == 1


def test_a_given_up_connect_keeps_the_queue() -> None:
    """What was queued for a connection that did not come goes out with the next one."""
    world = World(connect=False, max_reconnect_attempts=1)
    world.network.refuse()
    world.service.send("patient")
    with pytest.raises(MaxReconnectAttemptsExceededError):
        world.service.connect(URL)
    world.network.accept()
    world.service.connect(URL)
    assert world.network.received == ["patient"]


# The network is back: the link may be half open, and the recovery is not to lose time


@pytest.mark.requirement("1.8")
def test_a_half_open_link_is_found_out_when_the_network_is_back() -> None:
    """After the network came back, a link without a sign of life is replaced within 5 s."""
    world = World()
    world.run(10)
    world.network.fall_silent()
    world.service.handle_network_change(False)
    world.service.handle_network_change(True, "wifi")
    back = world.now
    world.until(S.RECONNECTING)
    assert world.now - back == pytest.approx(2.0)
    world.until(S.CONNECTED)
    assert world.now - back < 5.0


def test_a_live_link_stays_when_the_network_is_back() -> None:
    """After the network came back, a link that answers is kept, also if it is asked again."""
    world = World()
    world.run(10)
    for _ in range(3):
        world.service.handle_network_change(True)
        world.run(3)
    assert world.path == ["connecting", "connected"]


def test_the_first_attempt_knows_the_reason() -> None:
    """The event before the first attempt says what ended the link (requirement 1.10)."""
    world = World()
    world.network.close(1011, "disk on fire")
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    (event,) = (e for e in world.service.tracker.events if e.type is E.RECONNECTING)
    assert "disk on fire" in event.message


def test_the_first_attempt_is_as_patient_as_the_server_asks() -> None:
    """An error that asks for patience delays the first attempt too."""
    world = World(connect=False, reconnect_base_delay=0.5)
    world.network.refuse(ServerUnavailableError("busy", retry_after=7.0))
    world.at(1.0, world.network.accept)
    world.service.connect(URL)
    assert world.now == pytest.approx(7.0)


# The end of a block


@pytest.mark.parametrize("is_up", [True, False])
@pytest.mark.requirement("8.1")
def test_a_block_tells_what_it_leaves(is_up: bool) -> None:
    """Its end does not wait for a link, and nobody sees the report: a line of the log says it."""
    told: list[str] = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="WARNING")
    world = World()
    with world.service as service:
        if not is_up:
            world.network.refuse()
            world.network.cut()
            world.until(S.RECONNECTING)
        service.send("one")
        service.send("two")
        logger.enable("tunnel")
    logger.disable("tunnel")
    logger.remove(sink)
    left = f"the block ends; messages of {world.service!r} are left: 2 not sent, 0 not acknowledged"
    assert told == ([] if is_up else [left])


def test_what_disconnect_has_reported_is_not_told_again() -> None:
    """At the end of the program; what came after it is, and what came before any connection."""
    world = World(connect=False)
    assert world.service.left_unreported() == ""
    world.service.send("before the first connect")
    assert world.service.left_unreported() == "1 not sent, 0 not acknowledged"
    assert world.service.disconnect().unsent == ("before the first connect",)
    assert world.service.left_unreported() == ""
    world.service.send("after it")
    assert world.service.left_unreported() == "2 not sent, 0 not acknowledged"


def test_a_block_may_end_in_a_callback() -> None:
    """What is there at that moment may go out yet: nothing is told."""
    told: list[str] = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="WARNING")

    counts: list[int] = []

    def leave(message: object) -> None:
        with world.service:
            world.service.send("answer")
            counts.append(len(world.service.disconnect().unacknowledged))

    world = World(connect=False, on_message=leave)
    gateway = ScriptedGateway(world.network)
    world.service.connect(URL)
    logger.enable("tunnel")
    gateway.send("leave")
    world.run(1.0)
    logger.disable("tunnel")
    logger.remove(sink)
    assert counts == [1]
    assert told == []
    assert world.service.left_unreported() == ""
