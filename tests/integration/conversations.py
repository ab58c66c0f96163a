"""A tunnel that talks to an echo through faults: what it sent, what came back, and what happened.

Messages are numbered, text and binary by turns, and of several sizes. What comes back is held
against what was sent: with a peer that resumes all of it, once and in order; with a plain peer a
part of it, none twice, in order.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from peers import DEADLINE, Collector

from statemachine import replay
from tunnel import LIFECYCLE, TunnelConnectionState, TunnelError, TunnelService
from tunnel.errors import SessionLostError

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState


class Conversation:
    """A service and what it said and heard.

    Args:
        make_service: Makes it.
        resumes: Whether the peer resumes sessions.
        **settings: Of the service.

    Attributes:
        service: The service.
        sent: How many messages were sent.
        heard: The numbers that came back.
        garbled: Messages that came back otherwise than they were sent.
        losses: What `on_session_lost` was told.
    """

    def __init__(self, make_service: MakeService, *, resumes: bool, **settings: object) -> None:
        self.resumes = resumes
        self.sent = 0
        self.heard: list[int] = []
        self.garbled: list[object] = []
        self.losses: list[SessionLostError] = []
        self._states = Collector()
        self._changed = threading.Condition()  # guards `heard`
        self.service = make_service(
            on_message=self._hear,
            on_state_change=self._states,
            on_session_lost=self.losses.append,
            resume="required" if resumes else "off",
            max_event_history=1_000_000,
            **settings,
        )

    def say(self, count: int) -> None:
        """Send so many messages, and wait for room as long as it takes."""
        for _ in range(count):
            self.service.send(message(self.sent), timeout=None)
            self.sent += 1

    def wait_heard(self, *numbers: int) -> bool:
        """Wait until these have come back."""
        with self._changed:
            return self._changed.wait_for(lambda: set(numbers) <= set(self.heard), DEADLINE)

    def wait_all_heard(self, timeout: float = DEADLINE) -> bool:
        """Wait until as many have come back as were sent."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.heard) >= self.sent, timeout)

    def finish(self) -> None:
        """Be connected again and again until as many have come back as were sent."""
        deadline = time.monotonic() + 2 * DEADLINE
        while not self.wait_all_heard(0.2):
            assert time.monotonic() < deadline, f"{len(self.heard)} of {self.sent} came back"
            self.return_to_life()

    def exchange(self, count: int) -> None:
        """Send messages and see that they come back; then nothing is under way."""
        first = self.sent
        self.say(count)
        assert self.wait_heard(*range(first, self.sent)), f"{self.heard} of {self.sent}"
        assert self.service.flush(DEADLINE)

    def wait_for(self, *states: TunnelConnectionState, timeout: float = DEADLINE) -> bool:
        """Wait until these states were entered, in this order, others in between or not."""

        def are_there(records: list[object]) -> bool:
            left = iter([record.dest for record in records])
            return all(state.value in left for state in states)

        return self._states.wait_for(are_there, timeout)

    @property
    def errors(self) -> list[TunnelError]:
        """Why links have ended and what ended attempts for good, in order."""
        found = [record.data.get("error") for record in self._states.items]
        return [error for error in found if error is not None]

    def return_to_life(self) -> None:
        """Be connected again, as an application sees to that does not give up."""
        deadline = time.monotonic() + DEADLINE
        while self.service.state is not S.CONNECTED:
            assert time.monotonic() < deadline, f"it stays {self.service.state}"
            if self.service.state is S.ERROR:
                self.service.reconnect(timeout=DEADLINE)
            self.service.wait_for(S.CONNECTED, S.ERROR, timeout=0.5)

    def check(self) -> None:
        """See that what was heard is what should be, and that the history is legal."""
        assert self.garbled == []
        assert self.losses == []
        if self.resumes:
            assert self.heard == list(range(self.sent))
        else:
            assert self.heard == sorted(set(self.heard))
        assert replay(LIFECYCLE, self.service.tracker.machine.history)

    def _hear(self, got: str | bytes) -> None:
        number = int(got[:8])
        if got != message(number):
            self.garbled.append(got)
        with self._changed:
            self.heard.append(number)
            self._changed.notify_all()


def message(number: int) -> str | bytes:
    """The message of this number: text or bytes by turns, mostly short, each fiftieth long."""
    rng = random.Random(number)
    size = 20_000 if number % 50 == 49 else rng.randrange(300)
    if number % 2:
        return f"{number:08d}" + "äöü\U0001f600" * (size // 4)
    return b"%08d" % number + rng.randbytes(size)
