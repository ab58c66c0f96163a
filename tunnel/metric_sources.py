"""Which tunnels have their metrics shown, under which names."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping

from tunnel.forks import is_inherited
from tunnel.metric_table import Source
from tunnel.metrics_collector import MetricsCollector
from tunnel.service import TunnelService


class MetricSources:
    """Tunnels by name, held weakly: one that is gone is shown no more. Safe from any thread.

    Args:
        given: Tunnels by name that are shown as well. It is looked at anew each time, so tunnels
            may be added to it and removed; what is in it is held by it.
    """

    def __init__(self, given: Mapping[str, Source] | None = None) -> None:
        self._given: Mapping[str, Source] = {} if given is None else given
        self._lock = threading.Lock()  # guards what was added
        self._added: dict[str, weakref.ref[Source]] = {}

    def add(self, name: str, tunnel: Source) -> None:
        """Show a tunnel from now on, until it is removed or nobody holds it any more.

        Args:
            name: What it is called; unlike that of any other that is shown.
            tunnel: The service, or the metrics of one.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: The name is empty, or another tunnel has it.
        """
        _check(name, tunnel)
        with self._lock:
            if name in self._given or self._alive().get(name, tunnel) is not tunnel:
                raise ValueError(f"there is a tunnel of the name {name!r} already; remove it first")
            self._added[name] = weakref.ref(tunnel)

    def remove(self, name: str) -> None:
        """Show a tunnel no more that was added; nothing happens if there is none of that name."""
        with self._lock:
            self._added.pop(name, None)

    def present(self) -> dict[str, Source]:
        """The tunnels that are there now.

        In a forked child those of the parent are left out: they are the parent's to show.

        Raises:
            TypeError, ValueError: What was given is no tunnel, or has no name.
        """
        given = dict(self._given)
        for name, tunnel in given.items():
            _check(name, tunnel)
        with self._lock:
            shown = {**given, **self._alive()}
        return {name: tunnel for name, tunnel in shown.items() if not is_inherited(tunnel)}

    def _alive(self) -> dict[str, Source]:
        """What was added and is still there; the rest is forgotten. Needs the lock."""
        alive = {name: tunnel for name, ref in self._added.items() if (tunnel := ref()) is not None}
        self._added = {name: self._added[name] for name in alive}
        return alive


def _check(name: object, tunnel: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a tunnel's name is a str, not {name!r}")
    if not isinstance(tunnel, (TunnelService, MetricsCollector)):
        raise TypeError(
            f"only a TunnelService or a MetricsCollector has metrics, not a {type(tunnel).__name__}"
        )
    if not name:
        raise ValueError("a tunnel needs a name, to be told apart from others")
