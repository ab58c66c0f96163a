"""What the demo does: send numbered messages, cut the link, and see everything come back.

Messages are sent all the while, also right before a cut and right after it: the session replays
what was under way, in both directions. There is one exception. A gateway keeps its sessions in
memory, and what a killed one had taken and not answered is gone with it. So before that cut, and at
the end, everything is let come back. A gateway that restarts in good order finishes what it has
taken before it ends, so that needs no such care.

Both of these lose the session. The messages that the tunnel then hands back, unacknowledged, went
to a gateway that was dead or took nothing any more: `tunnel.demo.resending`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from tunnel.config import TunnelConfig
from tunnel.demo.errors import DemoError
from tunnel.demo.recorder import Recorder
from tunnel.demo.resending import Resending
from tunnel.demo.server_process import ServerProcess
from tunnel.service import TunnelService
from tunnel.testing import UP, FaultProxy

CONFIG = TunnelConfig(
    reconnect_base_delay=0.5,
    reconnect_max_delay=1.5,
    stable_after=1.0,
    ping_interval=1.0,
    pong_timeout=2.0,
    connect_timeout=1.5,
    max_queue_size=1000,
)
"""Shorter times than an application would choose, so that there is something to see."""

_INTERVAL = 0.04  # seconds between two messages
_AROUND = 5  # messages at once before a cut, and as many after it
_BURST = 500  # messages at once
_STEADY = 1.2  # seconds of plain traffic after each recovery; more than `stable_after`
_DEADLINE = 30.0  # seconds in which each step must have happened


@dataclass(frozen=True)
class Stage:
    """What the scenario plays with.

    Attributes:
        faults: Those of the proxy that last until they are mended.
    """

    service: TunnelService
    proxy: FaultProxy
    server: ServerProcess
    resending: Resending
    faults: ExitStack = field(default_factory=ExitStack)


def _kill(stage: Stage) -> None:
    stage.server.kill()
    stage.resending.vouch()  # everything was settled before


def _restart(stage: Stage) -> None:
    if stage.server.wait():
        stage.resending.vouch()  # it has waited until we had all its answers
    stage.server.start()


@dataclass(frozen=True)
class Cut:
    """One way to cut the link.

    Attributes:
        name: One or two words, for the summary.
        title: A sentence, for the screen.
        begin: Cuts it.
        burst: How many messages are sent at once after that.
        caution: Why everything has to come back before the cut; empty: it has not.
        until_attempt: How many attempts to reconnect are announced before it is mended.
        mend: Makes it possible again to connect.
        mended: A sentence that says so; empty: there is nothing to mend.
    """

    name: str
    title: str
    begin: Callable[[Stage], object]
    burst: int = _AROUND
    caution: str = ""
    until_attempt: int = 1
    mend: Callable[[Stage], None] = lambda stage: None
    mended: str = ""


CUTS = (
    Cut(
        "reset",
        "the connection is reset",
        begin=lambda stage: stage.proxy.reset(),
    ),
    Cut(
        "burst",
        f"a burst of {_BURST} messages, cut in the midst of it",
        begin=lambda stage: stage.proxy.cut(UP, 2000),  # of 5,000 bytes or more on the way there
        burst=_BURST,
    ),
    Cut(
        "silence",
        "the network falls silent; a heartbeat notices",
        begin=lambda stage: stage.faults.enter_context(stage.proxy.blackhole()),
        until_attempt=2,
        mend=lambda stage: stage.faults.close(),
        mended="the network is back, without what it had swallowed",
    ),
    Cut(
        "server killed",
        "the gateway's process is killed",
        begin=_kill,
        caution="a gateway keeps sessions in memory: killed, it forgets them",
        until_attempt=3,
        mend=lambda stage: stage.server.start(),
        mended="the gateway is up again, on the same port",
    ),
    Cut(
        "server restarted",
        "the gateway restarts, in good order",
        begin=lambda stage: stage.server.stop(),
        mend=_restart,
        mended="the gateway is up again, on the same port",
    ),
)


class Scenario:
    """Plays the scenes, in the thread that calls `run`.

    Args:
        stage: What to play with; the service is connected.
        recorder: Listens to the service.
        cuts: The ways to cut the link, in order.
    """

    def __init__(self, stage: Stage, recorder: Recorder, cuts: tuple[Cut, ...]) -> None:
        self._stage = stage
        self._recorder = recorder
        self._cuts = cuts

    def run(self) -> None:
        """Play all scenes; at the end everything has come back.

        Raises:
            DemoError: Something did not happen in time.
        """
        recorder = self._recorder
        self._stream()
        for number, cut in enumerate(self._cuts, 1):
            self._send(_AROUND)
            if cut.caution:
                recorder.note(cut.caution)
                self._settle()
                recorder.note("so everything that was sent has come back before")
            title = f"cut {number} of {len(self._cuts)}: {cut.title}"
            recorder.set_scene(title)
            recorder.note(title)
            self._play(cut)
            self._stream()
            recorder.sum_up()
        recorder.note("the last message is sent")
        self._settle()
        recorder.note("everything that was sent has come back")

    def _play(self, cut: Cut) -> None:
        recorder = self._recorder
        before = recorder.reconnections

        def is_back() -> bool:
            return recorder.reconnections > before

        recorder.cut(cut.name)
        cut.begin(self._stage)
        self._send(cut.burst)
        self._send_until(
            lambda: recorder.is_recovering or is_back(), "the tunnel did not notice the cut"
        )
        self._send_until(
            lambda: recorder.attempt >= cut.until_attempt or is_back(),
            "the tunnel did not try to reconnect",
        )
        with ThreadPoolExecutor(1, "demo-mend") as pool:  # sending goes on meanwhile
            mending = pool.submit(cut.mend, self._stage)
            self._send_until(mending.done, "what was cut could not be mended")
            mending.result()
        if cut.mended:
            recorder.note(cut.mended)
        self._send_until(is_back, "the tunnel did not come back")

    def _stream(self) -> None:
        """Plain traffic for a while."""
        self._recorder.set_scene("messages flow")
        until = time.monotonic() + _STEADY
        while time.monotonic() < until:
            self._send()
            self._recorder.wait(lambda: False, _INTERVAL)

    def _send_until(self, condition: Callable[[], bool], complaint: str) -> None:
        """Send a message every now and then until a condition holds."""
        deadline = time.monotonic() + _DEADLINE
        while not self._recorder.wait(condition, _INTERVAL):
            if time.monotonic() >= deadline:
                raise DemoError(f"{complaint} within {_DEADLINE:g} s")
            self._send()

    def _send(self, count: int = 1) -> None:
        self._stage.service.send_many(self._recorder.next_messages(count))

    def _settle(self) -> None:
        """Wait until all that was sent has come back."""
        if not self._stage.service.flush(_DEADLINE):
            raise DemoError(f"not everything was acknowledged within {_DEADLINE:g} s")
        recorder = self._recorder
        if not recorder.wait(lambda: recorder.is_settled, _DEADLINE):
            raise DemoError(f"not every message came back within {_DEADLINE:g} s")
