"""How long to wait before which attempt: the policy, free of time and threads."""

from __future__ import annotations

import math
from dataclasses import dataclass

_ENOUGH_DOUBLINGS = 1023  # the largest power of two that a float holds


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff whose jitter is still there at the cap (requirement 1.1).

    The delay is ``base_delay * 2 ** (attempt - 1) * (1 + draw)``, with a draw between `-jitter` and
    `+jitter`. Where that is more than `max_delay`, it is ``max_delay * (1 - (jitter - draw) / 2)``:
    clipping would make every client wait exactly `max_delay`, and a herd that was cut off together
    would come back together for ever.

    So a delay is never above `max_delay`, and from the attempt on whose every draw is above it,
    delays are spread over ``[max_delay * (1 - jitter), max_delay]``.

    Args:
        base_delay: Seconds before the first attempt, more than 0.
        max_delay: The most seconds before any attempt; at least `base_delay`.
        jitter: How far a delay may be off, as a part of it: 0 (exact) to 1.

    Raises:
        TypeError: An argument is no number.
        ValueError: An argument is out of its bounds; the text names it.
    """

    base_delay: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.3

    def __post_init__(self) -> None:
        check_number("base_delay", self.base_delay)
        check_number("max_delay", self.max_delay)
        check_number("jitter", self.jitter)
        if self.base_delay <= 0:
            raise ValueError(f"base_delay is more than 0 seconds, not {self.base_delay!r}")
        if self.max_delay < self.base_delay:
            raise ValueError(
                f"max_delay is at least base_delay ({self.base_delay!r}), not {self.max_delay!r}"
            )
        if self.jitter > 1:
            raise ValueError(f"jitter is a part of the delay, 0 to 1, not {self.jitter!r}")

    def delay(self, attempt: int, draw: float = 0.0) -> float:
        """Return the seconds to wait before an attempt.

        Args:
            attempt: Its number, from 1; there is no largest one.
            draw: What chance says, from `-jitter` to `+jitter`.

        Raises:
            ValueError: The attempt is less than 1.
        """
        if attempt < 1:
            raise ValueError(f"attempts are counted from 1, not {attempt!r}")
        delay = self.base_delay * 2.0 ** min(attempt - 1, _ENOUGH_DOUBLINGS) * (1 + draw)
        if delay <= self.max_delay:
            return delay
        return self.max_delay * (1 - (self.jitter - draw) / 2)


def check_number(name: str, value: float) -> None:
    """Refuse what is no finite number of at least 0.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative, infinite or not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number, not {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is a finite number, at least 0, not {value!r}")
