from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from tunnel import CircuitBreaker, ConnectionEventType, TunnelConfig, TunnelService
from tunnel.log_context import LogContext
from tunnel.testing import FakeClock, ScriptedGateway, ScriptedTransport, drive

DEADLINE = 20.0


@pytest.fixture
def extras() -> Iterator[list[dict[str, Any]]]:
    """The `extra` of each line that is logged."""
    found: list[dict[str, Any]] = []
    sink = logger.add(lambda message: found.append(message.record["extra"]), level=0)
    logger.enable("tunnel")
    yield found
    logger.disable("tunnel")
    logger.remove(sink)


def test_lines_carry_the_ids_within_and_only_there(extras: list[dict[str, Any]]) -> None:
    """Within, every line of the thread has the present ids; before and after it has none."""
    context = LogContext()
    logger.info("before")
    context.name("c", None)
    with context.within():
        logger.info("connection")
        context.name("c", "c-1")
        logger.info("dial")
    logger.info("after")
    ids = {"connection_id": "c", "dial_id": None}
    assert extras == [{}, ids, {**ids, "dial_id": "c-1"}, {}]


def test_a_thread_that_was_slow_takes_up_the_present_ids(extras: list[dict[str, Any]]) -> None:
    """What it calls next belongs to the new link; outside there is nothing to be renewed."""
    context = LogContext()
    context.name("c", "c-1")
    context.renew()
    logger.info("outside")
    with context.within():
        dialling = threading.Thread(target=context.name, args=("c", "c-2"))
        dialling.start()
        dialling.join(DEADLINE)
        logger.info("slow")
        context.renew()
        context.renew()
        logger.info("next")
    logger.info("after")
    assert [extra.get("dial_id") for extra in extras] == [None, "c-1", "c-2", None]


def test_callbacks_of_a_time_out_carry_the_ids(extras: list[dict[str, Any]]) -> None:
    """They are called by the timers, and not by a thread of the tunnel's."""
    clock = FakeClock()
    network = ScriptedTransport(clock)
    ScriptedGateway(network)
    service = TunnelService(clock=clock, new_transport=network)
    service.connect("ws://a.example/")
    network.fall_silent()
    future = service.submit(b"?", timeout=1.0)
    future.add_done_callback(lambda _: logger.bind(over=True).info("over"))
    clock.advance(2.0)
    connection = service.tracker.connection
    assert connection is not None
    (said,) = (extra for extra in extras if "over" in extra)
    assert said["connection_id"] == connection.id
    service.disconnect()


def test_within_within_is_one(extras: list[dict[str, Any]]) -> None:
    """Who is within already stays within when the inner one ends, with the ids of that."""
    context = LogContext()
    context.name("c", "c-1")
    with context.within():
        with context.within():
            context.name("c", "c-2")
        logger.info("still within")
    assert extras == [{"connection_id": "c", "dial_id": "c-2"}]


def test_threads_have_their_own(extras: list[dict[str, Any]]) -> None:
    """A new dial changes the lines of the thread that dials, and not those of a slow callback's."""
    context = LogContext()
    context.name("c", "c-1")
    is_slow, has_dialled = threading.Event(), threading.Event()

    def call_back() -> None:
        with context.within():
            is_slow.set()
            assert has_dialled.wait(DEADLINE)
            logger.info("the old thread")

    slow = threading.Thread(target=call_back)
    slow.start()
    assert is_slow.wait(DEADLINE)
    with context.within():
        context.name("c", "c-2")
        logger.info("the new thread")
        has_dialled.set()
        slow.join(DEADLINE)
    assert [extra["dial_id"] for extra in extras] == ["c-2", "c-1"]


def test_other_threads_have_a_logger(extras: list[dict[str, Any]]) -> None:
    """What is logged for a tunnel elsewhere, by its logger, carries the ids; before it has none."""
    context = LogContext()
    context.logger.info("no connection yet")
    context.name("c", "c-1")
    context.logger.info("from a timer")
    assert extras == [{}, {"connection_id": "c", "dial_id": "c-1"}]


@pytest.mark.requirement("11.3", "11.4")
def test_every_dial_of_a_connection_has_its_id(extras: list[dict[str, Any]]) -> None:
    """Events and all lines of a dial and its link carry its id, heartbeats and callbacks too."""
    clock = FakeClock()
    network = ScriptedTransport(clock)

    def call_back(message: object) -> None:
        logger.info("application")

    service = TunnelService(
        TunnelConfig(jitter=0),
        clock=clock,
        new_transport=network,
        on_message=call_back,
    )
    service.connect("ws://a.example/")
    connection = service.tracker.connection
    assert connection is not None
    first, second = f"{connection.id}-1", f"{connection.id}-2"
    assert connection.dial_id == first
    network.send("hello")
    drive(service, timeout=31.0)  # a ping, which a timer sends
    network.cut()
    drive(service, lambda: service.tracker.connection.dial_id == second, timeout=60)
    drive(service, timeout=31.0)
    assert [(event.type.value, event.dial_id) for event in service.tracker.events] == [
        ("connecting", None),
        ("connected", first),
        ("disconnected", first),
        ("reconnecting", first),
        ("reconnected", second),
    ]
    assert {event.connection_id for event in service.tracker.events} == {connection.id}
    assert {extra["connection_id"] for extra in extras} == {connection.id}
    order = [extra["dial_id"] for extra in extras]
    assert order == sorted(order, key=lambda dial: dial or "")
    assert set(order) == {None, first, second}
    service.disconnect()
    service.connect("ws://a.example/")
    assert service.tracker.connection.id != connection.id
    assert service.tracker.events[-1].dial_id == f"{service.tracker.connection.id}-1"
    service.disconnect()


def test_a_thread_that_drives_a_tunnel_is_left_as_it_was(extras: list[dict[str, Any]]) -> None:
    """Outside the steps of a tunnel without a thread, lines of the program carry nothing of it."""
    clock = FakeClock()
    service = TunnelService(clock=clock, new_transport=ScriptedTransport(clock))
    service.connect("ws://a.example/")
    extras.clear()
    logger.info("the program's own line")
    assert extras == [{}]
    service.disconnect()


def test_a_circuit_names_the_connection(extras: list[dict[str, Any]]) -> None:
    """A circuit that opens, on whatever thread, says whose it is."""
    context = LogContext()
    context.name("c", "c-1")
    breaker = CircuitBreaker(1, log_context=context, clock=FakeClock())
    breaker.record_failure(breaker.allow())
    assert extras == [{"connection_id": "c", "dial_id": "c-1"}]


def test_an_event_of_ones_own_is_recorded_as_it_is() -> None:
    """What a program records itself has the ids that it gave it, and no others."""
    clock = FakeClock()
    service = TunnelService(clock=clock, new_transport=ScriptedTransport(clock))
    service.connect("ws://a.example/")
    tracker = service.tracker
    own = type(tracker.events[0])(
        ConnectionEventType.HEALTH_CHECK, tracker.events[0].timestamp, connection_id="mine"
    )
    tracker.record_event(own)
    assert (tracker.events[-1].connection_id, tracker.events[-1].dial_id) == ("mine", None)
    service.disconnect()
