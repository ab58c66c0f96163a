"""A client written from docs/wire-protocol.rst alone, against the gateway.

It shares no line with the package: whoever implements the protocol from its page sees what is seen
here. All bytes are literal.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections import deque
from collections.abc import Iterator

import pytest
from peers import DEADLINE
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tunnel.errors import InvalidCredentialsError
from tunnel.gateway import GatewayThread

TEXT, BINARY, REQUEST, RESPONSE, CANCEL, SKIP, ACK, ASK = 1, 2, 3, 4, 5, 6, 8, 9
OPEN, OPENED, RESUME, RESUMED, GONE, END = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
PLENTY = (1000, 2**20, 2**24)
USERS = {"a-token": "anna", "b-token": "bert"}


class MiniClient:
    """A session's end as the page describes it, as short as it can be.

    Attributes:
        received: The number of the last frame that has arrived.
        sent: All frames that were numbered, for a replay.
    """

    def __init__(self, url: str, limits: tuple[int, int, int] = PLENTY, user: str = "a-token"):
        self.url = url
        self.limits = limits
        self.user = user
        self.id = self.token = b""
        self.sent: list[bytes] = []
        self.received = 0
        self.asked = 0
        self.acknowledged = 0
        self.inbox: deque[tuple[int, int, bytes]] = deque()
        self.link: ClientConnection | None = None
        self.links = contextlib.ExitStack()  # which close them

    def dial(self, version: str | None = "1") -> ClientConnection:
        """A link on which nothing was said yet."""
        headers = {"Authorization": f"Bearer {self.user}"}
        if version is not None:
            headers["Tunnel-Resume"] = version
        link = connect(self.url, additional_headers=headers, compression=None, ping_interval=None)
        self.link = self.links.enter_context(link)
        return self.link

    def open(self) -> bytes:
        """A new session, on a new link unless there is one. Returns the answer."""
        link = self.link or self.dial()
        link.send(struct.pack(">BIQQ", OPEN, *self.limits))
        answer = link.recv(DEADLINE)
        self.id, self.token = answer[1:17], answer[17:49]
        return answer

    def resume(self, received: int | None = None) -> bytes:
        """The session, on a new link; what the server has not is sent again. Returns the answer."""
        link = self.dial()
        received = self.received if received is None else received
        link.send(bytes([RESUME]) + self.id + self.token + struct.pack(">Q", received))
        answer = link.recv(DEADLINE)
        if answer[0] == RESUMED:
            has, released = struct.unpack(">QQ", answer[1:])
            self.received = max(received, released)
            for frame in self.sent[has:]:
                link.send(frame)
        return answer

    def number(self, kind: int, payload: bytes = b"") -> bytes:
        """A frame with the next number, which is not sent yet."""
        frame = struct.pack(">BI", kind, len(self.sent) + 1) + payload
        self.sent.append(frame)
        return frame

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Number a frame and send it."""
        self.link.send(self.number(kind, payload))

    def next(self) -> tuple[int, int, bytes]:
        """The next numbered frame: kind, number, payload. ACKs are noted on the way."""
        while not self.inbox:
            self.take_in(self.link.recv(DEADLINE))
        return self.inbox.popleft()

    def take_in(self, frame: bytes) -> None:
        """Note what a frame says."""
        if frame == bytes([ASK]):
            self.asked += 1
            return
        kind, number = struct.unpack_from(">BI", frame)
        if kind == ACK:
            assert len(frame) == 5
            self.acknowledged = max(self.acknowledged, number)
        else:
            assert number == self.received + 1
            self.received = number
            self.inbox.append((kind, number, frame[5:]))

    def acknowledge(self, number: int | None = None) -> None:
        """All that was received, or all up to a number, was taken."""
        self.link.send(struct.pack(">BI", ACK, self.received if number is None else number))

    def settle(self) -> None:
        """Have the server acknowledge all that was sent; what else comes goes into the inbox."""
        self.link.send(bytes([ASK]))
        while self.acknowledged < len(self.sent):
            self.take_in(self.link.recv(DEADLINE))

    def is_quiet(self) -> bool:
        """Whether the server sends nothing more, while it answers two text pings."""
        for _ in range(2):
            self.link.send("ping")
            while (frame := self.link.recv(DEADLINE)) != "pong":
                self.take_in(frame)
        return not self.inbox

    def cut(self) -> None:
        """Lose the link, without a word."""
        link, self.link = self.link, None
        with contextlib.suppress(OSError):
            link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.socket.shutdown(socket.SHUT_RDWR)

    def close_code(self) -> int:
        """The code with which the server closes the link; what comes before it is dropped."""
        try:
            while True:
                self.link.recv(DEADLINE)
        except ConnectionClosed as closed:
            return closed.rcvd.code


@pytest.fixture
def gateway() -> Iterator[GatewayThread]:
    """A gateway that echoes, with small windows and two users."""

    def authenticate(token, headers):
        if token not in USERS:
            raise InvalidCredentialsError("unknown")
        return USERS[token]

    with GatewayThread(
        "echo",
        authenticate=authenticate,
        max_unacknowledged=8,
        max_unacknowledged_bytes=1000,
        max_message_size=2000,
        max_outgoing=4,
    ) as gateway:
        yield gateway


@pytest.fixture
def make_client(gateway: GatewayThread) -> Iterator:
    """Makes clients, and hangs up for them."""
    clients: list[MiniClient] = []

    def make(**options) -> MiniClient:
        clients.append(MiniClient(gateway.url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.links.close()


@pytest.fixture
def client(make_client) -> MiniClient:
    """A client with a session."""
    client = make_client()
    client.open()
    return client


# Negotiation


@pytest.mark.parametrize(("asked", "answered"), [("1", "1"), (None, None), ("2", None)])
def test_the_header_negotiates(make_client, asked, answered):
    """The 101 has the header exactly if the request has it with the version that is known."""
    link = make_client().dial(version=asked)
    assert link.response.headers.get("Tunnel-Resume") == answered


@pytest.mark.parametrize("version", [None, "2"])
def test_without_it_messages_travel_as_they_are(make_client, version):
    """A client that does not ask, or in a way that is not known, has a plain peer."""
    link = make_client().dial(version=version)
    link.send("plain")
    assert link.recv(DEADLINE) == "plain"
    link.send(b"\x10")
    assert link.recv(DEADLINE) == b"\x10"


# Opening


def test_opened_has_id_token_and_limits(make_client):
    """OPENED is 73 bytes: kind, id, token, 600 s, and the limits of the gateway."""
    first, second = make_client(), make_client()
    answer = first.open()
    assert len(answer) == 73
    assert answer[0] == 0x11
    assert answer[49:] == bytes.fromhex("00000258 00000008 00000000000003e8 00000000000007d0")
    second.open()
    assert first.id != second.id
    assert first.token != second.token


def test_text_and_binary_go_both_ways(client):
    """Both kinds come back as themselves, with the numbers of their direction."""
    client.link.send(bytes.fromhex("01 00000001 68c3a9"))
    client.link.send(bytes.fromhex("02 00000002 00ff"))
    client.link.send(bytes.fromhex("01 00000003"))
    frames = []
    while len(frames) < 3:
        frame = client.link.recv(DEADLINE)
        if frame[0] != ACK:
            frames.append(frame.hex())
    assert frames == ["010000000168c3a9", "020000000200ff", "0100000003"]


def test_what_was_taken_is_acknowledged_unasked(client):
    """ACK comes by itself, though nothing else is said."""
    client.send(TEXT, b"once")
    while client.acknowledged < 1:
        client.take_in(client.link.recv(DEADLINE))


def test_ask_is_answered_with_the_last_number(client):
    """ASK brings an ACK, also one that says nothing new."""
    client.send(TEXT, b"once")
    client.next()
    client.settle()
    client.link.send(b"\x09")
    assert client.link.recv(DEADLINE) == bytes.fromhex("08 00000001")


def test_a_text_ping_is_answered(client):
    """`ping` as a text message brings `pong`, and uses no number."""
    client.link.send("ping")
    assert client.link.recv(DEADLINE) == "pong"
    client.send(TEXT, b"x")
    assert client.next() == (TEXT, 1, b"x")


# Resuming


@pytest.mark.requirement("1.7")
def test_only_what_is_missing_is_replayed(client):
    """After a cut each end sends what the other has not, from the very next number."""
    for letter in b"abcde":
        client.send(TEXT, bytes([letter]))
    assert [client.next()[2] for _ in range(3)] == [b"a", b"b", b"c"]
    client.acknowledge(2)
    client.settle()
    client.received = 3  # as though d and e had been lost with the link
    client.inbox.clear()
    client.cut()
    client.number(BINARY, b"f")  # given a number, and never sent
    assert client.resume() == bytes.fromhex("13 0000000000000005 0000000000000002")
    assert [client.next() for _ in range(3)] == [(1, 4, b"d"), (1, 5, b"e"), (2, 6, b"f")]
    client.settle()
    assert client.is_quiet()


def test_a_frame_that_was_there_before_is_dropped(client):
    """What is sent again though the server has it comes to nothing."""
    client.send(TEXT, b"a")
    client.send(TEXT, b"b")
    client.settle()
    client.cut()
    client.resume()
    for frame in client.sent:
        client.link.send(frame)
    client.send(TEXT, b"c")
    assert [client.next()[2] for _ in range(3)] == [b"a", b"b", b"c"]
    assert client.is_quiet()


def test_after_a_resumption_the_last_ack_is_said_again(client):
    """An ACK that was lost with its link comes once more, unasked."""
    client.send(TEXT, b"a")
    client.settle()
    client.acknowledged = 0
    client.cut()
    client.resume()
    while client.acknowledged < 1:
        client.take_in(client.link.recv(DEADLINE))


@pytest.mark.requirement("1.7")
def test_many_cuts_lose_and_double_nothing(client):
    """Every message comes back once and in order, wherever the links are cut."""
    echoes = []
    for turn in range(40):
        client.send(TEXT, f"{turn}a".encode())
        client.send(BINARY, f"{turn}b".encode())
        for _ in range(turn % 3):
            echoes.append(client.next())
        if turn % 2:
            client.acknowledge()
        echoes += client.inbox
        client.inbox.clear()
        client.cut()
        assert client.resume()[0] == RESUMED
        while len(echoes) + len(client.inbox) < 2 * turn:
            client.take_in(client.link.recv(DEADLINE))
        echoes += client.inbox
        client.inbox.clear()
        client.acknowledge()
    while len(echoes) < 80:
        echoes.append(client.next())
    assert [payload for _, _, payload in echoes] == [
        f"{turn}{letter}".encode() for turn in range(40) for letter in "ab"
    ]


def test_the_newest_link_wins(client):
    """Whoever resumes gets the session; the older link is closed with 4001."""
    client.send(TEXT, b"a")
    client.next()
    old = client.link
    assert client.resume()[0] == RESUMED
    new, client.link = client.link, old
    assert client.close_code() == 4001
    client.link = new
    client.send(TEXT, b"b")
    assert client.next() == (TEXT, 2, b"b")


def test_a_late_greeting_may_have_received_less(client):
    """A RESUME that says less than was acknowledged since is taken; what is forgotten stays so."""
    client.send(TEXT, b"a")
    client.send(TEXT, b"b")
    client.next(), client.next()
    client.acknowledge(1)
    client.settle()
    client.cut()
    client.inbox.clear()
    assert client.resume(received=0) == bytes.fromhex("13 0000000000000002 0000000000000001")
    assert client.next() == (TEXT, 2, b"b")


def test_a_restarted_client_skips_what_it_has_not_stored(make_client, client):
    """A new process goes on with id, token and numbers; SKIP stands for what is not there."""
    client.send(TEXT, b"a")
    client.next()
    client.acknowledge()
    client.settle()
    client.cut()
    after = make_client()
    after.id, after.token = client.id, client.token
    after.sent = [client.sent[0], bytes.fromhex("06 00000002"), bytes.fromhex("01 00000003 63")]
    assert after.resume(received=0) == bytes.fromhex("13 0000000000000001 0000000000000001")
    assert after.next() == (TEXT, 2, b"c")
    after.settle()
    assert after.acknowledged == 3


# Refused


def _unknown(client: MiniClient) -> None:
    client.id = bytes(16)


def _wrong_token(client: MiniClient) -> None:
    client.token = bytes(32)


def _another_user(client: MiniClient) -> None:
    client.user = "b-token"


@pytest.mark.parametrize("spoil", [_unknown, _wrong_token, _another_user])
def test_refusals_look_alike(client, spoil):
    """An unknown id, a wrong token and another's session get the same GONE; OPEN may follow."""
    client.cut()
    spoil(client)
    assert client.resume() == b"\x14there is no such session"
    client.received, client.sent = 0, []
    assert client.open()[0] == OPENED
    client.send(TEXT, b"a")
    assert client.next() == (TEXT, 1, b"a")


def test_who_was_refused_has_touched_nothing(client):
    """A session for which somebody gave a wrong token is resumed by its owner as ever."""
    client.send(TEXT, b"a")
    client.next()
    client.cut()
    token, client.token = client.token, bytes(32)
    assert client.resume()[0] == GONE
    client.cut()
    client.token = token
    assert client.resume()[0] == RESUMED


def test_resume_after_gone_is_a_violation(client):
    """After GONE comes OPEN, or nothing."""
    client.cut()
    client.id = bytes(16)
    client.resume()
    client.link.send(bytes([RESUME]) + bytes(56))
    assert client.close_code() == 1002


# The end


def test_end_ends_the_session(client):
    """After END the server closes with 1000 and does not know the session any more."""
    client.send(TEXT, b"a")
    client.next()
    client.acknowledge()
    client.settle()
    client.link.send(b"\x15bye")
    assert client.close_code() == 1000
    assert client.resume()[0] == GONE


def test_a_close_without_end_leaves_the_session(client):
    """Code 1000 alone ends the link, not the session."""
    client.link.close(1000)
    assert client.resume()[0] == RESUMED


# Windows


def test_the_window_of_messages_is_kept(make_client):
    """No more frames come than were offered to be held, until they are acknowledged."""
    client = make_client(limits=(2, 1000, 1000))
    client.open()
    for letter in b"abcde":
        client.send(TEXT, bytes([letter]))
    assert [client.next()[1], client.next()[1]] == [1, 2]
    assert client.is_quiet()
    client.acknowledge(1)
    assert client.next()[1] == 3
    assert client.is_quiet()
    client.acknowledge()
    assert [client.next()[2], client.next()[2]] == [b"d", b"e"]


def test_the_window_of_bytes_is_kept(make_client):
    """Payloads count; one that is larger than the window comes alone.

    The gateway reserves 2 of the 10 bytes for answers, and asks while something has no room.
    """
    client = make_client(limits=(100, 10, 1000))
    client.open()
    for size in (4, 6, 1, 11, 0):
        client.send(BINARY, bytes(size))
    sizes = []
    for expected in ([4], [6, 1], [11], [0]):
        sizes.append([len(client.next()[2]) for _ in expected])
        assert client.is_quiet()
        client.acknowledge()
    assert sizes == [[4], [6, 1], [11], [0]]
    assert client.asked == 3


def test_one_frame_alone_may_be_larger_than_the_window(client):
    """The gateway offers 1,000 bytes, and takes 2,000 in one frame while it is the only one."""
    client.send(BINARY, bytes(2000))
    assert len(client.next()[2]) == 2000


def test_a_frame_beyond_message_size_is_too_big(client):
    """2,001 bytes are closed with 1009; the session is still there."""
    client.send(BINARY, bytes(2001))
    assert client.close_code() == 1009
    client.sent.clear()
    assert client.resume()[0] == RESUMED


# Violations


def _frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BI", kind, number) + payload


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([b""], id="empty"),
        pytest.param([b"\x01\x00\x00\x00"], id="short"),
        pytest.param([_frame(0, 1)], id="kind 0"),
        pytest.param([_frame(7, 1)], id="kind 7"),
        pytest.param([_frame(0xFF, 1)], id="kind 255"),
        pytest.param([_frame(TEXT, 2)], id="gap"),
        pytest.param([_frame(TEXT, 1), _frame(TEXT, 3)], id="gap later"),
        pytest.param([_frame(TEXT, 1, b"\xff")], id="not UTF-8"),
        pytest.param([_frame(SKIP, 1, b"x")], id="SKIP with a payload"),
        pytest.param([_frame(ACK, 0, b"x")], id="ACK with a payload"),
        pytest.param([_frame(ACK, 1)], id="ACK of what was not sent"),
        pytest.param([_frame(RESPONSE, 1, bytes(12) + b"{}")], id="RESPONSE of a client"),
        pytest.param([_frame(CANCEL, 1, bytes(7))], id="CANCEL without an id"),
        pytest.param([_frame(REQUEST, 1, bytes(7))], id="REQUEST without an id"),
        pytest.param([b"\x09\x00"], id="long ASK"),
        pytest.param([struct.pack(">BIQQ", OPEN, *PLENTY)], id="OPEN again"),
        pytest.param([bytes([RESUME]) + bytes(56)], id="RESUME again"),
        pytest.param([bytes([OPENED]) + bytes(72)], id="OPENED"),
        pytest.param(["text"], id="text message"),
    ],
)
def test_a_violation_ends_the_session(client, frames):
    """The link is closed with 1002, and the session is gone."""
    for frame in frames:
        client.link.send(frame)
    assert client.close_code() == 1002
    assert client.resume()[0] == GONE


@pytest.mark.parametrize(
    "greeting",
    [
        pytest.param(b"", id="empty"),
        pytest.param("text", id="text"),
        pytest.param("ping", id="a ping too early"),
        pytest.param(_frame(TEXT, 1), id="TEXT first"),
        pytest.param(b"\x42", id="unknown kind"),
        pytest.param(struct.pack(">BIQ", OPEN, 1, 1), id="short OPEN"),
        pytest.param(struct.pack(">BIQQB", OPEN, 1, 1, 1, 1), id="long OPEN"),
        pytest.param(struct.pack(">BIQQ", OPEN, 0, 1, 1), id="no messages"),
        pytest.param(struct.pack(">BIQQ", OPEN, 2**31, 1, 1), id="too many messages"),
        pytest.param(struct.pack(">BIQQ", OPEN, 1, 0, 1), id="no bytes"),
        pytest.param(struct.pack(">BIQQ", OPEN, 1, 1, 0), id="no size"),
        pytest.param(bytes([RESUME]) + bytes(55), id="short RESUME"),
        pytest.param(bytes([END]), id="END"),
    ],
)
def test_a_wrong_greeting_is_refused(make_client, greeting):
    """What is no greeting is closed with 1002."""
    client = make_client()
    client.dial().send(greeting)
    assert client.close_code() == 1002


def test_a_resume_that_cannot_be_true_harms_only_its_link(client):
    """Who claims to have received what was never sent is closed with 1002; the session stays."""
    client.cut()
    client.dial().send(bytes([RESUME]) + client.id + client.token + struct.pack(">Q", 1))
    assert client.close_code() == 1002
    assert client.resume()[0] == RESUMED


def test_more_than_the_window_is_a_violation(make_client):
    """What is sent beyond the window, while the gateway cannot take it, is closed with 1002."""
    client = make_client(limits=(1, 1000, 1000))
    client.open()
    for _ in range(1 + 4):  # one echo is on its way, and four wait: no more is taken
        client.send(BINARY)
    client.settle()
    for _ in range(8):
        client.send(BINARY)
    assert client.next() == (BINARY, 1, b"")
    assert client.is_quiet()
    client.send(BINARY)
    assert client.close_code() == 1002


# Requests


def _request(number: int, header: object, body: bytes = b"") -> bytes:
    encoded = json.dumps(header).encode()
    return struct.pack(">QI", number, len(encoded)) + encoded + body


def _response(payload: bytes) -> tuple[int, dict, bytes]:
    number, size = struct.unpack_from(">QI", payload)
    return number, json.loads(payload[12 : 12 + size]), payload[12 + size :]


def test_a_request_gets_its_response(client):
    """The id comes back, with a status, header fields and a body."""
    header = {"method": "POST", "path": "/a?b", "headers": [["Content-Type", "x/y"]], "more": 1}
    client.send(REQUEST, _request(7, header, b"\x00body"))
    kind, number, payload = client.next()
    assert (kind, number) == (RESPONSE, 1)
    answer = {"status": 200, "headers": [["Content-Type", "x/y"]]}
    assert _response(payload) == (7, answer, b"\x00body")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(struct.pack(">Q", 9), id="no length"),
        pytest.param(struct.pack(">QI", 9, 5) + b"{}", id="length beyond the end"),
        pytest.param(struct.pack(">QI", 9, 2) + b"[]", id="no object"),
        pytest.param(struct.pack(">QI", 9, 1) + b"\xff", id="no UTF-8"),
        pytest.param(_request(9, {"path": "/", "headers": []}), id="no method"),
        pytest.param(_request(9, {"method": "G T", "path": "/", "headers": []}), id="no token"),
        pytest.param(_request(9, {"method": "GET", "path": "a", "headers": []}), id="no slash"),
        pytest.param(_request(9, {"method": "GET", "path": "/ä", "headers": []}), id="not ASCII"),
        pytest.param(_request(9, {"method": "GET", "path": "/"}), id="no headers"),
        pytest.param(
            _request(9, {"method": "GET", "path": "/", "headers": [["A", "b\r\nC: d"]]}),
            id="line feed",
        ),
    ],
)
def test_a_malformed_request_is_answered_400(client, payload):
    """It breaks nothing but itself: a response says so, and the session goes on."""
    client.send(REQUEST, payload)
    number, header, _ = _response(client.next()[2])
    assert (number, header["status"]) == (9, 400)
    client.send(TEXT, b"on")
    assert client.next() == (TEXT, 2, b"on")


def test_a_cancel_that_is_late_comes_to_nothing(client):
    """CANCEL of a request that was answered, or never made, is taken like any frame."""
    client.send(CANCEL, struct.pack(">Q", 7))
    client.settle()
    assert client.acknowledged == 1
    assert client.is_quiet()


def test_a_response_survives_the_link(client):
    """A response that was on its way when the link broke comes on the next one."""
    client.send(REQUEST, _request(7, {"method": "GET", "path": "/", "headers": []}))
    client.settle()
    client.received = 0
    client.inbox.clear()
    client.cut()
    client.resume()
    assert _response(client.next()[2])[:1] == (7,)
