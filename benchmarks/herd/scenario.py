"""What happens to the fleet. Free of numpy, so that the command's help works without it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """What happens to the fleet.

    Attributes:
        clients: How many.
        outage: Seconds that the server is away.
        capacity: Connections that it takes in a second, once it is back.
        retry_after: What it answers to those that it turns away, in seconds; 0: nothing.
        horizon: Seconds that are simulated, at most; more than `outage`.

    Raises:
        ValueError: A number makes no sense.
    """

    clients: int = 100_000
    outage: float = 60.0
    capacity: int = 2_000
    retry_after: float = 0.0
    horizon: float = 960.0

    def __post_init__(self) -> None:
        if self.clients < 1 or self.capacity < 1:
            raise ValueError("there is at least one client, and at least one is taken in a second")
        if self.outage < 0 or self.retry_after < 0 or self.horizon <= self.outage:
            raise ValueError("no time is negative, and the horizon lies behind the outage")
