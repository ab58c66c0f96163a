"""A program that uses the packages, as type checkers see it. It is checked, and never run.

`make types` checks it against the source, and `.ci/run` against the installed wheel, where it shows
that `py.typed` is there. Each `assert_type` is a promise: the type that a user's program sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime
from typing import Any

from typing_extensions import assert_type

import statemachine
import tunnel
import tunnel.testing
from tunnel.gateway import GatewaySession, GatewayThread


class CurrentToken:
    """A token that is asked for before every attempt."""

    def __call__(self) -> str:
        return "secret"


def connects() -> None:
    service = tunnel.connect("wss://a.test/", auth_token=CurrentToken(), timeout=5)
    assert_type(service, tunnel.TunnelService)
    with tunnel.connect("wss://a.test/", on_message=print, auth_token="secret") as inner:
        assert_type(inner, tunnel.TunnelService)
    assert_type(service.state, tunnel.TunnelConnectionState)
    assert_type(service.wait_for(tunnel.TunnelConnectionState.CONNECTED, timeout=1.0), bool)
    assert_type(service.reconnect(), bool)
    assert_type(service.test_connection(), bool)
    service.handle_network_change(True, "wifi")
    report = service.disconnect(graceful=True, timeout=1)
    assert_type(report, tunnel.DrainReport)
    assert_type(report.unsent, tuple[str | bytes, ...])
    assert_type(report.unacknowledged, tuple[str | bytes, ...])


def sends(service: tunnel.TunnelService) -> None:
    service.send("text", priority=tunnel.RequestPriority.HIGH, expires_in=30.0, timeout=None)
    service.send(b"binary", timeout=0)
    service.send(bytearray(b"binary"))
    service.send(memoryview(b"binary"))
    assert_type(service.send_many(f"{number}" for number in range(3)), int)
    assert_type(service.flush(timeout=5), bool)
    assert_type(service.messages(), Iterator[str | bytes])
    for message in service.messages():
        assert_type(message, str | bytes)


def asks(service: tunnel.TunnelService) -> None:
    answer = service.request(b"ping", method="GET", path="/", headers={"a": "b"}, timeout=5)
    assert_type(answer, tunnel.TunnelResponse)
    assert_type(answer.status_code, int)
    assert_type(answer.headers, tunnel.Headers)
    assert_type(answer.payload, bytes)
    assert_type(answer.latency, float)
    assert_type(service.submit("ping"), Future[tunnel.TunnelResponse])


def observes(service: tunnel.TunnelService) -> None:
    def on_event(event: tunnel.ConnectionEvent) -> None:
        assert_type(event.type, tunnel.ConnectionEventType)
        assert_type(event.timestamp, datetime)
        assert_type(event.message, str)

    assert_type(service.subscribe(on_event), Callable[[], None])
    assert_type(service.tracker, tunnel.ConnectionStateTracker)
    assert_type(service.tracker.events, tuple[tunnel.ConnectionEvent, ...])
    assert_type(service.tracker.connection, tunnel.TunnelConnection | None)
    assert_type(service.tracker.uptime, float)
    assert_type(service.tracker.to_json(), str)
    assert_type(tunnel.ConnectionStateTracker.from_json("{}"), tunnel.ConnectionStateTracker)
    assert_type(service.metrics.snapshot(), tunnel.TunnelMetrics)
    assert_type(service.metrics.snapshot().p95_latency, float | None)
    assert_type(service.health, tunnel.TunnelHealthMetrics)
    assert_type(service.statistics(), dict[str, Any])


class App:
    """What a service calls back, with its types."""

    def on_message(self, message: str | bytes) -> None: ...

    def on_state_change(self, record: statemachine.Record) -> None:
        assert_type(record.source, str)
        assert_type(record.dest, str)

    def on_connected(self, service: tunnel.TunnelService, resumed: bool) -> None: ...

    def on_session_lost(self, error: tunnel.SessionLostError) -> None:
        assert_type(error.unacknowledged, tuple[str | bytes, ...])

    def service(self) -> tunnel.TunnelService:
        return tunnel.TunnelService(
            tunnel.TunnelConfig(),
            request_queue=tunnel.RequestQueue(10, path="queue.db"),
            on_message=self.on_message,
            on_state_change=self.on_state_change,
            on_connected=self.on_connected,
            on_session_lost=self.on_session_lost,
            clock=tunnel.testing.FakeClock(),
        )


def configures() -> None:
    config = tunnel.TunnelConfig(ping_interval=None, max_reconnect_attempts=None, resume="off")
    assert_type(tunnel.TunnelConfig.unstable_network(ping_interval=5.0), tunnel.TunnelConfig)
    assert_type(tunnel.TunnelConfig.from_env(), tunnel.TunnelConfig)
    assert_type(tunnel.TunnelConfig.from_mapping({}), tunnel.TunnelConfig)
    assert_type(config.replace(jitter=0.1), tunnel.TunnelConfig)
    assert_type(config.to_dict(), dict[str, Any])
    assert_type(config.reconnect_base_delay, float)
    assert_type(config.ping_interval, float | None)
    assert_type(config.max_reconnect_attempts, int | None)


def handles(service: tunnel.TunnelService) -> None:
    try:
        service.send("text")
    except tunnel.QueueFullError as error:
        assert_type(error.accepted, int)
    except tunnel.TunnelError as error:
        assert_type(error.category, tunnel.TunnelErrorCategory)
        assert_type(error.code, str)
        assert_type(error.message, str)
        assert_type(error.suggestion, str | None)
        assert_type(error.is_retryable, bool)
        assert_type(error.retry_after, float | None)
        assert_type(error.to_dict(), dict[str, Any])
    assert_type(tunnel.TunnelError.from_exception(OSError()), tunnel.TunnelError)


def uses_the_parts() -> None:
    manager = tunnel.ReconnectionManager(max_attempts=None)
    assert_type(manager.attempt_reconnection(lambda: None), bool)
    assert_type(manager.delay_for(1), float)
    assert_type(manager.last_error, tunnel.TunnelError | None)
    tracker = tunnel.ConnectionStateTracker()
    recovery = tunnel.ConnectionRecovery(manager, tracker, lambda: None)
    assert_type(recovery.is_recovering, bool)
    with tunnel.RequestQueue() as queue:
        assert_type(queue, tunnel.RequestQueue)
        assert_type(queue.fill, float)
        assert_type(queue.subscribe(lambda signal: print(signal.message)), Callable[[], None])
    watched = tunnel.HeartbeatWebSocket("wss://a.test/")
    for message in watched.messages():
        assert_type(message, str | bytes)


def declares() -> None:
    declaration = statemachine.Declaration(
        "door",
        ["open", "shut"],
        "shut",
        [],
        [
            statemachine.Transition("push", "shut", "open", doc="Somebody comes."),
            statemachine.Transition("pull", "open", "shut", doc="Somebody goes."),
        ],
    )
    machine = statemachine.StateMachine(declaration, App())
    assert_type(machine.fire("push"), bool)
    assert_type(machine.state, str)
    assert_type(machine.history, tuple[statemachine.Record, ...])
    assert_type(statemachine.replay(declaration, machine.history), statemachine.Verdict)
    assert_type(statemachine.diagram.render(declaration, "mermaid"), str)
    assert_type(tunnel.LIFECYCLE, statemachine.Declaration)


def serves() -> None:
    def shout(session: GatewaySession, message: str | bytes) -> str | bytes:
        return message.upper()

    with GatewayThread(shout) as gateway:
        assert_type(gateway.url, str)


def tests_itself() -> None:
    clock = tunnel.testing.FakeClock()
    network = tunnel.testing.ScriptedTransport(clock)
    service = tunnel.TunnelService(clock=clock, new_transport=network)
    assert_type(tunnel.testing.drive(service, timeout=60.0), bool)


def is_refused(service: tunnel.TunnelService) -> None:
    """What is wrong shows before it runs: an ignore that is not needed is an error itself."""
    service.send({"a": "mapping"})  # type: ignore[arg-type]
    service.send("text", priority="high")  # type: ignore[arg-type]
    tunnel.TunnelConfig(resume="maybe")  # type: ignore[arg-type]
    tunnel.TunnelConfig(pingInterval=3)  # type: ignore[call-arg]
    tunnel.connect("ws://a.test/", on_message="print")  # type: ignore[arg-type]
    tunnel.TunnelConfig().jitter = 0.5  # type: ignore[misc]
