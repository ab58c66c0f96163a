"""TLS with a server inside of TLS with a proxy, on one socket.

`ssl.SSLContext.wrap_socket` cannot wrap a socket that speaks TLS already: it would take the
descriptor and leave the outer TLS out. So the inner TLS reads and writes memory
(`ssl.SSLContext.wrap_bio`), and what it reads and writes goes through the outer one. To the outside
this is an `ssl.SSLSocket`, made by the context with the proxy (`sslsocket_class`), and everything
that holds for one holds here, too: one call at a time, and after a `send` that would have to wait
the next one begins with the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from typing import Any

from tunnel.tls import TlsSettings

_PIECE = 16 * 1024
"""Bytes per call to the outer TLS: one record."""


class NestedTlsSocket(ssl.SSLSocket):
    """Speaks TLS with a proxy; after `nest`, TLS with a server through it.

    For one thread at a time. Not to be made directly: see `nesting_context`.
    """

    # The class's own, since `SSLSocket` lets nobody into its constructor.
    _inner: ssl.SSLObject | None = None
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    _unsent = b""  # encrypted, and not taken by the outer TLS yet
    _encrypted = 0  # so much of the next `send`'s data is in `_unsent` already

    def nest(self, context: ssl.SSLContext, server_hostname: str) -> NestedTlsSocket:
        """Everything from now on is about the server; begin with `do_handshake`."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._inner = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )
        return self

    def do_handshake(self, block: bool = False) -> None:
        """See `ssl.SSLSocket.do_handshake`; it is never waited for."""
        if self._inner is None:
            super().do_handshake(block)
            return
        while True:
            try:
                self._inner.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert that says why
                raise
            else:
                self._flush()
                return

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """See `ssl.SSLSocket.recv`."""
        if self._inner is None:
            return super().recv(buflen, flags)
        while True:
            try:
                return self._inner.read(buflen)
            except ssl.SSLWantReadError:
                self._fill()
            except ssl.SSLEOFError:  # as `ssl.SSLSocket` does by default
                return b""

    def send(self, data: Any, flags: int = 0) -> int:
        """See `ssl.SSLSocket.send`."""
        if self._inner is None:
            return super().send(data, flags)
        self._flush()
        if not self._encrypted:
            self._encrypted = self._inner.write(data)
            self._flush()
        taken, self._encrypted = self._encrypted, 0
        return taken

    def pending(self) -> int:
        """Bytes that have been read from the system and not from here, encrypted ones too."""
        outer = super().pending()
        if self._inner is None:
            return outer
        return self._inner.pending() + self._incoming.pending + outer

    def version(self) -> str | None:
        """See `ssl.SSLSocket.version`."""
        return super().version() if self._inner is None else self._inner.version()

    def getpeercert(self, binary_form: bool = False) -> Any:
        """See `ssl.SSLSocket.getpeercert`."""
        if self._inner is None:
            return super().getpeercert(binary_form)
        return self._inner.getpeercert(binary_form)

    def _fill(self) -> None:
        """Give the inner TLS what the outer one has.

        Raises:
            ssl.SSLWantReadError: There is nothing now.
        """
        data = super().recv(_PIECE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        """Give the outer TLS what the inner one has.

        Raises:
            ssl.SSLWantWriteError: It does not take all of it now.
        """
        self._unsent += self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[super().send(self._unsent[:_PIECE]) :]


@functools.lru_cache(maxsize=1)
def nesting_context() -> ssl.SSLContext:
    """For TLS with proxies: verifies against the system's certificates."""
    context = TlsSettings().make_context()
    context.sslsocket_class = NestedTlsSocket
    return context
