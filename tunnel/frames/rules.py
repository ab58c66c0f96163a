"""What RFC 6455 allows on the wire: control frames, close codes, and the judging of headers.

Pure functions; section numbers are those of RFC 6455.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
"""The opcodes (section 5.2)."""

FINAL = 0x80  # FIN, in the first byte of a header
MASKED = 0x80  # MASK, in the second
CONTROL = 0x08  # the opcodes of control frames have this bit

MAX_CONTROL_PAYLOAD = 125  # bytes (section 5.5)

_LEGAL_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
"""The close codes below 3000 that may be on the wire: section 7.4.1, and 1012 to 1014 from the IANA
registry. 1004 to 1006 and 1015 must not be sent; the others are not assigned."""


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping from the peer, to be answered by a pong with the same payload (section 5.5.2)."""

    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Pong:
    """A pong from the peer, asked for or not (section 5.5.3)."""

    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Close:
    """The peer's close frame (section 5.5.1). Its code is 1005 if it came without one."""

    code: int = 1005
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProtocolViolation:
    """Why the peer's bytes are refused.

    Attributes:
        close_code: The code to close with: 1002 (protocol), 1007 (not UTF-8) or 1009 (too big).
        reason: What is wrong, with the section of RFC 6455; short enough for a close frame.
    """

    close_code: int
    reason: str


class Refused(Exception):
    """Carries a violation from the rule that finds it to `FrameDecoder.feed`; never beyond."""

    def __init__(self, close_code: int, reason: str, section: str) -> None:
        super().__init__(reason)
        self.violation = ProtocolViolation(close_code, f"{reason} (RFC 6455, section {section})")


class Header(NamedTuple):
    """The header of a frame, in order and complete."""

    final: bool
    opcode: int
    size: int
    """Bytes of payload."""
    key: bytes
    """The mask key; empty if the frame is not masked."""
    end: int
    """Where the payload begins in the bytes at hand."""


def is_legal_close_code(code: int) -> bool:
    """Say whether `code` may stand in a close frame (sections 7.4.1 and 7.4.2)."""
    return code in _LEGAL_CODES or 3000 <= code <= 4999


def read_header(
    data: bytes, position: int, *, expect_masked: bool, present_size: int | None, limit: int
) -> Header | None:
    """Judge the header that begins at `position`, as far as it has come.

    Args:
        data: The bytes at hand.
        position: Where the header begins; at least its first byte is there.
        expect_masked: True if the peer is a client.
        present_size: Bytes of the fragmented message under way so far; None if there is none.
        limit: Largest message in bytes.

    Returns:
        The header; None if it is in order so far, but not complete.

    Raises:
        Refused: It violates the protocol.
    """
    first = data[position]
    opcode = first & 0x0F
    _judge_first(first, opcode, present_size is not None)
    end = position + 2
    if len(data) < end:
        return None
    second = data[position + 1]
    size = second & 0x7F
    _judge_second(second, opcode, size, expect_masked)
    if size > MAX_CONTROL_PAYLOAD:
        start, end = end, end + (2 if size == 126 else 8)
        if len(data) < end:
            return None
        size = int.from_bytes(data[start:end], "big")
        _judge_length(size, end - start)
    if not opcode & CONTROL and (total := size + (present_size or 0)) > limit:
        raise Refused(1009, f"a message of {total} bytes, {limit} are allowed", "7.4.1")
    key = b""
    if expect_masked:
        start, end = end, end + 4
        if len(data) < end:
            return None
        key = data[start:end]
    return Header(bool(first & FINAL), opcode, size, key, end)


def _judge_first(first: int, opcode: int, inside_message: bool) -> None:
    """Judge the first byte of a header. Raises `Refused`."""
    if first & 0x70:
        raise Refused(1002, "a reserved bit is set, but no extension is in use", "5.2")
    if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        raise Refused(1002, f"opcode {opcode} is not defined", "5.2")
    if opcode & CONTROL:
        if not first & FINAL:
            raise Refused(1002, "a control frame is fragmented", "5.5")
    elif opcode == CONTINUATION:
        if not inside_message:
            raise Refused(1002, "a continuation frame without a message to continue", "5.4")
    elif inside_message:
        raise Refused(1002, "a new message begins inside a fragmented one", "5.4")


def _judge_second(second: int, opcode: int, size: int, expect_masked: bool) -> None:
    """Judge the second byte of a header. Raises `Refused`."""
    if bool(second & MASKED) is not expect_masked:
        if expect_masked:
            raise Refused(1002, "a client's frame is not masked", "5.1")
        raise Refused(1002, "a server's frame is masked", "5.1")
    if opcode & CONTROL and size > MAX_CONTROL_PAYLOAD:
        raise Refused(1002, "a control frame has more than 125 bytes", "5.5")
    if opcode == CLOSE and size == 1:
        raise Refused(1002, "a close frame has a payload of one byte", "5.5.1")


def _judge_length(size: int, width: int) -> None:
    """Judge an extended length that was written in `width` bytes. Raises `Refused`."""
    if size >> 63:
        raise Refused(1002, "a length has its highest bit set", "5.2")
    if size < (126 if width == 2 else 65536):
        raise Refused(1002, "a length is not in its shortest form", "5.2")


def read_close(payload: bytes) -> Close:
    """Read the payload of a close frame, which is empty or has at least two bytes.

    Args:
        payload: The whole payload.

    Returns:
        The frame.

    Raises:
        Refused: Its code must not be sent, or its reason is not UTF-8.
    """
    if not payload:
        return Close()
    code = int.from_bytes(payload[:2], "big")
    if not is_legal_close_code(code):
        raise Refused(1002, f"close code {code} must not be sent", "7.4")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise Refused(1007, "a close reason is not valid UTF-8", "5.5.1") from None
