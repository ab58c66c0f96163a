"""A gateway in a process of its own, as users run it, which can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

_SERVERS = Path(__file__).parent / "servers"


class GatewayProcess:
    """``tunnel gateway`` on loopback.

    Args:
        *options: Of the command, beside ``--listen``.
        environment: Further variables; the handlers of `servers` can be imported.
    """

    def __init__(self, *options: str, environment: dict[str, str] | None = None) -> None:
        self._options = options
        path = os.pathsep.join([str(_SERVERS), os.environ.get("PYTHONPATH", "")])
        self._environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> GatewayProcess:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"ws://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it; returns once it listens. A later start is on the same port."""
        listen = f"127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tunnel", "gateway", "--listen", listen, *self._options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self._environment,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening on ws://"), f"the gateway did not start: {line!r}"
        self.port = int(line.strip().rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        """End it by SIGKILL: it gets no chance to say anything."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def terminate(self) -> int:
        """End it by SIGTERM. Returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._end()

    def _end(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        code = process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
        return code
