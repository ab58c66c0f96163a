"""Turns, so that a thousand tunnels that have something to do at once do not stampede.

Theory of operation
-------------------

Whoever waits for the interpreter's lock looks every five milliseconds whether it is free
(`sys.setswitchinterval`). With a thousand threads that is 200,000 wake-ups a second, which leave
nothing of two cores for the one that works; so the longer the queue, the slower it gets shorter. A
server that goes away, or comes back, does that to the tunnels of a process: each has milliseconds
of work, all at the same time, and was seen to take a minute for what is a second of work.

Threads that wait for a lock of their own cost nothing. So the work of a lost link and of a dial is
done in turns, a few at a time (`SLOTS`): a tunnel's thread takes a turn (`take`) and gives it back
(`give`) before it waits for the network or for time, and before callbacks of the application; not
before observers of its state and events, which must not block. It is only a courtesy between
threads: nothing is guarded by it, and who gets no turn in `PATIENCE` seconds, or is wanted for
something else, goes on without. So it cannot lead to a deadlock, whatever an observer does.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeAlias

SLOTS = 4
"""Threads that work at a time: more than one, since some calls do without the interpreter."""

PATIENCE = 2.0
"""Seconds that a thread waits for its turn."""

_SLICE = 0.25
"""Seconds after which it looks whether it is wanted for something else."""


# Of as many items as there are turns to be had; unlike a semaphore it costs next to nothing.
_Slots: TypeAlias = "SimpleQueue[None]"


def new_slots() -> _Slots:
    """Nobody has a turn."""
    slots: _Slots = SimpleQueue()
    for _ in range(SLOTS):
        slots.put(None)
    return slots


_slots = new_slots()
# Where the turns of threads belong that have one, by thread; a `threading.local` would take 0.3 KiB
# of each thread, whether it has a turn or not.
_turns: dict[int, _Slots] = {}


def take(is_wanted: Callable[[], bool] = bool) -> None:
    """Wait for a turn, unless the thread has one. `give` is to follow, whatever happens.

    Args:
        is_wanted: Whether the thread has something else to do, so that it goes on without a turn;
            asked now and then. Not given: it has not.
    """
    thread = threading.get_ident()
    if thread not in _turns:
        slots = _slots
        for _ in range(math.ceil(PATIENCE / _SLICE)):
            if is_wanted():
                return
            with suppress(Empty):
                slots.get(timeout=min(_SLICE, PATIENCE))
                _turns[thread] = slots
                return


def give() -> bool:
    """Give the turn back. Returns whether there was one, so that another is to be taken later."""
    slots = _turns.pop(threading.get_ident(), None)
    if slots is None:
        return False
    slots.put(None)
    return True


def forget_on_fork() -> None:
    """Have forked children begin anew: threads that had a turn in the parent are not there.

    Called once, at import. Where the system cannot fork there is nothing to do.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    global _slots
    _slots = new_slots()
    _turns.clear()


forget_on_fork()
