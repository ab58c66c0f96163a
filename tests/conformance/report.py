"""What the testsuite's `index.json` says, as counts and as a list of what is wrong. Pure.

The testsuite judges each case twice: how the peer behaved, and how it closed the connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

GOOD = frozenset({"OK", "INFORMATIONAL"})
"""All other verdicts fail the run, NON-STRICT too."""


class Verdict(NamedTuple):
    """How the testsuite judges one case."""

    case: str
    behavior: str
    close: str

    @property
    def is_good(self) -> bool:
        """Whether nothing at all is wrong."""
        return self.behavior in GOOD and self.close in GOOD


def read_verdicts(index: Mapping[str, Mapping[str, Any]], agent: str) -> list[Verdict]:
    """The verdicts on one agent, in the order of the cases: 9.2 comes before 10.1."""
    verdicts = (
        Verdict(case, result["behavior"], result["behaviorClose"])
        for case, result in index.get(agent, {}).items()
    )
    return sorted(verdicts, key=lambda verdict: [int(part) for part in verdict.case.split(".")])


def problems(verdicts: Iterable[Verdict], expected: int) -> list[str]:
    """A line for each case that is not good, and one if cases are missing."""
    verdicts = list(verdicts)
    lines = [
        f"case {case}: {behavior}, close {close}"
        for case, behavior, close in (verdict for verdict in verdicts if not verdict.is_good)
    ]
    if len(verdicts) != expected:
        lines.append(f"{len(verdicts)} cases were judged, not {expected}")
    return lines


def table(verdicts: Iterable[Verdict]) -> str:
    """How often each verdict was given, by class of cases, behaviour before close."""
    counts: dict[str, Counter[str]] = {}
    columns: dict[str, None] = {}
    for verdict in verdicts:
        for name in (verdict.behavior, f"close {verdict.close}"):
            for row in (verdict.case.partition(".")[0], "all"):
                counts.setdefault(row, Counter())[name] += 1
            columns[name] = None
    names = sorted(columns, key=lambda name: (name.startswith("close "), name))
    rows = sorted(counts, key=lambda row: (row == "all", row.zfill(2)))
    lines = ["  ".join(["class", *names])]
    lines += [
        "  ".join([row.rjust(5), *(str(counts[row][name]).rjust(len(name)) for name in names)])
        for row in rows
    ]
    return "\n".join(lines)
