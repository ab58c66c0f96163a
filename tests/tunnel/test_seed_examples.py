"""The usage examples that this package is measured by, in Python, do what they are said to do."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from statemachine import replay
from tunnel import (
    LIFECYCLE,
    Backoff,
    ConnectionEventType,
    ConnectionRecovery,
    ConnectionStateTracker,
    ConnectRefusedError,
    HeartbeatWebSocket,
    MaxReconnectAttemptsExceededError,
    NetworkError,
    ReconnectionManager,
    RequestQueue,
    TunnelConfig,
    TunnelConnectionState,
    TunnelError,
    TunnelService,
)
from tunnel.addresses import TunnelUrl
from tunnel.testing import FakeClock, ScriptedTransport, drive
from tunnel.transport import DialRequest
from tunnel.waker import Waker

S = TunnelConnectionState
E = ConnectionEventType
URL = "wss://api.example.com"


class Server:
    """What the examples connect to: it refuses so many times before it accepts."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.connections = 0

    def connect(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionRefusedError("nobody there")
        self.connections += 1


# ReconnectionManager


@pytest.mark.requirement("1.1", "1.10")
def test_the_reconnection_manager() -> None:
    """It waits, connects, repeats, and says whether it succeeded; each attempt is logged."""
    clock, server, lines = FakeClock(), Server(refusals=2), []
    reconnection_manager = ReconnectionManager(
        max_attempts=10, base_delay=2.0, max_delay=60.0, jitter=0, on_log=lines.append, clock=clock
    )
    assert reconnection_manager.attempt_reconnection(server.connect)
    assert server.connections == 1
    assert clock.monotonic() == 2.0 + 4.0 + 8.0
    assert sum("reconnection attempt" in line and " of 10:" in line for line in lines) == 3


def test_the_reconnection_manager_is_cancelled() -> None:
    """Cancelled or failed: False."""
    clock, server = FakeClock(), Server(refusals=99)
    manager = ReconnectionManager(clock=clock)
    clock.call_at(30.0, manager.cancel)
    assert not manager.attempt_reconnection(server.connect)
    assert clock.monotonic() == 30.0
    assert not ReconnectionManager(3, clock=clock).attempt_reconnection(server.connect)


@pytest.mark.requirement("1.1")
def test_the_backoff_table() -> None:
    """About 2, 4, 8, 16 and 32 s, then 60 s; each with 30 % of jitter."""
    plain = ReconnectionManager(jitter=0)
    delays = [plain.delay_for(attempt) for attempt in range(1, 9)]
    assert delays == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    spread = ReconnectionManager(rng=Random(3))
    for attempt, delay in enumerate(delays, start=1):
        drawn = [spread.delay_for(attempt) for _ in range(200)]
        assert min(drawn) >= 0.7 * delay
        assert max(drawn) <= min(60.0, 1.3 * delay)
        assert max(drawn) - min(drawn) > 0.2 * delay
    assert Backoff(2.0, 60.0, 0.3).delay(5000, 0.3) == 60.0


# ConnectionStateTracker


@pytest.mark.requirement("1.2", "11.5")
def test_the_connection_state_tracker() -> None:
    """It tracks states, tells its subscribers, and survives JSON."""
    clock = FakeClock()
    state_tracker = ConnectionStateTracker(max_event_history=100, clock=clock)
    told: list[str] = []
    state_tracker.subscribe(lambda event: told.append(f"Event: {event.type.value}"))
    stream = state_tracker.event_stream()

    state_tracker.initialize_connection(id="conn-123", user_id="user-456", server_url=URL)
    state_tracker.update_state(S.CONNECTED, message="Connected successfully")
    clock.advance(90.0)

    assert told == ["Event: connecting", "Event: connected"]
    assert [next(stream).type for _ in told] == [E.CONNECTING, E.CONNECTED]
    assert state_tracker.events[-1].message == "Connected successfully"
    assert state_tracker.uptime == 90.0
    assert state_tracker.reconnect_attempts == 0
    again = ConnectionStateTracker.from_json(state_tracker.to_json(), clock=clock)
    assert again.events == state_tracker.events
    assert again.connection == state_tracker.connection
    assert again.uptime == 90.0


def test_the_event_types() -> None:
    """Those of the examples have their names."""
    named = {
        "connected",
        "disconnected",
        "reconnecting",
        "reconnected",
        "error",
        "health_check",
        "config_changed",
    }
    assert named <= {type.value for type in E}


def test_the_event_history_is_bounded() -> None:
    """The latest hundred are kept."""
    tracker = ConnectionStateTracker(clock=FakeClock())
    for number in range(150):
        tracker.record_health_check(True, f"check {number}")
    assert [tracker.events[0].message, tracker.events[-1].message] == ["check 50", "check 149"]
    assert len(tracker.events) == 100


# HeartbeatWebSocket


def heartbeat_websocket(mode: Any = "frame") -> tuple[Any, ...]:
    clock = FakeClock()
    network = ScriptedTransport(clock)
    transport = network(Waker())
    transport.open(DialRequest(TunnelUrl.parse(URL)), lambda: False)
    lost: list[TunnelError] = []
    lines: list[str] = []
    websocket = HeartbeatWebSocket(
        transport,
        ping_interval=30.0,
        pong_timeout=45.0,
        mode=mode,
        on_connection_lost=lost.append,
        on_log=lines.append,
        clock=clock,
    )
    return clock, network, websocket, lost, lines


@pytest.mark.requirement("6.1", "6.2", "6.10")
def test_the_heartbeat_websocket() -> None:
    """Pings every 30 s, health while they are answered, loss within 45 s when they are not."""
    clock, network, websocket, lost, lines = heartbeat_websocket()
    websocket.start()
    websocket.send("Hello")
    assert network.received == ["Hello"]
    drive(websocket, timeout=301.0)
    stats = websocket.get_heartbeat_stats()
    assert stats["pings_sent"] == stats["pongs_received"] == 10
    assert stats["is_healthy"]
    network.fall_silent()
    silent = clock.monotonic()
    assert drive(websocket, lambda: bool(lost), timeout=100.0)
    assert clock.monotonic() - silent <= 45.0
    assert not websocket.get_heartbeat_stats()["is_healthy"]
    assert lines[0] == "connected"
    assert lines[-1].startswith("lost: ")


def test_the_heartbeat_websocket_filters_pongs() -> None:
    """In text mode "pong" is part of the heartbeat, everything else is a message."""
    _, network, websocket, lost, _ = heartbeat_websocket("text")
    network.on_message = lambda message: network.send("pong") if message == "ping" else None
    websocket.start()
    drive(websocket, timeout=100.0)
    network.send("Received: this")
    drive(websocket, timeout=1.0)
    websocket.close()
    assert list(websocket.messages()) == ["Received: this"]
    assert network.received == ["ping"] * 3
    assert lost == []
    assert network.close_codes == [1000]


# ConnectionRecovery


class Recovery:
    """The parts of the example, wired as there."""

    def __init__(self, server: Server, **options: Any) -> None:
        self.clock = FakeClock()
        self.state_tracker = ConnectionStateTracker(clock=self.clock)
        self.request_queue = RequestQueue(clock=self.clock)
        self.sent: list[object] = []
        self.lines: list[str] = []
        self.manager = ReconnectionManager(jitter=0, clock=self.clock)
        self.recovery = ConnectionRecovery(
            reconnection_manager=self.manager,
            state_tracker=self.state_tracker,
            request_queue=self.request_queue,
            connect=server.connect,
            send=self.sent.append,
            ping=lambda timeout: True,
            on_log=self.lines.append,
            **options,
        )
        self.state_tracker.initialize_connection("conn-123", "user-456", URL)
        self.state_tracker.update_state(S.CONNECTED)


@pytest.mark.requirement("1.3", "1.4", "1.7")
def test_the_recovery_flow() -> None:
    """All steps: disconnected, error and event, reconnecting, attempts, connected, flush."""
    parts = Recovery(Server(refusals=2))
    parts.request_queue.enqueue("one")
    parts.request_queue.enqueue("two")
    error = NetworkError("the cable")
    assert parts.recovery.handle_disconnection(
        reason="WebSocket error", error=error, auto_reconnect=True
    )
    types = [event.type for event in parts.state_tracker.events][2:]
    assert types == [E.DISCONNECTED, E.ERROR, E.RECONNECTING, *[E.RECONNECTING] * 2, E.RECONNECTED]
    assert parts.state_tracker.reconnect_attempts == 0
    assert parts.state_tracker.state is S.CONNECTED
    assert parts.sent == ["one", "two"]
    assert replay(LIFECYCLE, parts.state_tracker.machine.history)


@pytest.mark.requirement("1.9")
def test_the_recovery_flow_in_vain() -> None:
    """The state becomes error, the error is recorded, and the user is told by the event."""
    parts = Recovery(Server(refusals=99))
    told: list[Any] = []
    parts.state_tracker.subscribe(told.append)
    assert not parts.recovery.handle_disconnection(reason="WebSocket closed")
    assert parts.state_tracker.state is S.ERROR
    assert told[-1].type is E.ERROR
    assert told[-1].metadata["error"]["code"] == "TUNNEL_014"


@pytest.mark.requirement("1.8", "9.7")
def test_the_other_calls_of_the_recovery() -> None:
    """By hand, by the network, a test of the connection, and statistics."""
    parts = Recovery(Server())
    assert not parts.recovery.handle_disconnection("switched off", auto_reconnect=False)
    assert parts.state_tracker.state is S.DISCONNECTED
    parts.request_queue.enqueue("kept")
    stats = parts.recovery.get_recovery_stats()
    assert (stats["is_recovering"], stats["reconnect_attempts"], stats["queued_requests"]) == (
        False,
        0,
        1,
    )
    assert json.dumps(stats)
    assert parts.recovery.attempt_recovery()
    assert parts.sent == ["kept"]
    parts.recovery.handle_disconnection("lost", auto_reconnect=False)
    before = parts.clock.monotonic()
    assert parts.recovery.handle_network_change(is_connected=True, network_type="wifi")
    assert parts.clock.monotonic() == before
    assert parts.recovery.test_connection()


# The complete integration


def example_service(config: TunnelConfig | None = None) -> tuple[Any, ...]:
    clock = FakeClock()
    network = ScriptedTransport(clock)
    got: list[object] = []
    service = TunnelService(
        config or TunnelConfig(jitter=0),
        request_queue=RequestQueue(clock=clock),
        on_message=got.append,
        clock=clock,
        new_transport=network,
    )
    return clock, network, service, got


@pytest.mark.requirement("1.2", "1.3", "1.4", "1.7", "6.2")
def test_the_complete_integration() -> None:
    """Connect with a token, exchange, lose the link three ways, come back each time."""
    clock, network, service, got = example_service()
    service.connect(URL, "auth-token")
    assert dict(network.dials[0].headers)["Authorization"] == "Bearer auth-token"
    network.send("message")
    drive(service, timeout=1.0)
    assert got == ["message"]
    assert service.tracker.connection.last_activity_at.timestamp() == clock.time() - 1.0
    for lose in (network.fall_silent, network.cut, network.close):
        lose()
        assert drive(service, lambda: service.state is not S.CONNECTED, timeout=45.0)
        service.send("queued meanwhile")
        assert drive(service, lambda: service.state is S.CONNECTED, timeout=100.0)
        drive(service, timeout=60.0)
        assert network.received.pop() == "queued meanwhile"
        assert network.received == []
    assert service.statistics()["reconnections"] == 3


def test_a_first_connect_that_fails_is_recovered_from() -> None:
    """A connection failure is handled as a loss is: by attempts, and an error at their end."""
    _, network, service, _ = example_service(TunnelConfig(jitter=0, max_reconnect_attempts=3))
    network.refuse()
    with pytest.raises(MaxReconnectAttemptsExceededError) as caught:
        service.connect(URL, "auth-token")
    assert isinstance(caught.value.__cause__, ConnectRefusedError)
    assert len(network.dials) == 1 + 3


# Configuration


@pytest.mark.requirement("9.2")
def test_the_configuration_and_its_profiles() -> None:
    """The fields of the example, and three profiles."""
    config = TunnelConfig(
        max_reconnect_attempts=10,
        reconnect_base_delay=2.0,
        request_timeout=30.0,
        max_queue_size=100,
        enable_auto_reconnect=True,
        log_level="INFO",
    )
    assert config == TunnelConfig()
    profiles = [
        (profile.max_reconnect_attempts, profile.reconnect_base_delay)
        for profile in (
            TunnelConfig.stable_network(),
            TunnelConfig.unstable_network(),
            TunnelConfig.low_bandwidth(),
        )
    ]
    assert profiles == [(5, 1.0), (20, 5.0), (10, 3.0)]
