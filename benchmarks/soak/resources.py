"""What the process holds: threads, descriptors, memory."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import tracemalloc
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resources:
    """At one moment.

    Attributes:
        threads: Of Python.
        descriptors: That are open; 0 where the system does not tell.
        memory: Bytes that Python has allocated, by tracemalloc.
        resident: Bytes of memory that the process uses; 0 where the system does not tell.
    """

    threads: int
    descriptors: int
    memory: int
    resident: int

    def highest(self, other: Resources) -> Resources:
        """The higher one of each figure."""
        return Resources(
            max(self.threads, other.threads),
            max(self.descriptors, other.descriptors),
            max(self.memory, other.memory),
            max(self.resident, other.resident),
        )


def measured(*, exactly: bool = False) -> Resources:
    """What is held now.

    Args:
        exactly: Whether garbage is collected before.
    """
    if exactly:
        gc.collect()
    return Resources(
        threads=threading.active_count(),
        descriptors=_descriptors(),
        memory=tracemalloc.get_traced_memory()[0],
        resident=_resident(),
    )


def largest(count: int) -> list[str]:
    """Where most of the memory was allocated, a line for each place."""
    statistics = tracemalloc.take_snapshot().statistics("lineno")[:count]
    return [f"{line.traceback}: {line.size:,} bytes in {line.count} blocks" for line in statistics]


def open_descriptors() -> dict[int, str]:
    """What each open descriptor is; empty where the system does not tell."""
    found = {}
    for name in os.listdir("/proc/self/fd") if Path("/proc/self/fd").is_dir() else ():
        with contextlib.suppress(OSError):
            found[int(name)] = _described(int(name))
    return found


def _described(descriptor: int) -> str:
    what = os.readlink(f"/proc/self/fd/{descriptor}")
    if not what.startswith("socket:"):
        return what
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        try:
            return f"{sock.getsockname()} to {sock.getpeername()}"
        except OSError as error:
            return f"{sock.getsockname()}: {error.strerror}"


def _descriptors() -> int:
    for folder in (Path("/proc/self/fd"), Path("/dev/fd")):
        if folder.is_dir():
            return len(os.listdir(folder)) - 1  # one is for listing
    return 0


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
