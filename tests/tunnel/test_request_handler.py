"""What becomes of requests, without a connection: obeyed, poked into a recovery, absorbed."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tunnel.addresses import TunnelUrl
from tunnel.callback_lane import CallbackLane
from tunnel.closing import Closing
from tunnel.config import TunnelConfig
from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.errors import ConnectionLostError, InvalidStateError, TunnelError
from tunnel.events import ConnectionEventType
from tunnel.lifecycle import TunnelConnectionState
from tunnel.metrics_collector import MetricsCollector
from tunnel.network_follower import ObservedChange
from tunnel.reconnecting import Reconnecting
from tunnel.request_handler import RequestHandler
from tunnel.request_queue import RequestQueue
from tunnel.requests import (
    CallbackFailed,
    CancelConnect,
    Close,
    Connect,
    Greeted,
    NetworkChange,
    Reconnect,
    Request,
    Target,
)
from tunnel.testing import FakeClock
from tunnel.waker import Waker
from tunnel.worker import Worker

S = TunnelConnectionState
LINK: Any = object()


class Bench:
    """A handler whose connection only notes what is asked of it."""

    def __init__(self) -> None:
        self.link: Any = None
        self.last_error: TunnelError | None = None
        self.is_exhausted = False
        self.log: list[str] = []
        self.heard: list[Request] = []
        clock = FakeClock()
        queue, nothing, waker = RequestQueue(clock=clock), _Nothing(), Waker()
        self.tracker = ConnectionStateTracker(clock=clock)
        self.reconnecting = Reconnecting(
            TunnelConfig(),
            tracker=self.tracker,
            queue=queue,
            metrics=MetricsCollector(clock=clock),
            clock=clock,
            rng=Random(1),
            dial=lambda: None,
            ping=lambda timeout: True,
            interrupted=lambda: False,
        )
        self.worker = Worker(nothing, clock, waker)
        this: Any = self
        self.handler = RequestHandler(
            self,
            self.tracker,
            self.worker,
            waker,
            this,
            Closing(queue, this, this, CallbackLane(), clock),
            clock,
        )

    # As the recovery

    @property
    def is_urgent(self) -> bool:
        return self.reconnecting.is_urgent

    @is_urgent.setter
    def is_urgent(self, value: bool) -> None:
        self.reconnecting.is_urgent = value

    def hear(self, request: Request) -> None:
        self.heard.append(request)

    def is_return(self, change: NetworkChange) -> bool:
        return self.reconnecting.is_return(change)

    def note(self, change: NetworkChange) -> bool:
        return self.reconnecting.note(change)

    # As the connection

    def connect_to(self, target: Target) -> None:
        self.log.append("connect")
        self.tracker.initialize_connection("id", target.user_id, target.url.redacted)

    def open_queue(self, link: object) -> None:
        self.log.append("open queue")

    def challenge(self) -> None:
        self.log.append("challenge")

    def connect(self) -> Connect:
        request = Connect(Target(TunnelUrl.parse("ws://example.com/"), "user", None))
        self.handler.obey(request)
        return request

    def connected(self) -> Bench:
        self.connect()
        self.tracker.fire("opened")
        self.handler.connected()
        self.link = self
        return self

    def lost(self) -> Bench:
        self.connected()
        self.link = None
        self.tracker.fire("lost")
        return self

    @property
    def changes(self) -> int:
        return [event.type for event in self.tracker.events].count(
            ConnectionEventType.NETWORK_CHANGED
        )


class _Nothing:
    def obey(self, request: Request) -> None: ...
    def act(self) -> bool:
        return False

    def rest(self) -> None: ...


def test_connects_and_says_so() -> None:
    """Whoever has asked is told once, when the connection is there."""
    bench = Bench()
    outcome = bench.connect().outcome
    assert bench.log == ["connect"]
    assert not outcome.done()
    bench.handler.connected()
    bench.handler.connected()
    assert outcome.result(0) is None


@pytest.mark.parametrize("error", [None, ConnectionLostError("lost")])
def test_disappoints(error: TunnelError | None) -> None:
    """With what went wrong, if that is known; a later connect does so, too."""
    bench = Bench()
    outcome = bench.connect().outcome
    bench.tracker.fire("cancel")
    bench.last_error = error
    bench.connect()
    found = outcome.exception(0)
    assert found is error if error else isinstance(found, InvalidStateError)


def test_refuses_to_connect_twice() -> None:
    """At the call if that is seen there, by its outcome if not; the first goes on."""
    bench = Bench()
    first = bench.connect().outcome
    assert isinstance(bench.connect().outcome.exception(0), InvalidStateError)
    with pytest.raises(InvalidStateError, match="connecting already"):
        bench.handler.post(Connect(Target(TunnelUrl.parse("ws://example.com/"), "user", None)))
    assert not first.done()
    assert not bench.worker.mailbox
    assert not bench.heard


def test_cancels_only_what_was_begun() -> None:
    """A connect that was refused has nothing to call off."""
    bench = Bench()
    first = bench.connect()
    other = bench.connect()
    bench.handler.obey(CancelConnect(other))
    assert not bench.tracker.machine.history[1:]
    bench.handler.obey(CancelConnect(first))
    assert bench.tracker.state is S.DISCONNECTED


def test_cancels_a_connection_that_is_there() -> None:
    """Its caller was told that there is none: it is closed without grace."""
    bench = Bench()
    first = bench.connect()
    bench.tracker.fire("opened")
    bench.handler.obey(CancelConnect(first))
    assert bench.tracker.state is S.CLOSING


def test_closes() -> None:
    """Without a link that is all at once; a link takes its time."""
    bench = Bench()
    close = Close(True, 10.0)
    bench.connect()
    bench.handler.obey(close)
    assert close.done.is_set()
    bench = Bench().connected()
    close = Close(True, 10.0)
    bench.handler.obey(close)
    assert not close.done.is_set()
    assert bench.tracker.state is S.CLOSING


@pytest.mark.parametrize("is_connected", [True, False])
def test_reconnects_at_once(is_connected: bool) -> None:
    """A link is given up first; the next dial is urgent."""
    bench = Bench().connected() if is_connected else Bench().lost()
    request = Reconnect()
    bench.handler.obey(request)
    assert bench.tracker.state is S.RECONNECTING
    assert bench.is_urgent
    bench.handler.connected()
    assert request.outcome.result(0) is None


def test_hurries_a_recovery_that_is_about_to_begin() -> None:
    """It need not be begun."""
    bench = Bench().lost()
    bench.tracker.fire("recover")
    bench.handler.obey(Reconnect())
    assert bench.is_urgent


def test_there_is_nothing_to_reconnect_to() -> None:
    """Before the first connect."""
    bench = Bench()
    bench.handler.obey(Reconnect())
    assert bench.tracker.state is S.DISCONNECTED


@pytest.mark.parametrize(
    ("change", "is_challenged"),
    [
        (NetworkChange(True, "wifi"), True),
        (NetworkChange(False, None), False),
        (ObservedChange(False, None, "another way"), True),
        (ObservedChange(True, None, is_reminder=True), False),
    ],
)
def test_a_live_link_is_doubted(change: NetworkChange, is_challenged: bool) -> None:
    """If it may have lost its route; a reminder is no news, and is not recorded."""
    bench = Bench().connected()
    bench.handler.obey(change)
    assert ("challenge" in bench.log) is is_challenged
    assert bench.changes == (not isinstance(change, ObservedChange) or not change.is_reminder)


def test_the_network_brings_back_what_was_exhausted() -> None:
    """But not what nobody wants, nor while there is none."""
    bench = Bench().lost()
    bench.handler.obey(NetworkChange(True, None))
    assert not bench.is_urgent
    bench.is_exhausted = True
    bench.handler.obey(NetworkChange(False, None))
    assert not bench.is_urgent
    bench.handler.obey(NetworkChange(True, None))
    assert bench.is_urgent


def test_what_callbacks_have_to_say() -> None:
    """A greeting that is over opens the queue; what ends a thread is raised."""
    bench = Bench().connected()
    bench.handler.obey(Greeted(LINK))
    assert bench.log[-1] == "open queue"
    with pytest.raises(SystemExit):
        bench.handler.obey(CallbackFailed(SystemExit(1)))


def test_posting_is_heard_at_once() -> None:
    """A recovery hears of all that is posted, but of no connect that is not the one."""
    bench = Bench()
    first = bench.connect()
    posted: list[Request] = [
        Reconnect(),
        Close(True, 1.0),
        NetworkChange(True, None),
        CancelConnect(first),
    ]
    for request in posted:
        bench.handler.post(request)
    bench.handler.post(CancelConnect(Connect(first.target)))
    assert bench.heard == posted
    assert len(bench.worker.mailbox) == 5


@pytest.mark.parametrize(
    ("kind", "interrupts", "stays"),
    [
        ("close", True, True),
        ("cancel", True, True),
        ("cancel another", False, True),
        ("reconnect", True, False),
        ("network is back", True, False),
        ("network is gone", False, False),
        ("connect", False, False),
        ("greeted", False, True),
        ("failed", False, True),
    ],
)
def test_absorbs_what_is_about_the_dial(kind: str, interrupts: bool, stays: bool) -> None:
    """The rest is for after it, and what calls the dial off stays to be obeyed."""
    bench = Bench()
    first = bench.connect()
    another = Connect(first.target)
    requests: dict[str, Request] = {
        "close": Close(True, 1.0),
        "cancel": CancelConnect(first),
        "cancel another": CancelConnect(another),
        "reconnect": Reconnect(),
        "network is back": NetworkChange(True, None),
        "network is gone": NetworkChange(False, None),
        "connect": another,
        "greeted": Greeted(LINK),
        "failed": CallbackFailed(SystemExit(1)),
    }
    request = requests[kind]
    bench.worker.mailbox.append(request)
    assert bench.handler.absorb() is interrupts
    assert (request in bench.worker.mailbox) is stays
    assert bench.is_urgent is (kind in ("reconnect", "network is back"))
    assert another.outcome.done() is (kind == "connect")
