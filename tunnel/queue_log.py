"""Reads the write-ahead log of a queue file beyond the point where SQLite gives up. Pure.

Each frame of the log is checked by a sum that goes on from the frame before. At the first one that
is wrong, SQLite takes the log to end: that is what a loss of power in the middle of a write looks
like. So one wrong bit makes it forget, in silence, all that was committed later. But every frame
carries its sum, so those after a damaged frame can be checked as well, from what that one says.

The format: https://www.sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from itertools import pairwise

from tunnel.queue_salvage import PAGE_SIZE

_HEADER_SIZE = 32
_FRAME_SIZE = 24 + PAGE_SIZE
_MASK = 0xFFFFFFFF
_NATIVE = "<" if sys.byteorder == "little" else ">"


class _Frame:
    """One page as a transaction left it, and what is said about it."""

    def __init__(self, data: bytes) -> None:
        self.page, self.size_after_commit = _uint32s(data, 0)
        self.salts = data[8:16]
        self.sum = _uint32s(data, 16)
        self.content = data[24:]
        self.before: list[tuple[int, int]] = []  # what its sum may go on from
        self.is_whole = False

    def sums(self, page: int, order: str) -> list[tuple[int, int]]:
        """What its sum should be, if it is of this page."""
        head = struct.pack(">II", page, self.size_after_commit)
        return [_sum(self.content, _sum(head, total, order), order) for total in self.before]


def hidden_pages(log: bytes, known: int) -> dict[int, bytes]:
    """The pages that belong to the log and that SQLite does not see, as they were last.

    Only up to a commit that is whole: one that is not looks as if it was never finished.

    Args:
        log: The whole log.
        known: How many frames SQLite sees.

    Returns:
        The pages by number, one of them damaged perhaps; none, if SQLite sees all there is.
    """
    first = _HEADER_SIZE + known * _FRAME_SIZE
    hidden = [
        _Frame(log[start : start + _FRAME_SIZE])
        for start in range(first, len(log) - _FRAME_SIZE + 1, _FRAME_SIZE)
    ]
    if not hidden:
        return {}
    said = _uint32s(log, 24)
    order = next((o for o in "<>" if _sum(log[:24], (0, 0), o) == said), None)
    salts = hidden[0].salts if order is None else log[16:24]
    order = order or _NATIVE  # what wrote the log most likely ran on this machine
    total = _sum(log[:24], (0, 0), order)
    hidden[0].before = [_uint32s(log, first - _FRAME_SIZE + 16)] if known else [said, total]
    _check(hidden, salts, order)
    commits = [n for n, frame in enumerate(hidden) if frame.is_whole and frame.size_after_commit]
    if not commits:
        return {}
    size = max(hidden[number].size_after_commit for number in commits)
    pages: dict[int, bytes] = {}
    for frame in hidden[: commits[-1] + 1]:
        page = frame.page if frame.is_whole else _true_page(frame, size, order)
        if 1 <= page <= size:
            pages[page] = frame.content
    return pages


def _check(frames: Sequence[_Frame], salts: bytes, order: str) -> None:
    """Find out which frames are whole.

    Args:
        frames: The frames, in order; of the first is known what its sum may go on from.
        salts: What all frames have since the log was begun anew; behind them may stand old ones.
        order: Of bytes.
    """
    follows_whole = True  # then its sum proves a frame, whatever its salts
    for frame, following in pairwise([*frames, None]):
        assert frame is not None
        sums = frame.sums(frame.page, order) if follows_whole or frame.salts == salts else []
        frame.is_whole = follows_whole = frame.sum in sums
        if following is not None:
            # If this one is not whole, it may be just its sum that is damaged.
            following.before = [frame.sum] if frame.is_whole else [frame.sum, *sums]


def _true_page(frame: _Frame, size: int, order: str) -> int:
    """The page that a damaged frame belongs to: the one that makes it whole, or what it says."""
    for page in range(1, size + 1):
        if frame.sum in frame.sums(page, order):
            return page
    return frame.page


def _sum(data: bytes, total: tuple[int, int], order: str) -> tuple[int, int]:
    """The sum of the data, going on from another."""
    first, second = total
    for one, other in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & _MASK
        second = (second + other + first) & _MASK
    return first, second


def _uint32s(data: bytes, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from(">II", data, offset)
    return first, second
