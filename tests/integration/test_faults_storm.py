"""All faults in a random order, with messages both ways: each arrives once and in order.

Each storm prints its seed, so that what chance found can be found again: SEED=... pytest ...
"""

from __future__ import annotations

import contextlib
import os
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from conversations import Conversation, MakeService, message
from peers import DEADLINE

from tunnel.gateway import GatewaySession, GatewayThread
from tunnel.testing import DOWN, UP, FaultProxy

_PONG_TIMEOUT = 0.3
_WAYS = ((UP,), (DOWN,), (UP, DOWN))
SEEDS = (1, 2, 7)  # the even one goes over TLS
ROUNDS = 8
_GARBAGE = b"\xff\xff"
_RESERVED = 0x70  # bits of a frame's first byte that must be 0

Now = Callable[[FaultProxy, random.Random], object]
Lasting = Callable[[FaultProxy, random.Random], AbstractContextManager[object]]

STRIKES: dict[str, Now] = {
    "reset": lambda proxy, rng: proxy.reset(),
    "fin": lambda proxy, rng: proxy.fin(),
    "cut": lambda proxy, rng: proxy.cut(
        rng.choice((UP, DOWN)), rng.randrange(2000), rng.choice(("reset", "fin"))
    ),
}
CORRUPTIONS: dict[str, Now] = {
    "flip": lambda proxy, rng: proxy.flip(rng.choice((UP, DOWN)), None, _RESERVED),
    "insert": lambda proxy, rng: proxy.insert(rng.choice((UP, DOWN)), None, _GARBAGE),
}
CORRUPTIONS_OF_TLS: dict[str, Now] = {
    # Far enough in for a new link to be past its handshake: there, a changed byte may as well look
    # like a wrong certificate.
    "flip": lambda proxy, rng: proxy.flip(
        rng.choice((UP, DOWN)), rng.randrange(5000, 9000), 1 << rng.randrange(8)
    ),
    "insert": lambda proxy, rng: proxy.insert(
        rng.choice((UP, DOWN)), rng.randrange(5000, 9000), rng.randbytes(rng.randrange(1, 50))
    ),
}
SPELLS: dict[str, Lasting] = {
    "silence": lambda proxy, rng: proxy.silent(*rng.choice(_WAYS)),
    "delay": lambda proxy, rng: proxy.delaying(rng.uniform(0.0, 0.2), *rng.choice(_WAYS)),
    "long delay": lambda proxy, rng: proxy.delaying(2 * _PONG_TIMEOUT, *rng.choice(_WAYS)),
    "throttling": lambda proxy, rng: proxy.throttling(rng.uniform(2e4, 2e5), *rng.choice(_WAYS)),
    "dripping": lambda proxy, rng: proxy.dripping(0.0, *rng.choice(_WAYS)),
    "duplicating": lambda proxy, rng: proxy.duplicating(late=rng.choice([0.0, 0.1])),
    "refusing": lambda proxy, rng: proxy.refusing(),
    "ignoring": lambda proxy, rng: proxy.ignoring(),
    "cutting": lambda proxy, rng: proxy.cutting((0.01, 0.05), seed=rng.getrandbits(32)),
}

_FOR_NEW_LINKS = {"duplicating", "refusing", "ignoring"}  # which do nothing to the present one


def pause(seconds: float) -> None:
    """Let a fault last."""
    threading.Event().wait(seconds)


@contextlib.contextmanager
def talking(talk: Conversation) -> Iterator[None]:
    """Somebody sends all the time, as fast as there is room but not faster than is bearable."""
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.001):
            talk.say(2)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join(DEADLINE)
        assert not writer.is_alive()


def plan(rng: random.Random, rounds: int) -> list[str]:
    """The names of so many faults: all kinds before any comes again."""
    kinds = sorted(STRIKES | CORRUPTIONS | SPELLS)
    names: list[str] = []
    while len(names) < rounds:
        names += rng.sample(kinds, len(kinds))
    return names[:rounds]


def storm(
    make_service: MakeService, rng: random.Random, rounds: int, tls: tuple[ssl.SSLContext, ...]
) -> None:
    """Go through so many faults, and see that nothing is lost, doubled or reordered.

    Args:
        make_service: Makes the service.
        rng: Draws the faults.
        rounds: How many.
        tls: The contexts of server and client; empty: without TLS.
    """
    seen: list[object] = []

    def echo(session: GatewaySession, item: str | bytes) -> str | bytes:
        seen.append(item)
        return item

    now = STRIKES | (CORRUPTIONS_OF_TLS if tls else CORRUPTIONS)
    server_tls, client_tls = tls or (None, None)
    with GatewayThread(echo, ssl_context=server_tls) as gateway, FaultProxy(gateway.port) as proxy:
        talk = Conversation(
            make_service,
            resumes=True,
            ping_interval=0.1,
            pong_timeout=_PONG_TIMEOUT,
            connect_timeout=0.5,
        )
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{proxy.port}/"
        talk.service.connect(url, ssl_context=client_tls, timeout=DEADLINE)
        with talking(talk):
            for name in plan(rng, rounds):
                if name in now:
                    now[name](proxy, rng)
                    pause(rng.uniform(0.0, 0.1))
                else:
                    with SPELLS[name](proxy, rng):
                        if name in _FOR_NEW_LINKS or rng.random() < 0.5:
                            proxy.reset()
                        pause(rng.uniform(0.0, 2 * _PONG_TIMEOUT))
                if rng.random() < 0.5:
                    talk.return_to_life()
            proxy.disarm()
            talk.return_to_life()
        talk.finish()
        talk.check()
        assert seen == [message(number) for number in range(talk.sent)]


@pytest.mark.fault(
    "reset",
    "fin",
    "cut-in-a-frame",
    "cut-in-a-handshake",
    "silence",
    "delay",
    "delay-beyond-the-pong-time-out",
    "throttling",
    "dripping",
    "refusing",
    "ignoring",
    "corrupt-frame",
    "corrupt-tls",
)
@pytest.mark.requirement("1.7", "10.4", "10.5")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm(
    make_service: MakeService,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    seed: int,
) -> None:
    """Some random faults, with TLS and without: nothing is lost, doubled or reordered."""
    print(f"SEED={seed}")
    tls = (server_tls, client_tls) if seed % 2 == 0 else ()
    storm(make_service, random.Random(seed), ROUNDS, tls)


def test_the_storms_have_all_kinds_of_faults() -> None:
    """What is marked above as shown happens there, though chance has its order."""
    names = {name for seed in SEEDS for name in plan(random.Random(seed), ROUNDS)}
    assert names == set(STRIKES | CORRUPTIONS | SPELLS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.requirement("1.7", "10.4", "10.5")
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_a_long_storm(
    make_service: MakeService,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    secure: bool,
) -> None:
    """The same with 250 faults of a chance that nobody has seen before."""
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"SEED={seed}")
    storm(make_service, random.Random(seed), 250, (server_tls, client_tls) if secure else ())
