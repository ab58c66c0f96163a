"""Many threads at full speed: nothing fails, nothing is missing, nothing changes places."""

from __future__ import annotations

import contextlib
import faulthandler
import random
import ssl
import threading
import time
from collections.abc import Callable

import pytest
from peers import DEADLINE, Collector, ServerProcess

from statemachine import replay
from tunnel import LIFECYCLE, TunnelConnectionState, TunnelError, TunnelService
from tunnel.testing import FaultProxy

MakeService = Callable[..., TunnelService]
S = TunnelConnectionState


def _run_writers(service: TunnelService, received: list[list[int]], seconds: float) -> list[int]:
    """Four threads send numbered messages for so long. Returns how many each has sent."""
    sent = [0] * 4
    deadline = time.monotonic() + seconds
    # In all, no more than this may be under way: the server is slower than we are.
    ahead = 2000

    def write(writer: int) -> None:
        filling = b"x" * (16 << 2 * writer)
        never = threading.Event()
        while time.monotonic() < deadline:
            if sent[writer] - len(received[writer]) > ahead:
                never.wait(0.001)
                continue
            service.send(b"%d %d " % (writer, sent[writer]) + filling)
            sent[writer] += 1

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(seconds + DEADLINE)
        assert not writer.is_alive()
    return sent


@pytest.mark.parametrize(
    "seconds",
    [
        3.0,
        pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.timeout(120)]),
    ],
)
@pytest.mark.requirement("10.3", "10.5")
def test_four_writers_and_a_reader_over_tls(
    tls_echo_server: ServerProcess,
    client_tls: ssl.SSLContext,
    make_service: MakeService,
    seconds: float,
) -> None:
    """Over TLS, with a reader and four writers at full speed: no failure, all there, in order."""
    faulthandler.cancel_dump_traceback_later()  # a minute is longer than it waits
    received: list[list[int]] = [[], [], [], []]
    changed = threading.Condition()
    states = Collector()

    def on_message(message: bytes) -> None:
        writer, number, _ = message.split(b" ")
        received[int(writer)].append(int(number))
        if not changed.acquire(blocking=False):
            return
        changed.notify_all()
        changed.release()

    service = make_service(on_message=on_message, on_state_change=states, ping_interval=1.0)
    service.connect(tls_echo_server.url, ssl_context=client_tls, timeout=DEADLINE)
    sent = _run_writers(service, received, seconds)
    assert service.flush(DEADLINE)
    with changed:
        deadline = time.monotonic() + DEADLINE
        while [len(numbers) for numbers in received] != sent and time.monotonic() < deadline:
            changed.wait(0.1)
    assert [len(numbers) for numbers in received] == sent
    assert all(numbers == list(range(len(numbers))) for numbers in received)
    assert min(sent) > 100 * seconds
    assert [record.dest for record in states.items] == ["connecting", "connected"]


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_many_connections_over_time(
    echo_server: ServerProcess,
    tls_echo_server: ServerProcess,
    client_tls: ssl.SSLContext,
    make_service: MakeService,
    secure: bool,
) -> None:
    """Twenty connections, each with four writers that are heard and cut off in mid-flight."""
    url = tls_echo_server.url if secure else echo_server.url
    for _ in range(20):
        received = Collector()
        service = make_service(on_message=received)
        service.connect(url, ssl_context=client_tls if secure else None, timeout=DEADLINE)

        def write(service: TunnelService = service) -> None:
            for _ in range(200):
                service.send(bytes(1000), timeout=None)

        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(DEADLINE)
        assert received.wait(800)
        service.disconnect(timeout=DEADLINE)


def test_hundred_threads_calling_everything(proxy: FaultProxy, make_service: MakeService) -> None:
    """A hundred threads call everything at once, in a random order: no hang, no illegal history."""
    service = make_service(on_message=lambda message: None, ping_interval=0.05, max_queue_size=50)
    url = f"ws://127.0.0.1:{proxy.port}/"
    bugs = Collector()
    finished = Collector()
    calls: list[Callable[[], object]] = [
        lambda: service.connect(url, timeout=0.5),
        lambda: service.connect(url, wait=False),
        lambda: service.disconnect(timeout=0.5),
        lambda: service.disconnect(graceful=False, timeout=0.5),
        lambda: service.reconnect(timeout=0.5),
        lambda: service.send("message", timeout=0.1),
        lambda: service.send(bytes(100_000), timeout=0.1),
        lambda: service.send_many(["a", b"b", "c"], timeout=0),
        lambda: service.flush(timeout=0.1),
        lambda: service.test_connection(timeout=0.1),
        lambda: service.wait_for(S.CONNECTED, timeout=0.1),
        lambda: service.handle_network_change(True),
        lambda: service.handle_network_change(False),
        lambda: service.statistics(),
        lambda: service.health,
        lambda: service.tracker.to_json(),
        lambda: service.update_config(service.config.replace(max_queue_size=40)),
        lambda: repr(service),
        lambda: service.subscribe(lambda event: None)(),
        proxy.reset,
    ]

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(20):
                with contextlib.suppress(TunnelError):
                    rng.choice(calls)()
        except BaseException as error:
            bugs(error)
        finished(seed)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(100)]
    for thread in threads:
        thread.start()
    assert finished.wait(100, timeout=45)
    assert [repr(bug) for bug in bugs.items] == []
    assert replay(LIFECYCLE, service.tracker.machine.history)
    service.disconnect(timeout=DEADLINE)
    service.handle_network_change(True)
    service.connect(url, timeout=DEADLINE)
    assert service.test_connection(timeout=DEADLINE)
