"""Whether the peer of a link is there, without a link: probes, challenges and the verdict."""

from __future__ import annotations

from typing import Any

import pytest

from tunnel.config import TunnelConfig
from tunnel.errors import HeartbeatTimeoutError
from tunnel.liveness import Liveness
from tunnel.metrics_collector import MetricsCollector
from tunnel.testing import FakeClock


class Bench:
    """A watch over a connection that only notes what is sent."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.metrics = MetricsCollector(clock=self.clock)
        self.pings: list[bytes] = []
        self.texts: list[str] = []
        self.suspicions = 0
        settings = {"ping_interval": 30.0, "pong_timeout": 45.0, **settings}
        config = TunnelConfig(**settings)
        self.liveness = Liveness(
            self, config.ping_mode, self.clock, self.metrics, self._note_suspicion
        )
        self.liveness.start(config, None)

    def ping(self, payload: bytes) -> None:
        self.pings.append(payload)

    def send(self, data: str) -> None:
        self.texts.append(data)

    def _note_suspicion(self) -> None:
        self.suspicions += 1

    def judge(self, unread: bool = False) -> HeartbeatTimeoutError | None:
        return self.liveness.judge(lambda: unread)


def test_silence_is_suspected_and_judged() -> None:
    """After the pong time-out the verdict is a loss, and the lost pings are counted."""
    bench = Bench()
    bench.clock.advance(45.0)
    assert len(bench.pings) == bench.suspicions == 1
    error = bench.judge()
    assert error is not None
    assert "45.0 s" in str(error)
    assert bench.metrics.health().packet_loss == 1.0


def test_unread_bytes_prove_a_suspicion_wrong() -> None:
    """Then a full time-out begins anew."""
    bench = Bench()
    bench.clock.advance(45.0)
    assert bench.judge(unread=True) is None
    bench.clock.advance(44.0)
    assert bench.suspicions == 1
    bench.clock.advance(1.0)
    assert bench.suspicions == 2


def test_without_a_heartbeat_nothing_is_suspected() -> None:
    """A probe can be sent and answered; a challenge has no consequences."""
    bench = Bench(ping_interval=None, pong_timeout=None)
    assert bench.liveness.heartbeat is None
    bench.liveness.challenge()
    probe = bench.liveness.probe()
    bench.clock.advance(1e6)
    assert bench.suspicions == 0
    assert bench.judge() is None
    bench.liveness.note_pong(bench.pings[-1])
    assert probe.answered
    bench.liveness.stop()


def test_a_challenge_wants_a_sign_within_a_moment() -> None:
    """Two seconds without any byte are a loss."""
    bench = Bench()
    bench.liveness.challenge()
    bench.clock.advance(2.0)
    assert bench.suspicions == 1
    assert bench.judge() is not None


@pytest.mark.parametrize("by_pong", [True, False])
def test_a_challenge_is_met_by_any_byte(by_pong: bool) -> None:
    """It need not be the pong."""
    bench = Bench()
    bench.clock.advance(1.0)
    bench.liveness.challenge()
    bench.clock.advance(0.5)
    if by_pong:
        bench.liveness.note_pong(bench.pings[-1])
    assert bench.liveness.heartbeat is not None
    bench.liveness.heartbeat.on_data()
    bench.clock.advance(1.5)
    assert bench.suspicions == 1
    assert bench.judge() is None


def test_a_pong_answers_the_probes_up_to_its_own() -> None:
    """A peer may answer only the latest of several pings (RFC 6455, section 5.5.3)."""
    bench = Bench()
    first, second, third = (bench.liveness.probe() for _ in range(3))
    bench.liveness.note_pong(bench.pings[1])
    assert first.answered
    assert second.answered
    assert not third.done.is_set()
    bench.liveness.note_pong(b"unasked")
    assert not third.done.is_set()


def test_the_answer_to_a_later_heartbeat_answers_a_probe() -> None:
    """The latest ping may be one of the heartbeat's."""
    bench = Bench()
    probe = bench.liveness.probe()
    bench.clock.advance(30.0)
    bench.liveness.note_pong(bench.pings[-1])
    assert probe.answered


def test_text_mode_asks_and_hears_in_text() -> None:
    """Nobody knows which ping an answer is for: it finishes all probes."""
    bench = Bench(ping_mode="text")
    probes = [bench.liveness.probe(), bench.liveness.probe()]
    assert bench.texts == ["ping", "ping"]
    bench.liveness.note_pong(None)
    assert all(probe.answered for probe in probes)


def test_the_end_leaves_no_timer_and_nobody_waiting() -> None:
    """Who probes after it is told at once."""
    bench = Bench()
    before = bench.liveness.probe()
    bench.liveness.challenge()
    bench.liveness.stop()
    after = bench.liveness.probe()
    assert after.done.is_set()
    assert not before.done.is_set()
    bench.liveness.abandon_probes()
    assert before.done.is_set()
    assert not before.answered
    bench.clock.advance(100.0)
    assert bench.suspicions == 0
