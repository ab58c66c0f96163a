"""Standard error for a command that must not wait for whoever reads it."""

from __future__ import annotations

import contextlib
import queue
import select
import threading
from typing import TextIO

_MOST = 1000  # pieces that wait; then the oldest are dropped


class BackgroundWriter:
    """Writes text to a stream in a thread of its own. Safe to use from any thread.

    A terminal that is held up (Ctrl-S), or a reader that has stopped, keeps nobody waiting. The
    thread is a daemon that goes past the stream's buffer, and so past its lock: it keeps the
    program from ending no more than from working.

    Args:
        stream: Where to; nobody else writes to it meanwhile.
    """

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        self._raw = getattr(stream.buffer, "raw", stream.buffer)
        self._encoding = stream.encoding or "utf-8"
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tunnel-stderr", daemon=True)
        self._thread.start()

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be written."""
        return not self._waiting.empty()

    def write(self, text: str) -> None:
        """Have it written, and do not wait. Of what waits for long the newest is kept."""
        if self._waiting.qsize() >= _MOST:
            with contextlib.suppress(queue.Empty):
                self._waiting.get_nowait()
        self._waiting.put(text.encode(self._encoding, "backslashreplace"))

    def close(self, timeout: float) -> None:
        """Wait until everything is written, and end; after `timeout` seconds leave the rest."""
        self._waiting.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (piece := self._waiting.get()) is not None:
            with contextlib.suppress(OSError):  # nobody has to listen
                self._write_all(memoryview(piece))

    def _write_all(self, rest: memoryview) -> None:
        while rest:
            written = self._raw.write(rest)
            if written is None:  # somebody has made it non-blocking, as a shared terminal
                select.select([], [self._raw], [])
            else:
                rest = rest[written:]
