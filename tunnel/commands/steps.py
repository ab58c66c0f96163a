"""The steps of a diagnosis: what was tried, how long it took, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from tunnel.error_base import TunnelError

NAMES = ("DNS", "TCP", "proxy", "TLS", "upgrade", "authentication", "ping", "echo", "resume")
"""Every step that there can be, in order. A step may come twice: a proxy has a name, too."""


class StepStatus(str, Enum):
    """What came of a step. The value is what JSON shows."""

    OK = "ok"
    WARNING = "warning"  # it works, and something about it should be looked at
    FAILED = "failed"
    SKIPPED = "skipped"  # not needed, not offered, or not reached


@dataclass(frozen=True)
class Step:
    """One step. Immutable.

    Attributes:
        name: One of `NAMES`.
        status: What came of it.
        result: The same in words.
        seconds: How long it took; None if it was skipped.
        suggestion: What can be done about it, if anything has to be.
        facts: Details for programs.
        error: What `TunnelError.to_dict` says, if it failed.
    """

    name: str
    status: StepStatus = StepStatus.OK
    result: str = ""
    seconds: float | None = None
    suggestion: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "name": self.name,
            "status": self.status.value,
            "seconds": None if self.seconds is None else round(self.seconds, 6),
            "result": self.result,
            "suggestion": self.suggestion,
            "facts": self.facts,
            "error": self.error,
        }


class Steps:
    """Collects steps, one after the other. One thread at a time.

    Args:
        on_begin: Called with the name of a step that begins.
        on_end: Called with a step that is over.

    Attributes:
        done: The steps that are over.
    """

    def __init__(self, on_begin: Callable[[str], object], on_end: Callable[[Step], object]) -> None:
        self._on_begin = on_begin
        self._on_end = on_end
        self._current: Step | None = None
        self._is_noted = False
        self._began = 0.0
        self.done: list[Step] = []

    @property
    def is_open(self) -> bool:
        """Whether a step has begun of which nothing is known yet."""
        return self._current is not None and not self._is_noted

    @property
    def current(self) -> str:
        """The name of the step that began last and is not over; or an empty text."""
        return "" if self._current is None else self._current.name

    @property
    def has_failed(self) -> bool:
        """Whether one has."""
        return any(step.status is StepStatus.FAILED for step in self.done)

    def begin(self, name: str) -> None:
        """A step begins, and the one before it is over."""
        self.finish()
        self._current, self._began, self._is_noted = Step(name), time.monotonic(), False
        self._on_begin(name)

    def note(
        self,
        result: str,
        status: StepStatus = StepStatus.OK,
        suggestion: str | None = None,
        **facts: Any,
    ) -> None:
        """The present step has come to this. It may fail nevertheless, until the next begins."""
        assert self._current is not None
        took = time.monotonic() - self._began
        self._is_noted = True
        self._current = replace(
            self._current,
            status=status,
            result=result,
            seconds=None if status is StepStatus.SKIPPED else took,
            suggestion=suggestion,
            facts={**self._current.facts, **facts},
        )

    def add_facts(self, **facts: Any) -> None:
        """Know more about the present step, whatever comes of it."""
        assert self._current is not None
        self._current.facts.update(facts)

    def fail(self, error: TunnelError) -> None:
        """The present step has failed, and this is why."""
        assert self._current is not None
        self._current = replace(
            self._current,
            status=StepStatus.FAILED,
            result=str(error),
            seconds=time.monotonic() - self._began,
            suggestion=error.suggestion,
            error=error.to_dict(),
        )
        self.finish()

    def finish(self) -> None:
        """The present step, if there is one, is over."""
        step, self._current = self._current, None
        if step is not None:
            self.done.append(step)
            self._on_end(step)

    def skip(self, name: str, why: str) -> None:
        """A step is not made."""
        self.finish()
        self._current = Step(name, StepStatus.SKIPPED, why)
        self.finish()
