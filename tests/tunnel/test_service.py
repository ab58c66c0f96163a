from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loguru import logger

import tunnel
from tunnel import (
    ConnectionEvent,
    ConnectionEventType,
    ConnectRefusedError,
    ConnectTimeoutError,
    DrainReport,
    InvalidStateError,
    MaxReconnectAttemptsExceededError,
    QueueFullError,
    RequestQueue,
    ResourceExhaustedError,
    TunnelConfig,
    TunnelConnectionState,
    TunnelError,
    TunnelService,
    WouldDeadlockError,
)
from tunnel.frames import Close, FrameDecoder, FrameEncoder
from tunnel.stream import Readiness
from tunnel.testing import FakeClock, ScriptedTransport, drive
from tunnel.waker import Waker

S = TunnelConnectionState
E = ConnectionEventType
URL = "wss://example.com/tunnel"
DEADLINE = 20.0


class World:
    """A service in virtual time, and its network."""

    def __init__(self, config: TunnelConfig | None = None, **options: Any) -> None:
        self.clock = FakeClock()
        self.network = ScriptedTransport(self.clock)
        self.service = TunnelService(
            config or TunnelConfig(jitter=0),
            clock=self.clock,
            new_transport=self.network,
            **options,
        )

    def connected(self, *arguments: Any, **options: Any) -> World:
        self.service.connect(URL, *arguments, **options)
        return self

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        self.clock.call_at(self.clock.monotonic() + seconds, action)

    def until(self, state: S, timeout: float = 10_000.0) -> None:
        assert drive(self.service, lambda: self.service.state is state, timeout=timeout)


class Peer:
    """A network for real threads: every dial succeeds, and every message is echoed."""

    def __init__(self) -> None:
        self.refuses = False
        self.lines: list[_Line] = []
        self.received: list[object] = []

    def __call__(self, waker: Waker) -> Any:
        self.lines.append(_Line(self, waker))
        return self.lines[-1]

    def cut(self) -> None:
        self.lines[-1].abort()


class _Line:
    response_headers: dict[str, str] = {}  # noqa: RUF012 - never written
    subprotocol = None

    def __init__(self, peer: Peer, waker: Waker) -> None:
        self._peer = peer
        self._decoder = FrameDecoder(expect_masked=True)
        self._encoder = FrameEncoder(mask=False)
        self._incoming: deque[bytes] = deque()
        self._ended = False
        self.waker = waker

    def open(self, request: object, interrupted: Callable[[], bool]) -> None:
        if self._peer.refuses:
            raise ConnectRefusedError("nobody listens there")

    def receive(self, size: int) -> bytes | None:
        if self._incoming:
            return self._incoming.popleft()
        return b"" if self._ended else None

    def send(self, data: memoryview | bytes) -> int:
        if self._ended:
            raise ConnectionResetError
        for item in self._decoder.feed(bytes(data)):
            if isinstance(item, (str, bytes)):
                self._peer.received.append(item)
                self._incoming.append(self._encoder.message(item))
            elif isinstance(item, Close):
                self._incoming.append(self._encoder.close(item.code))
                self._ended = True
        self.waker.wake()
        return len(data)

    def wait(self, *, read: bool, write: bool, timeout: float | None) -> Readiness:
        if not (write or (read and self.has_unread())):
            self.waker.event.wait(timeout)
        return Readiness(read and self.has_unread(), write, self.waker.event.is_set(), self._ended)

    def has_unread(self) -> bool:
        return bool(self._incoming) or self._ended

    def wait_writable(self, timeout: float | None) -> bool:
        return True

    def abort(self) -> None:
        self._ended = True
        self.waker.wake()

    def close(self) -> None:
        pass


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """What is logged, as loguru's messages, once the program has asked for it."""
    messages: list[Any] = []
    sink = logger.add(messages.append, level=0, format="{message}")
    logger.enable("tunnel")
    yield messages
    logger.disable("tunnel")
    logger.remove(sink)


# Connecting


def test_connects_and_exchanges_messages() -> None:
    """Connected on return; text and bytes go and come."""
    got: list[object] = []
    world = World(on_message=got.append).connected()
    assert world.service.state is S.CONNECTED
    world.service.send("text")
    world.service.send(bytearray(b"bytes"))
    assert world.service.send_many(["a", b"b"]) == 2
    world.network.send("hello", b"\0")
    assert drive(world.service, lambda: len(got) == 2, timeout=1)
    assert world.network.received == ["text", b"bytes", "a", b"b"]
    assert got == ["hello", b"\0"]


def test_repr_shows_state_peer_and_queue() -> None:
    """The repr says what one wants to know, and no credentials."""
    world = World()
    assert repr(world.service) == "<TunnelService disconnected, 0 queued>"
    world.service.send("x")
    world.network.latency = 1.0
    world.service.connect("ws://user:secret@example.com/?token=secret", wait=False)
    assert "1 queued" in repr(world.service)
    assert "secret" not in repr(world.service)


def test_fails_for_good_with_the_error_itself() -> None:
    """An error that trying again does not mend is raised at once, as it is, and nothing goes on."""
    world = World()
    refusal = tunnel.AuthenticationFailedError("no")
    refusal.__cause__ = OSError("why")
    world.network.refuse(refusal)
    with pytest.raises(tunnel.AuthenticationFailedError) as caught:
        world.connected()
    assert caught.value is refusal
    assert isinstance(caught.value.__cause__, OSError)
    assert world.service.state is S.ERROR
    assert not world.service.worker.is_running


def test_fails_when_the_attempts_are_used_up() -> None:
    """The error says so, caused by that of the last attempt."""
    world = World(TunnelConfig(jitter=0, max_reconnect_attempts=2))
    world.network.refuse()
    with pytest.raises(MaxReconnectAttemptsExceededError) as caught:
        world.connected()
    assert isinstance(caught.value.__cause__, ConnectRefusedError)
    assert world.clock.monotonic() == 6.0


def test_fails_when_the_time_is_up() -> None:
    """At the time-out, neither earlier nor later, from the last error; nothing goes on."""
    world = World()
    world.network.refuse()
    with pytest.raises(ConnectTimeoutError, match=r"not connected within 7\.5 s") as caught:
        world.connected(timeout=7.5)
    assert isinstance(caught.value.__cause__, ConnectRefusedError)
    assert world.clock.monotonic() == 7.5
    assert world.service.state is S.DISCONNECTED
    assert not world.service.worker.is_running
    world.network.accept()
    world.connected(timeout=7.5)
    assert not drive(world.service, timeout=60.0)
    assert world.service.state is S.CONNECTED


@pytest.mark.requirement("9.7")
def test_one_dial_without_automatic_reconnection() -> None:
    """With automatic reconnection off the first failure is the answer."""
    world = World(TunnelConfig(enable_auto_reconnect=False))
    world.network.refuse()
    with pytest.raises(ConnectRefusedError):
        world.connected()
    assert len(world.network.dials) == 1
    assert world.service.state is S.DISCONNECTED


def test_does_not_wait_if_not_asked_to() -> None:
    """With wait=False the connection is made in the background."""
    world = World().connected(wait=False)
    assert world.service.state is S.DISCONNECTED
    world.until(S.CONNECTED)


def test_an_interrupt_calls_the_connection_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C nobody goes on trying."""
    world = World()

    def interrupt(event: threading.Event, timeout: float | None) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world.service.worker, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            world.connected()
    drive(world.service, timeout=1000.0)
    assert world.service.state is S.DISCONNECTED


def test_an_interrupt_as_it_is_asked_for_calls_it_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with wait=False: whoever got an exception does not know that there is a connection."""
    world = World()
    wakes = [Waker.wake]

    def interrupt(waker: Waker) -> None:
        if wakes:
            wakes.pop()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Waker, "wake", interrupt)
        with pytest.raises(KeyboardInterrupt):
            world.connected(wait=False)
    assert world.service.worker.is_running
    drive(world.service, timeout=1000.0)
    assert world.service.state is S.DISCONNECTED


def test_connects_again_after_a_disconnect() -> None:
    """A service can be used again; what was queued goes out then, and messages come again."""
    world = World().connected()
    world.service.disconnect()
    assert list(world.service.messages()) == []
    world.service.send("kept")
    world.connected()
    assert world.network.received == ["kept"]
    world.network.send("again")
    assert next(iter(world.service.messages())) == "again"


def test_messages_come_again_after_the_network_is_back() -> None:
    """An iterator that is made after the tunnel was brought back by itself does not end at once."""
    world = World(TunnelConfig(max_reconnect_attempts=1)).connected()
    world.network.refuse()
    world.network.cut()
    world.until(S.ERROR)
    drive(world.service, timeout=1.0)
    assert list(world.service.messages()) == []
    world.network.accept()
    world.service.handle_network_change(True)
    world.until(S.CONNECTED)
    world.network.send("again")
    assert next(iter(world.service.messages())) == "again"


def test_news_of_the_network_before_the_first_connect_end_nothing() -> None:
    """Whoever reads messages already goes on waiting for the first connection."""
    world = World()
    world.service.handle_network_change(True)
    drive(world.service, timeout=1.0)
    assert world.service._inbox is not None
    assert world.service._inbox._is_open


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"server_url": "http://example.com/"}, ValueError),
        ({"server_url": 5}, TypeError),
        ({"auth_token": "a b"}, ValueError),
        ({"auth_token": b"bytes"}, TypeError),
        ({"user_id": 7}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "5"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"headers": {"X": "a\r\nb"}}, ValueError),
        ({"subprotocols": "chat"}, TypeError),
        ({"ssl_context": "tls"}, TypeError),
    ],
)
def test_a_wrong_argument_of_connect(arguments: dict[str, Any], error: type[Exception]) -> None:
    """The call that made the mistake raises, and the tunnel is untouched."""
    world = World()
    with pytest.raises(error):
        world.service.connect(**{"server_url": URL, **arguments})
    assert world.service.tracker.events == ()
    assert not world.service.worker.is_running


@pytest.mark.parametrize(
    "call",
    [
        lambda service: service.disconnect(timeout=None),
        lambda service: service.disconnect(timeout="1"),
        lambda service: service.handle_network_change(True, object()),
        lambda service: service.test_connection(timeout=None),
        lambda service: service.update_config(None),
        lambda service: service.update_config({"jitter": 0}),
        lambda service: service.wait_for(),
        lambda service: service.send(5),
        lambda service: TunnelService({"jitter": 0}),
        lambda service: TunnelService(on_message="print"),
    ],
)
def test_a_wrong_argument_of_other_calls(call: Callable[[TunnelService], object]) -> None:
    """So do the others; the link lives on."""
    world = World().connected()
    settings = world.service.config
    with pytest.raises(TypeError):
        call(world.service)
    drive(world.service, timeout=100.0)
    assert world.service.state is S.CONNECTED
    assert world.service.config is settings


def test_what_is_given_reaches_the_dial() -> None:
    """Headers, subprotocols, context, the token and the user go where they belong."""
    world = World()
    context = ssl.create_default_context()
    world.connected(
        "t0ken", user_id="me", headers={"X-A": "b"}, subprotocols=["chat"], ssl_context=context
    )
    dial = world.network.dials[0]
    headers = {"X-A": "b", "Authorization": "Bearer t0ken", "Tunnel-Resume": "1"}
    assert dict(dial.headers) == headers
    assert dial.subprotocols == ("chat",)
    assert dial.ssl_context is context
    assert world.service.tracker.connection is not None
    assert world.service.tracker.connection.user_id == "me"


def test_a_token_callable_is_asked_before_each_attempt() -> None:
    """So it can renew what has expired."""
    tokens = iter(["one", "two", "three"])
    world = World().connected(lambda: next(tokens))
    world.network.refuse()
    world.network.cut()
    world.at(3.0, world.network.accept)
    world.until(S.RECONNECTING)
    world.until(S.CONNECTED)
    sent = [dict(dial.headers)["Authorization"] for dial in world.network.dials]
    assert sent == ["Bearer one", "Bearer two", "Bearer three"]


def test_a_token_callable_that_raises() -> None:
    """It is an authentication error at the call, and what it said stays secret."""
    world = World()

    def token() -> str:
        raise ValueError("t0psecret is bad")

    with pytest.raises(tunnel.AuthenticationFailedError, match="ValueError") as caught:
        world.connected(token)
    assert "t0psecret" not in str(caught.value)


def test_no_secret_is_ever_told(log: list[Any]) -> None:
    """Neither logs, events, records, statistics, JSON nor reprs have the token."""
    records: list[Any] = []
    world = World(on_state_change=records.append)
    world.service.connect(
        "wss://me:t0psecret@example.com/?token=t0psecret",
        "t0psecret",
        headers={"X-Api-Key": "t0psecret"},
    )
    world.network.refuse()
    world.network.cut()
    world.until(S.ERROR)
    service = world.service
    told = [repr(log), repr(records), repr(service.tracker.events), repr(service)]
    told += [service.tracker.to_json(), json.dumps(service.statistics()), repr(service.config)]
    told += [repr(world.network.dials), repr(service.tracker.connection)]
    assert "t0psecret" not in "".join(told)
    assert log


# Reconnecting


def test_reconnects_by_hand() -> None:
    """True once the link is new."""
    world = World().connected()
    assert world.service.reconnect()
    assert len(world.network.dials) == 2
    assert world.clock.monotonic() == 0.0


def test_reconnects_never_without_a_connect() -> None:
    """There is nothing to reconnect to."""
    with pytest.raises(InvalidStateError, match="connect first"):
        World().service.reconnect()


def test_reconnecting_in_vain() -> None:
    """False if the attempts were used up."""
    world = World(TunnelConfig(max_reconnect_attempts=2)).connected()
    world.network.refuse()
    assert not world.service.reconnect()
    assert world.service.state is S.ERROR


def test_reconnecting_is_called_off() -> None:
    """False, not a wait for ever, if the tunnel is disconnected meanwhile."""
    world = World().connected()
    world.network.refuse()
    world.at(3.0, world.service.disconnect)
    assert not world.service.reconnect()
    assert world.clock.monotonic() == 3.0
    assert world.service.state is S.DISCONNECTED


# Disconnecting


def test_disconnects_and_reports() -> None:
    """A report of nothing, code 1000, and no work left."""
    world = World().connected()
    assert world.service.disconnect() == DrainReport()
    assert world.network.close_codes == [1000]
    assert not world.service.worker.is_running
    assert world.service.disconnect() == DrainReport()


@pytest.mark.requirement("8.1")
def test_disconnects_a_dead_link() -> None:
    """Within its time-out, and it says what did not go out."""
    world = World().connected()
    world.network.refuse()
    world.network.cut()
    drive(world.service, lambda: world.service.state is not S.CONNECTED, timeout=1.0)
    world.service.send("unsent")
    assert world.service.disconnect().unsent == ("unsent",)
    world = World().connected()
    world.network.fall_silent()
    before = world.clock.monotonic()
    world.service.disconnect(timeout=3.0)
    assert world.clock.monotonic() - before == 3.0


def fail_in(service: TunnelService) -> None:
    service.connect(URL)
    raise ZeroDivisionError


def test_a_context_ends_with_a_disconnect() -> None:
    """Also when it ends by an exception, which goes on its way."""
    world = World()
    with pytest.raises(ZeroDivisionError), world.service as service:
        fail_in(service)
    assert world.network.close_codes == [1000]
    assert world.service.state is S.DISCONNECTED


# On the tunnel's own thread


def test_in_a_callback_nothing_waits() -> None:
    """There connect, reconnect and disconnect return at once, and waiting calls raise."""
    service: TunnelService
    seen: list[object] = []

    def on_message(message: object) -> None:
        for call in (
            lambda: service.wait_for(S.CONNECTED),
            lambda: service.test_connection(),
            lambda: service.flush(),
        ):
            with pytest.raises(WouldDeadlockError):
                call()
        seen.append(service.reconnect())
        seen.append(service.disconnect())

    world = World(on_message=on_message)
    service = world.connected().service
    world.network.send("go")
    world.until(S.DISCONNECTED)
    drive(service, timeout=100.0)
    assert seen == [False, DrainReport()]
    assert service.state is S.DISCONNECTED


def test_in_a_callback_messages_cannot_be_read() -> None:
    """An iteration on the tunnel's thread would wait for itself."""
    raised: list[bool] = []

    def on_connected(service: TunnelService, resumed: bool) -> None:
        with pytest.raises(WouldDeadlockError):
            service.messages()
        raised.append(resumed)

    World(on_connected=on_connected).connected()
    assert raised == [False]


def test_an_observer_that_ends_its_thread_ends_the_connection() -> None:
    """What it observed is done first; and in the application's own thread it is raised there."""
    wants_to_leave: list[bool] = []

    def observe(event: object) -> None:
        if wants_to_leave:
            wants_to_leave.clear()
            raise SystemExit

    world = World(on_state_change=observe).connected()
    world.service.subscribe(observe)
    wants_to_leave.append(True)
    with pytest.raises(SystemExit):
        world.service.update_config(world.service.config)
    assert world.service.state is S.CONNECTED
    wants_to_leave.append(True)
    world.network.close(1001)
    with pytest.raises(SystemExit):  # whoever drives the tunnel wants to know
        world.until(S.ERROR)
    assert world.service.state is S.ERROR


def test_connects_in_a_callback() -> None:
    """Who connects again when the tunnel has failed does not wait; the next link is made."""
    again: list[bool] = []

    def on_state_change(record: Any) -> None:
        if record.dest == "error" and not again:
            again.append(True)
            world.network.accept()
            world.service.connect(URL)

    world = World(on_state_change=on_state_change).connected()
    world.network.close(1008)
    world.until(S.ERROR)
    world.until(S.CONNECTED)


# Messages


def test_a_callback_and_an_iterator_exclude_each_other() -> None:
    """With on_message there is nothing to iterate over."""
    with pytest.raises(InvalidStateError, match="on_message"):
        World(on_message=print).service.messages()


def test_iterates_in_virtual_time() -> None:
    """On a fake clock the iteration itself does the tunnel's work; it ends with the tunnel."""
    world = World().connected()
    world.at(5.0, lambda: world.network.send("a", "b"))
    world.at(9.0, lambda: world.service.disconnect())
    assert list(world.service.messages()) == ["a", "b"]
    assert world.clock.monotonic() == 9.0


def test_flushes() -> None:
    """True once all is written, False if that was not in time."""
    world = World()
    world.service.send("queued")
    assert not world.service.flush(1.0)
    world.connected()
    assert world.service.flush(0)
    assert world.network.received == ["queued"]


def test_the_queue_may_be_given() -> None:
    """A given queue is used, and takes the configured size."""
    queue = RequestQueue(3)
    world = World(TunnelConfig(max_queue_size=2), request_queue=queue)
    world.service.send("a")
    world.service.send("b")
    with pytest.raises(QueueFullError):
        world.service.send("c")
    assert queue.snapshot() == ("a", "b")


# What is known


def test_waits_for_a_state() -> None:
    """True if it is, or was since the call began; False when the time is up."""
    world = World().connected()
    assert world.service.wait_for(S.CONNECTED, timeout=0)
    assert not world.service.wait_for(S.ERROR, S.CLOSING, timeout=5.0)
    world.at(1.0, world.network.cut)
    assert world.service.wait_for(S.DISCONNECTED, timeout=5.0)  # for a moment only
    assert world.service.state is not S.DISCONNECTED
    with pytest.raises(ValueError, match="nowhere"):
        world.service.wait_for("nowhere")  # type: ignore[arg-type]


def test_statistics_are_ready_for_json() -> None:
    """Every number has its name, before, during and after a connection."""
    world = World()
    assert json.loads(json.dumps(world.service.statistics()))["round_trip"] is None
    world.connected()
    world.service.send("x")
    world.network.send("y")
    drive(world.service, timeout=31.0)
    statistics = json.loads(json.dumps(world.service.statistics()))
    assert statistics["connection_state"] == "connected"
    assert statistics["messages_sent"] == statistics["messages_received"] == 1
    assert statistics["messages_waiting"] == 1
    assert statistics["round_trip"] == 0.0
    assert statistics["uptime"] == 31.0
    called_back = World(on_message=print).service.statistics()
    assert called_back["messages_waiting"] == 0
    assert set(called_back) == set(statistics)


def test_metrics_and_health() -> None:
    """Both know how full the queue is at this moment."""
    world = World()
    world.service.send("x")
    assert world.service.metrics.health().queue_size == 1
    assert world.service.health.queue_size == 1


def test_events_are_told() -> None:
    """A subscriber gets every event until it unsubscribes."""
    world = World()
    events: list[ConnectionEvent] = []
    unsubscribe = world.service.subscribe(events.append)
    world.connected()
    unsubscribe()
    world.service.disconnect()
    assert [event.type for event in events] == [E.CONNECTING, E.CONNECTED]


def test_tests_the_connection() -> None:
    """A ping that is answered is recorded as healthy; without a link it is not."""
    world = World()
    assert not world.service.test_connection()
    world.connected()
    assert world.service.test_connection()
    world.network.answers_pings = False
    assert not world.service.test_connection(2.0)
    checks = [
        e.metadata["healthy"] for e in world.service.tracker.events if "healthy" in e.metadata
    ]
    assert checks == [False, True, False]


def test_other_settings() -> None:
    """They hold, and the event says what has changed."""
    world = World().connected()
    config = world.service.config.replace(max_queue_size=5, ping_interval=10.0)
    world.service.update_config(config)
    assert world.service.config is config
    event = world.service.tracker.events[-1]
    assert event.type is E.CONFIG_CHANGED
    assert event.metadata == {"max_queue_size": 5, "ping_interval": 10.0}


@pytest.mark.requirement("11.3", "11.4", "11.5")
def test_events_are_logged_with_the_connection(log: list[Any]) -> None:
    """Each event is a line with its facts; all name the connection; errors and losses stand out."""
    world = World(TunnelConfig(max_reconnect_attempts=1)).connected()
    world.network.refuse()
    world.network.cut()
    world.until(S.ERROR)
    world.service.handle_network_change(False)
    drive(world.service, timeout=1.0)
    assert world.service.tracker.connection is not None
    connection = world.service.tracker.connection
    assert {m.record["extra"].get("connection_id") for m in log} == {connection.id}
    lines = [m.record for m in log if "event" in m.record["extra"]]
    told = [(r["extra"]["event"], r["extra"]["dial_id"], r["extra"]["metadata"]) for r in lines]
    events = world.service.tracker.events
    assert told == [(event.type.value, event.dial_id, dict(event.metadata)) for event in events]
    assert {r["extra"]["server_url"] for r in lines} == {connection.server_url}
    levels = {r["message"].split(":")[0]: r["level"].name for r in lines}
    assert levels == {
        "connecting": "INFO",
        "connected": "INFO",
        "disconnected": "WARNING",
        "reconnecting": "INFO",
        "error": "ERROR",
        "network_changed": "INFO",
    }


def test_events_before_a_connection_are_logged_too(log: list[Any]) -> None:
    """A line without a connection names none."""
    world = World()
    world.service.update_config(TunnelConfig())
    assert [m.record["extra"]["connection_id"] for m in log] == [None]


def test_the_level_of_what_is_logged(log: list[Any]) -> None:
    """Events below `log_level` are not logged; those at it and above are."""
    clock = FakeClock()
    network = ScriptedTransport(clock)
    service = TunnelService(TunnelConfig(log_level="WARNING"), clock=clock, new_transport=network)
    service.connect("wss://example.com/")
    assert not [line for line in log if "connected" in line]
    network.cut()
    drive(service, lambda: service.state is S.RECONNECTING, timeout=1)
    assert [line for line in log if line.startswith("disconnected:")]
    service.disconnect()


def test_an_end_that_was_wanted_does_not_stand_out(log: list[Any]) -> None:
    """Whoever disconnects, or reconnects, is not warned of it."""
    world = World().connected()
    world.service.reconnect(timeout=10.0)
    world.service.disconnect()
    told = [
        (m.record["extra"]["event"], m.record["level"].name)
        for m in log
        if "event" in m.record["extra"]
    ]
    assert told.count(("disconnected", "INFO")) == 2
    assert {level for _, level in told} == {"INFO"}


def test_nothing_is_logged_before_it_is_asked_for() -> None:
    """A program that says nothing about logs sees none."""
    lines: list[str] = []
    sink = logger.add(lines.append, level=0)
    try:
        World(on_state_change=lambda record: 1 // 0).connected()
    finally:
        logger.remove(sink)
    assert lines == []


# The shortcut


def test_the_shortcut_connects() -> None:
    """`tunnel.connect` returns a connected service, and knows the options of both calls."""
    clock = FakeClock()
    network = ScriptedTransport(clock)
    got: list[object] = []
    with tunnel.connect(
        URL,
        config=TunnelConfig(jitter=0),
        auth_token="abc",
        on_message=got.append,
        timeout=5.0,
        headers={"X-A": "b"},
        user_id="me",
        clock=clock,
        new_transport=network,
    ) as service:
        assert service.state is S.CONNECTED
        assert dict(network.dials[0].headers)["X-A"] == "b"
    with pytest.raises(TypeError, match="colour"):
        tunnel.connect(URL, colour="red")


# Real threads


def test_returns_when_connected_and_leaves_no_thread() -> None:
    """Connect, exchange, disconnect: afterwards the thread is gone."""
    peer = Peer()
    service = TunnelService(new_transport=peer)
    with service:
        service.connect(URL, timeout=DEADLINE)
        service.send("a")
        assert next(service.messages()) == "a"
        assert service.test_connection(0.01) is False  # this peer does not answer pings
        assert service.flush(DEADLINE)
    assert not service.worker.is_running
    assert list(service.messages()) == []


def test_messages_can_be_waited_for_again() -> None:
    """On a second connection an iterator waits for the first message as on the first one."""
    service = TunnelService(new_transport=Peer())
    service.connect(URL, timeout=DEADLINE)
    service.disconnect()
    service.connect(URL, timeout=DEADLINE)
    got: list[object] = []
    reader = threading.Thread(target=lambda: got.extend(service.messages()))
    reader.start()
    reader.join(0.02)  # it waits; and if it did not, it would have ended by now
    service.send("x")
    assert service.flush(DEADLINE)
    service.disconnect()
    reader.join(DEADLINE)
    assert got == ["x"]


@pytest.mark.usefixtures("no_leaks")
def test_a_failed_connect_leaves_no_thread() -> None:
    """Whether the time is up or the first failure is final."""
    peer = Peer()
    peer.refuses = True
    for config, timeout in ((TunnelConfig(), 0.05), (TunnelConfig(enable_auto_reconnect=False), 9)):
        service = TunnelService(config, new_transport=peer)
        with pytest.raises(TunnelError):
            service.connect(URL, timeout=timeout)
        assert "tunnel" not in {thread.name for thread in threading.enumerate()}
        assert not service.worker.is_running


def test_no_thread_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started the call says so, and readers do not wait for ever."""
    service = TunnelService(new_transport=Peer())

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ResourceExhaustedError):
            service.connect(URL)
    assert service.state is S.DISCONNECTED
    service.connect(URL, timeout=DEADLINE)
    service.disconnect()


@pytest.mark.parametrize("run", range(5))
def test_what_is_sent_just_before_the_end_arrives(run: int) -> None:
    """Connect, send and disconnect at once: the message goes before the close frame."""
    peer = Peer()
    for _ in range(5):
        service = TunnelService(new_transport=peer, on_message=lambda message: None)
        service.send("queued")
        service.connect(URL, timeout=DEADLINE)
        service.send("sent")
        assert service.disconnect() == DrainReport()
    assert peer.received == ["queued", "sent"] * 5


@pytest.mark.parametrize("run", range(5))
def test_disconnects_of_many_threads(run: int) -> None:
    """However many disconnect at once, while losses come in between: all return, and it is over."""
    peer = Peer()
    service = TunnelService(TunnelConfig(reconnect_base_delay=0.001), new_transport=peer)
    service.connect(URL, timeout=DEADLINE)
    start = threading.Barrier(4)
    reports: list[DrainReport] = []

    def disconnect() -> None:
        start.wait(DEADLINE)
        reports.append(service.disconnect())

    threads = [threading.Thread(target=disconnect) for _ in range(3)]
    for thread in threads:
        thread.start()
    start.wait(DEADLINE)
    peer.cut()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(reports) == 3
    assert service.state is S.DISCONNECTED


def test_a_slow_callback_does_not_hold_up_a_disconnect() -> None:
    """The call returns at its time-out, and the link ends as soon as the callback does."""
    peer = Peer()
    entered, go_on = threading.Event(), threading.Event()

    def on_message(message: object) -> None:
        entered.set()
        go_on.wait(DEADLINE)

    service = TunnelService(new_transport=peer, on_message=on_message)
    service.connect(URL, timeout=DEADLINE)
    service.send("x")
    assert entered.wait(DEADLINE)
    worker = service.worker
    join, joined = worker.join, []
    worker.join = lambda timeout: joined.append(timeout)  # type: ignore[method-assign, assignment]
    service.disconnect(timeout=0.01)
    go_on.set()
    join(DEADLINE)
    assert joined == [1.0]
    assert service.state is S.DISCONNECTED


@pytest.mark.parametrize("run", range(3))
def test_a_life_of_threads(run: int) -> None:
    """Whatever threads ask for at the same time, nobody hangs and the end is the end."""
    peer = Peer()
    config = TunnelConfig(reconnect_base_delay=0.001, reconnect_max_delay=0.002)
    service = TunnelService(config, new_transport=peer, on_message=lambda message: None)
    service.connect(URL, timeout=DEADLINE)
    failures: list[BaseException] = []

    def keep(call: Callable[[], object]) -> None:
        try:
            for _ in range(20):
                call()
        except BaseException as error:
            failures.append(error)

    def connect_or_not() -> None:
        with contextlib.suppress(InvalidStateError, ConnectTimeoutError):
            service.connect(URL, timeout=0)

    calls = (
        lambda: service.reconnect(timeout=DEADLINE),
        lambda: service.handle_network_change(True),
        lambda: service.send("x", timeout=DEADLINE),
        peer.cut,
        connect_or_not,
        lambda: service.update_config(service.config.replace(jitter=0)),
    )
    threads = [threading.Thread(target=keep, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    service.disconnect()
    assert failures == []
    assert service.state is S.DISCONNECTED
    assert not service.worker.is_running


def test_a_queue_of_something_else_is_refused() -> None:
    """A queue that holds what no WebSocket can carry is refused when the service is made."""
    queue = RequestQueue()
    queue.enqueue("a message")
    queue.enqueue({"not": "a message"})
    with pytest.raises(TypeError, match="holds a dict"):
        TunnelService(request_queue=queue)
