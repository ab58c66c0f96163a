"""The socket that websocket-client gets for the upgrade: under a deadline, abortable, bounded.

Theory of operation
-------------------

The library makes the request and judges the answer (RFC 6455, section 4.1). What it does not do, or
does not do strictly enough, is done on the way through:

- The request: it drops the parameters of a path (``/a;b=1``), encodes header values as UTF-8 and
  not as Latin-1 (RFC 9110, section 5.5), and adds cookies from a jar that all connections of the
  process share. So the request line and the application's headers are put in here, and of what the
  library wrote a ``Cookie`` is left out.
- The answer is read whole before the library sees any of it: up to the end of its headers, within a
  limit and the dial's deadline. What follows belongs to the WebSocket (see `rest`), or is the body
  of a refusal: that is never read, since it may be endless, and is of no use. A header may be
  folded, and a CR or NUL within one becomes a space (RFC 9112, sections 2.2 and 5.2), so that
  nobody takes a part of it for another header.
- An answer other than 101 is an error of ours. Of a 101 the library gets to see what it judges, and
  no ``Set-Cookie``, which it would put into its jar. It compares the accept key without regard to
  case and takes the last of several, so that is judged here, and so are the version of HTTP and
  what was not offered.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import re
import ssl
import sys
from collections.abc import Sequence

from tunnel.dial import Dial
from tunnel.errors import ConnectionLostError, ProtocolError
from tunnel.handshake_errors import error_for_status
from tunnel.stream import Stream

_CHUNK = 4096
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_STATUS_LINE = re.compile(r"HTTP/(\d\.\d) ([1-9]\d\d)(?: .*)?", re.ASCII)
_KEY, _ACCEPT = "sec-websocket-key", "sec-websocket-accept"
_PROTOCOL, _EXTENSIONS = "sec-websocket-protocol", "sec-websocket-extensions"
_BLANKS = " \t"
_JUDGED = ("upgrade", "connection", _ACCEPT, _PROTOCOL)  # by the library


class HandshakeSocket:
    """What websocket-client takes for a socket while it speaks HTTP. For the dial's thread.

    Args:
        stream: Connected.
        dial: Gives the deadline, and says when to stop.
        resource: What is requested, as it is to be on the wire.
        limit: Bytes that the answer may have up to the end of its headers.
        headers: The application's, sent behind the library's.
        subprotocols: Those that are offered.

    Attributes:
        headers: Of the answer, with names in lower case; several of a name are joined by commas
            (RFC 9110, section 5.3). Empty before it has come.
        rest: What was read behind them.
    """

    def __init__(
        self,
        stream: Stream,
        dial: Dial,
        resource: str,
        limit: int,
        *,
        headers: Sequence[tuple[str, str]] = (),
        subprotocols: Sequence[str] = (),
    ) -> None:
        self._stream = stream
        self._dial = dial
        self._resource = resource
        self._limit = limit
        self._own_headers = headers
        self._subprotocols = subprotocols
        self._key = ""
        self._read = bytearray()  # of the answer, and not looked at yet
        self._searched = 0  # so much of that has no end of a line
        self._answer: io.BytesIO | None = None  # what the library gets of it, byte by byte
        self.headers: dict[str, str] = {}
        dial.deadline.step = "WebSocket upgrade"

    @property
    def rest(self) -> bytes:
        """The bytes that were read behind the headers."""
        return bytes(self._read)

    def send(self, data: bytes) -> int:
        """Write the request, all of it."""
        lines = data.decode("utf-8").split("\r\n")[1:]
        fields = [line for line in lines if line and not line.lower().startswith("cookie:")]
        for line in fields:
            name, _, value = line.partition(":")
            if name.lower() == _KEY:
                self._key = value.strip()
        fields += [f"{name}: {value}" for name, value in self._own_headers]
        request = "\r\n".join([f"GET {self._resource} HTTP/1.1", *fields, "", ""])
        # A server may refuse before it has read the request, and hang up: its answer, or the alert
        # of its TLS, says why. Without one the end of the stream shows when it is read.
        with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
            self._dial.send(self._stream, request.encode("latin-1"))
        return len(data)

    def recv(self, size: int) -> bytes:
        """Read, as `socket.recv` does, what the library is to see of the answer.

        Raises:
            TunnelError: The time was up, the dial was interrupted, or the answer is a refusal, or
                not in order.
            OSError: The connection broke.
        """
        if self._answer is None:
            self._answer = io.BytesIO(self._accepted())
        return self._answer.read(size)

    def gettimeout(self) -> float:
        """Not zero, so that the library takes `recv` for a blocking one; it asks for each byte."""
        return 1.0

    def close(self) -> None:
        """The library closes what failed; the transport owns the stream and does it itself."""

    def _accepted(self) -> bytes:
        """Read the answer and judge it; return what the library is to see of it."""
        while True:
            version, status, fields = self._read_head()
            if status == 101 or not 100 <= status <= 199:
                break  # the others come before the answer, and mean nothing (RFC 9110, 15.2)
        self.headers = _joined(fields)
        if status != 101:
            raise error_for_status(status, self.headers)
        if version != "1.1":
            raise _refused(f"the server switched protocols by HTTP/{version}, not HTTP/1.1")
        self._judge(fields)
        judged = [f"{name}: {self.headers[name]}" for name in _JUDGED if name in self.headers]
        return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *judged, "", ""]).encode()

    def _judge(self, fields: list[tuple[str, str]]) -> None:
        """Judge what the library does not, or not strictly enough (RFC 6455, section 4.1)."""
        digest = hashlib.sha1((self._key + _GUID).encode(), usedforsecurity=False).digest()
        expected = base64.b64encode(digest).decode()
        if [value for name, value in fields if name == _ACCEPT] != [expected]:
            raise _refused("the server's Sec-WebSocket-Accept is missing, wrong or there twice")
        if self.headers.get(_EXTENSIONS):
            raise _refused("the server chose an extension that was not offered")
        chosen = self.headers.get(_PROTOCOL)
        if chosen and chosen not in self._subprotocols:
            raise _refused("the server chose a subprotocol that was not offered")

    def _read_head(self) -> tuple[str, int, list[tuple[str, str]]]:
        """Read up to the end of the headers: the version of HTTP, the status, and the headers."""
        found = _STATUS_LINE.fullmatch(self._read_line())
        if found is None:
            raise _refused("the server's answer does not begin with a status line of HTTP")
        fields: list[tuple[str, str]] = []
        while line := self._read_line():
            if line[0] in _BLANKS:
                if not fields:
                    raise _refused("the server's answer has white space before its first header")
                name, value = fields[-1]
                fields[-1] = name, f"{value} {line.strip(_BLANKS)}".strip(_BLANKS)
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise _refused("the server's answer has a header without a colon")
            fields.append((name.lower(), value.strip(_BLANKS)))
        return found[1], int(found[2]), fields

    def _read_line(self) -> str:
        while (end := self._read.find(b"\n", self._searched)) < 0:
            self._searched = len(self._read)
            if self._searched >= self._limit:
                raise self._too_long()
            self._dial.deadline.remaining()  # also of a server that never lets us wait
            chunk = self._dial.receive(self._stream, _CHUNK)
            if not chunk:
                raise ConnectionLostError("the connection ended within the answer to the upgrade")
            self._read += chunk
        line = self._read[:end].decode("latin-1").removesuffix("\r")
        line = line.replace("\r", " ").replace("\0", " ")
        del self._read[: end + 1]
        self._searched = 0
        self._limit -= end + 1
        if self._limit < 0:
            raise self._too_long()
        return line

    def _too_long(self) -> ProtocolError:
        return _refused("the server's answer to the upgrade does not come to an end")


def _refused(text: str) -> ProtocolError:
    return ProtocolError(text, close_code=None)  # there is nothing to close yet


def _joined(fields: list[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in fields:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    # Nearly the same for all connections to a server: kept once, and not for each.
    return {sys.intern(name): sys.intern(value) for name, value in headers.items()}
