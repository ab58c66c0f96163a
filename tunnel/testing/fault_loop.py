"""The fault proxy's thread: a selector loop, in which everything of the proxy happens."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from tunnel.errors import InvalidStateError

_Result = TypeVar("_Result")
Handler: TypeAlias = Callable[[socket.socket, int], None]
"""Called with a socket and the events that it is ready for."""


def now() -> float:
    """The monotonic time in seconds, also while freezegun holds the time of the test still."""
    api: Any = sys.modules.get("freezegun.api")
    read: Callable[[], float] = time.monotonic if api is None else api.real_monotonic
    return read()


class Loop:
    """Calls what is due: for ready sockets, at a time, and for other threads.

    `call` and `stop` are for other threads; all else belongs to the loop's own.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._calls: deque[tuple[Callable[[], None], Future[Any]]] = deque()
        self._later: list[tuple[float, int, Callable[[], None]]] = []  # a heap
        self._count = itertools.count()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self.watch(self._wake_in, selectors.EVENT_READ, self._on_wake)
        self._lock = threading.Lock()  # guards _is_running
        self._is_running = True
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()

    def call(self, action: Callable[[], _Result]) -> _Result:
        """Run an action in the loop's thread, and wait for what it returns or raises."""
        future: Future[_Result] = Future()

        def run() -> None:
            try:
                future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

        with self._lock:
            if not self._is_running:
                raise InvalidStateError("the fault proxy has been stopped")
            self._calls.append((run, future))
            self._wake_out.send(b"\0")
        return future.result()

    def stop(self) -> None:
        """End the thread, and wait for it."""

        def end() -> None:
            with self._lock:  # whoever has called before is answered, in this very round
                self._is_running = False

        with contextlib.suppress(InvalidStateError):  # it has ended by itself
            self.call(end)
        self._thread.join()

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """Call back at that time, of `now()`."""
        heapq.heappush(self._later, (when, next(self._count), call))

    def watch(self, sock: socket.socket, interest: int, handler: Handler) -> None:
        """Call back when the socket is ready for that, and for nothing else."""
        known = sock in self._selector.get_map()
        if known and interest:
            self._selector.modify(sock, interest, handler)
        elif known:
            self._selector.unregister(sock)
        elif interest:
            self._selector.register(sock, interest, handler)

    def unwatch(self, sock: socket.socket) -> None:
        """Call back no more. No harm if it is closed, or was not watched."""
        if sock.fileno() >= 0 and sock in self._selector.get_map():
            self._selector.unregister(sock)

    def _run(self) -> None:
        try:
            self._serve()
        finally:  # also by an error, which would be a bug: nobody may wait for ever
            with self._lock:
                self._is_running = False
            for _, future in self._calls:
                future.set_exception(InvalidStateError("the fault proxy has been stopped"))
            self._selector.close()
            self._wake_in.close()
            self._wake_out.close()

    def _serve(self) -> None:
        while self._is_running:
            timeout = max(0.0, self._later[0][0] - now()) if self._later else None
            for key, events in self._selector.select(timeout):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock.fileno() >= 0:  # not closed by an earlier one of this round
                    key.data(sock, events)
            while self._later and self._later[0][0] <= now():
                heapq.heappop(self._later)[2]()

    def _on_wake(self, sock: socket.socket, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            sock.recv(4096)
        while self._calls:
            self._calls.popleft()[0]()
