"""Log lines of several tunnels, each on threads of its own, can be told apart by their ids."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loguru import logger
from peers import DEADLINE, Collector, ServerProcess

from tunnel import ConnectionEventType, TunnelService
from tunnel.log_context import LogContext
from tunnel.testing import FaultProxy

Make = Callable[..., TunnelService]


@pytest.fixture
def lines() -> Iterator[Collector]:
    """The records of all lines that are logged."""
    collector = Collector()
    sink = logger.add(lambda message: collector(message.record), level=0)
    logger.enable("tunnel")
    yield collector
    logger.disable("tunnel")
    logger.remove(sink)


def ids_of(service: TunnelService) -> tuple[str, str]:
    """The connection's id, and that of its last dial."""
    connection = service.tracker.connection
    assert connection is not None
    assert connection.dial_id is not None
    return connection.id, connection.dial_id


def said(lines: Collector, text: str) -> list[dict[str, Any]]:
    """The extras of the lines that say exactly this."""
    return [record["extra"] for record in lines.items if record["message"] == text]


@pytest.mark.requirement("11.4")
def test_tunnels_of_one_process(
    make_service: Make, lines: Collector, echo_server: ServerProcess
) -> None:
    """Each line of each of three tunnels has the ids of its own; callbacks and heartbeats too."""
    heard = Collector()

    def called_back(message: object) -> None:
        logger.info("heard {}", message)
        heard(message)

    settings = {"ping_interval": 0.02, "pong_timeout": DEADLINE}
    services = [make_service(on_message=called_back, **settings) for _ in range(3)]
    for number, service in enumerate(services):
        service.connect(echo_server.url, timeout=DEADLINE)
        service.send(f"{number}")
    assert heard.wait(3)
    ids = [ids_of(service) for service in services]
    assert len(set(ids)) == 3
    for number, (connection_id, dial_id) in enumerate(ids):
        extra = {"connection_id": connection_id, "dial_id": dial_id}
        assert said(lines, f"heard {number}") == [extra]
    # Those are logged by the thread of all timers.
    assert lines.wait_for(lambda items: sum(r["message"] == "ping sent" for r in items) >= 6)
    known = {connection_id for connection_id, _ in ids}
    assert {record["extra"].get("connection_id") for record in lines.items} == known


@pytest.mark.requirement("11.4")
def test_a_slow_callback_keeps_the_ids_of_its_link(
    make_service: Make, lines: Collector, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it logs after a loss has the dial before, what another thread logs meanwhile the new."""
    monkeypatch.setattr("tunnel.worker.PATIENCE", 0.025)
    is_inside, may_go_on, is_over = threading.Event(), threading.Event(), threading.Event()

    def called_back(message: object) -> None:
        is_inside.set()
        assert may_go_on.wait(DEADLINE)
        logger.info("slow")
        is_over.set()

    service, events = make_service(on_message=called_back), Collector()
    service.subscribe(events)
    try:
        service.connect(f"ws://127.0.0.1:{proxy.port}/", timeout=DEADLINE)
        _, first = ids_of(service)
        service.send("block")
        assert is_inside.wait(DEADLINE)
        proxy.reset()
        assert events.wait_for(lambda items: items[-1].type is ConnectionEventType.RECONNECTED)
    finally:
        may_go_on.set()
    assert is_over.wait(DEADLINE)
    _, second = ids_of(service)
    assert first != second
    assert [extra["dial_id"] for extra in said(lines, "slow")] == [first]
    assert said(lines, "reconnected: reconnected")[0]["dial_id"] == second


def test_messages_cost_nothing(
    make_service: Make, echo_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context is entered for a thread and a dial, and not for a message."""
    entered: list[int] = []
    enter = LogContext._enter

    def counted(context: LogContext, thread: int) -> None:
        entered.append(thread)
        enter(context, thread)

    monkeypatch.setattr(LogContext, "_enter", counted)
    heard = Collector()
    service = make_service(on_message=heard)
    service.connect(echo_server.url, timeout=DEADLINE)
    before = len(entered)
    for number in range(200):
        service.send(f"{number}")
    assert heard.wait(200)
    assert len(entered) == before == 3
