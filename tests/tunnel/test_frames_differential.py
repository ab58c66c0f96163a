"""Our decoder against other strict ones: wsproto, and the sans-I/O protocol of websockets.

Random streams, built of frames that are mostly in order and then bent, cut anywhere. All decoders
must find the same messages and control frames and then the same refusal, or none. Where ours
differs on purpose, `DIFFERENCES` has the reason and a stream that shows it, `_excused` the rule.
`make fuzz` does the same for as long as one likes.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets import frames as theirs
from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig
from websockets.protocol import State
from websockets.uri import parse_uri
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from tunnel.frames import Close, FrameDecoder, Ping, Pong

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CONTROL = ("ping", "pong", "close")
LIMIT = 300  # bytes in a message; wsproto has no such limit

Item = tuple[str, object]


class Outcome(NamedTuple):
    """What a decoder makes of a stream: items in order, then the close code of its refusal."""

    items: list[Item]
    refusal: int | None
    why: str = ""


def by_us(stream: bytes, cuts: Iterable[int]) -> Outcome:
    decoder = FrameDecoder(max_message_size=LIMIT)
    items: list[Item] = []
    edges = [0, *sorted(min(place, len(stream)) for place in cuts), len(stream)]
    for start, stop in itertools.pairwise(edges):
        received = decoder.feed(stream[start:stop])
        assert decoder.saw_control or all(isinstance(item, (str, bytes)) for item in received)
        for item in received:
            if isinstance(item, (Ping, Pong)):
                items.append((type(item).__name__.lower(), item.payload))
            elif isinstance(item, Close):
                items.append(("close", (item.code, item.reason)))
            else:
                items.append((type(item).__name__, item))
    if decoder.violation is None:
        return Outcome(items, None)
    return Outcome(items, decoder.violation.close_code, decoder.violation.reason)


def by_wsproto(stream: bytes) -> Outcome:
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(stream)
    items: list[Item] = []
    parts: list[Any] = []
    try:
        for frame in protocol.received_frames():
            payload: Any = frame.payload
            if frame.opcode is Opcode.CLOSE:
                items.append(("close", (int(payload[0]), payload[1])))
            elif frame.opcode in (Opcode.PING, Opcode.PONG):
                items.append((frame.opcode.name.lower(), payload))
            else:
                parts.append(payload)
                if frame.message_finished:
                    items.append((type(payload).__name__, payload[:0].join(parts)))
                    parts = []
    except ParseFailed as refusal:
        return Outcome(items, int(refusal.code), str(refusal))
    return Outcome(items, None)


def by_websockets(stream: bytes) -> Outcome:
    protocol = ClientProtocol(parse_uri("ws://x/"), state=State.OPEN, max_size=LIMIT)
    protocol.receive_data(stream)
    items: list[Item] = []
    error = _join_frames_of_websockets(protocol, items) or protocol.parser_exc
    if error is None:
        return Outcome(items, None)
    codes = {PayloadTooBig: 1009, UnicodeDecodeError: 1007}
    return Outcome(items, codes.get(type(error), 1002), str(error))


def _join_frames_of_websockets(
    protocol: ClientProtocol, items: list[Item]
) -> UnicodeDecodeError | None:
    """Make messages of its frames and decode their text, as its own layers above do."""
    parts: list[Any] = []
    text = None  # the decoder of the message under way, if it is text
    for frame in protocol.events_received():
        assert isinstance(frame, theirs.Frame)
        if frame.opcode is theirs.Opcode.CLOSE:
            assert protocol.close_rcvd is not None
            items.append(("close", (int(protocol.close_rcvd.code), protocol.close_rcvd.reason)))
        elif frame.opcode in theirs.CTRL_OPCODES:
            items.append((frame.opcode.name.lower(), bytes(frame.data)))
        else:
            if frame.opcode is theirs.Opcode.TEXT:
                text = codecs.getincrementaldecoder("utf-8")()
            try:
                parts.append(text.decode(frame.data, frame.fin) if text else bytes(frame.data))
            except UnicodeDecodeError as error:
                return error
            if frame.fin:
                items.append((type(parts[0]).__name__, parts[0][:0].join(parts)))
                parts, text = [], None
    return None


class Difference(NamedTuple):
    """A stream on which another decoder does otherwise, and why ours does not follow it."""

    library: Callable[[bytes], Outcome]
    stream: str
    ours: tuple[list[Item], int | None]
    theirs: tuple[list[Item], int | None]
    reason: str


LATER = (
    "they refuse it with the same code, but later; section 7.1.7 lets us fail the connection when "
    "we know, and for text the Autobahn testsuite (cases 6.4) calls later non-strict"
)
SIZE = "sections 7.4.1 and 10.4: limits are the implementation's; ours covers messages, whole"
ORDER = "more than one rule of section 5.2 is broken; no order of judging is laid down"
SHORTEST = "section 5.2: the minimal number of bytes must be used, the highest bit must be 0"

DIFFERENCES = {
    "wsproto, code 1014": Difference(
        by_wsproto,
        "880203f6",
        ([("close", (1014, ""))], None),
        ([], 1002),
        "sections 7.4.2 and 11.7: codes are assigned by IANA, and 1014 is (bad gateway)",
    ),
    "wsproto, size": Difference(by_wsproto, "827f0000000010000000", ([], 1009), ([], None), SIZE),
    "wsproto, first byte": Difference(by_wsproto, "f0", ([], 1002), ([], None), LATER),
    "wsproto, close": Difference(by_wsproto, "8801", ([], 1002), ([], None), LATER),
    "wsproto, surrogate": Difference(
        by_wsproto, "0102eda08900", ([], 1007), ([("ping", b"")], None), LATER
    ),
    "websockets, first byte": Difference(by_websockets, "c205", ([], 1002), ([], None), LATER),
    "websockets, text": Difference(by_websockets, "8105ff", ([], 1007), ([], None), LATER),
    "websockets, close": Difference(by_websockets, "8801", ([], 1002), ([], None), LATER),
    "websockets, surrogate": Difference(
        by_websockets, "0102eda08900", ([], 1007), ([("ping", b"")], None), LATER
    ),
    "websockets, 126": Difference(
        by_websockets, "827e000161", ([], 1002), ([("bytes", b"a")], None), SHORTEST
    ),
    "websockets, 127": Difference(
        by_websockets, "827f000000000000000161", ([], 1002), ([("bytes", b"a")], None), SHORTEST
    ),
    "websockets, highest bit": Difference(
        by_websockets, "827f8000000000000000", ([], 1002), ([], 1009), SHORTEST
    ),
    "websockets, control": Difference(
        by_websockets, "897e0000", ([], 1002), ([("ping", b"")], None), SHORTEST
    ),
    "websockets, order": Difference(by_websockets, "c27e7fff", ([], 1002), ([], 1009), ORDER),
    "websockets, close inside a message": Difference(
        by_websockets,
        "020161880203e8",
        ([("close", (1000, ""))], None),
        ([], 1002),
        "sections 5.4 and 5.5: control frames, close among them, may come between fragments",
    ),
    "websockets, control frame beside the limit": Difference(
        by_websockets,
        "027e012c" + "00" * LIMIT + "890161" + "8000",
        ([("ping", b"a"), ("bytes", bytes(LIMIT))], None),
        ([], 1009),
        "sections 5.4 and 5.5: control frames are no part of the message that they come inside",
    ),
    "websockets, code and reason": Difference(
        by_websockets,
        "880303edff",
        ([], 1002),
        ([], 1007),
        "section 5.5.1: both are wrong; no order of judging is laid down",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_deliberate_differences(name: str) -> None:
    """Each deliberate difference is still one, and still the one described."""
    library, stream, ours, theirs, _ = DIFFERENCES[name]
    assert by_us(bytes.fromhex(stream), [])[:2] == ours
    assert library(bytes.fromhex(stream))[:2] == theirs


def test_the_documentation_has_them() -> None:
    """Who reads about conformance finds every deliberate difference, by its bytes."""
    page = (Path(__file__).parents[2] / "docs" / "conformance.rst").read_text()
    shown = {name: re.sub("(00){20,}", "00...", DIFFERENCES[name].stream) for name in DIFFERENCES}
    assert not [name for name, stream in shown.items() if f"``{stream}``" not in page]


def _agree(stream: bytes, cuts: list[int], library: Callable[[bytes], Outcome]) -> None:
    """Assert that `library` makes of `stream` what we make of it, or deliberately do not."""
    ours, theirs = by_us(stream, cuts), library(stream)
    assert ours == by_us(stream, range(len(stream)))
    if ours.refusal is not None and theirs.refusal is None:  # LATER: give it the frame's rest
        theirs = library(stream + bytes(2 * LIMIT) + b"\x80\x00")
    assert ours[:2] == theirs[:2] or _excused(stream, ours, theirs, library)


def _excused(
    stream: bytes, ours: Outcome, theirs: Outcome, library: Callable[[bytes], Outcome]
) -> bool:
    """Is what `DIFFERENCES` allows the reason why the outcomes differ?"""
    same_items = ours.items == theirs.items
    if theirs.refusal == 1009 and ours.items[: len(theirs.items)] == theirs.items:
        more = ours.items[len(theirs.items) :]  # the first is the frame that they refuse
        size = re.match(r"frame with (\d+) bytes after reading", theirs.why)
        if size and int(size[1]) <= 125 and all(kind in CONTROL for kind, _ in more[:1]):
            return True
    if ours.refusal == 1007 and b"\xed" in stream:  # the surrogate, cut by a frame
        more = theirs.items[len(ours.items) :]  # what comes before they refuse it, at the latest
        return (
            theirs.refusal is not None
            and theirs.items[: len(ours.items)] == ours.items
            and all(kind in CONTROL for kind, _ in more)
        )
    if library is by_wsproto:
        if theirs.why == "CLOSE with unknown reserved code" and b"\x03\xf6" in stream:
            return ours.items[: len(theirs.items)] == theirs.items
        return ours.refusal == 1009 and theirs.items[: len(ours.items)] == ours.items
    if any(rule in ours.why for rule in ("shortest form", "highest bit", "more than 125 bytes")):
        return theirs.items[: len(ours.items)] == ours.items
    if theirs.why == "incomplete fragmented message":
        return ours.refusal is None and ours.items[:-1] == theirs.items
    return same_items and (
        (ours.refusal, theirs.refusal) == (1002, 1009)
        or ("close code" in ours.why and theirs.refusal == 1007)
    )


CODES = [1000, 1001, 1004, 1005, 1006, 1007, 1011, 1012, 1013, 1014, 1015, 2999, 3000, 4999, 5000]
texts = st.text(alphabet="ab\x00é€😀\ud7ff\ue000", max_size=20).map(str.encode)
bad_texts = st.sampled_from([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90", b"\xe2\x82"])
data = st.one_of(
    texts,
    st.binary(max_size=20),
    st.sampled_from([*range(120, 130), *range(290, 310)]).map(bytes),
    bad_texts,
)
close_payloads = st.just(b"") | st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason,
    st.sampled_from(CODES) | st.integers(0, 65535),
    texts | bad_texts,
)


def frame(first: int, payload: bytes, width: int = 0, mask: int = 0) -> bytes:
    """A frame; its length in `width` bytes, or 0: in the shortest form."""
    size = len(payload)
    width = width or (0 if size < 126 else 2)
    length = bytes((mask | {0: size & 0x7F, 2: 126, 8: 127}[width],))
    return bytes((first,)) + length + (size.to_bytes(width, "big") if width else b"") + payload


controls = st.builds(
    frame, st.sampled_from([0x89, 0x8A]), st.binary(max_size=10) | st.just(bytes(125))
)
strays = st.builds(frame, st.sampled_from([0x00, 0x01, 0x02, 0x80]), data)
closes = st.builds(frame, st.just(0x88), close_payloads)
wrong = st.builds(
    frame, st.integers(0, 255), data, st.sampled_from([0, 0, 2, 8]), st.sampled_from([0, 0x80])
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message in one frame or in many, cut anywhere, with control frames in between."""
    opcode = draw(st.sampled_from([1, 2]))
    payload = draw(texts | data if opcode == 1 else data)
    most = draw(st.sampled_from([0, 4, 9]))
    places = sorted(draw(st.lists(st.integers(0, len(payload)), min_size=most // 2, max_size=most)))
    edges = [0, *places, len(payload)]
    stream = b""
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        final = 0x80 if number == len(places) else 0
        stream += frame(final | (opcode if number == 0 else 0), payload[start:stop])
        if not final:
            stream += b"".join(draw(st.lists(controls, max_size=1)))
    return stream


def flip(draw: st.DrawFn, stream: bytearray, place: int) -> None:
    stream[place] ^= 1 << draw(st.integers(0, 7))


def step(draw: st.DrawFn, stream: bytearray, place: int) -> None:
    stream[place] = (stream[place] + draw(st.sampled_from([-1, 1]))) % 256


def drop(draw: st.DrawFn, stream: bytearray, place: int) -> None:
    del stream[place : place + draw(st.integers(1, 4))]


def insert(draw: st.DrawFn, stream: bytearray, place: int) -> None:
    stream[place:place] = draw(st.binary(min_size=1, max_size=4) | bad_texts | controls | strays)


def repeat(draw: st.DrawFn, stream: bytearray, place: int) -> None:
    stream[place:place] = stream[draw(st.integers(0, place)) : place]


DAMAGES = (flip, flip, step, drop, insert, repeat)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Frames in order, now and then one that is not, and now and then damage on the way."""
    parts = st.one_of(messages(), messages(), messages(), controls, closes, strays, wrong)
    stream = bytearray(b"".join(draw(st.lists(parts, min_size=1, max_size=6))))
    for _ in range(draw(st.integers(0, 2))):
        if stream:
            damage = draw(st.sampled_from(DAMAGES))
            damage(draw, stream, draw(st.integers(0, len(stream) - 1)))
    if draw(st.booleans()):
        del stream[draw(st.integers(0, len(stream))) :]
    return bytes(stream)


@pytest.mark.fault("any-byte-stream")
@pytest.mark.parametrize("library", [by_wsproto, by_websockets])
@pytest.mark.parametrize("inside", ["", "0100"], ids=["between messages", "inside a message"])
def test_every_header_is_judged_alike(library: Callable[[bytes], Outcome], inside: str) -> None:
    """All first bytes, with each second byte that means something of its own."""
    for first, second in itertools.product(range(256), [0, 1, 126, 127, 128]):
        header = bytes((first, second)) + {126: b"\0\x7e", 127: bytes(8)}.get(second, b"")
        _agree(bytes.fromhex(inside) + header + bytes(127), [], library)


@pytest.mark.fault("any-byte-stream")
@pytest.mark.parametrize("library", [by_wsproto, by_websockets])
def test_every_close_code_is_judged_alike(library: Callable[[bytes], Outcome]) -> None:
    """All codes that have a meaning, and those about the limits of their ranges."""
    limits = [0, 999, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 2**15, 2**16 - 1]
    for code in [*range(1000, 1020), *limits]:
        _agree(frame(0x88, code.to_bytes(2, "big")), [], library)


all_cuts = st.lists(st.integers(0, 400), max_size=12)
libraries = pytest.mark.parametrize("library", [by_wsproto, by_websockets])


@pytest.mark.fault("any-byte-stream")
@libraries
@untimed
@given(stream=streams() | st.binary(max_size=60), cuts=all_cuts)
def test_they_agree(library: Callable[[bytes], Outcome], stream: bytes, cuts: list[int]) -> None:
    """On streams of frames, some of them bent, and on any bytes, ours and theirs find the same."""
    _agree(stream, cuts, library)
