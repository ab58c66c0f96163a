"""Changes of the network, in network namespaces that are made here: real interfaces, real routes.

Each scenario has a namespace for its client, and all share one for the server. They mostly wait, so
all that were selected run at the same time.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

_SERVERS = Path(__file__).parent / "servers"
_PORT = 8765
LONG = 30.0
"""Seconds that something may take which is certain to happen, on a machine that is busy."""

NOTICED = 5.0
"""Seconds in which a live link whose route is gone is given up: a challenge takes two."""

BACK = 5.0
"""Seconds in which a tunnel is connected again once there is a network (requirement 1.8)."""

PATIENT = {"reconnect_base_delay": 60.0, "jitter": 0.0, "ping_interval": 30.0, "resume": "off"}


def ip(*arguments: str) -> None:
    """Run iproute2's ``ip``."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=LONG)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Process:
    """A Python program, and the lines that it writes."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that it ends with all its children
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.strip())
                self._changed.notify_all()

    def wait_for(self, start: str, what: str, since: int = 0) -> str:
        """The first line that starts and goes on like this, after so many lines."""

        def found() -> str | None:
            lines = self.lines[since:]
            return next((line for line in lines if line.startswith(start) and what in line), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None, LONG)
            line = found()
        mine = [line for line in self.lines if line.startswith(start)]
        assert line is not None, f"no {what!r} within {LONG:g} s: {mine}"
        return line

    def say(self, text: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Kill it, and its children."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


class Place:
    """A client in a namespace of its own, and its cable to the server's.

    Its addresses are 10.77.N.2 and fd77:N::2, those of the server 10.77.N.1, fd77:N::1 and, behind
    a route, 10.99.N.1. Its end of the cable is ``w0``, the server's ``wN``.
    """

    def __init__(self, number: int, server: str, clients: Process) -> None:
        self.number = number
        self.server = server
        self.name = f"tunnel-{os.getpid()}-{number}"
        self._clients = clients

    def __enter__(self) -> Place:
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        self.plug_in()
        return self

    def __exit__(self, *exc: object) -> None:
        ip("netns", "del", self.name)

    def ip(self, *arguments: str) -> None:
        """Change something in the client's namespace."""
        ip("-n", self.name, *arguments)

    def server_ip(self, *arguments: str) -> None:
        """Change something in the server's namespace."""
        ip("-n", self.server, *arguments)

    def plug_in(self) -> None:
        """Make the cable, and all addresses."""
        n = self.number
        peer = ("peer", "name", f"w{n}", "netns", self.server)
        self.ip("link", "add", "w0", "type", "veth", *peer)
        for address in (f"10.77.{n}.1/24", f"10.99.{n}.1/32", f"fd77:{n}::1/64"):
            nodad = ("nodad",) if ":" in address else ()
            self.server_ip("address", "add", address, "dev", f"w{n}", *nodad)
        self.server_ip("link", "set", f"w{n}", "up")
        self.ip("address", "add", f"10.77.{n}.2/24", "dev", "w0")
        self.ip("address", "add", f"fd77:{n}::2/64", "dev", "w0", "nodad")
        self.ip("link", "set", "w0", "up")
        self.ip("route", "add", f"10.99.{n}.1/32", "via", f"10.77.{n}.1")

    def connect(self, host: str | None = None, **settings: object) -> None:
        """Start a tunnel; it is connected on return."""
        terms = {
            "name": self.name,
            "namespace": self.name,
            "url": f"ws://{host or f'10.77.{self.number}.1'}:{_PORT}/",
            "settings": {**PATIENT, **settings},
        }
        self._clients.say(json.dumps(terms))
        self.wait_for("event connected")

    def mark(self) -> int:
        """For `wait_for`: what comes from now on."""
        return len(self._clients.lines)

    def wait_for(self, what: str, since: int = 0) -> float:
        """Wait for something that the tunnel tells. Returns when that was."""
        return float(self._clients.wait_for(f"{self.name} ", f" {what}", since).split()[1])

    def told(self, since: int) -> list[str]:
        """What the tunnel has told."""
        return [line for line in self._clients.lines[since:] if line.startswith(f"{self.name} ")]

    def lose(self, change: Callable[[], None], within: float = NOTICED) -> int:
        """Change something; the link is given up in time. Returns a mark from before that."""
        since, before = self.mark(), time.monotonic()
        change()
        assert self.wait_for("state disconnected", since) - before < within, self.told(since)
        return since

    def restore(self, since: int, change: Callable[[], None], within: float = BACK) -> None:
        """Change something; the tunnel is connected, and works, in time after that."""
        change()
        after = time.monotonic()
        assert self.wait_for("state connected", since) - after < within, self.told(since)
        self.wait_for("event reconnected", since)
        self.check(since)

    def check(self, since: int) -> None:
        """The tunnel works."""
        process = self._clients.wait_for(f"{self.name} ", " process ").split()[-1]
        os.kill(int(process), signal.SIGUSR1)
        self.wait_for("message hello", since)


SCENARIOS: dict[str, Callable[[Place], None]] = {}
"""By the name of the test that asks for its outcome."""

Outcome = Callable[[], None]


def scenario(function: Callable[[Place], None]) -> Callable[[Place], None]:
    SCENARIOS[f"test_{function.__name__}"] = function
    return function


@pytest.fixture(scope="module")
def futures(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """The scenarios of the selected tests, under way."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs network namespaces, which only Linux has")
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2's ip (Debian: apt-get install iproute2)")
    selected = {item.name for item in request.session.items} & SCENARIOS.keys()
    server = f"tunnel-{os.getpid()}-0"
    with ExitStack() as stack:
        try:
            ip("netns", "add", server)
            stack.callback(ip, "netns", "del", server)
            ip("-n", server, "link", "set", "lo", "up")
        except OSError as error:
            pytest.skip(f"needs the right to make network namespaces: {error}")
        python, in_server = sys.executable, ("ip", "netns", "exec", server)
        echo = Process(*in_server, python, str(_SERVERS / "network_server.py"))
        stack.callback(echo.end)
        clients = Process(python, str(_SERVERS / "network_client.py"))
        stack.callback(clients.end)
        echo.wait_for("ready", "")
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=len(SCENARIOS)))
        numbers = itertools.count(1)

        def run(name: str, number: int) -> None:
            with Place(number, server, clients) as place:
                SCENARIOS[name](place)

        yield {name: pool.submit(run, name, next(numbers)) for name in sorted(selected)}


@pytest.fixture
def outcome(futures: dict[str, Future[None]], request: pytest.FixtureRequest) -> Outcome:
    """Waits for the test's scenario; raises what failed."""
    future = futures[request.node.name]
    return lambda: future.result(50.0)


def wait_for_backoff(place: Place, since: int) -> None:
    """Wait until the recovery waits for its first attempt, which is far away."""
    place.wait_for("event reconnecting attempt 1 of 10 in 60.0 s", since)


@scenario
def interface_goes_down_and_up(place: Place) -> None:
    place.connect()
    since = place.lose(lambda: place.ip("link", "set", "w0", "down"))
    wait_for_backoff(place, since)
    place.restore(since, lambda: place.ip("link", "set", "w0", "up"))


@pytest.mark.requirement("1.8")
@pytest.mark.fault("interface-down")
def test_interface_goes_down_and_up(outcome: Outcome) -> None:
    """The loss is noticed at once, and the return, though the backoff had a minute left."""
    outcome()


@scenario
def cable_is_pulled_and_plugged_in(place: Place) -> None:
    place.connect()
    other_end = f"w{place.number}"
    since = place.lose(lambda: place.server_ip("link", "set", other_end, "down"))
    wait_for_backoff(place, since)
    place.restore(since, lambda: place.server_ip("link", "set", other_end, "up"))


@pytest.mark.requirement("1.8")
@pytest.mark.fault("cable-pulled")
def test_cable_is_pulled_and_plugged_in(outcome: Outcome) -> None:
    """An interface that keeps address and routes, and has no carrier, is as good as gone."""
    outcome()


@scenario
def address_changes(place: Place) -> None:
    n = place.number
    place.connect()

    def change() -> None:
        place.ip("address", "del", f"10.77.{n}.2/24", "dev", "w0")
        place.ip("address", "add", f"10.77.{n}.3/24", "dev", "w0")

    since = place.lose(change)
    place.restore(since, lambda: None)


@pytest.mark.requirement("1.8")
@pytest.mark.fault("address-changed")
def test_address_changes(outcome: Outcome) -> None:
    """The link from the old address is given up, and there is one from the new address."""
    outcome()


@scenario
def route_is_removed_and_back(place: Place) -> None:
    n = place.number
    route = (f"10.99.{n}.1/32", "via", f"10.77.{n}.1")
    place.connect(f"10.99.{n}.1")
    since = place.lose(lambda: place.ip("route", "del", *route))
    wait_for_backoff(place, since)
    place.restore(since, lambda: place.ip("route", "add", *route))


@pytest.mark.requirement("1.8")
@pytest.mark.fault("route-removed")
def test_route_is_removed_and_back(outcome: Outcome) -> None:
    """With a ping each 30 s the loss of the route is noticed in about two seconds all the same."""
    outcome()


@scenario
def interface_is_deleted_and_made_anew(place: Place) -> None:
    place.connect()
    since = place.lose(lambda: place.ip("link", "del", "w0"))
    wait_for_backoff(place, since)
    place.restore(since, place.plug_in)


@pytest.mark.requirement("1.8")
@pytest.mark.fault("interface-deleted")
def test_interface_is_deleted_and_made_anew(outcome: Outcome) -> None:
    """As with a modem or a VPN that is switched off and on: another interface of the same name."""
    outcome()


@scenario
def ipv6_address_needs_a_moment(place: Place) -> None:
    n = place.number
    place.connect(f"[fd77:{n}::1]")
    address = f"fd77:{n}::2/64"
    since = place.lose(lambda: place.ip("address", "del", address, "dev", "w0"))
    wait_for_backoff(place, since)
    place.restore(since, lambda: place.ip("address", "add", address, "dev", "w0"))


@pytest.mark.requirement("1.8")
@pytest.mark.fault("address-changed")
def test_ipv6_address_needs_a_moment(outcome: Outcome) -> None:
    """An address that is tentative at first, while duplicates are looked for, is soon enough."""
    outcome()


@scenario
def attempts_were_used_up(place: Place) -> None:
    place.connect(max_reconnect_attempts=1, reconnect_base_delay=0.01)
    since = place.lose(lambda: place.ip("link", "set", "w0", "down"))
    place.wait_for("state error", since)
    place.restore(since, lambda: place.ip("link", "set", "w0", "up"))


@pytest.mark.requirement("1.8")
@pytest.mark.fault("interface-down")
def test_attempts_were_used_up(outcome: Outcome) -> None:
    """A tunnel that has given up comes back by itself as well."""
    outcome()


@scenario
def answers_are_dropped(place: Place) -> None:
    place.connect(ping_interval=0.5, pong_timeout=1.0)
    blackhole = ("route", "add", "blackhole", f"10.77.{place.number}.2/32")
    place.lose(lambda: place.server_ip(*blackhole), within=4.0)
    place.server_ip("route", "del", *blackhole[2:])


@pytest.mark.requirement("6.2")
@pytest.mark.fault("drop-one-way")
def test_answers_are_dropped(outcome: Outcome) -> None:
    """What no change of this machine's network shows is noticed by the pong time-out."""
    outcome()


@scenario
def others_come_and_go(place: Place) -> None:
    place.connect()
    since = place.mark()
    for number in range(3):
        place.ip("link", "add", "x0", "type", "veth", "peer", "name", "x1")
        place.ip("address", "add", f"10.88.{number}.1/24", "dev", "x0")
        place.ip("link", "set", "x0", "up")
        place.ip("link", "set", "x1", "up")
        place.ip("route", "add", "10.66.0.0/16", "via", f"10.88.{number}.2")
        threading.Event().wait(0.3)  # so that each of them is looked at
        place.ip("link", "del", "x0")
    place.check(since)
    news = [line for line in place.told(since) if "message hello" not in line]
    assert not news, news


@pytest.mark.fault("unrelated-interfaces")
def test_others_come_and_go(outcome: Outcome) -> None:
    """Interfaces and routes that do not lead to the peer disturb nobody, as with containers."""
    outcome()
