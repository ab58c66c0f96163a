"""An attempt to reconnect that is waited for: which one it is, and how long it takes until then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attempt:
    """An attempt to reconnect that is waited for or under way.

    Attributes:
        number: Counted from 1.
        maximum: How many there may be; None: no end.
        due: When it is made, in seconds on a monotonic clock.
    """

    number: int
    maximum: int | None
    due: float

    def progress(self, now: float) -> str:
        """Say where it stands, such as "attempt 2 of 10, next in 1.4 s"."""
        of = "" if self.maximum is None else f" of {self.maximum}"
        left = self.due - now
        what = f"next in {left:.1f} s" if left > 0 else "dialling"
        return f"attempt {self.number}{of}, {what}"
