"""What the connection went through: states, attempts and recoveries, without thread or socket.

All times are seconds on one monotonic clock, and given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tunnel.commands.countdown import Attempt
from tunnel.lifecycle import TunnelConnectionState

_S = TunnelConnectionState
_UP = (_S.CONNECTED, _S.CLOSING)

UNEXPECTED = "unexpected"
"""The cut to which a loss is put down that nobody had announced."""


@dataclass(frozen=True)
class Gauges:
    """What the tunnel itself counts, at one moment.

    Attributes:
        queued: Messages in its queue.
        unacknowledged: Messages that it has sent, and keeps until they are acknowledged.
        replayed: Messages that it has sent again so far, of those.
        duplicates: Messages that it has dropped so far because they had come before.
    """

    queued: int = 0
    unacknowledged: int = 0
    replayed: int = 0
    duplicates: int = 0


@dataclass(frozen=True)
class Recovery:
    """One loss of the link, and the way back.

    Attributes:
        cut: The name of the cut that caused it.
        noticed_after: Seconds from the cut until the tunnel had noticed it.
        back_after: Seconds from then until the link was up again.
        attempts: How many attempts that took.
        queued: How many messages had been queued meanwhile.
        resumed: Whether the session went on; False: a new one took its place.
        replayed: How many messages were sent again after that.
    """

    cut: str
    noticed_after: float
    back_after: float
    attempts: int
    queued: int
    resumed: bool = False
    replayed: int = 0

    @property
    def session(self) -> str:
        """What became of the session, in a word."""
        return "resumed" if self.resumed else "new"


class Journal:
    """Follows one tunnel. Not safe for several threads.

    Attributes:
        states: The names of the states in the order in which they were entered.
        recoveries: What was lost and came back, in order.
        attempt: The attempt that is waited for or under way; None while there is none.
        sessions_lost: How many sessions could not be resumed.
        handed_back: How many messages they have left unacknowledged.
        sent_again: How many of these were sent again.
    """

    def __init__(self) -> None:
        self.states: list[str] = [_S.DISCONNECTED.value]
        self.recoveries: list[Recovery] = []
        self.attempt: Attempt | None = None
        self.sessions_lost = 0
        self.handed_back = 0
        self.sent_again = 0
        self._replayed_before = 0  # when the last recovery had just succeeded
        self._cut: tuple[str, float] | None = None  # announced and not noticed yet
        self._loss: tuple[str, float, float] | None = None  # its cut, both times; until recovered

    @property
    def state(self) -> str:
        """The present state."""
        return self.states[-1]

    def cut(self, name: str, now: float) -> None:
        """The link is about to be cut."""
        self._cut = (name, now)

    def change(self, state: str, gauges: Gauges, now: float) -> None:
        """The tunnel has entered a state, and has counted so much by then."""
        if self.state == _S.CONNECTED and state not in _UP:
            self.count(gauges)
            name, cut_at = self._cut or (UNEXPECTED, now)
            self._cut = None
            self._loss = (name, cut_at, now)
        elif state == _S.CONNECTED and self._loss is not None:
            name, cut_at, lost_at = self._loss
            self._loss = None
            attempts = self.attempt.number if self.attempt is not None else 0
            self.recoveries.append(
                Recovery(name, lost_at - cut_at, now - lost_at, attempts, gauges.queued)
            )
            self._replayed_before = gauges.replayed
        if state != _S.RECONNECTING:
            self.attempt = None
        self.states.append(state)

    def announce(self, number: int, maximum: int | None, delay: float, now: float) -> None:
        """An attempt is going to be made after so many seconds."""
        self.attempt = Attempt(number, maximum, now + delay)

    def lose_session(self, handed_back: int) -> None:
        """A session could not be resumed, and has left so many messages unacknowledged."""
        self.sessions_lost += 1
        self.handed_back += handed_back

    def greet(self, resumed: bool) -> None:
        """The new link carries the old session, or another."""
        if self.recoveries:
            self.recoveries[-1] = replace(self.recoveries[-1], resumed=resumed)

    def count(self, gauges: Gauges) -> None:
        """What was replayed so far, and not before the last recovery, belongs to that."""
        if self.recoveries:
            replayed = gauges.replayed - self._replayed_before
            self.recoveries[-1] = replace(self.recoveries[-1], replayed=replayed)
