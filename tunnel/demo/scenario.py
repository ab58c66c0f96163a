"""What the demo does: send numbered messages, cut the link, and see everything come back.

A plain WebSocket server acknowledges nothing, so what the kernel had taken when a link is cut is
lost with it. For this reason the demo lets everything come back before each cut, and sends again as
soon as the tunnel has noticed the loss: then messages are queued, and flushed after the recovery.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tunnel.config import TunnelConfig
from tunnel.demo.errors import DemoError
from tunnel.demo.proxy import FaultProxy
from tunnel.demo.recorder import Recorder
from tunnel.demo.server_process import ServerProcess
from tunnel.service import TunnelService

CONFIG = TunnelConfig(
    reconnect_base_delay=0.5,
    reconnect_max_delay=4.0,
    stable_after=1.0,
    ping_interval=1.0,
    pong_timeout=2.0,
    connect_timeout=1.5,
    max_queue_size=1000,
)
"""Shorter times than an application would choose, so that there is something to see."""

_INTERVAL = 0.04  # seconds between two messages
_STEADY = 1.5  # seconds of plain traffic after each recovery; more than `stable_after`
_DEADLINE = 30.0  # seconds in which each step must have happened


@dataclass(frozen=True)
class Stage:
    """What the scenario plays with."""

    service: TunnelService
    proxy: FaultProxy
    server: ServerProcess


@dataclass(frozen=True)
class Cut:
    """One way to cut the link.

    Attributes:
        name: One or two words, for the summary.
        title: A sentence, for the screen.
        begin: Cuts it.
        until_attempt: How many attempts to reconnect are announced before it is mended.
        mend: Makes it possible again to connect.
        mended: A sentence that says so; empty: there is nothing to mend.
    """

    name: str
    title: str
    begin: Callable[[Stage], None]
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
        "silence",
        "the network falls silent; only the heartbeat can notice",
        begin=lambda stage: stage.proxy.silence(),
        until_attempt=2,
        mend=lambda stage: stage.proxy.resume(),
        mended="the network passes bytes again",
    ),
    Cut(
        "server killed",
        "the server's process is killed",
        begin=lambda stage: stage.server.kill(),
        until_attempt=3,
        mend=lambda stage: stage.server.start(),
        mended="the server is up again, on the same port",
    ),
    Cut(
        "server restarted",
        "the server restarts, and says goodbye before (1001)",
        begin=lambda stage: stage.server.stop(),
        mend=lambda stage: stage.server.start(),
        mended="the server is up again, on the same port",
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
        self._stream()
        for number, cut in enumerate(self._cuts, 1):
            self._settle()
            title = f"cut {number} of {len(self._cuts)}: {cut.title}"
            self._recorder.set_scene(title)
            self._recorder.note(title)
            self._play(cut)
            self._stream()
        self._recorder.note("the last message is sent")
        self._settle()
        self._recorder.note("everything that was sent has come back")

    def _play(self, cut: Cut) -> None:
        recorder = self._recorder
        before = recorder.reconnections

        def is_back() -> bool:
            return recorder.reconnections > before

        recorder.cut(cut.name)
        cut.begin(self._stage)
        if not recorder.wait(lambda: recorder.is_recovering or is_back(), _DEADLINE):
            raise DemoError(f"the tunnel did not notice the cut within {_DEADLINE:g} s")
        self._send_until(
            lambda: recorder.attempt >= cut.until_attempt or is_back(),
            "the tunnel did not try to reconnect",
        )
        cut.mend(self._stage)
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
        """Send a message every now and then until a condition on the recorder holds."""
        deadline = time.monotonic() + _DEADLINE
        while not self._recorder.wait(condition, _INTERVAL):
            if time.monotonic() >= deadline:
                raise DemoError(f"{complaint} within {_DEADLINE:g} s")
            self._send()

    def _send(self) -> None:
        self._stage.service.send(self._recorder.next_message())

    def _settle(self) -> None:
        """Wait until all that was sent has come back."""
        if not self._stage.service.flush(_DEADLINE):
            raise DemoError(f"the queue was not flushed within {_DEADLINE:g} s")
        recorder = self._recorder
        if not recorder.wait(lambda: recorder.is_settled, _DEADLINE):
            raise DemoError(f"not every message came back within {_DEADLINE:g} s")
