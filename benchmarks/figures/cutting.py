"""A counter whose connections can be cut: ``python -m benchmarks.figures.cutting``.

A tunnel cannot be made to lose its link from its own side; so whoever connects to the path ``/cut``
ends all other connections, without a closing handshake.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import websocket

from benchmarks.figures.servers import ROOT, Counter
from benchmarks.figures.serving import PATIENCE, count_bytes
from benchmarks.figures.serving_frames import upgrade
from benchmarks.figures.serving_socketio import greet, is_socketio

if TYPE_CHECKING:
    from typing_extensions import Self

_CUT = "/cut"


class CuttableCounter(Counter):
    """As `Counter`; and its connections can be cut."""

    def __enter__(self) -> Self:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.figures.cutting"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def cut(self) -> None:
        """End all its connections; when it returns, that has been done."""
        client: Any = websocket.create_connection(f"{self.url[:-1]}{_CUT}", timeout=10)
        client.sock.recv(1)  # nothing comes but the end
        client.shutdown()


class _Clients:
    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the set
        self._clients: set[socket.socket] = set()

    def serve(self, client: socket.socket) -> None:
        """Serve one, in a thread of its own."""
        with client, suppress(OSError):  # they leave, or are cut
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._clients.add(client)  # before it knows that it is connected
            try:
                path = upgrade(client)
                if path == _CUT:
                    self._cut_all_but(client)
                    return
                if is_socketio(path):
                    greet(client)
                count_bytes(client, path)
            finally:
                with self._lock:
                    self._clients.discard(client)

    def _cut_all_but(self, asking: socket.socket) -> None:
        with self._lock:
            for client in self._clients - {asking}:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve, until the parent ends, or nobody has come for a minute."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    clients = _Clients()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        print(server.getsockname()[1], flush=True)
        server.settimeout(PATIENCE)
        with suppress(TimeoutError):
            while True:
                client, _ = server.accept()
                threading.Thread(target=clients.serve, args=(client,), daemon=True).start()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
