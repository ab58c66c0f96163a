"""The examples in docs/wire-protocol.rst are what this package writes, and it reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunnel.request_frames import (
    TunnelRequest,
    decode_cancel,
    decode_request,
    decode_response,
    encode_cancel,
    encode_request,
    encode_response,
)
from tunnel.responses import Headers, TunnelResponse
from tunnel.secrets import Secret
from tunnel.session import Session
from tunnel.session_frames import (
    ASK_FRAME,
    OVERHEAD,
    End,
    FrameKind,
    Gone,
    Limits,
    Open,
    Opened,
    Parcel,
    Resume,
    Resumed,
    encode,
    numbered_header,
    read_answer,
    read_greeting,
    read_reason,
)

PAGE = Path(__file__).parent.parent / "docs" / "wire-protocol.rst"
BLOCK = re.compile(r"^ +:caption: Example: (\w+)\n\n((?: +[0-9a-f]{2}\b.*\n)+)", re.MULTILINE)
KIND = re.compile(r"^   \* - ``([0-9a-f]{2})``\n     - ([A-Z]+)$", re.MULTILINE)
HEX = re.compile(r" +((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)")

ID = bytes(range(16))
TOKEN = Secret(bytes(range(0xA0, 0xC0)).hex())
REQUEST_ID = 0x1F0000000000002A
REQUEST = TunnelRequest(REQUEST_ID, "POST", "/a", Headers(), b"hi")
RESPONSE = TunnelResponse(REQUEST_ID, 200, Headers([("X-N", "7"), ("a", "")]), b"ok")

HANDSHAKE = {
    "OPEN": Open(Limits(1000, 2**20, 2**24)),
    "OPENED": Opened(ID, TOKEN, 600, Limits(10_000, 2**22, 2**24)),
    "RESUME": Resume(ID, TOKEN, 5),
    "RESUMED": Resumed(7, 4),
    "GONE": Gone("no such session"),
    "END": End(""),
}
NUMBERED = {
    "TEXT": (1, "hello"),
    "BINARY": (2, b"\x00\xff"),
    "SKIP": (3, None),
    "REQUEST": (4, Parcel(FrameKind.REQUEST, encode_request(REQUEST))),
    "RESPONSE": (2, Parcel(FrameKind.RESPONSE, encode_response(RESPONSE))),
    "CANCEL": (5, Parcel(FrameKind.CANCEL, encode_cancel(REQUEST_ID))),
}


def examples() -> dict[str, bytes]:
    """The bytes of each example, by its name."""
    found = {}
    for name, block in BLOCK.findall(PAGE.read_text("utf-8")):
        lines = [HEX.match(line) for line in block.splitlines()]
        found[name] = bytes.fromhex("".join(line[1] for line in lines if line))
    return found


EXAMPLES = examples()


def test_the_table_of_kinds_is_complete():
    """The page's table has each kind of frame with its number, and no other."""
    rows = [(name, int(number, 16)) for number, name in KIND.findall(PAGE.read_text("utf-8"))]
    assert rows == [(kind.name, kind.value) for kind in FrameKind]


def test_each_kind_has_an_example():
    """There is one example for each kind of frame."""
    assert sorted(EXAMPLES) == sorted(kind.name for kind in FrameKind)


def test_each_example_begins_with_its_kind():
    """The first byte of an example is the number of its kind."""
    assert {name: frame[0] for name, frame in EXAMPLES.items()} == {k.name: k for k in FrameKind}


@pytest.mark.parametrize("name", HANDSHAKE)
def test_a_frame_of_the_handshake_is_written_like_that(name):
    """What the handshake writes is the example, byte by byte."""
    assert encode(HANDSHAKE[name]) == EXAMPLES[name]


@pytest.mark.parametrize("name", ["OPEN", "RESUME"])
def test_a_greeting_is_read_back(name):
    """A server reads from the example what the client meant."""
    assert read_greeting(EXAMPLES[name]) == HANDSHAKE[name]


@pytest.mark.parametrize("name", ["OPENED", "RESUMED", "GONE"])
def test_an_answer_is_read_back(name):
    """A client reads from the example what the server meant."""
    assert read_answer(EXAMPLES[name]) == HANDSHAKE[name]


@pytest.mark.parametrize("name", NUMBERED)
def test_a_numbered_frame_is_written_like_that(name):
    """What a session sends under that number is the example, byte by byte."""
    number, item = NUMBERED[name]
    assert attached().send([None] * (number - 1) + [item])[-1] == EXAMPLES[name]


@pytest.mark.parametrize("name", NUMBERED)
def test_a_numbered_frame_is_read_back(name):
    """A session takes the example for what was sent."""
    number, item = NUMBERED[name]
    session = attached(accepts=[FrameKind[name]] if isinstance(item, Parcel) else [])
    skips = [numbered_header(FrameKind.SKIP, n) for n in range(1, number)]
    assert session.receive([*skips, EXAMPLES[name]]) == ([] if item is None else [item])
    assert session.violation is None
    assert session.received == number


def test_the_payloads_of_requests_are_read_back():
    """Both ends read from the examples what was asked, answered and cancelled."""
    assert decode_request(EXAMPLES["REQUEST"][OVERHEAD:]) == REQUEST
    assert decode_response(EXAMPLES["RESPONSE"][OVERHEAD:]) == RESPONSE
    assert decode_cancel(EXAMPLES["CANCEL"][OVERHEAD:]) == REQUEST_ID


def test_acknowledgements_are_written_and_read_like_that():
    """What acknowledges two frames is the example; and it acknowledges two frames."""
    receiver, sender = attached(), attached()
    receiver.receive(sender.send(["one", "two"]))
    receiver.take(2)
    assert receiver.acknowledgement() == EXAMPLES["ACK"]
    sender.receive([EXAMPLES["ACK"]])
    assert (sender.acknowledged, sender.unacknowledged) == (2, 0)


def test_the_short_frames_are_read_like_that():
    """ASK asks, and END ends with its reason, which may be empty."""
    assert EXAMPLES["ASK"] == ASK_FRAME
    session = attached()
    session.receive([EXAMPLES["TEXT"]])
    session.take(1)
    assert not session.is_acknowledgement_due
    session.receive([EXAMPLES["ASK"]])
    assert session.is_acknowledgement_due
    session.receive([EXAMPLES["END"]])
    assert session.ended_by_peer == read_reason(EXAMPLES["END"]) == ""


def attached(accepts: list[FrameKind] | None = None) -> Session:
    """A session that a link carries."""
    session = Session(Limits(100, 2**20, 2**20), keep=(100, 2**20), accepts=accepts or ())
    session.open(Open(session.limits), ID, TOKEN, 600)
    return session
