"""What programs that use a tunnel need to test themselves: virtual time, and a network that obeys.

A tunnel on a `FakeClock` starts no thread: `drive` runs the same code in the test's own thread, and
hours pass in milliseconds. `ScriptedTransport` is its network, and `ScriptedGateway` a peer there
that resumes sessions. For tests on real sockets and in real time there is `FaultProxy`.

Importing it needs neither pytest nor freezegun. With pytest the fixtures of its plugin are there:
`tunnel_clock`, `tunnel_network`, `tunnel_gateway` and `tunnel_proxy`.
"""

from __future__ import annotations

from tunnel.testing.clock import FakeClock, FakeTimer
from tunnel.testing.driving import drive
from tunnel.testing.fault_proxy import FaultProxy
from tunnel.testing.fault_streams import DOWN, UP, Direction, Ending, Strike
from tunnel.testing.fixtures import StartGateway, StartProxy
from tunnel.testing.gateway import ScriptedGateway
from tunnel.testing.scripted import ScriptedTransport

__all__ = [
    "DOWN",
    "UP",
    "Direction",
    "Ending",
    "FakeClock",
    "FakeTimer",
    "FaultProxy",
    "ScriptedGateway",
    "ScriptedTransport",
    "StartGateway",
    "StartProxy",
    "Strike",
    "drive",
]
