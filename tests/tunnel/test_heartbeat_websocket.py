"""The single watched connection: on a scripted peer, and on a real server on loopback."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import websocket
from loguru import logger
from websockets.sync.server import ServerConnection

from tests.plain_server import plain_server
from tunnel import HeartbeatWebSocket
from tunnel.addresses import TunnelUrl
from tunnel.config import TunnelConfig
from tunnel.errors import (
    ConfigurationError,
    ConnectionClosedByPeerError,
    ConnectionLostError,
    ConnectRefusedError,
    HeartbeatTimeoutError,
    InvalidStateError,
    MessageTooBigError,
    NotConnectedError,
    PayloadTypeError,
    QueueFullError,
    ResourceExhaustedError,
    TunnelError,
)
from tunnel.testing import FakeClock, ScriptedTransport, drive
from tunnel.transport import DialRequest, Transport, WebSocketTransport
from tunnel.waker import Waker

pytestmark = pytest.mark.usefixtures("no_leaks")

REQUEST = DialRequest(TunnelUrl.parse("ws://peer.test/"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def network(clock: FakeClock) -> ScriptedTransport:
    return ScriptedTransport(clock)


@pytest.fixture
def transport(network: ScriptedTransport) -> Transport:
    transport = network(Waker())
    transport.open(REQUEST, lambda: False)
    return transport


Make = Callable[..., HeartbeatWebSocket]


@pytest.fixture
def make(transport: Transport, clock: FakeClock) -> Make:
    """Makes a started connection over the scripted peer."""

    def make(**options: object) -> HeartbeatWebSocket:
        connection = HeartbeatWebSocket(transport, clock=clock, **options)  # type: ignore[arg-type]
        connection.start()
        return connection

    return make


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """What is logged as an error."""
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="ERROR")
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


def over(connection: HeartbeatWebSocket) -> bool:
    return not connection.worker.is_running


# On the scripted peer


def test_all_its_lines_carry_the_same_ids(make: Make) -> None:
    """From the first line to the last, heartbeats too, they can be told from another's."""
    extras: list[dict[str, object]] = []
    logger.enable("tunnel")
    sink = logger.add(lambda message: extras.append(message.record["extra"]), level=0)
    try:
        connection = make(ping_interval=30.0)
        drive(connection, timeout=31.0)
        connection.close()
    finally:
        logger.remove(sink)
        logger.disable("tunnel")
    (connection_id,) = {extra["connection_id"] for extra in extras}
    assert {extra["dial_id"] for extra in extras} == {f"{connection_id}-1"}
    assert len(extras) >= 4


def test_as_the_seed_uses_it(network: ScriptedTransport, make: Make, clock: FakeClock) -> None:
    """Start, send, receive, look at the statistics, close: the pongs are not among the messages."""
    lines: list[str] = []
    lost: list[TunnelError] = []
    network.on_message = network.send
    connection = make(
        ping_interval=30.0, pong_timeout=45.0, on_connection_lost=lost.append, on_log=lines.append
    )
    connection.send("Hello")
    drive(connection, timeout=95.0)
    connection.send(b"again")
    stats = connection.get_heartbeat_stats()
    assert stats["pings_sent"] == 3
    assert stats["pongs_received"] == 3
    assert stats["missed_pongs"] == 0
    assert stats["is_healthy"] is True
    connection.close()
    assert list(connection.messages()) == ["Hello", b"again"]
    assert network.received == ["Hello", b"again"]
    assert network.close_codes == [1000]
    assert connection.error is None
    assert lost == []
    assert lines == ["connected", "closed"]
    stats = connection.get_heartbeat_stats()
    assert (stats["pings_sent"], stats["status"], stats["is_healthy"]) == (3, "stopped", False)


@pytest.mark.requirement("6.2")
def test_lost_by_silence(network: ScriptedTransport, make: Make, clock: FakeClock) -> None:
    """A silent peer is lost 45 s after its last byte; that is told once, with the error."""
    lost: list[TunnelError] = []
    lines: list[str] = []
    connection = make(on_connection_lost=lost.append, on_log=lines.append)
    clock.call_at(20.0, lambda: network.send("last"))
    clock.call_at(20.0, network.fall_silent)
    assert drive(connection, lambda: over(connection), timeout=1000)
    assert clock.monotonic() == 65.0
    assert lost == [connection.error]
    assert isinstance(connection.error, HeartbeatTimeoutError)
    assert lines == ["connected", "lost: no sign of life for 45.0 s"]
    assert list(connection.messages()) == ["last"]
    stats = connection.get_heartbeat_stats()
    assert (stats["is_healthy"], stats["status"]) == (False, "stopped")
    assert stats["pings_sent"] == stats["missed_pongs"] == 2
    with pytest.raises(NotConnectedError):
        connection.send("late")
    connection.close()
    assert lost == [connection.error]


def test_lost_by_a_cut(network: ScriptedTransport, make: Make) -> None:
    """The end of the stream ends the messages, and is an error, with or without a callback."""
    connection = make()
    network.send("last")
    network.cut()
    assert drive(connection, lambda: over(connection), timeout=1)
    assert isinstance(connection.error, ConnectionLostError)
    assert list(connection.messages()) == ["last"]


def test_closed_by_the_peer(network: ScriptedTransport, make: Make) -> None:
    """The peer's close frame is answered, and is a loss with its code."""
    lost: list[TunnelError] = []
    connection = make(on_connection_lost=lost.append)
    network.close(4001, "enough")
    assert drive(connection, lambda: over(connection), timeout=10)
    (error,) = lost
    assert isinstance(error, ConnectionClosedByPeerError)
    assert error.close_code == 4001
    assert network.close_codes == [4001]


def test_text_mode(network: ScriptedTransport, make: Make, clock: FakeClock) -> None:
    """In text mode beats are messages on the wire, and none to the application."""
    connection = make(mode="text")
    network.on_message = lambda message: network.send("pong", "data") if message == "ping" else None
    drive(connection, timeout=95.0)
    network.send("ping")
    drive(connection, timeout=1.0)
    assert network.received == ["ping", "ping", "ping", "pong"]
    assert connection.get_heartbeat_stats()["pongs_received"] == 3
    connection.close()
    assert list(connection.messages()) == ["data"] * 3


def test_without_a_heartbeat(network: ScriptedTransport, make: Make) -> None:
    """With `ping_interval=None` nothing is sent, and there are no numbers but zero."""
    connection = make(ping_interval=None)
    drive(connection, timeout=10_000)
    stats = connection.get_heartbeat_stats()
    assert (stats["pings_sent"], stats["last_ping_sent"]) == (0, None)
    connection.close()
    assert network.close_codes == [1000]


def test_callbacks_that_raise_harm_nothing(
    network: ScriptedTransport, make: Make, errors: list[str]
) -> None:
    """What `on_log` and `on_connection_lost` raise is logged; the messages end all the same."""

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    connection = make(on_log=fail, on_connection_lost=fail)
    network.cut()
    assert drive(connection, lambda: over(connection), timeout=1)
    assert errors == ["on_log raised", "on_log raised", "on_connection_lost raised"]
    assert list(connection.messages()) == []


def test_a_bug_ends_it(transport: Transport, make: Make, errors: list[str]) -> None:
    """Whatever a transport raises, the connection ends with an error instead of hanging."""
    lost: list[TunnelError] = []
    connection = make(on_connection_lost=lost.append)

    def receive(size: int) -> bytes:
        raise ZeroDivisionError("a bug")

    transport.receive = receive  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):  # for whoever drives it; a thread would live on
        drive(connection, lambda: over(connection), timeout=1)
    assert drive(connection, lambda: over(connection), timeout=1)
    assert errors == ["the connection failed"]
    assert lost == [connection.error]
    assert list(connection.messages()) == []


# Sending


def test_what_cannot_be_sent(make: Make) -> None:
    """Wrong data is refused at the call, and the connection lives."""
    connection = make(max_message_size=10)
    with pytest.raises(PayloadTypeError):
        connection.send(3)  # type: ignore[arg-type]
    with pytest.raises(MessageTooBigError):
        connection.send("ä" * 6)
    with pytest.raises(ValueError, match="lone surrogate"):
        connection.send("\ud800")
    connection.send("good")
    connection.close()


def test_before_the_start(transport: Transport, clock: FakeClock) -> None:
    """Nothing can be sent before the start; the statistics are zero."""
    connection = HeartbeatWebSocket(transport, clock=clock)
    with pytest.raises(NotConnectedError):
        connection.send("early")
    assert connection.get_heartbeat_stats()["pings_sent"] == 0
    assert connection.error is None
    connection.close()


class Stalled:
    """Makes a scripted connection take nothing, until told otherwise."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._send, self._wait = transport.send, transport.wait
        self.is_on = False
        transport.send = self.send  # type: ignore[method-assign]
        transport.wait = self.wait  # type: ignore[method-assign]
        transport.wait_writable = lambda timeout: not self.is_on  # type: ignore[method-assign]

    def send(self, data: memoryview | bytes) -> int:
        return 0 if self.is_on else self._send(data)

    def wait(self, *, read: bool, write: bool, timeout: float | None) -> object:
        return self._wait(read=read, write=write and not self.is_on, timeout=timeout)


def test_backpressure(transport: Transport, make: Make, clock: FakeClock) -> None:
    """While the peer does not read, `send` waits for room as long as it takes."""
    connection = make(max_queue_size=2, ping_interval=None)
    stall = Stalled(transport)
    stall.is_on = True
    connection.send("1")
    connection.send("2")

    def recover() -> None:
        stall.is_on = False
        connection._watch.link.writer.flush(may_wait=False)  # as the thread would

    clock.call_at(500.0, recover)
    connection.send("3")
    assert clock.monotonic() == 500.0
    connection.close()


def test_a_loss_ends_the_wait_for_room(
    transport: Transport, make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for room when the connection is lost is told so, and does not wait for ever."""
    connection = make(max_queue_size=1, ping_interval=None)
    monkeypatch.setattr(connection._queue, "restore", lambda: None)  # which wakes them by accident
    Stalled(transport).is_on = True
    connection.send("1")
    clock.call_at(5.0, lambda: connection._watch._finish(ConnectionLostError("lost")))
    with pytest.raises(NotConnectedError):
        connection.send("2")
    assert clock.monotonic() == 5.0
    drive(connection, lambda: over(connection), timeout=1)


def test_a_callback_does_not_wait_for_room(
    transport: Transport, make: Make, network: ScriptedTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the connection's own thread a queue that is full beyond all measure is refused."""
    monkeypatch.setattr("tunnel.sender._CALLBACK_BACKLOG", 100)
    refused: list[TunnelError] = []
    connection = make(max_queue_size=1, ping_interval=None)
    Stalled(transport).is_on = True
    receive = transport.receive

    def flood(size: int) -> bytes | None:  # runs within the thread's step, as a callback does
        try:
            while not refused:
                connection.send("flood")
        except QueueFullError as error:
            refused.append(error)
        return receive(size)

    transport.receive = flood  # type: ignore[method-assign]
    drive(connection, timeout=0.1)
    assert refused
    connection.close(timeout=1)


# Closing


def test_close_drains_first(transport: Transport, make: Make, network: ScriptedTransport) -> None:
    """What is queued is written before the close frame."""
    connection = make(ping_interval=None)
    stall = Stalled(transport)
    stall.is_on = True
    for number in range(5):
        connection.send(f"{number}")
    assert network.received == []
    connection._clock.call_at(2.0, lambda: setattr(stall, "is_on", False))
    connection._clock.call_at(2.0, transport.waker.wake)
    connection.close()
    assert network.received == [f"{number}" for number in range(5)]
    assert network.close_codes == [1000]
    assert connection.error is None


def test_close_keeps_its_time_out(
    transport: Transport, make: Make, network: ScriptedTransport, clock: FakeClock
) -> None:
    """A peer that does not answer gets until the time-out; then the close was not clean."""
    connection = make(ping_interval=None)
    network.fall_silent()
    connection.close(timeout=3.0)
    assert clock.monotonic() == pytest.approx(3.0)
    assert over(connection)
    assert isinstance(connection.error, ConnectionLostError)
    assert "did not answer" in connection.error.message
    assert list(connection.messages()) == []


def test_close_gives_up_on_what_cannot_be_written(
    transport: Transport, make: Make, network: ScriptedTransport, clock: FakeClock
) -> None:
    """Queued messages that the peer does not take keep nobody beyond the time-out."""
    connection = make(ping_interval=None)
    Stalled(transport).is_on = True
    connection.send("never")
    connection.close(timeout=3.0)
    assert clock.monotonic() == pytest.approx(3.0)
    assert over(connection)
    assert network.received == []


def test_a_cut_while_closing_is_not_told(
    make: Make, network: ScriptedTransport, clock: FakeClock
) -> None:
    """Who closes is not told of a loss; `error` says that it was not clean."""
    lost: list[TunnelError] = []
    connection = make(on_connection_lost=lost.append, ping_interval=None)
    network.fall_silent()
    clock.call_at(1.0, network.cut)
    connection.close()
    assert lost == []
    assert isinstance(connection.error, ConnectionLostError)


def test_closing_twice(make: Make, network: ScriptedTransport) -> None:
    """A second close does nothing, nor does one after a loss."""
    connection = make()
    connection.close()
    connection.close()
    assert network.close_codes == [1000]
    with pytest.raises(NotConnectedError):
        connection.send("late")


def test_close_in_the_callback(network: ScriptedTransport, make: Make) -> None:
    """`close` in `on_connection_lost` does not wait for itself."""
    closed: list[bool] = []
    connection = make(on_connection_lost=lambda error: closed.append(connection.close() is None))
    network.cut()
    assert drive(connection, lambda: over(connection), timeout=1)
    assert closed == [True]


def test_a_context_manager(
    transport: Transport, network: ScriptedTransport, clock: FakeClock
) -> None:
    """It starts on entering, and closes on leaving."""
    with HeartbeatWebSocket(transport, clock=clock) as connection:
        connection.send("inside")
    assert network.received == ["inside"]
    assert network.close_codes == [1000]


def test_close_before_the_start(
    transport: Transport, network: ScriptedTransport, clock: FakeClock
) -> None:
    """A connection that was handed over and never started is closed, and cannot be started."""
    connection = HeartbeatWebSocket(transport, clock=clock)
    connection.close()
    assert not network.is_connected
    assert list(connection.messages()) == []
    with pytest.raises(InvalidStateError, match="not after close"):
        connection.start()
    connection.close()


def test_it_starts_once(make: Make) -> None:
    """A second start is refused, and harms nothing."""
    connection = make()
    with pytest.raises(InvalidStateError, match="started once"):
        connection.start()
    connection.send("alive")
    connection.close()
    with pytest.raises(InvalidStateError, match="started once"):
        connection.start()


# What it is made of


@pytest.mark.parametrize("source", [None, 3, b"ws://x/", object()])
def test_what_it_cannot_be_made_of(source: object) -> None:
    """Anything but a URL, a transport or a connected WebSocket is a `TypeError`."""
    with pytest.raises(TypeError, match="made of a URL"):
        HeartbeatWebSocket(source)


@pytest.mark.parametrize(
    "options",
    [
        {"ping_interval": 0},
        {"ping_interval": -1},
        {"pong_timeout": 30.0},
        {"mode": "both"},
        {"connect_timeout": 0},
        {"max_message_size": 0},
        {"headers": {"X-Bad": "a\r\nb"}},
        {"subprotocols": ["no token"]},
    ],
)
def test_wrong_arguments(options: dict[str, object]) -> None:
    """Each argument is checked at once, before anything is opened."""
    with pytest.raises(ConfigurationError):
        HeartbeatWebSocket("ws://localhost/", **options)  # type: ignore[arg-type]


def test_a_wrong_url_or_setting() -> None:
    """So are the address and the names of settings."""
    with pytest.raises(ConfigurationError):
        HeartbeatWebSocket("http://localhost/")
    with pytest.raises(TypeError):
        HeartbeatWebSocket("ws://localhost/", colour="red")


def test_the_defaults() -> None:
    """30 s between pings, 45 s until a loss, as the configuration of a tunnel has them."""
    connection = HeartbeatWebSocket("ws://localhost/")
    config = connection._watch.config
    assert (config.ping_interval, config.effective_pong_timeout) == (30.0, 45.0)
    assert config == TunnelConfig()


# On a real server


def handle(connection: ServerConnection) -> None:
    for message in connection:
        if message == "bye":
            connection.close(4000, "as you wish")
            return
        connection.send(message)


@pytest.fixture
def url() -> Iterator[str]:
    """Of an echo server, which closes with 4000 when it is told "bye"."""
    with plain_server(handle, close_timeout=1) as url:
        yield url


@pytest.mark.requirement("6.1", "6.3")
def test_over_a_url(url: str) -> None:
    """Messages pass both ways, pings are answered, and `close` ends the iteration."""
    beats = threading.Semaphore(0)
    connection = HeartbeatWebSocket(url, ping_interval=0.02, pong_timeout=30.0)
    connection.start()
    heartbeat = connection._watch.link.heartbeat
    on_pong = heartbeat.on_pong
    heartbeat.on_pong = lambda payload: (on_pong(payload), beats.release())[0]
    connection.send("text")
    connection.send(b"bytes")
    messages = connection.messages()
    assert [next(messages), next(messages)] == ["text", b"bytes"]
    for _ in range(3):
        assert beats.acquire(timeout=10)
    stats = connection.get_heartbeat_stats()
    assert stats["pings_sent"] >= stats["pongs_received"] >= 3
    assert stats["round_trip"] > 0
    connection.close()
    assert list(messages) == []
    assert connection.error is None


def test_around_a_connected_websocket(url: str) -> None:
    """A connection of websocket-client's is taken over with all that it is."""
    client = websocket.create_connection(url)
    with HeartbeatWebSocket(client) as connection:
        connection.send("text")
        assert next(connection.messages()) == "text"
    assert not client.connected
    with pytest.raises(ValueError, match="not connected"):
        HeartbeatWebSocket(client)


def test_taken_over_and_closed_before_the_start(url: str) -> None:
    """What was taken over is closed by `close`, started or not."""
    client = websocket.create_connection(url)
    sock = client.sock
    HeartbeatWebSocket(client).close()
    assert sock.fileno() == -1


def test_the_server_closes(url: str) -> None:
    """A close by a real server is told with its code, after the messages before it."""
    lost: list[TunnelError] = []
    connection = HeartbeatWebSocket(url, on_connection_lost=lost.append)
    connection.start()
    connection.send("last")
    connection.send("bye")
    assert list(connection.messages()) == ["last"]
    connection.close()
    (error,) = lost
    assert isinstance(error, ConnectionClosedByPeerError)
    assert error.close_code == 4000


def test_an_iterator_in_another_thread_ends(url: str) -> None:
    """Who waits for a message when the connection is closed waits no longer, 50 times."""
    for _ in range(50):
        connection = HeartbeatWebSocket(url)
        connection.start()
        received: list[object] = []
        waiting = threading.Thread(target=lambda c=connection, r=received: r.extend(c.messages()))
        waiting.start()
        connection.send("one")
        connection.close()
        waiting.join(10)
        assert not waiting.is_alive()
        assert received in ([], ["one"])


@pytest.mark.parametrize("callback", ["on_log", "on_connection_lost"])
def test_a_callback_that_ends_its_thread(url: str, callback: str) -> None:
    """`sys.exit` in a callback ends the connection, and leaves nothing that waits for ever."""

    def leave(fact: object) -> None:
        if fact != "connected":
            sys.exit()

    connection = HeartbeatWebSocket(url, **{callback: leave})  # type: ignore[arg-type]
    connection.start()
    connection.send("bye")
    assert list(connection.messages()) == []
    connection.close(timeout=5.0)
    assert not connection.worker.is_running
    assert isinstance(connection.error, ConnectionClosedByPeerError)


def test_an_interrupt_in_the_transport(transport: Transport, make: Make) -> None:
    """What is no `Exception` ends the connection as well, and is raised in a test."""
    connection = make()

    def receive(size: int) -> bytes:
        raise KeyboardInterrupt

    transport.receive = receive  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        drive(connection, timeout=1)
    assert connection.error is not None
    assert "KeyboardInterrupt" in connection.error.message


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_start_that_fails() -> None:
    """The error is raised, the messages end, and neither thread nor descriptor is left."""
    for _ in range(10):
        connection = HeartbeatWebSocket(f"ws://127.0.0.1:{free_port()}/")
        with pytest.raises(ConnectRefusedError):
            connection.start()
        assert list(connection.messages()) == []
        with pytest.raises(InvalidStateError, match="started once"):
            connection.start()
        with pytest.raises(NotConnectedError):
            connection.send("x")
        connection.close()


def test_a_transport_that_was_not_opened() -> None:
    """The mistake ends the connection with an error, and nobody hangs."""
    connection = HeartbeatWebSocket(WebSocketTransport(Waker()))
    connection.start()
    assert list(connection.messages()) == []
    connection.close()
    assert isinstance(connection.error, TunnelError)


def test_no_thread_to_be_had(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started the connection is closed again."""
    connection = HeartbeatWebSocket(url)

    def start() -> None:
        raise ResourceExhaustedError("no threads left")

    monkeypatch.setattr(connection.worker, "start", start)
    with pytest.raises(ResourceExhaustedError):
        connection.start()
    assert list(connection.messages()) == []
    assert connection._watch.link is None
    connection.close()


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that accepts, and never answers the upgrade."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/"


def test_close_during_the_dial(mute: str) -> None:
    """`close` in another thread ends a dial that hangs; `start` says why it did not get there."""
    for _ in range(20):
        connection = HeartbeatWebSocket(mute)
        raised: list[BaseException] = []
        dialling = threading.Event()
        open_ = connection._transport.open

        def opening(
            request: DialRequest,
            interrupted: Callable[[], bool],
            open_: Callable[..., None] = open_,
            dialling: threading.Event = dialling,
        ) -> None:
            dialling.set()
            open_(request, interrupted)

        connection._transport.open = opening  # type: ignore[method-assign]

        def start(
            connection: HeartbeatWebSocket = connection, raised: list[BaseException] = raised
        ) -> None:
            try:
                connection.start()
            except BaseException as error:
                raised.append(error)

        starting = threading.Thread(target=start)
        starting.start()
        assert dialling.wait(10)
        connection.close()
        starting.join(5)
        assert not starting.is_alive()
        (refusal,) = raised
        assert isinstance(refusal, InvalidStateError)
        assert "closed while it was starting" in refusal.message
        assert list(connection.messages()) == []


def test_close_at_the_last_moment(url: str) -> None:
    """Closed after the dial has succeeded and before anything began: it does not begin."""
    connection = HeartbeatWebSocket(url)
    open_ = connection._transport.open

    def opening(request: DialRequest, interrupted: Callable[[], bool]) -> None:
        open_(request, interrupted)
        connection.close()

    connection._transport.open = opening  # type: ignore[method-assign]
    with pytest.raises(InvalidStateError, match="closed while it was starting"):
        connection.start()
    assert not connection.worker.is_running


def test_starting_in_several_threads(url: str) -> None:
    """However many start it, one succeeds, and the others are refused."""
    for _ in range(20):
        connection = HeartbeatWebSocket(url)
        barrier = threading.Barrier(4)
        outcomes: list[type[BaseException] | None] = []

        def start(
            connection: HeartbeatWebSocket = connection,
            barrier: threading.Barrier = barrier,
            outcomes: list[type[BaseException] | None] = outcomes,
        ) -> None:
            barrier.wait(10)
            try:
                connection.start()
                outcomes.append(None)
            except InvalidStateError:
                outcomes.append(InvalidStateError)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert outcomes.count(None) == 1
        assert outcomes.count(InvalidStateError) == 3
        connection.close()


def test_a_dead_peer_does_not_hold_close(mute: str) -> None:
    """A peer that never answers the close frame is left after the time-out."""
    with socket.create_connection(("127.0.0.1", int(mute[:-1].rsplit(":", 1)[1]))) as sock:
        client = websocket.WebSocket()
        client.sock, client.connected = sock, True
        connection = HeartbeatWebSocket(client)
        connection.start()
        connection.close(timeout=0.05)
    assert not connection.worker.is_running
    assert isinstance(connection.error, ConnectionLostError)
