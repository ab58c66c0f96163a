"""What benchmarks are run on."""

from __future__ import annotations

import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = (
    "websocket-client",
    "wsaccel",
    "websockets",
    "python-socketio",
    "transitions",
    "tenacity",
    "loguru",
    "uvloop",
    "aiohttp",
)


def machine() -> dict[str, object]:
    """What it is measured on; asked before anything is measured, for the sake of the load."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "temporary files": _file_system(Path(tempfile.gettempdir()).resolve()),
        "load before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "libraries": {name: found for name in _LIBRARIES if (found := version_of(name))},
    }


def version_of(name: str) -> str | None:
    """The version of a distribution; None: it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (text.partition(":")[2].strip() for text in lines if text.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _file_system(folder: Path) -> str | None:
    """The kind of file system that a folder is in; None: the system does not tell."""
    try:
        mounts = [text.split() for text in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:  # not Linux
        return None
    around = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    return max(around, key=lambda mount: len(mount[1]))[2] if around else None
