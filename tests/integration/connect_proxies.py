"""Proxies for the tests: HTTP CONNECT, SOCKS 4, 4a and 5, with or without TLS, on loopback."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import ssl
import struct
import threading
from types import TracebackType

from peers import DEADLINE

Target = tuple[str, int]


class ConnectProxy:
    """A proxy that speaks whichever protocol its client speaks, a thread for each connection.

    Whatever server it is asked for, it connects to the one that the test has.

    Args:
        port: The server's, on 127.0.0.1.
        credentials: ``user:password`` that it wants, if any.
        ssl_context: For TLS with the clients.

    Attributes:
        targets: Whom it was asked for, in that order.
    """

    def __init__(
        self,
        port: int,
        *,
        credentials: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._port = port
        self._credentials = credentials
        self._ssl_context = ssl_context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.targets: list[Target] = []
        self._stopped, self._stop = socket.socketpair()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> ConnectProxy:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.close()
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "the proxy does not end"
        self._listener.close()
        self._stopped.close()

    def _accept(self) -> None:
        while True:
            ready, _, _ = select.select([self._listener, self._stopped], [], [])
            if self._stopped in ready:
                return
            client, _ = self._listener.accept()
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(DEADLINE)
        with contextlib.suppress(OSError, EOFError), contextlib.ExitStack() as stack:
            stack.enter_context(client)
            if self._ssl_context is not None:
                client = stack.enter_context(
                    self._ssl_context.wrap_socket(client, server_side=True)
                )
            talk = {b"\x04": self._socks4, b"\x05": self._socks5}.get(first := _read(client, 1))
            if not (self._http(client, first) if talk is None else talk(client)):
                return
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._port)))
            self._forward(client, server)

    def _http(self, client: socket.socket, head: bytes) -> bool:
        while not head.endswith(b"\r\n\r\n"):
            head += _read(client, 1)
        first, *fields = head.decode().split("\r\n")
        host, _, port = first.split()[1].rpartition(":")
        self.targets.append((host, int(port)))
        wanted = base64.b64encode((self._credentials or "").encode()).decode()
        if self._credentials and f"Proxy-Authorization: Basic {wanted}" not in fields:
            client.sendall(b"HTTP/1.1 407 Who are you?\r\nProxy-Authenticate: Basic\r\n\r\n")
            return False
        client.sendall(b"HTTP/1.1 200 Connection established\r\n")
        client.sendall(b"Via: test\r\n\r\n")
        return True

    def _socks4(self, client: socket.socket) -> bool:
        _, port, address = struct.unpack(">BH4s", _read(client, 7))
        user = _read_until_nul(client)
        by_name = address[:3] == b"\0\0\0" and address[3:] != b"\0"
        host = _read_until_nul(client).decode() if by_name else socket.inet_ntoa(address)
        self.targets.append((host, port))
        granted = user.decode() == (self._credentials or "")
        client.sendall(bytes([0, 90 if granted else 93]) + 6 * b"\0")
        return granted

    def _socks5(self, client: socket.socket) -> bool:
        methods = _read(client, _read(client, 1)[0])
        method = 2 if self._credentials else 0
        client.sendall(bytes([5, method if method in methods else 0xFF]))
        if method not in methods:
            return False
        if method:
            assert _read(client, 1) == b"\1"
            user, password = (_read(client, _read(client, 1)[0]).decode() for _ in range(2))
            granted = f"{user}:{password}" == self._credentials
            client.sendall(bytes([1, not granted]))
            if not granted:
                return False
        _, command, _, kind = _read(client, 4)
        assert command == 1
        if kind == 3:
            host = _read(client, _read(client, 1)[0]).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, _read(client, size))
        self.targets.append((host, struct.unpack(">H", _read(client, 2))[0]))
        client.sendall(b"\5\0\0\1\0\0\0\0\0\0")
        return True

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        """Until either of them has gone, or the test is over."""
        while True:
            if isinstance(client, ssl.SSLSocket) and client.pending():
                ready: list[socket.socket] = [client]
            else:
                ready, _, _ = select.select([client, server, self._stopped], [], [])
            if self._stopped in ready:
                return
            for source, sink in ((client, server), (server, client)):
                if source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    sink.sendall(data)


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _read_until_nul(sock: socket.socket) -> bytes:
    data = b""
    while (byte := _read(sock, 1)) != b"\0":
        data += byte
    return data
