"""Keeps a WebSocket connection alive for synchronous, threaded programs.

`connect` opens a tunnel and returns a `TunnelService`: a connection that notices its loss, comes
back by itself, and queues what is sent meanwhile. Every part of it also works alone: the backoff
(`ReconnectionManager`), the state and its history (`ConnectionStateTracker`), the heartbeat
(`WebSocketHeartbeat`, `HeartbeatWebSocket`), the recovery (`ConnectionRecovery`), the queue
(`RequestQueue`) and the numbers (`MetricsCollector`). The life of a connection is one table,
`LIFECYCLE`.

Importing this has no side effect: no thread, and no log line before the program asks for them by
``loguru.logger.enable("tunnel")``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from loguru import logger

from tunnel.circuit_breaker import BREAKER, CircuitBreaker, CircuitState
from tunnel.clock import Clock, SystemClock
from tunnel.config import TunnelConfig
from tunnel.connection_recovery import ConnectionRecovery
from tunnel.connection_state_tracker import ConnectionStateTracker, TunnelConnection
from tunnel.errors import *  # noqa: F403 - the whole tree, which the module's `__all__` lists
from tunnel.errors import __all__ as _errors
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.lifecycle import LIFECYCLE, TunnelConnectionState, TunnelTrigger
from tunnel.metrics_collector import (
    ConnectionQuality,
    MetricsCollector,
    TunnelHealthMetrics,
    TunnelMetrics,
)
from tunnel.reconnection_manager import (
    Backoff,
    ReconnectionAttempt,
    ReconnectionManager,
    ReconnectionOutcome,
)
from tunnel.request_queue import BackpressureSignal, RequestPriority, RequestQueue
from tunnel.responses import Headers, TunnelResponse
from tunnel.service import DrainReport, TunnelService, connect
from tunnel.session_lifecycle import SESSION, SessionState
from tunnel.tls import TlsSettings
from tunnel.transport import Transport, WebSocketTransport
from tunnel.websocket_heartbeat import HEARTBEAT, HeartbeatStatus, WebSocketHeartbeat

if TYPE_CHECKING:
    from tunnel.heartbeat_websocket import HeartbeatWebSocket

logger.disable("tunnel")

__version__ = "0.1.0"

__all__ = [
    "BREAKER",
    "HEARTBEAT",
    "LIFECYCLE",
    "SESSION",
    "Backoff",
    "BackpressureSignal",
    "CircuitBreaker",
    "CircuitState",
    "Clock",
    "ConnectionEvent",
    "ConnectionEventType",
    "ConnectionQuality",
    "ConnectionRecovery",
    "ConnectionStateTracker",
    "DrainReport",
    "Headers",
    "HeartbeatStatus",
    "HeartbeatWebSocket",
    "MetricsCollector",
    "ReconnectionAttempt",
    "ReconnectionManager",
    "ReconnectionOutcome",
    "RequestPriority",
    "RequestQueue",
    "SessionState",
    "SystemClock",
    "TlsSettings",
    "Transport",
    "TunnelConfig",
    "TunnelConnection",
    "TunnelConnectionState",
    "TunnelHealthMetrics",
    "TunnelMetrics",
    "TunnelResponse",
    "TunnelService",
    "TunnelTrigger",
    "WebSocketHeartbeat",
    "WebSocketTransport",
    "connect",
    *_errors,
]


def __getattr__(name: str) -> Any:
    """Load what few programs use when it is asked for.

    Raises:
        AttributeError: There is no such name.
    """
    if name == "HeartbeatWebSocket":
        return import_module("tunnel.heartbeat_websocket").HeartbeatWebSocket
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
