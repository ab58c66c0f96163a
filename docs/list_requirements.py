"""Write docs/requirements.rst: each requirement, and the tests that prove it.

Tests say what they prove by ``@pytest.mark.requirement("1.1", ...)``: on a function or class, or
for a whole file in its ``pytestmark``. The marks are read from the source; nothing is run.

Usage: python docs/list_requirements.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import marks

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "requirements.rst"


@dataclass(frozen=True)
class Requirement:
    """One numbered requirement.

    Attributes:
        number: "1.1", or the first and last of a row of numbers: "5.9-5.10".
        text: What is required, in one clause.
        origin: "seed" (the original design promises it), "next" (it names it as the next step) or
            "goal" (the parent requirement, ours to reach). The first two must have a test.
    """

    number: str
    text: str
    origin: str

    def covers(self, number: str) -> bool:
        """Whether the number in a mark belongs to this requirement."""
        if number == self.number:
            return True
        first, separator, last = self.number.partition("-")
        try:
            return bool(separator) and _key(first) <= _key(number) <= _key(last)
        except ValueError:
            return False


REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement("1.1", "Between attempts to reconnect: exponential backoff with jitter.", "seed"),
    Requirement("1.2", "The connection's state is kept while it reconnects.", "seed"),
    Requirement("1.3", "Requests made meanwhile are queued, 100 of them by default.", "seed"),
    Requirement("1.4", "The queue is flushed by itself after a reconnection.", "seed"),
    Requirement("1.5", "The user sees a reconnection: attempt n of m, next one in s.", "goal"),
    Requirement("1.6", "The server notices and cleans up a stale connection in 60 s.", "goal"),
    Requirement("1.7", "A client reconnects seamlessly, without loss of data.", "seed"),
    Requirement(
        "1.8",
        "When the network is back, a client is connected within 5 s, whatever the backoff says.",
        "seed",
    ),
    Requirement(
        "1.9",
        "After the last failed attempt (10 by default) the user is told and no more are made.",
        "seed",
    ),
    Requirement("1.10", "Every attempt is logged with its time and reason.", "seed"),
    Requirement(
        "2.1",
        "Categories of errors: network, authentication, configuration, server, protocol, unknown.",
        "goal",
    ),
    Requirement(
        "2.2-2.3",
        "Each error has a message for people; the common ones suggest what to do.",
        "goal",
    ),
    Requirement(
        "2.5-2.6",
        "A diagnosis tests the parts of the path: DNS, TCP, TLS, upgrade, authentication, echo or "
        "ping.",
        "goal",
    ),
    Requirement("2.9", "An expired token is told apart from wrong credentials.", "goal"),
    Requirement("2.10", "Each error has a stable code that leads to its documentation.", "goal"),
    Requirement(
        "3.3",
        "Client metrics: uptime, reconnections, queue size, latency (average, p95, p99), success "
        "rate.",
        "next",
    ),
    Requirement("3.4", "The metrics in Prometheus' text format.", "next"),
    Requirement(
        "3.5",
        "Connection quality from latency and loss: excellent (below 50 ms and 1 %), good (100 ms, "
        "3 %), fair (200 ms, 5 %), poor.",
        "next",
    ),
    Requirement("5.1", "The request queue's size is configurable, 100 by default.", "next"),
    Requirement("5.2", "Priorities: high (interactive), normal (batch), low (background).", "next"),
    Requirement("5.3", "Backpressure is signalled when the queue is 80 % full.", "next"),
    Requirement("5.4", "The user is told that the queue is full, and what was refused.", "next"),
    Requirement(
        "5.6",
        "A request times out after 30 s by default, with a clear error.",
        "next",
    ),
    Requirement(
        "5.7-5.8",
        "A circuit breaker opens after 5 failed requests in a row and tries again after 60 s.",
        "goal",
    ),
    Requirement(
        "5.9-5.10",
        "High-priority requests survive a shutdown on disk and are tried again at the next start; "
        "damaged data is skipped and never fatal.",
        "next",
    ),
    Requirement("6.1", "A WebSocket ping every 30 s.", "seed"),
    Requirement("6.2", "A lost connection is noticed within 45 s (1.5 intervals).", "seed"),
    Requirement("6.3", "The server answers a ping within 5 s.", "seed"),
    Requirement("6.7", "WebSockets are closed properly, with proper close codes.", "goal"),
    Requirement("6.8", "A failed upgrade gives a clear error.", "goal"),
    Requirement("6.10", "Every event in a WebSocket's life is logged.", "seed"),
    Requirement(
        "8.1",
        "A graceful shutdown flushes what is pending (10 s at most) and tells what it could not.",
        "goal",
    ),
    Requirement("8.3", "A normal close uses code 1000.", "goal"),
    Requirement(
        "9.2",
        "Profiles of configuration: stable network, unstable network, low bandwidth.",
        "seed",
    ),
    Requirement("9.3", "Configuration is validated, with messages that help.", "goal"),
    Requirement("9.7", "Automatic reconnection can be turned off.", "seed"),
    Requirement(
        "10.1-10.8",
        "Unit, end-to-end, load, fault and data-integrity tests; coverage above 80 %.",
        "seed",
    ),
    Requirement(
        "11.3-11.5",
        "Structured logs with a correlation id; events in a connection's life are logged.",
        "seed",
    ),
    Requirement("12.5", "Diagrams of the key flows.", "goal"),
    Requirement(
        "n.f.",
        "A connection stands within 2 s and a request costs less than 50 ms more (p95 both); 1000 "
        "and more connections; less than 100 MB for 100 of them; nothing lost by a reconnection.",
        "goal",
    ),
)

_HEAD = """\
.. Generated by docs/list_requirements.py (make requirements). Do not edit.

Requirements and their tests
============================

Each requirement, where it comes from, and the tests that prove it. Those marked *seed* are
promised by the original design that this project follows, those marked *next* are its next steps:
each of them has a test. Those marked *goal* belong to the parent requirement and are ours to reach.
What a test shows in particular is said by its docstring. A file or class without a test's name
means all tests in it.

.. list-table::
   :header-rows: 1
   :widths: 8 40 7 45

   * - No.
     - Requirement
     - From
     - Tests
"""


def collect(tests: Path, root: Path = ROOT) -> dict[str, list[str]]:
    """Collect the marks of all tests below a folder; see `marks.collect`."""
    return marks.collect("requirement", tests, root)


def tests_of(requirement: Requirement, marked: Mapping[str, Sequence[str]]) -> list[str]:
    """The ids of the tests that bear a number of this requirement, sorted."""
    return sorted({id_ for n, ids in marked.items() if requirement.covers(n) for id_ in ids})


def render(marked: Mapping[str, Sequence[str]]) -> str:
    """The page, as reStructuredText."""
    return _HEAD + "".join(_row(r, tests_of(r, marked)) for r in REQUIREMENTS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; with ``--check`` only compare.

    Returns:
        1 if the page was to be checked and is stale, else 0.
    """
    parser = argparse.ArgumentParser(description="Write docs/requirements.rst from tests' marks.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is stale")
    options = parser.parse_args(arguments)
    page = render(collect(ROOT / "tests"))
    if not options.check:
        PAGE.write_text(page, "utf-8", newline="\n")
    elif not PAGE.is_file() or PAGE.read_text("utf-8") != page:
        print("docs/requirements.rst is stale; run: make requirements", file=sys.stderr)
        return 1
    return 0


def _key(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number.split("."))


def _row(requirement: Requirement, tests: Sequence[str]) -> str:
    proof = "\n       ".join(f"* ``{test}``" for test in tests) if tests else "none yet"
    return (
        f"   * - {requirement.number}\n"
        f"     - {requirement.text}\n"
        f"     - {requirement.origin}\n"
        f"     - {proof}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
