"""Waking one thread out of whatever it waits in.

The thread of a tunnel waits in three ways: on a clock (backoff), in a dial, and for its socket. A
`Waker` ends all three at once: it is an event for the first and a file descriptor for the others.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable

from tunnel.forks import register
from tunnel.interruptible import Event

_ONE = (1).to_bytes(8, sys.byteorder)  # what an eventfd is told, and what makes it readable


class Waker:
    """An event that can also be polled.

    `wake` may be called from any thread, also after `close`; everything else belongs to the thread
    that is woken. That thread calls `clear` *before* it looks at what it may have been woken for:
    then no wake-up is lost, only one now and then superfluous.

    Attributes:
        event: Set from `wake` until `clear`.
    """

    __slots__ = ("__weakref__", "_descriptor", "_lock", "_partner", "event")

    def __init__(self) -> None:
        self.event: threading.Event = Event()
        self._lock = threading.Lock()  # guards the descriptors, and that they agree with the event
        self._descriptor: int | socket.socket | None = None  # made when first polled
        self._partner: socket.socket | None = None
        register(self)

    def wake(self) -> None:
        """Wake the thread, now or at its next wait."""
        if self.event.is_set():
            return
        with self._lock:
            try:
                self.event.set()
            finally:  # Ctrl-C in between would make this wake-up, and all later ones, a silent one
                self._signal()

    def clear(self) -> None:
        """Forget the wake-ups so far."""
        if not self.event.is_set():
            return
        # Event and descriptor change together: a descriptor that stayed readable while the event is
        # not set would never be read again, and every poll from then on would return at once.
        with self._lock:
            self.event.clear()
            if isinstance(self._descriptor, int):
                _ignoring_would_block(os.read, self._descriptor, 8)
            elif self._descriptor is not None:
                _ignoring_would_block(self._descriptor.recv, 4096)

    def fileno(self) -> int:
        """The descriptor that is readable while the waker is set."""
        with self._lock:
            if self._descriptor is None:
                # Linux has one descriptor in place of two.
                if sys.platform == "linux" and hasattr(os, "eventfd"):
                    self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                else:
                    self._descriptor, self._partner = socket.socketpair()
                    self._descriptor.setblocking(False)
                    self._partner.setblocking(False)
                if self.event.is_set():
                    self._signal()
            if isinstance(self._descriptor, int):
                return self._descriptor
            return self._descriptor.fileno()

    def close(self) -> None:
        """Give the descriptors back; a later `fileno` would make new ones."""
        with self._lock:
            if isinstance(self._descriptor, int):
                os.close(self._descriptor)
            elif self._descriptor is not None:
                self._descriptor.close()
            if self._partner is not None:
                self._partner.close()
            self._descriptor = self._partner = None

    def leave_to_parent(self) -> None:
        """This is a forked child now: what it wrote to the descriptors would wake the parent."""
        self._lock = threading.Lock()  # a thread that is not here may have had it
        self.close()

    def _signal(self) -> None:
        if isinstance(self._descriptor, int):
            _ignoring_would_block(os.write, self._descriptor, _ONE)
        elif self._partner is not None:
            _ignoring_would_block(self._partner.send, b"\0")


def _ignoring_would_block(call: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(BlockingIOError):
        call(*arguments)
