"""Reads the write-ahead log of a queue file beyond the point where SQLite gives up. Pure.

Each frame of the log is checked by a sum that goes on from the frame before. At the first one that
is wrong, SQLite takes the log to end: that is what a loss of power in the middle of a write looks
like. So one wrong bit makes it forget, in silence, all that was committed later. But every frame
also carries its sum, so the ones after a damaged frame can be checked as well: from what that says.

The format: https://www.sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tunnel.queue_salvage import PAGE_SIZE

_HEADER_SIZE = 32
_FRAME_SIZE = 24 + PAGE_SIZE
_MASK = 0xFFFFFFFF


class Frame(NamedTuple):
    """One page as a transaction left it.

    Attributes:
        page: Its number.
        content: Its bytes.
        is_whole: Whether both can be trusted.
    """

    page: int
    content: bytes
    is_whole: bool


def hidden_frames(log: bytes, known: int) -> list[Frame]:
    """The frames that belong to the log and that SQLite does not see.

    Args:
        log: The whole log.
        known: How many frames SQLite sees.

    Returns:
        The frames after those, up to the last whole commit among them; none, if there is no such.
    """
    if len(log) < _HEADER_SIZE + _FRAME_SIZE:
        return []
    order = ">" if log[3] & 1 else "<"  # the lowest bit of the magic number
    salts = log[16:24]
    if _sum(log[:24], (0, 0), order) != _uint32s(log, 24, 2):
        salts = log[_HEADER_SIZE + 8 : _HEADER_SIZE + 16]  # the header is damaged: ask a frame
    frames: list[Frame] = []
    committed = 0
    for number in range(known, (len(log) - _HEADER_SIZE) // _FRAME_SIZE):
        start = _HEADER_SIZE + number * _FRAME_SIZE
        head = log[start : start + 24]
        content = log[start + 24 : start + _FRAME_SIZE]
        before = start - _FRAME_SIZE + 16 if number else _HEADER_SIZE - 8
        total = _sum(head[:8], _uint32s(log, before, 2), order)
        is_whole = head[8:16] == salts and _sum(content, total, order) == _uint32s(head, 16, 2)
        page, size_after_commit = _uint32s(head, 0, 2)
        frames.append(Frame(page, content, is_whole))
        if is_whole and size_after_commit:
            committed = len(frames)
    return frames[:committed]


def _sum(data: bytes, total: tuple[int, ...], order: str) -> tuple[int, int]:
    """The sum of the data, going on from another."""
    first, second = total
    for one, other in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & _MASK
        second = (second + other + first) & _MASK
    return first, second


def _uint32s(data: bytes, offset: int, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f">{count}I", data, offset)
