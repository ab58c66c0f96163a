from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from transitions import Machine

from statemachine import Declaration, StateMachine, Transition
from statemachine.shared import SharedMachine, shared_machine

Declare = Callable[..., Declaration]


def test_it_is_a_machine_of_transitions(breaker: Declaration, model_class: type) -> None:
    """The transitions are run by the library, with the table's states and callbacks by name."""
    machine = shared_machine(breaker, model_class)
    assert isinstance(machine, Machine)
    assert list(machine.states) == list(breaker.states)
    assert machine.states["closed"].on_enter == ["on_enter_closed"]
    assert machine.states["closed"].on_exit == ["on_exit_closed"]


def test_only_callbacks_that_the_class_has_are_called(
    breaker: Declaration, model_class: type
) -> None:
    """A callback that the model's class lacks is not looked for at each change."""
    machine = shared_machine(breaker, model_class)
    assert machine.states["retired"].on_enter == machine.states["open"].on_exit == []


def test_nothing_leads_past_the_table(breaker: Declaration, model_class: type) -> None:
    """There are the declared triggers and no others, and no model is bound to them."""
    machine = shared_machine(breaker, model_class)
    assert tuple(machine.events) == breaker.triggers
    assert machine.models == []


def test_models_of_a_class_share_one(breaker: Declaration, declare: Declare) -> None:
    """There is one machine for each declaration and class, whichever equal declaration is given."""
    one, other = type("One", (), {}), type("Other", (), {})
    assert shared_machine(breaker, one) is shared_machine(declare(), one)
    assert shared_machine(breaker, one) is not shared_machine(breaker, other)
    assert shared_machine(breaker, one) is not shared_machine(declare(name="other"), one)


def test_a_subclass_has_its_own_callbacks(declare: Declare) -> None:
    """Classes do not share, so a subclass may add callbacks."""
    base = type("Base", (), {"too_many": True})
    derived = type("Derived", (base,), {"on_enter_open": lambda self: None})
    shared_machine(declare(), base)
    assert shared_machine(declare(), derived).states["open"].on_enter == ["on_enter_open"]


@pytest.mark.parametrize("kept", ["class", "declaration"])
def test_it_goes_with_its_class_or_declaration(declare: Declare, kept: str) -> None:
    """Without the class or the declaration, the shared machine is forgotten."""
    model_class: Any = type("M", (), {})
    declaration: Any = declare(name="brief")
    machine = weakref.ref(shared_machine(declaration, model_class))
    gc.collect()
    assert machine() is not None
    if kept == "class":
        del declaration
    else:
        del model_class
    gc.collect()  # the class, which is in a circle of its own
    gc.collect()  # the machine, which is as well
    assert machine() is None


def test_a_machine_outlives_the_names_of_its_parts(declare: Declare) -> None:
    """A `StateMachine` keeps what it needs."""
    machine = StateMachine(declare(name="brief"), type("M", (), {"too_many": True})())
    gc.collect()
    assert machine.fire("failed")


def test_threads_share_without_harm(declare: Declare) -> None:
    """Eight threads that make and fire machines of one class at once each see only their own."""
    declaration = declare(name="busy")
    model_class = type("M", (), {"too_many": True, "on_enter_open": lambda self, n: None})
    start = threading.Barrier(8)
    results: list[object] = []

    def run(n: int) -> None:
        start.wait()
        machine = StateMachine(declaration, model_class(), history=1000)
        for _ in range(100):
            machine.fire("failed", n=n)
            machine.fire("waited", n=n)
            machine.fire("succeeded", n=n)
        numbers = {record.data["n"] for record in machine.history}
        results.append((machine._events, len(machine.history), numbers == {n}))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cells = shared_machine(declaration, model_class).cells
    assert results == [(cells, 300, True)] * 8


def test_a_machine_is_small(declare: Declare) -> None:
    """What a further machine of a known class takes, model included, stays under 2 KiB."""
    declaration = declare(name="small")
    model_class = type("M", (), {"too_many": True})
    kept = [StateMachine(declaration, model_class())]
    tracemalloc.start()
    try:
        kept += [StateMachine(declaration, model_class()) for _ in range(200)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / 200 < 2048, f"{size / 200:.0f} bytes each, Python {sys.version_info[:2]}"


def test_a_guard_is_asked_by_truth(declare: Declare) -> None:
    """The library's own comparison with True is replaced: 1, "yes" and the like say yes."""
    rows = [Transition("go", "a", "b", guard="may", doc="x")]
    declaration = Declaration("d", ["a", "b"], "a", ["b"], rows)
    machine = StateMachine(declaration, type("M", (), {"may": "yes"})())
    assert machine.fire("go")
    assert isinstance(shared_machine(declaration, type("N", (), {})), SharedMachine)
