"""What a peer's bytes become: `tunnel.frames.decoder`. What it refuses: test_frames_rules.py."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunnel.frames import Close, FrameDecoder, Incoming, Ping, Pong, ProtocolViolation

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEY = b"\x37\xfa\x21\x3d"
SIZES = (0, 1, 2, 124, 125, 126, 127, 128, 4095, 4096, 65534, 65535, 65536, 65537, 200_000)

Outcome = tuple[list[Incoming], ProtocolViolation | None, bool]


def frame(first: int, payload: bytes, key: bytes = b"") -> bytes:
    """A frame, made by the letter of section 5.2."""
    size = len(payload)
    if size < 126:
        length = bytes((size,))
    elif size < 65536:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    if key:
        length = bytes((length[0] | 0x80,)) + length[1:] + key
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    return bytes((first,)) + length + payload


def outcome(chunks: Iterable[bytes], **options: Any) -> Outcome:
    decoder = FrameDecoder(**options)
    received = [item for chunk in chunks for item in decoder.feed(chunk)]
    return received, decoder.violation, decoder.finished


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


def held(decoder: FrameDecoder) -> int:
    """Bytes that the decoder keeps, itself not counted."""
    return sum(
        sys.getsizeof(value)
        for slot in FrameDecoder.__slots__
        if isinstance(value := getattr(decoder, slot), (bytes, bytearray, str))
    )


@pytest.mark.parametrize(
    ("stream", "masked", "received"),
    [
        ("810548656c6c6f", False, ["Hello"]),
        ("818537fa213d7f9f4d5158", True, ["Hello"]),
        ("010348656c 80026c6f", False, ["Hello"]),
        ("890548656c6c6f 8a0548656c6c6f", False, [Ping(b"Hello"), Pong(b"Hello")]),
        ("8a8537fa213d7f9f4d5158", True, [Pong(b"Hello")]),
        ("827e0100" + "07" * 256, False, [b"\x07" * 256]),
        ("827f0000000000010000" + "07" * 65536, False, [b"\x07" * 65536]),
    ],
)
def test_examples_of_the_rfc(stream: str, masked: bool, received: list[Incoming]) -> None:
    """The examples of RFC 6455, section 5.7, mean what it says."""
    assert outcome([bytes.fromhex(stream)], expect_masked=masked) == (received, None, False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", [b"", KEY], ids=["from a server", "from a client"])
def test_messages_of_every_form_of_length(size: int, key: bytes) -> None:
    """Text and binary messages arrive whole on both sides of each boundary of the length field."""
    data = bytes(range(256)) * (size // 256 + 1)
    text = ("aé€😀" * size).encode()[:size].decode(errors="ignore")
    stream = frame(0x82, data[:size], key) + frame(0x81, text.encode(), key)
    for chunk in (len(stream) + 1, 65536, 1000):
        chunks = [stream[i : i + chunk] for i in range(0, len(stream), chunk)]
        received, violation, _ = outcome(chunks, expect_masked=bool(key))
        assert received == [data[:size], text]
        assert [type(item) for item in received] == [bytes, str]
        assert violation is None


def test_control_frames_come_between_fragments() -> None:
    """Control frames between the fragments of a message are handed out before it (section 5.4)."""
    stream = frame(0x01, b"a\xe2") + frame(0x89, b"1") + frame(0x00, b"\x82") + frame(0x8A, b"")
    assert outcome([stream + frame(0x80, b"\xac.")])[0] == [Ping(b"1"), Pong(b""), "a€."]


def test_fragments_may_be_empty() -> None:
    """A message may begin, go on and end with fragments that hold nothing."""
    stream = frame(0x01, b"") + frame(0, b"") + frame(0, b"x") + frame(0, b"") + frame(0x80, b"")
    assert outcome([stream])[0] == ["x"]
    assert outcome([frame(0x02, b"") + frame(0x80, b"")])[0] == [b""]


STREAMS = {
    "messages": frame(0x82, b"ab") + frame(0x81, "€😀".encode()) + frame(0x82, b"") + b"\x81\x00",
    "middle sizes": frame(0x82, bytes(126)) + frame(0x81, b"x" * 130),
    "fragments": frame(0x01, b"\xf0\x9f") + frame(0, b"\x98") + frame(0x89, b"p") + b"\x80\x01\x80",
    "binary fragments": frame(0x02, b"ab") + frame(0x8A, b"") + frame(0, b"cd") + frame(0x80, b"e"),
    "tiny fragments": b"\x82\x01a\x01\x00"
    + b"".join(frame(0, bytes((byte,))) for byte in "a€😀".encode())
    + b"\x00\x00\x80\x01!",
    "bad tiny fragments": b"\x82\x01a\x01\x00"
    + b"".join(frame(0, bytes((byte,))) for byte in b"a\xe2\x82\x28b")
    + b"\xc0\x00",
    "end": frame(0x82, b"ab") + frame(0x88, b"\x03\xe8bye") + frame(0x82, b"cd"),
    "control": frame(0x89, bytes(125)) + frame(0x8A, b"pong"),
    "bad text": frame(0x82, b"ab") + frame(0x81, b"abc\xed\xa0\x80d") + b"\xff",
    "bad fragment": frame(0x01, b"a\xe2") + frame(0x89, b"p") + frame(0x80, b"(") + b"\xff",
    "text that ends early": frame(0x81, b"a") + frame(0x81, b"\xf0\x9f\x98") + b"\x82\x01a",
    "message inside a message": frame(0x82, b"ab") + frame(0x01, b"a") + frame(0x82, b"cd"),
    "bad header": frame(0x81, b"a") + b"\x83\x80" + frame(0x82, b"ab"),
    "two faults in one header": b"\x82\x00\xf9\xff\x00\x00",
    "bad length": b"\x82\x01a\x82\x7e\x00\x7d" + bytes(125),
    "bad long length": b"\x82\x01a\x82\x7f\xff\x00\x00\x00\x00\x00\x00\x00abc",
    "too big": b"\x82\x01a\x82\x7f\x00\x00\x00\x01\x00\x00\x00\x00abc",
    "bad close": b"\x82\x01a\x88\x05\x03\xedabc\x82\x01a",
}
MASKED = {
    name + ", masked": b"".join(frame(first, payload, KEY) for first, payload in frames)
    for name, frames in {
        "messages": [(0x82, b"abcde"), (0x81, "€😀x".encode()), (0x82, b"")],
        "fragments": [(0x01, b"\xf0\x9f"), (0x89, b"pin"), (0x00, b""), (0x80, b"\x98\x80abc")],
        "bad text": [(0x82, b"ab"), (0x81, b"abc\xff\xff"), (0x82, b"ab")],
        "end": [(0x02, bytes(200)), (0x88, b"\x03\xe8bye"), (0x82, b"ab")],
    }.items()
}
ALL_STREAMS = {**STREAMS, **MASKED}


@pytest.mark.parametrize("name", ALL_STREAMS)
def test_no_cut_changes_anything(name: str) -> None:
    """Byte by byte, or cut in any two places, a stream gives the same messages and verdict."""
    stream = ALL_STREAMS[name]
    options = {"expect_masked": name in MASKED, "max_message_size": 1000}
    whole = outcome([stream], **options)
    assert whole[0], "each stream begins with something valid"
    assert outcome((stream[i : i + 1] for i in range(len(stream))), **options) == whole
    places = range(len(stream) + 1)
    step = 1 if len(stream) < 80 else 7
    for first in places:
        assert outcome(cut(stream, [first]), **options) == whole
        for second in places[first::step]:
            assert outcome(cut(stream, [first, second]), **options) == whole


@untimed
@given(st.data())
def test_no_cut_changes_what_random_bytes_mean(data: st.DataObject) -> None:
    """Whatever the bytes are and however they are cut, the outcome is that of the whole stream."""
    begun = [b"\x81\x05", b"\x01\x02", b"\x82\x7e", b"\x88\x03"]
    pieces = st.sampled_from([*STREAMS.values(), *begun])
    stream = b"".join(data.draw(st.lists(pieces | st.binary(max_size=9), max_size=5)))
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=9))
    assert outcome(cut(stream, places)) == outcome([stream])
    single = (stream[i : i + 1] for i in range(len(stream)))
    assert outcome(single) == outcome([stream])


# The Unicode Standard, table 3-7: the well-formed byte sequences, as ranges for each byte.
_TAIL = (0x80, 0xBF)
WELL_FORMED = [
    [(0x00, 0x7F)],
    [(0xC2, 0xDF), _TAIL],
    [(0xE0, 0xE0), (0xA0, 0xBF), _TAIL],
    [(0xE1, 0xEC), _TAIL, _TAIL],
    [(0xED, 0xED), (0x80, 0x9F), _TAIL],
    [(0xEE, 0xEF), _TAIL, _TAIL],
    [(0xF0, 0xF0), (0x90, 0xBF), _TAIL, _TAIL],
    [(0xF1, 0xF3), _TAIL, _TAIL, _TAIL],
    [(0xF4, 0xF4), (0x80, 0x8F), _TAIL, _TAIL],
]
EDGES = b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xed\xef\xf0\xf4\xf5\xff"
LONG = b"\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5"  # bytes that begin longer sequences
ROUGH = b"\x7f\x80\xbf\xc2"


def can_become_text(data: bytes) -> bool:
    """Is there a continuation that makes valid UTF-8 of these bytes?"""
    at = 0
    while at < len(data):
        for ranges in WELL_FORMED:
            shown = data[at : at + len(ranges)]
            if all(low <= byte <= high for byte, (low, high) in zip(shown, ranges, strict=False)):
                at += len(ranges)
                break
        else:
            return False
    return True


def _sequences() -> Iterator[bytes]:
    """All pairs at the edges of the ranges, and what may follow them."""
    for choices in (
        [range(256), EDGES],
        [LONG, EDGES, ROUGH],
        [LONG, EDGES, ROUGH, ROUGH],
        [b"a", LONG, EDGES, ROUGH],
    ):
        yield from (bytes(sequence) for sequence in itertools.product(*choices))


def test_text_is_refused_by_the_byte_that_makes_it_impossible() -> None:
    """In an incomplete frame, bytes are refused exactly if no continuation makes them text."""
    for sequence in _sequences():
        decoder = FrameDecoder()
        decoder.feed(b"\x81\x7d" + sequence)
        assert (decoder.violation is None) is can_become_text(sequence), sequence.hex()


def test_wanted_tells_how_much_of_a_frame_is_missing() -> None:
    """`wanted` is the rest of an incomplete data frame's payload, and 0 at all other times."""
    decoder = FrameDecoder()
    seen = []
    for chunk in (b"\x82", b"\x7e\x01", b"\x00", bytes(56), bytes(199), b"\x00\x89\x05pi", b"ng!"):
        decoder.feed(chunk)
        seen.append(decoder.wanted)
    assert seen == [0, 0, 256, 200, 1, 0, 0]


def test_an_idle_decoder_holds_nothing() -> None:
    """Between messages, and after the end, no chunk and no message is kept."""
    decoder = FrameDecoder()
    nothing = held(decoder)
    big = frame(0x82, bytes(300_000)) + frame(0x81, b"x" * 300_000) + frame(0x02, bytes(70_000))
    for at in range(0, len(big), 65536):
        decoder.feed(big[at : at + 65536])
    decoder.feed(frame(0x80, b""))
    assert held(decoder) == nothing
    assert decoder._message is None
    decoder.feed(frame(0x82, bytes(20))[:-1])
    decoder.feed(b"\x00" + frame(0x81, b"x" * 300_000)[:100_000])
    decoder.feed(b"x" * 100_000 + b"\xff" + bytes(1000))
    assert decoder.violation is not None
    assert held(decoder) <= nothing
    assert decoder._message is None
    assert decoder.wanted == 0


class Chunk(bytes):
    """Bytes that note what they are put behind."""

    joined: list[int]

    def __radd__(self, other: bytes) -> bytes:
        self.joined.append(len(other))
        return other + bytes(self)


def test_what_has_come_of_a_message_is_never_copied_again() -> None:
    """A chunk is joined only to what is left of a header or a control frame: 130 bytes at most."""
    Chunk.joined = []
    stream = b"".join(
        (
            frame(0x82, bytes(100_000)),
            frame(0x81, b"x" * 100_000),
            *(frame(0x89, bytes(125)) for _ in range(50)),
            frame(0x02, bytes(70_000)),
            frame(0x80, bytes(100)),
        )
    )
    for size in (7, 131, 1000):
        decoder = FrameDecoder()
        chunks = [Chunk(stream[i : i + size]) for i in range(0, len(stream), size)]
        assert sum(len(decoder.feed(chunk)) for chunk in chunks) == 53
    assert 2 < max(Chunk.joined) <= 130


def _calls_for(stream: bytes) -> int:
    """Calls of functions, Python's own too, that it takes to decode `stream` in 64 KiB chunks."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    decoder = FrameDecoder()
    sys.setprofile(count)
    try:
        for at in range(0, len(stream), 65536):
            decoder.feed(stream[at : at + 65536])
    finally:
        sys.setprofile(None)
    assert decoder.violation is None
    return calls


@pytest.mark.parametrize("opcode", [0x01, 0x02], ids=["text", "binary"])
def test_joining_fragments_takes_linear_work(opcode: int) -> None:
    """Twice the fragments take twice the calls; nothing is done again for the earlier ones."""
    fragment = frame(0x00, b"x" * 64)
    once = _calls_for(frame(opcode, b"") + fragment * 2000 + frame(0x80, b""))
    twice = _calls_for(frame(opcode, b"") + fragment * 4000 + frame(0x80, b""))
    assert 1.9 * once < twice < 2.1 * once


@pytest.mark.parametrize("opcode", [0x01, 0x02], ids=["text", "binary"])
@pytest.mark.parametrize("size", [1, 64, 5000])
def test_tiny_fragments_take_the_memory_of_their_bytes(opcode: int, size: int) -> None:
    """A message of many fragments holds little more than its bytes, however small they are."""
    count = min(2000, 50_000 // size)
    total = 8 * count * size
    chunk = frame(0x00, b"x" * size) * count
    decoder = FrameDecoder()
    decoder.feed(frame(opcode, b""))
    tracemalloc.start()
    try:
        for _ in range(8):
            decoder.feed(chunk)
        now, _ = tracemalloc.get_traced_memory()
        messages = decoder.feed(frame(0x80, b""))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(messages) == 1
    assert len(messages[0]) == total  # type: ignore[arg-type]
    assert now < 1.2 * total + 100_000
    assert peak < 2.2 * total + 100_000


def test_four_mebibytes_in_tiny_fragments_are_legal() -> None:
    """A message of 4 MiB in fragments of 64 bytes arrives whole."""
    pieces = [number.to_bytes(4, "big") * 16 for number in range(65536)]
    fragments = b"".join(b"\x00\x40" + piece for piece in pieces)
    stream = frame(0x02, b"") + fragments + frame(0x80, b"")
    chunks = (stream[i : i + 65536] for i in range(0, len(stream), 65536))
    assert outcome(chunks) == ([b"".join(pieces)], None, False)


@pytest.mark.parametrize("opcode", [0x01, 0x02], ids=["text", "binary"])
def test_a_flood_of_empty_fragments_holds_nothing(opcode: int) -> None:
    """Fragments without payload leave nothing behind, up to the limit on their number."""
    decoder = FrameDecoder(max_message_size=10)
    decoder.feed(frame(opcode, b"ab"))
    flood = frame(0x00, b"") * 1000
    decoder.feed(flood)
    tracemalloc.start()
    try:
        for _ in range(20):
            decoder.feed(flood)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 2000
    assert decoder.feed(frame(0x80, b"c")) in (["abc"], [b"abc"])


def test_an_announced_size_takes_no_memory() -> None:
    """A header alone, of whatever size it speaks, makes the decoder keep nothing."""
    tracemalloc.start()
    try:
        decoder = FrameDecoder()
        decoder.feed(b"\x82\x7f" + (16 * 2**20).to_bytes(8, "big"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.wanted == 16 * 2**20
    assert peak < 10_000


@pytest.mark.slow
@settings(untimed, max_examples=1000)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=20))
def test_no_bytes_make_it_raise(stream: bytes, places: list[int]) -> None:
    """Any bytes at all are taken without an exception, with one outcome for all cuts."""
    chunks = cut(stream, (min(place, len(stream)) for place in places))
    for masked in (False, True):
        assert outcome(chunks, expect_masked=masked) == outcome([stream], expect_masked=masked)


def test_control_frames_are_values() -> None:
    """Control frames compare by kind and content, and cannot be changed."""
    assert Ping(b"x") == Ping(b"x")
    others: list[object] = [Ping(b"y"), Pong(b"x"), b"x", (b"x",)]
    assert Ping(b"x") not in others
    assert Close() == Close(1005, "")
    with pytest.raises(AttributeError):
        Ping(b"x").payload = b"y"  # type: ignore[misc]
