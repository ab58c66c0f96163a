"""Waiting until so many things have happened in other threads."""

from __future__ import annotations

import threading

from benchmarks.figures.clients import LIMIT


class Countdown:
    """Counts what one thread notes at a time, and wakes another when it is all there."""

    def __init__(self) -> None:
        self._left = 0
        self._done = threading.Event()

    def start(self, count: int) -> None:
        """So much is expected from now on."""
        self._done.clear()
        self._left = count

    def note(self) -> None:
        """It has happened once more."""
        self._left -= 1
        if self._left == 0:
            self._done.set()

    def wait(self) -> None:
        """Wait until it is all there.

        Raises:
            TimeoutError: It did not come in time.
        """
        if not self._done.wait(LIMIT):
            raise TimeoutError(f"{self._left} are missing after {LIMIT:g} s")
