"""Callbacks that raise whatever can be raised, and that call back into the tunnel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest
from peers import DEADLINE, Collector

from statemachine import replay
from tunnel import (
    InvalidStateError,
    RequestQueue,
    TunnelConfig,
    TunnelConnectionState,
    TunnelService,
    WouldDeadlockError,
)
from tunnel.gateway import GatewayThread
from tunnel.lifecycle import LIFECYCLE
from tunnel.service import DrainReport
from tunnel.testing import FaultProxy

S = TunnelConnectionState
CONFIG = TunnelConfig(
    max_queue_size=10,
    max_reconnect_attempts=None,
    reconnect_base_delay=0.01,
    reconnect_max_delay=0.05,
    jitter=0.0,
    ping_interval=None,
    connect_timeout=DEADLINE,
)
PLACES = (
    "on_message",
    "on_connected",
    "on_session_lost",
    "on_state_change",
    "subscribe",
    "queue.subscribe",
    "done_callback",
    "auth_token",
)


class Unspeakable(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Leaving(BaseException):
    """What ends a thread, and whoever wants to say so."""

    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


class Ending(Exception):
    """An error that ends whoever wants to say what it is."""

    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


class Bench:
    """A tunnel with every kind of callback, and a gateway behind a proxy.

    Attributes:
        act: Called in every callback of the place that was armed.
    """

    def __init__(self) -> None:
        self.place: str | None = None
        self.act: Callable[[], object] = int
        self.acted = Collector()
        self.received = Collector()
        self._gateways = [GatewayThread("echo"), GatewayThread("echo")]
        for gateway in self._gateways:
            gateway.start()
        self.proxy = FaultProxy(self._gateways[0].port)
        self.proxy.start()
        self.queue = RequestQueue(CONFIG.max_queue_size)
        self.queue.subscribe(self._callback("queue.subscribe"))
        self.service = TunnelService(
            CONFIG,
            request_queue=self.queue,
            on_message=self._on_message,
            on_connected=self._callback("on_connected"),
            on_session_lost=self._callback("on_session_lost"),
            on_state_change=self._callback("on_state_change"),
        )
        self.service.subscribe(self._callback("subscribe"))

    def _callback(self, place: str) -> Callable[..., object]:
        def callback(*arguments: object) -> str:
            if self.place == place:
                try:
                    self.act()
                finally:
                    self.acted(True)
            return "token"

        return callback

    def _on_message(self, message: object) -> None:
        self.received(message)
        self._callback("on_message")()

    def connect(self) -> None:
        self.service.connect(
            f"ws://127.0.0.1:{self.proxy.port}/",
            self._callback("auth_token"),
            timeout=DEADLINE,
        )

    def provoke(self, place: str) -> None:
        """Have the callbacks of a place called."""
        service = self.service
        if place == "queue.subscribe":
            self._fill()
        self.place = place
        if place == "on_message":
            service.send("provoked")
        elif place in ("on_connected", "on_state_change", "subscribe", "auth_token"):
            self.proxy.reset()
        elif place == "queue.subscribe":
            service.handle_network_change(True)
        elif place == "done_callback":
            with self.proxy.silent():
                future = service.submit(b"x", timeout=DEADLINE)
                future.add_done_callback(self._callback(place))
        else:
            self._lose_session()
        assert self.acted.wait(1)
        self.place = None

    def _fill(self) -> None:
        """Fill the queue; that there is room again is told when there is a connection."""
        self.service.handle_network_change(False)
        self.proxy.reset()
        assert self.service.wait_for(S.RECONNECTING, timeout=DEADLINE)
        self.service.send_many(CONFIG.max_queue_size * ["x"])

    def _lose_session(self) -> None:
        with self.proxy.silent():
            self.service.send("unacknowledged")
            self.proxy.target = self._gateways[1].port
            self.proxy.reset()

    def assert_alive(self) -> None:
        """The tunnel works; or it has ended, and can be begun again."""
        service = self.service
        service.send("alive")
        deadline = time.monotonic() + DEADLINE
        while not self.received.wait_for(lambda items: "alive" in items, 0.02):
            assert time.monotonic() < deadline
            with suppress(InvalidStateError):  # it is connected, or about to be
                self.connect()
        assert service.request(b"alive", timeout=DEADLINE).status_code == 200

    def close(self) -> None:
        """End all; quickly, and in a legal way."""
        self.place = None
        self.service.disconnect(timeout=DEADLINE)
        assert self.service.state is S.DISCONNECTED
        replay(LIFECYCLE, self.service.tracker.machine.history)
        self.proxy.stop()
        for gateway in self._gateways:
            gateway.stop()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.fault("callback-raises")
@pytest.mark.parametrize("error", [RuntimeError("boom"), Unspeakable(), Ending()])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_harms_nothing(bench: Bench, place: str, error: Exception) -> None:
    """It is logged; the link lives on, or is made again as it would have been."""

    def act() -> None:
        raise error

    bench.connect()
    bench.act = act
    bench.provoke(place)
    bench.assert_alive()


@pytest.mark.fault("callback-ends-its-thread")
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Leaving])
@pytest.mark.parametrize("place", PLACES)
def test_what_ends_a_thread_ends_the_connection_at_most(
    bench: Bench, place: str, error: type[BaseException]
) -> None:
    """Nobody waits for ever, and `connect` begins anew."""

    def act() -> None:
        raise error

    bench.connect()
    bench.act = act
    bench.provoke(place)
    bench.assert_alive()


class Calls:
    """What is called in a callback, by name; and what came of it."""

    def __init__(self, service: TunnelService) -> None:
        self.futures: list[Future[Any]] = []
        self.outcomes: dict[str, object] = {}
        self._calls: dict[str, Callable[[], object]] = {
            "send": lambda: service.send("in a callback"),
            "send_many": lambda: service.send_many(["one", "two"]),
            "submit": lambda: self._submit(service),
            "request": lambda: service.request(b""),
            "wait_for": lambda: service.wait_for(S.CONNECTED),
            "flush": service.flush,
            "test_connection": service.test_connection,
            "messages": service.messages,
            "update_config": lambda: service.update_config(CONFIG),
            "handle_network_change": lambda: service.handle_network_change(True, "wifi"),
            "statistics": service.statistics,
            "health": lambda: service.health,
            "repr": lambda: repr(service),
            "to_json": service.tracker.to_json,
            "subscribe": lambda: service.subscribe(print)(),
            "connect": lambda: service.connect("ws://127.0.0.1:9/"),
            "reconnect": service.reconnect,
            "disconnect": service.disconnect,
        }

    def _submit(self, service: TunnelService) -> None:
        self.futures.append(service.submit(b"", timeout=DEADLINE))

    def make(self, *names: str) -> None:
        """Call what has these names; without one, all that leave the connection as it is."""
        for name in names or [*self._calls][:-2]:
            try:
                self.outcomes[name] = self._calls[name]()
            except Exception as error:
                self.outcomes[name] = type(error)

    @property
    def refused(self) -> dict[str, object]:
        """What was refused, and how."""
        return {name: what for name, what in self.outcomes.items() if isinstance(what, type)}


REFUSED = {
    "request": WouldDeadlockError,
    "wait_for": WouldDeadlockError,
    "flush": WouldDeadlockError,
    "test_connection": WouldDeadlockError,
    "messages": InvalidStateError,
    "connect": InvalidStateError,
}


@pytest.mark.fault("callback-calls-back")
@pytest.mark.parametrize("place", PLACES)
def test_all_calls_return_at_once(bench: Bench, place: str) -> None:
    """They work, or say that they would wait for themselves; the tunnel goes on."""
    bench.connect()
    calls = Calls(bench.service)

    def act() -> None:
        bench.act = int  # once will do
        calls.make()

    bench.act = act
    bench.provoke(place)
    refused = {"connect": InvalidStateError, **calls.refused}  # else it finds out that it is late
    assert refused == REFUSED
    bench.assert_alive()
    for future in calls.futures:
        assert future.exception(DEADLINE) is None


@pytest.mark.fault("callback-calls-back")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("call", ["reconnect", "disconnect"])
def test_a_callback_may_end_the_link(bench: Bench, place: str, call: str) -> None:
    """`reconnect` and `disconnect` do not wait there, and do what they say after it."""
    bench.connect()
    calls = Calls(bench.service)

    def act() -> None:
        bench.act = int
        calls.make(call)

    bench.act = act
    bench.provoke(place)
    outcome = calls.outcomes[call]
    if call == "reconnect":
        assert outcome is False
    else:
        assert isinstance(outcome, DrainReport)
        assert bench.service.wait_for(S.DISCONNECTED, timeout=DEADLINE)
    bench.assert_alive()


@pytest.mark.fault("callback-calls-back")
@pytest.mark.parametrize("error", [None, RuntimeError, SystemExit])
def test_a_future_that_ends_by_its_time_out(
    bench: Bench, error: type[BaseException] | None
) -> None:
    """Its callback is on the thread of all timers, and neither waits there nor ends it."""
    bench.connect()
    calls = Calls(bench.service)
    ended = Collector()

    def act(future: object) -> None:
        try:
            if error is not None:
                raise error
            calls.make()
        finally:
            ended(True)

    with bench.proxy.silent():
        futures = [bench.service.submit(b"", timeout=0.1) for _ in range(2)]
        for future in futures:
            future.add_done_callback(act)
        assert ended.wait(2)
    assert calls.refused == ({} if error else REFUSED)
    bench.assert_alive()
    assert all(future.exception(DEADLINE) is None for future in calls.futures)


@pytest.mark.fault("callback-ends-its-thread")
def test_all_futures_end_though_a_callback_leaves(bench: Bench) -> None:
    """Nobody waits for ever because another one's callback raised `SystemExit`."""
    bench.connect()

    def leave(future: object) -> None:
        raise SystemExit

    futures = []
    with bench.proxy.silent():
        for _ in range(3):
            future = bench.service.submit(b"", timeout=DEADLINE)
            future.add_done_callback(leave)
            futures.append(future)
        with pytest.raises(SystemExit):
            bench.service.disconnect(graceful=False)
    assert all(isinstance(f.exception(0), InvalidStateError) for f in futures)
