"""Standard input as messages: its lines, or its bytes as they come.

It is read in a thread of its own, which sends what it has read before it reads more. So when
standard input is faster than the link, the queue fills up, the thread waits, and whoever writes to
standard input waits for it: nothing is piled up here.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NoReturn

from tunnel.errors import MessageTooBigError, TunnelError
from tunnel.outbox import Message
from tunnel.waker import Waker

CHUNK = 64 * 1024
"""Bytes read at once, and so the longest message of ``--binary``."""


_BATCH = 100
"""Messages that are sent together; so few that they are checked together, before any is sent."""


class InputError(Exception):
    """What stands in standard input cannot be sent; the text is a sentence about it."""


class LineSplitter:
    """Makes messages of lines, however the bytes come. Pure.

    Args:
        max_size: Bytes of the longest line.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._rest = bytearray()
        self._number = 0

    def feed(self, data: bytes) -> Iterable[str]:
        """The lines that are complete by now, without their ends.

        Raises:
            InputError: A line is too long, or not UTF-8. Those before it have been handed out.
        """
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._rest += line
            yield self._pop()
        self._rest += rest
        if len(self._rest) > self._max_size + 1:  # the last one may be half of the end
            self._refuse()

    def finish(self) -> Iterable[str]:
        """The last line, if it has no end.

        Raises:
            InputError: As for `feed`.
        """
        if self._rest:
            yield self._pop()

    def _pop(self) -> str:
        line = bytes(self._rest).removesuffix(b"\r")
        if len(line) > self._max_size:
            self._refuse()
        self._number += 1
        self._rest.clear()
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise InputError(
                f"line {self._number} of standard input is not UTF-8, and cannot be sent as text; "
                "--binary sends any bytes"
            ) from None

    def _refuse(self) -> NoReturn:
        raise InputError(
            f"line {self._number + 1} of standard input has more than {self._max_size} bytes, "
            "which is the longest message (TUNNEL_MAX_MESSAGE_SIZE)"
        )


class ByteSplitter:
    """Makes messages of bytes as they come: what was read at once is one message. Pure."""

    def feed(self, data: bytes) -> Iterable[bytes]:
        """The same."""
        yield data

    def finish(self) -> Iterable[bytes]:
        """Nothing is ever left over."""
        return ()


class InputReader:
    """Reads a descriptor to its end, and sends what it reads. Safe to use from any thread.

    Args:
        descriptor: Of standard input.
        splitter: Makes messages of bytes.
        send: Called with messages, and returns how many it accepted; it may wait. It accepts none
            if one of them is too big.
        on_end: Called at the end, in the thread that reads.

    Attributes:
        sent: How many messages were accepted.
        error: Why reading was given up; None: it was not.
    """

    def __init__(
        self,
        descriptor: int,
        splitter: LineSplitter | ByteSplitter,
        send: Callable[[Sequence[Message]], int],
        on_end: Callable[[], object],
    ) -> None:
        self._descriptor = descriptor
        self._splitter = splitter
        self._send = send
        self._on_end = on_end
        self._waker = Waker()
        # A daemon: a read cannot be interrupted everywhere, and must not keep the program.
        self._thread = threading.Thread(target=self._run, name="tunnel-stdin", daemon=True)
        self._held: deque[Message] = deque()  # read, and not accepted yet
        self.sent = 0
        self.error: InputError | TunnelError | OSError | None = None

    @property
    def held(self) -> int:
        """How many messages were read, and are not accepted yet."""
        return len(self._held)

    @property
    def is_running(self) -> bool:
        """Whether there may be more."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Read no more; what was read whole is sent.

        Args:
            timeout: Seconds for that.

        Returns:
            Whether it was.
        """
        self._waker.wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._wait() and (data := os.read(self._descriptor, CHUNK)):
                self._send_all(self._splitter.feed(data))
            if not self._waker.event.is_set():
                self._send_all(self._splitter.finish())
        except (InputError, TunnelError, OSError) as error:
            self.error = error
        finally:
            self._waker.close()
            self._on_end()

    def _wait(self) -> bool:
        """Wait for something to read; False: nobody wants it any more."""
        if os.name != "nt":  # where only sockets can be waited for, the read itself waits
            sources: list[int | Waker] = [self._descriptor, self._waker]
            select.select(sources, [], [])
        return not self._waker.event.is_set()

    def _send_some(self) -> int:
        """Many with one write. If one of them is refused, those before it one by one."""
        some = list(islice(self._held, _BATCH))
        try:
            return self._send(some)
        except MessageTooBigError:
            if len(some) == 1:
                raise
            return self._send(some[:1])

    def _send_all(self, messages: Iterable[Message]) -> None:
        """Send them, as far as they can be; what comes before a mistake is sent."""
        mistake = None
        try:
            for message in messages:
                self._held.append(message)
        except InputError as error:
            mistake = error
        while self._held:
            accepted = self._send_some()
            for _ in range(accepted):
                self._held.popleft()
            self.sent += accepted
        if mistake is not None:
            raise mistake
