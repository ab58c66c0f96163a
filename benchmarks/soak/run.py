"""The course of a soak: rounds of faults and calm, and what is measured in the calm."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from benchmarks.soak.lane import Lane, lanes
from benchmarks.soak.peers import Gateway, GatewayFaults
from benchmarks.soak.plan import MORTAL_FAULTS, STEADY_FAULTS, faults
from benchmarks.soak.resources import Resources, largest, measured, open_descriptors
from benchmarks.soak.verdict import Verdict
from tunnel.errors import TunnelError

if TYPE_CHECKING:
    from loguru import Message

_LONGEST_ROUND = 15.0  # seconds
_ROUNDS = 2  # at least, however short the run: the first one is only for warming up
_CALM_LIMIT = 30.0
"""Seconds in which everything must get through once there are no faults; on a busy machine."""

_RETURN_LIMIT = 15.0
"""Seconds in which what is on its way out has to be gone: more than the time-outs of closing."""

_PROGRESS = 5.0  # seconds between two lines
_MEMORY_SLACK = 1_000_000  # bytes, and so many more for each lane:
_MEMORY_SLACK_EACH = 100_000
_THREADS = ("tunnel", "soak")  # that end with what they are for
_MARKER = 2.0  # seconds between two
_GATEWAY_PAUSE = 1.0  # seconds between two faults of a gateway, on average


class Soak:
    """One run.

    Args:
        seconds: How long.
        seed: Of all chance.
        tunnels: How many lanes.
        folder: For the gateways' files.
    """

    def __init__(self, seconds: float, seed: int, tunnels: int, folder: Path) -> None:
        self._seconds = seconds
        self._seed = seed
        self._count = tunnels
        self._folder = folder
        self._verdict = Verdict()
        self._gateways: list[Gateway] = []
        self._plans: list[GatewayFaults] = []
        self._lanes: list[Lane] = []
        self._start = time.monotonic()
        self._next_line = 0.0
        self._base: Resources | None = None
        self._peak: Resources | None = None
        self._end: Resources | None = None
        self._gateway_memory = 0
        self._rounds = 0
        self._slowest_calm = 0.0
        self._phase = "starting"
        self._interrupted = False

    def run(self) -> None:
        """Soak until the time is up, a promise is broken, or Ctrl-C."""
        with self._watching(), contextlib.ExitStack() as stack:
            try:
                self._set_up(stack)
                while not self._is_over():
                    self._round()
            except KeyboardInterrupt:
                self._interrupted = True
            self._phase = "ending"
            for lane in self._lanes:
                lane.close(graceful=not self._interrupted)
            self._lanes_are_gone()

    def report(self) -> dict[str, Any]:
        """What was found, ready for JSON."""
        messages = ("accepted", "noted", "echoed", "handed_back", "lost")
        ledgers = [lane.ledger for lane in self._lanes]
        resources = {"base": self._base, "peak": self._peak, "end": self._end}
        return {
            "violation": self._verdict.first,
            "interrupted": self._interrupted,
            "seed": self._seed,
            "seconds": round(time.monotonic() - self._start, 1),
            "rounds": self._rounds,
            "slowest_calm": round(self._slowest_calm, 1),
            "messages": {n: sum(getattr(one, n) for one in ledgers) for n in messages},
            "requests": {
                "asked": sum(lane.requests.asked for lane in self._lanes),
                "answered": sum(lane.requests.answered for lane in self._lanes),
            },
            "faults made": sum(self._verdict.faults.values()),
            "faults": self._verdict.faults,
            "errors": self._verdict.errors,
            "resources": {n: vars(r) for n, r in resources.items() if r is not None},
            "gateway_resident_peak": self._gateway_memory,
        }

    # The course

    def _set_up(self, stack: contextlib.ExitStack) -> None:
        for name, kinds in (("steady", STEADY_FAULTS), ("mortal", MORTAL_FAULTS)):
            gateway = Gateway(name, self._folder)
            stack.callback(gateway.kill)
            plan = faults(self._seed, name, kinds, _GATEWAY_PAUSE)
            self._gateways.append(gateway)
            self._plans.append(GatewayFaults(gateway, plan.__next__, self._verdict.fault))
        steady, mortal = self._gateways
        self._lanes += lanes(self._count, steady, mortal, self._seed, self._verdict)
        for lane in self._lanes:
            lane.start()

    def _is_over(self) -> bool:
        return self._verdict.violated.is_set() or (
            time.monotonic() >= self._start + self._seconds and self._rounds >= _ROUNDS
        )

    def _round(self) -> None:
        """Faults, then calm."""
        self._phase = "faults"
        over = threading.Event()
        works = [work for lane in self._lanes for work in lane.works()]
        works += [plan.run for plan in self._plans]
        threads = [
            threading.Thread(target=self._guard, args=(work, over), name="soak") for work in works
        ]
        end = time.monotonic() + min(_LONGEST_ROUND, self._seconds / _ROUNDS)
        try:
            for thread in threads:
                thread.start()
            while time.monotonic() < end and not self._verdict.violated.wait(0.2):
                self._look()
        finally:
            over.set()
            for thread in threads:
                thread.join()
        self._phase = "calm"
        self._calm()
        self._rounds += 1

    def _guard(self, work: Callable[[threading.Event], None], over: threading.Event) -> None:
        try:
            work(over)
        except Exception as error:
            self._verdict.violate(f"a call raised what it should not: {error!r}")

    def _calm(self) -> None:
        """Everything gets through; then all is as it was."""
        began = time.monotonic()
        until = began + _CALM_LIMIT
        next_marker = 0.0
        quiet_since = time.monotonic()
        while not self._verdict.violated.is_set():
            now = time.monotonic()
            if self._look():
                quiet_since = now
            late = [lane for lane in self._lanes if not lane.is_settled()]
            if not late and now > quiet_since + 0.2:
                break
            if now > until:
                names = ", ".join(f"{lane.name}: {lane.service!r}" for lane in late)
                self._verdict.violate(f"not through {_CALM_LIMIT:g} s after the faults: {names}")
            elif now >= next_marker:
                next_marker = now + _MARKER
                for lane in self._lanes:
                    lane.send_marker()
            self._verdict.violated.wait(0.05)
        if not self._verdict.violated.is_set():
            for lane in self._lanes:
                lane.check()
            self._compare(self._settled_resources())
            self._slowest_calm = max(self._slowest_calm, time.monotonic() - began)

    def _look(self) -> bool:
        """Read the gateways' notes, measure, and say where things stand."""
        found = [gateway.read_notes(self._note) for gateway in self._gateways]
        now = measured()
        self._peak = now if self._peak is None else self._peak.highest(now)
        for gateway in self._gateways:
            self._gateway_memory = max(self._gateway_memory, gateway.resident())
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _PROGRESS
            self._say(now)
        return any(found)

    def _note(self, kind: str, number: int, item: int, session: str) -> None:
        lane = self._lanes[number]
        if kind == "m":
            lane.ledger.note(item, session)
        else:
            lane.requests.note(item)

    def _say(self, now: Resources) -> None:
        states = [lane.service.state.value for lane in self._lanes]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        print(
            f"{time.monotonic() - self._start:6.0f} s {self._phase:<6}: {counts}; "
            f"{sum(self._verdict.faults.values()):,} faults, "
            f"{sum(lane.ledger.accepted for lane in self._lanes):,} messages, "
            f"{sum(lane.ledger.echoed for lane in self._lanes):,} echoes; "
            f"{now.threads} threads, {now.descriptors} descriptors, "
            f"{now.memory / 1e6:.1f} MB of {now.resident / 1e6:.0f} MB resident",
            file=sys.stderr,
            flush=True,
        )

    # Resources

    def _settled_resources(self) -> Resources:
        """What is held once what is on its way out has gone."""
        deadline = time.monotonic() + _RETURN_LIMIT
        now = measured(exactly=True)
        while self._excess(now) and time.monotonic() < deadline:
            self._verdict.violated.wait(0.1)
            now = measured(exactly=True)
        return now

    def _compare(self, now: Resources) -> None:
        self._end = now
        if self._base is None:
            self._base = now
        elif excess := self._excess(now):
            details: list[str] = []
            if "memory" in excess:
                details += largest(3)
            if "threads" in excess:
                details += sorted(thread.name for thread in threading.enumerate())
            if "descriptors" in excess:
                details += [f"{fd}: {what}" for fd, what in sorted(open_descriptors().items())]
            self._verdict.violate(f"growth since the first round: {excess}: {'; '.join(details)}")

    def _excess(self, now: Resources) -> str:
        base = self._base
        if base is None:
            return ""
        found = []
        for name in ("threads", "descriptors"):
            before, after = getattr(base, name), getattr(now, name)
            if after > before:
                found.append(f"{after} {name} for {before}")
        if now.memory > base.memory + _MEMORY_SLACK + _MEMORY_SLACK_EACH * len(self._lanes):
            found.append(f"{now.memory:,} bytes of memory for {base.memory:,}")
        return ", ".join(found)

    def _lanes_are_gone(self) -> None:
        """No tunnel leaves a thread behind."""
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            left = [t.name for t in threading.enumerate() if t.name in _THREADS]
            if not left:
                return
            threading.Event().wait(0.05)
        self._verdict.violate(f"threads outlive their tunnels: {', '.join(left)}")

    # What nobody foresaw

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Look for exceptions that were only logged, or that ended a thread."""

        def on_log(entry: Message) -> None:
            if entry.record["exception"] is not None:
                self._verdict.violate(f"an exception was logged: {str(entry).strip()[-1500:]}")

        def on_thread(arguments: threading.ExceptHookArgs) -> None:
            self._verdict.violate(f"a thread was ended by {arguments.exc_value!r}")

        handler = logger.add(on_log, level="DEBUG", backtrace=False, diagnose=False)
        logger.enable("tunnel")
        hook, threading.excepthook = threading.excepthook, on_thread
        tracemalloc.start()
        try:
            yield
        except TunnelError as error:
            self._verdict.violate(f"the soak could not begin: {error!r}")
        finally:
            for gateway in self._gateways:
                if trouble := gateway.trouble():
                    self._verdict.violate(f"the {gateway.name} gateway logged: {trouble}")
            tracemalloc.stop()
            threading.excepthook = hook
            logger.disable("tunnel")
            logger.remove(handler)
