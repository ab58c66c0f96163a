"""A server written from docs/wire-protocol.rst alone, against the client.

The other half of `test_wire_protocol`: scripts that say byte by byte what a server says, and hear
what the client says.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import pytest
from peers import BINARY, CLOSE, DEADLINE, PING, PONG, TEXT, Collector, Peer, RawServer

from tunnel import (
    ProtocolVersionError,
    RequestTimeoutError,
    SessionLostError,
    TunnelConnectionState,
    TunnelService,
)

MakeService = Callable[..., TunnelService]

RESUMES = {"Tunnel-Resume": "1"}
ID, TOKEN = bytes(range(16)), bytes(range(32, 64))
OPEN = "10 00008000 0000000000200000 0000000001000000"  # 32,768 frames, 2 MiB, 16 MiB


def opened(messages: int = 100, size: int = 2**20, message_size: int = 2**20) -> bytes:
    """The answer to OPEN."""
    return b"\x11" + ID + TOKEN + struct.pack(">IIQQ", 600, messages, size, message_size)


def resume(received: int) -> str:
    """What the client says to resume."""
    return (b"\x12" + ID + TOKEN + struct.pack(">Q", received)).hex()


class Script:
    """A server's side of one link."""

    def __init__(self, peer: Peer, *answers: bytes, headers: dict[str, str] = RESUMES) -> None:
        self.peer = peer
        peer.upgrade(headers)
        self.greetings = []
        for answer in answers:
            self.greetings.append(self.binary())
            self.say(answer)

    def say(self, frame: bytes | str) -> None:
        """Send a frame, as bytes or in hexadecimal."""
        self.peer.send(BINARY, bytes.fromhex(frame) if isinstance(frame, str) else frame)

    def binary(self) -> str:
        """The client's next frame, in hexadecimal."""
        opcode, payload = self.peer.receive()
        assert opcode == BINARY, (opcode, payload)
        return payload.hex()

    def numbered(self) -> str:
        """The same, without acknowledgements."""
        while (frame := self.binary()).startswith("08"):
            pass
        return frame

    def message(self) -> str:
        """The same, without ASK."""
        while (frame := self.numbered()) == "09":
            pass
        return frame

    def acknowledgement(self, number: int) -> None:
        """Wait until the client acknowledges this number."""
        while self.binary() != f"08{number:08x}":
            pass

    def is_quiet(self) -> bool:
        """Whether the client sends no more, but ACK and ASK, until it answers a ping."""
        self.peer.send(PING, b"?")
        while (frame := self.peer.receive()) != (PONG, b"?"):
            if frame[1][:1] not in (b"\x08", b"\x09"):
                return False
        return True


def served(*scripts: Callable[[Peer], object]) -> RawServer:
    """A server whose first link is served by the first script, the next by the next."""
    left = iter(scripts)
    return RawServer(lambda peer: next(left)(peer))


@pytest.fixture
def connected(make_service: MakeService) -> Callable[..., TunnelService]:
    """Makes services that are connected to a server."""
    return lambda server, **options: _connected(make_service(**options), server)


def _connected(service: TunnelService, server: RawServer) -> TunnelService:
    service.connect(server.url, timeout=DEADLINE)
    return service


def test_the_client_asks_and_opens(connected):
    """The request has the header; OPEN has the limits; messages go out numbered."""
    got = Collector()

    def script(peer):
        link = Script(peer, opened())
        got((peer.headers["tunnel-resume"], link.greetings))
        got([link.numbered(), link.numbered()])
        peer.wait_until_gone()

    with served(script) as server:
        service = connected(server)
        service.send("é")
        service.send(b"\x00")
        assert got.wait(2)
    assert got.items[0] == ("1", [OPEN.replace(" ", "")])
    assert got.items[1] == ["0100000001c3a9", "020000000200"]


def test_the_client_takes_and_acknowledges(connected):
    """Messages are handed over as they were sent; ACK comes by itself, and at once after ASK."""
    got, done = Collector(), Collector()

    def script(peer):
        link = Script(peer, opened())
        link.say("01 00000001 c3a9")
        link.acknowledgement(1)
        link.say("02 00000002 00")
        link.say("01 00000002 646f75626c65")  # was here before
        link.say("06 00000003")
        link.say("09")
        link.acknowledgement(3)
        done(True)
        peer.wait_until_gone()

    with served(script) as server:
        connected(server, on_message=got)
        assert done.wait(1)
    assert got.items == ["é", b"\x00"]


@pytest.mark.parametrize(
    ("headers", "version"), [({}, None), ({"Tunnel-Resume": "2"}, "2"), (RESUMES, "1")]
)
def test_the_answer_decides(make_service, headers, version):
    """Without the header the peer is a plain one; another version ends the attempt for good."""
    got = Collector()

    def script(peer):
        peer.upgrade(headers)
        got(peer.receive())
        if version == "1":
            peer.send(BINARY, opened())
        peer.wait_until_gone()

    with served(script) as server:
        service = make_service()
        if version == "2":
            with pytest.raises(ProtocolVersionError):
                service.connect(server.url, timeout=DEADLINE)
            return
        service.connect(server.url, timeout=DEADLINE)
        service.send("plain")
        assert got.wait(1)
    assert got.items[0] == ((TEXT, b"plain") if version is None else (BINARY, bytes.fromhex(OPEN)))


def test_a_client_that_insists_leaves_a_plain_peer(make_service):
    """With ``resume="required"`` a 101 without the header is refused."""
    with served(lambda peer: (peer.upgrade(), peer.wait_until_gone())) as server:
        service = make_service(resume="required")
        with pytest.raises(ProtocolVersionError):
            service.connect(server.url, timeout=DEADLINE)


@pytest.mark.requirement("1.7")
def test_the_client_replays_only_what_is_missing(connected):
    """It names what it has received, and sends again what comes after what the server has."""
    got, received = Collector(), Collector()

    def first(peer):
        link = Script(peer, opened())
        link.say("01 00000001 78")
        frames = [link.numbered() for _ in range(3)]
        link.say("08 00000001")
        got(frames)
        received.wait(1)
        peer.reset()

    def second(peer):
        link = Script(peer, struct.pack(">BQQ", 0x13, 2, 0))
        got(link.greetings)
        got([link.numbered(), link.numbered()])
        link.say("02 00000002 79")
        received.wait(2)
        assert link.is_quiet()
        got(True)
        peer.wait_until_gone()

    with served(first, second) as server:
        service = connected(server, on_message=received)
        service.send_many(["a", "b", "c"])
        assert got.wait(2)
        service.send("d")
        assert got.wait(4)
    assert got.items[1] == [resume(1)]
    assert got.items[2] == ["010000000363", "010000000464"]
    assert received.items == ["x", b"y"]


def test_gone_opens_another_and_tells(make_service):
    """After GONE comes OPEN on the same link; what was written is handed back, not sent again."""
    got, lost = Collector(), Collector()

    def first(peer):
        link = Script(peer, opened())
        got([link.numbered(), link.numbered()])
        link.say("08 00000001")
        assert link.is_quiet()
        peer.reset()

    def second(peer):
        link = Script(peer, b"\x14no", opened())
        got(link.greetings)
        got(link.numbered())
        assert link.is_quiet()
        got(True)
        peer.wait_until_gone()

    with served(first, second) as server:
        service = make_service(on_session_lost=lost)
        service.connect(server.url, timeout=DEADLINE)
        service.send_many(["a", "b"])
        assert got.wait(2)
        service.send("c")
        assert got.wait(4)
    assert got.items[1:3] == [[resume(0), OPEN.replace(" ", "")], "010000000163"]
    (error,) = lost.items
    assert isinstance(error, SessionLostError)
    assert error.unacknowledged == ("b",)


@pytest.mark.parametrize(
    ("limits", "first", "second"),
    [
        pytest.param({"messages": 2}, 2, 2, id="messages"),
        pytest.param({"size": 7}, 2, 2, id="bytes"),
        pytest.param({"size": 1}, 1, 1, id="larger than the window"),
    ],
)
def test_the_client_keeps_the_window(connected, limits, first, second):
    """No more goes out than the server offered to hold, until it is acknowledged."""
    got = Collector()

    def script(peer):
        link = Script(peer, opened(**limits))
        frames = [link.message() for _ in range(first)]
        assert link.is_quiet()
        link.say(f"08 {first:08x}")
        frames += [link.message() for _ in range(second)]
        assert link.is_quiet()
        got(frames)
        peer.wait_until_gone()

    with served(script) as server:
        connected(server).send_many(["aaa", "bbb", "ccc", "ddd", "eee"])
        assert got.wait(1)


def test_the_client_ends_a_session(connected):
    """When all is acknowledged, `disconnect` says END and closes with 1000."""
    got = Collector()

    def script(peer):
        link = Script(peer, opened())
        link.numbered()
        got(link.numbered())  # it asks, since it waits
        link.say("08 00000001")
        got(link.numbered())
        got(peer.receive())
        peer.close(1000)

    with served(script) as server:
        service = connected(server)
        service.send("a")
        service.disconnect(timeout=DEADLINE)
        assert got.wait(3)
    assert got.items == ["09", "15", (CLOSE, struct.pack(">H", 1000))]


def test_end_by_the_server_loses_the_session(make_service):
    """After END the client closes with 1000, and opens another session on its next link."""
    got, lost = Collector(), Collector()

    def first(peer):
        link = Script(peer, opened())
        link.numbered()
        link.say(b"\x15enough")
        got(peer.receive_close())

    def second(peer):
        got(Script(peer, opened()).greetings)
        peer.wait_until_gone()

    with served(first, second) as server:
        service = make_service(on_session_lost=lost)
        service.connect(server.url, timeout=DEADLINE)
        service.send("a")
        assert got.wait(2)
        assert lost.wait(1)
    assert got.items == [1000, [OPEN.replace(" ", "")]]
    assert lost.items[0].unacknowledged == ("a",)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param("", id="empty"),
        pytest.param("01 000000", id="short"),
        pytest.param("07 00000001", id="kind 7"),
        pytest.param("42 00000001", id="kind 66"),
        pytest.param("01 00000002", id="gap"),
        pytest.param("01 00000001 ff", id="not UTF-8"),
        pytest.param("06 00000001 00", id="SKIP with a payload"),
        pytest.param("08 00000000 00", id="ACK with a payload"),
        pytest.param("08 00000001", id="ACK of what was not sent"),
        pytest.param("03 00000001 0000000000000001 00000002 7b7d", id="REQUEST of a server"),
        pytest.param("05 00000001 0000000000000001", id="CANCEL of a server"),
        pytest.param("04 00000001 0000000000000001", id="malformed RESPONSE"),
        pytest.param("13" + "00" * 16, id="RESUMED again"),
        pytest.param("14", id="GONE again"),
    ],
)
def test_a_violation_is_closed_with_1002(connected, frame):
    """Whatever a server must not send ends the link, and the tunnel stops."""
    got = Collector()

    def script(peer):
        Script(peer, opened()).say(frame)
        got(peer.receive_close())

    with served(script) as server:
        service = connected(server)
        assert got.wait(1)
        assert service.wait_for(TunnelConnectionState.ERROR, timeout=DEADLINE)
    assert got.items == [1002]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(struct.pack(">BQQ", 0x13, 2, 0), id="received what was not sent"),
        pytest.param(struct.pack(">BQQ", 0x13, 0, 0), id="received less than acknowledged"),
        pytest.param(struct.pack(">BQQ", 0x13, 1, 1), id="released what was not received"),
        pytest.param(opened(), id="OPENED"),
        pytest.param(b"\x13\x00", id="short"),
    ],
)
def test_an_answer_that_cannot_be_true_ends_the_session(connected, answer):
    """The client does not go on with a session of which the server says what cannot be."""

    def first(peer):
        link = Script(peer, opened())
        link.numbered()
        link.say("08 00000001")
        assert link.is_quiet()
        peer.reset()

    def second(peer):
        Script(peer, answer)
        peer.wait_until_gone()

    with served(first, second) as server:
        service = connected(server)
        service.send("a")
        assert service.wait_for(TunnelConnectionState.ERROR, timeout=DEADLINE)


def test_a_request_is_answered_by_its_id(connected):
    """The client finds the response by the id, whatever the order; late ones are dropped."""
    done = Collector()

    def script(peer):
        link = Script(peer, opened())
        first, second = (bytes.fromhex(link.numbered())[5:] for _ in range(2))
        header = b'{"status":299,"headers":[["A","b"]],"more":0}'
        for number, asked in enumerate((second, first), 1):
            (size,) = struct.unpack_from(">I", asked, 8)
            assert json.loads(asked[12 : 12 + size])["method"] == "PUT"
            length = struct.pack(">I", len(header))
            link.say(b"\x04" + struct.pack(">I", number) + asked[:8] + length + header)
        link.say(struct.pack(">BIQI", 4, 3, 1, len(header)) + header)
        link.say("09")
        link.acknowledgement(3)
        done(True)
        peer.wait_until_gone()

    with served(script) as server:
        service = connected(server)
        futures = [service.submit(body, method="PUT", path="/x") for body in (b"1", b"2")]
        answers = [future.result(DEADLINE) for future in futures]
        assert done.wait(1)
    assert [(answer.status_code, answer.headers["a"]) for answer in answers] == [(299, "b")] * 2
    assert answers[0].request_id != answers[1].request_id


def test_a_request_that_is_late_is_cancelled(connected):
    """CANCEL has the id of the request and nothing else."""
    got = Collector()

    def script(peer):
        link = Script(peer, opened())
        got([link.numbered(), link.numbered()])
        peer.wait_until_gone()

    with served(script) as server:
        service = connected(server)
        with pytest.raises(RequestTimeoutError):
            service.request(b"", timeout=0.05)
        assert got.wait(1)
    request, cancel = got.items[0]
    assert request.startswith("0300000001")
    assert cancel == "0500000002" + request[10:26]
