"""How long clients wait before their next attempt: ours, and those of others, over numpy arrays.

A policy is asked for many clients at once. Each is the formula of its project with its defaults;
where it has none, with ours. The source is named beside each. Attempts are counted from 1, and the
first is the one after the loss of a link that had been up for long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Delay: TypeAlias = Callable[[Ints, float, np.random.Generator], Floats]
"""Called with attempts, the seconds that the server asked all of them for (0: nothing) and a source
of chance; the seconds to wait before each."""

_ENOUGH_STEPS = 60  # of an exponential: beyond any maximum


@dataclass(frozen=True)
class Policy:
    """One way to back off.

    Attributes:
        name: For tables and pictures.
        delay: How long its clients wait.
        max_attempts: After so many failures a client gives up; None: never.
    """

    name: str
    delay: Delay
    max_attempts: int | None = None


def exponential(attempt: Ints, base: float, factor: float = 2.0) -> Floats:
    """``base * factor ** (attempt - 1)``, in seconds."""
    grown: Floats = base * factor ** np.minimum(attempt - 1, _ENOUGH_STEPS).astype(np.float64)
    return grown


def clipped(base: float = 2.0, maximum: float = 60.0, jitter: float = 0.3) -> Delay:
    """The formula as it is often written: clipped after the jitter, which so is lost at the cap."""

    def delay(attempt: Ints, asked: float, rng: np.random.Generator) -> Floats:
        draw = rng.uniform(-jitter, jitter, attempt.size)
        delays: Floats = np.minimum(exponential(attempt, base) * (1 + draw), maximum)
        return delays

    return delay


def spread(base: float = 2.0, maximum: float = 60.0, jitter: float = 0.3) -> Delay:
    """What the tunnel does: `tunnel.backoff.Backoff`, which keeps the jitter at the cap.

    If the server asked for patience, it is as in `tunnel.reconnection_run`: never earlier than
    that, and spread upwards.
    """

    def delay(attempt: Ints, asked: float, rng: np.random.Generator) -> Floats:
        draw = rng.uniform(-jitter, jitter, attempt.size)
        jittered = exponential(attempt, base) * (1 + draw)
        own = np.where(jittered <= maximum, jittered, maximum * (1 - (jitter - draw) / 2))
        delays: Floats = np.maximum(own, asked * (1 + (jitter + draw) / 2))
        return delays

    return delay


def full_jitter(attempt: Ints, asked: float, rng: np.random.Generator) -> Floats:
    """Anything from 0 to the clipped exponential; base and maximum are ours.

    M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
    """
    most: Floats = np.minimum(exponential(attempt, 2.0), 60.0)
    return rng.uniform(0.0, 1.0, attempt.size) * most


def grpc(attempt: Ints, asked: float, rng: np.random.Generator) -> Floats:
    """Of gRPC: at once; after 1 s to the moment; then 1.6 s, 2.56 s ... 120 s, 20 % either way.

    doc/connection-backoff.md: ConnectWithBackoff tries first, and the first deadline has no jitter.
    Delays count from the beginning of an attempt; here, where each is refused at once, that is all
    the same.
    """
    grown = np.minimum(exponential(attempt - 1, 1.0, 1.6), 120.0)
    jittered = grown * (1 + rng.uniform(-0.2, 0.2, attempt.size))
    return np.select([attempt == 1, attempt == 2], [np.zeros(attempt.size), grown], jittered)


def socket_io(attempt: Ints, asked: float, rng: np.random.Generator) -> Floats:
    """Of socket.io's client: 1 s, doubled, 50 % either way, then clipped at 5 s; in milliseconds.

    socket.io-client, lib/contrib/backo2.ts, with reconnectionDelay, reconnectionDelayMax and
    randomizationFactor of lib/manager.ts. One number of chance gives both the size of a deviation
    and, by its first decimal, the sign: delays lie in ten stripes, with gaps in between.
    """
    grown = exponential(attempt, 1000.0)
    chance = rng.uniform(0.0, 1.0, attempt.size)
    deviation = np.floor(chance * 0.5 * grown)
    sign = np.where(np.floor(chance * 10) % 2 == 0, -1.0, 1.0)
    milliseconds: Floats = np.floor(np.minimum(grown + sign * deviation, 5000.0))
    return milliseconds / 1000


POLICIES = (
    Policy("clipped", clipped(), max_attempts=10),
    Policy("tunnel", spread(), max_attempts=10),
    Policy("full jitter", full_jitter),
    Policy("gRPC", grpc),
    Policy("socket.io", socket_io),
    Policy("tunnel, fleet", spread(base=25.0, maximum=100.0, jitter=1.0)),
)
"""What is compared. "clipped" is the formula of requirement 1.1 to the letter, "tunnel" has the
defaults of `tunnel.TunnelConfig`, and "fleet" what docs/benchmarks.rst recommends."""
