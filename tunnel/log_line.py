"""Lines for the log that the application gets to see, too."""

from __future__ import annotations

from collections.abc import Callable

from loguru import logger

_caller = logger.opt(depth=1)  # so that a line is logged as one of who logs it


class LineLog:
    """Logs lines, and hands each to the application's `on_log`; what that raises is logged.

    Args:
        on_log: Called with each line, in the thread that logs; None: nobody.
    """

    def __init__(self, on_log: Callable[[str], object] | None) -> None:
        self._on_log = on_log

    def __call__(self, template: str, *values: object) -> None:
        """Log a line.

        Args:
            template: A constant, with a place for each value as in `str.format`.
            *values: What goes into it.
        """
        _caller.info(template, *values)
        if self._on_log is not None:
            try:
                self._on_log(template.format(*values))
            except Exception:
                logger.exception("on_log raised; the line was logged before")
