"""Programs that fork while they are connected: the child hears so, the parent notices nothing."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trustme
from peers import DEADLINE, Collector, Peer, RawServer
from programs.running import command, run

from tunnel.gateway import GatewayThread

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def look(result: subprocess.CompletedProcess[str]) -> None:
    """Whatever the child did, nothing is wrong in it, and nothing has happened to the parent."""
    assert result.stderr == ""
    assert result.returncode == 0
    assert json.loads(result.stdout) == {
        "exit code": 0,
        "wrong": [],
        "after": "after",
        "watched": "after",
        "reconnections": 0,
        "threads": 4,
    }


@pytest.mark.fault("fork-after-connect")
@pytest.mark.parametrize("ending", ["with", "_exit", "multiprocessing"])
def test_a_child_is_told_and_its_parent_unharmed(tmp_path: Path, ending: str) -> None:
    """Each call of what was inherited says so, something new works, and the parent goes on."""
    with GatewayThread("echo") as gateway:
        look(run("forked.py", gateway.url, tmp_path / "queue", ending))


@pytest.mark.fault("fork-after-connect")
def test_a_child_writes_nothing_on_an_encrypted_connection(
    tmp_path: Path, authority: trustme.CA, server_tls: ssl.SSLContext
) -> None:
    """Byte by byte, the server sees its client go on: no alert, no record, no end by the child."""
    frames = Collector()

    def script(peer: Peer) -> None:
        peer.upgrade()
        seen: list[tuple[int, bytes]] = []
        frames(seen)
        while True:
            frame = peer.receive()
            seen.append(frame)
            peer.send(*frame)
            if frame[0] == 8:
                return

    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    with RawServer(script, ssl_context=server_tls) as server:
        look(run("forked.py", server.url, tmp_path / "queue", "exit", path))
    close = 8, b"\x03\xe8"
    of_the_parent, of_the_watched, of_the_child = frames.items
    assert of_the_parent == [(1, b"before"), (1, b"after"), close]
    assert of_the_watched == [(1, b"after"), close]
    assert of_the_child == [(1, b"of the child's own"), close]


@pytest.mark.fault("fork-with-locks-held")
def test_a_fork_while_other_threads_hold_locks(tmp_path: Path) -> None:
    """No child hangs on a lock whose holder is not there."""
    with GatewayThread("echo") as gateway:
        result = run("forked_busy.py", gateway.url, tmp_path / "queue", 8)
    assert result.stderr == ""
    assert json.loads(result.stdout) == [[], 0, 0]


@pytest.mark.fault("fork-in-a-callback")
def test_a_callback_may_fork(echo_server: object) -> None:
    """A child that returns from the callback ends, and does not read its parent's messages."""
    with GatewayThread("echo") as gateway:
        result = run("forked_callback.py", gateway.url)
    assert result.stderr == ""
    assert result.stdout.strip() == "1 ['fork', 'after'] 0"


@pytest.mark.fault("fork-after-connect")
def test_a_child_that_forks_is_a_parent() -> None:
    """What it has made is refused in its own child, and so is what it has inherited itself."""
    with GatewayThread("sink") as gateway:
        result = run("forked_twice.py", gateway.url)
    assert result.stderr == ""
    assert result.returncode == 0
    shown, *refusals = result.stdout.splitlines()
    assert shown == "<TunnelService of another process>"
    assert refusals == ["it was made in another process; make a new one after the fork"] * 2


@pytest.mark.fault("fork-after-connect")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no thread watches the network")
def test_a_child_watches_the_network_for_itself() -> None:
    """Each has a watch of its own, for its own tunnels."""
    result = run("forked_watch.py")
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["child 1 1", "parent 1 1"]


@pytest.mark.fault("fork-after-connect")
@pytest.mark.parametrize("when", ["connected", "dialling"])
def test_a_child_does_not_keep_the_connection_of_a_dead_parent(when: str) -> None:
    """When the parent is killed, its server sees the end at once, though the child lives on."""
    begun, gone = threading.Event(), Collector()

    def script(peer: Peer) -> None:
        if when == "connected":
            peer.upgrade()
        else:
            peer.sock.recv(1)  # of the TLS handshake, which nobody answers
        begun.set()
        peer.wait_until_gone()
        gone(True)

    with RawServer(script) as server:
        url = server.url if when == "connected" else server.url.replace("ws:", "wss:")
        with subprocess.Popen(
            command("orphaned.py", url, when),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdout is not None
            assert program.stdin is not None
            assert begun.wait(DEADLINE)
            if when == "dialling":
                program.stdin.write("\n")
                program.stdin.flush()
            child = int(program.stdout.readline())
            program.stdin.write("\n")
            program.stdin.flush()
            assert gone.wait(1)
            os.kill(child, 0)  # it is there
        assert program.wait(DEADLINE) != 0
