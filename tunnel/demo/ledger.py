"""What was sent, and what of it came back: the demo's book-keeping, without thread or socket."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_FORM = re.compile(r"message ([1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True)
class Tally:
    """The numbers of a ledger at one moment.

    Attributes:
        sent: Messages that were sent.
        received: Those of them that came back, each counted once.
        duplicated: Echoes of a message that had come back before.
        reordered: Messages that came back after one that was sent later.
        unexpected: Echoes of what was never sent.
    """

    sent: int = 0
    received: int = 0
    duplicated: int = 0
    reordered: int = 0
    unexpected: int = 0

    @property
    def lost(self) -> int:
        """Messages that have not come back; before the end of a run some may be under way."""
        return self.sent - self.received

    @property
    def is_perfect(self) -> bool:
        """Whether every message came back once, in order, and nothing else did."""
        return not (self.lost or self.duplicated or self.reordered or self.unexpected)


class Ledger:
    """Numbers the messages and strikes off what comes back. Not safe for several threads."""

    def __init__(self) -> None:
        self._sent = 0
        self._received: set[int] = set()
        self._highest = 0
        self._duplicated = 0
        self._reordered = 0
        self._unexpected = 0

    def next_message(self) -> str:
        """Return the next message to send; it counts as sent from now on."""
        self._sent += 1
        return f"message {self._sent}"

    def receive(self, message: str | bytes) -> None:
        """Note what came back."""
        number = _number(message)
        if not 1 <= number <= self._sent:
            self._unexpected += 1
        elif number in self._received:
            self._duplicated += 1
        else:
            self._received.add(number)
            if number < self._highest:
                self._reordered += 1
            self._highest = max(self._highest, number)

    def missing(self, messages: Iterable[str | bytes]) -> list[str | bytes]:
        """Those of the messages that have not come back, in the same order."""
        return [message for message in messages if _number(message) not in self._received]

    @property
    def is_settled(self) -> bool:
        """Whether everything that was sent has come back."""
        return len(self._received) == self._sent

    def tally(self) -> Tally:
        """Return the numbers as they are now."""
        return Tally(
            sent=self._sent,
            received=len(self._received),
            duplicated=self._duplicated,
            reordered=self._reordered,
            unexpected=self._unexpected,
        )


def _number(message: str | bytes) -> int:
    """The number of a message; 0 if it is none of ours."""
    form = _FORM.fullmatch(message) if isinstance(message, str) else None
    return int(form[1]) if form else 0
