"""A dial whose steps are watched: name look-up, TCP, proxy, TLS, upgrade.

The library dials (`tunnel.dial`, `tunnel.transport`). Here only the clock is read around each of
its steps, and what came of it is put into words.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from tunnel.addresses import TunnelUrl
from tunnel.certificate import CertificateFacts
from tunnel.commands.steps import Steps, StepStatus
from tunnel.dial import Dial
from tunnel.dial_options import DIRECT, DialOptions
from tunnel.errors import AuthenticationFailedError, TunnelError
from tunnel.happy_eyeballs import AddressInfo
from tunnel.proxy import Proxy
from tunnel.proxy_handshake import Conversation
from tunnel.stream import Stream
from tunnel.tls import TlsSettings
from tunnel.transport import DialRequest, WebSocketTransport
from tunnel.waker import Waker

SOON = 14
"""Days in which a certificate expires of which one should know."""

_SECOND_LOOK = 3.0
"""Seconds to fetch a refused certificate, for a look at what is wrong with it."""


class ObservedTransport(WebSocketTransport):
    """A transport that tells how its dial goes.

    Args:
        waker: As for `WebSocketTransport`.
        steps: Whom. Used by the tunnel's thread while it dials.
    """

    def __init__(self, waker: Waker, steps: Steps) -> None:
        super().__init__(waker)
        self._steps = steps

    def _make_dial(self, timeout: float, interrupted: Callable[[], bool]) -> Dial:
        return _ObservedDial(timeout, self.waker, interrupted, self._steps)

    def _upgrade(self, request: DialRequest, stream: Stream, dial: Dial) -> None:
        steps = self._steps
        steps.begin("upgrade")
        try:
            super()._upgrade(request, stream, dial)
        except Exception as error:
            translated = TunnelError.from_exception(error)
            if isinstance(translated, AuthenticationFailedError):
                # The upgrade as such works: there is a WebSocket server behind it.
                steps.note(f"the server answers {translated.status}", status_code=translated.status)
                steps.begin("authentication")
            raise
        chosen = f", subprotocol {self.subprotocol}" if self.subprotocol else ""
        steps.note(
            f"101 Switching Protocols{chosen}", status_code=101, subprotocol=self.subprotocol
        )
        steps.begin("authentication")
        has_spoken = any(name.lower() == "authorization" for name, _ in request.headers)
        steps.note(
            f"let in {'with the' if has_spoken else 'without an'} Authorization header",
            credentials=has_spoken,
        )


class _ObservedDial(Dial):
    """Does what `Dial` does, and notes each step."""

    def __init__(
        self, timeout: float, waker: Waker, interrupted: Callable[[], bool], steps: Steps
    ) -> None:
        super().__init__(timeout, waker, interrupted)
        self._watch = steps
        self._via = ""

    def open_stream(
        self,
        url: TunnelUrl,
        ssl_context: ssl.SSLContext | None,
        options: DialOptions = DIRECT,
    ) -> Stream:
        """See `Dial.open_stream`."""
        try:
            stream = super().open_stream(url, ssl_context, options)
        except ssl.SSLCertVerificationError:
            with contextlib.suppress(Exception):  # more than can be found out is not wanted
                self._watch.add_facts(**self._refused_certificate(url, options))
            raise
        if not url.is_secure:
            self._watch.skip("TLS", "ws:// is not encrypted")
        return stream

    def _pass_proxy(self, proxy: Proxy, url: TunnelUrl, options: DialOptions) -> socket.socket:
        self._via = f"the proxy {proxy} at "
        return super()._pass_proxy(proxy, url, options)

    def _look_up(self, host: str, port: int) -> list[AddressInfo]:
        self._watch.begin("DNS")
        found = super()._look_up(host, port)
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host.partition("%")[0])
            self._watch.note("not needed: it is an address", StepStatus.SKIPPED)
            return found
        addresses = list(dict.fromkeys(str(target[0]) for *_, target in found))
        self._watch.note(f"{host} is {', '.join(addresses)}", host=host, addresses=addresses)
        return found

    def _connect_any(self, addresses: list[AddressInfo], options: DialOptions) -> socket.socket:
        self._watch.begin("TCP")
        sock = super()._connect_any(addresses, options)
        try:
            address, port = sock.getpeername()[:2]
        except OSError:  # it is gone already
            sock.close()
            raise
        shown = f"[{address}]" if ":" in address else address
        self._watch.note(f"connected to {self._via}{shown}:{port}", address=address, port=port)
        return sock

    def _converse(self, sock: socket.socket, talk: Conversation) -> None:
        self._watch.begin("proxy")
        super()._converse(sock, talk)
        self._watch.note("the proxy opens the way")

    def _wrap_in_tls(
        self, sock: socket.socket, host: str, context: ssl.SSLContext
    ) -> ssl.SSLSocket:
        self._watch.begin("TLS")
        wrapped = super()._wrap_in_tls(sock, host, context)
        facts = _facts(wrapped)
        parts = [str(facts["version"]), str(facts["cipher"])]
        if "subject" in facts:
            parts += [f"certificate of {facts['subject'] or host}", _days(facts["days_left"])]
        status, suggestion = StepStatus.OK, None
        if context.verify_mode is ssl.CERT_NONE:
            parts.append("not verified")
            status = StepStatus.WARNING
            suggestion = "Without --insecure it is verified; --ca-file names an authority to trust."
        elif facts.get("days_left", SOON) < SOON:
            status, suggestion = StepStatus.WARNING, "Have the server's certificate renewed."
        self._watch.note(", ".join(parts), status, suggestion, **facts)
        return wrapped

    def _refused_certificate(self, url: TunnelUrl, options: DialOptions) -> dict[str, Any]:
        """What is in the certificate that was refused. Nothing is sent to its owner."""
        timeout = min(_SECOND_LOOK, self.deadline.remaining())
        context = TlsSettings(verify=False).make_context()
        dial = Dial(timeout, self._waker, self._interrupted)
        stream = dial.open_stream(url, context, options)
        try:
            assert isinstance(stream.socket, ssl.SSLSocket)
            return _facts(stream.socket)
        finally:
            stream.close()


def _facts(sock: ssl.SSLSocket) -> dict[str, Any]:
    cipher = sock.cipher()
    facts: dict[str, Any] = {"version": sock.version(), "cipher": cipher and cipher[0]}
    certificate = sock.getpeercert(binary_form=True)
    with contextlib.suppress(ValueError):  # one that cannot be read is as good as none
        read = CertificateFacts.read(certificate or b"")
        facts |= {
            "subject": read.subject,
            "issuer": read.issuer,
            "not_before": read.not_before.isoformat(),
            "not_after": read.not_after.isoformat(),
            "days_left": read.days_left(time.time()),
        }
    return facts


def _days(left: int) -> str:
    days = "1 day" if abs(left) == 1 else f"{abs(left)} days"
    return f"{days} left" if left >= 0 else f"expired {days} ago"
