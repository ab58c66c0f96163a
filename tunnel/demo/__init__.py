"""``tunnel demo``: a tunnel that loses its connection in several ways and comes back each time.

A real gateway runs on loopback in a process of its own (`server`, `server_process`), so that it can
be killed. Between it and the tunnel is a proxy that breaks connections (`proxy`). The scenario
sends numbered messages and cuts the link (`scenario`), what a lost session hands back is sent again
(`resending`), a recorder keeps the books (`recorder`; the decisions are in `ledger`, `journal` and
`report`, which know neither threads nor sockets), and a view shows it all (`live_view` with rich in
a terminal, else `plain_view`).
"""

from __future__ import annotations

from tunnel.demo.errors import DemoError
from tunnel.demo.program import run

__all__ = ["DemoError", "run"]
