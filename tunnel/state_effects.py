"""What a connection's states do to the rest of the world."""

from __future__ import annotations

from typing import Any, Protocol

from tunnel.lifecycle import TunnelConnectionState


class StateEffects(Protocol):
    """What the callbacks of the lifecycle's machine drive: connection, heartbeat, backoff.

    `ConnectionStateTracker`, the model of the machine, does its own part of a callback and calls
    the method of the same name here, on the thread that fired, with the data of the trigger.
    Subclass this and define those that are needed; the others do nothing.

    None of them may block or wait for another thread. Those that enter a state may fire the next
    trigger; those that leave one must not. What they raise reaches the caller of
    `ConnectionStateTracker.fire`: from leaving a state, nothing has changed; from entering one, it
    has been entered.
    """

    __slots__ = ()

    def on_enter_disconnected(self, **data: Any) -> None:
        """There is no connection any more."""
        return None

    def on_exit_disconnected(self, **data: Any) -> None:
        """Somebody begins to work on a connection."""
        return None

    def on_enter_connecting(self, **data: Any) -> None:
        """The first dial is wanted."""
        return None

    def on_exit_connecting(self, **data: Any) -> None:
        """The first dial is over, or wanted no longer."""
        return None

    def on_enter_connected(self, **data: Any) -> None:
        """The link is up."""
        return None

    def on_exit_connected(self, **data: Any) -> None:
        """The link is gone, or on its way down."""
        return None

    def on_enter_reconnecting(self, **data: Any) -> None:
        """Waiting and dialling by the backoff is wanted."""
        return None

    def on_exit_reconnecting(self, **data: Any) -> None:
        """The recovery is over, or wanted no longer."""
        return None

    def on_enter_closing(self, **data: Any) -> None:
        """The link is to be drained and closed."""
        return None

    def on_exit_closing(self, **data: Any) -> None:
        """The close handshake is over, or the link died before."""
        return None

    def on_enter_error(self, **data: Any) -> None:
        """Nobody works on a connection; the application has to decide."""
        return None

    def on_exit_error(self, **data: Any) -> None:
        """The application has decided."""
        return None


class NoEffects(StateEffects):
    """Effects of nothing on anything: for a tracker that only tracks."""


class EffectiveModel:
    """The callbacks of the lifecycle's machine: the model's own part and then the effects.

    The other way round when a state is left: effects that raise keep it from being left.
    """

    _effects: StateEffects

    def _entered(self, state: TunnelConnectionState, data: dict[str, Any]) -> None:
        raise NotImplementedError

    def _link_is_gone(self) -> None:
        raise NotImplementedError

    def on_enter_disconnected(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._entered(TunnelConnectionState.DISCONNECTED, data)
        self._effects.on_enter_disconnected(**data)

    def on_exit_disconnected(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._effects.on_exit_disconnected(**data)

    def on_enter_connecting(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._entered(TunnelConnectionState.CONNECTING, data)
        self._effects.on_enter_connecting(**data)

    def on_exit_connecting(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._effects.on_exit_connecting(**data)

    def on_enter_connected(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._entered(TunnelConnectionState.CONNECTED, data)
        self._effects.on_enter_connected(**data)

    def on_exit_connected(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._effects.on_exit_connected(**data)
        self._link_is_gone()

    def on_enter_reconnecting(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._entered(TunnelConnectionState.RECONNECTING, data)
        self._effects.on_enter_reconnecting(**data)

    def on_exit_reconnecting(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._effects.on_exit_reconnecting(**data)

    def on_enter_closing(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._entered(TunnelConnectionState.CLOSING, data)
        self._effects.on_enter_closing(**data)

    def on_exit_closing(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._effects.on_exit_closing(**data)

    def on_enter_error(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._entered(TunnelConnectionState.ERROR, data)
        self._effects.on_enter_error(**data)

    def on_exit_error(self, **data: Any) -> None:
        """See `StateEffects`."""
        self._effects.on_exit_error(**data)
