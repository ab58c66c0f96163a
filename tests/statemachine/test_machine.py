from __future__ import annotations

import io
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import freezegun
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from statemachine import (
    Declaration,
    InvalidTransition,
    Record,
    StateMachine,
    Transition,
    replay,
)

# What the breaker has to do in every cell: the state after the trigger, "ignored" or "illegal".
# The guard `too_many` says no.
TABLE = {
    "closed": {
        "failed": "closed",
        "succeeded": "ignored",
        "waited": "illegal",
        "retire": "retired",
    },
    "open": {
        "failed": "ignored",
        "succeeded": "ignored",
        "waited": "half_open",
        "retire": "retired",
    },
    "half_open": {
        "failed": "open",
        "succeeded": "closed",
        "waited": "illegal",
        "retire": "illegal",
    },
    "retired": {
        "failed": "illegal",
        "succeeded": "illegal",
        "waited": "illegal",
        "retire": "ignored",
    },
}
WAYS: dict[str, list[str]] = {
    "closed": [],
    "open": ["failed"],
    "half_open": ["failed", "waited"],
    "retired": ["retire"],
}
"""The triggers that lead to each state, while the guard says yes."""


@pytest.fixture
def machine(breaker: Declaration, model: Any) -> StateMachine:
    ticks = iter(range(100, 10_000))
    return StateMachine(breaker, model, time=lambda: float(next(ticks)))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the package logs while a user has enabled it."""
    text = io.StringIO()
    sink = logger.add(text, format="{level} {name} {message}")
    logger.enable("statemachine")
    yield text
    logger.disable("statemachine")
    logger.remove(sink)


def put(machine: StateMachine, model: Any, state: str) -> None:
    model.few = False
    for trigger in WAYS[state]:
        assert machine.fire(trigger)
    model.few = True
    assert machine.state == state


@pytest.mark.parametrize(("state", "trigger"), [(s, t) for s in TABLE for t in TABLE[s]])
def test_every_cell(machine: StateMachine, model: Any, state: str, trigger: str) -> None:
    """In every state, every trigger does what the table says, and nothing else."""
    put(machine, model, state)
    before = machine.history
    model.calls.clear()
    expected = TABLE[state][trigger]
    if expected == "illegal":
        with pytest.raises(InvalidTransition) as caught:
            machine.fire(trigger)
        assert (caught.value.state, caught.value.trigger) == (state, trigger)
        assert caught.value.reason == machine.declaration.reason(state, trigger)
    else:
        assert machine.fire(trigger) is (expected != "ignored")
    if expected in ("ignored", "illegal"):
        assert (machine.state, model.state, machine.history) == (state, state, before)
        assert model.calls == []
    else:
        assert machine.state == model.state == expected
        (record,) = machine.history[len(before) :]
        assert (record.trigger, record.source, record.dest) == (trigger, state, expected)


def test_a_machine_begins_in_its_initial_state(machine: StateMachine, model: Any) -> None:
    """At first the state is the initial one, nothing is recorded and nothing was called."""
    assert machine.state == model.state == "closed"
    assert (machine.history, model.calls) == ((), [])


def test_callbacks_run_in_order_with_the_data(machine: StateMachine, model: Any) -> None:
    """Guard, exit, change, observers, enter: in this order, each with the data by name."""
    model.few = False
    machine.subscribe(lambda record: model.calls.append((model.state, record.data)))
    model.on["on_exit_closed"] = lambda: model.calls.append(model.state)
    assert machine.fire("failed", error="boom")
    data = {"error": "boom"}
    assert model.calls == [
        ("too_many", data),
        ("on_exit_closed", data),
        "closed",
        ("open", data),
        ("on_enter_open", data),
    ]


def test_data_may_have_any_name(machine: StateMachine, model: Any) -> None:
    """Data may be named like the parameters of `fire` or of the library underneath."""
    data = {"model": 1, "trigger": 2, "event": 3, "machine": 4}
    assert machine.fire("failed", **data)
    assert machine.history[-1].data == data
    assert model.calls[0] == ("too_many", data)


def test_members_of_an_enumeration_can_be_fired(machine: StateMachine, triggers: Any) -> None:
    """A trigger may be given as a member; its record holds the plain string."""
    assert machine.fire(triggers.FAILED)
    assert type(machine.history[0].trigger) is str
    with pytest.raises(InvalidTransition, match="'waited' is illegal in state 'closed'") as caught:
        machine.fire(triggers.WAITED)
    assert type(caught.value.trigger) is str


def test_an_unknown_trigger_is_illegal(machine: StateMachine) -> None:
    """A trigger that no row has is refused with a list of those that there are."""
    with pytest.raises(InvalidTransition) as caught:
        machine.fire("push")
    assert caught.value.reason == (
        "the machine 'breaker' has no such trigger; it has failed, succeeded, waited, retire."
    )
    still = StateMachine(Declaration("still", ["here"], "here", ["here"]), type("M", (), {})())
    with pytest.raises(InvalidTransition, match="it has none"):
        still.fire("push")
    with pytest.raises(InvalidTransition, match="7 is illegal"):
        still.fire(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("guard", [True, 1, "yes", [0], lambda: True, lambda: "yes"])
@pytest.mark.parametrize("yes", [True, False])
def test_guards_count_by_truth(guard: Any, yes: bool) -> None:
    """A guard is a method or an attribute; anything that is true says yes, anything else no."""
    declaration = Declaration(
        "d", ["a", "b"], "a", ["b"], [Transition("go", "a", "b", guard="may", doc="x")]
    )

    class Guarded:
        pass

    model = Guarded()
    no: Any = (lambda: None) if callable(guard) else 0
    model.may = guard if yes else no  # type: ignore[attr-defined]
    machine = StateMachine(declaration, model)
    assert machine.fire("go") is yes
    assert machine.state == ("b" if yes else "a")
    assert len(machine.history) == yes


def test_guards_that_all_say_no_change_nothing(machine: StateMachine, model: Any) -> None:
    """When no guard of the cell agrees, `fire` returns False and nothing is left or entered."""
    guarded = Declaration(
        "d", ["a", "b"], "a", ["b"], [Transition("go", "a", "b", guard="too_many", doc="x")]
    )
    machine = StateMachine(guarded, model)
    assert machine.fire("go") is False
    assert (machine.state, machine.history, model.calls) == ("a", (), [("too_many", {})])


def test_a_missing_guard_is_noticed_at_once(breaker: Declaration) -> None:
    """A model without a guard that the table names is refused when the machine is made."""
    with pytest.raises(AttributeError, match=r"Empty has no 'too_many', .* the row failed"):
        StateMachine(breaker, type("Empty", (), {})())


def test_a_property_may_be_a_guard() -> None:
    """A guard that is a property is asked when the trigger is fired, not before."""

    class Late:
        ready = False

        @property
        def may(self) -> bool:
            if not self.ready:
                raise RuntimeError("asked too early")
            return True

    row = Transition("go", "a", "b", guard="may", doc="x")
    machine = StateMachine(Declaration("d", ["a", "b"], "a", ["b"], [row]), model := Late())
    model.ready = True
    assert machine.fire("go")


def test_a_state_can_be_entered_anew(machine: StateMachine, model: Any) -> None:
    """A row from a state to itself leaves and enters it, and is recorded."""
    assert machine.fire("failed")
    assert [name for name, _ in model.calls] == ["too_many", "on_exit_closed", "on_enter_closed"]
    assert (machine.history[0].source, machine.history[0].dest) == ("closed", "closed")


@pytest.mark.parametrize("where", ["too_many", "on_exit_closed"])
def test_what_raises_before_the_change_prevents_it(
    machine: StateMachine, model: Any, where: str
) -> None:
    """An exception up to on_exit leaves the source state and no record; the next trigger works."""
    model.few = False
    model.on[where] = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        machine.fire("failed")
    assert (machine.state, model.state, machine.history) == ("closed", "closed", ())
    model.on.clear()
    assert machine.fire("failed")


def test_what_raises_after_the_change_does_not_undo_it(machine: StateMachine, model: Any) -> None:
    """An exception from on_enter reaches the caller; destination and record stand."""
    model.few = False
    model.on["on_enter_open"] = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        machine.fire("failed")
    assert machine.state == model.state == machine.history[-1].dest == "open"
    assert machine.fire("waited")


def test_a_clock_that_raises_prevents_the_change(breaker: Declaration, model: Any) -> None:
    """Without a time there is no record, and without a record no change."""
    machine = StateMachine(breaker, model, time=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        machine.fire("failed")
    assert (machine.state, machine.history) == ("closed", ())


def test_on_enter_may_fire(machine: StateMachine, model: Any) -> None:
    """A trigger fired in on_enter is a change of its own, recorded after the one that led there."""
    model.few = False
    model.on["on_enter_open"] = lambda: machine.fire("waited", n=2)
    seen: list[Record] = []
    machine.subscribe(seen.append)
    assert machine.fire("failed", n=1)
    assert machine.state == "half_open"
    assert [(r.trigger, r.data) for r in machine.history] == [
        ("failed", {"n": 1}),
        ("waited", {"n": 2}),
    ]
    assert tuple(seen) == machine.history
    assert replay(machine.declaration, machine.history)


@pytest.mark.parametrize("trigger", ["failed", "succeeded", "waited", "push"])
@pytest.mark.parametrize("where", ["too_many", "on_exit_closed"])
def test_guards_and_exits_must_not_fire(
    machine: StateMachine, model: Any, where: str, trigger: str
) -> None:
    """Firing before the change under way is made raises, for the history would lose its order."""
    model.few = False
    model.on[where] = lambda: machine.fire(trigger)
    with pytest.raises(RuntimeError, match=f"cannot fire '{trigger}' while 'failed' is being"):
        machine.fire("failed")
    assert (machine.state, machine.history) == ("closed", ())
    model.on.clear()
    assert machine.fire("failed")


def test_an_observer_must_not_fire(machine: StateMachine, model: Any, log: io.StringIO) -> None:
    """Firing from an observer is refused as well; the change under way goes on unharmed."""
    machine.subscribe(lambda record: machine.fire("retire"))
    model.few = False
    assert machine.fire("failed")
    assert machine.state == "open"
    assert "cannot fire 'retire' while 'failed' is being decided" in log.getvalue()
    assert machine.fire("retire") is True


def test_another_thread_cannot_fire_meanwhile(machine: StateMachine, model: Any) -> None:
    """A second thread that fires while a guard runs gets an error; the first is not disturbed."""
    errors: list[BaseException] = []

    def fire() -> None:
        try:
            machine.fire("retire")
        except RuntimeError as error:
            errors.append(error)

    def elsewhere() -> None:
        thread = threading.Thread(target=fire)
        thread.start()
        thread.join()

    model.on["too_many"] = elsewhere
    assert machine.fire("failed")
    assert len(errors) == len(machine.history) == 1


def test_records_hold_time_and_data(machine: StateMachine) -> None:
    """A record holds the time that the clock gave, and the data; neither can be changed."""
    assert machine.fire("failed", a=[1])
    (record,) = machine.history
    assert record == Record(100.0, "failed", "closed", "closed", {"a": [1]})
    with pytest.raises(AttributeError):
        record.time = 0.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        record.data["a"] = 2  # type: ignore[index]


def test_records_can_be_hashed_and_pickled(machine: StateMachine) -> None:
    """Records can be put into sets and sent to other processes."""
    machine.fire("failed", a=[1])
    machine.fire("failed")
    for record in machine.history:
        assert pickle.loads(pickle.dumps(record)) == record
    assert len({*machine.history, *machine.history}) == 2


def test_time_is_looked_up_at_each_change(breaker: Declaration, model: Any) -> None:
    """Without a clock of its own, a machine follows a frozen time."""
    machine = StateMachine(breaker, model)
    with freezegun.freeze_time("2030-01-01"):
        machine.fire("failed")
    assert machine.history[0].time == 1893456000.0


@pytest.mark.parametrize("length", [0, 1, 3])
def test_the_history_is_bounded(breaker: Declaration, model: Any, length: int) -> None:
    """Only the latest records are kept, oldest first; observers see all."""
    machine = StateMachine(breaker, model, history=length)
    seen: list[Record] = []
    machine.subscribe(seen.append)
    for n in range(5):
        machine.fire("failed", n=n)
    assert machine.history == tuple(seen[5 - length :])
    assert len(seen) == 5


def test_a_history_cannot_have_less_than_no_length(breaker: Declaration, model: Any) -> None:
    """A negative bound is refused."""
    with pytest.raises(ValueError, match="non-negative"):
        StateMachine(breaker, model, history=-1)


def test_the_history_can_be_read_while_it_grows(machine: StateMachine) -> None:
    """A reader that is overtaken by a new record gets the history with that record."""
    machine.fire("failed")

    class Overtaken(deque[Record]):
        times = 0

        def __iter__(self) -> Iterator[Record]:
            self.times += 1
            if self.times == 1:
                raise RuntimeError("deque mutated during iteration")
            return super().__iter__()

    machine._history = Overtaken(machine._history)
    assert len(machine.history) == 1


def test_state_and_history_are_read_from_other_threads(breaker: Declaration, model: Any) -> None:
    """While one thread fires, another always reads a declared state and a continuous history."""
    machine = StateMachine(breaker, model, history=20)
    model.few = False
    done = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not done.is_set():
            state, history = machine.state, machine.history
            if state not in breaker.states or not replay(breaker, history):
                wrong.append((state, history))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        for trigger in ("failed", "waited", "succeeded"):
            machine.fire(trigger)
    done.set()
    reader.join()
    assert wrong == []


def test_observers_are_called_in_order(machine: StateMachine) -> None:
    """Observers are called in the order of subscription; one subscribed twice is called twice."""
    seen: list[str] = []
    first: Callable[[Record], None] = lambda record: seen.append("first")  # noqa: E731
    end = machine.subscribe(first)
    machine.subscribe(lambda record: seen.append("second"))
    machine.subscribe(first)
    machine.fire("failed")
    assert seen == ["first", "second", "first"]
    end()
    end()
    machine.fire("failed")
    assert seen[3:] == ["second", "first"]


def test_an_observer_may_end_subscriptions(machine: StateMachine) -> None:
    """An observer may end its own subscription and a later one's, with effect at once."""
    seen: list[str] = []

    def first(record: Record) -> None:
        seen.append("first")
        ends[0]()
        ends[1]()

    ends = [
        machine.subscribe(first),
        machine.subscribe(lambda record: seen.append("second")),
        machine.subscribe(lambda record: seen.append("third")),
    ]
    machine.fire("failed")
    machine.fire("failed")
    assert seen == ["first", "third", "third"]


def test_an_observer_that_subscribes_adds_for_the_next_record(machine: StateMachine) -> None:
    """An observer that is subscribed during a notification is told of the next record."""
    seen: list[Record] = []
    end = machine.subscribe(lambda record: (end(), machine.subscribe(seen.append)))
    machine.fire("failed")
    assert seen == []
    machine.fire("failed")
    assert seen == [machine.history[1]]


def test_an_observer_that_raises_harms_nothing(
    machine: StateMachine, model: Any, log: io.StringIO
) -> None:
    """What an observer raises is logged with its traceback; others and callbacks still run."""
    seen: list[Record] = []
    machine.subscribe(lambda record: 1 / 0)
    machine.subscribe(seen.append)
    assert machine.fire("failed", brace="{x}")
    assert len(seen) == 1
    assert model.calls[-1][0] == "on_enter_closed"
    assert log.getvalue().startswith(
        "ERROR statemachine.machine an observer of breaker raised; "
        "it was told: failed led from closed to closed\n"
    )
    assert "ZeroDivisionError" in log.getvalue()


def test_another_attribute_can_hold_the_state(breaker: Declaration, model: Any) -> None:
    """The model's attribute can be named, so that one model may have several machines."""
    one = StateMachine(breaker, model, state_attribute="one")
    two = StateMachine(breaker, model, state_attribute="two")
    one.fire("retire")
    assert (model.one, model.two, two.state) == ("retired", "closed", "closed")
    assert not hasattr(model, "state")


def test_the_models_attribute_does_not_rule_the_machine(machine: StateMachine, model: Any) -> None:
    """Who assigns to the model's attribute does not get past the table."""
    model.state = "open"
    assert machine.state == "closed"
    with pytest.raises(InvalidTransition):
        machine.fire("waited")


def test_a_model_whose_attribute_cannot_be_set_is_refused(breaker: Declaration) -> None:
    """A model that cannot hold the state is refused when the machine is made."""

    class Fixed:
        too_many = True
        state = property(lambda self: "mine")

    with pytest.raises(AttributeError, match="state"):
        StateMachine(breaker, Fixed())


def test_it_shows_its_state(machine: StateMachine) -> None:
    """The repr tells the declaration's name and the state."""
    assert repr(machine) == "<StateMachine 'breaker' in state 'closed'>"


@given(st.data())
def test_every_history_obeys_the_table(data: st.DataObject) -> None:
    """Whatever is declared and fired: changes obey the table, refusals change nothing."""
    states = [f"s{n}" for n in range(data.draw(st.integers(1, 4)))]
    cells = st.tuples(st.sampled_from(states), st.sampled_from(["t0", "t1", "t2"]))
    rows: list[Transition] = [
        # A ring keeps every state reachable and leaves no dead end.
        Transition("ring", state, states[(n + 1) % len(states)], doc="x")
        for n, state in enumerate(states)
    ]
    with_rows = set()
    for source, trigger in data.draw(st.lists(cells, unique=True, max_size=8)):
        with_rows.add((source, trigger))
        for guard in data.draw(st.lists(st.sampled_from(["yes", "no"]), unique=True)):
            dest = data.draw(st.sampled_from(states))
            rows.append(Transition(trigger, source, dest, guard=guard, doc="x"))
        rows.append(Transition(trigger, source, data.draw(st.sampled_from(states)), doc="x"))
    known = {row.trigger for row in rows}
    ignored = {cell: "x" for cell in data.draw(st.sets(cells)) - with_rows if cell[1] in known}
    final = states[:1] if len(states) == 1 else []
    declaration = Declaration("d", states, "s0", final, rows, ignored)
    model = type("M", (), {"yes": True, "no": False})()
    machine = StateMachine(declaration, model, history=1000)
    triggers = st.sampled_from(["ring", "t0", "t1", "t2", "unknown"])
    for trigger in data.draw(st.lists(triggers, max_size=30)):
        before, records = machine.state, machine.history
        decision = declaration.decision(before, trigger) if trigger in known else None
        if decision in (None, "illegal"):
            with pytest.raises(InvalidTransition):
                machine.fire(trigger)
            fired = False
        else:
            fired = machine.fire(trigger)
            assert fired is (decision == "row")
        if fired:
            expected = next(r for r in declaration.rows(before, trigger) if r.guard != "no")
            assert machine.state == expected.dest
            assert len(machine.history) == len(records) + 1
        else:
            assert (machine.state, machine.history) == (before, records)
        assert machine.state == model.state  # type: ignore[attr-defined]
    verdict = replay(declaration, machine.history, start="s0")
    assert verdict, str(verdict)
    assert verdict.state == machine.state
