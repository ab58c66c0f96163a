"""The soak, for a few seconds; and that it would find what it looks for."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.soak.ledger import Ledger, Requests
from benchmarks.soak.messages import message, numbered
from benchmarks.soak.plan import LINK_FAULTS, faults
from benchmarks.soak.verdict import Verdict
from tunnel import ConnectionLostError, TunnelError

ROOT = Path(__file__).parent.parent.parent


def soak(*options: str) -> subprocess.Popen[str]:
    """A soak in a process of its own, since it looks at all threads and descriptors."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "soak", "--json", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.fault("soak")
@pytest.mark.requirement("1.7")
def test_a_short_soak() -> None:
    """A few seconds of random faults break no promise."""
    seed = os.environ.get("SEED") or str(random.SystemRandom().randrange(1, 2**32))
    print(f"SEED={seed}")
    process = soak("--seconds", "2", "--tunnels", "4", "--seed", seed)
    output, progress = process.communicate(timeout=55)
    assert process.returncode == 0, output + progress
    report = json.loads(output)
    assert report["violation"] is None
    assert report["rounds"] >= 2
    assert sum(report["faults"].values()) > 2
    assert report["messages"]["echoed"] > 10
    assert report["resources"]["end"]["threads"] <= report["resources"]["base"]["threads"]


@pytest.mark.fault("soak")
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_longer_soak() -> None:
    """So do two minutes with more tunnels."""
    seed = os.environ.get("SEED") or str(random.SystemRandom().randrange(1, 2**32))
    print(f"SEED={seed}")
    process = soak("--seconds", "120", "--tunnels", "12", "--seed", seed)
    output, progress = process.communicate(timeout=350)
    assert process.returncode == 0, output + progress


def test_an_interrupted_soak() -> None:
    """Ctrl-C ends a soak with the report so far, and its gateways too."""
    process = soak("--seconds", "600", "--tunnels", "2")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("seed ")
    assert " connected" in process.stderr.readline()  # the first line of progress
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=50)
    assert process.returncode == 130
    assert json.loads(output)["interrupted"] is True


def test_the_list_of_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    """Each benchmark is a command with options and help of its own."""
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in BENCHMARKS)
    with pytest.raises(SystemExit):
        main(["soak", "--help"])
    assert "--seed" in capsys.readouterr().out


def test_a_plan_follows_from_its_seed() -> None:
    """The same seed gives the same faults, another seed or place others; all kinds come."""
    first = list(itertools.islice(faults(1, "a", LINK_FAULTS, 0.5), 500))
    assert first == list(itertools.islice(faults(1, "a", LINK_FAULTS, 0.5), 500))
    assert first != list(itertools.islice(faults(2, "a", LINK_FAULTS, 0.5), 500))
    assert first != list(itertools.islice(faults(1, "b", LINK_FAULTS, 0.5), 500))
    assert {fault.kind for fault in first} == set(LINK_FAULTS)
    assert all(0 <= fault.seconds <= 2 and 0.1 <= fault.pause <= 0.9 for fault in first)


def test_messages_follow_from_their_numbers() -> None:
    """Lane and number can be read from each, and each is different."""
    for number in range(300):
        assert numbered(message(3, number)) == (3, number)
        assert message(3, number) == message(3, number)
    assert len({message(3, number) for number in range(300)}) == 300
    assert {type(message(3, number)) for number in range(50)} == {str, bytes}


class Broken:
    """A ledger, and what it says is broken."""

    def __init__(self, *, exact: bool = False, reports: bool = False) -> None:
        self.found: list[str] = []
        self.ledger = Ledger("lane", exact=exact, reports=reports, violate=self.found.append)
        self.ledger.offer(10)
        self.ledger.accept(10)

    def noted(self, *numbers: int, session: str = "s") -> Broken:
        for number in numbers:
            self.ledger.note(number, session)
        return self

    def echoed(self, *numbers: int) -> Broken:
        for number in numbers:
            self.ledger.echo(number)
        return self

    def settled(self) -> str:
        self.ledger.settle()
        return self.found[0] if self.found else ""


def test_what_a_ledger_lets_pass() -> None:
    """What is promised is no violation, in each kind of lane."""
    everything = range(10)
    exact = Broken(exact=True).noted(*everything).echoed(*everything)
    assert exact.ledger.is_settled
    assert not exact.settled()
    handed_back = Broken(reports=True).noted(0, 1, 2, 3).noted(7, 8, 9, session="t").echoed(0, 7)
    assert not handed_back.ledger.is_settled
    handed_back.ledger.hand_back([3, 4, 5, 6])
    assert handed_back.ledger.is_settled
    assert not handed_back.settled()
    plain = Broken().noted(0, 1, 5).noted(9, session="t").noted(7, session="s").echoed(1, 5, 9)
    assert plain.ledger.is_settled
    assert not plain.settled()
    assert plain.ledger.lost == 5


def test_what_a_ledger_finds() -> None:
    """Whatever is lost, doubled or reordered is found."""
    everything = range(10)
    assert "twice" in Broken().noted(1, 1).settled()
    assert "twice" in Broken().noted(1).noted(1, session="t").settled()
    assert "out of order" in Broken().noted(2, 1).settled()
    assert "doubled" in Broken().echoed(2, 2).settled()
    assert "doubled" in Broken().echoed(2, 1).settled()
    assert "never sent" in Broken().echoed(10).settled()
    assert "missing" in Broken(exact=True).echoed(0, 2).settled()
    assert "are lost" in Broken(exact=True).noted(*range(9)).echoed(*everything).settled()
    assert "are lost" in Broken(reports=True).noted(*range(9)).settled()
    assert "last echo" in Broken(exact=True).noted(*everything).echoed(*range(9)).settled()
    settled = Broken().noted(*everything)
    assert not settled.settled()
    assert "twice" in settled.noted(3).settled()


def test_what_is_found_of_requests() -> None:
    """A request that arrives or ends twice, or is answered without arriving, is found."""
    found: list[str] = []
    requests = Requests("lane", found.append)
    first, second = requests.ask(), requests.ask()
    assert requests.outstanding == 2
    requests.note(first)
    requests.end(first, answered=True)
    requests.end(second, answered=False)
    requests.settle()
    assert (requests.outstanding, found) == (0, [])
    requests.end(first, answered=True)
    requests.note(second)
    requests.note(second)
    requests.end(requests.ask(), answered=True)
    requests.settle()
    assert [" ".join(text.split()[3:]) for text in found[:2]] == ["ended twice", "arrived twice"]
    assert "never arrived" in found[2]


def test_errors_that_nobody_classified() -> None:
    """An error of ours with a code of its own is counted; any other is a violation."""
    verdict = Verdict()
    with verdict.bounded("a call", 1):
        raise ConnectionLostError("gone")
    assert verdict.errors == {"TUNNEL_021": 1}
    assert verdict.first is None
    verdict.error(TunnelError("who knows"), "a call")
    assert "who knows" in str(verdict.first)
    other = Verdict()
    other.error(KeyError("x"), "a call")
    assert other.violated.is_set()


def test_a_call_that_takes_too_long() -> None:
    """A call that exceeds its bound is a violation."""
    verdict = Verdict()
    with verdict.bounded("a call", -10):
        threading.Event().wait(0.001)
    assert "a call took" in str(verdict.first)
