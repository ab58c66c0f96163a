"""The system's time is set, by hours or years and both ways: every duration stays what it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import freezegun
import pytest
from peers import DEADLINE, Collector, Peer, RawServer, ServerProcess

from statemachine import replay
from tunnel import (
    RequestQueue,
    RequestTimeoutError,
    TunnelConnectionState,
    TunnelService,
)
from tunnel.connection_state_tracker import ConnectionStateTracker
from tunnel.gateway import GatewayThread
from tunnel.lifecycle import LIFECYCLE
from tunnel.secrets import Secret
from tunnel.session import Ticket
from tunnel.session_frames import Limits
from tunnel.testing import FaultProxy

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState
HOUR = 3600.0
TEN_YEARS = 10 * 365 * 24 * HOUR
NAP = 0.15
"""Seconds in which a few heartbeats of these tests fit."""

_real_time, _real_monotonic = time.time, time.monotonic


class SystemTime:
    """The system's time, to be set; what it sets does not touch the monotonic clock."""

    def __init__(self) -> None:
        self._offset = 0.0

    def __call__(self) -> float:
        return _real_time() + self._offset

    def set_ahead(self, seconds: float) -> None:
        self._offset += seconds


@pytest.fixture
def system_time(monkeypatch: pytest.MonkeyPatch) -> SystemTime:
    """What all of the process takes for the time."""
    system_time = SystemTime()
    monkeypatch.setattr(time, "time", system_time)
    return system_time


def is_lost(service: TunnelService, seconds: float = NAP) -> bool:
    """Whether the connection is lost within so many seconds."""
    return service.wait_for(S.RECONNECTING, S.ERROR, S.DISCONNECTED, timeout=seconds)


@pytest.mark.fault("system-time-set")
def test_a_live_tunnel_does_not_notice(
    echo_server: ServerProcess, make_service: MakeService, system_time: SystemTime
) -> None:
    """Heartbeats, messages, and tests of the connection go on; numbers and history stay sound."""
    service = make_service(ping_interval=0.03, pong_timeout=2.0)
    service.connect(echo_server.url, timeout=DEADLINE)
    messages = service.messages()
    for seconds in (TEN_YEARS, -2 * TEN_YEARS, HOUR, -HOUR, TEN_YEARS):
        system_time.set_ahead(seconds)
        service.send("x")
        assert next(messages) == "x"
        assert service.test_connection(timeout=DEADLINE)
        assert not is_lost(service)
        assert service.flush(timeout=DEADLINE)
        assert 0 < service.statistics()["uptime"] < HOUR
        assert service.health.uptime < HOUR
        copy = ConnectionStateTracker.from_json(service.tracker.to_json())
        assert copy.state is S.CONNECTED
    service.disconnect()
    assert service.statistics()["reconnections"] == 0
    replay(LIFECYCLE, service.tracker.machine.history)


@pytest.mark.fault("system-time-set")
def test_all_that_asks_for_the_date_may_see_it_jump(
    echo_server: ServerProcess, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with `datetime` and all other clocks but the monotonic one."""
    service = make_service(ping_interval=0.03, pong_timeout=2.0)
    service.connect(echo_server.url, timeout=DEADLINE)
    messages = service.messages()
    with freezegun.freeze_time("2026-02-28T12:00:00Z") as frozen:
        monkeypatch.setattr(time, "monotonic", _real_monotonic)
        for date in ("2036-02-29", "2016-02-29", "1970-01-02", "2100-01-01"):
            frozen.move_to(date)
            service.send(date)
            assert next(messages) == date
            assert not is_lost(service)
            assert service.tracker.connection.last_activity_at.isoformat().startswith(date)
        service.disconnect()
        monkeypatch.undo()
    assert service.statistics()["reconnections"] == 0


@pytest.mark.fault("system-time-set")
@pytest.mark.parametrize("seconds", [TEN_YEARS, -TEN_YEARS])
def test_messages_expire_when_they_would_have(
    echo_server: ServerProcess,
    make_service: MakeService,
    system_time: SystemTime,
    tmp_path: Path,
    seconds: float,
) -> None:
    """In memory, and in a queue on disk while it is open."""
    for queue in (RequestQueue(), RequestQueue(path=tmp_path / "queue")):
        with queue, make_service(request_queue=queue) as service:
            service.send("kept", expires_in=HOUR)
            service.send("expired", expires_in=0.05)
            system_time.set_ahead(seconds)
            service.send("later", expires_in=HOUR)
            threading.Event().wait(0.06)
            service.connect(echo_server.url, timeout=DEADLINE)
            messages = service.messages()
            assert [next(messages), next(messages)] == ["kept", "later"]
            assert queue.expired == 1


@pytest.mark.fault("system-time-set")
@pytest.mark.parametrize("seconds", [TEN_YEARS, -TEN_YEARS])
def test_what_returns_to_a_queue_on_disk_expires_when_it_would_have(
    system_time: SystemTime, tmp_path: Path, seconds: float
) -> None:
    """The file knows the date of expiry, by a clock that was set since; and after that, too."""
    limits = Limits(100, 10_000, 5_000)
    ticket = Ticket(bytes(16), Secret(64 * "0"), limits, limits, 600)
    with RequestQueue(path=tmp_path / "queue") as queue:
        queue.enqueue("from another process", expires_in=HOUR)
    with RequestQueue(path=tmp_path / "queue") as queue:
        queue.save_session("wss://server.test/", ticket)
        queue.enqueue("kept", expires_in=HOUR)
        queue.enqueue("expires", expires_in=0.05)
        system_time.set_ahead(seconds)
        queue.enqueue("later", expires_in=HOUR)
        system_time.set_ahead(seconds / 2)
        items = queue.take_many(4, number=1)
        queue.hand_over(len(items))
        queue.put_back(items, [1, 2, 3, 4])
        threading.Event().wait(0.06)
        assert queue.snapshot() == ("from another process", "kept", "later")


@pytest.mark.fault("system-time-set-between-runs")
def test_a_queue_on_disk_goes_by_the_date(system_time: SystemTime, tmp_path: Path) -> None:
    """For the next process it is the date that counts; what does not expire, never does."""

    def left() -> tuple[object, ...]:
        with RequestQueue(path=tmp_path / "queue") as queue:
            return queue.snapshot()

    with RequestQueue(path=tmp_path / "queue") as queue:
        queue.enqueue("for ever")
        queue.enqueue("for an hour", expires_in=HOUR)
    system_time.set_ahead(-TEN_YEARS)
    assert left() == ("for ever", "for an hour")
    with RequestQueue(path=tmp_path / "queue") as queue:
        queue.enqueue("for another hour", expires_in=HOUR)
        assert queue.snapshot() == ("for ever", "for an hour", "for another hour")
    system_time.set_ahead(2 * HOUR)
    assert left() == ("for ever", "for an hour")
    system_time.set_ahead(2 * TEN_YEARS)
    assert left() == ("for ever",)


@pytest.mark.fault("system-time-set")
@pytest.mark.parametrize(
    ("seconds", "is_date"), [(TEN_YEARS, True), (-TEN_YEARS, True), (-TEN_YEARS, False)]
)
def test_a_retry_after_is_kept(
    make_service: MakeService, system_time: SystemTime, seconds: float, is_date: bool
) -> None:
    """Neither earlier nor later, by whose clock ever; dates are read by the server's own."""
    refused_at: list[float] = []
    waits = threading.Event()

    def script(peer: Peer) -> None:
        if refused_at:
            refused_at.append(_real_monotonic())
            peer.upgrade()
            peer.echo()
            return
        peer.read_request()
        now = _real_time() // 1 - 5 * TEN_YEARS  # which is wrong as well
        date = formatdate(now + 1, usegmt=True)
        headers = {"Date": formatdate(now, usegmt=True), "Retry-After": date if is_date else "1"}
        refused_at.append(_real_monotonic())
        peer.respond("503 Service Unavailable", {"Content-Length": "0", **headers})

    def notice(event: object) -> None:
        if service.state is S.RECONNECTING:
            waits.set()

    with RawServer(script) as server:
        service = make_service()
        service.subscribe(notice)
        system_time.set_ahead(seconds)
        service.connect(server.url, wait=False)
        assert waits.wait(DEADLINE)
        system_time.set_ahead(-3 * seconds)
        assert service.wait_for(S.CONNECTED, timeout=DEADLINE)
        first, second = refused_at
        assert 0.9 < second - first < 5.0
        service.disconnect()


@pytest.mark.fault("system-time-set")
@pytest.mark.parametrize("seconds", [TEN_YEARS, -TEN_YEARS])
def test_a_gateway_keeps_sessions_as_long_as_it_said(
    make_service: MakeService, system_time: SystemTime, seconds: float
) -> None:
    """A session is neither dropped early nor kept for ever."""
    resumed = Collector()
    for links, keep in ((2, HOUR), (4, NAP)):
        with GatewayThread("echo", session_keep=keep) as gateway, FaultProxy(gateway.port) as proxy:
            service = make_service(on_connected=lambda _, is_resumed: resumed(is_resumed))
            service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
            service.handle_network_change(False)  # it waits until there is one again
            proxy.reset()
            assert service.wait_for(S.RECONNECTING, timeout=DEADLINE)
            system_time.set_ahead(seconds)
            threading.Event().wait(2 * NAP)
            service.handle_network_change(True)
            assert resumed.wait(links)
            assert service.request(b"x", timeout=DEADLINE).status_code == 200
            service.disconnect()
    assert resumed.items == [False, True, False, False]


@pytest.mark.fault("system-time-set")
@pytest.mark.parametrize("seconds", [TEN_YEARS, -TEN_YEARS])
def test_waits_take_as_long_as_they_would_have(
    make_service: MakeService, system_time: SystemTime, seconds: float
) -> None:
    """A request's time-out, `wait_for`, `flush`, `disconnect`, and the backoff."""
    go_on = threading.Event()

    def answer(session: object, request: object) -> bytes:
        go_on.wait(DEADLINE)
        return b""

    began = _real_monotonic()
    with GatewayThread(answer) as gateway:
        service = make_service()
        service.connect(gateway.url, timeout=DEADLINE)
        future = service.submit(b"x", timeout=3 * NAP)
        waiter = threading.Thread(target=service.wait_for, args=(S.ERROR,), kwargs={"timeout": NAP})
        waiter.start()
        system_time.set_ahead(seconds)
        with pytest.raises(RequestTimeoutError):
            future.result(DEADLINE)
        assert _real_monotonic() - began >= 3 * NAP
        waiter.join(DEADLINE)
        assert not waiter.is_alive()
        system_time.set_ahead(-2 * seconds)
        assert service.reconnect(timeout=DEADLINE)
        assert not is_lost(service, NAP)
        go_on.set()
        service.disconnect()
    assert _real_monotonic() - began < DEADLINE
