"""The bytes of a session's frames: `docs/wire-protocol.rst` in code. Pure.

Every frame of a session is one binary WebSocket message, and its first byte says what it is. Frames
that are numbered, and acknowledgements, go on with the low 32 bits of a number, big-endian, so the
overhead of a message is five bytes. Frames of the handshake carry whole numbers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from tunnel.secrets import Secret

VERSION = "1"
"""What the header `Tunnel-Resume` says, in the request and in the answer."""

HEADER = "Tunnel-Resume"
"""The header that negotiates a session: a subprotocol would belong to the application."""

ID_SIZE = 16
TOKEN_SIZE = 32
OVERHEAD = 5
"""Bytes before the payload of a numbered frame."""

REASON_SIZE = 120
"""Bytes of a reason at most; what is longer is cut."""

LONGEST_FIXED_FRAME = 1 + REASON_SIZE
"""Bytes of the longest frame that carries no payload; all others of the kind are shorter."""

MAX_UINT32 = 2**32 - 1
MAX_UINT64 = 2**64 - 1


class FrameKind(IntEnum):
    """The first byte of a frame."""

    TEXT = 0x01  # a message of the application, UTF-8
    BINARY = 0x02  # ... and one of bytes
    REQUEST = 0x03  # client to server
    RESPONSE = 0x04  # server to client
    CANCEL = 0x05  # client to server: the answer is not wanted any more
    SKIP = 0x06  # a number whose message exists no longer; no payload
    ACK = 0x08  # all up to this number is taken
    ASK = 0x09  # acknowledge now
    OPEN = 0x10  # client: a new session, please
    OPENED = 0x11  # server: here it is
    RESUME = 0x12  # client: this session, please
    RESUMED = 0x13  # server: here it is
    GONE = 0x14  # server: it is not there any more; the client may send OPEN
    END = 0x15  # either: the session is over


class SessionViolation(Exception):
    """The peer broke the session's protocol; the link is closed with 1002 (RFC 6455, 7.4.1).

    Its text says how, without any contents.
    """


@dataclass(frozen=True)
class Limits:
    """What one end is prepared to hold of what the other sends. Told once, when a session opens.

    Attributes:
        messages: Numbered frames that are not acknowledged.
        bytes: Their payloads together. One frame alone may be larger.
        message_size: The longest payload.
    """

    messages: int
    bytes: int
    message_size: int

    def __post_init__(self) -> None:
        if not 1 <= self.messages <= MAX_UINT32 // 2:  # else old numbers look like new ones
            raise ValueError(f"messages must be between 1 and 2^31 - 1, not {self.messages}")
        if not (1 <= self.bytes <= MAX_UINT64 and 1 <= self.message_size <= MAX_UINT64):
            raise ValueError("bytes and message_size must be between 1 and 2^64 - 1")


class Parcel(bytes):
    """The payload of a numbered frame that is no message of the application.

    One thread may withdraw it while another is about to number it: whoever comes first decides.

    Attributes:
        kind: What it is.
    """

    kind: FrameKind

    def __new__(cls, kind: FrameKind, payload: bytes) -> Parcel:
        """Make one of a kind that is numbered."""
        parcel = super().__new__(cls, payload)
        parcel.kind = kind
        return parcel

    def withdraw(self) -> bool:
        """Nobody wants it any more. Harmless to repeat; any thread.

        Returns:
            Whether it was in time: it has no number and gets none.
        """
        return self._decide("withdrawn")

    def claim(self) -> bool:
        """It is about to be numbered. Harmless to repeat; any thread.

        Returns:
            Whether it is to be sent; False: it was withdrawn.
        """
        return self._decide("claimed")

    @property
    def is_withdrawn(self) -> bool:
        """Whether it was withdrawn in time."""
        return vars(self).get("_fate") == "withdrawn"

    def _decide(self, fate: str) -> bool:
        # `setdefault` is one step for all threads.
        return bool(vars(self).setdefault("_fate", fate) == fate)


class EncodedText(bytes):
    """A text message of the application that is in UTF-8 by now: to encode it takes long."""

    __slots__ = ()


class Open(NamedTuple):
    """A client's wish for a new session."""

    limits: Limits


class Opened(NamedTuple):
    """A server's answer to `Open`; `kept_for` is in seconds, counted from the loss of a link."""

    id: bytes
    token: Secret
    kept_for: int
    limits: Limits


class Resume(NamedTuple):
    """A client's wish for its session; `received` is the number of the last frame it has."""

    id: bytes
    token: Secret
    received: int


class Resumed(NamedTuple):
    """A server's answer to `Resume`.

    Attributes:
        received: The number of the last frame that the server has.
        released: All of the server's frames up to this number were acknowledged and are forgotten.
    """

    received: int
    released: int


@dataclass(frozen=True)
class Gone:
    """A server's other answer to `Resume`."""

    reason: str


@dataclass(frozen=True)
class End:
    """The session is over; nothing of it can be resumed."""

    reason: str


Greeting: TypeAlias = Open | Resume
"""The first frame of a client."""

Answer: TypeAlias = Opened | Resumed | Gone
"""The first frame of a server."""

_NUMBERED = struct.Struct(">BI")
_LIMITS = struct.Struct(">IQQ")
_OPEN = struct.Struct(">B20s")
_OPENED = struct.Struct(">B16s32sI20s")
_RESUME = struct.Struct(">B16s32sQ")
_RESUMED = struct.Struct(">BQQ")

numbered_header = _NUMBERED.pack
"""The header of a numbered frame or of an acknowledgement: from a kind and a 32-bit number."""

read_numbered_header = _NUMBERED.unpack_from
"""The reverse; raises `struct.error` if there are less than five bytes."""

ASK_FRAME = bytes([FrameKind.ASK])


def max_frame_size(message_size: int) -> int:
    """Bytes of the longest frame that must be read where messages may be so long."""
    return max(message_size + OVERHEAD, LONGEST_FIXED_FRAME)


def is_offered(versions: str) -> bool:
    """Whether a request's header `Tunnel-Resume`, a list as in HTTP, offers our version."""
    return VERSION in (version.strip() for version in versions.split(","))


def encode(frame: Greeting | Answer | End) -> bytes:
    """The bytes of a frame of the handshake, or of an end."""
    if isinstance(frame, Open):
        return _OPEN.pack(FrameKind.OPEN, _packed(frame.limits))
    if isinstance(frame, Opened):
        token = bytes.fromhex(frame.token.reveal())
        limits = _packed(frame.limits)
        return _OPENED.pack(FrameKind.OPENED, frame.id, token, frame.kept_for, limits)
    if isinstance(frame, Resume):
        token = bytes.fromhex(frame.token.reveal())
        return _RESUME.pack(FrameKind.RESUME, frame.id, token, frame.received)
    if isinstance(frame, Resumed):
        return _RESUMED.pack(FrameKind.RESUMED, frame.received, frame.released)
    kind = FrameKind.GONE if isinstance(frame, Gone) else FrameKind.END
    reason = frame.reason.encode(errors="replace")[:REASON_SIZE]
    return bytes([kind]) + reason.decode(errors="ignore").encode()


def read_greeting(frame: bytes) -> Greeting:
    """The first frame of a client.

    Raises:
        SessionViolation: It is none.
    """
    kind = _kind(frame)
    if kind is FrameKind.OPEN:
        _, limits = _unpacked(_OPEN, frame)
        return Open(_limits(limits))
    if kind is FrameKind.RESUME:
        _, identity, token, received = _unpacked(_RESUME, frame)
        return Resume(identity, Secret(token.hex()), received)
    raise SessionViolation(f"{kind.name} where OPEN or RESUME belongs")


def read_answer(frame: bytes) -> Answer:
    """The first frame of a server.

    Raises:
        SessionViolation: It is none.
    """
    kind = _kind(frame)
    if kind is FrameKind.OPENED:
        _, identity, token, kept_for, limits = _unpacked(_OPENED, frame)
        return Opened(identity, Secret(token.hex()), kept_for, _limits(limits))
    if kind is FrameKind.RESUMED:
        _, received, released = _unpacked(_RESUMED, frame)
        return Resumed(received, released)
    if kind is FrameKind.GONE:
        return Gone(read_reason(frame))
    raise SessionViolation(f"{kind.name} where OPENED, RESUMED or GONE belongs")


def read_reason(frame: bytes) -> str:
    """The reason in a GONE or END frame; what is no UTF-8 or too long is not kept."""
    return frame[1 : 1 + REASON_SIZE].decode(errors="ignore")


def _kind(frame: bytes) -> FrameKind:
    if not frame:
        raise SessionViolation("an empty frame")
    try:
        return FrameKind(frame[0])
    except ValueError:
        raise SessionViolation(f"a frame of unknown kind {frame[0]:#04x}") from None


def _unpacked(layout: struct.Struct, frame: bytes) -> tuple[Any, ...]:
    if len(frame) != layout.size:
        name = FrameKind(frame[0]).name
        raise SessionViolation(f"{name} of {len(frame)} bytes, not {layout.size}")
    return layout.unpack(frame)


def _packed(limits: Limits) -> bytes:
    return _LIMITS.pack(limits.messages, limits.bytes, limits.message_size)


def _limits(packed: bytes) -> Limits:
    try:
        return Limits(*_LIMITS.unpack(packed))
    except ValueError as error:
        raise SessionViolation(f"impossible limits: {error}") from None
