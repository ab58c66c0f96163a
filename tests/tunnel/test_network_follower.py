from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from tunnel.errors import ResourceExhaustedError
from tunnel.network_follower import NetworkFollower, ObservedChange
from tunnel.network_outlook import DEFAULT_ROUTES, Route
from tunnel.network_watch import NetworkWatch
from tunnel.testing import FakeClock
from tunnel.timers import SystemTimers

V4, V6 = DEFAULT_ROUTES
PEER = "198.51.100.7"
WAY = Route("10.0.0.2", 2)
OTHER = Route("10.0.0.3", 3)


class Transport:
    def __init__(self, endpoints: tuple[str, str] | None) -> None:
        self.endpoints = endpoints


LINK = Transport(("10.0.0.2", PEER))


class FakeWatch(NetworkWatch):
    """A watch whose network is a test's, and which looks when the test says so."""

    def __init__(self) -> None:
        super().__init__(lambda: None, SystemTimers(), self.find)  # type: ignore[arg-type]
        self.routes: dict[str, Route] = {}
        self.added: list[Any] = []
        self.removed: list[Any] = []

    def find(self, address: str) -> Route | None:
        return self.routes.get(address)

    def add(self, follower: Any) -> None:
        self.added.append(follower)

    def remove(self, follower: Any) -> None:
        self.removed.append(follower)


class World:
    """A follower in virtual time, its network, and what it told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.watch = FakeWatch()
        self.told: list[tuple[float, ObservedChange]] = []
        self.follower = NetworkFollower(self.note, self.clock, self.watch)

    def note(self, change: ObservedChange) -> None:
        self.told.append((self.clock.monotonic(), change))

    def look(self, **routes: Route | None) -> None:
        """The network has changed to this."""
        names = {"v4": V4, "v6": V6, "peer": PEER}
        self.watch.routes = {names[key]: way for key, way in routes.items() if way is not None}
        self.follower.look(self.watch.table)

    def pass_time(self, seconds: float) -> None:
        self.clock.wait(threading.Event(), seconds)

    @property
    def news(self) -> list[str]:
        return [change.message for _, change in self.told if not change.is_reminder]

    @property
    def reminders(self) -> list[float]:
        return [time for time, change in self.told if change.is_reminder]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


def test_follows_from_the_beginning_to_the_end(world: World) -> None:
    """It looks at once, so that it knows what changes, and when the watch says so; until `end`."""
    world.watch.routes = {V4: WAY}
    world.follower.follow("example.com")
    assert world.watch.added == [world.follower]
    assert world.told == []
    world.look(v4=OTHER)
    assert world.news == ["there is a route again"]
    world.follower.end()
    assert world.watch.removed == [world.follower]
    world.look(v4=WAY)
    world.pass_time(60.0)
    assert len(world.told) == 1


def test_follows_each_host_once(world: World) -> None:
    """Another recovery to the same host changes nothing; another host is looked at anew."""
    world.follower.follow("example.com")
    world.watch.routes = {V4: WAY}
    world.follower.follow("example.com")
    world.look(v4=WAY)
    assert world.news == ["there is a route again"]
    world.follower.follow(PEER)
    world.look(v4=OTHER)
    world.look(v4=OTHER, peer=WAY)
    assert len(world.news) == 2


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_this_machine_is_not_followed(world: World, host: str) -> None:
    """It needs no network, and its tunnels no thread for that."""
    world.follower.follow(host)
    world.follower.connected(LINK)
    world.follower.lost()
    world.look(v4=WAY)
    assert world.watch.added == []
    assert world.told == []


def test_without_a_watch_nothing_happens() -> None:
    """As on a fake clock."""
    follower = NetworkFollower(lambda change: pytest.fail("told"), FakeClock(), None)
    follower.follow("example.com")
    follower.connected(LINK)
    follower.lost()
    follower.look(FakeWatch().table)
    follower.end()


@pytest.mark.requirement("1.8")
def test_a_return_is_followed_by_reminders(world: World) -> None:
    """What waits tries at once, and three more times within the five seconds."""
    world.follower.follow("example.com")
    world.look(v4=WAY)
    world.pass_time(60.0)
    time, change = world.told[0]
    assert (time, change.is_connected, change.network_type) == (0.0, True, None)
    assert world.reminders == [1.0, 2.5, 4.0]
    assert all(change.is_connected for _, change in world.told)


def test_another_change_begins_the_reminders_anew(world: World) -> None:
    """They count from the last change."""
    world.follower.follow("example.com")
    world.look(v4=WAY)
    world.pass_time(2.0)
    world.look(v4=OTHER)
    world.pass_time(60.0)
    assert world.reminders == [1.0, 3.0, 4.5, 6.0]


def test_a_link_ends_the_reminders(world: World) -> None:
    """The promise is kept: what is lost after that is for the backoff."""
    world.follower.follow("example.com")
    world.look(v4=WAY, peer=WAY)
    world.pass_time(2.0)
    world.follower.connected(LINK)
    world.follower.lost()
    world.pass_time(60.0)
    assert world.reminders == [1.0]


def test_the_end_ends_the_reminders(world: World) -> None:
    """Nobody wants to be reminded of a connection that was given up."""
    world.follower.follow("example.com")
    world.look(v4=WAY)
    world.follower.end()
    world.pass_time(60.0)
    assert world.reminders == []


def test_another_host_ends_the_reminders(world: World) -> None:
    """They were about another one."""
    world.follower.follow("example.com")
    world.look(v4=WAY)
    world.follower.follow("example.org")
    world.pass_time(60.0)
    assert world.reminders == []


def test_the_route_of_a_link_goes_and_comes(world: World) -> None:
    """The link is to be challenged each time; there are reminders only where there is a network."""
    world.watch.routes = {V4: WAY, PEER: WAY}
    world.follower.follow("example.com")
    world.follower.connected(LINK)
    world.look()
    assert world.news == ["there is no route to the server any more"]
    assert world.told[0][1].is_connected is False
    world.pass_time(60.0)
    assert world.reminders == []
    world.look(peer=OTHER)
    assert world.news[1:] == ["the route to the server has changed"]
    world.pass_time(60.0)
    assert world.reminders == [61.0, 62.5, 64.0]


def test_the_route_went_while_the_dial_was_under_way(world: World) -> None:
    """A new link is looked at at once."""
    world.follower.follow("example.com")
    world.follower.connected(LINK)
    assert world.news == ["there is no route to the server any more"]


@pytest.mark.parametrize("transport", [object(), Transport(None)])
def test_a_link_without_addresses(world: World, transport: object) -> None:
    """A Unix socket, or a transport that tells nothing: only a loss makes the network matter."""
    world.follower.follow("example.com")
    world.follower.connected(transport)
    world.look(v4=WAY)
    assert world.news == []
    world.follower.lost()
    world.look(v4=OTHER)
    assert world.news == ["there is a route again"]


def test_there_is_no_thread_for_reminders(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The news are told all the same."""

    def refuse(*arguments: object) -> None:
        raise ResourceExhaustedError("no thread")

    world.follower.follow("example.com")
    monkeypatch.setattr(world.clock, "call_at", refuse)
    world.look(v4=WAY)
    assert world.news == ["there is a route again"]


def test_there_is_no_thread_to_act(world: World, logged: list[str]) -> None:
    """Nor can there be one: that is logged, and no reason to fail."""

    def refuse(change: ObservedChange) -> None:
        raise ResourceExhaustedError("no thread")

    follower = NetworkFollower(refuse, world.clock, world.watch)
    follower.follow("example.com")
    world.watch.routes = {V4: WAY}
    follower.look(world.watch.table)
    world.pass_time(60.0)
    assert sum("was not acted on" in line for line in logged) == 4
