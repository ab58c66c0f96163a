"""The other ends of the figures: the same for all contenders, each in a process of its own.

For throughput it is a raw socket, since any server with an event loop is slower than a good client,
and would be what is measured. What runs in the processes is `benchmarks.figures.serving`. A server
ends by itself a minute after its last client came, so that a figure that is stuck ends as well.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parent.parent.parent


class Server:
    """A server in a process; a context manager that starts and kills it.

    Args:
        *command: What kind, and its arguments: see `benchmarks.figures.serving`.
        scheme: Of its URL.

    Attributes:
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self, *command: str, scheme: str = "ws") -> None:
        self._command = command
        self._scheme = scheme
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.figures.serving", *self._command],
            stdin=subprocess.PIPE,  # closed when this process ends, however it does
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
            env={**os.environ, "PYTHONPATH": path},
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.strip().isdigit():
            self.stop()
            raise OSError(f"the server {self._command[0]!r} did not start: {line.strip()}")
        self.port = int(line)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"{self._scheme}://127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Kill it, and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(10)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


class Blaster(Server):
    """Sends prebuilt frames as fast as possible: so many for each message of a client.

    So the time from the client's message to the last frame is that of receiving. It answers pings
    and closing handshakes.

    Args:
        size: Bytes in each frame's payload, which is binary.
        count: Frames for each message.
    """

    def __init__(self, size: int, count: int) -> None:
        super().__init__("blast", str(size), str(count))


class Counter(Server):
    """Reads and counts; for each so many bytes on the wire it answers one text message.

    How many is in the query of the client's URL: see `url_of`. It looks at nothing that it reads,
    so a closing handshake gets no answer: drop the connection.
    """

    def __init__(self) -> None:
        super().__init__("count")

    def url_of(self, messages: int, size: int) -> str:
        """The URL for so many messages of this many bytes before each answer."""
        header = 2 if size < 126 else 4 if size < 65536 else 10
        return f"{self.url}?bytes={messages * (header + 4 + size)}"


class SessionServer(Server):
    """The two above for tunnels that resume: see `benchmarks.figures.serving_sessions`.

    With ``?blast`` in the URL a client gets so many frames for its first message. Else what it
    sends is counted and acknowledged; `TunnelService.flush` waits for that.

    Args:
        size: Bytes in each message, either way.
        count: Frames for a client's first message.
    """

    def __init__(self, size: int, count: int) -> None:
        super().__init__("session", str(size), str(count))


class GatewayServer(Server):
    """A gateway with the default settings, which serves plain clients as well.

    Args:
        handler: As for `tunnel.gateway.Gateway`, by name.
    """

    def __init__(self, handler: str) -> None:
        super().__init__("gateway", handler)


class EchoServer(Server):
    """Sends each message back: asyncio `websockets`, with uvloop where there is one.

    Args:
        secure: Whether by TLS, with a certificate of an authority of its own.
    """

    def __init__(self, secure: bool = False) -> None:
        super().__init__("echo", scheme="wss" if secure else "ws")
        self._is_secure = secure
        self._authority = ""
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        if self._is_secure:
            self._folder = Path(tempfile.mkdtemp(prefix="echo-"))
            file = self._folder / "server.pem"
            self._authority = _write_certificate(file)
            self._command = ("echo", str(file))
        super().__enter__()
        return self

    def client_context(self) -> ssl.SSLContext:
        """What a client of a secure one needs; it checks the certificate."""
        return ssl.create_default_context(cadata=self._authority)

    def stop(self) -> None:
        """Kill it, and remove its certificate."""
        super().stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class SocketIOServer(Server):
    """Acknowledges each event with its argument: python-socketio's own, with uvloop where it is."""

    def __init__(self) -> None:
        super().__init__("socketio")


def _write_certificate(file: Path) -> str:
    """Make an authority and a certificate for 127.0.0.1; returns the authority's, in PEM."""
    import trustme

    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(file))
    return authority.cert_pem.bytes().decode("ascii")
