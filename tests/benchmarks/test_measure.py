"""How figures are measured and judged; with contenders that only count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks.figures.measure import Contenders, Figure, Goal, Result, measure


@contextmanager
def nobody(brief: bool) -> Iterator[Contenders]:
    yield {}


def figure(
    goal: Goal | None = None, *, limit: float | None = None, more_is_better: bool = True
) -> Figure:
    return Figure(
        "some", "some figure", "messages/s", nobody, goal, limit, more_is_better=more_is_better
    )


def result(of: Figure, **values: list[float]) -> Result:
    return Result(of, {name.replace("_", "-"): list(row) for name, row in values.items()})


def test_contenders_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    """Each round measures everybody once, and begins with another one than the round before."""
    order: list[str] = []
    is_open = False

    def once(name: str) -> float:
        assert is_open
        order.append(name)
        return float(len(order))

    @contextmanager
    def contend(brief: bool) -> Iterator[Contenders]:
        nonlocal is_open
        assert brief
        is_open = True
        yield {"tunnel": lambda: once("tunnel"), "a": lambda: once("a"), "b": lambda: once("b")}
        is_open = False

    measured = measure(Figure("some", "", "us", contend), 4, brief=True)
    assert "".join(name[0] for name in order) == "tababtbtatab"
    assert measured.values == {
        "tunnel": [1.0, 6.0, 8.0, 10.0],
        "a": [2.0, 4.0, 9.0, 11.0],
        "b": [3.0, 5.0, 7.0, 12.0],
    }
    assert not is_open
    assert "some tunnel: 1 us" in capsys.readouterr().err


def failing(times: int, value: float = 5.0) -> Callable[[], float]:
    """A contender that fails so often before it gives the value."""
    left = times

    def contender() -> float:
        nonlocal left
        left -= 1
        if left >= 0:
            raise ConnectionError("gone")
        return value

    return contender


def measured(**contenders: Callable[[], float]) -> Result:
    """What comes of these contenders in two rounds, with a goal."""

    @contextmanager
    def contend(brief: bool) -> Iterator[Contenders]:
        yield contenders

    return measure(Figure("some", "", "us", contend, Goal(2.0)), 2)


def test_who_fails_is_measured_again() -> None:
    """A peer may fail twice; what went wrong is kept, and says nothing about the tunnel."""
    result = measured(tunnel=lambda: 10.0, a=failing(2))
    assert result.values == {"tunnel": [10.0, 10.0], "a": [5.0, 5.0]}
    assert result.failures == {"a": ["ConnectionError: gone"] * 2}
    assert result.is_reached


def test_a_peer_that_keeps_failing_is_left_out() -> None:
    """After three failures it is not asked again, and the others are measured all the same."""
    result = measured(tunnel=lambda: 10.0, a=failing(99), b=lambda: 5.0)
    assert result.values == {"tunnel": [10.0, 10.0], "b": [5.0, 5.0]}
    assert len(result.failures["a"]) == 3
    assert result.is_reached
    alone = measured(tunnel=lambda: 10.0, a=failing(99))
    assert alone.ratio is None
    assert alone.is_reached is None


@pytest.mark.parametrize("times", [1, 99])
def test_a_failure_of_the_tunnel_is_a_goal_missed(times: int) -> None:
    """However fast it is the next time, and with a value or without."""
    result = measured(tunnel=failing(times, 10.0), a=lambda: 5.0)
    assert result.is_reached is False
    assert ("tunnel" in result.values) is (times == 1)
    assert result.to_dict()["failures"] == {"tunnel": ["ConnectionError: gone"] * min(times, 3)}


def test_servers_end_with_an_interrupt() -> None:
    """Ctrl-C comes out, after everything that was set up is gone."""
    ended = False

    def interrupted() -> float:
        raise KeyboardInterrupt

    @contextmanager
    def contend(brief: bool) -> Iterator[Contenders]:
        nonlocal ended
        try:
            yield {"tunnel": interrupted}
        finally:
            ended = True

    with pytest.raises(KeyboardInterrupt):
        measure(Figure("some", "", "us", contend), 1)
    assert ended


def test_ratios_are_those_of_each_round() -> None:
    """The tunnel is compared with the best peer of the same round, and the median counts."""
    measured = result(
        figure(Goal(2.0)), tunnel=[100, 10, 40], a=[10, 4, 40], b=[50, 2, 20], tunnel_=[0, 0, 0]
    )
    assert measured.ratios() == [2.0, 2.5, 1.0]
    assert measured.ratio == 2.0
    assert measured.median("a") == 10


def test_the_best_of_times_is_the_least() -> None:
    """Where less is better the peer with the least value is the one to compare with."""
    of = figure(Goal(1.2, at_least=False), more_is_better=False)
    assert result(of, tunnel=[12.0], a=[10.0], b=[30.0]).ratios() == [1.2]


def test_a_goal_may_name_its_peers() -> None:
    """Others are measured and shown, and count for nothing."""
    of = figure(Goal(2.0, peers=("a", "b")))
    measured = result(of, tunnel=[20.0], a=[5.0], b=[10.0], much_better=[1000.0])
    assert measured.ratio == 2.0
    assert measured.is_reached


@pytest.mark.parametrize(
    ("goal", "ratio", "holds"),
    [
        (Goal(1.5), 1.5, True),
        (Goal(1.5), 1.49, False),
        (Goal(1.2, at_least=False), 1.2, True),
        (Goal(1.2, at_least=False), 1.21, False),
    ],
)
def test_the_bound_of_a_goal_belongs_to_it(goal: Goal, ratio: float, holds: bool) -> None:
    """A ratio that is just the bound reaches the goal, whichever side is the good one."""
    assert goal.holds(ratio) is holds


def test_goals_are_shown_as_ratios() -> None:
    """A goal reads like a line of the table of goals."""
    assert str(Goal(10)) == ">= 10 x"
    assert str(Goal(1.05, at_least=False)) == "<= 1.05 x"


@pytest.mark.parametrize(
    ("more_is_better", "value", "reached"),
    [(True, 20_000, True), (True, 19_999, False), (False, 20_000, True), (False, 20_001, False)],
)
def test_a_limit_is_for_the_value_itself(more_is_better: bool, value: int, reached: bool) -> None:
    """A limit needs no peers: the median of the tunnel's values decides."""
    measured = result(
        figure(limit=20_000, more_is_better=more_is_better), tunnel=[0, value, 100_000]
    )
    assert measured.ratio is None
    assert measured.is_reached is reached


def test_goal_and_limit_must_both_be_reached() -> None:
    """A figure with both is reached if both are."""
    of = figure(Goal(2.0), limit=100)
    assert result(of, tunnel=[100], a=[50]).is_reached is True
    assert result(of, tunnel=[90], a=[45]).is_reached is False
    assert result(of, tunnel=[100], a=[51]).is_reached is False


def test_without_goal_and_limit_there_is_no_verdict() -> None:
    """A figure that is only shown is neither reached nor missed."""
    assert result(figure(), tunnel=[1], a=[2]).is_reached is None


def test_a_result_as_json_has_it() -> None:
    """All values and what follows from them are in the dictionary."""
    data = result(figure(Goal(2.0)), tunnel=[100, 300], a=[50, 100]).to_dict()
    assert data["values"] == {"tunnel": [100, 300], "a": [50, 100]}
    assert data["medians"] == {"tunnel": 200, "a": 75}
    assert data["ratios"] == [2.0, 3.0]
    assert (data["ratio"], data["goal"], data["limit"]) == (2.5, ">= 2 x", None)
    assert data["reached"] is True
