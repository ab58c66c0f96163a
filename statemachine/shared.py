"""The ``transitions.Machine`` behind all models of a class.

``transitions`` is the only library that runs transitions here, and this is the only module that
imports it. It is used as follows, for the reasons given:

- no ``auto_transitions``: their ``to_<state>()`` methods lead past the table;
- not queued and not locked: both are unsafe across threads, and one owner fires;
- no model is added: what the library would add to each (6 KiB of bound methods) is not used, and a
  trigger named like a method of the model would not be bound;
- what it takes for the model is the `StateMachine`, and the data goes as one argument: so the
  record is made when the library sets the state, and data may have any names, ``model`` too;
- guards are compared by truth; the library's own condition demands ``== True``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from transitions.core import Condition, Event, Machine, State, Transition

if TYPE_CHECKING:
    from statemachine.declaration import Declaration

Cells = Mapping[str, Mapping[str, "Event | None"]]
"""By state and trigger: the event to fire; None where it is ignored; no entry where illegal."""


class _Guard(Condition):
    def check(self, event_data: Any) -> bool:
        value = getattr(event_data.model._model, self.func)  # type: ignore[arg-type]  # a name
        return bool(value(**event_data.args[0]) if callable(value) else value)


class _Row(Transition):
    condition_cls = _Guard


class SharedMachine(Machine):
    """Runs the transitions of every `StateMachine` of one declaration and one class of models.

    Immutable once made, so that machines of several threads may use it at the same time.
    """

    transition_cls = _Row

    def __init__(self, declaration: Declaration, model_class: type) -> None:
        def method(name: str) -> str | None:
            return name if callable(getattr(model_class, name, None)) else None

        super().__init__(
            model=None,
            name=declaration.name,
            states=[
                State(state, method(f"on_enter_{state}"), method(f"on_exit_{state}"))
                for state in declaration.states
            ],
            initial=None,
            transitions=[
                [row.trigger, row.source, row.dest, row.guard] for row in declaration.transitions
            ],
            auto_transitions=False,
            send_event=False,
            queued=False,
            model_attribute="_present_state",
        )
        self.cells: Cells = {
            state: {
                trigger: self.events[trigger] if decision == "row" else None
                for trigger in declaration.triggers
                if (decision := declaration.decision(state, trigger)) in ("row", "ignored")
            }
            for state in declaration.states
        }

    def set_state(self, state: Any, model: Any = None) -> None:
        """Let the `StateMachine` that fired change its state. Called between exit and enter."""
        model._change(state)

    def callback(self, func: Any, event_data: Any) -> None:
        """Call ``on_enter_...`` or ``on_exit_...`` of the user's model."""
        getattr(event_data.model._model, func)(**event_data.args[0])


# Guards `_machines`: by declaration and class of the model. Both are held weakly, so that classes
# made in a function, and their machines, can go.
_making = threading.Lock()
_machines: WeakKeyDictionary[Declaration, WeakKeyDictionary[type, SharedMachine]] = (
    WeakKeyDictionary()
)


def shared_machine(declaration: Declaration, model_class: type) -> SharedMachine:
    """Return the one machine of a declaration and a class; make it at the first call."""
    with _making:
        of_declaration = _machines.setdefault(declaration, WeakKeyDictionary())
        machine = of_declaration.get(model_class)
        if machine is None:
            machine = of_declaration[model_class] = SharedMachine(declaration, model_class)
        return machine
