from __future__ import annotations

import json
import math
import statistics
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.metrics_collector import ConnectionQuality, MetricsCollector, connection_quality
from tunnel.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics(clock: FakeClock) -> MetricsCollector:
    return MetricsCollector(clock=clock)


class TestRequests:
    @pytest.mark.requirement("3.3")
    def test_requests_are_counted_by_outcome(self, metrics: MetricsCollector) -> None:
        """Totals, success rate and average follow from what was recorded."""
        for _ in range(3):
            metrics.record_request(0.1, True)
        metrics.record_request(0.5, False, "TUNNEL_007")
        seen = metrics.snapshot()
        assert (seen.total_requests, seen.successful_requests, seen.failed_requests) == (4, 3, 1)
        assert seen.success_rate == 0.75
        assert seen.average_latency == pytest.approx(0.2)
        assert seen.total_latency == pytest.approx(0.8)

    def test_what_was_never_measured_is_none(self, metrics: MetricsCollector) -> None:
        """Without requests there is no latency, and nothing has failed."""
        seen = metrics.snapshot()
        assert seen.success_rate == 1.0
        assert (seen.average_latency, seen.p95_latency, seen.p99_latency) == (None, None, None)
        assert seen.error_counts == {}

    @pytest.mark.requirement("3.3")
    @pytest.mark.parametrize(
        ("count", "p95", "p99"),
        [(1, 1, 1), (2, 2, 2), (20, 19, 20), (100, 95, 99), (1000, 950, 990)],
    )
    def test_percentiles_are_the_nearest_rank(
        self, metrics: MetricsCollector, count: int, p95: int, p99: int
    ) -> None:
        """Of n requests, the latency shown is that of rank ceil(p * n)."""
        for latency in range(count, 0, -1):
            metrics.record_request(latency, True)
        seen = metrics.snapshot()
        assert (seen.p95_latency, seen.p99_latency) == (p95, p99)

    @given(latencies=st.lists(st.floats(0, 1e6), min_size=1, max_size=1100))
    def test_the_window_holds_the_last_1024(self, latencies: list[float]) -> None:
        """Average and percentiles look at the last 1,024 requests; the totals at all."""
        metrics = MetricsCollector(clock=FakeClock())
        for latency in latencies:
            metrics.record_request(latency, True)
        window = sorted(latencies[-1024:])
        seen = metrics.snapshot()
        assert seen.total_requests == len(latencies)
        assert seen.average_latency == pytest.approx(statistics.fmean(window))
        assert seen.p95_latency == window[math.ceil(len(window) * 95 / 100) - 1]
        assert seen.p99_latency == window[math.ceil(len(window) * 99 / 100) - 1]

    def test_old_requests_leave_the_window(self, metrics: MetricsCollector) -> None:
        """A slow hour long ago is not seen any more."""
        for latency in [9.0] * 500 + [1.0] * 1024:
            metrics.record_request(latency, True)
        assert metrics.snapshot().average_latency == 1.0
        metrics.record_request(2.0, True)
        assert metrics.snapshot().average_latency == pytest.approx(1 + 1 / 1024)

    @pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf])
    @pytest.mark.parametrize(
        "record",
        [
            lambda metrics, value: metrics.record_request(value, True),
            lambda metrics, value: metrics.record_reconnection(1, True, value),
            lambda metrics, value: metrics.record_latency(value),
        ],
    )
    def test_durations_that_are_none_are_refused(
        self,
        metrics: MetricsCollector,
        record: Callable[[MetricsCollector, float], None],
        wrong: float,
    ) -> None:
        """A duration is finite and not negative, and a refused one changes nothing."""
        with pytest.raises(ValueError, match=f"must be a number of seconds from 0, not {wrong}"):
            record(metrics, wrong)
        assert metrics.snapshot() == MetricsCollector(clock=FakeClock()).snapshot()
        assert metrics.health().quality is ConnectionQuality.UNKNOWN


class TestErrors:
    @pytest.mark.requirement("3.3")
    def test_errors_are_counted_by_type(self, metrics: MetricsCollector) -> None:
        """Failures count under their code, or as unknown; successes under none."""
        metrics.record_request(1.0, False, "TUNNEL_007")
        metrics.record_request(1.0, False, "TUNNEL_007")
        metrics.record_request(1.0, False)
        metrics.record_request(1.0, True, "TUNNEL_007")
        metrics.record_error("TUNNEL_001")
        seen = metrics.snapshot()
        assert seen.error_counts == {"TUNNEL_007": 2, "unknown": 1, "TUNNEL_001": 1}
        assert seen.failed_requests == 3

    def test_the_number_of_types_is_bounded(self, metrics: MetricsCollector) -> None:
        """Whoever counts by a text that always differs fills no memory."""
        for number in range(100):
            metrics.record_error(f"error {number}")
        metrics.record_error("error 0")
        counts = metrics.snapshot().error_counts
        assert len(counts) == 65
        assert counts["error 0"] == 2
        assert counts["other"] == 36

    def test_a_snapshot_does_not_change_any_more(self, metrics: MetricsCollector) -> None:
        """What was handed out stays as it was."""
        before = metrics.snapshot()
        metrics.record_error("TUNNEL_001")
        assert before.error_counts == {}


class TestConnections:
    @pytest.mark.requirement("3.3")
    def test_uptime_is_that_of_the_present_connection(
        self, metrics: MetricsCollector, clock: FakeClock
    ) -> None:
        """Uptime starts anew with each connection; the total adds them up."""
        clock.advance(5.0)
        assert metrics.snapshot().uptime == 0.0
        metrics.record_connected()
        clock.advance(10.0)
        assert metrics.snapshot().uptime == metrics.snapshot().total_uptime == 10.0
        metrics.record_disconnected()
        clock.advance(100.0)
        metrics.record_disconnected()
        assert (metrics.snapshot().uptime, metrics.snapshot().total_uptime) == (0.0, 10.0)
        metrics.record_connected()
        clock.advance(1.0)
        metrics.record_connected()
        clock.advance(2.0)
        assert (metrics.snapshot().uptime, metrics.snapshot().total_uptime) == (2.0, 13.0)
        assert metrics.health().uptime == 2.0

    @pytest.mark.requirement("3.3")
    def test_reconnections_are_counted_with_their_attempts(self, metrics: MetricsCollector) -> None:
        """Only an attempt that succeeds is a reconnection; all are attempts."""
        metrics.record_reconnection(1, False, 2.0)
        metrics.record_reconnection(2, False, 4.0)
        metrics.record_reconnection(3, True, 8.0)
        metrics.record_reconnection(1, True, 2.5)
        seen = metrics.snapshot()
        assert (seen.reconnection_count, seen.reconnection_attempts) == (2, 4)
        assert (seen.reconnection_delay, seen.most_attempts) == (16.5, 3)
        assert metrics.health().reconnect_count == 2

    def test_attempts_count_from_one(self, metrics: MetricsCollector) -> None:
        """There is no attempt number 0."""
        with pytest.raises(ValueError, match="attempt must be at least 1, not 0"):
            metrics.record_reconnection(0, True, 1.0)
        assert metrics.snapshot().reconnection_attempts == 0

    @pytest.mark.requirement("3.3")
    def test_messages_and_queue_are_shown(self, metrics: MetricsCollector) -> None:
        """Messages add up; the size of the queue is the last one noted."""
        metrics.record_messages_sent(64)
        metrics.record_messages_sent(1)
        metrics.record_messages_received(3)
        metrics.record_queue_size(9)
        metrics.record_queue_size(7)
        seen = metrics.snapshot()
        assert (seen.messages_sent, seen.messages_received, seen.queue_size) == (65, 3, 7)
        assert metrics.health().queue_size == 7


class TestQuality:
    @pytest.mark.requirement("3.5")
    @pytest.mark.parametrize(
        ("latency", "loss", "grade"),
        [
            (0.0, 0.0, "excellent"),
            (0.0499, 0.0099, "excellent"),
            (0.05, 0.0, "good"),
            (0.0, 0.01, "good"),
            (0.0999, 0.0299, "good"),
            (0.1, 0.0, "fair"),
            (0.0, 0.03, "fair"),
            (0.1999, 0.0499, "fair"),
            (0.2, 0.0, "poor"),
            (0.0, 0.05, "poor"),
            (9.0, 1.0, "poor"),
            (None, 1.0, "poor"),
            (None, None, "unknown"),
        ],
    )
    def test_the_bounds_are_those_of_the_requirement(
        self, latency: float | None, loss: float | None, grade: str
    ) -> None:
        """A grade is given when both values are below its bounds, and unknown is not poor."""
        assert connection_quality(latency, loss) is ConnectionQuality(grade)

    @pytest.mark.requirement("3.5")
    def test_health_judges_the_heartbeat(self, metrics: MetricsCollector) -> None:
        """Answered pings give the latency, unanswered ones the loss."""
        assert metrics.health().quality is ConnectionQuality.UNKNOWN
        metrics.record_connected()
        for _ in range(99):
            metrics.record_latency(0.04)
        health = metrics.health()
        assert health.is_connected
        assert (health.latency, health.packet_loss) == (pytest.approx(0.04), 0.0)
        assert health.quality is ConnectionQuality.EXCELLENT
        metrics.record_ping_lost()
        assert metrics.health().packet_loss == 0.01
        assert metrics.health().quality is ConnectionQuality.GOOD

    def test_without_any_answer_the_connection_is_poor(self, metrics: MetricsCollector) -> None:
        """Pings that were all lost are known to be lost, though there is no latency."""
        metrics.record_ping_lost()
        health = metrics.health()
        assert (health.latency, health.packet_loss) == (None, 1.0)
        assert health.quality is ConnectionQuality.POOR

    def test_latency_looks_at_the_last_ten_answers_and_loss_at_the_last_100_pings(
        self, metrics: MetricsCollector
    ) -> None:
        """A better line shows soon; losses are remembered longer, and forgotten too."""
        metrics.record_ping_lost()
        for _ in range(50):
            metrics.record_latency(0.5)
        for _ in range(10):
            metrics.record_latency(0.01)
        assert metrics.health().latency == pytest.approx(0.01)
        for _ in range(39):
            metrics.record_latency(0.01)
        assert metrics.health().packet_loss == 0.01
        metrics.record_latency(0.01)
        assert metrics.health().packet_loss == 0.0


class TestSnapshots:
    def test_both_can_be_written_as_json(self, metrics: MetricsCollector, clock: FakeClock) -> None:
        """`to_dict` gives what strict JSON can hold, by the names of the attributes."""
        for fill in (lambda: None, lambda: metrics.record_request(1.0, False, "TUNNEL_007")):
            fill()
            numbers, health = metrics.snapshot(), metrics.health()
            assert json.loads(json.dumps(numbers.to_dict(), allow_nan=False)) == vars(numbers)
            assert json.loads(json.dumps(health.to_dict(), allow_nan=False)) == vars(health)

    def test_an_idle_collector_is_small_and_a_busy_one_is_bounded(self) -> None:
        """Windows take memory as they fill, and no more than 10 KiB."""

        def cost(requests: int) -> int:
            tracemalloc.start()
            try:
                metrics = MetricsCollector()
                for _ in range(requests):
                    metrics.record_request(0.1, True)
                    metrics.record_latency(0.1)
                return tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()

        cost(0)
        assert cost(0) < 2048
        assert cost(1500) < 12 * 1024
        assert cost(1500) == cost(5000)

    def test_threads_lose_no_request(self) -> None:
        """Requests recorded by many threads at once are all counted."""
        metrics = MetricsCollector()
        start = threading.Barrier(4)

        def record() -> None:
            start.wait(30)
            for number in range(500):
                metrics.record_request(0.25, number % 2 == 0, "TUNNEL_007")
                if number % 100 == 0:
                    metrics.snapshot()

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(record) for _ in range(4)]:
                future.result(30)
        seen = metrics.snapshot()
        assert (seen.successful_requests, seen.failed_requests) == (1000, 1000)
        assert seen.error_counts == {"TUNNEL_007": 1000}
        assert seen.total_latency == 500.0
