"""The simulation of a fleet: that its policies are what they say, and that it loses nobody."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.herd.scenario import Scenario
from benchmarks.pictures import Panel, save
from tunnel import TunnelConfig
from tunnel.backoff import Backoff
from tunnel.clock import SYSTEM_CLOCK
from tunnel.errors import RateLimitedError
from tunnel.reconnection_run import Progress, ReconnectionRun, RunSettings

np = pytest.importorskip("numpy")

from benchmarks.herd import policies, simulation  # noqa: E402  # need numpy

PAGE = (Path(__file__).parent.parent.parent / "docs" / "benchmarks.rst").read_text("utf-8")
FLEET = Backoff(25.0, 100.0, 1.0)
SMALL = Scenario(clients=2_000, outage=12.0, capacity=100, horizon=300.0)


class Drawn(random.Random):
    """Chance that says what it is told to."""

    def __init__(self, draw: float) -> None:
        super().__init__(0)
        self.draw = draw

    def uniform(self, a: float, b: float) -> float:
        assert a <= self.draw <= b
        return self.draw


def next_delay(backoff: Backoff, attempt: int, draw: float, asked: float) -> float:
    """What a run of the tunnel waits before an attempt, if the server asked for patience."""
    settings = RunSettings(backoff, None, SYSTEM_CLOCK, Drawn(draw), logging.getLogger().debug)
    error = RateLimitedError("busy", retry_after=asked)
    run = ReconnectionRun(settings, Progress(), lambda: None, None, error, None)
    run.exponent = attempt - 1
    return run.next_delay()


@pytest.mark.parametrize("backoff", [Backoff(), FLEET, Backoff(1.0, 7.0, 0.0)])
def test_our_policy_is_that_of_the_tunnel(backoff: Backoff) -> None:
    """The simulated tunnel waits exactly as long as a real one, draw by draw."""
    attempts = np.repeat(np.arange(1, 13), 25)
    policy = policies.spread(backoff.base_delay, backoff.max_delay, backoff.jitter)
    draws = np.random.default_rng(7).uniform(-backoff.jitter, backoff.jitter, attempts.size)
    pairs = list(zip(attempts.tolist(), draws.tolist(), strict=True))
    delays = policy(attempts, 0.0, np.random.default_rng(7))
    assert delays.tolist() == [backoff.delay(attempt, draw) for attempt, draw in pairs]
    for asked in (0.5, 30.0):
        delays = policy(attempts, asked, np.random.default_rng(7))
        assert delays.tolist() == [next_delay(backoff, *pair, asked) for pair in pairs]


def test_the_tunnels_defaults() -> None:
    """What is simulated as the tunnel has the defaults of its configuration."""
    usual = TunnelConfig()
    ours = next(policy for policy in policies.POLICIES if policy.name == "tunnel")
    assert ours.max_attempts == usual.max_reconnect_attempts
    wanted = policies.spread(usual.reconnect_base_delay, usual.reconnect_max_delay, usual.jitter)
    attempts = np.arange(1, 30)
    delays = ours.delay(attempts, 0.0, np.random.default_rng(1))
    assert delays.tolist() == wanted(attempts, 0.0, np.random.default_rng(1)).tolist()


def test_the_settings_for_fleets() -> None:
    """What the documentation recommends is a configuration of the tunnel, and what is simulated."""
    lines = PAGE.split("   seconds = 100_000 / 2_000", 1)[1].split("\n\nThe first attempts")[0]
    names: dict[str, Any] = {"TunnelConfig": TunnelConfig, "seconds": 100_000 / 2_000}
    config: TunnelConfig = eval(lines[lines.index("TunnelConfig(") :], names)
    theirs = policies.POLICIES[-1]
    assert theirs.name == "tunnel, fleet"
    assert theirs.max_attempts is config.max_reconnect_attempts is None
    draws = np.random.default_rng(1).uniform(-1.0, 1.0, 29)
    backoff = Backoff(config.reconnect_base_delay, config.reconnect_max_delay, config.jitter)
    delays = [backoff.delay(attempt, draw) for attempt, draw in enumerate(draws.tolist(), 1)]
    assert theirs.delay(np.arange(1, 30), 0.0, np.random.default_rng(1)).tolist() == delays


@pytest.mark.slow
@pytest.mark.parametrize("outage", [60, 5, 600])
def test_the_tables_of_the_documentation(outage: int) -> None:
    """The documentation has what the command prints."""
    scenario = Scenario(outage=outage, horizon=outage + 900)
    for policy in policies.POLICIES:
        outcome = simulation.simulate(policy, scenario, np.random.default_rng(1))
        times = [outcome.seconds_until(share) for share in (0.5, 0.99, 1.0)]
        if outage == 60:
            cells = [f"{outcome.first_wave:,}", f"{outcome.peak:,}"]
            cells += [f"{time:.0f} s" for time in times if time is not None]
            row = "\n     - ".join([policy.name, *cells, f"{outcome.attempts:,}"])
            assert f"   * - {row}\n" in PAGE
        elif times[-1] is not None:
            row = PAGE.split("     - 600 s away", 1)[1].split(f"   * - {policy.name}\n", 1)[1]
            cell = f"     - {outcome.peak:,}; {times[-1]:.0f} s"
            assert row.splitlines()[outage == 600] == cell


@pytest.mark.parametrize(
    ("policy", "ranges"),
    [
        (policies.clipped(), {1: (1.4, 2.6), 5: (22.4, 41.6), 7: (60.0, 60.0)}),
        (policies.full_jitter, {1: (0.0, 2.0), 3: (0.0, 8.0), 9: (0.0, 60.0)}),
        (policies.grpc, {1: (0, 0), 2: (1, 1), 3: (1.28, 1.92), 4: (2.048, 3.072), 30: (96, 144)}),
        (policies.socket_io, {1: (0.55, 1.5), 2: (1.1, 3.0), 3: (2.2, 5.0), 5: (5.0, 5.0)}),
    ],
)
def test_the_others_delays(policy: policies.Delay, ranges: dict[int, tuple[float, float]]) -> None:
    """Delays of the other policies fill the ranges of their formulas, and no more."""
    for attempt, (least, most) in ranges.items():
        delays = policy(np.full(20_000, attempt), 0.0, np.random.default_rng(1))
        near = 0.01 * (most - least) + 1e-9
        assert least - 1e-9 <= delays.min() <= least + near
        assert most - near <= delays.max() <= most + 1e-9


@pytest.mark.parametrize("policy", policies.POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("retry_after", [0.0, 5.0])
def test_nobody_is_lost(policy: policies.Policy, retry_after: float) -> None:
    """Nobody connects while the server is away, nor more than it takes, and all come back."""
    scenario = Scenario(**{**vars(SMALL), "retry_after": retry_after})
    outcome = simulation.simulate(policy, scenario, np.random.default_rng(3))
    assert not outcome.connected[: int(scenario.outage)].any()
    taken = np.diff(outcome.connected, prepend=0)
    assert taken.min() >= 0
    assert taken.max() <= scenario.capacity
    assert (outcome.connected <= outcome.arrivals.cumsum()).all()
    assert outcome.connected[-1] + outcome.given_up[-1] == scenario.clients
    assert outcome.given_up[-1] == 0
    assert outcome.attempts >= scenario.clients
    # No sooner than the server can take them.
    assert (outcome.seconds_until(1.0) or 0) >= scenario.clients / scenario.capacity


def test_a_capacity_that_is_no_multiple_of_the_steps() -> None:
    """A server that takes 25 in a second takes 25, and at a wave those of its backlog besides."""
    scenario = Scenario(clients=400, outage=1.0, capacity=25, horizon=600.0)
    late = policies.Policy("late", lambda attempt, asked, rng: np.full(attempt.size, 9.0))
    outcome = simulation.simulate(late, scenario, np.random.default_rng(3))
    # A wave comes within the notice, two steps: 25 fit, and another 2 when 2 are connected.
    assert outcome.connected[8:20].tolist() == [0, 25, *[27] * 8, 52, 54]
    busy = policies.Policy("busy", lambda attempt, asked, rng: np.full(attempt.size, 0.1))
    outcome = simulation.simulate(busy, scenario, np.random.default_rng(3))
    taken = np.diff(outcome.connected, prepend=0)
    assert set(taken[2:15].tolist()) == {25}


def test_who_gives_up_does_not_come_back() -> None:
    """A client makes as many attempts as its policy permits, and counts as given up after that."""
    scenario = Scenario(clients=50, outage=100.0, capacity=10, horizon=200.0)
    policy = policies.Policy("short", policies.spread(1.0, 2.0, 0.1), max_attempts=3)
    outcome = simulation.simulate(policy, scenario, np.random.default_rng(1))
    assert outcome.attempts == 150
    assert outcome.given_up[-1] == 50
    assert outcome.connected[-1] == 0
    assert outcome.seconds_until(0.5) is None


def test_patience_of_the_tunnel_only() -> None:
    """The tunnel heeds Retry-After, and comes less often; full jitter does not listen."""

    def attempts(policy: policies.Policy, retry_after: float) -> int:
        scenario = Scenario(clients=2_000, outage=1.0, capacity=50, retry_after=retry_after)
        return simulation.simulate(policy, scenario, np.random.default_rng(1)).attempts

    ours = policies.Policy("ours", policies.spread())
    other = policies.Policy("other", policies.full_jitter)
    assert attempts(ours, 30.0) < attempts(ours, 0.0)
    assert attempts(other, 30.0) == attempts(other, 0.0)


def test_the_same_seed() -> None:
    """The same seed gives the same outcome, another seed another."""

    def arrivals(seed: int) -> Any:
        policy = policies.Policy("ours", policies.spread())
        return simulation.simulate(policy, SMALL, np.random.default_rng(seed)).arrivals.tolist()

    assert arrivals(1) == arrivals(1)
    assert arrivals(1) != arrivals(2)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a row for each policy, and writes its figures and a picture."""
    pytest.importorskip("matplotlib")
    picture, figures = tmp_path / "herd.svg", tmp_path / "herd.json"
    options = ["--clients", "100", "--outage", "1", "--seed", "3"]
    assert main(["herd", *options, "--picture", str(picture), "--json", str(figures)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + len(policies.POLICIES)
    assert json.loads(figures.read_text("utf-8"))["policies"]["tunnel"]["attempts"] >= 100
    assert picture.read_bytes().startswith(b"<?xml")


def test_pictures_are_the_same_bytes(tmp_path: Path) -> None:
    """The same curves give the same file, whenever it is drawn."""
    pytest.importorskip("matplotlib")
    panel = Panel({"a": ([1.0, 2.0], [3.0, 4.0]), "b": ([1.0], [2.0])}, "x", "y", has_points=True)
    for name in ("first", "second"):
        save(tmp_path / f"{name}.svg", "title", panel)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


@pytest.mark.parametrize(
    "options",
    [["--clients", "0"], ["--capacity", "0"], ["--outage", "-1"], ["--retry-after", "-1"]],
)
def test_options_that_make_no_sense(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers that make no sense are refused in a sentence."""
    assert main(["herd", *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what it needs the command says what to install."""
    monkeypatch.setattr("benchmarks.extras.find_spec", lambda module: None)
    with pytest.raises(SystemExit, match=r"numpy.*pip install 'resilient-tunnel\[bench\]'"):
        main(["herd"])
