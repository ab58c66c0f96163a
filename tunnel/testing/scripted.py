"""A peer that follows a script, in virtual time: a network for tests without a network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tunnel.dial import DialInterrupted
from tunnel.errors import ConnectRefusedError, ConnectTimeoutError, TunnelError
from tunnel.frames import Close, FrameDecoder, FrameEncoder, Incoming, Ping
from tunnel.outbox import Message
from tunnel.stream import Readiness
from tunnel.testing.clock import FakeClock
from tunnel.transport import DialRequest, Transport
from tunnel.waker import Waker


class ScriptedTransport:
    """The network of one tunnel, and the peer behind it, played by a test.

    Give it to a tunnel as `new_transport`. It accepts each dial, answers pings, and keeps what it
    gets in `received`, until the test says otherwise::

        clock = FakeClock()
        network = ScriptedTransport(clock)
        service = TunnelService(clock=clock, new_transport=network)

    Everything takes effect at once, in virtual time; to have something happen later, pass its
    method to `FakeClock.call_at`. For one thread, that of the test.

    Args:
        clock: The tunnel's clock.

    Attributes:
        received: The messages that came, of all connections, oldest first.
        dials: One for each dial, failed ones too.
        close_codes: The codes of the close frames that came.
        answers_pings: Whether pings are answered.
        is_silent: Whether the present connection is half open: see `fall_silent`.
        latency: Seconds that a dial takes, and that a pong is under way. A dial that would take
            longer than its time-out fails when that is over; a pong that is still under way when
            its connection ends is lost.
        on_message: Called with each message that comes; may call `send`, for an echo.
        response_headers: Of the answer to the upgrade, with names in lower case.
        endpoints: The IP addresses of the tunnel's end and of the peer, if it is to have some.
    """

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._refusal: Exception | None = None
        self._connection: _ScriptedConnection | None = None
        self.received: list[Message] = []
        self.dials: list[DialRequest] = []
        self.close_codes: list[int] = []
        self.answers_pings = True
        self.is_silent = False
        self.latency = 0.0
        self.on_message: Callable[[Message], object] | None = None
        self.response_headers: dict[str, str] = {}
        self.endpoints: tuple[str, str] | None = None

    def __call__(self, waker: Waker) -> Transport:
        """Make the transport of one dial."""
        return _ScriptedConnection(self, self._clock, waker)

    # What a test has the peer do

    def refuse(self, error: Exception | None = None) -> None:
        """From now on every dial fails; None: as if nobody listened."""
        self._refusal = error or ConnectRefusedError("nobody listens there")

    def accept(self) -> None:
        """From now on every dial succeeds."""
        self._refusal = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def send(self, *messages: Message) -> None:
        """Send messages to the tunnel; without a connection they are lost."""
        self._deliver(b"".join(map(_ENCODER.message, messages)))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame, and end the connection once it is answered."""
        self._deliver(_ENCODER.close(code, reason))

    def cut(self) -> None:
        """End the connection without a word: what was sent before can be read, then it is over."""
        if self._connection is not None:
            self._connection.end()

    def fall_silent(self) -> None:
        """Say nothing more on this connection, and hear nothing: a half-open link."""
        self.is_silent = True

    def feed(self, data: bytes) -> None:
        """Send raw bytes, such as a frame that breaks the protocol."""
        self._deliver(data)

    # What the transports ask

    def opened(self, transport: _ScriptedConnection) -> None:
        """A dial arrives."""
        if self._refusal is not None:
            error = TunnelError.from_exception(self._refusal)
            raise error.with_traceback(None)  # it may be the same one each time, and would grow
        self.is_silent = False
        self._connection = transport

    def arrived(self, transport: _ScriptedConnection, item: Incoming) -> None:
        """A message or control frame arrives."""
        if self.is_silent:
            return
        if isinstance(item, Ping):
            if self.answers_pings:
                self._answer(transport, _ENCODER.pong(item.payload))
        elif isinstance(item, Close):
            self.close_codes.append(item.code)
            self._deliver(_ENCODER.close(None if item.code == 1005 else item.code))
            self.cut()
        elif isinstance(item, (str, bytes)):
            self.received.append(item)
            if self.on_message is not None:
                self.on_message(item)

    def _answer(self, transport: _ScriptedConnection, pong: bytes) -> None:
        def arrive() -> None:
            if transport is self._connection:
                self._deliver(pong)

        if self.latency:
            self._clock.call_at(self._clock.monotonic() + self.latency, arrive)
        else:
            arrive()

    def gone(self, transport: _ScriptedConnection) -> None:
        """A connection has ended."""
        if self._connection is transport:
            self._connection = None

    def _deliver(self, data: bytes) -> None:
        if self._connection is not None and not self.is_silent:
            self._connection.put(data)


class _ScriptedConnection:
    """The tunnel's end; see `tunnel.transport.Transport`."""

    subprotocol: str | None = None

    def __init__(self, peer: ScriptedTransport, clock: FakeClock, waker: Waker) -> None:
        self._peer = peer
        self._clock = clock
        self._decoder = FrameDecoder(expect_masked=True)
        self._incoming: deque[bytes] = deque()
        self._is_ended = False
        self.waker = waker

    @property
    def response_headers(self) -> dict[str, str]:
        """See `Transport`."""
        return dict(self._peer.response_headers)

    @property
    def endpoints(self) -> tuple[str, str] | None:
        """See `Transport`."""
        return self._peer.endpoints

    def open(self, request: DialRequest, interrupted: Callable[[], bool]) -> None:
        """See `Transport`."""
        self._peer.dials.append(request)
        now = self._clock.monotonic()
        arrival, deadline = now + self._peer.latency, now + request.timeout
        while (now := self._clock.monotonic()) < arrival:
            if now >= deadline:
                raise ConnectTimeoutError(f"no connection within {request.timeout:g} s")
            if self._clock.wait(self.waker.event, min(arrival, deadline) - now):
                self.waker.clear()
                if interrupted():
                    raise DialInterrupted("the dial was called off")
        self._peer.opened(self)

    def receive(self, size: int) -> bytes | None:
        """See `Transport`. Hands out what was put in as it was put in, whatever `size` says."""
        if self._incoming:
            return self._incoming.popleft()
        return b"" if self._is_ended else None

    def send(self, data: memoryview | bytes) -> int:
        """See `Transport`."""
        if self._is_ended:
            raise ConnectionResetError("the scripted peer has ended the connection")
        for item in self._decoder.feed(bytes(data)):
            self._peer.arrived(self, item)
        return len(data)

    def wait(self, *, read: bool, write: bool, timeout: float | None) -> Readiness:
        """See `Transport`. Virtual time passes until there is something."""
        if not (write or self._is_ended or (read and self._incoming)):
            self._clock.wait(self.waker.event, timeout)
        return Readiness(
            read and self.has_unread(), write, self.waker.event.is_set(), self._is_ended
        )

    def has_unread(self) -> bool:
        """See `Transport`."""
        return bool(self._incoming) or self._is_ended

    def wait_writable(self, timeout: float | None) -> bool:
        """See `Transport`. The script always takes what is sent."""
        return True

    def abort(self) -> None:
        """See `Transport`."""
        self.end()

    def close(self) -> None:
        """See `Transport`."""
        self._peer.gone(self)

    def put(self, data: bytes) -> None:
        """The peer sends."""
        self._incoming.append(data)
        self.waker.wake()

    def end(self) -> None:
        """The stream ends here, in both directions."""
        self._is_ended = True
        self._peer.gone(self)
        self.waker.wake()


_ENCODER = FrameEncoder(mask=False)
