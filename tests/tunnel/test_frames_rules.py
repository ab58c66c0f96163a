"""What RFC 6455 forbids, byte by byte: `tunnel.frames.rules` as the decoder applies it."""

from __future__ import annotations

import pytest

from tunnel.frames import Close, FrameDecoder, Ping, Pong, ProtocolViolation

START = b"\x02\x01x"  # a binary message whose next fragments are to come
LEGAL = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
ILLEGAL = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]

VIOLATIONS = {
    # name: (in order, the offending bytes up to the last one needed, close code, section)
    "first reserved bit": (b"", "c2", 1002, "5.2"),
    "second reserved bit": (b"", "a1", 1002, "5.2"),
    "third reserved bit": (b"", "99", 1002, "5.2"),
    "reserved bit of a continuation": (START, "c0", 1002, "5.2"),
    **{f"opcode {i}": (b"", f"8{i:x}", 1002, "5.2") for i in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "reserved bit before opcode": (b"", "b3", 1002, "5.2"),
    "fragmented close": (b"", "08", 1002, "5.5"),
    "fragmented ping": (b"", "09", 1002, "5.5"),
    "fragmented pong": (b"", "0a", 1002, "5.5"),
    "continuation of nothing": (b"", "80", 1002, "5.4"),
    "first fragment that continues nothing": (b"", "00", 1002, "5.4"),
    "continuation after the end": (START + b"\x80\x00", "80", 1002, "5.4"),
    "text inside a message": (START, "81", 1002, "5.4"),
    "fragmented binary inside a message": (START, "02", 1002, "5.4"),
    "masked text": (b"", "8185", 1002, "5.1"),
    "masked binary of 64 KiB": (b"", "82ff", 1002, "5.1"),
    "masked ping": (b"", "8980", 1002, "5.1"),
    "masked before too long": (b"", "89fe", 1002, "5.1"),
    "ping of over 125 bytes": (b"", "897e", 1002, "5.5"),
    "pong of over 64 KiB": (b"", "8a7f", 1002, "5.5"),
    "close of over 125 bytes": (b"", "887e", 1002, "5.5"),
    "close of one byte": (b"", "8801", 1002, "5.5.1"),
    "two bytes for 125": (b"", "827e007d", 1002, "5.2"),
    "two bytes for 0": (b"", "817e0000", 1002, "5.2"),
    "eight bytes for 65535": (b"", "827f000000000000ffff", 1002, "5.2"),
    "eight bytes for 0": (b"", "827f0000000000000000", 1002, "5.2"),
    "highest bit of the length": (b"", "827f8000000000000000", 1002, "5.2"),
    "all bits of the length": (b"", "827fffffffffffffffff", 1002, "5.2"),
    "longest length": (b"", "827f7fffffffffffffff", 1009, "7.4.1"),
    "over the limit": (b"", "827e03e9", 1009, "7.4.1"),
    "text over the limit": (b"", "817e03e9", 1009, "7.4.1"),
    "fragment over the limit": (b"", "027e03e9", 1009, "7.4.1"),
    "fragments over the limit": (START, "807e03e8", 1009, "7.4.1"),
    "many fragments over the limit": (START + b"\x00\x64" + bytes(100), "807e0384", 1009, "7.4.1"),
    "not the shortest form before too big": (START, "807f00000000000003e8", 1002, "5.2"),
    **{f"close code {code}": (b"", f"8802{code:04x}", 1002, "7.4") for code in ILLEGAL},
    "close code before its reason": (b"", "880403ecc328", 1002, "7.4"),
    "close reason with a wrong byte": (b"", "880403e8c328", 1007, "5.5.1"),
    "close reason cut inside a character": (b"", "880403e8e282", 1007, "5.5.1"),
    "close reason with a surrogate": (b"", "880503e8eda080", 1007, "5.5.1"),
    "text with a wrong byte": (b"", "817d61ff", 1007, "8.1"),
    "text with an overlong form": (b"", "817d61c0", 1007, "8.1"),
    "text with a surrogate": (b"", "817dceba61eda0", 1007, "8.1"),
    "text above U+10FFFF": (b"", "817df490", 1007, "8.1"),
    "text cut inside a character": (b"", "8103e282ac8102e282", 1007, "8.1"),
    "fragments cut inside a character for good": (b"\x01\x01a", "0002e282800228", 1007, "8.1"),
    "wrong byte in a fragment": (b"\x01\x02a\xe2\x89\x00", "000241", 1007, "8.1"),
    "last fragment ends inside a character": (b"\x01\x02a\xe2", "800182", 1007, "8.1"),
    "empty last fragment inside a character": (b"\x01\x02a\xe2", "8000", 1007, "8.1"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_each_violation_is_found_at_its_last_byte(name: str) -> None:
    """A violation is found with the last byte that it needs, in whatever pieces that comes."""
    start, offence, close_code, section = VIOLATIONS[name]
    stream = b"\x82\x01y" + start + bytes.fromhex(offence)
    decoder = FrameDecoder(max_message_size=1000)
    received = []
    for i in range(len(stream)):
        assert decoder.violation is None, f"refused after {i} of {len(stream)} bytes"
        received += decoder.feed(stream[i : i + 1])
    assert decoder.violation is not None
    assert decoder.finished
    assert decoder.wanted == 0
    assert decoder.violation.close_code == close_code
    assert decoder.violation.reason.endswith(f"(RFC 6455, section {section})")
    assert received[0] == b"y"

    whole = FrameDecoder(max_message_size=1000)
    assert whole.feed(stream + b"\x82\x01z") == received
    assert whole.violation == decoder.violation


@pytest.mark.parametrize("name", VIOLATIONS)
def test_each_reason_fits_into_a_close_frame(name: str) -> None:
    """The reason of a violation can be sent: at most 123 bytes of UTF-8 (section 5.5)."""
    start, offence, _, _ = VIOLATIONS[name]
    decoder = FrameDecoder(max_message_size=1000)
    decoder.feed(start + bytes.fromhex(offence))
    assert decoder.violation is not None
    assert 0 < len(decoder.violation.reason.encode()) <= 123


def test_the_longest_reason_fits_too() -> None:
    """The reason stays short enough with the biggest numbers that it can name."""
    decoder = FrameDecoder(max_message_size=2**63 - 1)
    decoder.feed(b"\x02\x01x\x80\x7f" + (2**63 - 1).to_bytes(8, "big"))
    assert decoder.violation is not None
    assert decoder.violation.close_code == 1009
    assert len(decoder.violation.reason) <= 123


@pytest.mark.parametrize("code", LEGAL)
def test_legal_close_codes_are_accepted(code: int) -> None:
    """Codes of section 7.4.1 and the IANA registry, and those from 3000 to 4999, are legal."""
    decoder = FrameDecoder()
    assert decoder.feed(b"\x88\x05" + code.to_bytes(2, "big") + b"why") == [Close(code, "why")]
    assert decoder.violation is None
    assert decoder.finished


def test_every_other_close_code_is_refused() -> None:
    """Of all codes, exactly the legal ones may stand in a close frame."""
    legal = []
    for code in (*range(5100), 8192, 32767, 32768, 65535):
        decoder = FrameDecoder()
        if decoder.feed(b"\x88\x02" + code.to_bytes(2, "big")):
            legal.append(code)
    assert legal == [1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)]


def test_a_close_frame_may_be_empty() -> None:
    """A close frame without a code counts as 1005, no status received (section 7.1.5)."""
    decoder = FrameDecoder()
    assert decoder.feed(b"\x88\x00") == [Close(1005, "")]


def test_a_close_frame_may_interrupt_a_message() -> None:
    """Also a close frame is a control frame that may come between fragments (section 5.4)."""
    decoder = FrameDecoder()
    assert decoder.feed(START + b"\x88\x02\x03\xe8") == [Close(1000, "")]
    assert decoder.violation is None


@pytest.mark.parametrize("end", ["8801", "880203ed", "880403e8c328", "880203e8", "8800"])
def test_nothing_is_looked_at_behind_the_end(end: str) -> None:
    """After a violation or a close frame, further bytes change nothing (sections 7.1.7, 5.5.1)."""
    decoder = FrameDecoder()
    decoder.feed(bytes.fromhex(end) + b"\x82\x01z")
    violation = decoder.violation
    assert decoder.finished
    assert decoder.feed(b"\x82\x01z\xff\xff") == []
    assert decoder.violation is violation
    assert decoder.wanted == 0


@pytest.mark.parametrize("size", [1000, 1001])
def test_the_limit_is_the_largest_size_allowed(size: int) -> None:
    """A message of exactly the limit passes, in one frame as in fragments; a byte more is 1009."""
    whole = b"\x82\x7e" + size.to_bytes(2, "big") + bytes(size)
    rest = size - 100
    fragments = b"\x02\x64" + bytes(100) + b"\x80\x7e" + rest.to_bytes(2, "big") + bytes(rest)
    for stream in (whole, fragments):
        decoder = FrameDecoder(max_message_size=1000)
        messages = decoder.feed(stream)
        if size == 1000:
            assert (messages, decoder.violation) == ([bytes(1000)], None)
        else:
            assert messages == []
            assert decoder.violation is not None
            assert decoder.violation.close_code == 1009


def test_the_limit_counts_one_message() -> None:
    """Each message has the limit to itself; control frames do not count."""
    decoder = FrameDecoder(max_message_size=100)
    fragmented = b"\x02\x32" + bytes(50) + b"\x89\x7d" + bytes(125) + b"\x80\x32" + bytes(50)
    assert decoder.feed(fragmented * 3) == [Ping(bytes(125)), bytes(100)] * 3
    assert decoder.violation is None


def test_a_limit_below_short_frames_holds() -> None:
    """The limit also holds for frames so short that they take the fast way."""
    decoder = FrameDecoder(max_message_size=10)
    assert decoder.feed(b"\x82\x0a" + bytes(10) + b"\x82\x0b" + bytes(11)) == [bytes(10)]
    assert decoder.violation == ProtocolViolation(
        1009, "a message of 11 bytes, 10 are allowed (RFC 6455, section 7.4.1)"
    )


def test_a_client_must_mask() -> None:
    """A server refuses an unmasked frame, of any kind and size (section 5.1)."""
    for second in (0, 5, 125, 126, 127):
        decoder = FrameDecoder(expect_masked=True)
        assert decoder.feed(bytes((0x82, second))) == []
        assert decoder.violation == ProtocolViolation(
            1002, "a client's frame is not masked (RFC 6455, section 5.1)"
        )


def test_the_limit_on_fragments_is_the_largest_number_allowed() -> None:
    """A message may have so many frames, empty or not; with the next one it is refused."""
    for count, chunk in ((5, 3), (5, 1000), (1500, 65536)):
        for piece in (b"", b"x"):
            decoder = FrameDecoder(max_fragments=count)
            fragment = bytes((0, len(piece))) + piece
            stream = b"\x02\x00" + b"\x89\x00" + fragment * (count - 2)
            for at in range(0, len(stream), chunk):
                decoder.feed(stream[at : at + chunk])
            assert decoder.feed(b"\x80\x00" + b"\x82\x01y") == [piece * (count - 2), b"y"]

            decoder.feed(b"\x02\x00" + fragment * (count - 1))
            assert decoder.violation is None
            assert decoder.feed(b"\x8a\x00" + b"\x80") == [Pong()]
            assert decoder.violation is None
            assert decoder.feed(b"\x00") == []
            assert decoder.violation is not None
            assert decoder.violation.close_code == 1009
            assert f"{count} fragments" in decoder.violation.reason


def test_a_limit_of_one_forbids_fragments() -> None:
    """Then a message comes in one frame; control frames do not count."""
    decoder = FrameDecoder(max_fragments=1)
    assert decoder.feed(b"\x82\x01x\x89\x00\x81\x01y" + START) == [b"x", Ping(), "y"]
    decoder.feed(b"\x80\x00")
    assert decoder.violation is not None
    assert decoder.violation.close_code == 1009


def test_the_default_limit_is_a_million() -> None:
    """1 048 576 fragments are allowed, and one more is not."""
    decoder = FrameDecoder()
    decoder.feed(b"\x01\x00")
    for _ in range(256):
        assert decoder.violation is None
        decoder.feed(b"\x00\x00" * 4096)
    assert decoder.violation is not None
    assert decoder.violation.close_code == 1009


@pytest.mark.parametrize("ends", [True, False])
def test_many_fragments_obey_the_limit_on_size(ends: bool) -> None:
    """Fragments that are joined many at a time are refused by the first byte that is too much."""
    decoder = FrameDecoder(max_message_size=300)
    decoder.feed(b"\x02\x00" + b"\x00\x64" + bytes(100))
    fitting = b"\x00\x32" + bytes(50)
    if ends:
        assert decoder.feed(fitting * 4 + b"\x80\x00") == [bytes(300)]
        return
    decoder.feed(fitting * 4 + b"\x00\x01x")
    assert decoder.violation is not None
    assert "301 bytes" in decoder.violation.reason
