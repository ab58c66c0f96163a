"""The faults of one lane, made by a fault proxy and by the application itself."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from benchmarks.soak.plan import Fault
from tunnel.testing import DOWN, UP, Direction, FaultProxy

__all__ = ["FaultProxy", "LinkFaults"]

_SILENCES: dict[str, tuple[Direction, ...]] = {
    "silence": (UP, DOWN),
    "silence up": (UP,),
    "silence down": (DOWN,),
}
_DELAY = 0.5  # seconds at most
_RATE = 100_000.0  # bytes per second at most
_DRIP = 0.001  # seconds between two bytes


class LinkFaults:
    """Follows the plan of one lane in a thread.

    Args:
        proxy: Of the lane.
        plan: Without end.
        on_fault: Called with the kind of each.
        application: What the application can do, by kind; called with the fault and `over.wait`.
    """

    def __init__(
        self,
        proxy: FaultProxy,
        plan: Callable[[], Fault],
        on_fault: Callable[[str], None],
        application: Callable[[Fault, Callable[[float], object]], bool],
    ) -> None:
        self._proxy = proxy
        self._plan = plan
        self._on_fault = on_fault
        self._application = application

    def run(self, over: threading.Event) -> None:
        """Make faults until it is over; then the way is free."""
        while True:
            fault = self._plan()
            if over.wait(fault.pause):
                return
            self._on_fault(fault.kind)
            if not self._application(fault, over.wait):
                self._strike(fault, over.wait)

    def _strike(self, fault: Fault, wait: Callable[[float], object]) -> None:
        proxy, seconds = self._proxy, fault.seconds
        if fault.kind == "reset":
            proxy.reset()
        elif fault.kind == "fin":
            proxy.fin()
        elif fault.kind in _SILENCES:
            with proxy.silent(*_SILENCES[fault.kind]):
                wait(seconds)
        elif fault.kind == "mute server":
            with proxy.ignoring():
                proxy.reset()
                wait(seconds)
        elif fault.kind == "delay":
            with proxy.delaying(_DELAY * random.Random(fault.seed).random()):
                wait(seconds)
        elif fault.kind == "throttle":
            with proxy.throttling(_RATE * random.Random(fault.seed).random()):
                wait(seconds)
        elif fault.kind == "drip":
            with proxy.dripping(_DRIP):
                wait(seconds)
        elif fault.kind == "refusal":
            with proxy.refusing():
                proxy.reset()
                wait(seconds)
        elif fault.kind == "cuts":
            with proxy.cutting((0.01, 0.2), seed=fault.seed):
                wait(seconds)
        else:
            raise ValueError(f"no such fault: {fault.kind}")
