"""A peer that resumes sessions and follows a script, in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tunnel.outbox import Message
from tunnel.request_frames import decode_request, encode_response
from tunnel.responses import Headers, TunnelResponse
from tunnel.secrets import Secret
from tunnel.session import Session
from tunnel.session_frames import (
    ASK_FRAME,
    HEADER,
    OVERHEAD,
    VERSION,
    End,
    FrameKind,
    Gone,
    Limits,
    Open,
    Parcel,
    encode,
    read_greeting,
)
from tunnel.testing.scripted import ScriptedTransport

_GREETINGS = (FrameKind.OPEN, FrameKind.RESUME)


class ScriptedGateway:
    """Makes the peer behind a `ScriptedTransport` one that resumes sessions, as a gateway does.

    It takes and acknowledges everything at once, until the test says otherwise::

        clock = FakeClock()
        network = ScriptedTransport(clock)
        gateway = ScriptedGateway(network)
        service = TunnelService(clock=clock, new_transport=network)

    For one thread, that of the test.

    Args:
        network: Whose peer it is; its `on_message` and `response_headers` are taken over.
        limits: What the peer will hold; None: plenty.

    Attributes:
        received: The messages that came, each once, in the order of their numbers.
        requests: The requests and cancellations that came.
        session: The present session; None before the first.
        sessions_opened: How many there were.
        resumptions: How often a link was given the session that was there.
        acknowledges: Whether what comes is taken and acknowledged.
        on_message: Called with each message; may call `send`, for an echo.
        on_request: Called with each request and cancellation; may call `respond`.
    """

    def __init__(self, network: ScriptedTransport, *, limits: Limits | None = None) -> None:
        self._network = network
        self._limits = limits or Limits(1000, 2**24, 2**24)
        network.response_headers[HEADER.lower()] = VERSION
        network.on_message = self._arrived
        self._waiting: deque[Message] = deque()  # for their numbers
        self._greeted = 0  # the dial whose link has the session, counted from 1
        self._untaken = 0
        self.received: list[Message] = []
        self.requests: list[Parcel] = []
        self.session: Session | None = None
        self.sessions_opened = self.resumptions = 0
        self.acknowledges = True
        self.on_message: Callable[[Message], object] | None = None
        self.on_request: Callable[[Parcel], object] | None = None

    def send(self, *messages: Message) -> None:
        """Send messages, or parcels, in the session; without a link they wait for the next."""
        self._waiting.extend(messages)
        self._write()

    def respond(self, request: Parcel, payload: Message = b"", *, status_code: int = 200) -> None:
        """Answer one of `requests`; without a link the answer waits for the next.

        Raises:
            ValueError: It is a cancellation, and nothing that can be answered.
        """
        if request.kind != FrameKind.REQUEST:
            raise ValueError("a cancellation is not answered: look at the `kind` of what came")
        number = decode_request(request).request_id
        body = payload.encode() if isinstance(payload, str) else payload
        response = TunnelResponse(number, status_code, Headers({}), body, 0.0)
        self.send(Parcel(FrameKind.RESPONSE, encode_response(response)))

    def forget(self) -> None:
        """Know no session any more; what still comes of it leads nowhere."""
        self.session = None
        self._waiting.clear()
        self._untaken = 0

    def end(self, reason: str = "") -> None:
        """Say that the session is over, and forget it."""
        self._network.send(encode(End(reason)))
        self.forget()

    def ask(self) -> None:
        """Ask the tunnel to acknowledge at once."""
        self._network.send(ASK_FRAME)

    def acknowledge(self) -> None:
        """Take what has come so far, and acknowledge it."""
        assert self.session is not None
        self.session.take(self._untaken)
        self._untaken = 0
        self._network.send(self.session.acknowledgement())

    def _arrived(self, frame: Message) -> None:
        if isinstance(frame, bytes) and frame[0] in _GREETINGS:
            self._greet(frame)
            return
        session = self.session
        if session is None:
            return
        if isinstance(frame, str):
            self._network.close(1002, "a text message within a session")
            return
        if len(frame) > self._limits.message_size + OVERHEAD:
            self._network.close(1009, "too big")
            return
        for item in session.receive([frame]):
            self._take(item)
        if self.session is not session:  # `on_message` has seen to that
            return
        if session.violation is not None:
            self._network.close(1002, str(session.violation))
        elif session.ended_by_peer is not None:
            self.session = None
        elif self.acknowledges and session.received:
            self.acknowledge()
        self._write()

    def _greet(self, frame: bytes) -> None:
        greeting = read_greeting(frame)
        self._network.received.clear()
        self._greeted = len(self._network.dials)
        if isinstance(greeting, Open):
            self.sessions_opened += 1
            self._untaken = 0
            self.session = Session(
                self._limits, keep=(10_000, 2**24), accepts=(FrameKind.REQUEST, FrameKind.CANCEL)
            )
            identity = self.sessions_opened.to_bytes(16, "big")
            opened = self.session.open(greeting, identity, Secret(f"{'5e' * 32}"), 600)
            self._network.send(encode(opened))
        elif self.session is None or greeting.id != self.session.id:
            self._greeted = 0
            self._network.send(encode(Gone("no such session")))
        else:
            self.resumptions += 1
            self._network.send(encode(self.session.resume(greeting)))
            if self.acknowledges and self.session.received:
                self.acknowledge()
        self._write()

    def _take(self, item: Message) -> None:
        if isinstance(item, Parcel):
            self.requests.append(item)
            self._untaken += item.kind == FrameKind.REQUEST
            if self.on_request is not None:
                self.on_request(item)
            return
        self._untaken += 1
        self.received.append(item)
        if self.on_message is not None:
            self.on_message(item)

    def _write(self) -> None:
        session = self.session
        has_link = self._network.is_connected and self._greeted == len(self._network.dials)
        if session is None or not has_link:
            return
        if session.has_replay:
            frames = session.replay(10_000, 2**24)
            self._network.send(*frames)
            session.confirm(len(frames))
        while self._waiting and session.has_room_for(_length(self._waiting[0])):
            self._network.send(*session.send((self._waiting.popleft(),)))
            session.confirm(1)


def _length(message: Message) -> int:
    return len(message.encode()) if isinstance(message, str) else len(message)
