"""The other ends of the integration tests: echo servers in processes, and a scripted raw one."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
DEADLINE = 20.0
"""Seconds that something may take which is certain to happen, on a machine that is very busy."""

_SERVERS = Path(__file__).parent / "servers"
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class ServerProcess:
    """An echo server that is not ours, which can be killed and started again on its port.

    Args:
        kind: ``websockets``, ``aiohttp`` or ``ws`` (Node's).
        certificate: A PEM file with key and certificate, for wss; only ``websockets``.
        node_modules: Where Node's ws is.
    """

    def __init__(
        self, kind: str, *, certificate: Path | None = None, node_modules: Path | None = None
    ) -> None:
        self._environment = dict(os.environ)
        if kind == "ws":
            self._command = ["node", str(_SERVERS / "echo_ws.js")]
            self._environment["NODE_PATH"] = str(node_modules)
        else:
            self._command = [sys.executable, str(_SERVERS / f"echo_{kind}.py")]
        self._options = [] if certificate is None else ["--certificate", str(certificate)]
        self._scheme = "ws" if certificate is None else "wss"
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self._scheme}://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it; returns once it listens. A later start is on the same port."""
        self._process = subprocess.Popen(
            [*self._command, str(self.port), *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        assert self._process.stdout is not None
        word, _, port = self._process.stdout.readline().partition(" ")
        assert word == "ready", "the server did not start; see its standard error"
        self.port = int(port)

    def kill(self) -> None:
        """End it by SIGKILL: it gets no chance to close anything itself."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.stdout.close()


class Peer:
    """The server's end of one connection, byte by byte.

    Attributes:
        headers: Of the upgrade request, with names in lower case.
        resource: Path and query of the request.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.headers: dict[str, str] = {}
        self.resource = ""
        self._buffer = b""

    def upgrade(self, headers: Mapping[str, str] | None = None) -> None:
        """Read the request and answer it with 101."""
        self.read_request()
        key = self.headers["sec-websocket-key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest()).decode()
        fields = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
        self.respond("101 Switching Protocols", {**fields, **(headers or {})})

    def read_request(self) -> None:
        """Read the request."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._read(65536)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.resource = first.split(" ")[1]
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}

    def respond(self, status: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer the request."""
        lines = [f"HTTP/1.1 {status}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send(self, opcode: int, payload: bytes, *, final: bool = True) -> None:
        """Send one frame (RFC 6455, section 5.2)."""
        self.sock.sendall(frame(opcode, payload, final=final))

    def text(self, text: str) -> None:
        """Send a text message."""
        self.send(TEXT, text.encode())

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame."""
        self.send(CLOSE, struct.pack(">H", code) + reason.encode())

    def receive(self) -> tuple[int, bytes]:
        """Read one frame: its opcode and payload.

        Raises:
            ConnectionError: The client has gone.
        """
        first, second = self._take(2)
        assert second & 0x80, "a client's frame is not masked"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._take(8))
        key = self._take(4)
        payload = self._take(size)
        mask = int.from_bytes((key * (size // 4 + 1))[:size], "big")
        return first & 0x0F, (int.from_bytes(payload, "big") ^ mask).to_bytes(size, "big")

    def receive_close(self) -> int | None:
        """Read until the client's close frame. Returns its code, None if it has none."""
        while True:
            opcode, payload = self.receive()
            if opcode == CLOSE:
                return struct.unpack(">H", payload[:2])[0] if payload else None

    def echo(self) -> None:
        """Echo messages and answer pings and a close frame, until the client has gone."""
        while True:
            opcode, payload = self.receive()
            self.send(PONG if opcode == PING else opcode, payload)
            if opcode == CLOSE:
                return

    def wait_until_gone(self) -> None:
        """Read and drop whatever comes, until the client has gone."""
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass

    def reset(self) -> None:
        """Break the connection with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _take(self, size: int) -> bytes:
        parts, missing = [self._buffer[:size]], size - len(self._buffer)
        self._buffer = self._buffer[size:]
        while missing > 0:
            data = self._read(65536)
            parts.append(data[:missing])
            self._buffer = data[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)

    def _read(self, size: int) -> bytes:
        data = self.sock.recv(size)
        if not data:
            raise ConnectionError("the client has gone")
        return data


class RawServer:
    """A server whose every connection is served by a script, a thread each.

    Args:
        script: Called with each accepted `Peer`; when it returns the connection is closed. That the
            client has gone (`OSError`) ends it silently; another exception fails the test.
        ssl_context: For wss.
    """

    def __init__(
        self, script: Callable[[Peer], object], *, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._script = script
        self._ssl_context = ssl_context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Condition()  # guards all below
        self._peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self._errors: list[Exception] = []
        self.accepted = 0
        self._acceptor = threading.Thread(target=self._accept, name="raw-server", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> RawServer:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self._errors:
            raise self._errors[0]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'ws' if self._ssl_context is None else 'wss'}://127.0.0.1:{self.port}/"

    def wait_accepted(self, count: int) -> bool:
        """Wait until so many connections were accepted."""
        with self._lock:
            return self._lock.wait_for(lambda: self.accepted >= count, DEADLINE)

    def stop(self) -> None:
        """Listen no more, break all connections, and wait for the scripts to end."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the acceptor
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            peers, threads = list(self._peers), list(self._threads)
        for peer in peers:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "a script of the server does not end"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            with self._lock:
                self.accepted += 1
                self._threads.append(thread)
                self._lock.notify_all()
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        peer = Peer(sock)
        with self._lock:
            self._peers.append(peer)
        try:
            if self._ssl_context is not None:
                sock = peer.sock = self._ssl_context.wrap_socket(sock, server_side=True)
            self._script(peer)
        except OSError:
            pass
        except Exception as error:
            self._errors.append(error)
        finally:
            with self._lock:
                self._peers.remove(peer)
            sock.close()
            peer.sock.close()


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A server's frame (RFC 6455, section 5.2): not masked."""
    first = (0x80 if final else 0) | opcode
    if len(payload) < 126:
        return struct.pack(">BB", first, len(payload)) + payload
    if len(payload) < 65536:
        return struct.pack(">BBH", first, 126, len(payload)) + payload
    return struct.pack(">BBQ", first, 127, len(payload)) + payload


class Collector:
    """What a callback was called with, in order; and waiting for it."""

    def __init__(self) -> None:
        self.items: list[object] = []
        self._changed = threading.Condition()

    def __call__(self, item: object) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def wait(self, count: int, timeout: float = DEADLINE) -> bool:
        """Wait until there are so many."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.items) >= count, timeout)

    def wait_for(
        self, condition: Callable[[list[object]], object], timeout: float = DEADLINE
    ) -> bool:
        """Wait until a condition holds for what there is."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: condition(self.items), timeout))
