"""Who writes, and when: many threads, one stream of bytes, nobody blocked by another's lock.

Theory of operation
-------------------

Everything that is to be written stands in the `Outbox` or in the queue behind it. Whoever finds
nobody writing takes the *role* of the writer, drains, lets go, and looks once more; others only
append and leave. So a burst from many threads becomes a few large writes, and what is appended in
the last moment is seen by one of the two.

Four rules keep that fair and free of deadlocks:

- A thread that has written a good deal for others is relieved by the next sender that comes.
- The reading thread and the heartbeat never wait for the kernel. What they cannot write at once,
  or not within the same amount, stays where it is, the role is free, and the reading thread adds
  writability to its own wait (`is_stalled`). Other threads wait for the kernel themselves, while
  they have the role.
- A write that fails marks the connection dead and ends it *before* the role is given up, so that no
  byte can follow half a frame. An exception that comes in between, such as Ctrl-C, does the same.
  If it comes while the kernel is taking bytes, nobody knows how many it took. In a session they
  count as taken: if that is lost, what may have arrived must not be sent again.
- Nothing foreign is called with the lock held: the queue may tell its subscribers that there is
  room, and they may send.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident

from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.frames import FrameEncoder, encode_text
from tunnel.interruptible import Condition
from tunnel.outbox import FRAGMENT_SIZE, Message, Outbox
from tunnel.request_queue import RequestPriority
from tunnel.session_frames import Parcel
from tunnel.transport import Transport

_BUDGET = 1024 * 1024
"""Bytes after which a writer may be relieved, and one that must not wait gives up the role."""

_SMALL_BUDGET = 64 * 1024
"""The same for who only wants to get a frame of its own out, on whatever thread.

The timers of all tunnels share one thread: it must not write one tunnel's whole queue.
"""


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
        number: Makes the session's frame of a message that is written directly, or None if it has
            to wait; not given: messages go as they are.
        is_direct: Whether messages may be written past the queue at all.
        clock: Measures time-outs.

    Attributes:
        on_drained: Called, without the lock, whenever the role is given up with nothing left to
            write; None for nobody.
    """

    __slots__ = (
        "_clock",
        "_dead",
        "_encoder",
        "_free",
        "_is_direct",
        "_is_sending_directly",
        "_is_sending_piece",
        "_lock",
        "_number",
        "_on_failed",
        "_on_sent",
        "_on_stalled",
        "_outbox",
        "_over_budget",
        "_owner",
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
        number: Callable[[Message], bytes | None] | None = None,
        is_direct: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._transport = transport
        self._outbox = outbox
        self._encoder = encoder
        self._on_stalled = on_stalled
        self._on_failed = on_failed
        self._on_sent = on_sent
        self._number = number
        self._is_direct = is_direct
        self._clock = clock
        self._lock = threading.Lock()  # guards the fields below and who may touch the outbox
        self._free = Condition(self._lock)  # notified when the role is given up
        self._owner: int | None = None  # the thread that has the role
        self._dead = False
        self._over_budget = False
        self._relievers = 0
        # What the kernel is just taking: a direct message, or a piece of the outbox.
        self._is_sending_piece = False
        self._is_sending_directly = False
        self.on_drained: Callable[[], None] | None = None

    @property
    def is_stalled(self) -> bool:
        """Whether bytes wait for the kernel and nobody waits with them."""
        return self._owner is None and not self._dead and self._outbox.has_work

    @property
    def is_helping(self) -> bool:
        """Whether a thread has the role, and has not had it for long: `flush` has nothing to do.

        Whoever has it looks again for work when it has given it up.
        """
        return self._owner is not None and not self._over_budget

    @property
    def has_work(self) -> bool:
        """Whether there is anything left to write, by whomever."""
        return self._owner is not None or self._outbox.has_work

    def open(self) -> None:
        """Let messages out; until now only control frames and the greeting could go."""
        with self._lock:
            self._outbox.open()

    def write_directly(
        self,
        message: Message,
        priority: RequestPriority,
        expires_in: float | None,
    ) -> bool:
        """Write one message past the queue, if nothing is before it: the common case. Never waits.

        Either way the caller has to look at `is_stalled`, and to `flush` if it is: the kernel may
        have taken a part, and others may have relied on us.

        Returns:
            Whether the message was taken; if not, it belongs into the queue.

        Raises:
            ValueError: It cannot be encoded (a lone surrogate).
        """
        if self._owner is not None or len(message) > FRAGMENT_SIZE or not self._is_direct:
            return False
        number, outbox = self._number, self._outbox
        if number is None:
            if type(message) is Parcel:  # see `Outbox`
                return False
            frame = self._encoder.message(message)
        elif isinstance(message, str) and not message.isascii():
            encode_text(message)  # with the role it would be too late to refuse it
        try:
            with self._lock:
                if self._owner is not None or self._dead:
                    return False
                self._owner = get_ident()
            if not outbox.is_idle:
                self._let_go()
                return False
            if number is not None:
                numbered = number(message)
                if numbered is None:
                    self._let_go()
                    return False
                message, frame = numbered, self._encoder.message(numbered)
            self._is_sending_directly = True
            try:
                taken = self._transport.send(frame)
            except OSError as error:
                self._is_sending_directly = False
                outbox.adopt(message, priority, expires_in, frame, 0)
                self._fail(error)
                return True
            if taken == len(frame):
                self._on_sent(1)
            else:
                outbox.adopt(message, priority, expires_in, frame, taken)
            self._is_sending_directly = False
            with self._lock:  # as `_let_go`, whose call would show in each message's cost
                self._owner = None
                if self._relievers or self._dead:
                    self._free.notify_all()
            if self.on_drained is not None and not outbox.has_work:
                self.on_drained()
        except BaseException:
            self._leave()
            raise
        return True

    def write_control(self, frame: bytes) -> None:
        """Write a control frame before all messages that are not begun. Never waits."""
        with self._lock:
            if self._dead:
                return
            self._outbox.add_control(frame)
        self.nudge()

    def write_own(self, frame: bytes) -> None:
        """Write a message that belongs to this connection before all queued ones. Never waits."""
        with self._lock:
            if self._dead:
                return
            self._outbox.add_own(frame)
        self.nudge()

    def write_beat(self, frame: bytes) -> None:
        """The same for the answer to a ping that is a message; of several, the last is written."""
        with self._lock:
            if self._dead:
                return
            self._outbox.add_beat(frame)
        self.nudge()

    def nudge(self) -> None:
        """Write a little of what there is, unless somebody is writing; the reader does the rest.

        Never waits, and never takes long.
        """
        try:
            if self._outbox.has_work and self._claim():
                self._drain(may_wait=False, deadline=None, budget=_SMALL_BUDGET)
        except BaseException:
            self._leave()
            raise

    def flush(self, *, may_wait: bool, timeout: float | None = None) -> None:
        """Write what there is, unless somebody is doing so.

        Args:
            may_wait: Whether this thread may wait for the kernel.
            timeout: Seconds that all its waits may take; then the reading thread takes over.
        """
        deadline = self._deadline(timeout)
        try:
            if self._over_budget and may_wait:
                self._relieve(timeout)
            if self._outbox.has_work and self._claim():
                self._drain(may_wait=may_wait, deadline=deadline)
        except BaseException:
            self._leave()
            raise

    def stop(self) -> None:
        """Nothing is written any more; what was not goes back to the queue.

        For the tunnel's thread, after the transport was aborted: that ends every wait of a writer,
        so this one is short.
        """
        with self._lock:
            self._dead = True
        self._free.wait_for(lambda: self._owner is None)
        self._outbox.settle()

    def _claim(self) -> bool:
        """Take the role, if nobody has it."""
        with self._lock:
            if self._owner is not None or self._dead:
                return False
            self._owner = get_ident()
            return True

    def _relieve(self, timeout: float | None) -> None:
        """Wait until the role is given up, by a thread that has had it for long."""
        with self._lock:
            if self._owner == get_ident():  # called back by the queue in the midst of it
                return
            self._relievers += 1
        try:
            self._free.wait_for(
                lambda: self._owner is None or not self._over_budget,
                None if timeout is None else min(timeout, threading.TIMEOUT_MAX),
            )
        finally:
            with self._lock:
                self._relievers -= 1

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._clock.monotonic() + timeout

    def _wait_writable(self, deadline: float | None) -> bool:
        if deadline is None:
            return self._transport.wait_writable(None)
        remaining = deadline - self._clock.monotonic()
        return remaining > 0 and self._transport.wait_writable(remaining)

    def _drain(self, *, may_wait: bool, deadline: float | None, budget: int = _BUDGET) -> None:
        """Write until there is nothing left. Has the role when called, and not when it returns."""
        written = 0
        while True:
            piece = self._outbox.piece()
            if not piece:
                if self._let_go_if_idle():
                    return
                continue
            self._is_sending_piece = True
            try:
                taken = self._transport.send(piece)
                self._outbox.advance(taken)
                self._is_sending_piece = False
                is_stalled = not taken and not (may_wait and self._wait_writable(deadline))
            except OSError as error:
                self._is_sending_piece = False
                self._fail(error)
                return
            written += taken
            if is_stalled:
                self._let_go()
                self._on_stalled()
                return
            if written > budget and self._outbox.has_work and self._is_relieved(may_wait):
                return

    def _let_go(self) -> None:
        with self._lock:
            self._owner = None
            self._over_budget = False
            if self._relievers or self._dead:
                self._free.notify_all()

    def _let_go_if_idle(self) -> bool:
        """Give up the role, and look again; False: there is more, and the role was taken back."""
        self._let_go()
        if not self._outbox.has_work:
            if self.on_drained is not None:
                self.on_drained()
            return True
        return not self._claim()  # not ours to take: whoever has it sees the same

    def _is_relieved(self, may_wait: bool) -> bool:
        """Give up the role after the budget, to whoever waits for it or else to the reader."""
        with self._lock:
            has_reliever = self._relievers > 0
            self._over_budget = True
        if has_reliever or not may_wait:
            self._let_go()
            self._on_stalled()  # should the reliever have been interrupted
            return True
        return False

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._dead = True
        self._transport.abort()  # before somebody may close it
        self._let_go()
        self._on_failed(error)

    def _doubt(self) -> None:
        """What the kernel was just taking may have been taken. Needs the role."""
        if self._is_sending_directly:
            self._on_sent(1)
        elif self._is_sending_piece:
            self._outbox.doubt()

    def _leave(self) -> None:
        """Whatever this thread was about to do, an exception keeps it from it."""
        if self._owner == get_ident():  # nobody knows how much of the frame went out
            if self._number is not None:
                self._doubt()
            self._fail(ConnectionAbortedError("a write was interrupted"))
        else:
            self._free.notify_all()  # it may have been ours until just now
            self._on_stalled()  # somebody may have relied on us
