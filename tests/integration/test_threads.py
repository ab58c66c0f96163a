"""A hundred threads that call everything at once on one tunnel."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable

import pytest

import statemachine
from tunnel import CircuitOpenError, TunnelConnectionState, TunnelError, TunnelService
from tunnel.gateway import GatewayThread
from tunnel.lifecycle import LIFECYCLE

MakeService = Callable[..., TunnelService]


def calls(service: TunnelService, url: str, rng: random.Random) -> list[Callable[[], object]]:
    """What a thread may call; each is bounded in time."""
    return [
        lambda: service.connect(url, timeout=1),
        lambda: service.connect(url, wait=False),
        lambda: service.send("x", timeout=0.1),
        lambda: service.send(b"x" * rng.randrange(100_000), timeout=0.1),
        lambda: service.send_many(["x"] * rng.randrange(300), timeout=0.1),
        lambda: service.request(b"x", timeout=0.3),
        lambda: service.submit(b"x", timeout=0.3).cancel(),
        lambda: service.disconnect(rng.random() < 0.5, timeout=0.2),
        lambda: service.reconnect(timeout=0.3),
        lambda: service.handle_network_change(rng.random() < 0.7),
        lambda: service.test_connection(0.1),
        lambda: service.update_config(service.config.replace(jitter=rng.random())),
        lambda: service.flush(0.1),
        lambda: service.wait_for(TunnelConnectionState.CONNECTED, timeout=0.1),
        lambda: next(service.messages(), None) if rng.random() < 0.1 else None,
        service.statistics,
        service.tracker.to_json,
        lambda: service.subscribe(lambda event: None)(),
        lambda: repr(service),
    ]


def answer(session: object, message: object) -> bytes | None:
    """Answer requests, and take messages."""
    return None if isinstance(message, (str, bytes)) else b"answer"


def hammer(make_service: MakeService, seed: int, seconds: float, count: int) -> None:
    """Have many threads call everything for a while."""
    print(f"SEED={seed}")
    wrong: list[BaseException] = []
    with GatewayThread(answer) as gateway:
        service = make_service(max_queue_size=200, ping_interval=0.1)
        service.connect(gateway.url, timeout=10)
        deadline = time.monotonic() + seconds

        def work(number: int) -> None:
            rng = random.Random(seed + number)
            possible = calls(service, gateway.url, rng)
            while time.monotonic() < deadline:
                try:
                    rng.choice(possible)()
                except TunnelError:
                    pass  # closing, full, not connected, in time: all documented
                except BaseException as error:
                    wrong.append(error)

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(count)]
        for thread in threads:
            thread.start()
        threading.Event().wait(max(0.0, deadline - time.monotonic()))
        service.handle_network_change(True)
        ended = time.monotonic() + 15
        while any(t.is_alive() for t in threads) and time.monotonic() < ended:
            service.disconnect(graceful=False, timeout=1)  # so that iterators end
            for thread in threads:
                thread.join(0.002)
        assert not any(thread.is_alive() for thread in threads)
        assert not wrong, wrong[:3]
        verdict = statemachine.replay(LIFECYCLE, service.tracker.machine.history)
        assert verdict, verdict
        service.disconnect(graceful=False, timeout=5)
        service.connect(gateway.url, timeout=10)
        with contextlib.suppress(CircuitOpenError):  # many requests had too little time
            assert service.request(b"last", timeout=10).payload == b"answer"
        service.send("last")
        assert service.flush(10)
        service.disconnect()


def seed() -> int:
    """Chance, which can be repeated."""
    return int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 2**31)


@pytest.mark.fault("a-hundred-threads")
def test_a_hundred_threads_call_everything_at_once(make_service: MakeService) -> None:
    """No deadlock, no exception but the documented ones, a legal history; and it works after it."""
    hammer(make_service, seed(), 1.0, 100)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.fault("a-hundred-threads")
def test_a_hundred_threads_for_long(make_service: MakeService) -> None:
    """The same for longer, with several seeds."""
    for _ in range(5):
        hammer(make_service, seed(), 8, 100)
