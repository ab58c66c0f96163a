"""What a run of the demo has shown: the verdict, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from tunnel.demo.journal import Recovery
from tunnel.demo.ledger import Tally


@dataclass(frozen=True)
class Report:
    """The end of a run.

    Attributes:
        tally: What was sent and came back.
        recoveries: What was lost and came back.
        states: The path of the tunnel through its states.
        seconds: How long it all took.
        replayed: How many messages were sent again because they had not arrived.
        duplicates: How many messages were dropped because they had come before.
        sessions_lost: How many sessions could not be resumed.
        handed_back: How many messages these have left, of which the tunnel could not know whether
            they had arrived.
        sent_again: How many of these were sent again, since the demo could know.
    """

    tally: Tally
    recoveries: tuple[Recovery, ...]
    states: tuple[str, ...]
    seconds: float
    replayed: int = 0
    duplicates: int = 0
    sessions_lost: int = 0
    handed_back: int = 0
    sent_again: int = 0

    @property
    def verdict(self) -> str:
        """One sentence about the messages."""
        tally = self.tally
        if tally.is_perfect:
            return "Nothing was lost, doubled or reordered."
        faults = {
            "lost": tally.lost,
            "doubled": tally.duplicated,
            "reordered": tally.reordered,
            "never sent, but received": tally.unexpected,
        }
        return f"Messages {', '.join(f'{what}: {n}' for what, n in faults.items() if n)}."

    @property
    def session_numbers(self) -> dict[str, int]:
        """What the sessions had to do, by its name for people."""
        return {
            "replayed": self.replayed,
            "duplicates dropped": self.duplicates,
            "sessions lost": self.sessions_lost,
            "handed back": self.handed_back,
            "sent again": self.sent_again,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON: see the help of ``tunnel demo``."""
        return {
            "sent": self.tally.sent,
            "received": self.tally.received,
            "lost": self.tally.lost,
            "duplicated": self.tally.duplicated,
            "reordered": self.tally.reordered,
            "unexpected": self.tally.unexpected,
            "reconnects": len(self.recoveries),
            "replayed": self.replayed,
            "duplicates_dropped": self.duplicates,
            "sessions_lost": self.sessions_lost,
            "handed_back": self.handed_back,
            "sent_again": self.sent_again,
            "states": list(self.states),
            "recoveries": [
                {name: _rounded(value) for name, value in asdict(recovery).items()}
                for recovery in self.recoveries
            ],
            "seconds": _rounded(self.seconds),
        }


def counts(tally: Tally) -> str:
    """Return the numbers as one line, such as "sent 40, received 40, lost 0"."""
    text = (
        f"sent {tally.sent}, received {tally.received}, lost {tally.lost}, "
        f"doubled {tally.duplicated}, reordered {tally.reordered}"
    )
    return f"{text}, never sent {tally.unexpected}" if tally.unexpected else text


def path(states: tuple[str, ...], arrow: str = " -> ") -> str:
    """Return the path through the states as one line; rounds that repeat are joined.

    A round is what leads from one `connected` to the next, such as every recovery.
    """
    return arrow.join(
        f"({arrow.join(part)}) x {times}" if times > 1 else arrow.join(part)
        for part, times in _rounds(states)
    )


def _rounds(states: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    parts: list[tuple[str, ...]] = []
    part: tuple[str, ...] = ()
    for state in states:
        part += (state,)
        if state == "connected":
            parts.append(part)
            part = ()
    if part:
        parts.append(part)
    for same, group in groupby(parts):
        yield same, len(list(group))


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value
