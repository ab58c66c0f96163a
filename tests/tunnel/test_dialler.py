"""One dial of a tunnel: its request, the token that is renewed, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tunnel.addresses import TunnelUrl
from tunnel.config import TunnelConfig
from tunnel.delivery import CallbackDelivery
from tunnel.dialler import Dialled, Dialler
from tunnel.errors import ConnectionLostError, TokenExpiredError, TunnelError
from tunnel.metrics_collector import MetricsCollector
from tunnel.request_queue import RequestQueue
from tunnel.requests import Target
from tunnel.secrets import Secret
from tunnel.session_channel import SessionChannel
from tunnel.session_handshake import SessionHandshake
from tunnel.session_keeper import SessionKeeper
from tunnel.testing import FakeClock, ScriptedGateway, ScriptedTransport
from tunnel.transport import DialRequest, Transport
from tunnel.waker import Waker


class Bench:
    """A dialler, a network, and the requests of its dials."""

    def __init__(self, **settings: object) -> None:
        self.clock = FakeClock()
        self.network = ScriptedTransport(self.clock)
        self.config = TunnelConfig().replace(**settings)
        self.requests: list[DialRequest] = []
        self.transports: list[Transport] = []
        self.expired: set[str] = set()
        self.errors: list[BaseException] = []  # of reading
        queue = RequestQueue(clock=self.clock)
        self.channel = SessionChannel(
            queue, MetricsCollector(), on_answer=lambda _: None, on_settled=lambda: None
        )
        keeper = SessionKeeper(queue, self.channel, CallbackDelivery(print), self.clock)
        self.dialler = Dialler(keeper, self.new_transport, Waker(), self.clock)

    def new_transport(self, waker: Waker) -> Transport:
        transport = self.network(waker)
        open_it, receive = transport.open, transport.receive

        def note(request: DialRequest, interrupted: Callable[[], bool]) -> None:
            self.requests.append(request)
            if self.token(request) in self.expired:
                raise TokenExpiredError("expired", status=401)
            open_it(request, interrupted)

        def fail_or_receive(size: int) -> bytes | None:
            if self.errors:
                raise self.errors.pop()
            return receive(size)

        transport.open = note  # type: ignore[method-assign]
        transport.receive = fail_or_receive  # type: ignore[method-assign]
        self.transports.append(transport)
        return transport

    @staticmethod
    def token(request: DialRequest) -> str:
        return dict(request.headers).get("Authorization", "").removeprefix("Bearer ")

    def dial(self, token: Secret | Callable[[], str] | None = None) -> Dialled:
        target = Target(TunnelUrl.parse("ws://example.com/"), "user", token)
        return self.dialler.dial(target, self.config, lambda: False)


def test_a_plain_peer() -> None:
    """There is a transport, and no session."""
    bench = Bench(max_header_size=2000, connect_timeout=3.0)
    transport, handshake = bench.dial()
    assert transport is bench.transports[0]
    assert handshake is None
    assert bench.requests[0].max_header_size == 2000
    assert bench.requests[0].timeout == 3.0


def test_a_peer_that_resumes() -> None:
    """The session is agreed on within the dial."""
    bench = Bench()
    ScriptedGateway(bench.network)
    assert isinstance(bench.dial().handshake, SessionHandshake)
    assert bench.channel.session is not None


def test_what_is_not_made_a_link_is_closed() -> None:
    """Nothing is left of it."""
    bench = Bench()
    bench.dial().abandon()
    assert not bench.network.is_connected


def test_an_expired_token_is_renewed_once() -> None:
    """A callable is asked for the next one at once; no more than that."""
    bench = Bench()
    bench.expired = {"old", "older"}
    tokens = iter(["old", "new"])
    bench.dial(lambda: next(tokens))
    assert list(map(bench.token, bench.requests)) == ["old", "new"]
    tokens = iter(["older", "old", "new"])
    with pytest.raises(TokenExpiredError):
        bench.dial(lambda: next(tokens))
    assert next(tokens) == "new"


@pytest.mark.parametrize("token", [Secret("old"), lambda: "old"])
def test_a_token_that_cannot_be_renewed(token: Secret | Callable[[], str]) -> None:
    """The same again would be refused again."""
    bench = Bench()
    bench.expired = {"old"}
    with pytest.raises(TokenExpiredError):
        bench.dial(token)
    assert len(bench.requests) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionResetError("reset"), TunnelError),
        (ConnectionLostError("lost"), ConnectionLostError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_session_that_fails(error: BaseException, kind: type[BaseException]) -> None:
    """What the system says is translated, no socket is left, and no session that was not begun."""
    bench = Bench()
    ScriptedGateway(bench.network)
    bench.errors = [error]
    with pytest.raises(kind):
        bench.dial()
    assert not bench.network.is_connected
    assert bench.channel.session is None
