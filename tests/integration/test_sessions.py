"""Nothing lost, nothing twice, in order: a tunnel and a gateway over a network that keeps breaking.

Each test prints its seed, so that what chance found can be found again: SEED=... pytest ...
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gateways import GatewayProcess

from tunnel import (
    RequestQueue,
    RequestTimeoutError,
    SessionLostError,
    TunnelConfig,
    TunnelConnectionState,
    TunnelService,
)
from tunnel.backpressure import BackpressureSignal
from tunnel.gateway import GatewayThread
from tunnel.testing import FaultProxy

MakeService = Callable[..., TunnelService]

_SENDER = Path(__file__).parent / "servers" / "durable_sender.py"
_PATIENCE = 120.0  # seconds for everything to arrive, on a machine that is very busy


@pytest.fixture
def rng() -> random.Random:
    """Chance, which can be repeated."""
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"SEED={seed}")
    return random.Random(seed)


@contextlib.contextmanager
def proxied(port: int) -> Iterator[tuple[FaultProxy, str]]:
    """A proxy before a port, and its URL."""
    with FaultProxy(port) as proxy:
        yield proxy, f"ws://127.0.0.1:{proxy.port}/"


def ignore(got: object) -> None:
    """Take a message."""


def message(number: int, big: int) -> str | bytes:
    """The message of this number: text or bytes, mostly small, some with `big` bytes or so."""
    rng = random.Random(number)
    size = int(big ** rng.random()) if rng.random() < 0.01 else rng.randrange(0, 300)
    if rng.random() < 0.5:
        return (f"{number} äöü \U0001f600 " * (size // 10 + 1))[:size]
    return (number.to_bytes(8, "big") * (size // 8 + 1))[:size]


class Received:
    """What comes back, held against what should."""

    def __init__(self, count: int, big: int) -> None:
        self.count = 0
        self.wrong: list[int] = []
        self.complete = threading.Event()
        self._expected = count
        self._big = big

    def __call__(self, got: str | bytes) -> None:
        if got != message(self.count, self._big):
            self.wrong.append(self.count)
        self.count += 1
        if self.count >= self._expected or self.wrong:
            self.complete.set()


def echo_through_cuts(
    make_service: MakeService, rng: random.Random, count: int, big: int, interval: float
) -> None:
    """Send and get back `count` messages through a proxy that cuts every `interval` seconds."""
    received = Received(count, big)
    with GatewayThread("echo") as gateway, proxied(gateway.port) as (proxy, url):
        service = make_service(on_message=received)
        service.connect(url)
        with proxy.cutting((interval / 2, interval * 1.5), seed=rng.getrandbits(32)):
            for number in range(count):
                service.send(message(number, big), timeout=None)
            assert received.complete.wait(_PATIENCE), f"{received.count} of {count} came back"
        assert not received.wrong, f"{received.wrong[0]} of {count} is not what was sent"
        assert service.flush(30)
        statistics = service.statistics()
        print(f"{proxy.cuts} cuts,", statistics)
        assert proxy.cuts > 2
        assert statistics["unacknowledged"] == 0
        assert received.count == count


@pytest.mark.requirement("1.7")
def test_every_message_arrives_once_and_in_order_through_cuts(
    make_service: MakeService, rng: random.Random
) -> None:
    """Both ways at once, text and binary, empty and large: what was sent is what comes back."""
    echo_through_cuts(make_service, rng, 4_000, 2**18, 0.06)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.requirement("1.7")
def test_a_hundred_thousand_messages_through_cuts(
    make_service: MakeService, rng: random.Random
) -> None:
    """The same with 100,000 messages of up to 1 MiB, cut every few hundred milliseconds."""
    echo_through_cuts(make_service, rng, 100_000, 2**20, 0.3)


def ask_through_cuts(
    make_service: MakeService, rng: random.Random, threads: int, requests: int
) -> None:
    """Requests from many threads through a proxy that cuts: each gets its own answer."""
    wrong: list[object] = []
    timeouts: list[object] = []
    with GatewayThread("echo") as gateway, proxied(gateway.port) as (proxy, url):
        service = make_service(on_message=ignore, max_queue_size=1000)
        service.connect(url)

        def ask(thread: int) -> None:
            for number in itertools.count():
                if number >= requests and proxy.cuts > 2:  # however quick they are
                    return
                payload = f"{thread}:{number}".encode()
                try:
                    answer = service.request(payload, timeout=20)
                except RequestTimeoutError as error:
                    timeouts.append(error)
                except Exception as error:
                    wrong.append(error)
                else:
                    if (answer.status_code, answer.payload) != (200, payload):
                        wrong.append(answer)

        workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
        with proxy.cutting((0.1, 0.3), seed=rng.getrandbits(32)):
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(_PATIENCE)
        print(f"{proxy.cuts} cuts, {len(timeouts)} time-outs")
        assert not any(worker.is_alive() for worker in workers)
        assert not wrong, wrong[:3]
        assert proxy.cuts > 2
        assert not timeouts, "20 s are plenty here"
        assert service.statistics()["outstanding_requests"] == 0


def test_requests_survive_cuts(make_service: MakeService, rng: random.Random) -> None:
    """Requests from 50 threads all get their own answer though the link is cut all the time."""
    ask_through_cuts(make_service, rng, 50, 20)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_requests_survive_cuts(make_service: MakeService, rng: random.Random) -> None:
    """The same with 200 requests of each thread."""
    ask_through_cuts(make_service, rng, 50, 200)


def test_a_resumed_link_replays_only_what_is_missing(make_service: MakeService) -> None:
    """What the gateway had received when the link was cut is not sent again."""
    with GatewayThread("sink") as gateway, proxied(gateway.port) as (proxy, url):
        service = make_service(on_message=ignore)
        service.connect(url)
        for _ in range(100):
            service.send(b"x" * 1000)
        assert service.flush(20)
        before = proxy.forwarded["up"]
        with proxy.silent("up"):
            service.send(b"y" * 1000)
            proxy.reset()
        assert service.wait_for(TunnelConnectionState.CONNECTED, timeout=20)
        assert service.flush(20)
        assert service.statistics()["replayed"] <= 1
        assert proxy.forwarded["up"] - before < 5_000


def start_sender(url: str, queue: Path, label: str, count: int) -> subprocess.Popen[str]:
    """Start a program that sends from a queue on disk."""
    command = [sys.executable, str(_SENDER), url, str(queue), label, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def reported(process: subprocess.Popen[str], rng: random.Random | None, most: float) -> list[str]:
    """What a sender wrote until it ended; with `rng`, it is killed after a while."""
    if rng is not None:
        first = process.stdout.readline()  # it works
        timer = threading.Timer(rng.uniform(0.0, most), process.kill)
        timer.start()
    output = process.stdout.read()
    process.wait(60)
    process.stdout.close()
    if rng is not None:
        timer.join()
        output = first + output
    return output.split("\n")[:-1]


@pytest.mark.timeout(180)
@pytest.mark.requirement("5.9", "1.7")
def test_a_killed_program_sends_exactly_once(tmp_path: Path, rng: random.Random) -> None:
    """A program with a queue on disk is killed again and again: all it accepted arrives once.

    And what comes back to it does so at least once.
    """
    recording = tmp_path / "recording"
    accepted: dict[str, int] = {}
    gateway = GatewayProcess(
        "--handler", "recording:record", environment={"RECORDING": str(recording)}
    )
    cuts = {"every": (0.1, 0.4), "seed": rng.getrandbits(32)}
    with gateway, proxied(gateway.port) as (proxy, url), proxy.cutting(**cuts):
        for run in range(4):
            sender = start_sender(url, tmp_path / "queue", f"run{run}", 1_000_000)
            accepted[f"run{run}"] = len(reported(sender, rng, 1.0))
        last = reported(start_sender(url, tmp_path / "queue", "last", 50), None, 0)
        assert last[-1] == "done"
    accepted["last"] = 50
    arrived = recording.read_text().split("\n")[:-1]
    print(accepted, proxy.cuts, "cuts")
    for label, count in accepted.items():
        numbers = [int(line.partition(":")[2]) for line in arrived if line.startswith(f"{label}:")]
        # What it was accepting when it was killed has arrived, or has not.
        assert numbers == list(range(count)) or numbers == list(range(count + 1)), label
    returned = (tmp_path / "queue.received").read_text().split()
    missing = {line for line in arrived if not line.startswith("last")} - set(returned)
    print(len(returned) - len(set(returned)), "came back twice")
    assert not missing


@pytest.mark.timeout(180)
def test_a_killed_gateway_ends_sessions_honestly(
    make_service: MakeService, tmp_path: Path, rng: random.Random
) -> None:
    """Every message has reached a gateway once, or its sender was told that nobody knows."""
    recording = tmp_path / "recording"
    reports: list[SessionLostError] = []
    count, kills = 3_000, 4
    gateway = GatewayProcess(
        "--handler", "recording:record", environment={"RECORDING": str(recording)}
    )
    with gateway:
        service = make_service(on_message=ignore, on_session_lost=reports.append, max_queue_size=50)
        service.connect(gateway.url)
        kill_at = sorted(rng.sample(range(100, count), kills))
        for number in range(count):
            service.send(str(number), timeout=None)
            if number in kill_at:
                gateway.kill()
                gateway.start()
        assert service.flush(60) or reports
        assert service.flush(60)
        assert service.disconnect().unacknowledged == ()
    unknown = [text for report in reports for text in report.unacknowledged]
    arrived = recording.read_text().split()
    print(f"{len(reports)} losses, {len(unknown)} unknown")
    assert 1 <= len(reports) <= kills
    assert len(set(arrived)) == len(arrived)
    assert [int(number) for number in arrived] == sorted(int(number) for number in arrived)
    assert {str(number) for number in range(count)} == {*arrived, *unknown}


@pytest.mark.requirement("1.7")
def test_a_draining_gateway_leaves_nothing_unknown(
    make_service: MakeService, tmp_path: Path
) -> None:
    """A gateway that is told to end takes what it has received: nothing is unacknowledged."""
    recording = tmp_path / "recording"
    reports: list[SessionLostError] = []
    gateway = GatewayProcess(
        "--handler", "recording:record", environment={"RECORDING": str(recording)}
    )
    with gateway:
        service = make_service(on_message=ignore, on_session_lost=reports.append)
        service.connect(gateway.url)
        service.send_many([str(number) for number in range(1_000)], timeout=None)
        assert service.flush(20)
        assert gateway.terminate() == 0
        gateway.start()
        deadline = time.monotonic() + 20
        while not reports and time.monotonic() < deadline:
            service.wait_for(TunnelConnectionState.CONNECTED, timeout=1)
        service.send("after")
        assert service.flush(20)
    assert [report.unacknowledged for report in reports] == [()]
    assert recording.read_text().split()[-1] == "after"


def test_memory_is_bounded_when_the_gateway_stops_reading(make_service: MakeService) -> None:
    """A peer that takes nothing stops the sender at its bounds, and loses it nothing."""
    release = threading.Event()
    taken: list[object] = []

    def slow(session: object, got: object) -> None:
        release.wait(60)
        taken.append(got)

    with GatewayThread(slow) as gateway:
        service = make_service(
            on_message=ignore,
            max_queue_size=10,
            max_unacknowledged=20,
            max_unacknowledged_bytes=2**20,
        )
        service.connect(gateway.url)
        sent = 0
        with contextlib.suppress(Exception):
            for _ in range(1000):
                service.send(b"x" * 1000, timeout=0.2)
                sent += 1
        assert sent == 30
        assert service.statistics()["unacknowledged"] == 20
        release.set()
        assert service.flush(30)
        assert len(taken) == 30


@pytest.mark.requirement("5.3")
def test_a_subscriber_that_blocks_holds_up_nobody() -> None:
    """While a subscriber of the queue blocks, messages go out and come in all the same."""
    queue = RequestQueue()
    entered, released = threading.Event(), threading.Event()

    def block(signal: BackpressureSignal) -> None:
        if not signal.should_throttle:
            entered.set()
            released.wait(_PATIENCE)

    queue.subscribe(block)
    with GatewayThread() as gateway:
        service = TunnelService(TunnelConfig(max_queue_size=10), request_queue=queue)
        try:
            queue.enqueue_many([f"{number}" for number in range(10)])
            service.connect(gateway.url)
            assert entered.wait(_PATIENCE)
            service.send("last")
            messages = service.messages()
            assert [next(messages) for _ in range(11)][-1] == "last"
            assert not released.is_set()
        finally:
            released.set()
            service.disconnect()
