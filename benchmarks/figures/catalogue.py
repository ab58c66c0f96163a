"""All figures, in the order in which they are shown."""

from __future__ import annotations

from benchmarks.figures.core import FIGURES as CORE
from benchmarks.figures.echoing import FIGURES as ECHOING
from benchmarks.figures.footprint import FIGURES as FOOTPRINT
from benchmarks.figures.measure import Figure
from benchmarks.figures.receiving import FIGURES as RECEIVING
from benchmarks.figures.recovery import FIGURES as RECOVERY
from benchmarks.figures.requests import FIGURES as REQUESTS
from benchmarks.figures.sending import FIGURES as SENDING

FIGURES: tuple[Figure, ...] = (
    *RECEIVING,
    *SENDING,
    *ECHOING,
    *REQUESTS,
    *FOOTPRINT,
    *RECOVERY,
    *CORE,
)
"""Each has a name of its own."""
