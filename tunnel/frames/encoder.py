"""The way out: `FrameEncoder` makes the bytes of messages and control frames."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence

from tunnel.frames.rules import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FINAL,
    MASKED,
    MAX_CONTROL_PAYLOAD,
    PING,
    PONG,
    TEXT,
    is_legal_close_code,
)
from tunnel.masking import apply_mask, mask_key

_SHORT_HEADERS = {
    opcode: tuple(bytes((FINAL | opcode, MASKED | size)) for size in range(126))
    for opcode in (TEXT, BINARY)
}
"""Headers of masked, unfragmented messages of 0 to 125 bytes, by opcode and size."""


def _header(first: int, size: int, mask: int) -> bytes:
    """Return a header up to its length, which is in its shortest form (RFC 6455, section 5.2)."""
    if size < 126:
        return bytes((first, mask | size))
    if size < 65536:
        return struct.pack(">BBH", first, mask | 126, size)
    return struct.pack(">BBQ", first, mask | 127, size)


def encode_text(text: str) -> bytes:
    """Encode a text for the wire (RFC 6455, section 5.6).

    Args:
        text: The payload of a text message.

    Returns:
        It in UTF-8.

    Raises:
        ValueError: It has a lone surrogate; the error says where.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text cannot be sent: character {error.start} is a lone surrogate, "
            "which UTF-8 does not have"
        ) from None


def _payload(data: str | bytes | bytearray | memoryview) -> tuple[int, bytes]:
    """Return opcode and payload of a message; a copy, if `data` could change meanwhile."""
    if isinstance(data, str):
        return TEXT, encode_text(data)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return BINARY, bytes(data)
    raise TypeError(f"a payload is str, bytes, bytearray or memoryview, not {type(data).__name__}")


class FrameEncoder:
    """Turns messages and control frames into bytes for the wire (RFC 6455, sections 5.2 to 5.6).

    What cannot be sent is refused by the call that brings it, and then nothing is encoded.

    Frames may be made in any thread, for they share no state of the encoder's. Their order on the
    wire, above all that of the fragments of one message, is a matter of the write role: who has it
    encodes what it writes next.

    Args:
        mask: True for a client, whose frames must be masked (section 5.1), False for a server.
        random_bytes: Makes mask keys; called with a number of bytes, which must be unpredictable.
            The default draws single keys from the stock of the process (`tunnel.masking`).
    """

    __slots__ = ("_mask", "_next_key", "_random_bytes")

    def __init__(
        self, *, mask: bool = True, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._mask = MASKED if mask else 0
        self._random_bytes = random_bytes
        self._next_key: Callable[[], bytes] = (
            mask_key if random_bytes is os.urandom else lambda: random_bytes(4)
        )

    def message(self, data: str | bytes | bytearray | memoryview) -> bytes:
        """Encode a message as one frame.

        Args:
            data: A text, or the bytes of a binary message.

        Returns:
            The frame.

        Raises:
            TypeError: `data` is neither text nor bytes.
            ValueError: The text has a lone surrogate.
        """
        if type(data) is bytes:
            opcode, payload = BINARY, data
        elif type(data) is str:
            opcode, payload = TEXT, encode_text(data)
        else:
            opcode, payload = _payload(data)
        size = len(payload)
        if size < 126 and self._mask:  # small ones are many
            key = self._next_key()
            return _SHORT_HEADERS[opcode][size] + key + apply_mask(payload, key)
        return self._frame(FINAL | opcode, payload)

    def messages(self, batch: Sequence[str | bytes]) -> bytes:
        """Encode many messages for one write, each as one frame: the fast way for small ones.

        Args:
            batch: The messages, in order.

        Returns:
            Their frames, joined.

        Raises:
            TypeError: One of them is neither text nor bytes.
            ValueError: The text of one of them has a lone surrogate.
        """
        if not self._mask:
            return b"".join(map(self.message, batch))
        parts: list[bytes] = []
        add = parts.append
        keys = struct.iter_unpack("4s", self._random_bytes(4 * len(batch)))
        for data, (key,) in zip(batch, keys, strict=True):
            if type(data) is bytes:
                opcode, payload = BINARY, data
            elif type(data) is str:
                opcode, payload = TEXT, encode_text(data)
            else:
                opcode, payload = _payload(data)
            size = len(payload)
            if size < 126:
                add(_SHORT_HEADERS[opcode][size])
            else:
                add(_header(FINAL | opcode, size, MASKED))
            add(key)
            add(apply_mask(payload, key))
        return b"".join(parts)

    def fragments(
        self, data: str | bytes | bytearray | memoryview, size: int = 65536
    ) -> Iterator[bytes]:
        """Encode a message as fragments (section 5.4), so that control frames get in between.

        Args:
            data: A text, which may be cut inside a character, or the bytes of a binary message.
            size: Largest payload of a fragment in bytes.

        Returns:
            The frames, each encoded when it is asked for. Until the last one is written, only
            control frames may be written in between.

        Raises:
            TypeError: `data` is neither text nor bytes.
            ValueError: The text has a lone surrogate, or `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a fragment holds at least 1 byte, not {size}")
        opcode, payload = _payload(data)
        return self._cut(opcode, payload, size)

    def _cut(self, opcode: int, payload: bytes, size: int) -> Iterator[bytes]:
        """Encode the fragments one at a time; a function of its own, so that errors come early."""
        end = len(payload)
        for start in range(0, max(end, 1), size):
            stop = start + size
            yield self._frame((FINAL if stop >= end else 0) | opcode, payload[start:stop])
            opcode = CONTINUATION

    def ping(self, payload: bytes = b"") -> bytes:
        """Encode a ping (section 5.5.2).

        Args:
            payload: At most 125 bytes, which the pong will repeat.

        Returns:
            The frame.

        Raises:
            TypeError: The payload is not bytes, bytearray or memoryview.
            ValueError: It is too long.
        """
        return self._control(PING, payload)

    def pong(self, payload: bytes = b"") -> bytes:
        """Encode a pong (section 5.5.3).

        Args:
            payload: At most 125 bytes: those of the ping that it answers.

        Returns:
            The frame.

        Raises:
            TypeError: The payload is not bytes, bytearray or memoryview.
            ValueError: It is too long.
        """
        return self._control(PONG, payload)

    def close(self, code: int | None = 1000, reason: str = "") -> bytes:
        """Encode a close frame (section 5.5.1).

        Args:
            code: The close code; None for a frame without one, such as answers another.
            reason: Why, at most 123 bytes in UTF-8.

        Returns:
            The frame.

        Raises:
            ValueError: The code must not be sent (section 7.4), or the reason is too long, has a
                lone surrogate, or comes without a code.
        """
        if code is None:
            if reason:
                raise ValueError("a close reason needs a close code (RFC 6455, section 5.5.1)")
            return self._control(CLOSE, b"")
        if not is_legal_close_code(code):
            raise ValueError(f"close code {code} must not be sent (RFC 6455, section 7.4)")
        text = encode_text(reason)
        room = MAX_CONTROL_PAYLOAD - 2
        if len(text) > room:
            raise ValueError(
                f"a close reason has at most {room} bytes in UTF-8, not {len(text)}"
                " (RFC 6455, section 5.5)"
            )
        return self._control(CLOSE, code.to_bytes(2, "big") + text)

    def _control(self, opcode: int, data: bytes) -> bytes:
        """Encode a control frame, if its payload is bytes and not too long (section 5.5)."""
        kind, payload = _payload(data)
        if kind != BINARY:
            raise TypeError("the payload of a control frame is bytes, not str")
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(
                f"a control frame has at most {MAX_CONTROL_PAYLOAD} bytes of payload,"
                f" not {len(payload)} (RFC 6455, section 5.5)"
            )
        return self._frame(FINAL | opcode, payload)

    def _frame(self, first: int, payload: bytes) -> bytes:
        """Encode one frame; `first` is the first byte of its header."""
        header = _header(first, len(payload), self._mask)
        if not self._mask:
            return header + payload
        key = self._next_key()
        return b"".join((header, key, apply_mask(payload, key)))
