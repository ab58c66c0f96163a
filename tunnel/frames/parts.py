"""What has come of a message that is not whole yet: part of a frame, or some of its fragments."""

from __future__ import annotations

import codecs
from typing import AnyStr, Generic

_RUN = 1024
"""So many pieces are joined at once: a flood of tiny fragments takes the memory of its bytes, not
that of as many objects."""


class _Pieces(Generic[AnyStr]):
    """The pieces of a message, joined in two steps so that time and memory are linear."""

    __slots__ = ("_nothing", "_run", "_runs")

    def __init__(self, nothing: AnyStr) -> None:
        self._nothing: AnyStr = nothing
        self._run: list[AnyStr] = []
        self._runs: list[AnyStr] = []

    def add(self, piece: AnyStr) -> None:
        """Keep `piece`, if there is anything in it."""
        if piece:
            self._run.append(piece)
            if len(self._run) == _RUN:
                self._runs.append(self._nothing.join(self._run))
                self._run.clear()

    def joined(self) -> AnyStr:
        """Return all pieces as one."""
        return self._nothing.join(self._runs + self._run)


class BinaryParts:
    """A binary message of which only a part has come."""

    __slots__ = ("_pieces", "fragments", "size")

    def __init__(self) -> None:
        self._pieces = _Pieces(b"")
        self.size = 0  # bytes announced by its headers so far
        self.fragments = 0  # those headers

    def add(self, piece: bytes) -> None:
        """Keep `piece`."""
        self._pieces.add(piece)

    def finish(self) -> bytes:
        """Return the whole message."""
        return self._pieces.joined()


class TextParts:
    """A text message of which only a part has come, decoded as far as it has.

    The text is kept, not its bytes: decoding them again at the end would cost more than all else.
    """

    __slots__ = ("_cut", "_pieces", "fragments", "size")

    def __init__(self) -> None:
        self._pieces = _Pieces("")
        self._cut = b""  # the beginning of a character: at most three bytes
        self.size = 0  # bytes announced by its headers so far
        self.fragments = 0  # those headers

    def add(self, piece: bytes) -> None:
        """Decode `piece`, which may begin and end inside a character.

        Raises:
            UnicodeDecodeError: No continuation could make it valid UTF-8.
        """
        data = self._cut + piece
        text, used = codecs.utf_8_decode(data, "strict", False)
        self._pieces.add(text)
        self._cut = data[used:]
        if self._cut[:1] == b"\xed" and self._cut[1:] >= b"\xa0":
            # Two thirds of a surrogate, which CPython takes for the beginning of a character.
            self._cut.decode()

    def finish(self) -> str:
        """Return the whole message.

        Raises:
            UnicodeDecodeError: It ends inside a character.
        """
        self._cut.decode()
        return self._pieces.joined()
