"""The rows of a durable queue's file: what they hold, and how they prove that they are whole. Pure.

Three tables. `messages` holds what was accepted, under an id that grows with the order of
acceptance and is never used again. `numbers` says which number of the session a message has.
`facts` holds what else a session needs to go on: its ticket, and two counters.

A number stands in a table of its own because a message may be long: to give it a number, or to take
that away, writes a few bytes and not the whole message again.

The last column of each row is a CRC-32 of all that the row says, its key and its table included. A
row that fails it is damaged, whatever it seems to say.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any, TypeAlias

from tunnel.secrets import Secret
from tunnel.session import Ticket
from tunnel.session_frames import FrameKind, Limits

Row: TypeAlias = tuple[Any, ...]
"""A row as SQLite takes it and gives it; what was read may hold anything."""

TABLES = {
    "messages": ("id INTEGER PRIMARY KEY", "kind", "rank", "deadline REAL", "payload", "crc"),
    "numbers": ("number INTEGER PRIMARY KEY", "message", "crc"),
    "facts": ("key INTEGER PRIMARY KEY", "value", "crc"),
}
"""The columns, by table. Only keys and times have a type, so what is put in comes out as it was."""

TICKET, ACKNOWLEDGED, LAST_NUMBER = 1, 2, 3
"""The keys of facts."""

FORGET_NUMBERS = (("DELETE FROM numbers", [()]), ("DELETE FROM facts", [()]))
"""The statements after which there is no session on file, and its messages have no numbers."""


_TEXT, _BINARY = int(FrameKind.TEXT), int(FrameKind.BINARY)
_MESSAGE = struct.Struct(">cQBBd")
_NUMBER = struct.Struct(">cQQ")
_FACT = struct.Struct(">cB")


def insertion(table: str) -> str:
    """The SQL that puts a row into a table, in the place of one with the same key."""
    return f"INSERT OR REPLACE INTO {table} VALUES ({','.join('?' * len(TABLES[table]))})"


def message_row(row_id: int, item: str | bytes, rank: int, deadline: float) -> Row:
    """The row of a message.

    Args:
        row_id: Its id.
        item: The message.
        rank: The line it stands in.
        deadline: When it expires, in seconds since the Unix epoch; `math.inf`: never.

    Raises:
        ValueError: The text cannot be encoded (a lone surrogate).
    """
    if isinstance(item, str):
        kind, payload = _TEXT, item.encode()
    else:
        kind, payload = _BINARY, item
    crc = zlib.crc32(payload, zlib.crc32(_MESSAGE.pack(b"m", row_id, kind, rank, deadline)))
    return row_id, kind, rank, deadline, payload, crc


def number_row(number: int, row_id: int) -> Row:
    """The row that gives a message its number."""
    return number, row_id, zlib.crc32(_NUMBER.pack(b"n", number, row_id))


def fact_row(key: int, value: bytes) -> Row:
    """The row of a fact."""
    return key, value, zlib.crc32(value, zlib.crc32(_FACT.pack(b"f", key)))


def counter_row(key: int, value: int) -> Row:
    """The row of a fact that is a number."""
    return fact_row(key, b"%d" % value)


def read_message(row: Sequence[Any]) -> tuple[int, str | bytes, int, float] | None:
    """What `message_row` was made of; None if the row is damaged."""
    row_id, kind, rank, deadline, payload, crc = row
    try:
        head = _MESSAGE.pack(b"m", row_id, kind, rank, deadline)
        if zlib.crc32(payload, zlib.crc32(head)) != crc:
            return None
    except (struct.error, TypeError, OverflowError):
        return None
    return row_id, payload.decode() if kind == _TEXT else payload, rank, deadline


def is_number(row: Sequence[Any]) -> bool:
    """Whether a row of `numbers` is whole."""
    number, row_id, crc = row
    try:
        return bool(zlib.crc32(_NUMBER.pack(b"n", number, row_id)) == crc)
    except struct.error:
        return False


def is_fact(row: Sequence[Any]) -> bool:
    """Whether a row of `facts` is whole."""
    key, value, crc = row
    try:
        return bool(zlib.crc32(value, zlib.crc32(_FACT.pack(b"f", key))) == crc)
    except (struct.error, TypeError):
        return False


def ticket_row(server: str, ticket: Ticket) -> Row:
    """The row of the fact that there is a session. It holds the token."""
    value = {
        "server": server,
        "id": ticket.id.hex(),
        "token": ticket.token.reveal(),
        "limits": _listed(ticket.limits),
        "peer_limits": _listed(ticket.peer_limits),
        "kept_for": ticket.kept_for,
    }
    return fact_row(TICKET, json.dumps(value).encode())


def read_ticket(value: bytes) -> tuple[str, Ticket]:
    """The server and the ticket in a whole fact."""
    said = json.loads(value)
    ticket = Ticket(
        id=bytes.fromhex(said["id"]),
        token=Secret(said["token"]),
        limits=Limits(*said["limits"]),
        peer_limits=Limits(*said["peer_limits"]),
        kept_for=said["kept_for"],
    )
    return said["server"], ticket


def _listed(limits: Limits) -> list[int]:
    return [limits.messages, limits.bytes, limits.message_size]
