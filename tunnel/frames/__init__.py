"""RFC 6455 frames without a socket: a strict incremental decoder, and an encoder that joins writes.

How the decoder decides. A stream of bytes has one meaning, however the network cuts it. So every
rule is judged at one place in the stream, as soon as the bytes that it needs are there, and always
in the order of those bytes:

1. The first byte of a header: reserved bits, opcode, a control frame that is not final, a
   continuation of nothing, a new message inside a fragmented one.
2. The second byte: masked or not, a control frame of more than 125 bytes, a close frame of one.
3. The extended length: its highest bit set, or not in its shortest form; then the limit on the size
   of a message, over all its fragments, before one byte of this frame's payload is kept; and when
   the header is whole, the limit on their number.
4. The payload: text is decoded as it arrives, also in the middle of a frame. A fragment may end
   inside a character, but the byte that makes the text impossible is the last one looked at.
   Control frames are judged when they are whole; they have at most 125 bytes.

The first violation, like a close frame, ends the decoder's work: all that came before it has been
handed out, nothing behind it is looked at (sections 7.1.7 and 5.5.1).

`rules` holds 1 to 3 as functions, `parts` what has come of a message, `decoder` the way in, and
`encoder` the way out.
"""

from __future__ import annotations

from tunnel.frames.decoder import FrameDecoder, Incoming
from tunnel.frames.encoder import FrameEncoder, encode_text
from tunnel.frames.rules import Close, Ping, Pong, ProtocolViolation

__all__ = [
    "Close",
    "FrameDecoder",
    "FrameEncoder",
    "Incoming",
    "Ping",
    "Pong",
    "ProtocolViolation",
    "encode_text",
]
