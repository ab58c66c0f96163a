from __future__ import annotations

import threading

import pytest

from statemachine import StateMachine
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState, TunnelTrigger
from tunnel.state_watch import StateWatches

S = TunnelConnectionState
T = TunnelTrigger


class Model:
    may_recover = True


@pytest.fixture
def machine() -> StateMachine:
    return StateMachine(LIFECYCLE, Model())


@pytest.fixture
def watches(machine: StateMachine) -> StateWatches:
    return StateWatches(machine)


def test_a_state_that_is_entered_is_seen(machine: StateMachine, watches: StateWatches) -> None:
    """Entering one of the states sets the event, and says which it was."""
    with watches.watch(S.CONNECTED, S.ERROR, also_now=False) as watch:
        machine.fire(T.CONNECT)
        assert not watch.seen.is_set()
        assert watch.last is None
        machine.fire(T.FAIL)
        assert watch.seen.is_set()
        assert watch.last == S.ERROR


def test_a_state_that_is_left_at_once_is_seen(machine: StateMachine, watches: StateWatches) -> None:
    """A state that was passed through counts, although it is over when somebody looks."""
    with watches.watch(S.CONNECTED, also_now=False) as watch:
        for trigger in (T.CONNECT, T.OPENED, T.LOST):
            machine.fire(trigger)
        assert machine.state == S.DISCONNECTED.value
        assert watch.seen.is_set()
        assert watch.last == S.CONNECTED


def test_the_last_of_several(machine: StateMachine, watches: StateWatches) -> None:
    """`last` is the state that was entered last, of those that are watched."""
    with watches.watch(S.CONNECTED, S.ERROR, also_now=False) as watch:
        for trigger in (T.CONNECT, T.OPENED, T.FAIL, T.CLOSE):
            machine.fire(trigger)
        assert watch.last == S.ERROR


def test_the_present_state_counts_if_asked(machine: StateMachine, watches: StateWatches) -> None:
    """With `also_now` the present state counts, without it only what comes."""
    with watches.watch(S.DISCONNECTED, also_now=True) as watch:
        assert watch.seen.is_set()
        assert watch.last == S.DISCONNECTED
    with watches.watch(S.CONNECTED, also_now=True) as watch:
        assert not watch.seen.is_set()
    with watches.watch(S.DISCONNECTED, also_now=False) as watch:
        assert not watch.seen.is_set()


def test_each_watch_is_its_own(machine: StateMachine, watches: StateWatches) -> None:
    """Several watch at once; one that has ended hears nothing more, the others do."""
    with watches.watch(S.CONNECTED, also_now=False) as outer:
        with watches.watch(S.CONNECTED, also_now=False) as inner:
            pass
        machine.fire(T.CONNECT)
        machine.fire(T.OPENED)
        assert outer.seen.is_set()
        assert not inner.seen.is_set()


def test_an_exception_ends_the_watch(machine: StateMachine, watches: StateWatches) -> None:
    """The watch ends with the block, also when that raises."""
    with (
        pytest.raises(RuntimeError, match="interrupted"),
        watches.watch(S.CONNECTING, also_now=False) as watch,
    ):
        raise RuntimeError("interrupted")
    machine.fire(T.CONNECT)
    assert not watch.seen.is_set()
    assert watches._watches == ()


def test_an_unknown_state_is_refused(watches: StateWatches) -> None:
    """What is no state would never be entered; that is said at once. Plain names are taken."""
    with (
        pytest.raises(ValueError, match="'conected' is not a valid"),
        watches.watch("conected", also_now=True),  # type: ignore[arg-type]
    ):
        pass
    with watches.watch("disconnected", also_now=True) as watch:  # type: ignore[arg-type]
        assert watch.seen.is_set()


def test_no_state_falls_in_between() -> None:
    """However the beginning of a watch and the change fall, the state is not missed."""
    for _ in range(200):
        machine = StateMachine(LIFECYCLE, Model())
        watches = StateWatches(machine)
        start = threading.Barrier(2)
        seen: list[bool] = []

        def wait(
            watches: StateWatches = watches,
            start: threading.Barrier = start,
            seen: list[bool] = seen,
        ) -> None:
            start.wait(10)
            with watches.watch(S.CONNECTING, also_now=True) as watch:
                seen.append(watch.seen.wait(10))

        waiting = threading.Thread(target=wait)
        waiting.start()
        start.wait(10)
        machine.fire(T.CONNECT)
        waiting.join(20)
        assert seen == [True]
