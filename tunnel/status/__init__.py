"""What the tunnels of a process are doing, told to whoever may ask on the same machine.

A program says once that it may be asked::

    from tunnel import status

    status.serve()

Then ``tunnel status`` and ``tunnel watch``, called by the same user, show its tunnels. Nothing is
sent by itself, and nothing can be done to the program: the socket only answers what there is to
know, without messages, headers and tokens.

The process listens on a Unix socket that only its user may open; one thread answers all who ask,
and takes no part in the work of the tunnels. A request is a line of JSON, and so is its answer::

    {"ask": "status"}      ->  {"version": 1, "pid": 7, "program": "app.py", "time": 1.0,
                                "tunnels": [{...}]}
    {"ask": "histories"}   ->  the same with "histories", one of each tunnel
    anything else          ->  {"version": 1, "error": "a sentence"}
"""

from __future__ import annotations

from tunnel.status.client import StatusClient, served_paths
from tunnel.status.errors import StatusEndedError, StatusError
from tunnel.status.report import LastError, ProcessStatus, TunnelStatus
from tunnel.status.server import StatusServer, serve

__all__ = [
    "LastError",
    "ProcessStatus",
    "StatusClient",
    "StatusEndedError",
    "StatusError",
    "StatusServer",
    "TunnelStatus",
    "serve",
    "served_paths",
]
