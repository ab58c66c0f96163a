"""What was found so far: the first promise that was broken, and the errors by code. Thread-safe."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tunnel.errors import TunnelError

_GRACE = 5.0  # seconds over its bound that a call may take on a machine that is very busy


class Verdict:
    """Collects what the lanes find.

    Attributes:
        violated: Set once a promise was broken.
        first: Which one; None: none yet.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self.violated = threading.Event()
        self.first: str | None = None
        self._errors: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()

    def violate(self, what: str) -> None:
        """A promise is broken."""
        with self._lock:
            self.first = self.first or what
        self.violated.set()

    def error(self, error: BaseException, where: str) -> None:
        """An error was seen. It has to be one of ours, with a code of its own."""
        code = error.code if isinstance(error, TunnelError) else type(error).__name__
        self.error_code(code, f"{where}: {error!r}")

    def error_code(self, code: str, text: str) -> None:
        """The same for an error of which only code and text are known."""
        with self._lock:
            self._errors[code] += 1
        if not code.startswith("TUNNEL_") or code == TunnelError.code:
            self.violate(f"an error was not classified: {text}")

    def fault(self, kind: str) -> None:
        """A fault was made."""
        with self._lock:
            self._faults[kind] += 1

    @contextmanager
    def bounded(self, call: str, seconds: float) -> Iterator[None]:
        """A call may take so long, and not longer; its errors are counted and go no further."""
        start = time.monotonic()
        try:
            yield
        except TunnelError as error:
            self.error(error, call)
        took = time.monotonic() - start
        if took > seconds + _GRACE:
            self.violate(f"{call} took {took:.1f} s and should take {seconds:g} s at most")

    @property
    def errors(self) -> dict[str, int]:
        """How many errors of each code."""
        with self._lock:
            return dict(sorted(self._errors.items()))

    @property
    def faults(self) -> dict[str, int]:
        """How many faults of each kind."""
        with self._lock:
            return dict(sorted(self._faults.items()))
