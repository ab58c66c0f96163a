"""The scripted peer, by itself and as the network of a whole tunnel."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from tunnel import TunnelConfig, TunnelConnectionState, TunnelService
from tunnel.addresses import TunnelUrl
from tunnel.dial import DialInterrupted
from tunnel.errors import (
    ConnectionClosedByPeerError,
    ConnectRefusedError,
    ConnectTimeoutError,
    DnsResolutionError,
    ProtocolError,
)
from tunnel.frames import Close, FrameDecoder, FrameEncoder, Incoming, Pong
from tunnel.stream import Readiness
from tunnel.testing import FakeClock, ScriptedTransport, drive
from tunnel.transport import DialRequest, Transport
from tunnel.waker import Waker

S = TunnelConnectionState
CLIENT = FrameEncoder()
URL = TunnelUrl.parse("ws://peer.test/")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def network(clock: FakeClock) -> ScriptedTransport:
    return ScriptedTransport(clock)


def dial(
    network: ScriptedTransport,
    timeout: float = 10.0,
    interrupted: Callable[[], bool] = lambda: False,
    waker: Waker | None = None,
) -> Transport:
    transport = network(waker or Waker())
    transport.open(DialRequest(URL, timeout=timeout), interrupted)
    return transport


def frames(transport: Transport) -> list[Incoming]:
    """What there is to read."""
    decoder = FrameDecoder()
    found: list[Incoming] = []
    while chunk := transport.receive(65536):
        found += decoder.feed(chunk)
    return found


# Dials


def test_it_accepts_and_remembers_dials(network: ScriptedTransport) -> None:
    """A dial succeeds at once, and its request is kept."""
    assert not network.is_connected
    transport = dial(network)
    assert network.is_connected
    assert [request.url for request in network.dials] == [URL]
    assert transport.subprotocol is None
    assert transport.response_headers == {}
    assert isinstance(transport.waker, Waker)


def test_it_refuses_until_it_accepts(network: ScriptedTransport) -> None:
    """Refused dials fail as if nobody listened, and count as dials."""
    network.refuse()
    with pytest.raises(ConnectRefusedError, match="nobody listens"):
        dial(network)
    assert not network.is_connected
    network.accept()
    dial(network)
    assert len(network.dials) == 2


def test_it_refuses_as_it_is_told(network: ScriptedTransport) -> None:
    """An error of one's own is raised as the transport would: translated."""
    network.refuse(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    with pytest.raises(DnsResolutionError):
        dial(network)


def test_refusing_for_weeks_takes_no_memory(network: ScriptedTransport) -> None:
    """The same error raised again and again does not collect the frames of all times."""
    network.refuse(ConnectRefusedError("no"))
    for _ in range(50):
        with pytest.raises(ConnectRefusedError) as caught:
            dial(network)
    depth, traceback = 0, caught.value.__traceback__
    while traceback is not None:
        depth, traceback = depth + 1, traceback.tb_next
    assert depth < 10


def test_a_dial_takes_the_latency(network: ScriptedTransport, clock: FakeClock) -> None:
    """With a latency a dial takes that long."""
    network.latency = 1.5
    dial(network)
    assert clock.monotonic() == 1.5


def test_a_dial_that_takes_too_long(network: ScriptedTransport, clock: FakeClock) -> None:
    """A latency beyond the dial's time-out is a time-out, when that is over."""
    network.latency = 60.0
    with pytest.raises(ConnectTimeoutError, match="within 10 s"):
        dial(network)
    assert clock.monotonic() == 10.0
    assert not network.is_connected
    assert len(network.dials) == 1


def test_a_dial_can_be_interrupted(network: ScriptedTransport, clock: FakeClock) -> None:
    """A wake-up that takes the dial's purpose ends it; any other does not."""
    network.latency = 5.0
    waker = Waker()
    purposeless: list[bool] = []
    clock.call_at(1.0, waker.wake)
    clock.call_at(2.0, lambda: (purposeless.append(True), waker.wake()))
    with pytest.raises(DialInterrupted):
        dial(network, interrupted=lambda: bool(purposeless), waker=waker)
    assert clock.monotonic() == 2.0
    assert not network.is_connected


# The connection


def test_messages_both_ways(network: ScriptedTransport) -> None:
    """What the tunnel sends is received, in pieces or not; what the peer sends can be read."""
    transport = dial(network)
    data = CLIENT.message("text") + CLIENT.message(b"bytes")
    assert transport.send(data[:5]) == 5
    assert transport.send(memoryview(data)[5:]) == len(data) - 5
    assert network.received == ["text", b"bytes"]
    assert not transport.has_unread()
    network.send("a", b"b")
    assert transport.has_unread()
    assert frames(transport) == ["a", b"b"]
    assert transport.receive(1) is None
    assert transport.wait_writable(0.0)


def test_an_echo(network: ScriptedTransport) -> None:
    """`on_message` may send."""
    transport = dial(network)
    network.on_message = network.send
    transport.send(CLIENT.message("echo"))
    assert frames(transport) == ["echo"]


def test_without_a_connection_nothing_is_sent(network: ScriptedTransport) -> None:
    """What is sent to nobody is lost, and cutting nothing does nothing."""
    network.send("lost")
    network.cut()
    assert frames(dial(network)) == []


def test_pings_are_answered_unless_they_are_not(network: ScriptedTransport) -> None:
    """A ping is answered by its pong, until `answers_pings` says otherwise."""
    transport = dial(network)
    transport.send(CLIENT.ping(b"1"))
    assert frames(transport) == [Pong(b"1")]
    network.answers_pings = False
    transport.send(CLIENT.ping(b"2"))
    assert frames(transport) == []


def test_a_pong_takes_the_latency(network: ScriptedTransport, clock: FakeClock) -> None:
    """With a latency the pong comes that much later; a pong of ours is not answered."""
    transport = dial(network)
    network.latency = 0.25
    transport.send(CLIENT.ping(b"1") + CLIENT.pong(b"unasked"))
    clock.advance(0.2)
    assert frames(transport) == []
    clock.advance(0.05)
    assert frames(transport) == [Pong(b"1")]


def test_a_late_pong_dies_with_its_connection(network: ScriptedTransport, clock: FakeClock) -> None:
    """A pong under way when the link is cut does not arrive on the next one."""
    transport = dial(network)
    network.latency = 5.0
    transport.send(CLIENT.ping(b"1"))
    network.cut()
    network.latency = 0.0
    later = dial(network)
    clock.advance(10)
    assert frames(later) == []


def test_silence(network: ScriptedTransport) -> None:
    """A half-open link takes everything and says nothing, until the next dial."""
    transport = dial(network)
    network.fall_silent()
    assert network.is_silent
    assert transport.send(CLIENT.ping(b"1") + CLIENT.message("lost")) > 0
    network.send("lost")
    assert frames(transport) == []
    assert network.received == []
    assert network.is_connected
    later = dial(network)
    assert not network.is_silent
    network.send("heard")
    assert frames(later) == ["heard"]


def test_a_cut(network: ScriptedTransport) -> None:
    """After a cut what was sent before can be read, then the stream ends; writing fails."""
    transport = dial(network)
    network.send("before")
    network.cut()
    assert not network.is_connected
    assert transport.has_unread()
    assert frames(transport) == ["before"]
    assert transport.receive(1) == b""
    with pytest.raises(ConnectionResetError):
        transport.send(CLIENT.message("late"))


def test_our_close_is_answered(network: ScriptedTransport) -> None:
    """A close frame is answered with its code, noted, and the stream ends."""
    transport = dial(network)
    transport.send(CLIENT.close(4000))
    assert frames(transport) == [Close(4000)]
    assert transport.receive(1) == b""
    assert network.close_codes == [4000]
    assert not network.is_connected


def test_our_close_without_a_code(network: ScriptedTransport) -> None:
    """A close frame without a code is answered without one."""
    transport = dial(network)
    transport.send(CLIENT.close(None))
    assert frames(transport) == [Close(1005)]
    assert network.close_codes == [1005]


def test_the_peers_close(network: ScriptedTransport) -> None:
    """The peer's close frame has its code and reason; the answer ends the stream."""
    transport = dial(network)
    network.close(1012, "restart")
    assert frames(transport) == [Close(1012, "restart")]
    assert network.is_connected
    transport.send(CLIENT.close(1012))
    assert not network.is_connected


def test_an_old_connection_does_not_end_the_new(network: ScriptedTransport) -> None:
    """Closing or aborting a connection that is not the present one changes nothing."""
    old = dial(network)
    dial(network)
    old.abort()
    old.close()
    assert network.is_connected


def test_closing_the_present_one(network: ScriptedTransport) -> None:
    """When the tunnel closes its socket, there is no connection any more."""
    transport = dial(network)
    transport.close()
    assert not network.is_connected


# Waiting


def test_waiting_passes_virtual_time(network: ScriptedTransport, clock: FakeClock) -> None:
    """Without anything to do time passes; bytes, a wake-up and the end cut it short."""
    waker = Waker()
    transport = dial(network, waker=waker)
    assert transport.wait(read=True, write=False, timeout=5) == Readiness(*[False] * 4)
    assert clock.monotonic() == 5.0
    clock.call_at(7.0, lambda: network.send("x"))
    ready = transport.wait(read=True, write=False, timeout=5)
    assert ready.readable
    assert clock.monotonic() == 7.0
    assert transport.wait(read=True, write=False, timeout=5).readable
    waker.clear()
    assert transport.wait(read=True, write=True, timeout=5).writable
    assert clock.monotonic() == 7.0


def test_unread_bytes_are_not_waited_for(network: ScriptedTransport, clock: FakeClock) -> None:
    """A wait that is not for bytes goes on while they lie there; the end ends it, each time."""
    waker = Waker()
    transport = dial(network, waker=waker)
    network.send("unread")
    waker.clear()
    assert transport.wait(read=False, write=False, timeout=5) == Readiness(*[False] * 4)
    network.cut()
    waker.clear()
    for _ in range(2):
        ready = transport.wait(read=False, write=False, timeout=5)
        assert (ready.readable, ready.ended) == (False, True)
    assert clock.monotonic() == 5.0


# As the network of a tunnel


def make_service(clock: FakeClock, network: ScriptedTransport, **settings: object) -> TunnelService:
    config = TunnelConfig(jitter=0.0, reconnect_base_delay=1.0).replace(**settings)
    return TunnelService(config, clock=clock, new_transport=network)


@pytest.mark.requirement("1.4", "1.7")
def test_a_tunnel_comes_back(network: ScriptedTransport, clock: FakeClock) -> None:
    """Cut, refused for a while, and back: what was sent meanwhile arrives, in order."""
    service = make_service(clock, network)
    service.connect("ws://peer.test/")
    service.send("1")
    network.cut()
    network.refuse()
    clock.call_at(2.5, network.accept)
    drive(service, lambda: service.state is not S.CONNECTED)
    service.send("2")
    service.send("3")
    assert drive(service, lambda: len(network.received) == 3, timeout=60)
    assert network.received == ["1", "2", "3"]
    assert len(network.dials) == 3
    service.disconnect()
    assert network.close_codes == [1000]
    assert not network.is_connected


@pytest.mark.requirement("6.2")
def test_a_silent_peer_is_left(network: ScriptedTransport, clock: FakeClock) -> None:
    """A half-open link is given up after the pong time-out, and dialled anew."""
    service = make_service(clock, network)
    service.connect("ws://peer.test/")
    network.fall_silent()
    assert drive(service, lambda: len(network.dials) == 2, timeout=60)
    assert clock.monotonic() == pytest.approx(46.0)
    service.disconnect(graceful=False)


def test_a_peer_that_breaks_the_protocol(network: ScriptedTransport, clock: FakeClock) -> None:
    """Raw bytes that are no frame are answered with 1002, and the tunnel does not come back."""
    service = make_service(clock, network)
    service.connect("ws://peer.test/")
    network.feed(b"\xff\xff")
    assert drive(service, lambda: service.state is S.ERROR, timeout=10)
    assert network.close_codes == [1002]
    assert isinstance(service._driver.last_error, ProtocolError)


def test_a_paused_tunnel_finds_the_cut(network: ScriptedTransport, clock: FakeClock) -> None:
    """A tunnel that pauses reading for a slow consumer notices the end all the same."""
    service = make_service(clock, network, receive_high_water=1024, ping_interval=None)
    service.connect("ws://peer.test/")
    network.send(bytes(5000), b"next")
    drive(service, timeout=1)
    network.cut()
    assert drive(service, lambda: len(network.dials) == 2, timeout=10)
    service.disconnect(graceful=False)


def test_a_hanging_dial_is_called_off(network: ScriptedTransport, clock: FakeClock) -> None:
    """`disconnect` during a dial that hangs ends it at that moment."""
    service = make_service(clock, network, connect_timeout=30.0)
    network.latency = 1000.0
    service.connect("ws://peer.test/", wait=False)
    clock.call_at(3.0, lambda: service.disconnect(graceful=False, timeout=0))
    drive(service, lambda: service.state is S.CONNECTING or bool(network.dials), timeout=60)
    assert drive(service, lambda: service.state is S.DISCONNECTED, timeout=60)
    assert len(network.dials) == 1
    assert clock.monotonic() == 3.0
    assert not network.is_connected


def test_the_peers_close_code(network: ScriptedTransport, clock: FakeClock) -> None:
    """A close by the peer is a loss with its code."""
    errors: list[object] = []
    service = make_service(clock, network)
    service.subscribe(lambda event: errors.append(service._driver.last_error))
    service.connect("ws://peer.test/")
    network.close(4000, "later")
    assert drive(service, lambda: len(network.dials) == 2, timeout=10)
    assert any(
        isinstance(error, ConnectionClosedByPeerError) and error.close_code == 4000
        for error in errors
    )
    assert network.close_codes == [4000]
    service.disconnect()
