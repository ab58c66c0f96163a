"""Programs that end while their tunnel lives, which nobody has disconnected.

``python ending.py HOW URL QUEUE``: `HOW` is the name of a function below. What they write to
standard output is up to each.
"""

from __future__ import annotations

import atexit
import sys
import threading

from loguru import logger

from tunnel import (
    HeartbeatWebSocket,
    RequestQueue,
    TunnelConfig,
    TunnelConnectionState,
    TunnelService,
)

LONG = 20.0
URL, QUEUE = sys.argv[2:]
COUNT = 200
CONFIG = TunnelConfig(
    max_queue_size=COUNT, max_reconnect_attempts=None, reconnect_base_delay=0.01, jitter=0.0
)


def connected(**options: object) -> TunnelService:
    """A service with a connection."""
    service = TunnelService(CONFIG, **options)
    service.connect(URL, timeout=LONG)
    return service


def live() -> None:
    """It has a connection, and messages on their way."""
    service = connected()
    service.send_many([f"{number}" for number in range(COUNT)])


def durable() -> None:
    """The same with a queue on disk."""
    service = connected(request_queue=RequestQueue(COUNT, path=QUEUE))
    service.send_many([f"{number}" for number in range(COUNT)])


def recovering() -> None:
    """It tries to connect, and has messages on disk."""
    service = TunnelService(CONFIG, request_queue=RequestQueue(COUNT, path=QUEUE))
    service.connect(URL, wait=False)
    assert service.wait_for(TunnelConnectionState.RECONNECTING, timeout=LONG)
    service.send_many([f"{number}" for number in range(COUNT)])


def calling() -> None:
    """A callback never returns."""
    called = threading.Event()

    def on_message(message: object) -> None:
        called.set()
        threading.Event().wait()

    connected(on_message=on_message).send("x")
    assert called.wait(LONG)


def writing() -> None:
    """Callbacks and the log write to standard output and error all the time."""
    logger.remove()
    logger.add(sys.stdout, level="TRACE")
    logger.enable("tunnel")
    called = threading.Event()

    def on_message(message: str) -> None:
        print("got", message, flush=True)
        called.set()
        service.send(message)

    service = connected(on_message=on_message)
    for number in range(COUNT):
        service.send(str(number))
    assert called.wait(LONG)


def iterated() -> None:
    """A daemon iterates over the messages."""
    service = connected()
    threading.Thread(target=lambda: list(service.messages()), daemon=True).start()
    service.send("x")


def worked_on() -> None:
    """The main thread is at its end, another one is not: it loses the link, and goes on."""
    service = connected()

    def work() -> None:
        threading.main_thread().join()
        messages = service.messages()
        for number in range(3):
            service.send(f"{number}")
            print(next(messages))
            assert service.reconnect(timeout=LONG)
        service.request(b"x")
        service.disconnect()
        print("disconnected")

    threading.Thread(target=work).start()


def saying_goodbye() -> None:
    """A handler at the exit sends, asks, and sends once more."""
    service = connected()

    def say() -> None:
        service.send("goodbye")
        print(next(service.messages()), service.request(b"").status_code)
        service.send("the last word")

    atexit.register(say)


def late() -> None:
    """A handler at the exit finds everything disconnected, and sends all the same."""
    service = connected()
    atexit.unregister(sys.modules["tunnel.exits"].disconnect_all)
    atexit.register(lambda: service.send("into the queue"))
    atexit.register(sys.modules["tunnel.exits"].disconnect_all)


def watched() -> None:
    """One connection with a heartbeat."""
    connection = HeartbeatWebSocket(URL)
    connection.start()
    connection.send("x")


def connecting_late() -> None:
    """The main thread is at its end, and another one begins to connect."""

    def work() -> None:
        threading.main_thread().join()
        try:
            service = connected()
        except Exception as error:
            print(type(error).__name__)
        else:
            service.disconnect()
            print("connected")

    threading.Thread(target=work).start()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
