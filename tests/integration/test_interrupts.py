"""Ctrl-C at any moment: no deadlock, nothing lost or doubled, and everything works after it."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest
from programs.running import run

from tunnel.gateway import GatewayThread

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")

HARMLESS = "Exception ignored in"
"""Python's own words: an interruption inside a weak reference's callback is not raised."""


def interrupt(seed: int, calls: int, queue: object = "") -> int:
    """Have a program interrupted, and look at what arrived. Returns how often it was."""
    print(f"SEED={seed}")
    arrived: list[int] = []

    def hear(session: object, message: object) -> bytes | None:
        if not isinstance(message, str):
            return b"x"
        arrived.append(int(message))
        return None

    with GatewayThread(hear) as gateway:
        result = run("interrupted.py", gateway.url, seed, calls, queue)
    assert result.returncode == 0, result.stderr
    assert not result.stderr or result.stderr.startswith(HARMLESS), result.stderr
    interruptions, _, certain = json.loads(result.stdout)
    assert arrived == sorted(set(arrived)), "doubled, or out of order"
    assert not set(certain) - set(arrived), "lost"
    return int(interruptions)


def seed() -> int:
    """Chance, which can be repeated."""
    return int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 2**31)


@pytest.mark.fault("ctrl-c-anywhere")
def test_calls_may_be_interrupted_anywhere() -> None:
    """After hundreds of interruptions each accepted message has arrived once, and in order."""
    assert interrupt(seed(), 600) > 50


@pytest.mark.fault("ctrl-c-anywhere")
def test_calls_with_a_queue_on_disk_may_be_interrupted(tmp_path: Path) -> None:
    """The same with a durable queue."""
    assert interrupt(seed(), 400, tmp_path / "queue") > 50


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault("ctrl-c-anywhere")
def test_many_calls_may_be_interrupted(tmp_path: Path) -> None:
    """The same with many seeds."""
    first = seed()
    for number in range(20):
        interrupt(first + number, 1500, tmp_path / f"{number}" if number % 2 else "")
