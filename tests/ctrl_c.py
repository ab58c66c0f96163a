"""Ctrl-C at a chosen line: what the tests of interruptions share."""

from __future__ import annotations

import contextlib
import linecache
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

BLOCKS = ("with ", "try:")
"""Lines at which most interruptions of a trace would be ones that cannot be.

The interpreter looks for signals after calls, at the beginning of functions and in loops; so not
between the end of a `with` block and the release of its lock, which a trace shows as one more line.
But it does look after that release: a `try` behind a `with` is not tried here, and could be hit.
"""


@contextlib.contextmanager
def interrupted_at(
    number: int, is_watched: Callable[[FrameType], bool], beside: tuple[str, ...] = BLOCKS
) -> Iterator[list[int]]:
    """KeyboardInterrupt before the so-many-th line that is run of what is watched.

    Args:
        number: Which line, from 1.
        is_watched: Whether the lines of a frame count.
        beside: Beginnings of lines that do not count.

    Yields:
        A list with the number of lines that were run so far.
    """
    lines = [0]

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not is_watched(frame):
            return None
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        if event == "line" and not source.startswith(beside):
            lines[0] += 1
            if lines[0] == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def was_interrupted_at(
    number: int,
    call: Callable[[], object],
    *functions: Callable[..., Any],
    beside: tuple[str, ...] = BLOCKS,
) -> bool:
    """Call, with Ctrl-C before the so-many-th line of some functions.

    Returns:
        Whether there was such a line.
    """
    codes = [function.__code__ for function in functions]
    with (
        contextlib.suppress(KeyboardInterrupt),
        interrupted_at(number, lambda frame: frame.f_code in codes, beside) as lines,
    ):
        call()
    return lines[0] >= number
