"""A diagnosis for people, line by line as it goes on: plain, or with colours in a terminal."""

from __future__ import annotations

import textwrap
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from tunnel.commands.steps import Step, StepStatus
from tunnel.commands.terminal import is_lively

if TYPE_CHECKING:
    from rich.status import Status

_NAME, _STATUS, _TIME = 15, 9, 12
_MARGIN = _NAME + _STATUS + _TIME
_WIDTH = 100
_COLOURS = {
    StepStatus.OK: "green",
    StepStatus.WARNING: "yellow",
    StepStatus.FAILED: "bold red",
    StepStatus.SKIPPED: "dim",
}


class DiagnosisView(Protocol):
    """What a diagnosis is shown on; a context manager."""

    def __enter__(self) -> DiagnosisView: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def begin(self, name: str) -> None:
        """A step begins."""
        ...

    def end(self, step: Step) -> None:
        """A step is over."""
        ...

    def close(self, verdict: str, *, is_good: bool) -> None:
        """All steps are over."""
        ...


def view_for(stream: TextIO) -> DiagnosisView:
    """With colours if the stream is a terminal that can show them, and rich is there."""
    if is_lively(stream):
        return _ColouredView(stream)
    return _PlainView(stream)


def row(step: Step, width: int = _WIDTH) -> str:
    """A step as a line of the table; what needs several is indented."""
    took = "" if step.seconds is None else f"{step.seconds * 1000:,.1f} ms"
    head = f"{step.name:<{_NAME}}{step.status.value:<{_STATUS}}{took:>{_TIME - 2}}  "
    lines = _wrapped(head + step.result, width)
    if step.status is StepStatus.FAILED:
        lines += _failure(step, width)
    elif step.suggestion is not None:
        lines += _wrapped(" " * _MARGIN + step.suggestion, width)
    return "\n".join(lines)


def _failure(step: Step, width: int) -> list[str]:
    """What is wrong with the certificate, if it is that; and what can be done."""
    facts, texts = step.facts, []
    if "not_after" in facts:
        texts.append(
            f"the certificate of {facts['subject'] or '(no subject)'}, issued by "
            f"{facts['issuer'] or '(nobody)'}, is valid from {facts['not_before'][:10]} to "
            f"{facts['not_after'][:10]}"
        )
    if step.suggestion is not None:
        texts.append(step.suggestion)
    if step.error is not None:
        texts.append(f"See {step.error['documentation']}.")
    return [line for text in texts for line in _wrapped(" " * _MARGIN + text, width)]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, _MARGIN + 20),
        subsequent_indent=" " * _MARGIN,
        drop_whitespace=True,
        break_on_hyphens=False,
    )


class _PlainView:
    """Lines, as steps end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> _PlainView:
        self._print(f"{'step':<{_NAME}}{'':<{_STATUS}}{'time':>{_TIME - 2}}  result")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def begin(self, name: str) -> None:
        """See `DiagnosisView.begin`."""

    def end(self, step: Step) -> None:
        """See `DiagnosisView.end`."""
        self._print(row(step))

    def close(self, verdict: str, *, is_good: bool) -> None:
        """See `DiagnosisView.close`."""
        self._print(verdict)

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class _ColouredView:
    """The same in colours, with the step that is under way at the end."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)
        self._status: Status | None = None

    def __enter__(self) -> _ColouredView:
        self._console.print(
            f"{'step':<{_NAME}}{'':<{_STATUS}}{'time':>{_TIME - 2}}  result", style="bold"
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def begin(self, name: str) -> None:
        """See `DiagnosisView.begin`."""
        self._stop()
        self._status = self._console.status(name)
        self._status.start()

    def end(self, step: Step) -> None:
        """See `DiagnosisView.end`."""
        from rich.text import Text

        self._stop()
        text = Text(row(step, min(_WIDTH, self._console.width)))
        colour = _COLOURS[step.status]
        if step.status is StepStatus.SKIPPED:
            text.stylize(colour)
        text.stylize(colour, _NAME, _NAME + _STATUS)
        self._console.print(text, soft_wrap=True)

    def close(self, verdict: str, *, is_good: bool) -> None:
        """See `DiagnosisView.close`."""
        self._stop()
        self._console.print(verdict, style="bold green" if is_good else "bold red", markup=False)

    def _stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
