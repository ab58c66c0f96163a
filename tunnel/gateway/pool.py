"""Threads for what must not hold up the event loop: handlers, and the checking of tokens.

Unlike those of `concurrent.futures` these threads are daemons, so a handler that never returns does
not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from loguru import logger

T = TypeVar("T")


class Pool:
    """A number of threads that take work in the order of its arrival. Thread-safe.

    Args:
        size: How many threads there may be; each is started when it is needed first.
        name: Their names begin with it.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._changed = threading.Condition(threading.Lock())  # guards all below
        self._work: deque[Callable[[], None]] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._is_stopped = False

    @property
    def waiting(self) -> int:
        """How much work waits for a thread."""
        return len(self._work)

    def submit(self, work: Callable[[], None]) -> None:
        """Have this called in a thread; after `stop` nothing happens."""
        with self._changed:
            if self._is_stopped:
                return
            self._work.append(work)
            if len(self._work) <= self._idle:
                self._changed.notify()
                return
            if len(self._threads) >= self._size:
                return
            name = f"{self._name}-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:  # the system has none left; those that there are will do it
            with self._changed:
                self._threads.remove(thread)
            logger.error("no thread could be started; {} wait", self.waiting)

    def stop(self, timeout: float) -> bool:
        """Drop the work that waits, and wait for what is being done.

        Args:
            timeout: Seconds at most.

        Returns:
            Whether all threads have ended.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            self._is_stopped = True
            self._work.clear()
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception:
                logger.exception("work in a thread of the gateway failed")
            del work  # else what it holds is kept until there is more

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._idle += 1
            while not self._work and not self._is_stopped:
                self._changed.wait()
            self._idle -= 1
            return self._work.popleft() if self._work else None


async def run_in(pool: Pool, function: Callable[[], T]) -> T:
    """Call a function in a thread of the pool, and wait for what it returns or raises."""
    future: Future[T] = Future()

    def work() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    pool.submit(work)
    return await asyncio.wrap_future(future)
