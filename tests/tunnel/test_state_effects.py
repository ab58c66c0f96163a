from __future__ import annotations

from typing import Any

import pytest

from tunnel.lifecycle import TunnelConnectionState
from tunnel.state_effects import EffectiveModel, NoEffects, StateEffects

S = TunnelConnectionState


class Noting(StateEffects):
    def __init__(self, log: list[object]) -> None:
        self.log = log

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda **data: self.log.append((name, data))
        return super().__getattribute__(name)


class Model(EffectiveModel):
    def __init__(self, effects: StateEffects) -> None:
        self.log: list[object] = []
        self._effects = effects

    def _entered(self, state: TunnelConnectionState, data: dict[str, Any]) -> None:
        self.log.append(state)

    def _link_is_gone(self) -> None:
        self.log.append("gone")


@pytest.mark.parametrize("state", S)
def test_a_state_is_noted_before_its_effects(state: S) -> None:
    """Entering: first the model's own part, then the effects, with the data."""
    model = Model(NoEffects())
    model._effects = Noting(model.log)
    getattr(model, f"on_enter_{state.value}")(reason="x")
    assert model.log == [state, (f"on_enter_{state.value}", {"reason": "x"})]


@pytest.mark.parametrize("state", S)
def test_the_effects_of_leaving_come_first(state: S) -> None:
    """Leaving: the effects first, because they may refuse; only the link's end is the model's."""
    model = Model(NoEffects())
    model._effects = Noting(model.log)
    getattr(model, f"on_exit_{state.value}")(reason="x")
    own = ["gone"] if state is S.CONNECTED else []
    assert model.log == [(f"on_exit_{state.value}", {"reason": "x"}), *own]


@pytest.mark.parametrize("state", S)
def test_effects_do_nothing_unless_they_are_defined(state: S) -> None:
    """Every callback has a default that takes any data."""
    assert getattr(NoEffects(), f"on_enter_{state.value}")(any=1) is None
    assert getattr(NoEffects(), f"on_exit_{state.value}")(any=1) is None


def test_a_model_has_to_have_its_own_part() -> None:
    """The two parts of the model are for the subclass to define."""
    model = EffectiveModel()
    with pytest.raises(NotImplementedError):
        model._entered(S.ERROR, {})
    with pytest.raises(NotImplementedError):
        model._link_is_gone()
