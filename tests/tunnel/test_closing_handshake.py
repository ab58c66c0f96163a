"""How a link ends, without a link: close frames in and out, and the verdict."""

from __future__ import annotations

import pytest

from tunnel.closing_handshake import ClosingHandshake, LinkEnd
from tunnel.config import TunnelConfig
from tunnel.errors import (
    ConnectionClosedByPeerError,
    ConnectionLostError,
    ConnectionRejectedError,
    MessageTooBigError,
    ProtocolError,
    TunnelError,
)
from tunnel.frames import Close, FrameDecoder, FrameEncoder, ProtocolViolation
from tunnel.testing import FakeClock


class Bench:
    """A closing handshake, its clock, and the close frames that it has written."""

    def __init__(self, **settings: object) -> None:
        self.clock = FakeClock()
        self.written: list[bytes] = []
        self.closing = ClosingHandshake(
            FrameEncoder(mask=False),
            self.written.append,
            TunnelConfig().replace(**settings),
            self.clock,
        )

    @property
    def codes(self) -> list[int]:
        frames = FrameDecoder(max_message_size=1000).feed(b"".join(self.written))
        return [frame.code for frame in frames if isinstance(frame, Close)]

    @property
    def error(self) -> TunnelError | None:
        assert self.closing.end is not None
        return self.closing.end.error


def test_begins_once() -> None:
    """However often the end is wanted, one close frame goes out, and nothing is decided yet."""
    bench = Bench()
    bench.closing.begin(1000)
    bench.closing.begin(1001, "late")
    assert bench.codes == [1000]
    assert bench.closing.end is None
    assert bench.closing.outcome is None


def test_the_peer_agrees() -> None:
    """The answer to our close frame is a clean end without an error, and is not answered."""
    bench = Bench()
    bench.closing.begin(1000)
    bench.closing.answer(Close(1000, ""))
    assert bench.codes == [1000]
    assert bench.closing.end == LinkEnd(None, clean=True)


@pytest.mark.parametrize("code", [1001, 1005, 4321])
def test_the_peer_closes_first(code: int) -> None:
    """Its code is sent back, if it gave one; the end is clean, and an error all the same."""
    bench = Bench()
    bench.closing.answer(Close(code, "bye"))
    assert bench.codes == [code]  # without a code is read as 1005
    assert bench.closing.end is not None
    assert bench.closing.end.clean
    assert isinstance(bench.error, ConnectionClosedByPeerError)


def test_a_fatal_close_code() -> None:
    """Which codes leave no hope is a setting."""
    bench = Bench(fatal_close_codes={4321})
    bench.closing.answer(Close(4321, ""))
    assert isinstance(bench.error, ConnectionRejectedError)


@pytest.mark.parametrize(("code", "kind"), [(1002, ProtocolError), (1009, MessageTooBigError)])
def test_a_violation_fails_the_connection(code: int, kind: type[TunnelError]) -> None:
    """The peer is told its mistake; its answer changes nothing about the verdict."""
    bench = Bench()
    bench.closing.fail(ProtocolViolation(code, "no such thing"))
    assert bench.codes == [code]
    assert type(bench.error) is kind
    verdict = bench.closing.end
    bench.closing.answer(Close(code, ""))
    assert bench.closing.end is verdict
    assert bench.closing.broken(OSError("reset")) is verdict


def test_lingers_before_the_outcome() -> None:
    """The peer gets a second to hang up, unless a deadline comes before that."""
    bench = Bench()
    assert bench.closing.earlier(None) is None
    assert bench.closing.earlier(5.0) == 5.0
    assert not bench.closing.is_time_up(None)
    bench.closing.answer(Close(1000, ""))
    assert bench.closing.earlier(None) == 1.0
    assert bench.closing.earlier(5.0) == 1.0
    assert bench.closing.earlier(0.5) == 0.5
    assert not bench.closing.is_time_up(None)
    assert bench.closing.is_time_up(0.0)
    assert bench.closing.outcome is None
    bench.clock.advance(1.0)
    assert bench.closing.is_time_up(None)
    assert bench.closing.outcome is bench.closing.end


def test_the_stream_ends_by_itself() -> None:
    """Without a close frame that is the loss which 1006 stands for."""
    end = Bench().closing.broken(None)
    assert not end.clean
    assert isinstance(end.error, ConnectionLostError)


@pytest.mark.parametrize("cause", [ConnectionResetError("reset"), OSError("odd")])
def test_a_failed_read_is_a_loss(cause: OSError) -> None:
    """Whatever the system says, the connection is lost, and the cause is kept."""
    error = Bench().closing.broken(cause).error
    assert isinstance(error, ConnectionLostError)
    assert error.__cause__ is cause
