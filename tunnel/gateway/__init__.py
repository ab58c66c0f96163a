"""The peer of tunnels: a server that resumes sessions, and answers or forwards (extra `gateway`).

As a command: ``tunnel gateway --help``. In a program: `Gateway` in an event loop, `GatewayThread`
without one.
"""

from __future__ import annotations

from tunnel.gateway.auth import Authenticate, TokenFile, TokenTable, tokens_of_environment
from tunnel.gateway.handlers import GatewaySession, Handler
from tunnel.gateway.server import Gateway
from tunnel.gateway.settings import GatewaySettings
from tunnel.gateway.threaded import GatewayThread
from tunnel.request_frames import TunnelRequest
from tunnel.responses import Headers, TunnelResponse

__all__ = [
    "Authenticate",
    "Gateway",
    "GatewaySession",
    "GatewaySettings",
    "GatewayThread",
    "Handler",
    "Headers",
    "TokenFile",
    "TokenTable",
    "TunnelRequest",
    "TunnelResponse",
    "tokens_of_environment",
]
