"""What the file of a durable queue holds when it is opened, sorted into what becomes of it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from tunnel.clock import Clock
from tunnel.group_commit import Statement
from tunnel.queue_entries import NEVER, PUT_BACK, Entry
from tunnel.queue_rows import (
    ACKNOWLEDGED,
    FORGET_NUMBERS,
    LAST_NUMBER,
    TICKET,
    is_fact,
    is_number,
    read_message,
    read_ticket,
)
from tunnel.session import Ticket


@dataclass(frozen=True)
class SavedSession:
    """The session of the process that had the queue before this one.

    Attributes:
        server: The address it was opened with.
        ticket: What is needed to go on with it.
        acknowledged: The number of the last frame that was acknowledged.
        last_number: The number of the last frame.
        messages: By number, what was numbered after `acknowledged` and is kept on file.
    """

    server: str
    ticket: Ticket
    acknowledged: int
    last_number: int
    messages: dict[int, str | bytes] = field(default_factory=dict, repr=False)


class QueueContents:
    """Reads a file.

    Args:
        connection: To the file.
        clock: Says what has expired.

    Attributes:
        session: The session that can go on; None: there is none, or it is damaged.
        entries: What waits, in order, each with the rank of its line.
        damaged: How many records are damaged.
        expired: How many messages have expired.
        last_id: The greatest id of a message.
        waste: What removes from the file what is not among the above.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._clock = clock
        self.entries: list[tuple[int, Entry]] = []
        self.damaged = 0
        self.expired = 0
        self.last_id = 0
        self.waste: list[Statement] = []
        self._useless: list[tuple[int]] = []
        self._wrong_numbers: list[tuple[int]] = []
        self._has_facts = False
        self.session = self._read_session(connection)
        numbers = self._read_numbers(connection)
        self._read_messages(connection, numbers)
        if self._useless:
            self.waste.append(("DELETE FROM messages WHERE id = ?", self._useless))
        if self._wrong_numbers:
            self.waste.append(("DELETE FROM numbers WHERE number = ?", self._wrong_numbers))
        if self.session is None and (self._has_facts or numbers):
            self.waste += FORGET_NUMBERS

    def _read_session(self, connection: sqlite3.Connection) -> SavedSession | None:
        facts: dict[int, bytes] = {}
        for row in connection.execute("SELECT * FROM facts"):
            self._has_facts = True
            if is_fact(row):
                facts[row[0]] = row[1]
            else:
                self.damaged += 1
        if not {TICKET, ACKNOWLEDGED, LAST_NUMBER} <= facts.keys():
            return None
        server, ticket = read_ticket(facts[TICKET])
        return SavedSession(server, ticket, int(facts[ACKNOWLEDGED]), int(facts[LAST_NUMBER]))

    def _read_numbers(self, connection: sqlite3.Connection) -> dict[int, int]:
        """The numbers of messages, by their ids."""
        numbers: dict[int, int] = {}
        for row in connection.execute("SELECT * FROM numbers ORDER BY number"):
            if is_number(row):
                numbers[row[1]] = row[0]
            else:
                self.damaged += 1
                self._wrong_numbers.append((row[0],))
        return numbers

    def _read_messages(self, connection: sqlite3.Connection, numbers: dict[int, int]) -> None:
        never_sent: list[tuple[int, Entry]] = []
        now, monotonic = self._clock.time(), self._clock.monotonic()
        for row in connection.execute("SELECT * FROM messages ORDER BY id"):
            self.last_id = row[0]
            message = read_message(row)
            if message is None:
                self.damaged += 1
                self._useless.append((row[0],))
                continue
            row_id, item, rank, deadline = message
            number = numbers.get(row_id)
            if number is not None and self._belongs_to_session(number, item):
                continue
            if deadline <= now:
                self.expired += 1
                self._useless.append((row_id,))
                continue
            entry = item, NEVER if deadline == NEVER else deadline - now + monotonic, row_id
            if number is None:
                self.entries.append((rank, entry))
            else:
                self._wrong_numbers.append((number,))
                never_sent.append((number, entry))
        never_sent.sort(key=lambda numbered: numbered[0])
        self.entries += [(PUT_BACK, entry) for _, entry in never_sent]

    def _belongs_to_session(self, number: int, item: str | bytes) -> bool:
        """Whether the session has a message of this number; then it gets it."""
        session = self.session
        if session is None or not session.acknowledged < number <= session.last_number:
            return False
        session.messages[number] = item
        return True
