"""Look-ups of names in threads that may be left behind, since nothing can interrupt a resolver.

A resolver that hangs keeps its thread for as long as it likes, half a minute is usual. Each attempt
begins a look-up of its own, since an old one may hang from the time when there was no network; but
not without end: above `MOST` for one name, whoever comes next waits for the latest one. So neither
a tunnel with a short time-out nor a thousand tunnels to one server have more threads than that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeAlias

from tunnel.happy_eyeballs import AddressInfo
from tunnel.waker import Waker

MOST = 8
"""Look-ups of one name that are under way at a time."""

_Name: TypeAlias = tuple[str, int]


class NameLookup:
    """One look-up; perhaps several wait for it.

    Attributes:
        outcome: The addresses, or why there are none; None until there is one.
    """

    def __init__(self) -> None:
        self.outcome: list[AddressInfo] | Exception | None = None
        self.waiting: list[Waker] = []  # guarded by the lock of `NameLookups`


class NameLookups:
    """All look-ups of a process. Safe to use from any thread."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: for a forked child, in which the threads of the parent do not run."""
        self._lock = threading.Lock()  # guards the look-ups under way, and who waits for them
        self._under_way: dict[_Name, list[NameLookup]] = {}

    def begin(
        self, name: _Name, resolve: Callable[[], list[AddressInfo]], waker: Waker
    ) -> NameLookup:
        """Have a name looked up.

        Args:
            name: Host and port.
            resolve: Looks it up; called in a thread of its own, or here if there is none to be had:
                better a look-up that nobody can interrupt than none.
            waker: Woken when there is an outcome.

        Returns:
            The look-up, to be handed to `leave` when its outcome is there or not wanted any more.
        """
        with self._lock:
            under_way = self._under_way.setdefault(name, [])
            is_new = len(under_way) < MOST
            if is_new:
                under_way.append(NameLookup())
            lookup = under_way[-1]
            lookup.waiting.append(waker)
        if is_new:

            def run() -> None:
                self._run(name, lookup, resolve)

            try:
                threading.Thread(target=run, name="tunnel-resolver", daemon=True).start()
            except RuntimeError:  # no thread left, or the main thread has ended
                run()
        return lookup

    def leave(self, lookup: NameLookup, waker: Waker) -> None:
        """Do not wait for a look-up any more."""
        with self._lock:
            lookup.waiting.remove(waker)

    def _run(
        self, name: _Name, lookup: NameLookup, resolve: Callable[[], list[AddressInfo]]
    ) -> None:
        outcome: list[AddressInfo] | Exception
        try:
            outcome = resolve()
        except Exception as error:
            outcome = error
        with self._lock:
            lookup.outcome = outcome
            under_way = self._under_way[name]
            under_way.remove(lookup)
            if not under_way:
                del self._under_way[name]
            waiting = tuple(lookup.waiting)
        for waker in waiting:
            waker.wake()


LOOKUPS = NameLookups()
"""The process's."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=LOOKUPS.forget)
