"""The messages of the soak: their content follows from lane and number, so it can be checked."""

from __future__ import annotations

import random

_BIGGEST = 256 * 1024


def message(lane: int, number: int) -> str | bytes:
    """The message of a lane with a number: text or bytes, mostly small, some large."""
    rng = random.Random((lane << 40) | number)
    size = int(_BIGGEST ** rng.random()) if rng.random() < 0.02 else rng.randrange(300)
    head = f"{lane}:{number}:"
    if rng.random() < 0.5:
        return head + (f"äöü \U0001f600 {number} " * (size // 8 + 1))[:size]
    return head.encode() + rng.randbytes(size)


def numbered(content: str | bytes) -> tuple[int, int]:
    """Lane and number of a message, or of a request's payload.

    Raises:
        ValueError: It is none.
    """
    head = content[:40]
    text = head.decode("latin-1") if isinstance(head, bytes) else head
    lane, number, *_ = text.split(":", 2)
    return int(lane), int(number)
