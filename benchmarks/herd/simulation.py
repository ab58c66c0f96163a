"""The simulation: one server, many clients, and a clock of small steps.

All clients are connected; at 0 s the server goes away, and all of them notice within a moment.
Attempts are refused at once until it is back. From then on it takes so many connections a second;
what it does in a second may wait in its backlog, as with `listen`, and it turns the others away at
once, with or without a word about when to come again. A client that was taken stays. One that has
failed as often as its policy permits gives up, for ever.

Every client is at any time one of waiting, in the backlog, connected, or given up. The arrays have
a place for each client, and a step looks at all of them: for a million it takes a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.herd.policies import Ints, Policy
from benchmarks.herd.scenario import Scenario

STEPS_A_SECOND = 10
"""Arrivals within a step are in no order."""

NOTICE = 0.2
"""Seconds within which all clients notice that the server is gone."""


@dataclass(frozen=True)
class Outcome:
    """How the fleet came back.

    Attributes:
        policy: Its policy's name.
        scenario: What happened to it.
        arrivals: Attempts in each second, from 0 s on.
        connected: Clients that are connected at the end of each second.
        given_up: Clients that have given up by then.
    """

    policy: str
    scenario: Scenario
    arrivals: Ints
    connected: Ints
    given_up: Ints

    @property
    def first_wave(self) -> int:
        """The most attempts in one second at all."""
        return int(np.max(self.arrivals))

    @property
    def peak(self) -> int:
        """The most attempts in one second after the server is back."""
        return int(np.max(self.arrivals[int(self.scenario.outage) :]))

    @property
    def attempts(self) -> int:
        """All attempts."""
        return int(self.arrivals.sum())

    def seconds_until(self, share: float) -> float | None:
        """Seconds from the server's return until so large a share of the clients is connected.

        Returns:
            None if that is not so within the horizon.
        """
        late = np.flatnonzero(self.connected >= share * self.scenario.clients)
        return float(late[0]) + 1.0 - self.scenario.outage if late.size else None


def simulate(policy: Policy, scenario: Scenario, rng: np.random.Generator) -> Outcome:
    """Let a fleet lose its server.

    Args:
        policy: How its clients back off.
        scenario: What happens.
        rng: The source of chance.
    """
    fleet = _Fleet(policy, scenario, rng)
    seconds = int(np.ceil(scenario.horizon))
    counts = np.zeros((3, seconds), dtype=np.int64)
    for second in range(seconds):
        for part in range(1, STEPS_A_SECOND + 1):
            counts[0, second] += fleet.step(second + part / STEPS_A_SECOND)
        counts[1:, second] = fleet.connected, fleet.given_up
        if fleet.is_at_rest:
            counts[1:, second:] = counts[1:, second : second + 1]
            break
    return Outcome(policy.name, scenario, *counts)


class _Fleet:
    """All clients, and the server's side of their attempts."""

    def __init__(self, policy: Policy, scenario: Scenario, rng: np.random.Generator) -> None:
        self.connected = self.given_up = 0
        self._policy = policy
        self._scenario = scenario
        self._rng = rng
        self._attempts = np.ones(scenario.clients, dtype=np.int64)  # the one that is waited for
        # When each makes its next attempt; infinity: never, being connected or having given up.
        self._due = rng.uniform(0.0, NOTICE, scenario.clients)
        self._due += policy.delay(self._attempts, 0.0, rng)
        self._backlog = 0  # clients that are taken, and connected as soon as it is their turn
        self._room = 0.0  # for how many it is

    @property
    def is_at_rest(self) -> bool:
        return self.connected + self.given_up == self._scenario.clients

    def step(self, now: float) -> int:
        """Let all come that are due until now. Returns how many have come."""
        arriving = np.flatnonzero(self._due <= now)
        is_back = now > self._scenario.outage + 1e-9
        failing = arriving
        if is_back:
            failing = self._take(arriving)
            self._connect()
        if failing.size:
            self._put_off(failing, self._scenario.retry_after if is_back else 0.0)
        return int(arriving.size)

    def _take(self, arriving: Ints) -> Ints:
        """Put as many into the backlog as fit, whoever they are. Returns the others."""
        count = min(self._scenario.capacity - self._backlog, arriving.size)
        if count < arriving.size:
            arriving = self._rng.permutation(arriving)
        self._due[arriving[:count]] = np.inf
        self._backlog += count
        return arriving[count:]

    def _connect(self) -> None:
        """Connect as many of the backlog as a step's time is enough for."""
        # What is not used is not saved up, but for the fraction of a connection.
        self._room = self._room % 1.0 + self._scenario.capacity / STEPS_A_SECOND
        count = min(int(self._room + 1e-9), self._backlog)
        self._room = max(0.0, self._room - count)
        self._backlog -= count
        self.connected += count

    def _put_off(self, failing: Ints, asked: float) -> None:
        """Let those whose attempt has failed wait for their next one, or give up."""
        most = self._policy.max_attempts
        if most is not None:
            done = self._attempts[failing] >= most
            self._due[failing[done]] = np.inf
            self.given_up += int(done.sum())
            failing = failing[~done]
        self._attempts[failing] += 1
        self._due[failing] += self._policy.delay(self._attempts[failing], asked, self._rng)
