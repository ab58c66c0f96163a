"""A machine: one declaration, one model, its state and its history.

Theory of operation
-------------------

The transitions are run by a real ``transitions.Machine``: it tries the guards, calls
``on_exit_<state>``, sets the state and calls ``on_enter_<state>``. Building one takes time and
memory, so all models of a class share one for each declaration. It holds no model; a `StateMachine`
hands itself over with each trigger and keeps what belongs to one model: state, history, observers.

One trigger runs in this order::

    guards of the cell's rows, until one agrees   |  firing is refused here: there would be no
    on_exit_<source>(**data)                      |  saying in which order the changes happened
    state set, record made, observers told        |
    on_enter_<dest>(**data)                       firing is allowed: a nested change is a later one

What raises before the state is set leaves the source state, and no record. What raises in
``on_enter_...`` leaves the destination and its record. In both cases the exception reaches the
caller of `StateMachine.fire`. Observers are different: what they raise is logged, and nothing else.

Threads: one owner fires. Nothing is locked, for a lock held through callbacks is a deadlock waiting
to happen. Reading `state` and `history`, and subscribing, are safe from every thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from loguru import logger

from statemachine.declaration import Declaration, plain
from statemachine.errors import InvalidTransition
from statemachine.shared import shared_machine

_NOTHING: deque[Record] = deque(maxlen=0)  # for all that keep no history
_NO_DATA: Mapping[str, Any] = MappingProxyType({})


def _time() -> float:
    """Look the function up at each call, so that a test which freezes time is obeyed."""
    return time.time()


@dataclass(frozen=True, slots=True)
class Record:
    """One change of state, as histories keep it and observers receive it.

    Args:
        time: When it happened, in seconds since the Unix epoch.
        trigger: What caused it.
        source: The state that was left.
        dest: The state that was entered; the same as `source` if it was left and entered anew.
        data: What the trigger was fired with; cannot be changed.
    """

    time: float
    trigger: str
    source: str
    dest: str
    data: Mapping[str, Any] = field(hash=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot be pickled, a dict can.
        return Record, (self.time, self.trigger, self.source, self.dest, dict(self.data))


class StateMachine:
    """Runs a declaration for one model.

    The model's class may define ``on_enter_<state>`` and ``on_exit_<state>`` for any state of the
    declaration; they are called with the data of the trigger as keyword arguments. They are looked
    for once for each class. A guard is a method of the model, called in the same way, or an
    attribute; what it gives counts as `bool` says. The initial state's ``on_enter_...`` is not
    called.

    Not thread-safe to fire: see the module's "Threads".

    Args:
        declaration: The table.
        model: The object whose state this is.
        history: How many records are kept; older ones are dropped.
        time: Called for each record's time: seconds since the Unix epoch.
        state_attribute: The model's attribute that is kept equal to `state`, for the model's own
            use. Assigning to it does not change the machine's state.

    Raises:
        AttributeError: If the model lacks a guard that the declaration names, or its attribute
            cannot be set.
        ValueError: If `history` is negative.
    """

    __slots__ = (
        "__weakref__",
        "_attribute",
        "_declaration",
        "_events",
        "_firing",
        "_history",
        "_limit",
        "_model",
        "_now",
        "_observers",
        "_present_state",
    )

    def __init__(
        self,
        declaration: Declaration,
        model: object,
        *,
        history: int = 100,
        time: Callable[[], float] = _time,
        state_attribute: str = "state",
    ) -> None:
        _check_guards(declaration, model)
        self._declaration = declaration
        self._model = model
        self._attribute = state_attribute
        self._now = time
        self._events = shared_machine(declaration, type(model)).cells
        if history < 0:
            raise ValueError(f"history must be non-negative, not {history}")
        self._limit = history
        # A list, which takes what it holds, until it is full; a deque, 0.7 KiB at least, after.
        self._history: list[Record] | deque[Record] = [] if history else _NOTHING
        self._observers: tuple[_Subscription, ...] = ()  # replaced, never changed
        # Trigger and data, from `fire` until the observers were told. While it is set, firing is
        # refused.
        self._firing: tuple[str, dict[str, Any]] | None = None
        self._present_state = declaration.initial
        setattr(model, state_attribute, declaration.initial)

    @property
    def declaration(self) -> Declaration:
        """The table that this machine obeys."""
        return self._declaration

    @property
    def state(self) -> str:
        """The present state. Safe to read from any thread."""
        return self._present_state

    @property
    def history(self) -> tuple[Record, ...]:
        """The latest records, oldest first. Safe to read from any thread."""
        while True:
            try:
                return tuple(self._history)
            except RuntimeError:  # the owner added a record in the middle; take the newer history
                continue

    def fire(self, trigger: str, /, **data: Any) -> bool:
        """Fire a trigger in the present state.

        Args:
            trigger: Its name.
            **data: What goes with it: handed to guards and callbacks, kept in the record.

        Returns:
            True if a row was taken. False if the guards of all rows said no, or if the declaration
            says that the trigger is ignored in this state; nothing has changed then.

        Raises:
            InvalidTransition: If the trigger is illegal in this state, or in every state because
                no row has it. Nothing has changed.
            RuntimeError: If a guard, an ``on_exit_...`` or an observer fires, or another thread
                does so meanwhile. Nothing has changed by it.
        """
        if self._firing is not None:
            raise RuntimeError(
                f"cannot fire {plain(trigger)!r} while {self._firing[0]!r} is being decided "
                f"in state {self._present_state!r}: a guard, on_exit_..., an observer or another "
                "thread fired; fire from on_enter_... or after the change"
            )
        try:
            event = self._events[self._present_state][trigger]
        except KeyError:
            raise self._refusal(trigger) from None
        if event is None:
            return False
        self._firing = (event.name, data)
        try:
            return event.trigger(self, data)
        finally:
            self._firing = None

    def subscribe(self, callback: Callable[[Record], object]) -> Callable[[], None]:
        """Call `callback` with each record from now on, before ``on_enter_...`` of its state runs.

        It is called on the thread that fires, and must not fire. What it raises is logged and
        harms nothing. Subscribing and unsubscribing are safe from any thread and in a callback.

        Returns:
            A function that ends the subscription, at once; calling it again does nothing.
        """
        subscription = _Subscription(callback)
        with _subscribing:
            self._observers = (*self._observers, subscription)

        def unsubscribe() -> None:
            subscription.active = False
            with _subscribing:
                self._observers = tuple(s for s in self._observers if s is not subscription)

        return unsubscribe

    def _refusal(self, trigger: str) -> InvalidTransition:
        state, name, declared = self._present_state, plain(trigger), self._declaration
        if name in declared.triggers:
            return InvalidTransition(state, name, declared.reason(state, name))
        known = ", ".join(declared.triggers) or "none"
        reason = f"the machine {declared.name!r} has no such trigger; it has {known}."
        return InvalidTransition(state, name, reason)

    def _change(self, dest: str) -> None:
        """Set the state, record it, tell the observers. Called by the shared machine."""
        assert self._firing is not None, "the state is set while a trigger is fired, never else"
        trigger, data = self._firing
        proxy = MappingProxyType(data) if data else _NO_DATA
        record = Record(self._now(), trigger, self._present_state, dest, proxy)
        setattr(self._model, self._attribute, dest)
        self._present_state = dest
        history = self._history
        if len(history) >= self._limit and isinstance(history, list):
            history = self._history = deque(history, maxlen=self._limit)
        history.append(record)
        for subscription in self._observers:
            if subscription.active:  # an earlier observer may have ended it just now
                try:
                    subscription.callback(record)
                except Exception:
                    logger.exception(
                        "an observer of {} raised; it was told: {} led from {} to {}",
                        self._declaration.name,
                        trigger,
                        record.source,
                        dest,
                    )
        self._firing = None

    def __repr__(self) -> str:
        return f"<StateMachine {self._declaration.name!r} in state {self._present_state!r}>"


class _Subscription:
    __slots__ = ("active", "callback")

    def __init__(self, callback: Callable[[Record], object]) -> None:
        self.callback = callback
        self.active = True


# Guards the replacement of any machine's `_observers`. Readers take the tuple as it is.
_subscribing = threading.Lock()


def _check_guards(declaration: Declaration, model: object) -> None:
    for row in declaration.transitions:
        # The class is asked first: a property would be run, and may not be ready to be.
        if row.guard and not (hasattr(type(model), row.guard) or hasattr(model, row.guard)):
            raise AttributeError(
                f"{type(model).__name__} has no {row.guard!r}, which is the guard of the row {row}"
            )
