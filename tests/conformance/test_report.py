"""What `make conformance` makes of a report, and when it says no."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # here are no packages

import run
from report import Verdict, problems, read_verdicts, table


def judged(behavior: str, close: str = "OK") -> dict[str, object]:
    return {
        "behavior": behavior,
        "behaviorClose": close,
        "duration": 2,
        "remoteCloseCode": 1000,
        "reportfile": "tunnel_case_1_1_1.json",
    }


INDEX = {
    "other": {"1.1.1": judged("FAILED", "FAILED")},
    "tunnel": {
        "10.1.1": judged("OK"),
        "9.10.1": judged("INFORMATIONAL", "INFORMATIONAL"),
        "9.2.1": judged("OK", "WRONG CODE"),
        "1.1.1": judged("NON-STRICT"),
    },
}


def test_verdicts_come_in_the_order_of_the_cases() -> None:
    """Only those on the agent, 9.2 before 9.10, and 9.10 before 10.1."""
    assert read_verdicts(INDEX, "tunnel") == [
        Verdict("1.1.1", "NON-STRICT", "OK"),
        Verdict("9.2.1", "OK", "WRONG CODE"),
        Verdict("9.10.1", "INFORMATIONAL", "INFORMATIONAL"),
        Verdict("10.1.1", "OK", "OK"),
    ]


def test_what_is_not_good_is_listed() -> None:
    """A case is good only if its behaviour and its close both are OK or informational."""
    assert problems(read_verdicts(INDEX, "tunnel"), 4) == [
        "case 1.1.1: NON-STRICT, close OK",
        "case 9.2.1: OK, close WRONG CODE",
    ]


def test_a_case_without_a_verdict_is_a_problem() -> None:
    """An agent that the server has not heard of is not good either."""
    assert problems(read_verdicts(INDEX, "nobody"), 301) == ["0 cases were judged, not 301"]


def test_the_table_counts_by_class() -> None:
    """One line for each class of cases, and one for all of them."""
    assert table(read_verdicts(INDEX, "tunnel")).splitlines() == [
        "class  INFORMATIONAL  NON-STRICT  OK  close INFORMATIONAL  close OK  close WRONG CODE",
        "    1              0           1   0                    0         1                 0",
        "    9              1           0   1                    1         0                 1",
        "   10              0           0   1                    0         1                 0",
        "  all              1           1   2                    1         2                 1",
    ]


def test_without_python_2_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1, and a sentence says what to install."""
    monkeypatch.setattr(sys, "argv", ["run.py", "--output", str(tmp_path)])
    monkeypatch.setenv("PYTHON27", sys.executable)
    assert run.main() == 1
    assert "needs Python 2.7, and none was found" in capsys.readouterr().err
