"""The demo's gateway as the demo sees it: a process that can be killed and started again."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from types import TracebackType
from typing import IO

from tunnel.demo.errors import DemoError

_START = 20.0  # seconds until it must have said its port
_END = 5.0  # seconds until it must have ended after it was told to


class ServerProcess:
    """Starts the gateway; a context manager that kills it at its end. Not for several threads.

    Attributes:
        port: Where it listens on 127.0.0.1; 0 before the first start, and the same ever after.
    """

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> ServerProcess:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int | None:
        """The number of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, while there is none, and wait until it listens.

        Raises:
            DemoError: It does not come up; the text says why.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tunnel.demo.server", "--port", str(self.port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                start_new_session=True,  # Ctrl-C in the terminal is not for it
            )
            assert self._process.stdout is not None
            line = _first_line(self._process.stdout, _START)
            if not line.strip().isdigit():
                self.kill()
                complaints.seek(0)
                last = (complaints.read().strip().splitlines() or ["it said nothing"])[-1]
                raise DemoError(f"the demo's gateway did not start: {last}")
            self.port = int(line)

    def stop(self) -> None:
        """Let it finish what it has received, and then end, as a deployment does. Does not wait."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def wait(self) -> bool:
        """Wait until it has ended after `stop`; if that takes too long, it is killed.

        Returns:
            Whether it has ended by itself. Then it had finished with everything: it would not have
            given that up so soon.
        """
        if self._process is None:
            return False
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END)
        has_ended = self._process.returncode == 0
        self.kill()
        return has_ended

    def kill(self) -> None:
        """End it at once, without a word to anybody."""
        process = self._process
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        self._process = None


def _first_line(output: IO[str], timeout: float) -> str:
    """What a process says first; nothing if it says nothing in time."""
    lines: list[str] = []
    reader = threading.Thread(
        target=lambda: lines.append(output.readline()), name="demo-server", daemon=True
    )
    reader.start()
    reader.join(timeout)
    return lines[0] if lines else ""
