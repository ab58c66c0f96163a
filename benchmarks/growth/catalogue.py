"""All curves, in the order in which they are shown."""

from __future__ import annotations

from benchmarks.growth.backlog import BACKLOG
from benchmarks.growth.curve import Curve
from benchmarks.growth.holding import HOLDING
from benchmarks.growth.messages import MESSAGES

CURVES: tuple[Curve, ...] = (*MESSAGES, *BACKLOG, *HOLDING)
"""Each has a name of its own."""
