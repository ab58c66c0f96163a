"""Which faults come when: drawn from the seed alone. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LINK_FAULTS = (
    "reset",
    "fin",
    "silence",
    "silence up",
    "silence down",
    "cuts",
    "refusal",
    "mute server",
    "delay",
    "throttle",
    "drip",
    "reconnect",
    "network change",
)
"""What happens to one lane. ``mute server``: connections are accepted and never answered."""

STEADY_FAULTS = ("stop",)
"""What happens to the gateway whose sessions must survive: SIGSTOP, and after a while SIGCONT."""

MORTAL_FAULTS = ("stop", "kill", "terminate")
"""What happens to the other one; it is started again."""

_LONGEST = 2.0  # seconds of one fault: longer than the time-outs of the lanes


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: One of those above.
        pause: Seconds before it.
        seconds: How long it lasts, if it is one that lasts.
        seed: For what it draws itself.
    """

    kind: str
    pause: float
    seconds: float
    seed: int


def faults(seed: int, place: str, kinds: Sequence[str], pause: float) -> Iterator[Fault]:
    """The faults of one place, without end.

    Args:
        seed: Of the run.
        place: A name; each has a sequence of its own.
        kinds: To choose from, all equally often.
        pause: Seconds between two, on average.
    """
    rng = random.Random(f"{seed}/{place}")
    while True:
        yield Fault(
            kind=rng.choice(kinds),
            pause=rng.uniform(0.2, 1.8) * pause,
            seconds=_LONGEST * rng.random() ** 3,  # most are short
            seed=rng.randrange(2**32),
        )
