from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.secrets import Secret
from tunnel.session_frames import (
    ASK_FRAME,
    HEADER,
    ID_SIZE,
    LONGEST_FIXED_FRAME,
    MAX_UINT32,
    MAX_UINT64,
    OVERHEAD,
    REASON_SIZE,
    TOKEN_SIZE,
    VERSION,
    Answer,
    End,
    FrameKind,
    Gone,
    Greeting,
    Limits,
    Open,
    Opened,
    Parcel,
    Resume,
    Resumed,
    SessionViolation,
    encode,
    is_offered,
    max_frame_size,
    numbered_header,
    read_answer,
    read_greeting,
    read_numbered_header,
    read_reason,
)

K = FrameKind
ID = bytes(range(16))
TOKEN = Secret("5a" * 32)
LIMITS = Limits(messages=1, bytes=2, message_size=3)
LIMITS_BYTES = "00000001 0000000000000002 0000000000000003"
MOST = Limits(messages=2**31 - 1, bytes=MAX_UINT64, message_size=MAX_UINT64)

ON_THE_WIRE: list[tuple[Greeting | Answer | End, str]] = [
    (Open(LIMITS), "10" + LIMITS_BYTES),
    (Opened(ID, TOKEN, 600, LIMITS), "11" + ID.hex() + "5a" * 32 + "00000258" + LIMITS_BYTES),
    (Resume(ID, TOKEN, 2**32 + 1), "12" + ID.hex() + "5a" * 32 + "0000000100000001"),
    (Resumed(7, MAX_UINT64), "13" + "0000000000000007" + "ffffffffffffffff"),
    (Gone("too late"), "14" + b"too late".hex()),
    (End(""), "15"),
]
"""Each frame of the handshake, and its bytes."""

numbers = st.integers(0, MAX_UINT64)
limits = st.builds(Limits, st.integers(1, 2**31 - 1), st.integers(1, 2**64 - 1), st.integers(1, 9))
ids = st.binary(min_size=ID_SIZE, max_size=ID_SIZE)
tokens = st.binary(min_size=TOKEN_SIZE, max_size=TOKEN_SIZE).map(lambda token: Secret(token.hex()))


def test_the_kinds_are_those_of_the_protocol() -> None:
    """What other implementations rely on never changes."""
    assert {kind.name: kind.value for kind in K} == {
        "TEXT": 1,
        "BINARY": 2,
        "REQUEST": 3,
        "RESPONSE": 4,
        "CANCEL": 5,
        "SKIP": 6,
        "ACK": 8,
        "ASK": 9,
        "OPEN": 0x10,
        "OPENED": 0x11,
        "RESUME": 0x12,
        "RESUMED": 0x13,
        "GONE": 0x14,
        "END": 0x15,
    }
    assert (HEADER, VERSION, OVERHEAD, ASK_FRAME) == ("Tunnel-Resume", "1", 5, b"\x09")


@pytest.mark.parametrize(("frame", "hexadecimal"), ON_THE_WIRE)
def test_a_frame_of_the_handshake_has_these_bytes(
    frame: Greeting | Answer | End, hexadecimal: str
) -> None:
    """Written down in full, for the day somebody changes a format string."""
    assert encode(frame) == bytes.fromhex(hexadecimal)


def test_a_numbered_frame_begins_with_kind_and_number() -> None:
    """Five bytes: the kind, and the low 32 bits of the number, big-endian."""
    assert numbered_header(K.TEXT, 0x01020304) == bytes.fromhex("01 01020304")
    assert read_numbered_header(bytes.fromhex("08 fffffffe 7f")) == (8, MAX_UINT32 - 1)
    with pytest.raises(struct.error):
        read_numbered_header(b"\x01\x00\x00\x00")


@given(st.one_of(st.builds(Open, limits), st.builds(Resume, ids, tokens, numbers)))
def test_what_a_client_says_is_read_back(greeting: Open | Resume) -> None:
    """A greeting that was encoded and read is the same."""
    assert read_greeting(encode(greeting)) == greeting


@given(
    st.one_of(
        st.builds(Opened, ids, tokens, st.integers(0, MAX_UINT32), limits),
        st.builds(Resumed, numbers, numbers),
        st.builds(Gone, st.text(max_size=REASON_SIZE // 4)),
    )
)
def test_what_a_server_answers_is_read_back(answer: Opened | Resumed | Gone) -> None:
    """An answer that was encoded and read is the same."""
    assert read_answer(encode(answer)) == answer


def test_a_frame_with_a_token_does_not_show_it() -> None:
    """Frames are logged as they are; the token in them is not."""
    assert "5a" not in repr(Opened(ID, TOKEN, 600, LIMITS))
    assert "5a" not in repr(Resume(ID, TOKEN, 1))


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "an empty frame"),
        (b"\x00", "a frame of unknown kind 0x00"),
        (b"\x07abc", "a frame of unknown kind 0x07"),
        (b"\xff" * 70, "a frame of unknown kind 0xff"),
        (b"\x01\0\0\0\1text", "TEXT where OPEN or RESUME belongs"),
        (encode(Gone("no")), "GONE where OPEN or RESUME belongs"),
        (encode(Resumed(1, 1)), "RESUMED where OPEN or RESUME belongs"),
        (b"\x10", "OPEN of 1 bytes, not 21"),
        (encode(Open(LIMITS))[:-1], "OPEN of 20 bytes, not 21"),
        (encode(Open(LIMITS)) + b"\0", "OPEN of 22 bytes, not 21"),
        (encode(Resume(ID, TOKEN, 1))[:-1], "RESUME of 56 bytes, not 57"),
        (b"\x12" + bytes(2**20), "RESUME of 1048577 bytes, not 57"),
        (b"\x10" + bytes(20), "impossible limits: messages must be between"),
        (b"\x10\x80" + b"\0" * 10 + b"\1" * 9, "impossible limits: messages must be between"),
        (b"\x10\0\0\0\1" + bytes(8) + b"\1" * 8, "impossible limits: bytes and message_size"),
        (b"\x10\0\0\0\1" + b"\1" * 8 + bytes(8), "impossible limits: bytes and message_size"),
    ],
)
def test_what_is_no_greeting_is_refused(frame: bytes, why: str) -> None:
    """A first frame of the client that is not one of the two is a violation that says why."""
    with pytest.raises(SessionViolation, match=f"^{why}"):
        read_greeting(frame)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "an empty frame"),
        (b"\x20", "a frame of unknown kind 0x20"),
        (ASK_FRAME, "ASK where OPENED, RESUMED or GONE belongs"),
        (encode(End("bye")), "END where OPENED, RESUMED or GONE belongs"),
        (encode(Open(LIMITS)), "OPEN where OPENED, RESUMED or GONE belongs"),
        (encode(Opened(ID, TOKEN, 1, LIMITS))[:-1], "OPENED of 72 bytes, not 73"),
        (encode(Opened(ID, TOKEN, 1, LIMITS)) + b"x", "OPENED of 74 bytes, not 73"),
        (encode(Opened(ID, TOKEN, 1, LIMITS))[:-20] + bytes(20), "impossible limits"),
        (encode(Resumed(1, 1))[:-1], "RESUMED of 16 bytes, not 17"),
        (encode(Resumed(1, 1)) + b"x", "RESUMED of 18 bytes, not 17"),
    ],
)
def test_what_is_no_answer_is_refused(frame: bytes, why: str) -> None:
    """A first frame of the server that is not one of the three is a violation that says why."""
    with pytest.raises(SessionViolation, match=f"^{why}"):
        read_answer(frame)


FRAMES = st.one_of(
    st.binary(max_size=80),
    st.builds(lambda kind, rest: bytes([kind]) + rest, st.sampled_from(K), st.binary(max_size=80)),
    st.builds(
        lambda frame, place, byte: frame[:place] + bytes([byte]) + frame[place + 1 :],
        st.sampled_from([bytes.fromhex(hexadecimal) for _, hexadecimal in ON_THE_WIRE]),
        st.integers(0, 80),
        st.integers(0, 255),
    ),
)
"""Anything, something of a known kind, and almost a frame of the handshake."""


@given(FRAMES)
def test_whatever_arrives_is_read_or_is_a_violation(frame: bytes) -> None:
    """Reading the first frame raises nothing else, and what was read is what was written."""
    with contextlib.suppress(SessionViolation):
        assert encode(read_greeting(frame)) == frame
    with contextlib.suppress(SessionViolation):
        answer = read_answer(frame)
        if not isinstance(answer, Gone):
            assert encode(answer) == frame


@pytest.mark.parametrize("bad", [b"\xff\xfe", "é".encode()[:1], b"\xed\xa0\x80"])
def test_a_reason_that_is_no_text_loses_only_the_bytes_that_are_none(bad: bytes) -> None:
    """The reason of a peer is for people; it is never why a frame is refused."""
    assert read_answer(b"\x14it is " + bad + b"gone") == Gone("it is gone")


def test_a_reason_is_cut() -> None:
    """A reason has 120 bytes at most, whoever wrote it, and no half characters."""
    assert encode(Gone("x" * 200)) == b"\x14" + b"x" * 120
    assert encode(End("x" + "é" * 100)) == b"\x15x" + "é".encode() * 59
    assert encode(End("\ud800")) == b"\x15?"
    assert read_reason(b"\x15" + b"y" * 10**6) == "y" * 120


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((0, 1, 1), r"messages must be between 1 and 2\^31 - 1, not 0"),
        ((2**31, 1, 1), r"messages must be between 1 and 2\^31 - 1, not 2147483648"),
        ((1, 0, 1), "bytes and message_size must be"),
        ((1, 2**64, 1), "bytes and message_size must be"),
        ((1, 1, 0), "bytes and message_size must be"),
        ((1, 1, 2**64), "bytes and message_size must be"),
    ],
)
def test_limits_that_make_no_sense_are_refused(values: tuple[int, int, int], why: str) -> None:
    """Less than one of anything, or more than numbers on the wire can say."""
    with pytest.raises(ValueError, match=why):
        Limits(*values)


def test_the_largest_limits_go_over_the_wire() -> None:
    """The bounds themselves are within."""
    assert read_greeting(encode(Open(MOST))) == Open(MOST)


def test_a_parcel_is_its_payload_and_a_kind() -> None:
    """It can be used as bytes, and is wanted until somebody says otherwise."""
    parcel = Parcel(K.REQUEST, b"payload")
    assert parcel == b"payload"
    assert (parcel.kind, parcel.is_withdrawn) == (K.REQUEST, False)


@pytest.mark.parametrize(
    ("message_size", "most"),
    [(1, LONGEST_FIXED_FRAME), (116, 121), (117, 122), (2**20, 2**20 + 5)],
)
def test_the_longest_frame_holds_the_longest_message_or_reason(
    message_size: int, most: int
) -> None:
    """With small messages allowed, a handshake still fits."""
    assert max_frame_size(message_size) == most
    assert all(len(encode(frame)) <= LONGEST_FIXED_FRAME for frame, _ in ON_THE_WIRE)
    assert len(encode(Gone("x" * 1000))) == LONGEST_FIXED_FRAME


@pytest.mark.parametrize(
    ("header", "is_ours"),
    [("1", True), ("2, 1", True), (" 1 ,3", True), ("2", False), ("", False), ("11", False)],
)
def test_our_version_is_found_among_those_offered(header: str, is_ours: bool) -> None:
    """A client may offer several; the server looks for its own."""
    assert is_offered(header) is is_ours


@pytest.mark.parametrize("first", ["claim", "withdraw"])
def test_whoever_is_first_decides_about_a_parcel(first: str) -> None:
    """It is numbered or withdrawn, never both; to say the same again is harmless."""
    parcel = Parcel(FrameKind.REQUEST, b"")
    other = "withdraw" if first == "claim" else "claim"
    assert not parcel.is_withdrawn
    for _ in range(2):
        assert getattr(parcel, first)()
        assert not getattr(parcel, other)()
    assert parcel.is_withdrawn == (first == "withdraw")
