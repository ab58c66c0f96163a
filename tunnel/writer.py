"""Who writes, and when: many threads, one stream of bytes, nobody blocked by another's lock.

Theory of operation
-------------------

Everything that is to be written stands in the `Outbox` or in the queue behind it. Whoever finds
nobody writing takes the *role* of the writer, drains, and looks once more before letting go; others
only append and leave. So a burst from many threads becomes a few large writes.

Three rules keep that fair and free of deadlocks:

- A thread that has written a good deal for others is relieved by the next sender that comes.
- The reading thread and the heartbeat never wait for the kernel. What they cannot write at once
  stays where it is, the role is free, and the reading thread adds writability to its own wait
  (`is_stalled`). Other threads wait for the kernel themselves, while they have the role.
- A write that fails marks the connection dead *before* the role is given up, so that no byte can
  follow half a frame.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tunnel.frames import FrameEncoder
from tunnel.outbox import FRAGMENT_SIZE, Message, Outbox
from tunnel.request_queue import RequestPriority
from tunnel.transport import Transport

_BUDGET = 1024 * 1024
"""Bytes after which a writer may be relieved."""


class Writer:
    """The write role of one connection. Safe to use from any thread.

    Args:
        transport: Where the bytes go.
        outbox: Where they come from.
        encoder: Makes frames of messages that are written directly.
        on_stalled: Called when the role was given up with bytes left that the kernel would not
            take: the reading thread has to look at `is_stalled` again.
        on_failed: Called with the error of a failed write, once.
        on_sent: Called with the number of messages that were written directly.

    Attributes:
        on_drained: Called, without the lock, whenever the role is given up with nothing left to
            write; None for nobody.
    """

    __slots__ = (
        "_busy",
        "_dead",
        "_encoder",
        "_free",
        "_lock",
        "_on_failed",
        "_on_sent",
        "_on_stalled",
        "_outbox",
        "_over_budget",
        "_relievers",
        "_transport",
        "on_drained",
    )

    def __init__(
        self,
        transport: Transport,
        outbox: Outbox,
        encoder: FrameEncoder,
        *,
        on_stalled: Callable[[], None],
        on_failed: Callable[[Exception], None],
        on_sent: Callable[[int], None],
    ) -> None:
        self._transport = transport
        self._outbox = outbox
        self._encoder = encoder
        self._on_stalled = on_stalled
        self._on_failed = on_failed
        self._on_sent = on_sent
        self._lock = threading.Lock()  # guards the flags below and who may touch the outbox
        self._free = threading.Condition(self._lock)  # notified when the role is given up
        self._busy = False
        self._dead = False
        self._over_budget = False
        self._relievers = 0
        self.on_drained: Callable[[], None] | None = None

    @property
    def is_stalled(self) -> bool:
        """Whether bytes wait for the kernel and nobody waits with them."""
        return not self._busy and not self._dead and self._outbox.has_work

    def open(self) -> None:
        """Let messages out; until now only control frames and the greeting could go."""
        with self._lock:
            self._outbox.is_open = True

    def write_directly(
        self,
        message: Message,
        priority: RequestPriority,
        expires_in: float | None,
        *,
        may_wait: bool,
        timeout: float | None = None,
    ) -> bool:
        """Write one message past the queue, if nothing is before it: the common case.

        `may_wait` and `timeout` are those of `flush`.

        Returns:
            Whether the message was taken; if not, it belongs into the queue.

        Raises:
            ValueError: It cannot be encoded (a lone surrogate).
        """
        if self._busy or len(message) > FRAGMENT_SIZE:
            return False
        with self._lock:
            if self._busy or self._dead or not self._outbox.is_idle:
                return False
            self._busy = True
        try:
            frame = self._encoder.message(message)
        except BaseException:
            self._let_go()
            raise
        try:
            taken = self._transport.send(frame)
        except OSError as error:
            self._outbox.adopt(message, priority, expires_in, frame, 0)
            self._fail(error)
            return True
        except BaseException:
            self._fail(ConnectionAbortedError("a write was interrupted"))
            raise
        if taken == len(frame):
            self._on_sent(1)
        else:
            self._outbox.adopt(message, priority, expires_in, frame, taken)
        if not self._let_go_if_idle():
            self._drain(may_wait=may_wait, timeout=timeout)
        return True

    def write_control(self, frame: bytes) -> None:
        """Write a control frame before all messages that are not begun. Never waits."""
        with self._lock:
            if self._dead:
                return
            self._outbox.add_control(frame)
        self.flush(may_wait=False)

    def write_own(self, frame: bytes) -> None:
        """Write a message that belongs to this connection before all queued ones. Never waits."""
        with self._lock:
            if self._dead:
                return
            self._outbox.add_own(frame)
        self.flush(may_wait=False)

    def flush(self, *, may_wait: bool, timeout: float | None = None) -> None:
        """Write what there is, unless somebody is doing so.

        Args:
            may_wait: Whether this thread may wait for the kernel.
            timeout: Seconds of each such wait; then the reading thread takes over.
        """
        if self._claim(may_wait=may_wait, timeout=timeout):
            self._drain(may_wait=may_wait, timeout=timeout)

    def stop(self) -> None:
        """Nothing is written any more; what was not goes back to the queue.

        For the tunnel's thread, after the transport was aborted: that ends every wait of a writer,
        so this one is short.
        """
        with self._lock:
            self._dead = True
            while self._busy:
                self._free.wait()
        self._outbox.settle()

    def _claim(self, *, may_wait: bool, timeout: float | None) -> bool:
        with self._lock:
            if self._busy and self._over_budget and may_wait:
                self._relievers += 1
                try:
                    self._free.wait_for(lambda: not self._busy or not self._over_budget, timeout)
                finally:
                    self._relievers -= 1
            if self._busy or self._dead or not self._outbox.has_work:
                return False
            self._busy = True
            return True

    def _drain(self, *, may_wait: bool, timeout: float | None) -> None:
        """Write until there is nothing left. Has the role when called, and not when it returns."""
        written = 0
        try:
            while True:
                piece = self._outbox.piece()
                if not piece:
                    if self._let_go_if_idle():
                        return
                    continue
                taken = self._transport.send(piece)
                if taken:
                    self._outbox.advance(taken)
                    written += taken
                    if written > _BUDGET and self._let_go_if_relieved():
                        return
                elif not may_wait or not self._transport.wait_writable(timeout):
                    self._let_go()
                    self._on_stalled()
                    return
        except OSError as error:
            self._fail(error)
        except BaseException:  # KeyboardInterrupt: nobody knows how much of the frame went out
            self._fail(ConnectionAbortedError("a write was interrupted"))
            raise

    def _let_go(self) -> None:
        with self._lock:
            self._busy = self._over_budget = False
            self._free.notify_all()

    def _let_go_if_idle(self) -> bool:
        with self._lock:
            if self._outbox.has_work:
                return False
            self._busy = self._over_budget = False
            if self._relievers or self._dead:
                self._free.notify_all()
        if self.on_drained is not None:
            self.on_drained()
        return True

    def _let_go_if_relieved(self) -> bool:
        with self._lock:
            self._over_budget = True
            if not self._relievers:
                return False
            self._busy = self._over_budget = False
            self._free.notify_all()
            return True

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._dead = True
            self._busy = self._over_budget = False
            self._free.notify_all()
        self._transport.abort()
        self._on_failed(error)
