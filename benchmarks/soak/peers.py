"""The other ends: gateways in processes of their own, and the notes of what they got."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.soak.plan import Fault
from benchmarks.soak.recorder import FILE_VARIABLE

ROOT = Path(__file__).parent.parent.parent
_SESSIONS_KEPT = "120"  # seconds: far longer than any fault


class Gateway:
    """``tunnel gateway`` on loopback, with the handler of the soak.

    Args:
        name: For its files.
        folder: Where they are.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.port = 0
        self.starts = 0
        self._notes = folder / f"{name}.notes"
        self._notes.touch()
        self._read = 0
        self._rest = b""
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start it; returns once it listens. A later start is on the same port."""
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tunnel", "gateway"),
                    *("--listen", f"127.0.0.1:{self.port}", "--session-keep", _SESSIONS_KEPT),
                    *("--handler", "benchmarks.soak.recorder:record"),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": path, FILE_VARIABLE: str(self._notes)},
                start_new_session=True,  # Ctrl-C is for the soak, which then ends its gateways
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("listening on ws://"):
            raise OSError(f"the gateway did not start: {self.trouble() or line}")
        self.port = int(line.strip().rstrip("/").rpartition(":")[2])
        self.starts += 1

    def strike(self, fault: Fault, wait: Callable[[float], object]) -> None:
        """Do what the plan says, for as long as it says."""
        if fault.kind == "stop":
            self._signal(signal.SIGSTOP)
            wait(fault.seconds)
            self._signal(signal.SIGCONT)
            return
        self._signal(signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM)
        self._reap()
        wait(fault.seconds)
        self.start()

    def kill(self) -> None:
        """End it for good."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._reap()

    def read_notes(self, note: Callable[[str, int, int, str], None]) -> bool:
        """Hand over what was noted since: kind, lane, number, session. Returns whether any was."""
        with self._notes.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            kind, lane, number, session = line.decode().split()
            note(kind, int(lane), int(number), session)
        return bool(data)

    def trouble(self) -> str | None:
        """What its log says of something that nobody foresaw: the first entry of that kind."""
        text = self._log.read_text("utf-8", "replace")
        found = re.search(r"^(.*\| (ERROR|CRITICAL) .*|Traceback.*)\n((?!\d{4}-).*\n)*", text, re.M)
        return found[0].strip()[-3000:] if found else None

    def resident(self) -> int:
        """Bytes of memory that the process uses; 0 where the system does not tell."""
        try:
            assert self._process is not None
            status = Path(f"/proc/{self._process.pid}/statm").read_text("ascii")
        except (OSError, AssertionError):
            return 0
        return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _reap(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise OSError(f"the {self.name} gateway did not end within 30 s of SIGTERM") from None
        finally:
            assert process.stdout is not None
            process.stdout.close()


class GatewayFaults:
    """Follows the plan of one gateway in a thread.

    Args:
        gateway: The one.
        plan: Without end.
        on_fault: Called with the kind of each.
    """

    def __init__(
        self, gateway: Gateway, plan: Callable[[], Fault], on_fault: Callable[[str], None]
    ) -> None:
        self._gateway = gateway
        self._plan = plan
        self._on_fault = on_fault

    def run(self, over: threading.Event) -> None:
        """Make faults until it is over; then the gateway works."""
        while True:
            fault = self._plan()
            if over.wait(fault.pause):
                return
            self._on_fault(f"gateway {fault.kind}")
            self._gateway.strike(fault, over.wait)
