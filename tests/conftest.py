"""What every test gets: a look for threads left behind, and the tools that may be missing."""

from __future__ import annotations

import gc
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Ours is found by its entry point where the package is installed; from a mere checkout, by this.
pytest_plugins = ("pytest_tunnel", "pytester")

# A loaded machine is no bug. In CI (.ci/run sets it) the same examples are tried each time, so that
# a change is not blamed for what chance found; elsewhere chance goes on looking.
settings.register_profile(
    "project",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")

GRACE = 5.0
"""Seconds that threads and descriptors get, real time, to go away by themselves after a test."""

TRACED = ("test_demo", "test_fault_proxy", "test_fork", "test_gateway", "test_sessions")
"""The files of `tests/integration` that reach lines which no other test does."""

_real_monotonic = time.monotonic  # taken now: a test may end with time still frozen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure coverage where it tells something: being traced, a test takes twice its time."""
    for item in items:
        folder, name = item.path.parts[-2:]
        is_traced = folder != "integration" or name.startswith(TRACED)
        if folder == "benchmarks" or not is_traced:
            item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def _no_thread_that_keeps_the_process() -> Iterator[None]:
    """Fail a test that leaves a non-daemon thread behind: it would keep a user's program alive."""
    before = set(threading.enumerate())
    yield
    left = _still_alive(before, deadline=_real_monotonic() + GRACE, daemons=False)
    if left:
        pytest.fail(f"the test left non-daemon threads behind: {_names(left)}")


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail a test after which more threads (of any kind) or descriptors are there than before.

    For a whole file: ``pytestmark = pytest.mark.usefixtures("no_leaks")``. Ask for it before the
    fixtures that it shall watch: what is set up before it counts as having been there.
    """
    threads = set(threading.enumerate())
    descriptors = _descriptors()
    yield
    deadline = _real_monotonic() + GRACE
    left = _still_alive(threads, deadline, daemons=True)
    if left:
        pytest.fail(f"the test left threads behind: {_names(left)}")
    more = _descriptors_beyond(descriptors, deadline)
    if more:
        pytest.fail(f"the test left descriptors open: {more}")


@pytest.fixture
def status_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where status sockets are looked for, this test's alone; `XDG_RUNTIME_DIR` is ``tmp_path``."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("tunnel.status.places._RUNTIME", tmp_path / "users")
    monkeypatch.setattr("tunnel.status.places._TEMPORARY", tmp_path / "shared")
    return tmp_path


@pytest.fixture(scope="session")
def dot() -> str:
    """The path of Graphviz's `dot`; without it the test is skipped."""
    path = shutil.which("dot")
    if path is None:
        pytest.skip("needs Graphviz's dot (Debian: apt-get install graphviz)")
    return path


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """A `node_modules` folder with Node's ws, for NODE_PATH; without it the test is skipped."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js (Debian: apt-get install nodejs)")
    named = os.environ.get("TUNNEL_TEST_NODE_MODULES")
    if not named:
        pytest.skip("needs Node's ws: npm install ws; TUNNEL_TEST_NODE_MODULES=its node_modules")
    folder = Path(named)
    if not (folder / "ws" / "package.json").is_file():
        pytest.fail(f"TUNNEL_TEST_NODE_MODULES names {folder}, and no ws is there")
    return folder


def _still_alive(
    before: set[threading.Thread], deadline: float, *, daemons: bool
) -> list[threading.Thread]:
    """The threads that were not there before and have not ended at the deadline."""
    new = [t for t in threading.enumerate() if t not in before and (daemons or not t.daemon)]
    for thread in new:
        if not isinstance(thread, threading._DummyThread):  # that kind cannot be joined
            thread.join(max(0.0, deadline - _real_monotonic()))
    return [t for t in new if t.is_alive()]


def _descriptors() -> dict[int, str]:
    """The open descriptors and what each one is, as far as this system tells."""
    folder = next((p for p in (Path("/proc/self/fd"), Path("/dev/fd")) if p.is_dir()), None)
    found: dict[int, str] = {}
    for name in os.listdir(folder) if folder else ():
        try:
            found[int(name)] = os.readlink(folder / name) if folder else ""
        except OSError:  # the descriptor with which the folder itself was listed; or no links here
            continue
    return found


def _descriptors_beyond(before: dict[int, str], deadline: float) -> dict[int, str]:
    """The descriptors opened since, once their number is back or the deadline is over.

    The number is what counts: a descriptor that is closed and another one opened is no leak.
    """
    if len(_descriptors()) > len(before):
        gc.collect()  # takes as long as many a test, so only where it may matter
    never = threading.Event()
    while len(now := _descriptors()) > len(before):
        if _real_monotonic() >= deadline:
            return {fd: what for fd, what in now.items() if before.get(fd) != what}
        never.wait(0.01)
    return {}


def _names(threads: list[threading.Thread]) -> str:
    return ", ".join(sorted(t.name for t in threads))
