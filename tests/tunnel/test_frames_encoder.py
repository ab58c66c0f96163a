"""What goes out: `tunnel.frames.encoder`."""

from __future__ import annotations

import array
import collections
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from tunnel import masking
from tunnel.frames import Close, FrameDecoder, FrameEncoder, Incoming, Ping, Pong, encoder
from tunnel.frames.rules import is_legal_close_code

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIZES = (0, 1, 125, 126, 127, 255, 256, 65535, 65536, 65537)
SURROGATE = "character 2 is a lone surrogate"


def rfc_key(size: int) -> bytes:
    """The mask key of the RFC's examples, as often as asked for."""
    return (b"\x37\xfa\x21\x3d" * size)[:size]


def understood(frames: bytes, *, masked: bool = True) -> list[Incoming]:
    decoder = FrameDecoder(expect_masked=masked)
    received = decoder.feed(frames)
    assert decoder.violation is None
    return received


@pytest.fixture(params=["websockets", "wsaccel", "python"])
def any_masker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the encoder use each masker in turn."""
    hidden = {"websockets": (), "wsaccel": ("websockets.speedups",)}
    for module in hidden.get(request.param, ("websockets.speedups", "wsaccel.xormask")):
        monkeypatch.setitem(sys.modules, module, None)
    name, function = masking.choose_masker()
    assert name == request.param
    monkeypatch.setattr(encoder, "apply_mask", function)
    return name


def test_examples_of_the_rfc() -> None:
    """The examples of RFC 6455, section 5.7, come out to the letter."""
    client, server = FrameEncoder(random_bytes=rfc_key), FrameEncoder(mask=False)
    assert server.message("Hello").hex() == "810548656c6c6f"
    assert client.message("Hello").hex() == "818537fa213d7f9f4d5158"
    assert [f.hex() for f in server.fragments("Hello", 3)] == ["010348656c", "80026c6f"]
    assert server.ping(b"Hello").hex() == "890548656c6c6f"
    assert client.pong(b"Hello").hex() == "8a8537fa213d7f9f4d5158"
    assert server.message(bytes(256))[:4].hex() == "827e0100"
    assert server.message(bytes(65536))[:10].hex() == "827f0000000000010000"


@pytest.mark.parametrize("mask", [True, False], ids=["client", "server"])
@pytest.mark.parametrize("size", SIZES)
def test_messages_of_every_size_are_understood(any_masker: str, size: int, mask: bool) -> None:
    """Messages on both sides of each boundary arrive as they were, alone, in batches, in parts."""
    data = os.urandom(size)
    text = "x" * size
    out = FrameEncoder(mask=mask)
    assert understood(out.message(data), masked=mask) == [data]
    assert understood(out.message(text), masked=mask) == [text]
    assert understood(out.messages([data, text, data]), masked=mask) == [data, text, data]
    assert understood(b"".join(out.fragments(data, 1000)), masked=mask) == [data]
    assert understood(b"".join(out.fragments(text)), masked=mask) == [text]


@pytest.mark.parametrize("mask", [True, False], ids=["client", "server"])
def test_bytes_like_messages_are_sent_as_their_bytes(mask: bool) -> None:
    """A bytearray, a memoryview of wide or scattered items: all are sent as the bytes they hold."""
    out = FrameEncoder(mask=mask)
    wide = memoryview(array.array("I", [1, 2, 3]))
    scattered = memoryview(b"abcdefgh")[::2]
    for data in (bytearray(b"abc"), memoryview(b"abc"), wide, scattered, bytearray(70_000)):
        assert understood(out.message(data), masked=mask) == [bytes(data)]
        assert understood(out.messages([data, data]), masked=mask) == [bytes(data)] * 2  # type: ignore[list-item]
        assert understood(b"".join(out.fragments(data, 2)), masked=mask) == [bytes(data)]


def test_subclasses_of_text_and_bytes_are_messages() -> None:
    """A subclass of `str` is sent as text, one of `bytes` as binary, also in a batch."""

    class Text(str):
        __slots__ = ()

    class Data(bytes):
        __slots__ = ()

    batch: list[str | bytes] = [Text("abc"), Data(b"abc"), Text("x" * 200)]
    assert understood(FrameEncoder().messages(batch)) == ["abc", b"abc", "x" * 200]
    assert understood(FrameEncoder().message(batch[0])) == ["abc"]


def test_an_empty_batch_is_nothing() -> None:
    """A batch without messages is no bytes."""
    assert FrameEncoder().messages([]) == b""
    assert FrameEncoder(mask=False).messages([]) == b""


@untimed
@given(st.lists(st.text(max_size=300) | st.binary(max_size=300), max_size=8), st.booleans())
def test_another_library_understands_batches(batch: list[str | bytes], mask: bool) -> None:
    """wsproto, as the other end, gets the messages of a batch as they were."""
    peer = FrameProtocol(client=not mask, extensions=[])
    peer.receive_bytes(FrameEncoder(mask=mask).messages(batch))
    frames = list(peer.received_frames())
    assert [frame.payload for frame in frames] == batch
    assert all(frame.frame_finished and frame.message_finished for frame in frames)
    kinds = {str: Opcode.TEXT, bytes: Opcode.BINARY}
    assert [frame.opcode for frame in frames] == [kinds[type(data)] for data in batch]


@untimed
@given(st.text(max_size=40) | st.binary(max_size=40), st.integers(1, 50))
def test_fragments_make_the_message(data: str | bytes, size: int) -> None:
    """Fragments are no bigger than asked, only the last is final; joined they are the message."""
    frames = list(FrameEncoder(mask=False).fragments(data, size))
    payload = data.encode() if isinstance(data, str) else data
    assert [frame[1] for frame in frames[:-1]] == [size] * (len(frames) - 1)
    assert frames[-1][1] <= size
    assert len(frames) == max(1, -(-len(payload) // size))
    assert [frame[0] >> 7 for frame in frames] == [0] * (len(frames) - 1) + [1]
    opcode = 1 if isinstance(data, str) else 2
    assert [frame[0] & 0x7F for frame in frames] == [opcode] + [0] * (len(frames) - 1)
    pings = FrameEncoder(mask=False).ping().join(frames)
    assert understood(pings, masked=False) == [Ping()] * (len(frames) - 1) + [data]


def test_fragments_are_made_when_they_are_asked_for() -> None:
    """No fragment is encoded before its turn; a change of the data meanwhile changes nothing."""
    drawn: list[int] = []

    def key(size: int) -> bytes:
        drawn.append(size)
        return bytes(size)

    data = bytearray(b"abcdef")
    fragments = FrameEncoder(random_bytes=key).fragments(data, 2)
    data[:] = b"------"
    assert drawn == []
    assert next(fragments)[-2:] == b"ab"
    assert drawn == [4]
    assert [frame[-2:] for frame in fragments] == [b"cd", b"ef"]
    assert drawn == [4, 4, 4]


def test_every_frame_has_a_key_of_its_own() -> None:
    """Each frame is masked with four bytes that no other frame uses (section 5.3)."""
    count = iter(range(1, 1000))

    def numbered(size: int) -> bytes:
        return b"".join(next(count).to_bytes(4, "big") for _ in range(size // 4))

    out = FrameEncoder(random_bytes=numbered)
    frames = [out.message(b""), *out.fragments(b"ab", 1), out.ping(), out.pong(), out.close(None)]
    batch = out.messages([b"", "", b""])
    keys = [frame[2:6] for frame in frames] + [batch[i : i + 4] for i in (2, 8, 14)]
    assert keys == [number.to_bytes(4, "big") for number in range(1, 10)]


def test_keys_come_from_the_stock_or_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a source of one's own, keys are unpredictable and rarely repeat."""
    out = FrameEncoder()
    keys = [out.message(b"")[2:6] for _ in range(600)]
    batch = out.messages([b""] * 600)
    keys += [batch[i + 2 : i + 6] for i in range(0, len(batch), 6)]
    assert len(keys) == 1200
    assert collections.Counter(keys).most_common(1)[0][1] <= 2
    monkeypatch.setattr(encoder, "mask_key", lambda: b"wxyz")
    assert FrameEncoder().ping()[2:] == b"wxyz"


@pytest.mark.parametrize("data", [None, 5, 1.5, ["a"], object(), array.array("B", b"a")])
@pytest.mark.parametrize("mask", [True, False], ids=["client", "server"])
def test_other_types_are_refused(data: Any, mask: bool) -> None:
    """What is neither text nor bytes is a TypeError that names the type, at that very call."""
    out = FrameEncoder(mask=mask)
    calls: list[Callable[[], object]] = [
        lambda: out.message(data),
        lambda: out.messages([b"fine", data]),
        lambda: out.fragments(data),
        lambda: out.ping(data),
        lambda: out.pong(data),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"or memoryview, not {type(data).__name__}$"):
            call()


@pytest.mark.parametrize("mask", [True, False], ids=["client", "server"])
def test_lone_surrogates_are_refused(mask: bool) -> None:
    """Text that UTF-8 cannot express is a ValueError that says where, at that very call."""
    out = FrameEncoder(mask=mask)
    for call in (
        lambda: out.message("ab\ud800"),
        lambda: out.messages(["fine", "ab\udfffc"]),
        lambda: out.fragments("ab\ud83d", 1),
        lambda: out.close(1000, "ab\udc00"),
    ):
        with pytest.raises(ValueError, match=SURROGATE):
            call()


@pytest.mark.parametrize("size", [0, -1])
def test_fragments_hold_something(size: int) -> None:
    """A size below one byte is refused at the call."""
    with pytest.raises(ValueError, match=f"at least 1 byte, not {size}"):
        FrameEncoder().fragments(b"abc", size)


@pytest.mark.parametrize("size", [0, 1, 124, 125])
def test_pings_and_pongs_carry_up_to_125_bytes(size: int) -> None:
    """The payload of a ping or pong arrives as it was."""
    payload = os.urandom(size)
    assert understood(FrameEncoder().ping(payload)) == [Ping(payload)]
    assert understood(FrameEncoder().pong(payload)) == [Pong(payload)]


def test_longer_pings_and_pongs_are_refused() -> None:
    """A control frame of 126 bytes is a ValueError (section 5.5), a text payload a TypeError."""
    for encode in (FrameEncoder().ping, FrameEncoder().pong):
        with pytest.raises(ValueError, match="at most 125 bytes of payload, not 126"):
            encode(bytes(126))
        with pytest.raises(TypeError, match="control frame is bytes, not str"):
            encode("ping")  # type: ignore[arg-type]


def test_close_frames_are_understood() -> None:
    """Every code that may be sent arrives with its reason; without a code the frame is empty."""
    out = FrameEncoder()
    assert understood(out.close()) == [Close(1000, "")]
    assert understood(out.close(None)) == [Close(1005, "")]
    assert FrameEncoder(mask=False).close(None) == b"\x88\x00"
    assert understood(out.close(4999, "é" * 61 + "x")) == [Close(4999, "é" * 61 + "x")]
    for code in filter(is_legal_close_code, range(5100)):
        assert understood(out.close(code, "why")) == [Close(code, "why")]


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 70000])
def test_close_codes_that_must_not_be_sent_are_refused(code: int) -> None:
    """A code that section 7.4 reserves or leaves undefined is a ValueError."""
    with pytest.raises(ValueError, match=f"close code {code} must not be sent"):
        FrameEncoder().close(code)


def test_close_reasons_that_cannot_be_sent_are_refused() -> None:
    """A reason of over 123 bytes, or without a code, is a ValueError."""
    assert understood(FrameEncoder().close(1000, "x" * 123)) == [Close(1000, "x" * 123)]
    with pytest.raises(ValueError, match="at most 123 bytes in UTF-8, not 124"):
        FrameEncoder().close(1000, "é" * 62)
    with pytest.raises(ValueError, match="needs a close code"):
        FrameEncoder().close(None, "why")


def test_a_source_of_too_few_random_bytes_is_not_trusted() -> None:
    """If a source gives fewer keys than messages, nothing is sent unmasked: a ValueError."""
    with pytest.raises(ValueError):
        FrameEncoder(random_bytes=lambda size: bytes(4)).messages([b"a", b"b"])
