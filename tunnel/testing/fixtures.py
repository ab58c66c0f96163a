"""What the fixtures of the pytest plugin do; without pytest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from tunnel.testing.fault_loop import now
from tunnel.testing.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from tunnel.gateway import GatewayThread, Handler

_GRACE = 5.0  # seconds that threads have to end by themselves
# What the names of threads are, or begin with if there are several.
_TUNNEL, _GATEWAY, _HANDLER = "tunnel", "tunnel-gateway", "tunnel-gateway-"
_SENTENCES = {
    _TUNNEL: "a tunnel is still running: call its disconnect(), or leave its with block",
    _GATEWAY: "a gateway is still running: call its stop(), or leave its with block",
    _HANDLER: "a handler of a gateway has not returned: let it, or set what it waits for",
}


class StartGateway(Protocol):
    """What the fixture `tunnel_gateway` is."""

    def __call__(self, handler: str | Handler = "echo", **options: Any) -> GatewayThread:
        """Start a gateway on a free port of 127.0.0.1; it is stopped at the end of the test.

        Args:
            handler: ``echo``, ``sink``, ``MODULE:NAME``, or a function that is called with the
                session and each message; see `tunnel.gateway.handlers`.
            **options: As for `tunnel.gateway.Gateway`.

        Raises:
            ModuleNotFoundError: The extra `gateway` is not installed.
            ConfigurationError: The handler or an option is wrong.
        """
        ...


class StartProxy(Protocol):
    """What the fixture `tunnel_proxy` is."""

    def __call__(self, target: int | str) -> FaultProxy:
        """Start a fault proxy; it is stopped at the end of the test.

        Args:
            target: The server: its port on 127.0.0.1, or a URL.

        Raises:
            ValueError: `target` is neither.
        """
        ...


class Watch:
    """Looks for what a test starts and leaves running.

    Made at the beginning of a test, and asked for its `complaint` after all its fixtures' ends.
    """

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def complaint(self) -> str:
        """What is still running of tunnels, gateways and handlers, as a sentence; empty: nothing.

        What is about to end gets some seconds for it.
        """
        present = set(threading.enumerate())
        kinds = {_TUNNEL, _GATEWAY, _HANDLER}
        if any(thread.name == _GATEWAY for thread in present & self._before):
            kinds.remove(_HANDLER)  # they may be that gateway's
        deadline = now() + _GRACE
        left = set()
        for thread in present - self._before:
            kind = _HANDLER if thread.name.startswith(_HANDLER) else thread.name
            if kind in kinds:
                thread.join(max(0.0, deadline - now()))
                if thread.is_alive():
                    left.add(_SENTENCES[kind])
        return "at the end of this test " + "; ".join(sorted(left)) if left else ""


@contextmanager
def gateways() -> Iterator[StartGateway]:
    """Starts gateways; in the end they are stopped."""
    with ExitStack() as stack:

        def start(handler: str | Handler = "echo", **options: Any) -> GatewayThread:
            gateway = _gateway_class()(handler, **options)
            gateway.start()
            # What is under way is of no interest any more, so nobody waits for it.
            stack.callback(gateway.stop, drain=False)
            return gateway

        yield start


@contextmanager
def proxies() -> Iterator[StartProxy]:
    """Starts fault proxies; in the end they are stopped."""
    with ExitStack() as stack:
        yield lambda target: stack.enter_context(FaultProxy(target))


def _gateway_class() -> type[GatewayThread]:
    try:
        from tunnel.gateway import GatewayThread
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'a gateway needs {error.name}: pip install "resilient-tunnel[gateway]"',
            name=error.name,
        ) from error
    return GatewayThread
