"""Answers to the upgrade, and to a session's greeting, that say anything at all."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.config import TunnelConfig
from tunnel.errors import TunnelError
from tunnel.frames import FrameEncoder
from tunnel.handshake_errors import MAX_RETRY_AFTER, error_for_status, parse_retry_after
from tunnel.secrets import Secret
from tunnel.session_frames import Gone, Limits, Opened, Resume, Resumed, encode
from tunnel.session_handshake import SessionHandshake
from tunnel.stream import Readiness
from tunnel.testing import FakeClock
from tunnel.waker import Waker

date_parts = st.sampled_from(
    [
        *("Sun", ",", " ", "06", "Nov", "1994", "08:49:37", "GMT", "+9999", "-0000", "24:60:61"),
        *("99999", "0", "-1", "1e9", "٣", "Feb 30", ":", "(", ")", "\\", '"', "9" * 30, "\0"),
        *("\ud800", "+24:00"),
    ]
)
delays = st.one_of(
    st.text(max_size=20),
    st.lists(date_parts, max_size=9).map("".join),
    st.lists(date_parts, max_size=9).map(" ".join),
    st.integers().map(str),
    st.datetimes().map("{:%a, %d %b %Y %H:%M:%S GMT}".format),
)
moments = st.floats(0, 4e9) | st.floats(allow_nan=False, allow_infinity=False)
names = st.sampled_from(
    ["Retry-After", "WWW-Authenticate", "Location", "Sec-WebSocket-Version", "Set-Cookie"]
)
challenges = st.lists(
    st.sampled_from(
        [
            "Bearer",
            "error",
            "=",
            '"',
            "invalid_token",
            "expired",
            "error_description",
            ",",
            "\\",
            " ",
        ]
    ),
    max_size=20,
).map("".join)
values = st.text(max_size=40) | delays | challenges


@pytest.mark.fault("any-upgrade-answer")
@given(delays, moments)
def test_no_delay_is_absurd(value: str, now: float) -> None:
    """Any text is from 0 s to a day, or nothing."""
    delay = parse_retry_after(value, now=now)
    assert delay is None or 0 <= delay <= MAX_RETRY_AFTER


@pytest.mark.fault("any-upgrade-answer")
@given(st.integers(0, 1100), st.dictionaries(names, values, max_size=4))
def test_every_answer_is_classified(status: int, headers: dict[str, str]) -> None:
    """Any status with any headers is an error of ours, whose text is on one line."""
    error = error_for_status(status, headers, now=1e9)
    assert isinstance(error, TunnelError)
    assert error.code != "TUNNEL_999"
    assert str(error).isprintable()


class Wire:
    """A transport that brings some chunks, and then waits in vain."""

    def __init__(self, chunks: list[bytes], room: int, clock: FakeClock) -> None:
        self.waker = Waker()
        self._chunks = deque(chunks)
        self._room = room
        self._clock = clock

    def receive(self, size: int) -> bytes | None:
        return self._chunks.popleft() if self._chunks else None

    def send(self, data: bytes) -> int:
        return min(self._room, len(data))

    def wait(self, *, read: bool, write: bool, timeout: float) -> Readiness:
        self._clock.advance(1.0)
        return Readiness(False, False, False, False)


SERVER = FrameEncoder(mask=False)
ID, TOKEN, LIMITS = b"i" * 16, Secret("5e" * 32), Limits(10, 100, 100)
answers = st.sampled_from(
    [encode(Opened(ID, TOKEN, 9, LIMITS)), encode(Resumed(3, 4)), encode(Gone("no"))]
)
damaged_answers = st.builds(
    lambda answer, place, new, end: (answer[:place] + new + answer[place + 1 :])[:end],
    answers,
    st.integers(0, 80),
    st.binary(max_size=2),
    st.integers(0, 80),
)
frames = st.one_of(
    answers.map(SERVER.message),
    damaged_answers.map(SERVER.message),
    st.binary(max_size=90).map(SERVER.message),
    st.text(max_size=9).map(SERVER.message),
    st.binary(max_size=90).map(SERVER.ping),
    st.sampled_from([1000, 1001, 1012, 3000]).map(SERVER.close),
    st.binary(max_size=90),
)


@pytest.mark.fault("any-upgrade-answer")
@given(st.lists(frames, max_size=8), st.lists(st.integers(1, 40), max_size=9), st.integers(0, 200))
def test_an_answer_comes_or_a_documented_error(
    said: list[bytes], sizes: list[int], room: int
) -> None:
    """Whatever the peer says to the greeting, and in whatever pieces, it is answer or error."""
    stream, chunks = b"".join(said), []
    for size in sizes:
        chunks.append(stream[:size])
        stream = stream[size:]
    clock = FakeClock()
    wire = Wire([chunk for chunk in [*chunks, stream] if chunk], room, clock)
    handshake = SessionHandshake(wire, clock, clock.monotonic() + 5, lambda: False, TunnelConfig())  # type: ignore[arg-type]
    try:
        answer = handshake.ask(Resume(ID, TOKEN, 7))
    except TunnelError:
        return
    assert isinstance(answer, (Opened, Resumed, Gone))
