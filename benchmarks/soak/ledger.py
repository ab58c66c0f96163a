"""The numbers of one lane's messages: what was accepted, has arrived, came back, was handed back.

Thread-safe: the sender, the tunnel's thread and the reader of the gateway's notes all write here.
What is settled is forgotten, so a ledger stays small.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable


class Ledger:
    """Holds numbers against what is promised.

    Args:
        name: Of the lane, for the texts.
        exact: Whether everything arrives and comes back, without exception.
        reports: Whether what did not arrive is handed back.
        violate: Called with a sentence when a promise is broken.
    """

    def __init__(
        self, name: str, *, exact: bool, reports: bool, violate: Callable[[str], None]
    ) -> None:
        self._name = name
        self._exact = exact
        self._reports = exact or reports
        self._violate = violate
        self._lock = threading.Lock()  # guards all below
        self.accepted = 0
        self.noted = 0
        self.echoed = 0
        self.handed_back = 0
        self.lost = 0
        self._offered = 0
        self._settled = 0
        self._last_echo = -1
        self._last_noted: dict[str, int] = {}
        self._noted: set[int] = set()  # since the last settlement
        self._handed_back: set[int] = set()

    def offer(self, count: int) -> int:
        """So many messages are about to be sent. Returns the first one's number."""
        with self._lock:
            self._offered = self.accepted + count
            return self.accepted

    def accept(self, count: int) -> None:
        """So many of the offered were accepted; the numbers of the others are used again."""
        with self._lock:
            self.accepted += count
            self._offered = self.accepted

    def echo(self, number: int) -> None:
        """A message has come back."""
        with self._lock:
            last, self._last_echo = self._last_echo, max(number, self._last_echo)
            self.echoed += 1
            was_offered = number < self._offered
        if number <= last:
            self._broken(f"message {number} came back after {last}: doubled or out of order")
        elif self._exact and number != last + 1:
            self._broken(f"message {number} came back after {last}: some are missing")
        elif not was_offered:
            self._broken(f"message {number} came back and was never sent")

    def note(self, number: int, session: str) -> None:
        """The gateway's handler got a message, in a session (or link) of this name."""
        with self._lock:
            last = self._last_noted.get(session, -1)
            self._last_noted[session] = max(number, last)
            is_double = number in self._noted or number < self._settled
            self._noted.add(number)
            self.noted += 1
        if is_double:
            self._broken(f"message {number} arrived twice")
        elif number <= last:
            self._broken(f"message {number} arrived after {last}: out of order")

    def hand_back(self, numbers: Iterable[int]) -> None:
        """The tunnel says that nobody knows whether these have arrived, or that they have not."""
        with self._lock:
            for number in numbers:
                self._handed_back.add(number)
                self.handed_back += 1

    @property
    def is_settled(self) -> bool:
        """Whether all is known about everything that was accepted."""
        with self._lock:
            if self._exact and self._last_echo != self.accepted - 1:
                return False
            return not self._missing() if self._reports else True

    def settle(self) -> None:
        """Nothing is under way any more: whatever is not known now, is lost."""
        with self._lock:
            missing = self._missing()
            last_echo = self._last_echo
            accepted = self.accepted
            self.lost += len(missing)
            self._settled = accepted
            self._last_noted.clear()
            self._noted.clear()
            self._handed_back.clear()
        if missing and self._reports:
            shown = ", ".join(map(str, missing[:5]))
            self._broken(f"{len(missing)} messages of {accepted} are lost: {shown}, ...")
        elif self._exact and last_echo != accepted - 1:
            self._broken(f"{accepted} messages were accepted, the last echo is {last_echo}")

    def _missing(self) -> list[int]:
        known = self._noted | self._handed_back
        return [n for n in range(self._settled, self.accepted) if n not in known]

    def _broken(self, what: str) -> None:
        self._violate(f"{self._name}: {what}")


class Requests:
    """The requests of one lane: each has one end, and reaches the peer at most once. Thread-safe.

    Args:
        name: Of the lane, for the texts.
        violate: Called with a sentence when a promise is broken.
    """

    def __init__(self, name: str, violate: Callable[[str], None]) -> None:
        self._name = name
        self._violate = violate
        self._lock = threading.Condition()  # guards all below
        self._outstanding: set[int] = set()
        self._answered: set[int] = set()
        self._noted: set[int] = set()
        self.asked = 0
        self.answered = 0

    def ask(self) -> int:
        """The number of the next request."""
        with self._lock:
            number = self.asked
            self.asked += 1
            self._outstanding.add(number)
            return number

    def end(self, number: int, *, answered: bool) -> None:
        """A request has ended."""
        with self._lock:
            is_first = number in self._outstanding
            self._outstanding.discard(number)
            if answered:
                self._answered.add(number)
                self.answered += 1
            self._lock.notify_all()
        if not is_first:
            self._violate(f"{self._name}: request {number} ended twice")

    def note(self, number: int) -> None:
        """The gateway's handler got a request."""
        with self._lock:
            is_double = number in self._noted
            self._noted.add(number)
        if is_double:
            self._violate(f"{self._name}: request {number} arrived twice")

    @property
    def outstanding(self) -> int:
        """How many have not ended."""
        with self._lock:
            return len(self._outstanding)

    def settle(self) -> None:
        """Nothing is under way any more, and all notes were read."""
        with self._lock:
            invented = sorted(self._answered - self._noted)
            self._answered.clear()
            self._noted.clear()
        if invented:
            self._violate(f"{self._name}: request {invented[0]} was answered and never arrived")
