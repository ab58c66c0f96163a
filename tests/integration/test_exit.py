"""Programs that end without `disconnect`: no hang, no traceback, and what is on disk stays."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from gateways import GatewayProcess
from peers import Collector, Peer, RawServer
from programs.running import run

from tunnel.gateway import GatewayThread
from tunnel.request_queue import RequestQueue

COUNT = 200  # as in the program
NUMBERS = [f"{number}" for number in range(COUNT)]
SECONDS = 10.0  # for the start and the end of a program, on a machine that is very busy


def ended(how: str, url: str, queue: object = "") -> str:
    """What a program has written that ended as it should."""
    began = time.monotonic()
    result = run("ending.py", how, url, queue)
    assert result.stderr == ""
    assert result.returncode == 0
    assert time.monotonic() - began < SECONDS
    return result.stdout


@pytest.mark.fault("exit-while-connected")
@pytest.mark.parametrize("how", ["calling", "writing", "iterated", "late", "watched"])
def test_a_live_tunnel_does_not_disturb_the_end(how: str) -> None:
    """Whatever the tunnel and its callbacks are doing, the program ends in time, with code 0."""
    with GatewayThread("echo") as gateway:
        ended(how, gateway.url)


@pytest.mark.fault("exit-while-connected")
def test_what_was_sent_before_the_end_arrives() -> None:
    """At the end the tunnel is disconnected: all goes out, and a close frame after it."""
    frames = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        while True:
            frame = peer.receive()
            frames(frame)
            if frame[0] == 8:
                peer.close(1000)
                return

    with RawServer(script) as server:
        ended("live", server.url)
        assert frames.wait(COUNT + 1)
    assert frames.items == [*((1, text.encode()) for text in NUMBERS), (8, b"\x03\xe8")]


@pytest.mark.fault("exit-with-a-queue-on-disk")
def test_a_queue_on_disk_is_drained_as_far_as_possible(tmp_path: Path) -> None:
    """A peer that acknowledges leaves nothing in the file; one that does not read, everything."""
    with GatewayThread("sink") as gateway:
        ended("durable", gateway.url, tmp_path / "drained")
    with RequestQueue(path=tmp_path / "drained") as queue:
        assert queue.snapshot() == ()
        assert queue.saved_session() is None


@pytest.mark.fault("exit-with-a-queue-on-disk")
def test_a_queue_on_disk_outlives_the_end_of_a_program_that_recovers(tmp_path: Path) -> None:
    """All that was accepted is there for the next one."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        ended("recovering", f"ws://127.0.0.1:{nobody.getsockname()[1]}/", tmp_path / "queue")
    with RequestQueue(COUNT, path=tmp_path / "queue") as queue:
        assert list(queue.snapshot()) == NUMBERS


@pytest.mark.fault("exit-while-another-thread-works")
def test_another_thread_goes_on_after_the_main_one() -> None:
    """A thread that is no daemon keeps the tunnel, also over losses, by names of hosts."""
    with GatewayProcess("--handler", "echo") as gateway:
        said = ended("worked_on", gateway.url.replace("127.0.0.1", "localhost"))
    assert said.split() == ["0", "1", "2", "disconnected"]


@pytest.mark.fault("exit-while-another-thread-works")
def test_a_connection_that_begins_after_the_main_thread_is_refused_or_works() -> None:
    """From Python 3.12 on no thread can be started by then, which is what the error says."""
    with GatewayThread("echo") as gateway:
        assert ended("connecting_late", gateway.url).strip() in (
            "connected",
            "ResourceExhaustedError",
        )


@pytest.mark.fault("exit-while-connected")
def test_a_handler_at_the_exit_finds_its_tunnel_as_it_was() -> None:
    """`atexit` handlers of the application may send and ask; the last word arrives too."""
    heard = Collector()

    def hear(session: object, message: object) -> object:
        heard(message)
        return message if isinstance(message, str) else b""

    with GatewayThread(hear) as gateway:
        assert ended("saying_goodbye", gateway.url).split() == ["goodbye", "200"]
        assert heard.wait(2)
    assert [item for item in heard.items if isinstance(item, str)] == ["goodbye", "the last word"]
