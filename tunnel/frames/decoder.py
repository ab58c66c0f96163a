"""The way in: `FrameDecoder`, fed with what was read, hands out messages.

Where the time goes. Nearly all frames of a busy stream are short, whole and unfragmented; these
never leave the loop in `_take_whole`. Short fragments in the middle of a message, of which a peer
may send a great many, are joined chunk by chunk in `_take_middle`. All else goes frame by frame
through `_take_frame`, and what arrives of a payload in several chunks through `_take_payload`.
Chunks are never joined to each other, but for an incomplete header or control frame: so time is
linear, whatever their size.
"""

from __future__ import annotations

from tunnel.frames.parts import BinaryParts, TextParts
from tunnel.frames.rules import (
    BINARY,
    CONTINUATION,
    CONTROL,
    FINAL,
    MAX_CONTROL_PAYLOAD,
    PING,
    PONG,
    TEXT,
    Close,
    Ping,
    Pong,
    ProtocolViolation,
    Refused,
    read_close,
    read_header,
)
from tunnel.masking import apply_mask

Incoming = str | bytes | Ping | Pong | Close
"""What a decoder hands out: a text message, a binary message, or a control frame."""

_FINAL_TEXT, _FINAL_BINARY = FINAL | TEXT, FINAL | BINARY

_AT_ONCE = 512
"""Fragments that are joined at once; each of them takes 80 bytes meanwhile, whatever is in it."""


class FrameDecoder:
    """Turns the bytes of a peer into messages and control frames, strictly by RFC 6455.

    No extension is supported. Not thread-safe: only the reading thread may use it.

    Between messages it holds on to nothing but the bytes of an incomplete header or control frame;
    within one, to what has come of it, which is never more than `max_message_size` bytes (as `str`,
    which takes up to four bytes for a character, if it is text).

    Args:
        max_message_size: Largest message in bytes of payload, over all its fragments.
        max_fragments: Frames of one message. Empty ones cost the peer two bytes, and would keep us
            busy for ever without a message.
        expect_masked: False to read what a server sends, True to read what a client sends.

    Attributes:
        violation: Why the peer's bytes were refused; None while they are in order.
        finished: True after a violation or a close frame; whatever follows is ignored.
        saw_control: Whether the last `feed` handed out anything but messages.
        wanted: How many bytes are still to come of a data frame whose payload is incomplete. 0 if
            there is none, or its header is incomplete too.
    """

    __slots__ = (
        "_expect_masked",
        "_final",
        "_key",
        "_max_fragments",
        "_max_message_size",
        "_message",
        "_rest",
        "finished",
        "saw_control",
        "violation",
        "wanted",
    )

    def __init__(
        self,
        *,
        max_message_size: int = 16 * 2**20,
        max_fragments: int = 2**20,
        expect_masked: bool = False,
    ) -> None:
        self._max_message_size = max_message_size
        self._max_fragments = max_fragments
        self._expect_masked = expect_masked
        self.violation: ProtocolViolation | None = None
        self.finished = False
        self.saw_control = False
        self.wanted = 0
        # The message under way: fragmented, or in a frame that is not whole yet.
        self._message: TextParts | BinaryParts | None = None
        self._final = True  # its present frame is its last
        self._key = b""  # its present frame's mask key, turned to the next byte to come
        self._rest = b""  # an incomplete header or control frame: at most 130 bytes

    def feed(self, data: bytes) -> list[Incoming]:
        """Take the next bytes from the peer. Never raises for what is in them.

        Args:
            data: Any number of bytes, cut anywhere.

        Returns:
            The messages (text as `str`, binary as `bytes`) and control frames that these bytes
            complete, in order. If a violation comes after them, `violation` is set as well.
        """
        received: list[Incoming] = []
        self.saw_control = False
        if self.finished:
            return received
        if self._rest:
            data, self._rest = self._rest + data, b""
        try:
            self._take(data, received)
        except Refused as refused:
            self._finish(refused.violation)
        except UnicodeDecodeError:  # of a message: a close frame has a rule of its own
            self._finish(Refused(1007, "a text message is not valid UTF-8", "8.1").violation)
        return received

    def _finish(self, violation: ProtocolViolation | None) -> None:
        """Ignore all further bytes and let go of what is held."""
        self.violation = violation
        self.finished = True
        self.wanted = 0
        self._message = None

    def _take(self, data: bytes, received: list[Incoming]) -> None:
        """Take `data`: all of it, or what comes before the end of the decoder's work.

        Raises:
            Refused: A frame violates the protocol.
            UnicodeDecodeError: So does the text of a message.
        """
        position = self._take_payload(data, 0, received) if self.wanted else 0
        while not self.finished:
            if not self._expect_masked:
                if self._message is None:
                    position = self._take_whole(data, position, received)
                else:
                    position = self._take_middle(data, position, self._message)
            if position == len(data):
                break
            begin, position = position, self._take_frame(data, position, received)
            if position == begin:
                self._rest = data[begin:]
                break

    def _take_whole(self, data: bytes, position: int, received: list[Incoming]) -> int:
        """Take valid data frames that are whole, unfragmented, unmasked and below 64 KiB.

        This is the hot loop, allowed only while no message is under way. It refuses nothing: at the
        first other frame, good or bad, it stops.

        Returns:
            The position of the first byte not taken.

        Raises:
            UnicodeDecodeError: The text of a message violates the protocol.
        """
        hand_out = received.append
        limit = self._max_message_size
        end = len(data)
        last = end - 1
        while position < last:
            size = data[position + 1]
            if size < 126:
                start = position + 2
            elif size == 126 and position + 3 < end:
                size = data[position + 2] << 8 | data[position + 3]
                if size < 126:
                    break
                start = position + 4
            else:
                break
            stop = start + size
            if stop > end or size > limit:
                break
            kind = data[position]
            if kind == _FINAL_BINARY:
                hand_out(data[start:stop])
            elif kind == _FINAL_TEXT:
                hand_out(data[start:stop].decode())
            else:
                break
            position = stop
        return position

    def _take_middle(self, data: bytes, position: int, message: TextParts | BinaryParts) -> int:
        """Take valid fragments that are whole, unmasked, of at most 125 bytes, and not the last.

        Joined at once, so that each costs a slice, and decoded at once, if they are text. Like
        `_take_whole` it refuses no header: at the first other frame, good or bad, it stops.

        Returns:
            The position of the first byte not taken.

        Raises:
            UnicodeDecodeError: The text of the message violates the protocol.
        """
        pieces: list[bytes] = []
        add = pieces.append
        count = room = min(_AT_ONCE, self._max_fragments - message.fragments)
        left = limit = self._max_message_size - message.size
        end = len(data)
        last = end - 1
        while position < last and count and data[position] == CONTINUATION:
            size = data[position + 1]
            start = position + 2
            stop = start + size
            if size > MAX_CONTROL_PAYLOAD or stop > end or size > left:
                break
            add(data[start:stop])
            count -= 1
            left -= size
            position = stop
        if pieces:
            message.fragments += room - count
            message.size += limit - left
            message.add(b"".join(pieces))
        return position

    def _take_frame(self, data: bytes, position: int, received: list[Incoming]) -> int:
        """Take one frame of any kind; of a data frame, what has come.

        Returns:
            The position of the first byte not taken: unchanged if more bytes are needed first.

        Raises:
            Refused: The frame violates the protocol.
            UnicodeDecodeError: So does the text of a message.
        """
        message = self._message
        header = read_header(
            data,
            position,
            expect_masked=self._expect_masked,
            present_size=None if message is None else message.size,
            limit=self._max_message_size,
        )
        if header is None:
            return position
        if header.opcode & CONTROL:
            stop = header.end + header.size
            if stop > len(data):
                return position
            payload = data[header.end : stop]
            if header.key:
                payload = apply_mask(payload, header.key)
            self._take_control(header.opcode, payload, received)
            return stop
        if message is None:
            message = self._message = TextParts() if header.opcode == TEXT else BinaryParts()
        if message.fragments == self._max_fragments:
            raise Refused(1009, f"a message of over {self._max_fragments} fragments", "7.4.1")
        message.fragments += 1
        message.size += header.size
        self._final, self._key, self.wanted = header.final, header.key, header.size
        return self._take_payload(data, header.end, received)

    def _take_payload(self, data: bytes, position: int, received: list[Incoming]) -> int:
        """Take what `data` has, from `position` on, of the present data frame's payload.

        Returns:
            The position of the first byte not taken.

        Raises:
            UnicodeDecodeError: The text of the message violates the protocol.
        """
        assert self._message is not None
        stop = min(position + self.wanted, len(data))
        piece = data[position:stop]
        self.wanted -= len(piece)
        if self._key:
            piece = apply_mask(piece, self._key)
            turn = len(piece) % 4
            self._key = self._key[turn:] + self._key[:turn]
        self._message.add(piece)
        if self._final and not self.wanted:
            received.append(self._message.finish())
            self._message = None
        return stop

    def _take_control(self, opcode: int, payload: bytes, received: list[Incoming]) -> None:
        """Hand out a control frame.

        Raises:
            Refused: It is a close frame with a code or reason that violates the protocol.
        """
        self.saw_control = True
        if opcode == PING:
            received.append(Ping(payload))
        elif opcode == PONG:
            received.append(Pong(payload))
        else:
            received.append(read_close(payload))
            self._finish(None)
