"""The figures of footprint, recovery, requests and the core: each once, and small."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from benchmarks.figures.core import FIGURES as CORE
from benchmarks.figures.footprint import FIGURES as FOOTPRINT
from benchmarks.figures.fresh import run_fresh
from benchmarks.figures.measure import TUNNEL, Figure, measure
from benchmarks.figures.recovery import FIGURES as RECOVERY
from benchmarks.figures.requests import FIGURES as REQUESTS
from benchmarks.figures.servers import EchoServer

ALL = (*CORE, *REQUESTS, *FOOTPRINT, *RECOVERY)
# Only Linux tells how much memory a process has for itself.
MEMORY = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let all the processes share what they compile, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(figure, id=figure.name, marks=[MEMORY] if figure in FOOTPRINT else [])
        for figure in ALL
    ],
)
def test_a_figure(figure: Figure) -> None:
    """Every contender gives a value, and what is to be reached can be judged."""
    result = measure(figure, 1, brief=True)
    assert all(value > 0 for values in result.values.values() for value in values), result.values
    assert TUNNEL in result.values
    assert result.is_reached is not None
    if figure.goal is not None:
        assert set(figure.goal.peers) < set(result.values)


@MEMORY
def test_idle_connections_of_other_kinds() -> None:
    """Peers that a short run leaves out can be measured as well, and have two threads each."""
    with EchoServer() as server:
        for kind in ("app", "websockets"):
            values = run_fresh("benchmarks.figures.idle_trial", kind, server.url, "2", "used")
            assert values["threads"] == 2


def test_figures_have_names_of_their_own() -> None:
    """No two figures have the same name or title."""
    assert len({figure.name for figure in ALL}) == len(ALL)
    assert len({figure.title for figure in ALL}) == len(ALL)
