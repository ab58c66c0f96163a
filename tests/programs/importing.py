"""Import both packages, and report everything that this has done beyond defining names.

``python importing.py``: prints a JSON list of sentences; an empty one if nothing was done. Python's
audit hooks tell of files, sockets and processes; the rest is compared with before. What
the packages' dependencies do by themselves is imported first, and not ours to answer for.
"""

from __future__ import annotations

import gc
import json
import locale
import logging
import os
import random
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from importlib import import_module

import loguru

for library in ("tenacity", "transitions", "websocket"):
    import_module(library)

PACKAGES = ("statemachine", "tunnel")
HARMLESS = ("import", "compile", "exec", "marshal.", "object.", "os.listdir", "os.scandir")
"""Audit events of every import: finding, reading and running modules."""

SETTINGS: dict[str, Callable[[], object]] = {
    "loguru's handlers": lambda: list(loguru.logger._core.handlers),  # type: ignore[attr-defined]
    "logging's handlers": lambda: list(logging.root.handlers),
    "logging's level": lambda: logging.root.level,
    "logging's loggers": lambda: sorted(
        name for name in logging.root.manager.loggerDict if name.startswith(PACKAGES)
    ),
    "the signals' handlers": lambda: [signal.getsignal(n) for n in signal.valid_signals()],
    "the threads": lambda: [thread.name for thread in threading.enumerate()],
    "sys.excepthook": lambda: sys.excepthook,
    "threading.excepthook": lambda: threading.excepthook,
    "sys.unraisablehook": lambda: sys.unraisablehook,
    "the trace function": lambda: (sys.gettrace(), sys.getprofile()),
    "the switch interval": sys.getswitchinterval,
    "the recursion limit": sys.getrecursionlimit,
    "the garbage collector": lambda: (gc.isenabled(), gc.get_threshold(), gc.callbacks[:]),
    "the sockets' default time-out": socket.getdefaulttimeout,
    "the random numbers": random.getstate,
    "the warnings' filters": lambda: warnings.filters[:],
    "the search path": lambda: sys.path[:],
    "the locale": lambda: locale.setlocale(locale.LC_ALL),
    "the environment": lambda: dict(os.environ),
    "the working directory": os.getcwd,
}

found: list[str] = []
is_watching = False


def is_ours() -> bool:
    """Whether it is a module of ours that reads the environment, through `os.getenv` at most."""
    frame = sys._getframe(2)
    for _ in range(3):
        if str(frame.f_globals.get("__name__")).partition(".")[0] in PACKAGES:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


def on_audit(event: str, arguments: tuple[object, ...]) -> None:
    if not is_watching or event.startswith(HARMLESS):
        return
    if event == "open" and str(arguments[0]).endswith((".py", ".pyc")):
        return
    if event == "sys._getframe":  # dataclasses and enums, and this program
        return
    found.append(f"{event} {arguments!r}")


class WatchedEnvironment(type(os.environ)):  # type: ignore[misc]
    """Notes what modules of ours read from it."""

    def __getitem__(self, key: str) -> str:
        if is_watching and is_ours():
            found.append(f"reads the environment variable {key}")
        return str(super().__getitem__(key))


start_thread = threading.Thread.start


def start_and_tell(self: threading.Thread) -> None:
    """Python tells of threads only since 3.12, and one may have ended before anybody looks."""
    if is_watching:
        found.append(f"starts a thread: {self.name}")
    start_thread(self)


threading.Thread.start = start_and_tell  # type: ignore[method-assign]
os.environ.__class__ = WatchedEnvironment
sys.addaudithook(on_audit)
sys.dont_write_bytecode = True  # a first import would write files, as Python does

before = {name: read() for name, read in SETTINGS.items()}
is_watching = True
import statemachine  # noqa: E402
import tunnel  # noqa: E402

for name in tunnel.__all__:  # also what is only loaded when it is asked for
    getattr(tunnel, name)
assert statemachine.diagram
assert statemachine.replay
is_watching = False
after = {name: read() for name, read in SETTINGS.items()}
found += [f"changes {name}" for name in SETTINGS if before[name] != after[name]]
print(json.dumps(found, indent=1))
