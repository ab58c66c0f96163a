"""One lane: a tunnel, what it sends, and what is checked of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from benchmarks.soak.ledger import Ledger, Requests
from benchmarks.soak.link_faults import FaultProxy, LinkFaults
from benchmarks.soak.messages import message, numbered
from benchmarks.soak.peers import Gateway
from benchmarks.soak.plan import LINK_FAULTS, Fault, faults
from benchmarks.soak.verdict import Verdict
from statemachine import Record, replay
from tunnel import (
    ConnectionEvent,
    QueueFullError,
    SessionLostError,
    TunnelConfig,
    TunnelConnectionState,
    TunnelResponse,
    TunnelService,
)
from tunnel.lifecycle import LIFECYCLE

KINDS = ("resuming", "mortal", "plain", "fleeting")
"""See the package's text."""

CONFIG = TunnelConfig(
    max_reconnect_attempts=None,
    reconnect_base_delay=0.02,
    reconnect_max_delay=0.3,
    stable_after=0.5,
    ping_interval=0.5,
    pong_timeout=1.2,
    connect_timeout=1.5,
    max_event_history=20,
)
"""Short times, so that many faults find room in a minute."""

_OUTSTANDING = 10  # requests of one lane at the same time
_REQUEST_TIMEOUT = 5.0


class Lane:
    """A lane whose tunnel lives as long as the soak.

    Args:
        number: Of the lane.
        kind: Of the lane.
        gateway: Where it leads.
        seed: Of the run.
        verdict: Where findings go.

    Attributes:
        fault_kinds: What may happen to it.
    """

    fault_kinds: tuple[str, ...] = LINK_FAULTS

    def __init__(
        self, number: int, kind: str, gateway: Gateway, seed: int, verdict: Verdict
    ) -> None:
        self.number = number
        self.kind = kind
        self.name = f"lane {number} ({kind})"
        self.gateway = gateway
        self.proxy = FaultProxy(gateway.port)
        self.proxy.start()
        self._verdict = verdict
        self.ledger = Ledger(
            self.name, exact=kind == "resuming", reports=kind != "plain", violate=verdict.violate
        )
        self.requests = Requests(self.name, verdict.violate)
        self._rng = random.Random(f"{seed}/traffic {number}")
        plan = faults(seed, self.name, self.fault_kinds, 0.4)
        self._faults = LinkFaults(self.proxy, plan.__next__, verdict.fault, self._application)
        self._config = CONFIG.replace(resume="off" if kind == "plain" else "required")
        self.received = 0
        self._state: str = LIFECYCLE.initial
        self._recoveries = 0
        self.service = self._make_service()

    @property
    def url(self) -> str:
        """Where its tunnels connect: the proxy."""
        return self.proxy.url

    def start(self) -> None:
        """Connect for the first time."""
        self.service.connect(self.url, timeout=20)

    def works(self) -> tuple[Callable[[threading.Event], None], ...]:
        """What runs in threads of their own during a round, until it is over."""
        return self._faults.run, self._send_until

    def is_settled(self) -> bool:
        """Whether all that was accepted has got through; after the faults."""
        service = self.service
        return (
            service.state is TunnelConnectionState.CONNECTED
            and service.flush(timeout=0.01)
            and self.requests.outstanding == 0
            and self.ledger.is_settled
        )

    def send_marker(self) -> None:
        """Send one message more; a plain peer's silence about earlier ones is then a loss."""
        with self._verdict.bounded(f"{self.name}: send", 1.0):
            self._send(1)

    def check(self) -> None:
        """All that holds while nothing is under way."""
        self.ledger.settle()
        self.requests.settle()
        statistics = self.service.statistics()
        expected: dict[str, object] = {
            "connection_state": "connected",
            "queued_requests": 0,
            "expired_requests": 0,
            "unacknowledged": 0,
            "outstanding_requests": 0,
            "messages_waiting": 0,
            "reconnections": self._recoveries,
        }
        if self.kind == "plain":
            expected |= {"messages_sent": self.ledger.accepted, "messages_received": self.received}
        for name, value in expected.items():
            if statistics[name] != value:
                self._verdict.violate(
                    f"{self.name}: the statistics say {statistics[name]} for {name}, not {value}"
                )
        self.service.tracker.to_json()

    def close(self, *, graceful: bool) -> None:
        """End the tunnel, within its time-out, and the proxy."""
        with self._verdict.bounded(f"{self.name}: disconnect", 5.0):
            self.service.disconnect(graceful, timeout=5.0)
        self.proxy.stop()

    # What the tunnel says

    def _make_service(self) -> TunnelService:
        self._state = LIFECYCLE.initial
        service = TunnelService(
            self._config,
            on_message=self._on_message,
            on_state_change=self._on_state_change,
            on_session_lost=self._on_session_lost,
        )
        service.subscribe(self._on_event)
        return service

    def _on_message(self, got: str | bytes) -> None:
        self.received += 1
        lane, number = numbered(got)
        if lane != self.number or got != message(lane, number):
            self._verdict.violate(f"{self.name}: what came back as message {number} is altered")
        self.ledger.echo(number)

    def _on_state_change(self, record: Record) -> None:
        verdict = replay(LIFECYCLE, [record], start=self._state)
        if not verdict:
            self._verdict.violate(f"{self.name}: illegal history: {verdict}")
        self._state = record.dest
        self._recoveries += (record.source, record.dest) == ("reconnecting", "connected")

    def _on_session_lost(self, error: SessionLostError) -> None:
        self._verdict.error(error, f"{self.name}: on_session_lost")
        if self.kind != "mortal":
            self._verdict.violate(f"{self.name}: a session was lost: {error}")
        self.ledger.hand_back(numbered(content)[1] for content in error.unacknowledged)

    def _on_event(self, event: ConnectionEvent) -> None:
        error = event.metadata.get("error")
        if error is not None:
            self._verdict.error_code(error["code"], f"{self.name}: {event.message}")

    # What it sends

    def _send_until(self, over: threading.Event) -> None:
        while not over.wait(self._rng.uniform(0, 0.08)):
            with self._verdict.bounded(f"{self.name}: send", 0.5):
                self._send(self._rng.choice((1, 1, 5, 20)))
            if self.kind != "plain" and self._rng.random() < 0.3:
                with self._verdict.bounded(f"{self.name}: submit", 0.5):
                    self._ask()

    def _send(self, count: int) -> None:
        first = self.ledger.offer(count)
        contents = [message(self.number, number) for number in range(first, first + count)]
        accepted = 0
        try:
            if count == 1:
                self.service.send(contents[0], timeout=0.5)
                accepted = 1
            else:
                accepted = self.service.send_many(contents, timeout=0.5)
        except QueueFullError as error:
            accepted = error.accepted
            self._verdict.error(error, f"{self.name}: send")
        finally:
            self.ledger.accept(accepted)

    def _ask(self) -> None:
        if self.requests.outstanding >= _OUTSTANDING:
            return
        number = self.requests.ask()
        payload = f"{self.number}:{number}:".encode() + self._rng.randbytes(200)
        try:
            future = self.service.submit(payload, timeout=_REQUEST_TIMEOUT)
        except BaseException:
            self.requests.end(number, answered=False)
            raise
        future.add_done_callback(lambda done: self._on_answer(number, payload, done))

    def _on_answer(self, number: int, payload: bytes, done: Future[TunnelResponse]) -> None:
        error = done.exception()
        if error is not None:
            self._verdict.error(error, f"{self.name}: request {number}")
        else:
            answer = done.result()
            if (answer.status_code, answer.payload) != (200, payload):
                self._verdict.violate(f"{self.name}: request {number} got another one's answer")
        self.requests.end(number, answered=error is None)

    # What the application does to it

    def _application(self, fault: Fault, wait: Callable[[float], object]) -> bool:
        """Make a fault that is the application's. Returns whether it is one."""
        if fault.kind == "reconnect":
            with self._verdict.bounded(f"{self.name}: reconnect", fault.seconds):
                self.service.reconnect(timeout=fault.seconds)
        elif fault.kind == "network change":
            self.service.handle_network_change(False)
            wait(fault.seconds)
            self.service.handle_network_change(True)
        else:
            return False
        return True


class FleetingLane(Lane):
    """A lane of tunnels that come and go."""

    # After the end of a tunnel, `reconnect` would bring it back, as the application has asked.
    fault_kinds = tuple(kind for kind in LINK_FAULTS if kind != "reconnect")

    def start(self) -> None:
        """There is nothing to connect yet."""

    def is_settled(self) -> bool:
        """Whether all is known of what was accepted."""
        return self.ledger.is_settled

    def send_marker(self) -> None:
        """There is no tunnel to send it."""

    def check(self) -> None:
        """All that holds while nothing is under way."""
        self.ledger.settle()

    def _send_until(self, over: threading.Event) -> None:
        while not over.is_set():
            self.service = self._make_service()
            self._visit(over)
            over.wait(self._rng.uniform(0, 0.2))

    def _visit(self, over: threading.Event) -> None:
        with self._verdict.bounded(f"{self.name}: connect", 3.0):
            self.service.connect(self.url, timeout=3.0)
            for _ in range(self._rng.randrange(1, 10)):
                with self._verdict.bounded(f"{self.name}: send", 0.5):
                    self._send(self._rng.choice((1, 5)))
                if over.wait(self._rng.uniform(0, 0.05)):
                    break
        graceful = self._rng.random() < 0.8
        with self._verdict.bounded(f"{self.name}: disconnect", 2.0):
            report = self.service.disconnect(graceful, timeout=2.0)
            unknown = (*report.unsent, *report.unacknowledged)
            self.ledger.hand_back(numbered(content)[1] for content in unknown)

    def close(self, *, graceful: bool) -> None:
        """End the proxy; the tunnel has ended."""
        self.proxy.stop()


def lanes(
    count: int, steady: Gateway, mortal: Gateway, seed: int, verdict: Verdict
) -> Iterator[Lane]:
    """As many lanes, of all kinds in turn."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        gateway = mortal if kind in ("mortal", "plain") else steady
        make: Any = FleetingLane if kind == "fleeting" else Lane
        yield make(number, kind, gateway, seed, verdict)
