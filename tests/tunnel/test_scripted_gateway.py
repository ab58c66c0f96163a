"""The gateway that a test plays: what it says and does by itself, and what it is told to do."""

from __future__ import annotations

from typing import Any

import pytest

from tunnel.config import TunnelConfig
from tunnel.errors import SessionLostError
from tunnel.lifecycle import TunnelConnectionState
from tunnel.outbox import Message
from tunnel.request_frames import TunnelRequest, decode_request
from tunnel.service import TunnelService
from tunnel.session_frames import FrameKind, Limits, Parcel
from tunnel.testing import FakeClock, ScriptedGateway, ScriptedTransport, drive

S = TunnelConnectionState


class World:
    """A tunnel, and the gateway of the script."""

    def __init__(self, limits: Limits | None = None, **settings: Any) -> None:
        self.clock = FakeClock()
        self.network = ScriptedTransport(self.clock)
        self.gateway = ScriptedGateway(self.network, limits=limits)
        self.got: list[Message] = []
        self.lost: list[SessionLostError] = []
        self.service = TunnelService(
            TunnelConfig(jitter=0, **settings),
            clock=self.clock,
            new_transport=self.network,
            on_message=self.got.append,
            on_session_lost=self.lost.append,
        )

    def connect(self) -> World:
        self.service.connect("ws://example.com/")
        return self

    def run(self, seconds: float = 5.0) -> None:
        drive(self.service, timeout=seconds)


@pytest.fixture
def world() -> World:
    return World().connect()


def test_takes_and_acknowledges(world: World) -> None:
    """It keeps what it gets, once and in order, and acknowledges it at once."""
    for message in ("a", b"b", ""):
        world.service.send(message)
    world.run()
    assert world.gateway.received == ["a", b"b", ""]
    assert world.service.statistics()["unacknowledged"] == 0


def test_an_echo(world: World) -> None:
    """It may answer at once, in its callback."""
    world.gateway.on_message = world.gateway.send
    world.service.send("a")
    world.service.send(b"b")
    world.run()
    assert world.got == ["a", b"b"]


def test_what_is_sent_without_a_link_waits(world: World) -> None:
    """Before the first link, and between two."""
    early = World()
    early.gateway.send("early")
    early.connect().run()
    assert early.got == ["early"]
    world.network.cut()
    world.gateway.send("a", "b")
    world.run()
    assert world.got == ["a", "b"]
    assert world.gateway.resumptions == 1


def test_nothing_goes_before_the_answer(world: World) -> None:
    """While the link is up and the session is not, what is sent waits as well."""
    arrived = world.network.on_message
    assert arrived is not None

    def send_first(frame: Message) -> None:
        world.network.on_message = arrived
        world.gateway.send("a")
        arrived(frame)

    world.network.on_message = send_first
    world.network.cut()
    world.run()
    assert world.got == ["a"]


def test_what_was_not_acknowledged_is_sent_again(world: World) -> None:
    """It may have got lost with the link, as the gateway's messages may."""
    world.network.fall_silent()
    world.gateway.send("a", "b")
    world.service.send("c")
    world.network.cut()
    world.run()
    assert world.got == ["a", "b"]
    assert world.gateway.received == ["c"]


def test_it_may_take_nothing(world: World) -> None:
    """Then the tunnel keeps it, until the gateway is told to take it."""
    world.gateway.acknowledges = False
    world.service.send("a")
    world.run()
    assert world.gateway.received == ["a"]
    assert world.service.statistics()["unacknowledged"] == 1
    world.gateway.acknowledge()
    world.run()
    assert world.service.statistics()["unacknowledged"] == 0


def test_its_window_is_what_it_says() -> None:
    """A tunnel sends no more than the limits; for itself it minds those of the tunnel, in bytes."""
    world = World(Limits(3, 2**20, 2**20), receive_high_water=1024).connect()
    world.gateway.acknowledges = False
    for number in range(5):
        world.service.send(f"{number}")
    world.run()
    assert world.gateway.received == ["0", "1", "2"]
    world.gateway.send(*["ä" * 200] * 10)
    world.run()
    assert world.got == ["ä" * 200] * 10
    assert world.service.state is S.CONNECTED


def test_a_session_that_it_forgets(world: World) -> None:
    """What still comes of it leads nowhere, and it cannot be resumed."""
    world.gateway.forget()
    world.service.send("a")
    world.run()
    assert world.gateway.received == []
    world.network.cut()
    world.run()
    assert world.gateway.sessions_opened == 2
    assert [error.unacknowledged for error in world.lost] == [("a",)]


def test_another_session_is_not_the_one(world: World) -> None:
    """A session that it does not know is gone, though it has one."""
    session = world.gateway.session
    assert session is not None
    session.id = b"x" * 16
    world.network.cut()
    world.gateway.send("not for you")
    world.run()
    assert world.gateway.sessions_opened == 2
    assert world.got == ["not for you"]


def test_it_may_end_a_session(world: World) -> None:
    """The tunnel opens another one."""
    world.gateway.end("enough")
    world.run()
    assert world.gateway.sessions_opened == 2
    assert len(world.lost) == 1
    assert world.service.state is S.CONNECTED


def test_it_hears_of_the_end(world: World) -> None:
    """A tunnel that ends its session is not expected back."""
    world.service.disconnect()
    assert world.gateway.session is None
    assert world.network.close_codes == [1000]


def test_it_may_ask(world: World) -> None:
    """Asked, the tunnel acknowledges at once what it has taken."""
    world.gateway.send("a")
    drive(world.service, lambda: bool(world.got), timeout=1.0)
    session = world.gateway.session
    assert session is not None
    assert session.unacknowledged == 1
    now = world.clock.monotonic()
    world.gateway.ask()
    drive(world.service, lambda: session.unacknowledged == 0, timeout=1.0)
    assert world.clock.monotonic() == now


@pytest.mark.parametrize(
    ("message", "code"), [("text", 1002), (b"\x63\0\0\0\0", 1002), (b"\x02" + bytes(200), 1009)]
)
def test_it_knows_the_rules(message: Message, code: int) -> None:
    """A tunnel that broke the protocol would be told so."""
    world = World(Limits(10, 1000, 100)).connect()
    codes: list[int] = []
    close = world.network.close

    def note(code: int = 1000, reason: str = "") -> None:
        codes.append(code)
        close(code, reason)

    world.network.close = note  # type: ignore[method-assign]
    assert world.network.on_message is not None
    world.network.on_message(message)
    assert codes == [code]


def test_it_may_forget_within_a_callback(world: World) -> None:
    """The callback of a message may do what a test wants."""
    world.gateway.on_message = lambda _: world.gateway.forget()
    world.service.send("a")
    world.run()
    assert world.gateway.received == ["a"]
    assert world.gateway.session is None


def test_requests_and_answers(world: World) -> None:
    """Requests are kept apart; their answers are sent as anything else."""

    def answer(parcel: Parcel) -> None:
        request: TunnelRequest = decode_request(parcel)
        world.gateway.respond(parcel, request.payload, status_code=201)

    world.gateway.on_request = answer
    response = world.service.request("hello")
    assert (response.status_code, response.payload) == (201, b"hello")
    world.gateway.on_request = lambda parcel: world.gateway.respond(parcel, "text")
    assert world.service.request("hello").payload == b"text"
    world.gateway.on_request = None
    world.service.submit("again").cancel()
    world.run()
    kinds = [parcel.kind for parcel in world.gateway.requests]
    assert kinds == [*[FrameKind.REQUEST] * 3, FrameKind.CANCEL]
    with pytest.raises(ValueError, match="a cancellation is not answered"):
        world.gateway.respond(world.gateway.requests[-1])
